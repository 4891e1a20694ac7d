"""Keras 3's recurrent layers as Flax NNX modules, so that Keras code moves by changing its import.

Arguments, defaults, equations, outputs, weights and their order are Keras'; `recurrax.scan` does the work. What JAX
does not have is said out loud: `build(input_shape)` before the first call under jit, `compute_mask` or a `Sequential`
for the mask that Keras ties to a tensor, `losses` to be added to the loss, `apply_constraints()` after an update.
"""

from recurrax.compat.keras import constraints as constraints
from recurrax.compat.keras import regularizers as regularizers
from recurrax.compat.keras._cells import GRUCell as GRUCell
from recurrax.compat.keras._cells import LSTMCell as LSTMCell
from recurrax.compat.keras._cells import SimpleRNNCell as SimpleRNNCell
from recurrax.compat.keras._cells import StackedRNNCells as StackedRNNCells
from recurrax.compat.keras._conv import ConvLSTM1D as ConvLSTM1D
from recurrax.compat.keras._conv import ConvLSTM2D as ConvLSTM2D
from recurrax.compat.keras._conv import ConvLSTM3D as ConvLSTM3D
from recurrax.compat.keras._layers import GRU as GRU
from recurrax.compat.keras._layers import LSTM as LSTM
from recurrax.compat.keras._layers import SimpleRNN as SimpleRNN
from recurrax.compat.keras._rnn import RNN as RNN
from recurrax.compat.keras._sequential import Masking as Masking
from recurrax.compat.keras._sequential import Sequential as Sequential
from recurrax.compat.keras._wrappers import Bidirectional as Bidirectional
from recurrax.compat.keras._wrappers import TimeDistributed as TimeDistributed
