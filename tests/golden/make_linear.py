"""Writes linear.npz: what the linear recurrences of other packages put out, for random parameters and inputs.

pip install --no-deps recurrentgemma==1.0.1 einops "typeguard<3" absl-py mingru-pytorch==0.2.1 lru-pytorch==0.1.3
s5-pytorch==0.2.1, beside flax, jaxtyping and torch; then run this.
"""

import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np


def rg_lru(rng: np.random.Generator) -> dict:
    sys.modules["sentencepiece"] = MagicMock()  # its tokeniser, imported on the way and not needed here
    import jax
    import jax.numpy as jnp
    from recurrentgemma.jax.layers import RGLRU

    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    x, cache, positions = draw(2, 9, 6), draw(2, 6), jnp.tile(jnp.arange(9), (2, 1))
    model = RGLRU(width=6, num_heads=3)
    params = model.init(jax.random.key(0), x, positions)["params"]
    params = jax.tree.map(lambda p: p + 0.5 * draw(*p.shape), params)
    y, last = model.apply({"params": params}, x, positions + 1, cache)
    y_segments, _ = model.apply({"params": params}, x, (positions - 3) % 9, cache)  # a segment begins at step 3
    gates = {f"{gate}_{name}": p for gate in ("a_gate", "input_gate") for name, p in params[gate].items()}
    return {
        "x": x,
        "cache": cache,
        "y": y,
        "last": last,
        "y_segments": y_segments,
        "a_param": params["a_param"],
    } | gates


def of_torch(model, x) -> dict:
    import torch

    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn_like(p)
        return {"x": x, "y": model(x)} | {name.rpartition(".")[2]: p for name, p in model.state_dict().items()}


def main() -> None:
    import torch
    from LRU_pytorch import LRU
    from minGRU_pytorch.minGRU import minGRU
    from minGRU_pytorch.minLSTM import minLSTM
    from s5 import S5

    torch.manual_seed(0)
    golden = {
        "rg_lru": rg_lru(np.random.default_rng(0)),
        "min_gru": of_torch(minGRU(4), torch.randn(2, 9, 4)),
        "min_lstm": of_torch(minLSTM(4), torch.randn(2, 9, 4)),
        "lru": of_torch(LRU(4, 3, 5), torch.randn(2, 9, 4)),
        "s5": of_torch(S5(4, 6, dt_min=0.1, dt_max=1.0), torch.randn(2, 9, 4)),
    }
    arrays = {f"{cell}.{name}": np.asarray(a) for cell, group in golden.items() for name, a in group.items()}
    np.savez_compressed(Path(__file__).parent / "linear.npz", **arrays)


if __name__ == "__main__":
    main()
