"""Losses over sequences of labels, and the decoders that belong to them.

Each module is one family of pure functions.
"""

from recurrax.losses import crf as crf
from recurrax.losses import ctc as ctc
from recurrax.losses import transducer as transducer
from recurrax.losses._labels import Decoded as Decoded
