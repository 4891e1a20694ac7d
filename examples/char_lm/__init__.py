"""A character-level language model: a recurrent network learns a text one character at a time.

    python -m examples.char_lm train                     # learns the source of Python's library
    python -m examples.char_lm sample --prompt "class "  # writes a text that begins so
    python -m examples.char_lm sample --prompts FILE --samples 3  # several texts, side by side
    python -m examples.char_lm resume                    # continues a stopped run
    python -m examples.char_lm report                    # describes a run in one HTML file

Read `model.py` for the network and `train.py` for how it learns. The other files serve these two:

- `config.py` holds every setting.
- `data.py` turns files into numbers.
- `loop.py` repeats the steps of a training, and `stop.py` lets a signal stop it.
- `devices.py` places arrays on several devices, and lets several processes agree.
- `run.py` keeps the run folder, with `checkpoint.py`, `log.py`, `lock.py` and `files.py`.
- `sample.py` writes text.
- `expect.py` says what to expect before a training, and `machine.py` how fast it was.
- `report.py` writes the report into the template `report.html`, and `plot.py` draws the pictures.
- `events.py` writes the log for TensorBoard.
- `__main__.py` is the command line, and `command.py` are its parts that other programs share.

The settings and the text alone decide a run, because all randomness in a step follows from the
seed and the step's number. A run that was stopped or killed, at any instant, can be resumed. It
ends bit for bit as a run without a stop. On a GPU the order of a sum may differ between two runs,
so add `XLA_FLAGS=--xla_gpu_deterministic_ops=true` there.

The exit codes: 0 at the end; 2 with a message about a fault that you can mend; 130 after Ctrl-C; 75
after SIGTERM. The last two have saved everything. A scheduler that sends SIGTERM, such as Slurm,
can read 75 as "start `resume` again". After a kill, the last checkpoint is there.

`python -m tests.fault_injection` kills the program fifty times and compares the results.
"""

import importlib.util

# The package itself does not need these, so a user may not have them.
for _name in ("optax", "safetensors", "rich", "matplotlib"):
    if importlib.util.find_spec(_name) is None:
        _hint = "Install it by: pip install 'recurrax[examples]'"
        raise ImportError(f"this needs {_name}, which is not installed. {_hint}")
