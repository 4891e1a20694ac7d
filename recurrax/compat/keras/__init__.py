"""Keras 3's recurrent layers as Flax NNX modules, with Keras' arguments."""

from recurrax.compat.keras import constraints as constraints
from recurrax.compat.keras import regularizers as regularizers
from recurrax.compat.keras._cells import GRUCell as GRUCell
from recurrax.compat.keras._cells import LSTMCell as LSTMCell
from recurrax.compat.keras._cells import SimpleRNNCell as SimpleRNNCell
from recurrax.compat.keras._cells import StackedRNNCells as StackedRNNCells
from recurrax.compat.keras._layers import GRU as GRU
from recurrax.compat.keras._layers import LSTM as LSTM
from recurrax.compat.keras._layers import SimpleRNN as SimpleRNN
from recurrax.compat.keras._rnn import RNN as RNN
