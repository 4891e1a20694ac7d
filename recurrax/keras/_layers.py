"""Keras' recurrent layers: their cells of the core."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from recurrax.cells import elman, gru, lstm
from recurrax.keras._names import Named
from recurrax.keras._recurrent import Recurrent


@dataclasses.dataclass(eq=False, repr=False)
class SimpleRNN(Recurrent):
    """Elman's recurrent network: `keras.layers.SimpleRNN`.

    h' = activation(x @ kernel + h @ recurrent_kernel + bias)

    Args:
        units: the number of features H of the state.
        activation: as in `LSTM`, and so are all other arguments and errors.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.keras import SimpleRNN
        >>> SimpleRNN(4, activation="relu", return_sequences=True)(jnp.ones((2, 7, 3))).shape
        (2, 7, 4)
    """

    units: int
    seed: int | None = dataclasses.field(default=None, kw_only=True)  # Keras has it last here

    cell_type: ClassVar[Any] = elman.ElmanCell


@dataclasses.dataclass(eq=False, repr=False)
class LSTM(Recurrent):
    """Long short-term memory: `keras.layers.LSTM`.

    i, f, o = σ(x @ kernel + h @ recurrent_kernel + bias),  g = tanh(...),
    c' = f * c + i * g,  h' = o * tanh(c')

    The first call draws the weights, or `build(input_shape)`, which must come first if the call is
    under jit or grad. Keras' weights move with `layer.set_weights(keras_layer.get_weights())`.

    All arguments of Keras have Keras' meaning. An initializer is a name, an object or a
    configuration of Keras', or a function `(key, shape, dtype) -> array`. A regularizer, a
    constraint or an activation is the same, or a function of an array.

    Args:
        units: the number of features H of the state.
        activation: the nonlinearity of g and of c'; None for none.
        recurrent_activation: the nonlinearity of the gates. `"hard_sigmoid"` has the slope 1/6, as
            in Keras 3; `"hard_sigmoid_keras2"` has the slope 0.2 of older versions.
        kernel_initializer: draws `kernel`, `[I, 4*H]`, all gates at once. `recurrent_initializer`
            draws `recurrent_kernel`, `[H, 4*H]`, and `bias_initializer` draws `bias`, `[4*H]`.
        unit_forget_bias: whether the forget gate's bias begins at 1.
        kernel_regularizer: a penalty on `kernel`. `losses` holds all penalties.
        activity_regularizer: a penalty on the outputs, divided by the batch size.
        kernel_constraint: a projection of `kernel`. `apply_constraints()` does all projections.
        dropout: the probability, in [0, 1), that a feature of the input is zero throughout a
            sequence. `recurrent_dropout` does the same to the state, with masks for each gate.
        seed: the seed of the weights and of dropout; by default Python's `random` draws it.
        go_backwards: whether the last step comes first, also in the outputs.
        use_cudnn: True raises an error if cuDNN cannot serve.
        zero_output_for_mask: whether outputs at masked steps are zero, and not the last output
            repeated.
        time_major: whether time is the first axis, as in Keras 2.
        implementation: 1 gives each gate its own dropout mask of the inputs.
        dtype: the dtype of weights and outputs; `"mixed_bfloat16"` keeps the weights in float32.
        trainable: whether the weights are of `nnx.Param`, which optimizers see.
        rngs: the source of weights and dropout, in the place of `seed`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a name is unknown, or an argument is out of range.

    Example:
        >>> import jax.numpy as jnp, recurrax
        >>> from recurrax.keras import LSTM
        >>> layer = LSTM(4, return_sequences=True, return_state=True)
        >>> mask = recurrax.lengths_to_mask(jnp.array([7, 5]), 7)
        >>> output, h, c = layer(jnp.ones((2, 7, 3)), mask=mask)
        >>> output.shape, c.shape, bool((output[1, 6] == output[1, 4]).all())
        ((2, 7, 4), (2, 4), True)
    """

    units: int
    recurrent_activation: Named = "sigmoid"
    unit_forget_bias: bool = True
    use_cudnn: bool | str = "auto"
    _: dataclasses.KW_ONLY
    implementation: int = 2

    cell_type: ClassVar[Any] = lstm.LSTMCell


@dataclasses.dataclass(eq=False, repr=False)
class GRU(Recurrent):
    """The gated recurrent unit: `keras.layers.GRU`.

    z, r = σ(x @ kernel + h @ recurrent_kernel + bias),  n = tanh(z_n + r * u_n),
    h' = z * h + (1 - z) * n,

    or n = tanh(z_n + (r * h) @ recurrent_kernel_n) without `reset_after`. Gates lie in Keras' order
    z, r, n.

    Args:
        units: the number of features H of the state.
        reset_after: whether the reset gate acts after the recurrent product. Then the bias is `[2,
            3*H]`, a row for the inputs and a row for the state: 3 * H * (I + H + 2) weights. Else
            the bias is `[3*H]`.
        activation: as in `LSTM`, and so are all other arguments and errors.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.keras import GRU
        >>> layer = GRU(4, return_state=True)
        >>> output, h = layer(jnp.ones((2, 7, 3)))
        >>> output.shape, h.shape, [weight.shape for weight in layer.weights]
        ((2, 4), (2, 4), [(3, 12), (4, 12), (2, 12)])
    """

    units: int
    recurrent_activation: Named = "sigmoid"
    reset_after: bool = True
    use_cudnn: bool | str = "auto"
    _: dataclasses.KW_ONLY
    implementation: int = 2

    cell_type: ClassVar[Any] = gru.GRUCell

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"reset_after": self.reset_after}

    @property
    def _bias_shape(self) -> tuple[int, ...]:
        # With `reset_after` a row for the inputs and a row for the state.
        if self.reset_after:
            return 2, 3 * self.units
        return (3 * self.units,)

    def params(self) -> gru.GRUParams:
        """The weights as parameters of the core, with the gates in the order r, z, n."""

        def reordered(array: jax.Array) -> jax.Array:
            z, r, n = jnp.split(array, 3, axis=-1)
            return jnp.concatenate([r, z, n], axis=-1)

        kernel, recurrent_kernel, bias = jax.tree.map(reordered, self._arrays())
        # With `reset_after` the rows of the bias are two biases.
        if bias is None or not self.reset_after:
            return gru.GRUParams(kernel, recurrent_kernel, bias)
        return gru.GRUParams(kernel, recurrent_kernel, *bias)
