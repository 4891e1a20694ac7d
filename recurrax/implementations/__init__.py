"""The ways to run a layer over a sequence, one in each file.

`scan` takes the name of an implementation, or an object with options.
"""

from recurrax._mask import Steps as Steps
from recurrax.implementations._registry import Implementation as Implementation
from recurrax.implementations._registry import available as available
from recurrax.implementations._registry import register as register
from recurrax.implementations.matrix_memory import Chunked as Chunked
from recurrax.implementations.time_sharded import TimeSharded as TimeSharded
