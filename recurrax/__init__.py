"""recurrax: recurrent sequence models for JAX and Flax.

A recurrent network is a pure function of a sequence and a state. A **cell** computes one step.
**`scan`** runs a cell over time, and nothing else does. A Flax module (`recurrax.nnx`,
`recurrax.linen`) only holds the parameters.

The classes of parameters and states are in `recurrax.cells` and `recurrax.layers`. Subpackages load
on first use.
"""

import importlib

from recurrax import initializers as initializers
from recurrax._layer import Cell as Cell
from recurrax._layer import Layer as Layer
from recurrax._mask import lengths_to_mask as lengths_to_mask
from recurrax._mask import segment_ids_to_reset as segment_ids_to_reset
from recurrax._params import infer_input_size as infer_input_size
from recurrax._params import num_params as num_params
from recurrax._params import param_mask as param_mask
from recurrax._scan import scan as scan
from recurrax._scan import step as step
from recurrax.analysis._trace import trace as trace
from recurrax.cells import AffineCell as AffineCell
from recurrax.cells import CfCCell as CfCCell
from recurrax.cells import CIFGCell as CIFGCell
from recurrax.cells import ConvElmanCell as ConvElmanCell
from recurrax.cells import ConvGRUCell as ConvGRUCell
from recurrax.cells import ConvLSTMCell as ConvLSTMCell
from recurrax.cells import DiagonalGRUCell as DiagonalGRUCell
from recurrax.cells import DiagonalLSTMCell as DiagonalLSTMCell
from recurrax.cells import ElmanCell as ElmanCell
from recurrax.cells import GRUCell as GRUCell
from recurrax.cells import IndRNNCell as IndRNNCell
from recurrax.cells import LayerNormElmanCell as LayerNormElmanCell
from recurrax.cells import LayerNormGRUCell as LayerNormGRUCell
from recurrax.cells import LayerNormIndRNNCell as LayerNormIndRNNCell
from recurrax.cells import LayerNormLSTMCell as LayerNormLSTMCell
from recurrax.cells import LinearCell as LinearCell
from recurrax.cells import LRUCell as LRUCell
from recurrax.cells import LSTMCell as LSTMCell
from recurrax.cells import LTCCell as LTCCell
from recurrax.cells import MGUCell as MGUCell
from recurrax.cells import MinGRUCell as MinGRUCell
from recurrax.cells import MinLSTMCell as MinLSTMCell
from recurrax.cells import MLSTMCell as MLSTMCell
from recurrax.cells import MultiplicativeLSTMCell as MultiplicativeLSTMCell
from recurrax.cells import PeepholeLSTMCell as PeepholeLSTMCell
from recurrax.cells import QRNNCell as QRNNCell
from recurrax.cells import RGLRUCell as RGLRUCell
from recurrax.cells import S5Cell as S5Cell
from recurrax.cells import SLSTMCell as SLSTMCell
from recurrax.cells import SRUCell as SRUCell
from recurrax.cells import UGRNNCell as UGRNNCell
from recurrax.decoding._unroll import unroll as unroll
from recurrax.layers import Activation as Activation
from recurrax.layers import BahdanauAttention as BahdanauAttention
from recurrax.layers import Bidirectional as Bidirectional
from recurrax.layers import CausalConv as CausalConv
from recurrax.layers import Dense as Dense
from recurrax.layers import Dropout as Dropout
from recurrax.layers import Gated as Gated
from recurrax.layers import GradientClip as GradientClip
from recurrax.layers import LayerNorm as LayerNorm
from recurrax.layers import LearnedInitialState as LearnedInitialState
from recurrax.layers import LuongAttention as LuongAttention
from recurrax.layers import RecurrentDropout as RecurrentDropout
from recurrax.layers import Residual as Residual
from recurrax.layers import Reverse as Reverse
from recurrax.layers import RMSNorm as RMSNorm
from recurrax.layers import Stack as Stack
from recurrax.layers import UpdateDropout as UpdateDropout
from recurrax.layers import WeightDrop as WeightDrop
from recurrax.layers import Window as Window
from recurrax.layers import Zoneout as Zoneout

__version__ = "0.1.0"

_SUBPACKAGES = (
    "analysis",
    "cells",
    "data",
    "decoding",
    "experimental",
    "implementations",
    "initializers",
    "interop",
    "keras",
    "layers",
    "linen",
    "losses",
    "nnx",
    "penalties",
    "testing",
)


def __getattr__(name: str) -> object:
    """Loads a subpackage on first use. The error for another name says where to find it."""
    if name in _SUBPACKAGES:
        return importlib.import_module(f"recurrax.{name}")
    hint = ""
    # The names of PyTorch and Keras.
    if name in ("RNN", "LSTM", "GRU"):
        cell = {"RNN": "ElmanCell"}.get(name, f"{name}Cell")
        hint = (
            f" As a Flax module it is recurrax.nnx.{name} or recurrax.linen.{name}, "
            f"as a cell recurrax.{cell}."
        )
    for home in ("cells", "layers"):
        if hasattr(importlib.import_module(f"recurrax.{home}"), name):
            hint = f" It is recurrax.{home}.{name}."
    raise AttributeError(f"module 'recurrax' has no attribute {name!r}.{hint}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBPACKAGES})
