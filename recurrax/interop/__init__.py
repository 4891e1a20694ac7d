"""Recurrent layers in from and out to other libraries, weights and all.

Every `from_...` returns `(layer, params)` for `recurrax.scan`; every `to_...` takes them. What a
library calls its gates and in which order it keeps them, which biases it has and which way round
its update gate works is known in this package alone, one library a file. A library is imported only
when its function is called.
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
