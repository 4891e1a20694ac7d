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
# # Gradients that vanish and explode
#
# A network learns from a step that lies d steps back only if a gradient comes that far. You will
# see four pictures:
#
# - how the gradient of an Elman network vanishes or explodes with its recurrent weights,
# - how far the gradient comes in a GRU and in an LSTM, and what the forget bias does,
# - what this means for training: the same task with three forget biases,
# - a cliff in the loss, and how clipping keeps the weights from falling off.

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import recurrax
from recurrax import analysis

# %% [markdown]
# ## The gradient is a product
#
# The state of an Elman network is h_t = tanh(x_t W + h_{t-1} U). Its derivative by the state d
# steps before is a product of d matrices, U times the slope of tanh. The slope is at most 1. If U
# shrinks all vectors, the product **vanishes**. If U enlarges some of them, it may **explode**.
#
# U is an orthogonal matrix times a gain g here. Such a matrix makes every vector g times as long.
# `gradient_by_distance` returns the norm of the gradient at each distance.

# %%
H, features, T = 32, 8, 101
# Small inputs keep tanh near its slope of 1.
xs = 0.1 * jax.random.normal(jax.random.key(0), (8, T, features))  # [B, T, I]

elman = recurrax.ElmanCell(H)
drawn = elman.init(jax.random.key(1), features)
norms = {}
for gain in (0.8, 0.95, 1.0, 1.05, 1.3):
    params = drawn._replace(recurrent_kernel=gain * drawn.recurrent_kernel)
    norms[f"gain {gain}"] = analysis.gradient_by_distance(elman, params, xs)

for name, norm in norms.items():
    mean = norm.mean(axis=0)  # [T]
    print(f"{name:10s} left after 100 steps: {float(mean[100] / mean[0]):.1e}")

# %%
figure, axis = plt.subplots(figsize=(7, 4))
analysis.plot_gradients(norms, axes=axis)
axis.set(title="Elman networks: gradient by distance")
plt.show()

# %% [markdown]
# For a gain below 1, the line falls by the factor g at every step. After 100 steps with the gain
# 0.8, nothing is left that float32 can add to a weight. With the gain 1.05 the line still falls,
# since the slope of tanh is below 1. With the gain 1.3 it rises: the gradient explodes.
#
# Without the tanh nothing bends the line. The gradient then grows by the factor g for ever:

# %%
linear = recurrax.ElmanCell(H, jnp.positive)
exploding = {}
for gain in (0.9, 1.0, 1.1):
    params = drawn._replace(recurrent_kernel=gain * drawn.recurrent_kernel)
    exploding[f"linear, gain {gain}"] = analysis.gradient_by_distance(linear, params, xs)
growth = exploding["linear, gain 1.1"].mean(axis=0)
print(f"100 steps: {float(growth[100] / growth[0]):.4g}, and 1.1 ** 100 is {1.1**100:.4g}")
assert np.isclose(float(growth[100] / growth[0]), 1.1**100, rtol=1e-3)

# %% [markdown]
# ## Gates keep the gradient
#
# An LSTM adds to its memory: c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t. On this path a step multiplies the
# gradient by the forget gate f_t, and not by a matrix. A forget gate near 1 keeps nearly all of
# it. The **forget bias** sets where the gate begins: σ(0) = 0.5, σ(1) = 0.73 (the default),
# σ(3) = 0.95, and σ(5) = 0.993. The update gate of a GRU begins at 0.5, so a new GRU forgets as
# fast as an LSTM with forget bias 0.

# %%
key, gru, lstm = jax.random.key(3), recurrax.GRUCell(H), recurrax.LSTMCell(H)
networks = {"Elman": (elman, elman.init(key, features)), "GRU": (gru, gru.init(key, features))}
# The forget bias acts in `init` alone. So one LSTM takes the parameters of each of them.
for bias in (0.0, 1.0, 3.0, 5.0):
    drawn = recurrax.LSTMCell(H, forget_bias=bias).init(key, features)
    networks[f"LSTM, forget bias {bias:.0f}"] = (lstm, drawn)

inputs = jax.random.normal(jax.random.key(2), (8, T, features))
norms, left = {}, {}
for name, (layer, params) in networks.items():
    norms[name] = analysis.gradient_by_distance(layer, params, inputs)
    mean = norms[name].mean(axis=0)
    left[name] = float(mean[100] / mean[0])
    print(f"{name:20s} left after 100 steps: {left[name]:.1e}")

# %%
figure, axis = plt.subplots(figsize=(7, 4))
analysis.plot_gradients(norms, axes=axis)
axis.set(title="before training: gradient by distance", ylim=(1e-20, 10))
plt.show()

# %%
assert left["LSTM, forget bias 3"] > 1e4 * left["LSTM, forget bias 1"]
assert left["LSTM, forget bias 1"] > 1e6 * left["LSTM, forget bias 0"]

# %% [markdown]
# ## What it means for training
#
# The first input of a sequence is +1 or -1, and noise follows. After 40 steps the network must say
# which it was. A guess has the loss log 2 = 0.69. Every network gets 150 training steps.


# %%
def first_sign(key, batch=32, steps=40):
    """Draws `[B, T, 1]` inputs, and `[B]` answers: whether the first input is +1."""
    sign_key, noise_key = jax.random.split(key)
    answers = jax.random.bernoulli(sign_key, shape=(batch,))
    xs = 0.3 * jax.random.normal(noise_key, (batch, steps, 1))
    return xs.at[:, 0, 0].set(jnp.where(answers, 1.0, -1.0)), answers


adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))


@functools.partial(jax.jit, static_argnames="layer")
def train_step(layer, weights, state, key):
    xs, answers = first_sign(key)

    def loss_of(weights):
        _, ys = recurrax.scan(layer, weights["layer"], xs)
        logits = ys[:, -1] @ weights["head"]  # [B]
        return optax.sigmoid_binary_cross_entropy(logits, answers).mean()

    loss, grads = jax.value_and_grad(loss_of)(weights)
    updates, state = adam.update(grads, state)
    return optax.apply_updates(weights, updates), state, loss


def train(layer, params):
    """Returns the losses of 150 training steps."""
    weights = {"layer": params, "head": jnp.ones(24) / 24}
    state, losses = adam.init(weights), []
    for key in jax.random.split(jax.random.key(5), 150):
        weights, state, loss = train_step(layer, weights, state, key)
        losses.append(loss)
    return np.array(losses)


# %%
small, key = recurrax.ElmanCell(24), jax.random.key(4)
curves = {"Elman": train(small, small.init(key, 1))}
lstm = recurrax.LSTMCell(24)
for bias in (0.0, 1.0, 3.0):
    begin = recurrax.LSTMCell(24, forget_bias=bias).init(key, 1)
    curves[f"LSTM, forget bias {bias:.0f}"] = train(lstm, begin)
for name, losses in curves.items():
    print(f"{name:20s} mean loss of the last 20 training steps: {losses[-20:].mean():.3f}")

# %%
figure, axis = plt.subplots(figsize=(7, 3.4))
for name, losses in curves.items():
    axis.plot(losses, label=name)
axis.axhline(np.log(2), color="grey", linestyle=":", label="a guess")
axis.set(title="remember one sign for 40 steps", xlabel="training step", ylabel="loss")
axis.legend(fontsize=8, loc="center right", bbox_to_anchor=(1, 0.68))
plt.show()

# %% [markdown]
# Where nothing of the gradient is left, nothing is learned. The Elman network learns this task: its
# recurrent kernel begins orthogonal, so its gradient vanishes slowly.

# %%
assert curves["LSTM, forget bias 3"][-20:].mean() < 0.3
assert curves["LSTM, forget bias 0"][-20:].mean() > 0.5

# %% [markdown]
# ## A cliff, and clipping
#
# A unit h' = σ(w h + b) is the smallest recurrent network. It runs for 50 steps from h = 0.5, and
# w h + b must end at 0.7. Pascanu et al. (2013) draw its loss. It has a cliff at the line
# b = -w / 2. On one side the state goes up to a memory, and on the other side down to another. On
# the cliff the gradient is huge, and one step of gradient descent throws the weights far away.

# %%
unit = recurrax.ElmanCell(1, jax.nn.sigmoid)
no_input = jnp.zeros((50, 1))  # [T, I]


@jax.jit
def cliff_loss(point):
    w, b = point
    params = recurrax.cells.ElmanParams(jnp.zeros((1, 1)), w.reshape(1, 1), b.reshape(1))
    state, _ = recurrax.scan(unit, params, no_input, recurrax.cells.ElmanState(0.5 * jnp.ones(1)))
    return jnp.sum((w * state.h + b - 0.7) ** 2)


slope = jax.jit(jax.grad(cliff_loss))
ws, bs = jnp.linspace(2.5, 5.5, 60), jnp.linspace(-3.5, -1, 60)
grid = jnp.stack(jnp.meshgrid(ws, bs, indexing="ij"), axis=-1).reshape(-1, 2)
surface = jax.vmap(cliff_loss)(grid).reshape(60, 60)
norms = jnp.linalg.norm(jax.vmap(slope)(grid), axis=-1)
print(f"norm of the gradient: typical {jnp.median(norms):.2g}, largest {norms.max():.3g}")

# %% [markdown]
# Two runs of gradient descent begin at the same point near the cliff. One clips the gradient at
# a norm of 1.


# %%
def descend(theta, start=(4.5, -2.0), steps=100, learning_rate=0.02):
    """Returns the points `[steps + 1, 2]` of gradient descent."""
    clip = optax.clip_by_global_norm(theta)
    point = jnp.array(start)
    path = [point]
    for _ in range(steps):
        grads, _ = clip.update(slope(point), optax.EmptyState())
        point = point - learning_rate * grads
        path.append(point)
    return np.array(path)


wild, tame = descend(theta=jnp.inf), descend(theta=1.0)
longest = {}
for name, path in (("not clipped", wild), ("clipped at 1", tame)):
    longest[name] = float(np.linalg.norm(np.diff(path, axis=0), axis=1).max())
    last = float(cliff_loss(jnp.array(path[-1])))
    print(f"{name:12s} longest step {longest[name]:.2f}, loss at the end {last:.4f}")

# %%
figure, axis = plt.subplots(figsize=(7, 4))
mesh = axis.pcolormesh(ws, bs, surface.T, cmap="Greys", norm="log", vmin=1e-3, rasterized=True)
figure.colorbar(mesh, label="loss")
axis.plot(*wild.T, marker="o", markersize=3, color="tab:red", label="not clipped")
axis.plot(*tame.T, marker="o", markersize=3, color="tab:blue", label="clipped at 1")
axis.set(title="the cliff of a recurrent unit", xlabel="weight w", ylabel="bias b")
axis.set(xlim=(ws[0], ws[-1]), ylim=(bs[0], bs[-1]))
axis.legend(loc="lower left")
plt.show()

# %%
assert longest["clipped at 1"] < 0.021
assert longest["not clipped"] > 5 * longest["clipped at 1"]

# %% [markdown]
# - Gradients that vanish need another layer, or a forget bias that fits the distance. Clipping
#   does not help.
# - Gradients that explode need clipping: `optax.clip_by_global_norm` after the backward pass, or
#   `recurrax.GradientClip` at every step within it.
#
# Read on in [gates from inside](05_gates_from_inside.py), or in
# [the page on analysis](../docs/analysis.md).
