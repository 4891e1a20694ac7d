"""The presets: the data, the published figures with their source, and how our runs are trained."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import recurrax
from examples.char_lm.config import UserError

CELLS = {"lstm": recurrax.LSTMCell, "gru": recurrax.GRUCell, "elman": recurrax.ElmanCell}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model of music is made and trained. The page of the benchmarks says what chose the numbers.

    Attributes:
        hidden_size: the units of each recurrent layer.
        layers: the number of recurrent layers.
        input_dropout: the share of keys that the model does not see, drawn at each step.
        output_dropout: the share of units that the layer above does not see, drawn once a window.
        weight_drop: the share of recurrent weights that are zero, drawn once a window.
        rate: the highest learning rate of Adam; a cosine lowers it to zero.
        weight_decay: AdamW's weight decay.
        clip: gradients are scaled down to this norm.
        average: what the scored parameters, an average, keep of themselves at each update; 0 is no average.
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
    average: float = 0.0
    rows: int = 16
    window: int = 64
    epochs: int = 100


@dataclasses.dataclass(frozen=True)
class TextRecipe:
    """How a model of characters is made and trained.

    Attributes:
        hidden_size: the units of each LSTM but the last.
        embedding_size: the numbers that stand for a character, and the units of the last LSTM. The embedding
            also makes the logits.
        layers: the number of LSTMs.
        embedding_dropout: the share of characters of the alphabet that are not seen, drawn once a window.
        input_dropout: the share of the embedding's numbers that are dropped, drawn once a window.
        layer_dropout: the share of units that the next LSTM does not see, drawn once a window.
        output_dropout: the share of units that the logits do not see, drawn once a window.
        weight_drop: the share of recurrent weights that are zero, drawn once a window.
        activation_penalty: the factor of the mean square of the last outputs.
        temporal_penalty: the factor of the mean square of their changes from step to step.
        rate: the learning rate of Adam.
        first_drop: the epoch after which the rate is a tenth of it.
        second_drop: the epoch after which the rate is a hundredth of it.
        weight_decay: the share of each weight that is added to its gradient.
        clip: gradients are scaled down to this norm.
        batch: the streams of text that are read side by side.
        window: the characters of one update.
        epochs: how often the training part is read.
    """

    # A checkpoint of an older version lacks newer fields, so each has a default.
    hidden_size: int = 1000
    embedding_size: int = 200
    layers: int = 3
    embedding_dropout: float = 0.0
    input_dropout: float = 0.0
    layer_dropout: float = 0.0
    output_dropout: float = 0.0
    weight_drop: float = 0.0
    activation_penalty: float = 0.0
    temporal_penalty: float = 0.0
    rate: float = 1e-3
    first_drop: int = 300
    second_drop: int = 400
    weight_decay: float = 1.2e-6
    clip: float = 0.25
    batch: int = 128
    window: int = 150
    epochs: int = 500


@dataclasses.dataclass(frozen=True)
class Preset:
    """A figure that others published, and what reproduces it.

    Attributes:
        name: the name on the command line.
        title: the name of the data.
        file: the file of the data.
        digest: the digest of that file, behind the name of its algorithm.
        source: where the figures were published.
        measure: the unit of the figures.
        published: the figure of each cell.
        at_most: the parameters of the published models. Ours have no more.
        recipes: how ours are trained, by cell.
    """

    name: str
    title: str
    file: str
    digest: str
    source: str
    measure: str
    published: dict[str, float]
    at_most: int
    recipes: dict[str, Any]

    @property
    def command(self) -> str:
        """The command that trains all runs of the table."""
        return f"python -m benchmarks.published {self.name} --data FOLDER"


class WrongDataError(UserError):
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
    algorithm, _, expected = preset.digest.partition(":")
    with open(path, "rb") as content:
        found = hashlib.file_digest(content, algorithm).hexdigest()
    if found != expected:
        raise WrongDataError(
            f"{str(path)!r} must have the {algorithm.upper()} {expected[:16]}…, as the data of {preset.name} has; "
            f"got {found[:16]}…, of {path.stat().st_size:,} bytes. "
            "Another version of the data gives figures that cannot be compared."
        )
    return path


_BAI = "Bai et al., 2018, https://arxiv.org/abs/1803.01271, table 1"
_MEASURE = "negative log-likelihood in nats, summed over 88 keys, averaged over all steps"

JSB = Preset(
    "jsb",
    "JSB Chorales",
    "JSB_Chorales.mat",
    "sha256:ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4",
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
    "sha256:d154f7ca2e90799dc1dc011d8fc048f2fc6ef3f7c69d974b9cf27a471634fbea",
    _BAI,
    _MEASURE,
    {"lstm": 3.29, "gru": 3.46, "elman": 4.05},
    1_000_000,
    {
        "lstm": dataclasses.replace(_LONG, rate=0.01, output_dropout=0.3, average=0.998, epochs=28),
        "gru": dataclasses.replace(_LONG, hidden_size=240, rate=0.004),
        "elman": dataclasses.replace(_LONG, hidden_size=240, rate=0.002),
    },
)

_MERITY = "Merity et al., 2018, https://arxiv.org/abs/1803.08240"
_BITS = "bits per character of the test part; fewer is better"

# The commands of the authors' repository give all numbers but the clip, which is their program's default:
# https://github.com/salesforce/awd-lstm-lm. They draw the length of each window; ours is their mean length.
PTB_CHAR = Preset(
    "ptb-char",
    "Penn Treebank, characters",
    # The archive of Mikolov's examples. PaddlePaddle's loader has its MD5.
    "simple-examples.tgz",
    "md5:30177ea32e27c525793142b6bf2c8e2d",
    _MERITY,
    _BITS,
    {"lstm": 1.175},
    13_800_000,
    {
        "lstm": TextRecipe(
            1000,
            200,
            input_dropout=0.1,
            layer_dropout=0.25,
            output_dropout=0.1,
            weight_drop=0.5,
            rate=2e-3,
            first_drop=300,
            second_drop=400,
            batch=128,
            window=150,
            epochs=500,
        )
    },
)

_WIKIPEDIA = TextRecipe(
    1840,
    400,
    input_dropout=0.1,
    layer_dropout=0.1,
    output_dropout=0.4,
    weight_drop=0.2,
    rate=1e-3,
    first_drop=25,
    second_drop=35,
    batch=128,
    window=200,
    epochs=50,
)

# The MD5 of both texts are on the page of their author: http://mattmahoney.net/dc/textdata.html.
ENWIK8 = Preset(
    "enwik8",
    "enwik8",
    "enwik8",
    "md5:a1fa5ffddb56f4953e226637dabbb36a",
    _MERITY,
    _BITS,
    {"lstm": 1.232},
    47_300_000,
    {"lstm": _WIKIPEDIA},
)

# The paper leaves text8 out. So the recipe is a guess of ours, with the sizes of the published model: a
# multiplicative LSTM with dropout and weight normalization.
TEXT8 = Preset(
    "text8",
    "text8",
    "text8",
    "md5:3bea1919949baf155f99411df5fada7e",
    "Krause et al., 2017, https://arxiv.org/abs/1609.07959, a multiplicative LSTM",
    _BITS,
    {"lstm": 1.27},
    45_000_000,
    {"lstm": dataclasses.replace(_WIKIPEDIA, hidden_size=1790)},
)

PRESETS = {preset.name: preset for preset in (JSB, NOTTINGHAM, PTB_CHAR, ENWIK8, TEXT8)}
