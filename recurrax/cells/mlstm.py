"""The matrix LSTM of xLSTM: exponential gates and a memory of keys and values."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax import initializers
from recurrax._dtype import cast, promote
from recurrax._layer import INITIALIZER, Cell, Gate, Initializer, mixed
from recurrax.cells._activation import keeps_output
from recurrax.cells.affine import affine, draw_parts

Memory = tuple[jax.Array, ...]  # c, n and m


class MLSTMParams(NamedTuple):
    """Parameters of an `MLSTMCell` with N heads.

    Attributes:
        kernel: `[I, 4*H + 2*N]`: q, k, v and o of all features, then i and f of all heads.
        bias: `[4*H + 2*N]`, or None.
    """

    kernel: jax.Array
    bias: jax.Array | None = None


class MLSTMState(NamedTuple):
    """State of an `MLSTMCell` with N heads of D features.

    The paper's memory is c * exp(m). The paper's normalizer is n * exp(m).

    Attributes:
        h: the output of the last step, `[*B, H]`; the recurrence does not read h.
        c: the memory, `[*B, N, D, D]`, values by keys.
        n: the normalizer, `[*B, N, D]`.
        m: the stabilizer, `[*B, N]`: the largest logarithm of a weight in c and n. Where c and n
            are 0, m has no meaning.
    """

    h: jax.Array
    c: jax.Array
    n: jax.Array
    m: jax.Array


class Heads(NamedTuple):
    """The projected inputs of an `MLSTMCell`, for each head.

    Attributes:
        q: the query, `[..., N, D]`.
        k: the key, `[..., N, D]`.
        v: the value, `[..., N, D]`.
        o: the output gate, `[..., H]`.
        i: the logarithm of the input gate, `[..., N]`.
        f: the logarithm of the forget gate, `[..., N]`.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    o: jax.Array
    i: jax.Array
    f: jax.Array


@dataclasses.dataclass(frozen=True, repr=False)
class MLSTMCell(Cell):
    """The matrix LSTM of xLSTM: every head stores values under keys, with exponential weights.

    q, k, v, o, i, f = split(x @ kernel + bias),  k ← k / √D,  o ← σ(o)
    log i = i,  log f = log σ(f), or f if `forget_gate` is "exp"
    m' = max(log f + m, log i),  i = exp(log i - m'),  f = exp(log f + m - m')
    c' = f * c + i * v kᵀ,  n' = f * n + i * k
    h' = o * c' q / max(abs(n' · q), exp(-m')),

    for each head of D = H / N features. m keeps every exponential at most 1; h depends on m only by
    rounding. Where c and n are 0 there is no past. There m' = log i, as if m were -inf. So the
    initial state is all zeros. For any gates, no exponential overflows and no divisor is zero.

    The state enters linearly, with weights that depend only on the inputs. So there is also the
    implementation "chunked". It is parallel inside a chunk and takes one chunk after another. Its
    memory for the derivative is linear in T: one c for each chunk, where the loop stores one c for
    each step. `Chunked` sets the length of a chunk.

    Args:
        hidden_size: the number of features H of the output.
        num_heads: the number N of heads.
        forget_gate: the activation of the forget gate, "sigmoid" or "exp".
        forget_bias: the numbers that `init` adds to the forget gate's part of `bias` at the first
            head and at the last head. The heads between get evenly spaced numbers. Without `bias`
            it has no effect.
        bias: whether the projection has a bias.
        kernel_init: draws `[I, H]` for each of q, k, v and o, and `[I, N]` for i and f; Glorot
            uniform by default.
        bias_init: draws each part of the bias; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` is not positive, `num_heads` does not divide it, or
            `forget_gate` has another value.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> cell = recurrax.MLSTMCell(8, num_heads=2)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> xs = jax.random.normal(jax.random.key(1), (2, 70, 3))
        >>> state, ys = recurrax.scan(cell, params, xs, implementation="chunked")
        >>> ys.shape, state.c.shape, state.n.shape, state.m.shape
        ((2, 70, 8), (2, 2, 4, 4), (2, 2, 4), (2, 2))
        >>> _, expected = recurrax.scan(cell, params, xs, implementation="xla")
        >>> bool(jnp.allclose(ys, expected, atol=1e-5))
        True

    References:
        Beck et al., xLSTM: Extended long short-term memory (section 2.3), 2024,
        https://arxiv.org/abs/2405.04517
    """

    num_heads: int = 1
    forget_gate: Literal["sigmoid", "exp"] = "sigmoid"
    forget_bias: tuple[float, float] = (3.0, 6.0)
    bias: bool = dataclasses.field(default=True, kw_only=True)
    kernel_init: Initializer = dataclasses.field(
        default=initializers.glorot_uniform, kw_only=True, metadata=INITIALIZER
    )
    bias_init: Initializer = dataclasses.field(
        default=initializers.zeros, kw_only=True, metadata=INITIALIZER
    )

    output_part: ClassVar[str] = "h"
    # `step` has the equations above, so that implementations may take all steps of a chunk at once.
    has_matrix_memory: ClassVar[bool] = True

    rests_on: ClassVar[dict[str, tuple[str, ...]]] = {
        "has_matrix_memory": ("step",),
        "tells_gates": ("step",),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_heads < 1 or self.hidden_size % self.num_heads:
            raise ValueError(
                f"`num_heads` must divide `hidden_size` {self.hidden_size}; got {self.num_heads}."
            )
        if self.forget_gate not in ("sigmoid", "exp"):
            raise ValueError(f'`forget_gate` must be "sigmoid" or "exp"; got {self.forget_gate!r}.')

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> MLSTMParams:
        """Draws the parameters part by part, with `forget_bias` added to the forget gate's bias."""
        sizes = [self.hidden_size] * 4 + [self.num_heads] * 2
        keys = jax.random.split(key, (2, len(sizes)))
        shapes = [(input_size, size) for size in sizes]
        kernel = draw_parts(self.kernel_init, keys[0], shapes, dtype)
        if not self.bias:
            return MLSTMParams(kernel)
        bias = draw_parts(self.bias_init, keys[1], [(size,) for size in sizes], jnp.float32)
        # The forget gate is the last part.
        shift = jnp.linspace(*self.forget_bias, self.num_heads, dtype=jnp.float32)
        return MLSTMParams(kernel, bias.at[-self.num_heads :].add(shift).astype(dtype))

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> MLSTMState:
        """Zeros, which mean that there is no past."""
        heads, size = (*batch_shape, self.num_heads), self.hidden_size // self.num_heads
        return MLSTMState(
            h=jnp.zeros((*batch_shape, self.hidden_size), dtype),
            c=jnp.zeros((*heads, size, size), dtype),
            n=jnp.zeros((*heads, size), dtype),
            m=jnp.zeros(heads, dtype),
        )

    def project_inputs(self, params: MLSTMParams, xs: jax.Array) -> jax.Array:
        """`xs @ kernel + bias`, one matrix product for every step."""
        return affine(xs, params.kernel, params.bias)

    def heads(self, z: jax.Array, dtype: DTypeLike) -> Heads:
        """Splits `z` `[..., 4*H + 2*N]` into heads, with the gates in `dtype`."""
        number, features = self.num_heads, self.hidden_size
        size = features // number
        # The columns at which q, k, v, o and i end. f ends with z.
        ends = [features, 2 * features, 3 * features, 4 * features, z.shape[-1] - number]
        q, k, v, o, i, f = jnp.split(z, ends, axis=-1)
        # q, k and v of each head, [..., N, D].
        q, k, v = (part.reshape(*part.shape[:-1], number, size) for part in (q, k, v))
        o, i, f = o.astype(dtype), i.astype(dtype), f.astype(dtype)
        if self.forget_gate == "sigmoid":
            f = jax.nn.log_sigmoid(f)
        return Heads(q, k / math.sqrt(size), v, keeps_output(jax.nn.sigmoid)(o), i, f)

    def step(
        self, params: MLSTMParams, state: MLSTMState, z: jax.Array
    ) -> tuple[MLSTMState, jax.Array]:
        """Weighs the past and the input, and reads the memory."""

        # The derivative stores the arguments and computes the terms again.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def mix(c: jax.Array, n: jax.Array, m: jax.Array, z: jax.Array) -> Memory:
            # A rounded logarithm is a wrong factor, so every array has float32 or more.
            c, n, m, z = (a.astype(promote(jnp.float32, m.dtype)) for a in (c, n, m, z))
            q, k, v, o, i, f = self.heads(z, m.dtype)
            m, kept, added = weights(f + m, i, without_past(c, n))
            # v kᵀ for each head, [*B, N, D, D].
            c = kept[..., None, None] * c + (added[..., None] * v)[..., None] * k[..., None, :]
            n = kept[..., None] * n + added[..., None] * k
            read = read_out((c * q[..., None, :]).sum(-1), (n * q).sum(-1), m)
            return o * read.reshape(o.shape), c, n, m

        h, *rest = mix(state.c, state.n, state.m, z)
        return MLSTMState(h, *rest), h

    def gate_values(self, params: MLSTMParams, state: MLSTMState, xs: jax.Array) -> dict[str, Gate]:
        """The weights i and f of each head, and the gate o, of every step at once."""
        state, z = cast(
            (state, self.project_inputs(params, xs)), promote(jnp.float32, state.m.dtype)
        )
        heads, number = self.heads(z, state.m.dtype), self.num_heads
        past = without_past(state.c, state.n)
        _, kept, added = weights(heads.f + state.m, heads.i, past)
        o = z[..., 3 * self.hidden_size : 4 * self.hidden_size]
        return {
            "input": Gate(added, heads.i),
            "forget": Gate(kept, z[..., -number:]),
            "output": Gate(heads.o, o),
        }

    def state_parts(self, state: MLSTMState) -> tuple[jax.Array, ...]:
        """h, and m, which stands for the memory of its head."""
        return state.h, state.m

    def mix_states(self, keep: Sequence[Any], old: MLSTMState, new: MLSTMState) -> MLSTMState:
        """Mixes h, and the memories c * exp(m) and n * exp(m) of each head together."""
        keep_h, keep_memory = keep
        memory = mixed_memory(keep_memory, old[1:], new[1:], without_past(old.c, old.n))
        return MLSTMState(mixed(keep_h, old.h, new.h), *memory)


def without_past(c: jax.Array, n: jax.Array) -> jax.Array:
    """Whether the memory is empty. n alone does not tell, because keys may cancel."""
    return ~(jnp.any(c, axis=(-2, -1)) | jnp.any(n, axis=-1))


def weights(past: jax.Array, present: jax.Array, none: jax.Array) -> Memory:
    """The stabilizer m of two logarithms of weights, and both weights divided by exp(m).

    Where `none` is True, there is no past and m is `present`.
    """
    m = jnp.where(none, present, jnp.maximum(past, present))
    return m, bounded_exp(past - m), jnp.exp(present - m)


def mixed_memory(keep: Any, old: Memory, new: Memory, none: jax.Array) -> Memory:
    """Keep * old + (1 - keep) * new, for memories c * exp(m) and n * exp(m).

    m = max(log keep + m_old, log (1 - keep) + m_new)
    c = keep * exp(m_old - m) * c_old + (1 - keep) * exp(m_new - m) * c_new, and the same for n

    Args:
        keep: a number in [0, 1), or a bool for each m, True to keep the old memory.
        old: c, n and m; c and n may have more axes than m.
        new: c, n and m of another memory.
        none: whether the old memory is empty.
    """
    if isinstance(keep, jax.Array):
        return tuple(mixed(_expand(keep, b), a, b) for a, b in zip(old, new, strict=True))
    *sums, past = (a.astype(b.dtype) for a, b in zip(old, new, strict=True))
    # The factors keep and 1 - keep become summands of the logarithms.
    log_keep = -math.inf
    if keep:
        log_keep = math.log(keep)
    m, kept, taken = weights(past + log_keep, new[-1] + math.log1p(-keep), none)
    pairs = zip(sums, new[:-1], strict=True)
    return *(_expand(kept, b) * a + _expand(taken, b) * b for a, b in pairs), m


def _expand(x: jax.Array, like: jax.Array) -> jax.Array:
    """`x` with trailing axes of size 1, up to the rank of `like`."""
    return jnp.expand_dims(x, tuple(range(x.ndim, like.ndim)))


def bounded_exp(x: jax.Array) -> jax.Array:
    """exp(x), bounded for the derivative.

    The weight of a past is at most 1. Without a past, x may be large; then the weight multiplies
    zeros.
    """
    return jnp.exp(jnp.minimum(x, 0.5 * math.log(jnp.finfo(x.dtype).max)))


def read_out(values: jax.Array, normalizer: jax.Array, m: jax.Array) -> jax.Array:
    """The quotient values / max(|normalizer|, exp(-m)), without overflow."""
    # Both sides of the quotient are multiplied by exp(min(m, 0)), which is at most 1.
    above = jnp.maximum(m, 0)
    scale = jnp.exp(m - above)
    least = jnp.maximum(jnp.exp(-above), jnp.finfo(m.dtype).tiny)
    divisor = jnp.maximum(scale * jnp.abs(normalizer), least)
    return _quotient(scale[..., None] * values, divisor[..., None])


@jax.custom_jvp
def _quotient(x: jax.Array, y: jax.Array) -> jax.Array:
    return x / y


@_quotient.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    # JAX's rule divides by y * y, which underflows to 0 while y is far from 0.
    (_, y), (dx, dy) = primals, tangents
    ratio = _quotient(*primals)
    return ratio, (dx - ratio * dy) / y
