"""Writing: the model reads each character that it wrote and draws the next one."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recurrax.decoding import generate

from .config import Config
from .data import encode
from .model import CharLM

# A program that draws one character at a time would wait for Python at each of them.
CHUNK = 256

# Control characters would move the cursor of a terminal or change its colors. Both C0 and C1.
_ESCAPES = {code: f"\\x{code:02x}" for code in [*range(0x20), *range(0x7F, 0xA0)]}
_ESCAPES |= {ord("\n"): "\n", ord("\t"): "\t"}


def printable(text: str) -> str:
    """Escapes the control characters of a text, but not line ends and tabs."""
    return text.translate(_ESCAPES)


@functools.lru_cache(maxsize=8)
def programs(graphdef: Any, top_k: int | None) -> tuple[Callable, Callable]:
    """Returns two compiled functions for networks of one kind: `read` and `next_chars`.

    They are kept, so each of them compiles once. As an argument of a compiled function, `graphdef`
    would be hashed at each call, which takes as long as some characters.
    """

    @jax.jit
    def read(leaves: Any, chars: jax.Array, lengths: jax.Array) -> Any:
        """Reads texts `int[B, T]` at once; returns the state after the last character of each."""
        model = nnx.merge(graphdef, leaves)
        model.eval()
        _, state = model(chars, model.initial_state(len(chars)), lengths)
        return state

    @jax.jit
    def next_chars(
        leaves: Any,
        state: Any,
        last: jax.Array,
        written: np.int32,
        key: jax.Array,
        options: dict[str, Any],
    ) -> tuple[Any, jax.Array, jax.Array]:
        """Continues texts of `written` characters, of which `last` `int[B]` are the last ones.

        Returns:
            The state and the last characters for another call, and the new characters,
            `int[B, CHUNK]`.
        """
        model = nnx.merge(graphdef, leaves)
        model.eval()
        options = {**options, "top_k": top_k, "key": key, "written": written}
        new = generate(model.step, state, last[:, None], length=CHUNK, **options)
        return new.state, new.tokens[:, -1], new.tokens

    return read, next_chars


def write(
    model: CharLM,
    vocabulary: str,
    *,
    prompts: Sequence[str] = ("",),
    length: int,
    key: jax.Array,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Iterator[list[str]]:
    """Continues prompts, some characters at a time.

    Args:
        model: the network; dropout is off while it writes.
        vocabulary: the characters that the network's numbers stand for.
        prompts: the texts before the first character. An empty text begins on a new line.
        length: the number of characters to write for each prompt.
        key: decides what is drawn. Each text has its own part of it.
        temperature: divides the logits; below 1 the likely characters become likelier.
        top_k: draw among this many most likely characters only.
        top_p: draw among the likeliest characters that have this probability together.
        min_p: draw among the characters with this share of the likeliest one's probability.

    Yields:
        The next characters of each text.

    Raises:
        UserError: if a prompt has a character that is not in the vocabulary.
    """
    # A network can only answer a character, so an empty prompt needs one to begin with.
    begin = "\n" if "\n" in vocabulary else vocabulary[0]
    texts = [encode(prompt or begin, vocabulary) for prompt in prompts]
    lengths = np.array([len(text) for text in texts])  # [B]
    chars = np.zeros((len(texts), lengths.max()), np.int32)  # [B, T], padded
    for row, text in zip(chars, texts, strict=True):
        row[: len(text)] = text
    if top_k is not None:
        top_k = min(top_k, len(vocabulary))
    # Numbers as arrays: another temperature needs no other program.
    options = {"temperature": temperature, "top_p": top_p, "min_p": min_p}
    options = {name: jnp.float32(number) for name, number in options.items() if number is not None}

    # The loop reads the last character of each prompt itself.
    graphdef, leaves = nnx.split(model)
    read, next_chars = programs(graphdef, top_k)
    state = read(leaves, jnp.asarray(chars[:, :-1]), jnp.asarray(lengths - 1))
    last = jnp.asarray(chars[np.arange(len(texts)), lengths - 1])
    new = None
    for written in range(0, length + CHUNK, CHUNK):
        shown = new
        if written < length:
            state, last, new = next_chars(leaves, state, last, np.int32(written), key, options)
        # JAX computes in the background: the next characters are drawn while these are shown.
        if shown is not None:
            rows = np.asarray(shown)[:, : length - written + CHUNK]
            yield ["".join(map(vocabulary.__getitem__, row)) for row in rows]


def draw_sample(model: CharLM, vocabulary: str, config: Config, step: int) -> str:
    """Writes 400 characters. They follow from the seed and the step alone."""
    key = jax.random.fold_in(jax.random.key(config.seed), step)
    chunks = write(model, vocabulary, length=400, temperature=0.8, key=key)
    return "".join(chunk[0] for chunk in chunks)
