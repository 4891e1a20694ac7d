"""Features that may still change: nonlinear recurrences in parallel over time.

The import of this package registers `implementation="newton"` for `scan`.
"""

from recurrax.experimental._report import newton_report as newton_report
from recurrax.experimental.newton import Newton as Newton
from recurrax.experimental.newton import NewtonReport as NewtonReport
from recurrax.implementations._registry import register

register("newton", Newton())
