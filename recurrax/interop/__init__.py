"""Recurrent layers in from and out to other libraries, with their weights.

Every `from_...` returns `(layer, params)` for `recurrax.scan`. Every `to_...` takes them. One file
serves one library. Only that file knows the library's gate order, biases and update gate. A library
is imported when its function is called.
"""

from recurrax.interop.equinox import from_equinox as from_equinox
from recurrax.interop.equinox import to_equinox as to_equinox
from recurrax.interop.exported import export as export
from recurrax.interop.exported import load_export as load_export
from recurrax.interop.exported import save_export as save_export
from recurrax.interop.haiku import from_haiku as from_haiku
from recurrax.interop.haiku import to_haiku as to_haiku
from recurrax.interop.keras import from_keras as from_keras
from recurrax.interop.keras import to_keras as to_keras
from recurrax.interop.linen import from_linen as from_linen
from recurrax.interop.linen import to_linen as to_linen
from recurrax.interop.nnx import from_nnx as from_nnx
from recurrax.interop.nnx import to_nnx as to_nnx
from recurrax.interop.onnx import Clipped as Clipped
from recurrax.interop.onnx import OnnxActivation as OnnxActivation
from recurrax.interop.onnx import OnnxLSTMCell as OnnxLSTMCell
from recurrax.interop.onnx import OnnxLSTMParams as OnnxLSTMParams
from recurrax.interop.onnx import from_onnx as from_onnx
from recurrax.interop.onnx import to_onnx as to_onnx
from recurrax.interop.safetensors import load as load
from recurrax.interop.safetensors import save as save
from recurrax.interop.torch import from_torch as from_torch
from recurrax.interop.torch import to_torch as to_torch
