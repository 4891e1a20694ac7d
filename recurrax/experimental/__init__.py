"""What may still change: nonlinear recurrences in parallel over time.

Importing this package makes `implementation="newton"` known to `scan`.
"""

from recurrax.experimental._report import newton_report as newton_report
from recurrax.experimental.newton import Newton as Newton
from recurrax.experimental.newton import NewtonReport as NewtonReport
from recurrax.implementations._registry import register

register("newton", Newton())
