"""recurrax: recurrent sequence models for JAX and Flax.

A recurrent network is a pure function of a sequence and a state. A cell says how one step works; `scan` is the only
thing that walks time; a Flax module (`recurrax.nnx`, `recurrax.linen`) only holds the parameters.
"""

from recurrax import initializers as initializers
from recurrax._affine import AffineCell as AffineCell
from recurrax._batching import Packed as Packed
from recurrax._batching import PaddedBatch as PaddedBatch
from recurrax._batching import batch_by_length as batch_by_length
from recurrax._batching import pack as pack
from recurrax._batching import unpack as unpack
from recurrax._blocks import Activation as Activation
from recurrax._blocks import Branches as Branches
from recurrax._blocks import Dense as Dense
from recurrax._blocks import DenseParams as DenseParams
from recurrax._blocks import Gated as Gated
from recurrax._blocks import LayerNorm as LayerNorm
from recurrax._blocks import NormParams as NormParams
from recurrax._blocks import RMSNorm as RMSNorm
from recurrax._compose import Bidirectional as Bidirectional
from recurrax._compose import Directions as Directions
from recurrax._compose import Residual as Residual
from recurrax._compose import Stack as Stack
from recurrax._dropout import Dropout as Dropout
from recurrax._dropout import WeightDrop as WeightDrop
from recurrax._dropout import embedding_dropout as embedding_dropout
from recurrax._fitting import input_size as input_size
from recurrax._gradient_clip import GradientClip as GradientClip
from recurrax._layer import Cell as Cell
from recurrax._layer import Layer as Layer
from recurrax._learned_state import LearnedInitialState as LearnedInitialState
from recurrax._learned_state import LearnedInitialStateParams as LearnedInitialStateParams
from recurrax._linear import Coefficients as Coefficients
from recurrax._linear import LinearCell as LinearCell
from recurrax._linear import LinearState as LinearState
from recurrax._mask import lengths_to_mask as lengths_to_mask
from recurrax._mask import segment_ids_to_reset as segment_ids_to_reset
from recurrax._newton_report import newton_report as newton_report
from recurrax._params import named as named
from recurrax._params import num_params as num_params
from recurrax._penalty import activation_penalty as activation_penalty
from recurrax._penalty import temporal_activation_penalty as temporal_activation_penalty
from recurrax._recurrent_dropout import RecurrentDropout as RecurrentDropout
from recurrax._recurrent_dropout import UpdateDropout as UpdateDropout
from recurrax._scan import scan as scan
from recurrax._scan import step as step
from recurrax._timed import TimedInputs as TimedInputs
from recurrax._window import CausalConv as CausalConv
from recurrax._window import CausalConvParams as CausalConvParams
from recurrax._window import Window as Window
from recurrax._window import WindowState as WindowState
from recurrax._zoneout import Zoneout as Zoneout
from recurrax.cells._gated import GatedParams as GatedParams
from recurrax.cells._wiring import NCPWiring as NCPWiring
from recurrax.cells.cfc import CfCCell as CfCCell
from recurrax.cells.cfc import CfCParams as CfCParams
from recurrax.cells.cfc import CfCState as CfCState
from recurrax.cells.convolutional import ConvElmanCell as ConvElmanCell
from recurrax.cells.convolutional import ConvGRUCell as ConvGRUCell
from recurrax.cells.convolutional import ConvLSTMCell as ConvLSTMCell
from recurrax.cells.diagonal import DiagonalGRUCell as DiagonalGRUCell
from recurrax.cells.diagonal import DiagonalLSTMCell as DiagonalLSTMCell
from recurrax.cells.elman import ElmanCell as ElmanCell
from recurrax.cells.elman import ElmanParams as ElmanParams
from recurrax.cells.elman import ElmanState as ElmanState
from recurrax.cells.gru import GRUCell as GRUCell
from recurrax.cells.gru import GRUParams as GRUParams
from recurrax.cells.gru import GRUState as GRUState
from recurrax.cells.indrnn import IndRNNCell as IndRNNCell
from recurrax.cells.indrnn import IndRNNParams as IndRNNParams
from recurrax.cells.indrnn import LayerNormIndRNNCell as LayerNormIndRNNCell
from recurrax.cells.layer_norm import LayerNormElmanCell as LayerNormElmanCell
from recurrax.cells.layer_norm import LayerNormGRUCell as LayerNormGRUCell
from recurrax.cells.layer_norm import LayerNormLSTMCell as LayerNormLSTMCell
from recurrax.cells.layer_norm import LayerNormParams as LayerNormParams
from recurrax.cells.lru import LRUCell as LRUCell
from recurrax.cells.lru import LRUParams as LRUParams
from recurrax.cells.lstm import LSTMCell as LSTMCell
from recurrax.cells.lstm import LSTMParams as LSTMParams
from recurrax.cells.lstm import LSTMState as LSTMState
from recurrax.cells.ltc import LTCCell as LTCCell
from recurrax.cells.ltc import LTCParams as LTCParams
from recurrax.cells.ltc import LTCState as LTCState
from recurrax.cells.min_gated import MinGRUCell as MinGRUCell
from recurrax.cells.min_gated import MinLSTMCell as MinLSTMCell
from recurrax.cells.minimal import MGUCell as MGUCell
from recurrax.cells.minimal import MGUParams as MGUParams
from recurrax.cells.minimal import UGRNNCell as UGRNNCell
from recurrax.cells.minimal import UGRNNParams as UGRNNParams
from recurrax.cells.mlstm import MLSTMCell as MLSTMCell
from recurrax.cells.mlstm import MLSTMParams as MLSTMParams
from recurrax.cells.mlstm import MLSTMState as MLSTMState
from recurrax.cells.multiplicative import MultiplicativeLSTMCell as MultiplicativeLSTMCell
from recurrax.cells.multiplicative import MultiplicativeLSTMParams as MultiplicativeLSTMParams
from recurrax.cells.peephole import CIFGCell as CIFGCell
from recurrax.cells.peephole import CIFGParams as CIFGParams
from recurrax.cells.peephole import PeepholeLSTMCell as PeepholeLSTMCell
from recurrax.cells.peephole import PeepholeLSTMParams as PeepholeLSTMParams
from recurrax.cells.qrnn import QRNNCell as QRNNCell
from recurrax.cells.qrnn import SRUCell as SRUCell
from recurrax.cells.rglru import RGLRUCell as RGLRUCell
from recurrax.cells.rglru import RGLRUParams as RGLRUParams
from recurrax.cells.s5 import S5Cell as S5Cell
from recurrax.cells.s5 import S5Params as S5Params
from recurrax.cells.slstm import SLSTMCell as SLSTMCell
from recurrax.cells.slstm import SLSTMParams as SLSTMParams
from recurrax.cells.slstm import SLSTMState as SLSTMState
from recurrax.kernels.matrix_memory import Chunkwise as Chunkwise
from recurrax.kernels.newton import Newton as Newton
from recurrax.kernels.newton import NewtonReport as NewtonReport
from recurrax.kernels.time_sharded import TimeSharded as TimeSharded

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Says where PyTorch's layers are."""
    hint = ""
    if name in ("RNN", "LSTM", "GRU"):
        cell = {"RNN": "ElmanCell"}.get(name, f"{name}Cell")
        hint = f" As a Flax module it is recurrax.nnx.{name} or recurrax.linen.{name}, as a cell recurrax.{cell}."
    raise AttributeError(f"module 'recurrax' has no attribute {name!r}.{hint}")
