"""Music for a piano: a recurrent network learns pieces, continues them, and writes MIDI files.

    python -m examples.music train                # learns pieces that the program makes itself
    python -m examples.music train --data FOLDER  # learns MIDI files, or a .mat file
    python -m examples.music compose              # continues a piece: a picture and a MIDI file
    python -m examples.music resume               # continues a stopped run

Read `model.py` for the network and `train.py` for how it learns. The other files serve these two:

- `config.py` holds every setting.
- `pieces.py` reads pieces, and makes batches of them.
- `harmony.py` composes pieces by rules, so that the program runs without any file.
- `midi.py` reads and writes MIDI files.
- `run.py` keeps the run folder.
- `plot.py` draws the curves and the piano roll.
- `__main__.py` is the command line.

The settings and the pieces alone decide a run. A run that was stopped or killed can be resumed, and
ends bit for bit as a run without a stop. The command line, the run folder and the optimizer are
those of `examples.char_lm`.
"""

# It checks that the libraries of the examples are installed.
import examples.char_lm as _char_lm  # noqa: F401
