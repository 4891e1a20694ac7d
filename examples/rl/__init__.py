"""Recurrent PPO on two tasks that need a memory: repeat-previous and the T-maze.

    python -m examples.rl compare                        # a GRU against a feed-forward policy
    python -m examples.rl train --task maze --policy gru # one run

All of it is in `ppo.py`: the tasks, the agent, and how it learns. `__main__.py` is the command
line, and it draws the picture. The settings and the seed alone decide a run.
"""

# It checks that the libraries of the examples are installed.
import examples.char_lm as _char_lm  # noqa: F401
