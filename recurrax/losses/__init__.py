"""Losses for structured outputs: each module is one family of pure functions."""

from recurrax.losses import crf as crf
