"""Recurrent reinforcement learning: resets, stored states, sequences with a burn-in."""

from recurrax.rl._sequences import burn_in as burn_in
from recurrax.rl._sequences import cut_sequences as cut_sequences
from recurrax.rl._sequences import dones_to_resets as dones_to_resets
