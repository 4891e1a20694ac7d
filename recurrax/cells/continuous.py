"""Cells in continuous time: what they do at a step depends on how much time has passed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from recurrax import initializers
from recurrax._activation import frugal
from recurrax._affine import affine
from recurrax._check import describe
from recurrax._dtype import cast
from recurrax._layer import Cell, Initializer


class TimedInputs(NamedTuple):
    """Inputs at irregular times, the `xs` of `CfCCell` and `LTCCell`.

    Attributes:
        x: the features, `[*B, T, I]`.
        dt: the time that passes with each step, `[*B, T]`; None for 1.
    """

    x: jax.Array
    dt: jax.Array | None = None


def _timed(xs: jax.Array | TimedInputs) -> TimedInputs:
    timed = xs if isinstance(xs, TimedInputs) else TimedInputs(xs)
    if timed.dt is not None and timed.dt.shape != timed.x.shape[:-1]:
        raise ValueError(
            f"`dt` must have the axes of `x` {describe(timed.x)} without its last, "
            f"[{', '.join(map(str, timed.x.shape[:-1]))}]; got {describe(timed.dt)}."
        )
    return timed


def _elapsed(dt: jax.Array | None, dtype: DTypeLike) -> jax.Array:
    return jnp.ones((), dtype) if dt is None else jnp.expand_dims(dt.astype(dtype), -1)


def _rows(weights: jax.Array, like: jax.Array) -> jax.Array:
    return jnp.expand_dims(weights, tuple(range(like.ndim - weights.ndim)))


def lecun_tanh(x: jax.Array) -> jax.Array:
    """1.7159 * tanh(0.666 * x); the constants are those of the authors of `CfCCell`.

    Args:
        x: an array.

    Returns:
        An array of the same shape.

    Example:
        >>> from recurrax.cells.continuous import lecun_tanh
        >>> round(float(lecun_tanh(1.0)), 2)
        1.0

    References:
        LeCun et al., Efficient backprop, 1998, https://doi.org/10.1007/3-540-49430-8_2
    """
    return 1.7159 * frugal(jnp.tanh)(0.666 * x)


class Affine(NamedTuple):
    """Parameters of one map within a step of a `CfCCell`.

    Attributes:
        kernel: `[U, U]`, or `[U, 4*H]` for the last.
        bias: `[U]`, or `[4*H]`.
    """

    kernel: jax.Array
    bias: jax.Array


class CfCParams(NamedTuple):
    """Parameters of a `CfCCell`; U is `backbone_size`, or 4*H without a backbone.

    Attributes:
        kernel: `[I, U]`; where U is 4*H, the columns are those of f, g, a and b in this order.
        recurrent_kernel: `[H, U]`.
        bias: `[U]`.
        maps: an `Affine` for each layer of the backbone, from what it puts out: to the next one, or from the last
            one to f, g, a and b.
    """

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array
    maps: tuple[Affine, ...] = ()


class CfCState(NamedTuple):
    """State of a `CfCCell`.

    Attributes:
        h: the output of the last step, `[*B, H]`.
    """

    h: jax.Array


@dataclasses.dataclass(frozen=True, repr=False)
class CfCCell(Cell):
    """The closed-form continuous-time cell, in its gated form: no solver, and any time between steps.

    f, g, a, b = split(backbone(x @ kernel + h @ recurrent_kernel + bias), 4)
    t = σ(a * dt + b)
    h' = (1 - t) * tanh(f) + t * tanh(g),

    where the backbone alternates activations and affine maps. Inputs are features, with dt = 1, or `TimedInputs`.

    Args:
        hidden_size: the number of features H of the state.
        backbone_size: the number of features U of a layer of the backbone.
        backbone_layers: the number of layers of the backbone; with 0, f, g, a and b are affine in x and h.
        activation: the nonlinearity of the backbone.
        kernel_init: draws `kernel` and `recurrent_kernel` as one `[I + H, U]`, and each further map; Glorot uniform by
            default.
        bias_init: draws each bias; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if a size is not an int.
        ValueError: if a size is not positive or `backbone_layers` is negative, and at the call, if `dt` is not one
            number for each step.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> cell = recurrax.CfCCell(4, backbone_size=16)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> xs = recurrax.TimedInputs(jnp.ones((2, 7, 3)), dt=jnp.full((2, 7), 0.5))
        >>> state, ys = recurrax.scan(cell, params, xs, lengths=jnp.array([7, 5]))
        >>> ys.shape, state.h.shape
        ((2, 7, 4), (2, 4))

    References:
        Hasani et al., Closed-form continuous-time neural networks, 2022, https://doi.org/10.1038/s42256-022-00556-7
    """

    backbone_size: int = 128
    backbone_layers: int = 1
    activation: Callable[[jax.Array], jax.Array] = dataclasses.field(default=lecun_tanh, kw_only=True)
    kernel_init: Initializer = dataclasses.field(default=initializers.glorot_uniform, kw_only=True)
    bias_init: Initializer = dataclasses.field(default=initializers.zeros, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone_layers < 0:
            raise ValueError(f"`backbone_layers` must be at least 0; got {self.backbone_layers}.")

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> CfCParams:
        """Draws the maps, the first one for x and h together."""
        widths = [input_size + self.hidden_size, *[self.backbone_size] * self.backbone_layers, 4 * self.hidden_size]

        def draw(key: jax.Array, depth: int) -> Affine:
            # f, g, a and b are four maps, each drawn by itself.
            parts = 4 if depth == self.backbone_layers else 1
            ins, outs, keys = widths[depth], widths[depth + 1] // parts, jax.random.split(key, 2 * parts)
            kernels = [self.kernel_init(k, (ins, outs), jnp.float32) for k in keys[:parts]]
            biases = [self.bias_init(k, (outs,), jnp.float32) for k in keys[parts:]]
            return Affine(jnp.concatenate(kernels, axis=-1).astype(dtype), jnp.concatenate(biases).astype(dtype))

        keys = jax.random.split(key, len(widths) - 1)
        first, *maps = (draw(k, depth) for depth, k in enumerate(keys))
        return CfCParams(first.kernel[:input_size], first.kernel[input_size:], first.bias, tuple(maps))

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> CfCState:
        """Zeros, `[*B, H]`."""
        return CfCState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def project_inputs(self, params: CfCParams, xs: jax.Array | TimedInputs) -> TimedInputs:
        """`x @ kernel + bias`, and the times as they are."""
        x, dt = _timed(xs)
        return TimedInputs(affine(x, params.kernel, params.bias), dt)

    def step(self, params: CfCParams, state: CfCState, z: TimedInputs) -> tuple[CfCState, jax.Array]:
        """The backbone, and the mixture of both of its ends by time."""
        h, tanh = state.h, frugal(jnp.tanh)
        a = z.x.astype(h.dtype) + affine(h, params.recurrent_kernel)
        for layer in params.maps:
            a = affine(self.activation(a), *layer)
        f, g, time_a, time_b = jnp.split(a, 4, axis=-1)
        t = frugal(jax.nn.sigmoid)(time_a * _elapsed(z.dt, h.dtype) + time_b)
        h = (1 - t) * tanh(f) + t * tanh(g)
        return CfCState(h), h


@dataclasses.dataclass(frozen=True)
class NCPWiring:
    """The wiring of a neural circuit policy: sensory to inter to command to motor neurons, sparse and signed.

    Sources and targets of synapses are drawn from `seed`; no neuron stays without one. In a state the motor neurons
    stand first, then the command and the inter neurons.

    Args:
        inter_neurons: their number.
        command_neurons: their number.
        motor_neurons: their number, which is that of the outputs.
        sensory_fanout: the number of inter neurons that each input reaches.
        inter_fanout: the number of command neurons that each inter neuron reaches.
        recurrent_command_synapses: the number of draws of a synapse among the command neurons.
        motor_fanin: the number of command neurons that reach each motor neuron.
        seed: an int.

    Raises:
        ValueError: if a number is not positive (`recurrent_command_synapses` may be 0), or a fan is larger than the
            number of neurons that it chooses among.

    Example:
        >>> import recurrax
        >>> wiring = recurrax.NCPWiring(4, 3, 2, sensory_fanout=2, inter_fanout=2, recurrent_command_synapses=3,
        ...                             motor_fanin=2)
        >>> sensory, recurrent = wiring.polarities(input_size=5)
        >>> wiring.hidden_size, sensory.shape, recurrent.shape, int(abs(sensory[0]).sum())
        (9, (5, 9), (9, 9), 2)

    References:
        Lechner et al., Neural circuit policies enabling auditable autonomy, 2020,
        https://doi.org/10.1038/s42256-020-00237-3
    """

    inter_neurons: int
    command_neurons: int
    motor_neurons: int
    sensory_fanout: int
    inter_fanout: int
    recurrent_command_synapses: int
    motor_fanin: int
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("inter_neurons", "command_neurons", "motor_neurons"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        choices = {
            "sensory_fanout": "inter_neurons",
            "inter_fanout": "command_neurons",
            "motor_fanin": "command_neurons",
        }
        for name, among in choices.items():
            if not 1 <= getattr(self, name) <= getattr(self, among):
                raise ValueError(
                    f"`{name}` must be at least 1 and at most `{among}` {getattr(self, among)}; "
                    f"got {getattr(self, name)}."
                )
        if self.recurrent_command_synapses < 0:
            raise ValueError(f"`recurrent_command_synapses` must be at least 0; got {self.recurrent_command_synapses}.")

    @property
    def hidden_size(self) -> int:
        """The number of neurons that are no inputs."""
        return self.motor_neurons + self.command_neurons + self.inter_neurons

    def polarities(self, input_size: int) -> tuple[np.ndarray, np.ndarray]:
        """The synapses of the inputs `[I, H]` and among the neurons `[H, H]`: 1 excites, -1 inhibits, 0 is none."""
        return _polarities(self, input_size)


@functools.lru_cache(maxsize=256)
def _polarities(wiring: NCPWiring, input_size: int) -> tuple[np.ndarray, np.ndarray]:
    rng, size = np.random.default_rng(wiring.seed), wiring.hidden_size
    sensory, recurrent = np.zeros((input_size, size), np.int8), np.zeros((size, size), np.int8)
    motor, command, inter = np.split(np.arange(size), np.cumsum([wiring.motor_neurons, wiring.command_neurons]))

    def connect(matrix: np.ndarray, sources: np.ndarray, targets: np.ndarray, fanout: int) -> None:
        for source in sources:
            matrix[source, rng.choice(targets, fanout, replace=False)] = rng.choice((-1, 1), fanout)
        fanin = min(max(len(sources) * fanout // len(targets), 1), len(sources))
        for target in targets:
            if not matrix[sources, target].any():
                matrix[rng.choice(sources, fanin, replace=False), target] = rng.choice((-1, 1), fanin)

    connect(sensory, np.arange(input_size), inter, wiring.sensory_fanout)
    connect(recurrent, inter, command, wiring.inter_fanout)
    for source, target in rng.choice(command, (wiring.recurrent_command_synapses, 2)):
        recurrent[source, target] = rng.choice((-1, 1))
    connect(recurrent.T, motor, command, wiring.motor_fanin)
    for matrix in (sensory, recurrent):
        matrix.setflags(write=False)
    return sensory, recurrent


class Synapses(NamedTuple):
    """Parameters of the synapses of an `LTCCell`, each `[S, H]`, from S sources.

    Attributes:
        w: their strength, softplus(w).
        mu: the potential of the source at which they are half open.
        sigma: how steeply they open.
        erev: the potential that they pull the target to.
    """

    w: jax.Array
    mu: jax.Array
    sigma: jax.Array
    erev: jax.Array


class LTCParams(NamedTuple):
    """Parameters of an `LTCCell` with O outputs.

    Attributes:
        sensory: the synapses of the inputs, S = I.
        recurrent: the synapses among the neurons, S = H.
        gleak: `[H]`, the leak conductance, softplus(gleak).
        vleak: `[H]`, the potential at rest.
        cm: `[H]`, the capacitance, softplus(cm).
        input_scale: `[I]`.
        input_bias: `[I]`.
        output_scale: `[O]`.
        output_bias: `[O]`.
    """

    sensory: Synapses
    recurrent: Synapses
    gleak: jax.Array
    vleak: jax.Array
    cm: jax.Array
    input_scale: jax.Array
    input_bias: jax.Array
    output_scale: jax.Array
    output_bias: jax.Array


class LTCState(NamedTuple):
    """State of an `LTCCell`.

    Attributes:
        h: the potential of each neuron, `[*B, H]`.
    """

    h: jax.Array


class _Currents(NamedTuple):
    """What synapses carry at potential 0, and what their conductances add up to, with the time that it lasts."""

    current: jax.Array
    conductance: jax.Array
    dt: jax.Array | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class LTCCell(Cell):
    """The liquid time-constant network: leaky neurons with conductance synapses, by a semi-implicit solver.

    cm * dh/dt = gleak * (vleak - h) + Σ_s g_s * (erev_s - h),  g_s = w_s * σ(sigma_s * (v_s - mu_s)),

    where v runs over the inputs x * input_scale + input_bias and over h. One step takes `ode_unfolds` fused Euler
    steps of length δ = dt / ode_unfolds, each of which holds g and solves for h:

    h ← (cm * h + δ * (gleak * vleak + Σ_s g_s * erev_s)) / (cm + δ * (gleak + Σ_s g_s))

    y = h * output_scale + output_bias, of the motor neurons if there is a `wiring`. Inputs are features, with dt = 1,
    or `TimedInputs`; dt = 0 keeps the state.

    Args:
        hidden_size: the number of neurons H.
        wiring: which synapses there are and which of them excite, an `NCPWiring` of `hidden_size` neurons; None for
            all of them.
        ode_unfolds: the number of solver steps for one step.
        dtype: the dtype of the parameters within a step; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` or `ode_unfolds` is not positive, or `wiring` has another number of neurons, and
            at the call, if `dt` is not one number for each step.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> wiring = recurrax.NCPWiring(4, 3, 2, sensory_fanout=2, inter_fanout=2, recurrent_command_synapses=3,
        ...                             motor_fanin=2)
        >>> cell = recurrax.LTCCell(wiring.hidden_size, wiring)
        >>> params = cell.init(jax.random.key(0), input_size=5)
        >>> xs = recurrax.TimedInputs(jnp.ones((2, 7, 5)), dt=jnp.full((2, 7), 0.5))
        >>> state, ys = recurrax.scan(cell, params, xs)
        >>> ys.shape, state.h.shape
        ((2, 7, 2), (2, 9))

    References:
        Hasani et al., Liquid time-constant networks, 2021, https://arxiv.org/abs/2006.04439

        Lechner and Hasani, `ncps` (the maps of inputs and outputs, the initial ranges), 2022,
        https://github.com/mlech26l/ncps
    """

    wiring: NCPWiring | None = None
    ode_unfolds: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ode_unfolds < 1:
            raise ValueError(f"`ode_unfolds` must be at least 1; got {self.ode_unfolds}.")
        if self.wiring is not None and self.wiring.hidden_size != self.hidden_size:
            raise ValueError(
                f"`hidden_size` must be the number of neurons of `wiring`, {self.wiring.hidden_size}; "
                f"got {self.hidden_size}."
            )

    def output_size(self, input_size: int) -> int:
        """The number of motor neurons if there is a wiring, else `hidden_size`."""
        return self.hidden_size if self.wiring is None else self.wiring.motor_neurons

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> LTCParams:
        """Draws the parameters uniformly from the ranges of the authors; reversal potentials are -1 or 1."""
        keys, size = iter(jax.random.split(key, 16)), self.hidden_size
        wired = (None, None) if self.wiring is None else self.wiring.polarities(input_size)

        def draw(low: float, high: float, *shape: int) -> jax.Array:
            return jax.random.uniform(next(keys), shape, jnp.float32, low, high)

        def positive(low: float, high: float, *shape: int) -> jax.Array:
            return jnp.log(jnp.expm1(draw(low, high, *shape)))

        def synapses(sources: int, polarity: np.ndarray | None) -> Synapses:
            shape = (sources, size)
            drawn = jnp.where(draw(0, 3, *shape) < 1, -1.0, 1.0)  # One in three inhibits.
            return Synapses(
                w=positive(0.001, 1, *shape),
                mu=draw(0.3, 0.8, *shape),
                sigma=draw(3, 8, *shape),
                erev=drawn if polarity is None else jnp.asarray(polarity, jnp.float32),
            )

        outputs = self.output_size(input_size)
        params = LTCParams(
            sensory=synapses(input_size, wired[0]),
            recurrent=synapses(size, wired[1]),
            gleak=positive(0.001, 1, size),
            vleak=draw(-0.2, 0.2, size),
            cm=positive(0.4, 0.6, size),
            input_scale=jnp.ones(input_size),
            input_bias=jnp.zeros(input_size),
            output_scale=jnp.ones(outputs),
            output_bias=jnp.zeros(outputs),
        )
        return cast(params, jnp.dtype(dtype))

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> LTCState:
        """Zeros, `[*B, H]`."""
        return LTCState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def project_inputs(self, params: LTCParams, xs: jax.Array | TimedInputs) -> _Currents:
        """What the synapses of the inputs carry, which does not depend on the state."""
        x, dt = _timed(xs)
        params = cast(params, x.dtype)
        v = x * _rows(params.input_scale, x) + _rows(params.input_bias, x)
        mask = None if self.wiring is None else self.wiring.polarities(x.shape[-1])[0]
        return _through(params.sensory, mask, v)._replace(dt=dt)

    def step(self, params: LTCParams, state: LTCState, z: _Currents) -> tuple[LTCState, jax.Array]:
        """The solver's steps, and the outputs."""
        h, params = state.h, cast(params, state.h.dtype)
        delta = _elapsed(z.dt, h.dtype) / self.ode_unfolds
        cm, leak = _rows(jax.nn.softplus(params.cm), h), _rows(jax.nn.softplus(params.gleak), h)
        current = z.current.astype(h.dtype) + leak * _rows(params.vleak, h)
        conductance = z.conductance.astype(h.dtype) + leak
        mask = None if self.wiring is None else self.wiring.polarities(params.sensory.w.shape[0])[1]

        # For its derivative this keeps the potentials, H for a row, not what each of the H * H synapses carries.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def unfold(h: jax.Array, _: None) -> tuple[jax.Array, None]:
            own = _through(params.recurrent, mask, h)
            return (cm * h + delta * (current + own.current)) / (cm + delta * (conductance + own.conductance)), None

        # A loop within the loop would cost more than some copies of its body.
        h, _ = jax.lax.scan(unfold, h, length=self.ode_unfolds, unroll=6)
        y = h[..., : params.output_scale.shape[0]]
        return LTCState(h), y * _rows(params.output_scale, y) + _rows(params.output_bias, y)


def _through(synapses: Synapses, mask: np.ndarray | None, v: jax.Array) -> _Currents:
    """What flows from sources at potentials `v` `[*B, S]` to each target."""
    v = jnp.expand_dims(v, -1)
    strength = jax.nn.softplus(synapses.w)
    if mask is not None:
        strength = jnp.where(mask != 0, strength, 0)
    opened = frugal(jax.nn.sigmoid)(_rows(synapses.sigma, v) * (v - _rows(synapses.mu, v)))
    opened = _rows(strength, v) * opened
    return _Currents(jnp.sum(opened * _rows(synapses.erev, v), axis=-2), jnp.sum(opened, axis=-2))
