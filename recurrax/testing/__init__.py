"""What a layer must satisfy, and what tests of layers need."""

from recurrax.testing._compare import assert_close as assert_close
from recurrax.testing._compare import noise as noise
from recurrax.testing._compare import perturbed_params as perturbed_params
from recurrax.testing._compare import pull as pull
from recurrax.testing._compare import run_apart as run_apart
from recurrax.testing._contract import check_contract as check_contract
