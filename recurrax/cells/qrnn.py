"""Pooling with gates from the inputs: the quasi-recurrent network and the simple recurrent unit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._layer import Gate
from recurrax.cells._activation import keeps_output
from recurrax.cells._gated import GatedLinearCell, InputGatedParams
from recurrax.cells.affine import gate_of
from recurrax.cells.linear import Coefficients


@dataclasses.dataclass(frozen=True, repr=False)
class QRNNCell(GatedLinearCell):
    """The pooling of a quasi-recurrent network, with gates from a convolution of the inputs.

    z = activation(x @ kernel_z + bias_z),  f, o, i = σ(x @ kernel_* + bias_*)
    f-pooling:   h' = f * h + (1 - f) * z,  y = h'
    fo-pooling:  h' = f * h + (1 - f) * z,  y = o * h'
    ifo-pooling: h' = f * h + i * z,        y = o * h'

    With an output gate, the paper calls the state c. The paper's masked convolution is a `Window`
    below the cell. On windows of k inputs, a product with `kernel` is a convolution of width k.

    Args:
        hidden_size: the number of features H of the state.
        pooling: "f", "fo" or "ifo".
        activation: the nonlinearity of the candidate z.
        bias: whether the gates have a bias.
        kernel_init: draws each gate of `kernel` `[I, G*H]`, in the order i, f, z, o, without the
            gates that `pooling` lacks; Glorot uniform by default.
        bias_init: draws each gate of `bias`; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` is not positive, or `pooling` has another value.

    Example:
        Two layers: the first with a convolution of width 6, the second with width 2:

        >>> import jax, recurrax as rx
        >>> layer = rx.Stack((rx.Window(3, 6), rx.QRNNCell(4), rx.Window(4, 2), rx.QRNNCell(4)))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> rx.scan(layer, params, jax.numpy.ones((2, 7, 3)), implementation="blocked")[1].shape
        (2, 7, 4)

    References:
        Bradbury et al., Quasi-recurrent neural networks, 2017, https://arxiv.org/abs/1611.01576
    """

    pooling: Literal["f", "fo", "ifo"] = "fo"
    activation: Callable[[jax.Array], jax.Array] = dataclasses.field(default=jnp.tanh, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pooling not in ("f", "fo", "ifo"):
            raise ValueError(f'`pooling` must be "f", "fo" or "ifo"; got {self.pooling!r}.')

    @property
    def gates(self) -> int:
        """The number of gates: the gates of the pooling, and the candidate."""
        return len(self.pooling) + 1

    def project_inputs(self, params: InputGatedParams, xs: jax.Array) -> Coefficients:
        """The gates and the candidate of every step; `rest` is the output gate."""
        sigmoid = keeps_output(jax.nn.sigmoid)
        z = self._preactivations(params, xs)
        # Without i the input gate is 1 - f. σ(-z) is 1 - σ(z), with all digits.
        i = sigmoid(z.get("i", -z["f"]))
        o: Any = ()
        if "o" in z:
            o = sigmoid(z["o"])
        return Coefficients(sigmoid(z["f"]), i * keeps_output(self.activation)(z["z"]), o)

    def _preactivations(self, params: InputGatedParams, xs: jax.Array) -> dict[str, jax.Array]:
        """The pre-activations of the gates of this pooling, in the order of `kernel`."""
        names = [gate for gate in "ifzo" if gate in f"{self.pooling}z"]
        return dict(zip(names, self.split(params, xs), strict=True))

    def gate_values(self, params: InputGatedParams, state: Any, xs: jax.Array) -> dict[str, Gate]:
        """The gates of this pooling, and the candidate z."""
        z = self._preactivations(params, xs)
        gates = {"cell": gate_of(self.activation, z.pop("z"))}
        names = {"i": "input", "f": "forget", "o": "output"}
        for letter, a in z.items():
            gates[names[letter]] = gate_of(jax.nn.sigmoid, a)
        return gates

    def outputs(self, params: InputGatedParams, hs: jax.Array, rest: Any) -> jax.Array:
        """The states, times the output gate if there is an output gate."""
        if self.pooling == "f":
            return hs
        return rest.astype(hs.dtype) * hs


@dataclasses.dataclass(frozen=True, repr=False)
class SRUCell(GatedLinearCell):
    """The simple recurrent unit: gates that do not see the state, and a highway past the state.

    f = σ(x @ kernel_f + bias_f),  r = σ(x @ kernel_r + bias_r)
    h' = f * h + (1 - f) * (x @ kernel_c)
    y = r * activation(h') + (1 - r) * α * x,  α = √(1 + 2 exp(highway_bias))

    The paper calls the state c. In the paper's last version both gates see the state too:

    f = σ(x @ kernel_f + v_f * h + bias_f)

    Then h' is not linear in h, and no implementation can take all steps at once. This cell is the
    first published version, where v = 0. If the inputs do not have H features, x in the highway is
    x @ kernel_x.

    Args:
        hidden_size: the number of features H of the state.
        activation: the nonlinearity of the output; None, the default, for the identity.
        highway_bias: the number that `init` adds to the bias of the gate r. A negative number
            favors the highway at first.
        rescale: whether α has the value above, so that at first the outputs vary as much as the
            inputs. Otherwise α = 1.
        bias: whether the gates have a bias.
        kernel_init: draws each part of `kernel` `[I, 3*H]`, in the order f, r, c. If the inputs do
            not have H features, there is a last part x, and `kernel` is `[I, 4*H]`. Glorot uniform
            by default.
        bias_init: draws both parts of `bias` `[2*H]`, f and r; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` is not positive.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.SRUCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> xs = jax.numpy.ones((2, 7, 3))
        >>> state, ys = recurrax.scan(cell, params, xs, implementation="associative")
        >>> ys.shape, params.kernel.shape, params.bias.shape
        ((2, 7, 4), (3, 16), (8,))

    References:
        Lei et al., Simple recurrent units for highly parallelizable recurrence, 2018,
        https://arxiv.org/abs/1709.02755
    """

    activation: Callable[[jax.Array], jax.Array] | None = None
    highway_bias: float = 0.0
    rescale: bool = True

    @property
    def gates(self) -> int:
        """The number of gates if the inputs have H features, 3: f, r and c."""
        return 3

    def init(
        self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32
    ) -> InputGatedParams:
        """Draws the parameters, with `highway_bias` added to the bias of r."""
        # Inputs with another number of features need a product for the highway.
        parts = self.gates + (input_size != self.hidden_size)
        params = self.draw(key, input_size, dtype, parts, 2)
        if params.bias is not None:
            params = params._replace(bias=params.bias.at[self.hidden_size :].add(self.highway_bias))
        return params

    def project_inputs(self, params: InputGatedParams, xs: jax.Array) -> Coefficients:
        """The gates and the candidate of every step; `rest` is the gate r and the highway."""
        sigmoid = keeps_output(jax.nn.sigmoid)
        f, r, c, *x = self.split(params, xs)
        # Without a part x in the kernel, the highway takes the inputs themselves.
        x = x or [xs.astype(r.dtype)]
        highway = sigmoid(-r) * x[0]
        if self.rescale:
            highway = math.sqrt(1 + 2 * math.exp(self.highway_bias)) * highway
        return Coefficients(sigmoid(f), sigmoid(-f) * c, (sigmoid(r), highway))

    def gate_values(self, params: InputGatedParams, state: Any, xs: jax.Array) -> dict[str, Gate]:
        """The gates f and r."""
        f, r, *_ = self.split(params, xs)
        return {"forget": gate_of(jax.nn.sigmoid, f), "reset": gate_of(jax.nn.sigmoid, r)}

    def outputs(self, params: InputGatedParams, hs: jax.Array, rest: Any) -> jax.Array:
        """The states times the gate r, plus the highway."""
        r, highway = (part.astype(hs.dtype) for part in rest)
        if self.activation is not None:
            hs = keeps_output(self.activation)(hs)
        return r * hs + highway
