"""Dynamic evaluation: the parameters learn from each part of a text, once it was predicted.

The rule is the authors': gradients are divided by their root mean square over the training part, and the
parameters return toward those of training.

References:
    Krause et al., Dynamic evaluation of neural sequence models, 2018, https://arxiv.org/abs/1709.07432
"""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# The characters that are predicted before the parameters learn from them.
WINDOW = 20
# The grids of the authors' program, for windows of 5 characters.
_RATES = np.array([3e-5, 4e-5, 5e-5, 6e-5, 7e-5, 1e-4])
_DECAYS = np.array([1e-3, 2e-3, 3e-3, 5e-3])
_EPSILON = 2e-5
# The validation characters that choose from the grids, as in the authors' quick search.
_SEARCHED = 30_000
# The streams of the training part, and the most windows of each, that the sizes of gradients come from.
_STREAMS, _MOST = 100, 2000


class Windows(NamedTuple):
    """A part of a text in N windows of B streams, each T characters long.

    Attributes:
        chars: `uint8[N, B, T]`, the characters to read.
        targets: `uint8[N, B, T]`, the character after each.
        mask: `bool[N, B, T]`, False behind the end of the part.
    """

    chars: Any
    targets: Any
    mask: Any


class Rule(NamedTuple):
    """How parameters learn.

    Attributes:
        rate: the share of a gradient that is learnt, in units of its size.
        decay: the share of the way back that is taken at each window.
    """

    rate: Any
    decay: Any


def windows_of(part: np.ndarray, streams: int, window: int) -> Windows:
    """Divides a part of a text into streams and windows. They hold all characters but the first as targets."""
    predicted = len(part) - 1
    number = math.ceil(predicted / (streams * window))

    def divided(flat: np.ndarray) -> np.ndarray:
        flat = np.pad(flat, (0, streams * number * window - predicted))
        # Window n of all streams is read at once.
        return flat.reshape(streams, number, window).swapaxes(0, 1)  # [N, B, T]

    return Windows(divided(part[:-1]), divided(part[1:]), divided(np.ones(predicted, bool)))


@partial(jax.jit, static_argnums=0)
def gradient_sizes(learner: Any, params: Any, windows: Windows) -> Any:
    """The root mean square of each gradient over the windows, for the mean loss of a window."""

    def next_window(before: tuple, window: Windows) -> tuple[tuple, None]:
        squares, rnn_state = before
        grads, rnn_state, _ = _grads(learner, params, rnn_state, window)
        squares = jax.tree.map(lambda square, grad: square + grad**2, squares, grads)
        return (squares, rnn_state), None

    number, streams, _ = windows.mask.shape
    first = (jax.tree.map(jnp.zeros_like, params), learner.zero_state(params, streams))
    (squares, _), _ = jax.lax.scan(next_window, first, windows)
    return jax.tree.map(lambda square: jnp.sqrt(square / number), squares)


@partial(jax.jit, static_argnums=0)
def losses(learner: Any, params: Any, sizes: Any, windows: Windows, rule: Rule) -> jax.Array:
    """The sums of the losses of the windows `[N]`. The parameters learn from each before the next one."""
    means = [size.mean() for size in jax.tree.leaves(sizes)]
    mean = sum(means) / len(means)

    def learnt(now: jax.Array, first: jax.Array, grad: jax.Array, size: jax.Array) -> jax.Array:
        # A share above 1 would jump over the parameters of training.
        back = jnp.minimum(rule.decay * size / mean, 1)
        return now + back * (first - now) - rule.rate * grad / (size + _EPSILON)

    def next_window(before: tuple, window: Windows) -> tuple[tuple, jax.Array]:
        now, rnn_state = before
        grads, rnn_state, loss = _grads(learner, now, rnn_state, window)
        return (jax.tree.map(learnt, now, params, grads, sizes), rnn_state), loss

    first = (params, learner.zero_state(params, windows.mask.shape[1]))
    return jax.lax.scan(next_window, first, windows)[1]


def scores(learner: Any, params: Any, texts: Any, tests: bool) -> dict[str, float]:
    """Chooses a rule at the begin of the validation part, and scores the parts in bits per character.

    Args:
        learner: has `window_loss` and `zero_state`.
        params: the parameters of training.
        texts: the text in its parts.
        tests: whether the test part is scored.

    Returns:
        The rule, and the scores.
    """
    # A short text has no room for so many streams.
    streams = min(_STREAMS, max(1, len(texts.train) // (2 * WINDOW)))
    training = jax.tree.map(lambda leaf: leaf[:_MOST], windows_of(texts.train, streams, WINDOW))
    sizes = gradient_sizes(learner, params, training)

    def bits(part: np.ndarray, rule: Rule) -> float:
        windows = windows_of(part, 1, WINDOW)
        found = np.asarray(losses(learner, params, sizes, windows, rule), np.float64)
        return found.sum() / windows.mask.sum() / math.log(2)

    # The authors' program rescales its grids in this way where windows have another length.
    scale = WINDOW / 5
    begin = texts.validation[:_SEARCHED]
    best, fewest = None, math.inf
    for rate, decay in itertools.product((scale * _RATES).tolist(), (scale * _DECAYS).tolist()):
        rule = Rule(rate, decay)
        found = bits(begin, rule)
        if found < fewest:
            best, fewest = rule, found
    assert best is not None
    row = best._asdict() | {"window": WINDOW, "validation": round(bits(texts.validation, best), 4)}
    if tests:
        row["test"] = round(bits(texts.test, best), 4)
    return row


def _grads(learner: Any, params: Any, rnn_state: Any, window: Windows) -> tuple[Any, Any, jax.Array]:
    """The gradients of the mean loss of a window, the state after it, and the sum of its losses."""

    def mean_loss(params: Any) -> tuple[jax.Array, tuple]:
        loss, after = learner.window_loss(params, rnn_state, window)
        count = jnp.maximum(window.mask.sum(), 1).astype(loss.dtype)
        return loss / count, (loss, after)

    grads, (loss, after) = jax.grad(mean_loss, has_aux=True)(params)
    return grads, after, loss
