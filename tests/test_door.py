"""What `import recurrax` brings, and what loads on first use."""

import subprocess
import sys

import pytest

import recurrax as rx

SCRIPT = """
import sys
import recurrax

for name in ("flax", "optax", "chex", "recurrax.interop", "recurrax.nnx"):
    assert name not in sys.modules, f"`import recurrax` has imported {name}"
for name in recurrax._SUBPACKAGES:
    assert getattr(recurrax, name).__name__ == f"recurrax.{name}"
    assert name in dir(recurrax)
recurrax.interop.from_torch, recurrax.nnx.LSTM, recurrax.linen.GRU, recurrax.keras.LSTM
"""


def test_subpackages_load_on_first_use() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], check=True)


def test_the_door_is_small() -> None:
    public = [name for name in vars(rx) if not name.startswith("_")]
    classes = [name for name in public if isinstance(getattr(rx, name), type)]
    functions = [name for name in public if callable(getattr(rx, name)) and name not in classes]
    assert not [name for name in classes if name.endswith(("Params", "State")) and name != "LearnedInitialState"]
    assert len(classes) + len(functions) <= 72


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("LSTMState", "It is recurrax.cells.LSTMState."),
        ("Directions", "It is recurrax.layers.Directions."),
        ("LSTM", "recurrax.nnx.LSTM"),
    ],
)
def test_a_name_that_is_elsewhere_is_told(name: str, hint: str) -> None:
    with pytest.raises(AttributeError, match=hint):
        getattr(rx, name)
