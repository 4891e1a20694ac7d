"""A character-level language model: a recurrent network that learns a text one character at a time.

    python -m examples.char_lm train                     # learns the Python standard library's own source
    python -m examples.char_lm sample --prompt "class "  # writes on
    python -m examples.char_lm resume                    # goes on where a stopped run was

Read `model.py` for the network and `train.py` for how it learns. Around them: `config.py` holds every setting,
`data.py` turns files into numbers, `run.py` keeps the run folder, `sample.py` writes text, `plot.py` draws the curves,
and `__main__.py` is the command line.

A run is a function of its settings and its text alone, as what happens in a step follows from the step's number: a run
that was stopped, or killed, and resumed ends bit for bit where it would have ended anyway. (On a GPU, add
`XLA_FLAGS=--xla_gpu_deterministic_ops=true`: there, the order of a sum may differ between two runs.)
"""

import importlib.util

for _name in ("optax", "orbax", "rich", "matplotlib"):
    if importlib.util.find_spec(_name) is None:
        _hint = "Install it by: pip install 'recurrax[examples]'"
        raise ImportError(f"this needs {_name}, which is not installed. {_hint}")
