"""A tagger of characters: a bidirectional LSTM, with or without a CRF, finds spans in a text.

    python -m examples.tagger train                        # learns the tokens of Python's source
    python -m examples.tagger train --data peoples-daily   # learns names in a Chinese newspaper
    python -m examples.tagger evaluate                     # scores it by type of span
    python -m examples.tagger tag --text "x = 1"           # shows what it finds
    python -m examples.tagger resume                       # continues a stopped run
    python -m examples.tagger compare --data peoples-daily # with and without the CRF, three seeds

Read `model.py` for the network and `train.py` for how it learns. The other files serve these two:

- `config.py` holds every setting.
- `peoples_daily.py`, `python_source.py` and `conll.py` read one kind of data each, into the records
  of `sentences.py`.
- `data.py` turns sentences into numbers and batches.
- `spans.py` turns labels into spans, and counts them.
- `run.py` keeps the run folder.
- `show.py` and `plot.py` show texts, tables and the picture.
- `compare.py` trains and scores several runs.
- `__main__.py` is the command line.

As in `examples.char_lm`, the settings and the data alone decide a run. A run that was stopped or
killed can be resumed, and ends bit for bit as a run without a stop.
"""

# The same optional packages are needed, and this import asks for them.
import examples.char_lm  # noqa: F401
