"""The liquid time-constant network: an ordinary differential equation and its solver."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from recurrax._dtype import cast
from recurrax._layer import Cell
from recurrax.cells._activation import keeps_output
from recurrax.cells._wiring import NCPWiring
from recurrax.cells.affine import broadcast_to_rank
from recurrax.cells.timed import TimedInputs, elapsed, timed


class Synapses(NamedTuple):
    """Parameters of the synapses of an `LTCCell`, each `[S, H]`, from S sources.

    Attributes:
        w: the strength is softplus(w).
        mu: the potential of the source at which a synapse is half open.
        sigma: the steepness with which a synapse opens.
        erev: the potential to which a synapse pulls the target.
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
        gleak: `[H]`; the leak conductance is softplus(gleak).
        vleak: `[H]`, the potential at rest.
        cm: `[H]`; the capacitance is softplus(cm).
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
    """The currents into each neuron at potential 0, its total conductance, and the elapsed time."""

    current: jax.Array
    conductance: jax.Array
    dt: jax.Array | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class LTCCell(Cell):
    """The liquid time-constant network: leaky neurons with synapses, by a semi-implicit solver.

    cm * dh/dt = gleak * (vleak - h) + Σ_s g_s * (erev_s - h)
    g_s = w_s * σ(sigma_s * (v_s - mu_s)),

    where v runs over the inputs x * input_scale + input_bias and over h. One step takes
    `ode_unfolds` fused Euler steps of length δ = dt / ode_unfolds. Each of them keeps g fixed and
    solves for h:

    h ← (cm * h + δ * (gleak * vleak + Σ_s g_s * erev_s)) / (cm + δ * (gleak + Σ_s g_s))

    y = h * output_scale + output_bias

    With a `wiring`, y has only the motor neurons. Inputs are `TimedInputs`, or features with
    dt = 1. A step with dt = 0 keeps the state.

    Args:
        hidden_size: the number of neurons H.
        wiring: an `NCPWiring` of `hidden_size` neurons, which names the synapses and their signs;
            None for all synapses.
        ode_unfolds: the number of solver steps for one step.
        dtype: the dtype of the parameters in a step; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` or `ode_unfolds` is not positive, or `wiring` has another
            number of neurons. `scan` raises it if `dt` is not one number for each step.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> wiring = recurrax.cells.NCPWiring(
        ...     4,
        ...     3,
        ...     2,
        ...     sensory_fanout=2,
        ...     inter_fanout=2,
        ...     recurrent_command_synapses=3,
        ...     motor_fanin=2,
        ... )
        >>> cell = recurrax.LTCCell(wiring.hidden_size, wiring)
        >>> params = cell.init(jax.random.key(0), input_size=5)
        >>> xs = recurrax.cells.TimedInputs(jnp.ones((2, 7, 5)), dt=jnp.full((2, 7), 0.5))
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
                "`hidden_size` must be the number of neurons of `wiring`, "
                f"{self.wiring.hidden_size}; got {self.hidden_size}."
            )

    def output_size(self, input_size: int) -> int:
        """The number of motor neurons if there is a wiring, else `hidden_size`."""
        if self.wiring is None:
            return self.hidden_size
        return self.wiring.motor_neurons

    def _polarities(self, input_size: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The signs of the synapses of the inputs and of the neurons; None without a wiring."""
        if self.wiring is None:
            return None, None
        return self.wiring.polarities(input_size)

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> LTCParams:
        """Draws from the uniform distributions of the authors; reversal potentials are -1 or 1."""
        keys, size = iter(jax.random.split(key, 16)), self.hidden_size
        sensory_signs, recurrent_signs = self._polarities(input_size)

        def draw(low: float, high: float, *shape: int) -> jax.Array:
            return jax.random.uniform(next(keys), shape, jnp.float32, low, high)

        def positive(low: float, high: float, *shape: int) -> jax.Array:
            # The inverse of softplus: the drawn number is the softplus of the parameter.
            return jnp.log(jnp.expm1(draw(low, high, *shape)))

        def synapses(sources: int, polarity: np.ndarray | None) -> Synapses:
            shape = (sources, size)
            # One synapse in three inhibits.
            erev = jnp.where(draw(0, 3, *shape) < 1, -1.0, 1.0)
            if polarity is not None:
                erev = jnp.asarray(polarity, jnp.float32)
            return Synapses(
                w=positive(0.001, 1, *shape),
                mu=draw(0.3, 0.8, *shape),
                sigma=draw(3, 8, *shape),
                erev=erev,
            )

        outputs = self.output_size(input_size)
        params = LTCParams(
            sensory=synapses(input_size, sensory_signs),
            recurrent=synapses(size, recurrent_signs),
            gleak=positive(0.001, 1, size),
            vleak=draw(-0.2, 0.2, size),
            cm=positive(0.4, 0.6, size),
            input_scale=jnp.ones(input_size),
            input_bias=jnp.zeros(input_size),
            output_scale=jnp.ones(outputs),
            output_bias=jnp.zeros(outputs),
        )
        return cast(params, jnp.dtype(dtype))

    @property
    def reads_time(self) -> bool:
        """True: the step depends on the elapsed time."""
        return True

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> LTCState:
        """Zeros, `[*B, H]`."""
        return LTCState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def project_inputs(self, params: LTCParams, xs: jax.Array | TimedInputs) -> _Currents:
        """The currents of the inputs' synapses, which do not depend on the state."""
        x, dt = timed(xs)
        params = cast(params, x.dtype)
        v = x * broadcast_to_rank(params.input_scale, x) + broadcast_to_rank(params.input_bias, x)
        signs, _ = self._polarities(x.shape[-1])
        return _currents(params.sensory, signs, v)._replace(dt=dt)

    def step(self, params: LTCParams, state: LTCState, z: _Currents) -> tuple[LTCState, jax.Array]:
        """Takes the steps of the solver, then computes the output."""
        h, params = state.h, cast(params, state.h.dtype)
        delta = elapsed(z.dt, h.dtype) / self.ode_unfolds
        cm = broadcast_to_rank(jax.nn.softplus(params.cm), h)
        leak = broadcast_to_rank(jax.nn.softplus(params.gleak), h)
        # Only the currents of the neurons themselves change within a step.
        current = z.current.astype(h.dtype) + leak * broadcast_to_rank(params.vleak, h)
        conductance = z.conductance.astype(h.dtype) + leak
        _, signs = self._polarities(params.sensory.w.shape[0])

        # The derivative stores H potentials, not the currents of H * H synapses.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def unfold(h: jax.Array, _: None) -> tuple[jax.Array, None]:
            recurrent = _currents(params.recurrent, signs, h)
            numerator = cm * h + delta * (current + recurrent.current)
            return numerator / (cm + delta * (conductance + recurrent.conductance)), None

        # A few copies of the body cost less than a second loop.
        h, _ = jax.lax.scan(unfold, h, length=self.ode_unfolds, unroll=6)
        state = LTCState(h)
        return state, self.output(params, state, z)

    def output(self, params: LTCParams, state: LTCState, z: _Currents) -> jax.Array:
        """The first O potentials, scaled and shifted."""
        y = state.h[..., : params.output_scale.shape[0]]
        y = y * broadcast_to_rank(params.output_scale, y)
        return y + broadcast_to_rank(params.output_bias, y)


def _currents(synapses: Synapses, signs: np.ndarray | None, v: jax.Array) -> _Currents:
    """The currents into each target, from sources at potentials `v` `[*B, S]`."""
    # [*B, S, 1], beside the synapses [S, H].
    v = jnp.expand_dims(v, -1)
    strength = jax.nn.softplus(synapses.w)
    # Where the sign is 0 there is no synapse.
    if signs is not None:
        strength = jnp.where(signs != 0, strength, 0)
    sigma, mu = broadcast_to_rank(synapses.sigma, v), broadcast_to_rank(synapses.mu, v)
    opened = keeps_output(jax.nn.sigmoid)(sigma * (v - mu))
    # g_s of the equation, [*B, S, H].
    conductance = broadcast_to_rank(strength, v) * opened
    current = conductance * broadcast_to_rank(synapses.erev, v)
    return _Currents(jnp.sum(current, axis=-2), jnp.sum(conductance, axis=-2))
