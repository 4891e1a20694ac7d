"""Checks of a layer's promises and of replays, and helpers for tests of layers."""

from recurrax.testing._compare import assert_close as assert_close
from recurrax.testing._compare import normal_like as normal_like
from recurrax.testing._compare import perturbed_params as perturbed_params
from recurrax.testing._compare import run_segments_apart as run_segments_apart
from recurrax.testing._compare import values_and_gradients as values_and_gradients
from recurrax.testing._contract import check_contract as check_contract
from recurrax.testing._replay import check_replay as check_replay
from recurrax.testing._replayer import Rollout as Rollout
