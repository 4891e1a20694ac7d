"""Decoding: sampling and beam search. The closed loop itself is `recurrax.unroll`."""

from recurrax.decoding._beam_search import Beams as Beams
from recurrax.decoding._beam_search import beam_search as beam_search
from recurrax.decoding._generate import Generated as Generated
from recurrax.decoding._generate import generate as generate
from recurrax.decoding._samplers import keep_min_p as keep_min_p
from recurrax.decoding._samplers import keep_top_k as keep_top_k
from recurrax.decoding._samplers import keep_top_p as keep_top_p
from recurrax.decoding._samplers import penalize_repetition as penalize_repetition
from recurrax.decoding._samplers import scale_temperature as scale_temperature
