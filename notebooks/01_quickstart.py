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
# A recurrent network is a pure function of a sequence and a state. A **cell** computes one step.
# The function **`scan`** applies the cell to each step of the sequence in turn. A Flax module only
# holds the parameters.
#
# To open this file as a notebook, run `jupytext --to ipynb notebooks/01_quickstart.py`.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from flax import nnx

import recurrax
from recurrax import nnx as rnn

# %% [markdown]
# ## A cell and a scan
#
# A cell holds no arrays. Its method `init` draws the parameters, and `scan` takes them as an
# argument.

# %%
cell = recurrax.LSTMCell(32)
params = cell.init(jax.random.key(0), input_size=2)
print(cell, "has", recurrax.num_params(cell, input_size=2), "parameters")

# %%
xs = jax.random.normal(jax.random.key(1), (4, 50, 2))  # [B, T, I]
state, ys = recurrax.scan(cell, params, xs)
print("outputs", ys.shape, "state", state.h.shape, state.c.shape)

# %% [markdown]
# Sequences of different lengths need no packing. The final state of a sequence is its state after
# the last step within its length. In the padding, the outputs are zero.

# %%
lengths = jnp.array([50, 30, 10, 0])
state, ys = recurrax.scan(cell, params, xs, lengths=lengths)

fig, axis = plt.subplots(figsize=(8, 2.2))
axis.imshow(jnp.abs(ys).mean(-1), aspect="auto", cmap="viridis")
axis.set(title="mean |output|: zero in the padding")
axis.set(xlabel="step", ylabel="sequence", yticks=range(4))
plt.show()

# %% [markdown]
# The function `step` is a scan over one step. A stream that is read step by step therefore gives
# the same numbers.

# %%
_, ys = recurrax.scan(cell, params, xs)

state = cell.initial_state((4,))
for t in range(50):
    state, y = recurrax.step(cell, params, xs[:, t], state)
difference = jnp.abs(y - ys[:, -1]).max()
print("largest difference at the last step:", float(difference))

# %% [markdown]
# ## Something to learn: the adding problem
#
# Each sequence has a row of random numbers and a row of flags. Two of the flags are 1. The answer
# is the sum of the two flagged numbers, so the network must remember one of them for many steps
# (Hochreiter and Schmidhuber, 1997). A network that always answers 1 has a mean squared error of
# 0.167.


# %%
def adding_problem(key, batch=64, steps=50):
    """Draws `[B, T, 2]` inputs and `[B]` answers."""
    values_key, first_key, second_key = jax.random.split(key, 3)
    values = jax.random.uniform(values_key, (batch, steps))
    # One flag stands in each half of the sequence.
    half = steps // 2
    first = jax.random.randint(first_key, (batch,), 0, half)
    second = jax.random.randint(second_key, (batch,), half, steps)
    flags = jax.nn.one_hot(first, steps) + jax.nn.one_hot(second, steps)
    xs = jnp.stack([values, flags], axis=-1)
    return xs, (values * flags).sum(axis=-1)


class Adder(nnx.Module):
    """A recurrent layer, and a linear layer that reads its last output."""

    def __init__(self, layer, rngs):
        # `Recurrent` holds the parameters of any layer of the core.
        self.rnn = rnn.Recurrent(layer, 2, rngs=rngs)
        self.head = nnx.Linear(layer.output_size(2), 1, rngs=rngs)

    def __call__(self, xs):
        ys, _ = self.rnn(xs)
        return self.head(ys[:, -1])[:, 0]


# %% [markdown]
# Each training step draws new sequences, so the loss is measured on sequences that the network has
# not seen.


# %%
@nnx.jit
def train_step(model, optimizer, key):
    xs, answers = adding_problem(key)

    def loss_of(model):
        return jnp.mean((model(xs) - answers) ** 2)

    loss, grads = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, grads)
    return loss


def train(layer, steps=600):
    """Returns the losses of a run, averaged over every 20 training steps."""
    model = Adder(layer, nnx.Rngs(0))
    # Clipping keeps a single large gradient from undoing the training.
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(5e-3))
    optimizer = nnx.Optimizer(model, adam, wrt=nnx.Param)
    losses = []
    for key in jax.random.split(jax.random.key(2), steps):
        losses.append(train_step(model, optimizer, key))
    return jnp.array(losses).reshape(-1, 20).mean(axis=1)


# %% [markdown]
# Layers are made of layers: a `Stack` runs its parts one after another, and `Residual` adds a
# layer's input to its output.

# %%
gru = recurrax.GRUCell(32)
curves = {
    "Elman": train(recurrax.ElmanCell(32)),
    "LSTM": train(recurrax.LSTMCell(32)),
    "GRU": train(gru),
    "2 GRUs, residual": train(recurrax.Stack((gru, recurrax.Residual(gru)))),
}

# %%
fig, axis = plt.subplots(figsize=(8, 3))
for name, curve in curves.items():
    axis.plot(jnp.arange(len(curve)) * 20, curve, label=name)
axis.axhline(1 / 6, color="grey", linestyle=":", label="always 1")
axis.set(title="the adding problem, 50 steps")
axis.set(xlabel="training step", ylabel="mean squared error", yscale="log")
axis.legend()
plt.show()

# %%
best = min(float(curve[-1]) for curve in curves.values())
assert best < 0.02, "none of the networks learned to add"

# %% [markdown]
# ## PyTorch's layers
#
# `RNN`, `LSTM` and `GRU` take the arguments of `torch.nn`, in the same order and with the same
# defaults. They return the same shapes.

# %%
lstm = rnn.LSTM(16, 32, num_layers=2, bidirectional=True, dropout=0.1, rngs=nnx.Rngs(0))
output, (h, c) = lstm(jnp.ones((10, 4, 16)))  # [T, B, I]
print(output.shape, h.shape, c.shape)

# %% [markdown]
# Read on in [the guide](../docs/guide.md), or in
# [the example program](../examples/char_lm).
