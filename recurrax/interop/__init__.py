"""Recurrent layers in from and out to other libraries, weights and all.

Every `from_...` returns `(layer, params)` for `recurrax.scan`; every `to_...` takes them. What a library calls its
gates and in which order it keeps them, which biases it has and which way round its update gate works is known in this
package alone, one library a file.
"""

from recurrax.interop._onnx_activations import Clipped as Clipped
from recurrax.interop._onnx_activations import OnnxActivation as OnnxActivation
from recurrax.interop._onnx_cells import OnnxLSTMCell as OnnxLSTMCell
from recurrax.interop._onnx_cells import OnnxLSTMParams as OnnxLSTMParams
from recurrax.interop._onnx_cells import Reverse as Reverse
from recurrax.interop._onnx_recurrence import OnnxRecurrence as OnnxRecurrence
from recurrax.interop.exported import export as export
from recurrax.interop.onnx import from_onnx as from_onnx
from recurrax.interop.onnx import to_onnx as to_onnx
from recurrax.interop.safetensors import load as load
from recurrax.interop.safetensors import save as save
