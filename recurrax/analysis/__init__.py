"""Looks into a layer: its states and gates, dynamics, gradients over time, and pictures of them.

Everything here takes any layer that `step` takes, a cell of your own included. The pictures need
matplotlib: `pip install 'recurrax[analysis]'`.
"""

from recurrax.analysis._fixed_points import FixedPoints as FixedPoints
from recurrax.analysis._fixed_points import fixed_points as fixed_points
from recurrax.analysis._gradients import gradient_by_distance as gradient_by_distance
from recurrax.analysis._jacobian import step_jacobian as step_jacobian
from recurrax.analysis._lyapunov import lyapunov_spectrum as lyapunov_spectrum
from recurrax.analysis._pictures import plot_gates as plot_gates
from recurrax.analysis._pictures import plot_gradients as plot_gradients
from recurrax.analysis._pictures import plot_saturation as plot_saturation
from recurrax.analysis._pictures import plot_trajectories as plot_trajectories
from recurrax.analysis._pictures import plot_units as plot_units
from recurrax.analysis._principal_components import PrincipalComponents as PrincipalComponents
from recurrax.analysis._principal_components import principal_components as principal_components
from recurrax.analysis._saturation import Saturation as Saturation
from recurrax.analysis._saturation import gate_saturation as gate_saturation
from recurrax.analysis._text import text_ansi as text_ansi
from recurrax.analysis._text import text_features as text_features
from recurrax.analysis._text import text_html as text_html
from recurrax.analysis._trace import CellTrace as CellTrace
from recurrax.analysis._trace import Trace as Trace
from recurrax.analysis._trace import trace as trace
from recurrax.analysis._units import UnitCorrelations as UnitCorrelations
from recurrax.analysis._units import find_units as find_units
from recurrax.analysis._vector import flatten_state as flatten_state
from recurrax.analysis._vector import unflatten_state as unflatten_state
