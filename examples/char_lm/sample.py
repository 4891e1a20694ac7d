"""Writing: the model reads what it wrote, one step per character."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from .data import encode
from .model import CharLM


@partial(jax.jit, static_argnames=("graphdef", "top_k"))
def next_char(graphdef, leaves, state, char, key, temperature, top_k):
    """Reads one character and draws the next one."""
    model = nnx.merge(graphdef, leaves)
    model.eval()
    logits, state = model.step(char, state)
    logits /= temperature
    if top_k is not None:
        least = jax.lax.top_k(logits, top_k)[0][-1]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return jax.random.categorical(key, logits), state


def write(
    model: CharLM,
    vocabulary: str,
    *,
    prompt: str = "",
    length: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    key: jax.Array,
) -> Iterator[str]:
    """Writes on from a prompt.

    Args:
        model: the network; dropout is off while it writes.
        vocabulary: the characters behind its numbers.
        prompt: what comes before; without one, the text begins on a new line.
        length: the number of characters to write.
        temperature: divides the logits; below 1 the likely characters become likelier.
        top_k: draw among this many most likely characters only.
        key: what the drawing follows from.

    Yields:
        One character after another.

    Raises:
        UserError: if the prompt has a character that is not in the vocabulary.
    """
    start = "\n" if "\n" in vocabulary else vocabulary[0]
    chars = list(jnp.asarray(encode(prompt or start, vocabulary)))
    state = model.initial_state()
    graphdef, leaves = nnx.split(model)
    top_k = None if top_k is None else min(top_k, len(vocabulary))
    step = partial(next_char, graphdef, leaves, temperature=jnp.float32(temperature), top_k=top_k)
    for char in chars[:-1]:
        _, state = step(state=state, char=char, key=key)
    char = chars[-1]
    for i in range(length):
        char, state = step(state=state, char=char, key=jax.random.fold_in(key, i))
        yield vocabulary[int(char)]
