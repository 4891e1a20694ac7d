"""Keras' recurrent layers: their weights in the core."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

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

    References:
        Keras 3, `keras.layers.SimpleRNN`, 2024,
        https://keras.io/api/layers/recurrent_layers/simple_rnn/
    """

    units: int
    seed: int | None = dataclasses.field(default=None, kw_only=True)  # Keras has it last here

    gates: ClassVar[int] = 1

    @property
    def _masks(self) -> int:
        return 1

    def _core_cell(self) -> elman.ElmanCell:
        return elman.ElmanCell(self.units, **self._options())

    def params(self) -> elman.ElmanParams:
        """The weights as parameters of the core."""
        return elman.ElmanParams(*self._arrays())


@dataclasses.dataclass(eq=False, repr=False)
class LSTM(Recurrent):
    """Long short-term memory: `keras.layers.LSTM`.

    i, f, o = σ(x @ kernel + h @ recurrent_kernel + bias),  g = tanh(...),
    c' = f * c + i * g,  h' = o * tanh(c')

    An `nnx.Module` that draws its weights at its first call, or at `build(input_shape)`, which must
    come first where the call is under jit or grad. Keras' weights move with
    `layer.set_weights(keras_layer.get_weights())`.

    Args:
        units: the number of features H of the state.
        activation: the nonlinearity of g and of c': a name of Keras', a function, or None for none.
        recurrent_activation: the nonlinearity of the gates. `"hard_sigmoid"` has the slope 1/6, as
            in Keras 3; `"hard_sigmoid_keras2"` has the slope 0.2 of older versions.
        use_bias: whether there is a bias.
        kernel_initializer: draws `kernel`, `[I, 4*H]`: a name, an object or a configuration of
            Keras', one of `recurrax.keras.initializers`, or a function `(key, shape, dtype) ->
            array`.
        recurrent_initializer: draws `recurrent_kernel`, `[H, 4*H]`, all gates at once.
        bias_initializer: draws `bias`, `[4*H]`.
        unit_forget_bias: whether the forget gate's bias begins at 1.
        kernel_regularizer: a penalty on `kernel`, found in `losses`: a name, an object or a
            configuration of Keras', one of `recurrax.keras.regularizers`, or a function from an
            array to a number.
        recurrent_regularizer: a penalty on `recurrent_kernel`.
        bias_regularizer: a penalty on `bias`.
        activity_regularizer: a penalty on what the layer puts out, divided by the batch size.
        kernel_constraint: a projection of `kernel`, which `apply_constraints()` does: a name, an
            object or a configuration of Keras', one of `recurrax.keras.constraints`, or a function
            of an array.
        recurrent_constraint: a projection of `recurrent_kernel`.
        bias_constraint: a projection of `bias`.
        dropout: the probability, in [0, 1), that a feature of the input is zero throughout a
            sequence.
        recurrent_dropout: the same of the state, as the gates see it; each gate then has masks of
            its own.
        seed: the seed of the weights and of dropout; by default Python's `random` draws it.
        return_sequences: whether to return all outputs and not only the last.
        return_state: whether to return the final state too.
        go_backwards: whether to run from the last step to the first, and to return the outputs in
            that order.
        stateful: whether each call begins with the state that the last one ended with.
        unroll: whether to unroll the loop.
        use_cudnn: True to insist upon cuDNN's kernel, and an error where it cannot serve.
        zero_output_for_mask: whether outputs at masked steps are zero, and not the last output
            repeated.
        time_major: whether time is the first axis, as in Keras 2.
        implementation: 1 gives each gate its own dropout mask of the inputs, as in Keras; the
            arithmetic is the same.
        name: the name of the layer, for messages.
        dtype: the dtype of weights and outputs; `"mixed_bfloat16"` keeps the weights in float32.
        trainable: whether weights are of `nnx.Param`, or plain variables that an optimizer does not
            see.
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

    References:
        Keras 3, `keras.layers.LSTM`, 2024, https://keras.io/api/layers/recurrent_layers/lstm/
    """

    units: int
    recurrent_activation: Named = "sigmoid"
    unit_forget_bias: bool = True
    use_cudnn: bool | str = "auto"
    _: dataclasses.KW_ONLY
    implementation: int = 2

    gates: ClassVar[int] = 4
    parts: ClassVar[int] = 2

    def _core_cell(self) -> lstm.LSTMCell:
        return lstm.LSTMCell(self.units, **self._options())

    def params(self) -> lstm.LSTMParams:
        """The weights as parameters of the core."""
        return lstm.LSTMParams(*self._arrays())


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

    References:
        Keras 3, `keras.layers.GRU`, 2024, https://keras.io/api/layers/recurrent_layers/gru/
    """

    units: int
    recurrent_activation: Named = "sigmoid"
    reset_after: bool = True
    use_cudnn: bool | str = "auto"
    _: dataclasses.KW_ONLY
    implementation: int = 2

    gates: ClassVar[int] = 3

    def _core_cell(self) -> gru.GRUCell:
        return gru.GRUCell(self.units, self.reset_after, **self._options())

    @property
    def _bias_shape(self) -> tuple[int, ...]:
        # With `reset_after` a row for the inputs and a row for the state.
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
