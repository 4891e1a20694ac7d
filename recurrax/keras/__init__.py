"""Keras 3's recurrent layers as Flax NNX modules, so that Keras code moves by changing its import.

Arguments, defaults, equations, outputs, weights and their order are Keras'. `recurrax.scan` does
the work. Some lines are yours, since JAX does not have what Keras has:

- Call `build(input_shape)` before the first call under jit.
- Hand on the mask: `layer(x, mask=masking.compute_mask(x))`.
- Add `losses` to the loss, and call `apply_constraints()` after each update.

Flax has the rest. `nnx.Linear` acts on every step, as `TimeDistributed(Dense)` does, and an
`nnx.Module` takes the place of `keras.Sequential`.

References:
    Keras 3, API of its layers, initializers, regularizers and constraints, 2024,
    https://keras.io/api/layers/recurrent_layers/
"""

from recurrax.interop._keras_activations import hard_sigmoid_keras2 as hard_sigmoid_keras2
from recurrax.keras import constraints as constraints
from recurrax.keras import initializers as initializers
from recurrax.keras import regularizers as regularizers
from recurrax.keras._bidirectional import Bidirectional as Bidirectional
from recurrax.keras._conv import ConvLSTM1D as ConvLSTM1D
from recurrax.keras._conv import ConvLSTM2D as ConvLSTM2D
from recurrax.keras._conv import ConvLSTM3D as ConvLSTM3D
from recurrax.keras._layers import GRU as GRU
from recurrax.keras._layers import LSTM as LSTM
from recurrax.keras._layers import SimpleRNN as SimpleRNN
from recurrax.keras._masking import Masking as Masking
