"""Dates as people write them become ISO dates: an encoder and a decoder with attention.

    python -m examples.seq2seq train                     # learns, in a minute or two
    python -m examples.seq2seq translate --text "Thursday, 24 November 2026"
    python -m examples.seq2seq evaluate                  # scores the dates of the test part
    python -m examples.seq2seq resume                    # continues a stopped run

Read `model.py` for the network and `train.py` for how it learns. The other files serve these two:

- `config.py` holds every setting.
- `dates.py` writes dates in many forms, and numbers their characters.
- `run.py` keeps the run folder.
- `plot.py` draws the curves and the attention.
- `__main__.py` is the command line.

The settings alone decide a run, because the dates are made on the spot. A run that was stopped or
killed can be resumed, and ends bit for bit as a run without a stop. The command line, the run
folder and the optimizer are those of `examples.char_lm`.
"""

# It checks that the libraries of the examples are installed.
import examples.char_lm as _char_lm  # noqa: F401
