# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # recurrax in ten minutes
#
# A recurrent network is a pure function of a sequence and a state. A **cell** says how one step works; **`scan`** is
# the only thing that walks time; a Flax module only holds the parameters.
#
# Open this file as a notebook with `jupytext --to ipynb notebooks/01_quickstart.py`.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from flax import nnx

import recurrax
from recurrax import nnx as rnn

# %% [markdown]
# ## A cell and the driver
#
# A cell holds no arrays. It draws parameters, and `scan` takes it along a sequence.

# %%
cell = recurrax.LSTMCell(32)
params = cell.init(jax.random.key(0), input_size=2)
print(cell, "has", recurrax.num_params(cell, input_size=2), "parameters")

xs = jax.random.normal(jax.random.key(1), (4, 50, 2))  # [B, T, I]
state, ys = recurrax.scan(cell, params, xs)
print("outputs", ys.shape, "state", state.h.shape, state.c.shape)

# %% [markdown]
# Sequences of different lengths need no packing. The final state is that after the last real step.

# %%
lengths = jnp.array([50, 30, 10, 0])
state, ys = recurrax.scan(cell, params, xs, lengths=lengths)

fig, axis = plt.subplots(figsize=(8, 2.2))
axis.imshow(jnp.abs(ys).mean(-1), aspect="auto", cmap="viridis")
axis.set(title="mean |output|: zero in the padding", xlabel="step", ylabel="sequence", yticks=range(4))
plt.show()

# %% [markdown]
# One step is a scan over one step, so streaming gives the same numbers.

# %%
_, whole = recurrax.scan(cell, params, xs)
state = cell.initial_state((4,))
for t in range(50):
    state, y = recurrax.step(cell, params, state, xs[:, t])
print("largest difference at the last step:", float(jnp.abs(y - whole[:, -1]).max()))

# %% [markdown]
# ## Something to learn: the adding problem
#
# Each sequence has a row of random numbers and a row of flags, two of which are 1. The answer is the sum of the two
# flagged numbers, so the network must remember one of them for long (Hochreiter and Schmidhuber, 1997). Answering 1
# always gives a mean squared error of 0.167.


# %%
def adding(key, batch=64, steps=50):
    """`[B, T, 2]` inputs and `[B]` answers."""
    values, first, second = jax.random.split(key, 3)
    values = jax.random.uniform(values, (batch, steps))
    half = steps // 2
    marks = jax.nn.one_hot(jax.random.randint(first, (batch,), 0, half), steps)
    marks += jax.nn.one_hot(jax.random.randint(second, (batch,), half, steps), steps)
    return jnp.stack([values, marks], axis=-1), (values * marks).sum(axis=-1)


class Adder(nnx.Module):
    """Any layer of the core, and a linear read-out of its last output."""

    def __init__(self, layer, rngs):
        self.rnn = rnn.Recurrent(layer, 2, rngs=rngs)
        self.head = nnx.Linear(layer.output_size(2), 1, rngs=rngs)

    def __call__(self, x):
        output, _ = self.rnn(x)
        return self.head(output[:, -1])[:, 0]


@nnx.jit
def train_step(model, optimizer, key):
    x, answer = adding(key)
    loss, grads = nnx.value_and_grad(lambda model: jnp.mean((model(x) - answer) ** 2))(model)
    optimizer.update(model, grads)
    return loss


def train(layer, steps=600):
    """Losses of a run, averaged over every 20 training steps."""
    model = Adder(layer, nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.chain(optax.clip_by_global_norm(1.0), optax.adam(5e-3)), wrt=nnx.Param)
    losses = [train_step(model, optimizer, key) for key in jax.random.split(jax.random.key(2), steps)]
    return jnp.array(losses).reshape(-1, 20).mean(axis=1)


# %%
curves = {
    "Elman": train(recurrax.ElmanCell(32)),
    "LSTM": train(recurrax.LSTMCell(32)),
    "GRU": train(recurrax.GRUCell(32)),
    "2 GRUs, residual": train(recurrax.Stack((recurrax.GRUCell(32), recurrax.Residual(recurrax.GRUCell(32))))),
}

fig, axis = plt.subplots(figsize=(8, 3))
for name, curve in curves.items():
    axis.plot(jnp.arange(len(curve)) * 20, curve, label=name)
axis.axhline(1 / 6, color="grey", linestyle=":", label="always 1")
axis.set(title="the adding problem, 50 steps", xlabel="training step", ylabel="mean squared error", yscale="log")
axis.legend()
plt.show()

# %%
assert min(float(curve[-1]) for curve in curves.values()) < 0.02, "none of them learnt to add"

# %% [markdown]
# ## PyTorch's layers
#
# `RNN`, `LSTM` and `GRU` take `torch.nn`'s arguments, in its order and with its defaults, and return its shapes.

# %%
lstm = rnn.LSTM(16, 32, num_layers=2, bidirectional=True, dropout=0.1, rngs=nnx.Rngs(0))
output, (h, c) = lstm(jnp.ones((10, 4, 16)))  # [T, B, I]
print(output.shape, h.shape, c.shape)

# %% [markdown]
# From here: [the guide](../docs/guide.md) and [the example program](../examples/char_lm).
