"""Writes torch.npz and haiku.npz, which the tests read where these are not installed.

pip install torch==2.13.0 dm-haiku==0.0.17, beside jax; then run this.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

T, I, H = 5, 3, 4  # noqa: E741


def in_torch() -> dict:
    import torch

    lengths = torch.tensor([4, 5, 1])
    torch.manual_seed(0)
    model = torch.nn.ModuleDict(
        {
            "encoder": torch.nn.ModuleDict({"rnn": torch.nn.RNN(I, H, 2, bidirectional=True)}),
            "decoder": torch.nn.ModuleDict({"gru": torch.nn.GRU(I, H, bidirectional=True)}),
        }
    )
    model["encoder"]["lstm"] = torch.nn.LSTM(I, H, 2, bidirectional=True, proj_size=2)
    stored = {"x": torch.randn(T, len(lengths), I), "lengths": lengths}
    stored |= {name: weight + 0.3 * torch.randn(weight.shape) for name, weight in model.state_dict().items()}
    model.load_state_dict({name: stored[name] for name in model.state_dict()})
    packed = torch.nn.utils.rnn.pack_padded_sequence(stored["x"], lengths, enforce_sorted=False)
    for path in ("encoder.rnn", "encoder.lstm", "decoder.gru"):
        ys, state = model.get_submodule(path)(packed)
        stored[f"{path}.y"] = torch.nn.utils.rnn.pad_packed_sequence(ys)[0]
        stored |= zip((f"{path}.h", f"{path}.c"), state if isinstance(state, tuple) else (state,), strict=False)
    return {name: leaf.detach().numpy() for name, leaf in stored.items()}


def in_haiku() -> dict:
    import haiku as hk

    def unroll(xs: jax.Array) -> dict:
        cores = {"lstm": hk.LSTM(H), "gru": hk.GRU(H), "vanilla_rnn": hk.VanillaRNN(H)}
        made = {}
        for name, core in cores.items():
            leaves = jax.tree.leaves(hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1])))
            made |= {f"{name}.{part}": leaf for part, leaf in zip("yhc"[: len(leaves)], leaves, strict=True)}
        return made

    model = hk.without_apply_rng(hk.transform(unroll))
    rng = np.random.default_rng(0)
    xs = rng.standard_normal((T, 2, I)).astype(np.float32)
    params = model.init(jax.random.key(0), xs)
    params = jax.tree.map(lambda p: p + 0.3 * jnp.asarray(rng.standard_normal(p.shape), p.dtype), params)
    weights = {f"{path}:{name}": leaf for path, module in params.items() for name, leaf in module.items()}
    return {"x": xs, **weights, **model.apply(params, xs)}


if __name__ == "__main__":
    for name, make in {"torch": in_torch, "haiku": in_haiku}.items():
        np.savez_compressed(Path(__file__).with_name(f"{name}.npz"), **make())
