"""The presets: the data, the published figures with their source, and how our runs are trained."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import recurrax

CELLS = {"lstm": recurrax.LSTMCell, "gru": recurrax.GRUCell, "elman": recurrax.ElmanCell}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is made and trained. The page of the benchmarks says what chose the numbers.

    Attributes:
        hidden_size: the units of each recurrent layer.
        layers: the number of recurrent layers.
        input_dropout: the share of keys that the model does not see, drawn at each step.
        output_dropout: the share of units that the layer above does not see, drawn once a window.
        weight_drop: the share of recurrent weights that are zero, drawn once a window.
        rate: the highest learning rate of Adam; a cosine lowers it to zero.
        weight_decay: AdamW's weight decay.
        clip: gradients are scaled down to this norm.
        rows: the streams of pieces that are read side by side.
        window: the steps of one update.
        epochs: how often the training data is read.
    """

    hidden_size: int
    layers: int = 1
    input_dropout: float = 0.0
    output_dropout: float = 0.0
    weight_drop: float = 0.0
    rate: float = 5e-3
    weight_decay: float = 1e-4
    clip: float = 1.0
    rows: int = 16
    window: int = 64
    epochs: int = 100


@dataclasses.dataclass(frozen=True)
class Preset:
    """A figure that others published, and what reproduces it.

    Attributes:
        name: the name on the command line.
        title: the name of the data.
        file: the file of the data.
        sha256: the digest of that file.
        source: where the figures were published.
        measure: the unit of the figures.
        published: the figure of each cell.
        at_most: the parameters of the published models. Ours have no more.
        recipes: how ours are trained, by cell.
    """

    name: str
    title: str
    file: str
    sha256: str
    source: str
    measure: str
    published: dict[str, float]
    at_most: int
    recipes: dict[str, Recipe]

    @property
    def command(self) -> str:
        """The command that trains all runs of the table."""
        return f"python -m benchmarks.published {self.name} --data FOLDER"


class WrongDataError(ValueError):
    """The file is absent, or it is another one than the figures belong to."""


def checked_file(preset: Preset, data: Path) -> Path:
    """Returns the file of a preset, after a look at its digest.

    Args:
        preset: the preset.
        data: the file, or the folder that holds it.

    Raises:
        WrongDataError: if there is no such file, or its digest differs.
    """
    path = data
    if data.is_dir():
        path = data / preset.file
    if not path.is_file():
        raise WrongDataError(
            f"--data must be {preset.file}, or a folder that holds it; there is no file {str(path)!r}."
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != preset.sha256:
        raise WrongDataError(
            f"{str(path)!r} must have the SHA-256 {preset.sha256[:16]}…, as the data of {preset.name} has; "
            f"got {found[:16]}…. Another version of the data gives figures that cannot be compared."
        )
    return path


_BAI = "Bai et al., 2018, https://arxiv.org/abs/1803.01271, table 1"
_MEASURE = "negative log-likelihood in nats, summed over 88 keys, averaged over all steps"

JSB = Preset(
    "jsb",
    "JSB Chorales",
    "JSB_Chorales.mat",
    "ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4",
    _BAI,
    _MEASURE,
    {"lstm": 8.45, "gru": 8.43, "elman": 8.91},
    300_000,
    {
        "lstm": Recipe(200, input_dropout=0.1, output_dropout=0.5, weight_drop=0.5, rate=0.02, epochs=60),
        "gru": Recipe(240, input_dropout=0.1, output_dropout=0.5, weight_drop=0.5, rate=0.01, epochs=60),
        "elman": Recipe(240, input_dropout=0.1, output_dropout=0.3, weight_drop=0.3, rate=0.002, epochs=60),
    },
)

# There is more data, so less is dropped; windows are short, so that an epoch has many updates.
_LONG = Recipe(
    200,
    input_dropout=0.05,
    output_dropout=0.2,
    weight_drop=0.1,
    rate=0.015,
    rows=16,
    window=50,
    epochs=20,
)

NOTTINGHAM = Preset(
    "nottingham",
    "Nottingham",
    "Nottingham.mat",
    "d154f7ca2e90799dc1dc011d8fc048f2fc6ef3f7c69d974b9cf27a471634fbea",
    _BAI,
    _MEASURE,
    {"lstm": 3.29, "gru": 3.46, "elman": 4.05},
    1_000_000,
    {
        "lstm": dataclasses.replace(_LONG, hidden_size=200),
        "gru": dataclasses.replace(_LONG, hidden_size=240),
        "elman": dataclasses.replace(_LONG, hidden_size=240, rate=0.002),
    },
)

PRESETS = {preset.name: preset for preset in (JSB, NOTTINGHAM)}
