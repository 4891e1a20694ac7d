"""Flax Linen modules. They hold the parameters; the core computes. The input size is inferred."""

from recurrax.linen._crf import CRF as CRF
from recurrax.linen._recurrent import Recurrent as Recurrent
from recurrax.linen._recurrent import params_of as params_of
from recurrax.linen._recurrent import variables as variables
from recurrax.linen._scanned import ScannedRNN as ScannedRNN
from recurrax.linen._torch import GRU as GRU
from recurrax.linen._torch import LSTM as LSTM
from recurrax.linen._torch import RNN as RNN
