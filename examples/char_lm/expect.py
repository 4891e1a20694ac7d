"""What a newcomer asks before a training: how large is it, how long, and what is a good result."""

import gzip
import math
import os
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import recurrax

from .config import Config, UserError
from .data import Corpus, Text, decode
from .model import CharLM

# The characters of each part of a text that the baselines look at.
_SAMPLE = 10**6


def about(text: Text, corpus: Corpus, config: Config) -> str:
    """Describes the text and the model of a run, and what others reach on the text."""
    name = text.source
    if name is None:
        name = "the Python standard library"
    size = len(corpus.train) + len(corpus.validation)
    distinct = len(text.vocabulary)
    count = parameters(distinct, config)
    device = jax.devices()[0].device_kind
    minutes = expected_seconds(count, config) / 60
    duration = "less than a minute"
    if minutes > 1:
        duration = f"about {minutes:,.0f} min"
    # A newcomer sees here whether the install compiled the fast loop.
    native = recurrax.implementations.available()["native"].rstrip(".")
    uniform, unigram, zipped = baselines(text.vocabulary, corpus)
    return (
        f"Text: {name}, {size:,} characters, {distinct:,} distinct; the last tenth is held out.\n"
        f"Model: {config.layers} × {config.cell} of {config.hidden_size}, {count:,} parameters, "
        f"on {device}. {config.steps:,} steps take {duration}: a rough guess from "
        "the speed of one matrix product.\n"
        f'The loop in C++, implementation="native": {native}.\n'
        "Bits per character tell how well the next character is foreseen; fewer is better. "
        f"A blind guess costs {uniform:.2f}. On the held-out tenth, the frequencies of the "
        f"characters alone reach {unigram:.2f}, and gzip {zipped:.2f}."
    )


def parameters(vocabulary_size: int, config: Config) -> int:
    """Counts the parameters of a model without making it."""
    model = nnx.eval_shape(lambda: CharLM(vocabulary_size, config, rngs=nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    return sum(leaf.size for leaf in leaves)


def product_weights(vocabulary_size: int, config: Config) -> int:
    """Counts the weights that take part in matrix products: all kernels, but no embedding."""
    model = nnx.eval_shape(lambda: CharLM(vocabulary_size, config, rngs=nnx.Rngs(0)))
    # A row of the embedding is only copied.
    count = -vocabulary_size * config.embedding_size
    for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)):
        if leaf.ndim > 1:
            count += leaf.size
    return count


def check_memory(vocabulary_size: int, config: Config) -> None:
    """Makes sure that a model may fit: the system would kill the program in the middle of its work.

    Raises:
        UserError: if its parameters alone are too large to be trained.
    """
    # Four numbers of four bytes: a parameter, its gradient, and the two averages of AdamW.
    needed = 16 * parameters(vocabulary_size, config)
    if needed > _memory():
        raise UserError(
            f"the model is too large: to train it needs {needed / 1e9:,.1f} GB of memory at least, "
            f"and the device has {_memory() / 1e9:,.1f} GB. "
            "Lower --hidden-size, --embedding-size or --layers."
        )


def expected_seconds(count: int, config: Config) -> float:
    """Guesses the time of a training from the speed of one matrix product."""
    units = min(config.hidden_size, 1024)
    kernel = jnp.ones([units, 4 * units])
    state = jnp.ones([config.batch, units])
    product = jax.jit(jnp.matmul)
    seconds = math.inf
    for _ in range(10):
        before = time.perf_counter()
        product(state, kernel).block_until_ready()
        seconds = min(seconds, time.perf_counter() - before)
    seconds_per_weight = seconds / (config.batch * kernel.size)
    # A step has three such products for each weight and character: one forward, two backward.
    characters = config.steps * config.batch * config.window
    return 3 * count * characters * seconds_per_weight


def baselines(vocabulary: str, corpus: Corpus) -> tuple[float, float, float]:
    """Returns the bits per character of a blind guess, of frequencies, and of gzip."""
    train, validation = (part[:_SAMPLE] for part in corpus)
    uniform = math.log2(len(vocabulary))
    # One more of each: a character that the training part lacks has a small probability.
    counts = np.bincount(train, minlength=len(vocabulary)) + 1
    bits = -np.log2(counts / counts.sum())
    unigram = float(bits[validation].mean())
    zipped = gzip.compress(decode(validation, vocabulary).encode())
    return uniform, unigram, 8 * len(zipped) / len(validation)


def _memory() -> float:
    """The bytes of memory of the device."""
    stats: Any = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    # Windows has no `sysconf`.
    if not hasattr(os, "sysconf"):
        return math.inf
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
