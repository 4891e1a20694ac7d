"""Flax NNX modules: they hold the parameters, and the core does the rest."""

from recurrax.nnx._crf import CRF as CRF
from recurrax.nnx._recurrent import Recurrent as Recurrent
from recurrax.nnx._recurrent import params_of as params_of
from recurrax.nnx._scanned import ScannedRNN as ScannedRNN
from recurrax.nnx._torch import GRU as GRU
from recurrax.nnx._torch import LSTM as LSTM
from recurrax.nnx._torch import RNN as RNN
