"""Layers made of layers, layers without recurrence, and layers that change the steps of a cell."""

from recurrax.layers.compose import Bidirectional as Bidirectional
from recurrax.layers.compose import Directions as Directions
from recurrax.layers.compose import Residual as Residual
from recurrax.layers.compose import Reverse as Reverse
from recurrax.layers.compose import Stack as Stack
from recurrax.layers.dense import Activation as Activation
from recurrax.layers.dense import Dense as Dense
from recurrax.layers.dense import DenseParams as DenseParams
from recurrax.layers.dropout import Dropout as Dropout
from recurrax.layers.dropout import embedding_dropout as embedding_dropout
from recurrax.layers.gated import Branches as Branches
from recurrax.layers.gated import Gated as Gated
from recurrax.layers.gradient_clip import GradientClip as GradientClip
from recurrax.layers.learned_state import LearnedInitialState as LearnedInitialState
from recurrax.layers.learned_state import LearnedInitialStateParams as LearnedInitialStateParams
from recurrax.layers.norm import LayerNorm as LayerNorm
from recurrax.layers.norm import NormParams as NormParams
from recurrax.layers.norm import RMSNorm as RMSNorm
from recurrax.layers.recurrent_dropout import RecurrentDropout as RecurrentDropout
from recurrax.layers.recurrent_dropout import UpdateDropout as UpdateDropout
from recurrax.layers.weight_drop import WeightDrop as WeightDrop
from recurrax.layers.window import CausalConv as CausalConv
from recurrax.layers.window import CausalConvParams as CausalConvParams
from recurrax.layers.window import Window as Window
from recurrax.layers.window import WindowState as WindowState
from recurrax.layers.zoneout import Zoneout as Zoneout
