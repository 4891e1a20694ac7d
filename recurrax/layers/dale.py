"""Which units a unit reaches, and with which sign: constraints on the recurrent kernel."""

from __future__ import annotations

import abc
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from recurrax._arguments import describe, is_number, short
from recurrax._layer import Cell, Params, State
from recurrax.cells.affine import AffineCell
from recurrax.layers._wrapper import CellWrapper


@dataclasses.dataclass(frozen=True, repr=False)
class ConstrainedKernel(CellWrapper):
    """A cell whose recurrent kernel is a function of the parameter of that name.

    The function runs once for each call of `scan`, before the steps.
    """

    layer: AffineCell | CellWrapper

    def __post_init__(self) -> None:
        super().__post_init__()
        kernel = None
        if self.affine_cell is not None:
            # The shapes are enough.
            kernel = getattr(self.layer.param_shapes(1), "recurrent_kernel", None)
        # A diagonal or a convolutional kernel has another number of axes.
        if kernel is None or kernel.ndim != 2:
            raise TypeError(
                f"`layer` of {type(self).__name__} must be an affine cell with one "
                "`recurrent_kernel` [H, G*H], such as LeakyCell(128) or GRUCell(128); "
                f"got {self.layer!r}."
            )
        # The numbers of units that send and that receive.
        size: Any = self.affine_cell
        self.check(kernel.shape[0], size.hidden_size)

    @abc.abstractmethod
    def check(self, senders: int, receivers: int) -> None:
        """Checks the fields of the layer against the kernel."""

    @abc.abstractmethod
    def constrained(self, kernel: jax.Array) -> jax.Array:
        """Returns the kernel that the steps use, `[O, G*H]`."""

    def drawn(self, kernel: jax.Array) -> jax.Array:
        """Returns the first value of the parameter, from the draw of the cell."""
        return self.constrained(kernel)

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the parameters of the cell, within the constraint."""
        params = super().init(key, input_size, dtype)
        return params._replace(recurrent_kernel=self.drawn(params.recurrent_kernel))

    def cell_params(self, params: Params) -> Params:
        """Returns the parameters with the recurrent kernel that the steps use.

        The cell alone, with these parameters, computes the same as this layer.

        Args:
            params: the parameters of this layer.

        Returns:
            The parameters of the cell.
        """
        params = params._replace(recurrent_kernel=self.constrained(params.recurrent_kernel))
        # Signs and connections may both be given, one within the other.
        if isinstance(self.layer, ConstrainedKernel):
            return self.layer.cell_params(params)
        return params

    def wrapped_cell(
        self, key: jax.Array | None, params: Params, state: State, xs: Any
    ) -> tuple[Cell, Params, Any]:
        """Returns the cell and its parameters, with the constrained kernel."""
        # The layers below may add arrays to the parameters, so the kernel comes first.
        params = params._replace(recurrent_kernel=self.constrained(params.recurrent_kernel))
        return super().wrapped_cell(key, params, state, xs)

    def replacement(
        self, cell: AffineCell, key: jax.Array | None, params: Params, state: State, xs: Any
    ) -> tuple:
        """Returns the cell itself."""
        return cell, params, xs


@dataclasses.dataclass(frozen=True, repr=False)
class Dale(ConstrainedKernel):
    """Dale's principle: a unit excites all units that it reaches, or it inhibits all of them.

    u = h @ W + recurrent_bias,  W = sign[:, None] * abs(recurrent_kernel)

    The steps use W, never the parameter itself. So every optimizer keeps the signs exactly, with
    momentum, weight decay and noise too. A projection after each update would need an optimizer
    that knows of it. The gradient of a weight that is 0 is 0.

    Row i of W has the sign of unit i, in every gate of an LSTM or a GRU. The principle speaks of
    rates, so choose an activation that is never negative: `LeakyCell`, or
    `ElmanCell(H, jax.nn.relu)`.

    `init` balances excitation and inhibition. It scales the rows of the E excitatory units by
    √(N / E), and the rows of the N inhibitory units by √(E / N). Then the weights have mean 0, and
    their mean square is unchanged. `cell_params(params)` returns W.

    Args:
        layer: an affine cell whose recurrent kernel is one matrix; or layers that keep such a cell
            affine.
        signs: one sign for each unit: 1 excites, -1 inhibits, 0 leaves the weights free. Or the
            share of units that excite: they come first.

    Raises:
        TypeError: if `layer` is neither, or `signs` is no such tuple and no number.
        ValueError: if there is not one sign for each unit, a sign is not 1, -1 or 0, or the share
            is outside [0, 1].

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.Dale(recurrax.LeakyCell(5), 0.8)
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> recurrax.scan(layer, params, jax.numpy.ones((2, 7, 3)))[1].shape
        (2, 7, 5)
        >>> weights = layer.cell_params(params).recurrent_kernel
        >>> bool((weights[:4] >= 0).all()), bool((weights[4] <= 0).all())
        (True, True)

    References:
        Song, Yang and Wang, Training excitatory-inhibitory recurrent neural networks for cognitive
        tasks, 2016, https://doi.org/10.1371/journal.pcbi.1004792
    """

    signs: float | tuple[int, ...] = 0.8

    def check(self, senders: int, receivers: int) -> None:
        """Checks the signs."""
        signs = self.signs
        if is_number(signs):
            if not 0 <= signs <= 1:  # type: ignore[operator]
                raise ValueError(f"`signs` of Dale must be a share from 0 to 1; got {signs}.")
            return
        # A list or an array has no hash, and a layer must have one.
        array = np.asarray(signs)
        if array.ndim != 1 or array.dtype.kind not in "if":
            raise TypeError(
                f"`signs` of Dale must be one of 1, -1 and 0 for each of the {senders} units, or "
                f"the share of units that excite; got {describe(signs)}."
            )
        if array.shape != (senders,) or not np.isin(array, (-1, 0, 1)).all():
            raise ValueError(
                f"`signs` of Dale must be {senders} signs, each 1, -1 or 0, one for each row of "
                f"the recurrent kernel; got {len(array)}: {short(signs)}."
            )
        object.__setattr__(self, "signs", tuple(int(sign) for sign in array))

    def sign_of_units(self, number: int) -> np.ndarray:
        """Returns the signs of `number` units, `int[H]`."""
        if isinstance(self.signs, tuple):
            return np.array(self.signs)
        signs = np.full(number, -1)
        signs[: round(self.signs * number)] = 1
        return signs

    def constrained(self, kernel: jax.Array) -> jax.Array:
        """Returns sign * abs(kernel). Rows without a sign stay unchanged."""
        signs = self.sign_of_units(len(kernel))[:, None]  # [O, 1]
        signed = jnp.asarray(signs, kernel.dtype) * jnp.abs(kernel)
        if signs.all():
            return signed
        # A product, not a selection: a mesh may spread the kernel.
        return signed + jnp.asarray(signs == 0, kernel.dtype) * kernel

    def drawn(self, kernel: jax.Array) -> jax.Array:
        """Returns the draw with its signs, balanced."""
        signs = self.sign_of_units(len(kernel))
        excitatory, inhibitory = (signs > 0).sum(), (signs < 0).sum()
        scale = np.ones(len(signs))
        # With units of one kind alone there is nothing to balance.
        if excitatory and inhibitory:
            scale[signs > 0] = np.sqrt(inhibitory / excitatory)
            scale[signs < 0] = np.sqrt(excitatory / inhibitory)
        return self.constrained(kernel) * jnp.asarray(scale[:, None], kernel.dtype)


@dataclasses.dataclass(frozen=True, repr=False)
class Connectivity(ConstrainedKernel):
    """Removes connections among the units of a cell: their weights are 0 and stay 0.

    u = h @ W + recurrent_bias,  W = connections * recurrent_kernel

    The steps use W. So a removed connection has no influence, whatever an optimizer does. `init`
    sets its weight to 0 too, and its gradient is exactly 0. In an LSTM or a GRU the connection is
    absent from every gate. `cell_params(params)` returns W.

    Args:
        layer: an affine cell whose recurrent kernel is one matrix; or layers that keep such a cell
            affine.
        connections: `bool[O, H]`: whether unit i reaches unit j. The layer stores one str of 0 and
            1 for each row, so that it has a hash. O is H, or the size of a projected h.

    Raises:
        TypeError: if `layer` is neither, or `connections` is not of bools.
        ValueError: if `connections` has another shape.

    Example:
        Two areas that meet only by their first units, with signs:

        >>> import jax, numpy as np, recurrax
        >>> connections = np.kron(np.eye(2), np.ones((3, 3))).astype(bool)
        >>> connections[0, 3] = connections[3, 0] = True
        >>> layer = recurrax.Connectivity(recurrax.LeakyCell(6), connections)
        >>> layer = recurrax.Dale(layer, (1, 1, -1, 1, 1, -1))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> recurrax.scan(layer, params, jax.numpy.ones((2, 7, 3)))[1].shape
        (2, 7, 6)
        >>> int((layer.cell_params(params).recurrent_kernel != 0).sum())
        20

    References:
        Song, Yang and Wang, Training excitatory-inhibitory recurrent neural networks for cognitive
        tasks, 2016, https://doi.org/10.1371/journal.pcbi.1004792
    """

    connections: ArrayLike | tuple[str, ...] = ()

    def check(self, senders: int, receivers: int) -> None:
        """Checks the connections, and stores a str for each row."""
        given = self.connections
        if not _is_rows(given):
            flags = np.asarray(given)
            if flags.dtype != bool and flags.size:
                raise TypeError(
                    f"`connections` of Connectivity must be bool[{senders}, {receivers}]; "
                    f"got {describe(given)}. Compare or `.astype(bool)` first."
                )
            # An array with another number of axes does not fit: the check below tells.
            given = ()
            if flags.ndim == 2:
                given = tuple("".join(row) for row in np.where(flags, "1", "0"))
        lengths = {len(row) for row in given}  # type: ignore[union-attr]
        if len(given) != senders or lengths != {receivers}:  # type: ignore[arg-type]
            raise ValueError(
                f"`connections` of Connectivity must be bool[{senders}, {receivers}], one flag for "
                f"each pair of units of {self.affine_cell}; got {describe(self.connections)}."
            )
        object.__setattr__(self, "connections", given)

    def constrained(self, kernel: jax.Array) -> jax.Array:
        """Returns the kernel with 0 for each absent connection."""
        flags = _flags(self.connections)  # type: ignore[arg-type]
        # All gates have the same connections.
        flags = np.tile(flags, (1, kernel.shape[1] // flags.shape[1]))  # [O, G*H]
        return jnp.asarray(flags, kernel.dtype) * kernel


def _is_rows(connections: Any) -> bool:
    """Whether the connections are stored already: a str of 0 and 1 for each row."""
    if not isinstance(connections, tuple) or not connections:
        return False
    return all(isinstance(row, str) and set(row) <= {"0", "1"} for row in connections)


@functools.lru_cache(maxsize=64)
def _flags(rows: tuple[str, ...]) -> np.ndarray:
    return np.array([list(row) for row in rows]) == "1"  # bool[O, H]
