"""Keras' recurrent layers: a cell and the way along the sequence in one."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from flax import nnx

from recurrax.compat.keras._cell import Cell, Named
from recurrax.compat.keras._cells import GRUCell, LSTMCell, SimpleRNNCell
from recurrax.compat.keras._rnn import Recurrent


class WithCell(Recurrent):
    """A layer that makes its cell from its own arguments."""

    cell_type: ClassVar[Any]

    seed: int | None

    def __post_init__(self, rngs: nnx.Rngs | None) -> None:
        super().__post_init__(rngs)
        if self.use_cudnn not in ("auto", True, False):
            raise ValueError(f'`use_cudnn` must be "auto", True or False; got {self.use_cudnn!r}.')
        shared = {field.name for field in dataclasses.fields(self.cell_type)}
        arguments = {name: getattr(self, name) for name in shared if hasattr(self, name)}
        self.cell: Cell = self.cell_type(**arguments, rngs=rngs)


@dataclasses.dataclass(eq=False, repr=False)
class SimpleRNN(WithCell):
    """Elman's recurrent network: `keras.layers.SimpleRNN`.

    h' = activation(x @ kernel + h @ recurrent_kernel + bias)

    Args:
        units: the number of features H of the state.
        activation: as in `LSTM`, and so are all other arguments.

    Raises:
        TypeError: as `LSTM`.
        ValueError: as `LSTM`.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.compat.keras import SimpleRNN
        >>> SimpleRNN(4, activation="relu", return_sequences=True)(jnp.ones((2, 7, 3))).shape
        (2, 7, 4)

    References:
        Keras 3, `keras.layers.SimpleRNN`, 2024, https://keras.io/api/layers/recurrent_layers/simple_rnn/
    """

    units: int
    activation: Named = "tanh"
    use_bias: bool = True
    kernel_initializer: Named = "glorot_uniform"
    recurrent_initializer: Named = "orthogonal"
    bias_initializer: Named = "zeros"
    kernel_regularizer: Named = None
    recurrent_regularizer: Named = None
    bias_regularizer: Named = None
    activity_regularizer: Named = None
    kernel_constraint: Named = None
    recurrent_constraint: Named = None
    bias_constraint: Named = None
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    return_sequences: bool = False
    return_state: bool = False
    go_backwards: bool = False
    stateful: bool = False
    unroll: bool = False
    seed: int | None = None
    _: dataclasses.KW_ONLY
    zero_output_for_mask: bool = False
    time_major: bool = False

    cell_type: ClassVar[Any] = SimpleRNNCell


@dataclasses.dataclass(eq=False, repr=False)
class LSTM(WithCell):
    """Long short-term memory: `keras.layers.LSTM`.

    i, f, o = σ(x @ kernel + h @ recurrent_kernel + bias),  g = tanh(...),  c' = f * c + i * g,  h' = o * tanh(c')

    An `nnx.Module` that draws its weights at its first call, or at `build(input_shape)`, which must come first where
    the call is under jit or grad. Keras' weights move with `layer.set_weights(keras_layer.get_weights())`.

    Args:
        units: the number of features H of the state.
        activation: the nonlinearity of g and of c': a name of Keras', a function, or None for none.
        recurrent_activation: the nonlinearity of the gates.
        use_bias: whether there is a bias.
        kernel_initializer: draws `kernel`, `[I, 4*H]`: a name of Keras', or a function `(key, shape, dtype) -> array`.
        recurrent_initializer: draws `recurrent_kernel`, `[H, 4*H]`, as a whole.
        bias_initializer: draws `bias`, `[4*H]`.
        unit_forget_bias: whether the forget gate's bias begins at 1.
        kernel_regularizer: a penalty on `kernel`, found in `losses`: a name, or a function of an array, such as those
            of `recurrax.compat.keras.regularizers`.
        recurrent_regularizer: a penalty on `recurrent_kernel`.
        bias_regularizer: a penalty on `bias`.
        activity_regularizer: a penalty on what the layer puts out, divided by the batch size.
        kernel_constraint: a projection of `kernel`, which `apply_constraints()` does: a name, or a function from an
            array to an array, such as those of `recurrax.compat.keras.constraints`.
        recurrent_constraint: a projection of `recurrent_kernel`.
        bias_constraint: a projection of `bias`.
        dropout: the probability, in [0, 1), that a feature of the input is zero throughout a sequence.
        recurrent_dropout: the same of the state, as the gates see it; each gate then has masks of its own.
        seed: the seed of the weights and of dropout; by default Python's `random` draws it.
        return_sequences: whether to return all outputs and not only the last.
        return_state: whether to return the final state too.
        go_backwards: whether to walk from the last step to the first, and to return the outputs in that order.
        stateful: whether each call begins with the state that the last one ended with.
        unroll: whether to unroll the loop.
        use_cudnn: True to insist upon cuDNN's kernel, and an error where it cannot serve.
        zero_output_for_mask: whether outputs at masked steps are zero, and not the last output repeated.
        time_major: whether time is the first axis, as in Keras 2.
        implementation: 1 gives each gate its own dropout mask of the inputs, as in Keras; the arithmetic is the same.
        name: the name of the layer, for messages.
        dtype: the dtype of weights and outputs; `"mixed_bfloat16"` keeps the weights in float32.
        trainable: whether weights are of `nnx.Param`, or plain variables that an optimiser does not see.
        rngs: the source of weights and dropout, in the place of `seed`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a name is unknown, or an argument is out of range.

    Example:
        >>> import jax.numpy as jnp, recurrax
        >>> from recurrax.compat.keras import LSTM
        >>> layer = LSTM(4, return_sequences=True, return_state=True)
        >>> output, h, c = layer(jnp.ones((2, 7, 3)), mask=recurrax.lengths_to_mask(jnp.array([7, 5]), 7))
        >>> output.shape, c.shape, bool((output[1, 6] == output[1, 4]).all())
        ((2, 7, 4), (2, 4), True)

    References:
        Keras 3, `keras.layers.LSTM`, 2024, https://keras.io/api/layers/recurrent_layers/lstm/
    """

    units: int
    activation: Named = "tanh"
    recurrent_activation: Named = "sigmoid"
    use_bias: bool = True
    kernel_initializer: Named = "glorot_uniform"
    recurrent_initializer: Named = "orthogonal"
    bias_initializer: Named = "zeros"
    unit_forget_bias: bool = True
    kernel_regularizer: Named = None
    recurrent_regularizer: Named = None
    bias_regularizer: Named = None
    activity_regularizer: Named = None
    kernel_constraint: Named = None
    recurrent_constraint: Named = None
    bias_constraint: Named = None
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    seed: int | None = None
    return_sequences: bool = False
    return_state: bool = False
    go_backwards: bool = False
    stateful: bool = False
    unroll: bool = False
    use_cudnn: bool | str = "auto"
    _: dataclasses.KW_ONLY
    zero_output_for_mask: bool = False
    time_major: bool = False
    implementation: int = 2

    cell_type: ClassVar[Any] = LSTMCell


@dataclasses.dataclass(eq=False, repr=False)
class GRU(WithCell):
    """The gated recurrent unit: `keras.layers.GRU`.

    z, r = σ(x @ kernel + h @ recurrent_kernel + bias),  n = tanh(z_n + r * u_n),  h' = z * h + (1 - z) * n,

    or n = tanh(z_n + (r * h) @ recurrent_kernel_n) without `reset_after`. Gates lie in Keras' order z, r, n.

    Args:
        units: the number of features H of the state.
        reset_after: whether the reset gate acts after the recurrent product, and the bias is `[2, 3*H]`, one for the
            inputs and one for the state; or before it, and the bias is `[3*H]`.
        activation: as in `LSTM`, and so are all other arguments.

    Raises:
        TypeError: as `LSTM`.
        ValueError: as `LSTM`.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.compat.keras import GRU
        >>> layer = GRU(4, return_state=True)
        >>> output, h = layer(jnp.ones((2, 7, 3)))
        >>> output.shape, h.shape, [weight.shape for weight in layer.weights]
        ((2, 4), (2, 4), [(3, 12), (4, 12), (2, 12)])

    References:
        Keras 3, `keras.layers.GRU`, 2024, https://keras.io/api/layers/recurrent_layers/gru/
    """

    units: int
    activation: Named = "tanh"
    recurrent_activation: Named = "sigmoid"
    use_bias: bool = True
    kernel_initializer: Named = "glorot_uniform"
    recurrent_initializer: Named = "orthogonal"
    bias_initializer: Named = "zeros"
    kernel_regularizer: Named = None
    recurrent_regularizer: Named = None
    bias_regularizer: Named = None
    activity_regularizer: Named = None
    kernel_constraint: Named = None
    recurrent_constraint: Named = None
    bias_constraint: Named = None
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    seed: int | None = None
    return_sequences: bool = False
    return_state: bool = False
    go_backwards: bool = False
    stateful: bool = False
    unroll: bool = False
    reset_after: bool = True
    use_cudnn: bool | str = "auto"
    _: dataclasses.KW_ONLY
    zero_output_for_mask: bool = False
    time_major: bool = False
    implementation: int = 2

    cell_type: ClassVar[Any] = GRUCell
