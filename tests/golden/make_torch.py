"""Writes torch.npz, which the tests read where PyTorch is not installed: `python tests/golden/make_torch.py`."""

from pathlib import Path

import numpy as np
import torch

T, I, H = 5, 3, 4  # noqa: E741
LENGTHS = torch.tensor([4, 5, 1])


def main() -> None:
    torch.manual_seed(0)
    model = torch.nn.ModuleDict(
        {
            "encoder": torch.nn.ModuleDict({"rnn": torch.nn.RNN(I, H, 2, bidirectional=True)}),
            "decoder": torch.nn.ModuleDict({"gru": torch.nn.GRU(I, H, bidirectional=True)}),
        }
    )
    model["encoder"]["lstm"] = torch.nn.LSTM(I, H, 2, bidirectional=True, proj_size=2)
    stored = {"x": torch.randn(T, len(LENGTHS), I), "lengths": LENGTHS}
    stored |= {name: weight + 0.3 * torch.randn(weight.shape) for name, weight in model.state_dict().items()}
    model.load_state_dict({name: stored[name] for name in model.state_dict()})
    packed = torch.nn.utils.rnn.pack_padded_sequence(stored["x"], LENGTHS, enforce_sorted=False)
    for path in ("encoder.rnn", "encoder.lstm", "decoder.gru"):
        ys, state = model.get_submodule(path)(packed)
        stored[f"{path}.y"] = torch.nn.utils.rnn.pad_packed_sequence(ys)[0]
        stored |= zip((f"{path}.h", f"{path}.c"), state if isinstance(state, tuple) else (state,), strict=False)
    arrays = {name: leaf.detach().numpy() for name, leaf in stored.items()}
    np.savez_compressed(Path(__file__).with_name("torch.npz"), **arrays)


if __name__ == "__main__":
    main()
