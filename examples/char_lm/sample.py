"""Writing: the model reads each character that it wrote and draws the next one."""

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
    logits, state = model.step(char, state)  # [V]
    logits /= temperature
    if top_k is not None:
        # A logit of -inf is never drawn.
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
    """Continues a prompt.

    Args:
        model: the network; dropout is off while it writes.
        vocabulary: the characters that the network's numbers stand for.
        prompt: the text before the first character; without it, the text begins on a new line.
        length: the number of characters to write.
        temperature: divides the logits; below 1 the likely characters become likelier.
        top_k: draw among this many most likely characters only.
        key: decides what is drawn.

    Yields:
        One character after another.

    Raises:
        UserError: if the prompt has a character that is not in the vocabulary.
    """
    # A network can only answer a character, so an empty prompt needs one to begin with.
    if not prompt:
        prompt = "\n" if "\n" in vocabulary else vocabulary[0]
    chars = list(jnp.asarray(encode(prompt, vocabulary)))
    if top_k is not None:
        top_k = min(top_k, len(vocabulary))
    graphdef, leaves = nnx.split(model)
    step = partial(next_char, graphdef, leaves, temperature=jnp.float32(temperature), top_k=top_k)

    # The prompt's answers are dropped, except the answer to its last character.
    state = model.initial_state()
    for char in chars[:-1]:
        _, state = step(state=state, char=char, key=key)
    char = chars[-1]
    for i in range(length):
        char, state = step(state=state, char=char, key=jax.random.fold_in(key, i))
        yield vocabulary[int(char)]
