"""What happens inside of a recurrent network."""

from recurrax.analysis._trace import CellTrace as CellTrace
from recurrax.analysis._trace import Trace as Trace
from recurrax.analysis._trace import trace as trace
