"""ONNX: its operators RNN, LSTM and GRU, read and written. No loop of small operators is."""

from recurrax.interop._description import make_known
from recurrax.interop.onnx._activations import Clipped as Clipped
from recurrax.interop.onnx._activations import OnnxActivation as OnnxActivation
from recurrax.interop.onnx._cells import OnnxLSTMCell as OnnxLSTMCell
from recurrax.interop.onnx._cells import OnnxLSTMParams as OnnxLSTMParams
from recurrax.interop.onnx._model import from_onnx as from_onnx
from recurrax.interop.onnx._model import to_onnx as to_onnx

make_known(Clipped, OnnxActivation, OnnxLSTMCell)
