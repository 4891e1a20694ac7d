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
# # RNN, GRU and LSTM from scratch
#
# You will see three networks written by hand, as a textbook writes them. The names and the order
# of the chapters follow "Dive into Deep Learning" (Zhang et al., 2021, https://d2l.ai, and
# https://zh.d2l.ai in Chinese).
#
# - Each line of each equation is compared with recurrax, in numbers.
# - The networks then learn six poems of the Tang dynasty, and write them from their first
#   characters.
# - Two pictures show the loss, with and without gradient clipping, and the update gate while the
#   network writes.
#
# | the book | recurrax |
# |---|---|
# | recurrent neural network, 循环神经网络 | `ElmanCell` |
# | gated recurrent unit, 门控循环单元 | `GRUCell(reset_after=False)` |
# | long short-term memory, 长短期记忆网络 | `LSTMCell` |
# | deep network, 深度循环神经网络 | `Stack` |
# | bidirectional network, 双向循环神经网络 | `Bidirectional` |
# | gradient clipping, 梯度裁剪 | `optax.clip_by_global_norm` |

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import recurrax
from recurrax import cells
from recurrax import nnx as rnn

# %% [markdown]
# ## The text
#
# Each poem has 24 characters, with its punctuation. The poems are by 李白, 孟浩然, 王之涣, 王维
# (two) and 柳宗元.

# %%
POEMS = [
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",  # 静夜思
    "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。",  # 春晓
    "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。",  # 登鹳雀楼
    "红豆生南国，春来发几枝。愿君多采撷，此物最相思。",  # 相思
    "空山不见人，但闻人语响。返景入深林，复照青苔上。",  # 鹿柴
    "千山鸟飞绝，万径人踪灭。孤舟蓑笠翁，独钓寒江雪。",  # 江雪
]
vocabulary = sorted(set("".join(POEMS)))
number_of = {character: i for i, character in enumerate(vocabulary)}


def encode(text):
    return jnp.array([number_of[character] for character in text])


ids = jnp.stack([encode(poem) for poem in POEMS])  # [B, T]
V, H = len(vocabulary), 64
xs = jax.nn.one_hot(ids, V)  # [B, T, V]
print(V, "different characters; the inputs are", xs.shape)

# %% [markdown]
# `draw` makes a weight. The biases here are random too, so that a wrong bias shows.

# %%
keys = iter(jax.random.split(jax.random.key(0), 100))


def draw(*shape):
    return 0.1 * jax.random.normal(next(keys), shape)


def compare(name, by_hand, ours):
    """Prints the largest difference, and stops if it is more than rounding."""
    difference = float(jnp.abs(by_hand - ours).max())
    print(f"{name:28s} largest difference {difference:.1e}")
    assert difference < 1e-5, name


# %% [markdown]
# ## The recurrent network
#
# H_t = tanh(X_t W_xh + H_{t-1} W_hh + b_h)

# %%
W_xh, W_hh, b_h = draw(V, H), draw(H, H), draw(H)


def rnn_by_hand(xs):
    state = jnp.zeros((len(xs), H))
    outputs = []
    for t in range(xs.shape[1]):
        state = jnp.tanh(xs[:, t] @ W_xh + state @ W_hh + b_h)
        outputs.append(state)
    return jnp.stack(outputs, axis=1)  # [B, T, H]


elman = recurrax.ElmanCell(H)
elman_params = cells.ElmanParams(kernel=W_xh, recurrent_kernel=W_hh, bias=b_h)
_, ys = recurrax.scan(elman, elman_params, xs)
compare("RNN: H", rnn_by_hand(xs), ys)

# %% [markdown]
# ## The gated recurrent unit
#
# The **reset gate** R (重置门) decides how much of the old state the candidate sees. The
# **update gate** Z (更新门) decides how much of the old state stays.
#
# - R_t = σ(X_t W_xr + H_{t-1} W_hr + b_r)
# - Z_t = σ(X_t W_xz + H_{t-1} W_hz + b_z)
# - H̃_t = tanh(X_t W_xh + (R_t ⊙ H_{t-1}) W_hh + b_h)
# - H_t = Z_t ⊙ H_{t-1} + (1 - Z_t) ⊙ H̃_t
#
# The reset gate acts before the product with W_hh. So the cell is `GRUCell(reset_after=False)`.
# The layers of PyTorch and Keras reset after the product, and this is the default here too.

# %%
W_xr, W_hr, b_r = draw(V, H), draw(H, H), draw(H)
W_xz, W_hz, b_z = draw(V, H), draw(H, H), draw(H)


def gru_by_hand(xs):
    state = jnp.zeros((len(xs), H))
    lines = {"R": [], "Z": [], "H~": [], "H": []}
    for t in range(xs.shape[1]):
        x = xs[:, t]
        R = jax.nn.sigmoid(x @ W_xr + state @ W_hr + b_r)
        Z = jax.nn.sigmoid(x @ W_xz + state @ W_hz + b_z)
        candidate = jnp.tanh(x @ W_xh + (R * state) @ W_hh + b_h)
        state = Z * state + (1 - Z) * candidate
        for name, value in zip(lines, (R, Z, candidate, state), strict=True):
            lines[name].append(value)
    return {name: jnp.stack(values, axis=1) for name, values in lines.items()}


# %% [markdown]
# recurrax puts the gates side by side into one kernel, in the order reset, update, candidate.
# `trace` returns every gate of every step, so each line can be compared.

# %%
gru = recurrax.GRUCell(H, reset_after=False)
gru_params = cells.GRUParams(
    kernel=jnp.concatenate([W_xr, W_xz, W_xh], axis=1),  # [V, 3*H]
    recurrent_kernel=jnp.concatenate([W_hr, W_hz, W_hh], axis=1),  # [H, 3*H]
    bias=jnp.concatenate([b_r, b_z, b_h]),  # [3*H]
)
by_hand, seen = gru_by_hand(xs), recurrax.trace(gru, gru_params, xs)
compare("GRU: reset gate R", by_hand["R"], seen.gates["reset"])
compare("GRU: update gate Z", by_hand["Z"], seen.gates["update"])
compare("GRU: candidate H~", by_hand["H~"], seen.gates["new"])
compare("GRU: state H", by_hand["H"], seen.states.h)

# %% [markdown]
# ## Long short-term memory
#
# The **input gate** I (输入门) decides what the memory takes in. The **forget gate** F (遗忘门)
# decides what it keeps. The **output gate** O (输出门) decides what the network shows of it.
#
# - I_t, F_t, O_t = σ(X_t W_x* + H_{t-1} W_h* + b_*), each with weights of its own
# - C̃_t = tanh(X_t W_xc + H_{t-1} W_hc + b_c)
# - C_t = F_t ⊙ C_{t-1} + I_t ⊙ C̃_t
# - H_t = O_t ⊙ tanh(C_t)

# %%
W_xi, W_hi, b_i = draw(V, H), draw(H, H), draw(H)
W_xf, W_hf, b_f = draw(V, H), draw(H, H), draw(H)
W_xo, W_ho, b_o = draw(V, H), draw(H, H), draw(H)
W_xc, W_hc, b_c = draw(V, H), draw(H, H), draw(H)


def lstm_by_hand(xs):
    state = memory = jnp.zeros((len(xs), H))
    lines = {"I": [], "F": [], "O": [], "C~": [], "C": [], "H": []}
    for t in range(xs.shape[1]):
        x = xs[:, t]
        take = jax.nn.sigmoid(x @ W_xi + state @ W_hi + b_i)
        keep = jax.nn.sigmoid(x @ W_xf + state @ W_hf + b_f)
        show = jax.nn.sigmoid(x @ W_xo + state @ W_ho + b_o)
        candidate = jnp.tanh(x @ W_xc + state @ W_hc + b_c)
        memory = keep * memory + take * candidate
        state = show * jnp.tanh(memory)
        values = (take, keep, show, candidate, memory, state)
        for name, value in zip(lines, values, strict=True):
            lines[name].append(value)
    return {name: jnp.stack(values, axis=1) for name, values in lines.items()}


# The order of the gates is input, forget, candidate, output.
lstm = recurrax.LSTMCell(H)
lstm_params = cells.LSTMParams(
    kernel=jnp.concatenate([W_xi, W_xf, W_xc, W_xo], axis=1),  # [V, 4*H]
    recurrent_kernel=jnp.concatenate([W_hi, W_hf, W_hc, W_ho], axis=1),  # [H, 4*H]
    bias=jnp.concatenate([b_i, b_f, b_c, b_o]),  # [4*H]
)
by_hand, seen = lstm_by_hand(xs), recurrax.trace(lstm, lstm_params, xs)
compare("LSTM: input gate I", by_hand["I"], seen.gates["input"])
compare("LSTM: forget gate F", by_hand["F"], seen.gates["forget"])
compare("LSTM: output gate O", by_hand["O"], seen.gates["output"])
compare("LSTM: candidate C~", by_hand["C~"], seen.gates["cell"])
compare("LSTM: memory C", by_hand["C"], seen.states.c)
compare("LSTM: state H", by_hand["H"], seen.states.h)

# %% [markdown]
# ## Deep and bidirectional networks
#
# In a deep network, the states of one layer are the inputs of the next. In a bidirectional
# network, a second layer reads from the end. Both outputs stand side by side.

# %%
W_xh2, W_hh2, b_h2 = draw(H, H), draw(H, H), draw(H)


def recur(xs, W_x, W_h, b):
    """One layer by hand."""
    state = jnp.zeros((len(xs), H))
    outputs = []
    for t in range(xs.shape[1]):
        state = jnp.tanh(xs[:, t] @ W_x + state @ W_h + b)
        outputs.append(state)
    return jnp.stack(outputs, axis=1)


first = recur(xs, W_xh, W_hh, b_h)
second = recur(first, W_xh2, W_hh2, b_h2)
upper_params = cells.ElmanParams(W_xh2, W_hh2, b_h2)
_, ys = recurrax.scan(recurrax.Stack((elman, elman)), (elman_params, upper_params), xs)
compare("deep: H of layer 2", second, ys)

# %%
W_xb, W_hb, b_b = draw(V, H), draw(H, H), draw(H)
# The reader from the end: turn the text, read it, turn the outputs back.
backward = recur(xs[:, ::-1], W_xb, W_hb, b_b)[:, ::-1]
both_params = recurrax.layers.Directions(elman_params, cells.ElmanParams(W_xb, W_hb, b_b))
_, ys = recurrax.scan(recurrax.Bidirectional(elman), both_params, xs)
compare("bidirectional: both H", jnp.concatenate([first, backward], axis=-1), ys)

# %% [markdown]
# ## The short way
#
# The book builds `nn.RNN(1027, 256)`: 1027 characters, 256 units. It reads 35 steps of 2 texts,
# with time as the first axis. The module of the same name takes the same arguments and returns the
# same shapes.

# %%
layer = rnn.RNN(1027, 256, rngs=nnx.Rngs(0))
output, h = layer(jnp.ones((35, 2, 1027)))
print("outputs", output.shape, "state", h.shape)
assert output.shape == (35, 2, 256)
assert h.shape == (1, 2, 256)

deep = rnn.LSTM(1027, 256, num_layers=2, bidirectional=True, rngs=nnx.Rngs(0))
output, (h, c) = deep(jnp.ones((35, 2, 1027)))
print("deep and bidirectional: outputs", output.shape, "state", h.shape, c.shape)
assert output.shape == (35, 2, 512)
assert h.shape == c.shape == (4, 2, 256)

# %% [markdown]
# ## Training, with gradient clipping
#
# The network predicts the next character. As in the book, plain gradient descent trains it, with
# the learning rate 1. The gradient g is **clipped**: if its norm is above θ, it is divided by the
# norm and multiplied by θ.


# %%
def clip_by_hand(grads, theta):
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
    return jax.tree.map(lambda g: g * jnp.minimum(1, theta / norm), grads)


grads = {"W": 3 * draw(20, 20), "b": draw(20)}
clipped, _ = optax.clip_by_global_norm(1.0).update(grads, optax.EmptyState())
for name, value in clip_by_hand(grads, 1.0).items():
    compare(f"clipped gradient of {name}", value, clipped[name])


# %%
def train(cell, theta=None, learning_rate=1.0, steps=300):
    """Returns trained weights, and the perplexity (困惑度) of each step."""
    cell_key, head_key = jax.random.split(jax.random.key(1))
    weights = {
        "cell": cell.init(cell_key, V),
        "head": 0.1 * jax.random.normal(head_key, (H, V)),
        "head_bias": jnp.zeros(V),
    }
    descent = optax.sgd(learning_rate)
    if theta is not None:
        descent = optax.chain(optax.clip_by_global_norm(theta), descent)

    def loss_of(weights):
        # The last character has no next one.
        _, ys = recurrax.scan(cell, weights["cell"], xs[:, :-1])
        logits = ys @ weights["head"] + weights["head_bias"]  # [B, T-1, V]
        return optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:]).mean()

    @jax.jit
    def train_step(weights, state):
        loss, grads = jax.value_and_grad(loss_of)(weights)
        updates, state = descent.update(grads, state)
        return optax.apply_updates(weights, updates), state, loss

    state, losses = descent.init(weights), []
    for _ in range(steps):
        weights, state, loss = train_step(weights, state)
        losses.append(loss)
    return weights, jnp.exp(jnp.array(losses))


# %% [markdown]
# A perplexity of 1 means that each next character is certain. A guess among all characters has the
# perplexity of the vocabulary.

# %%
trained, curves = {}, {}
for name, cell in {"RNN": elman, "GRU": recurrax.GRUCell(H), "LSTM": lstm}.items():
    trained[name], curves[name] = train(cell, theta=1.0, steps=500)
    print(f"{name:4s} perplexity at the end: {float(curves[name][-1]):.3f}")

# %% [markdown]
# With a learning rate of 3, large gradients throw the weights of the network without clipping far
# away. Its perplexity jumps to far more than a guess has. The clipped network never goes that far.

# %%
_, wild = train(elman, learning_rate=3.0, steps=200)
_, tame = train(elman, theta=1.0, learning_rate=3.0, steps=200)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2))
for name, curve in curves.items():
    left.plot(curve, label=name)
left.set(title="learning rate 1, gradients clipped at 1")
right.plot(wild, label="RNN, not clipped", color="tab:red")
right.plot(tame, label="RNN, clipped at 1", color="tab:blue")
right.set(title="learning rate 3")
for axis in (left, right):
    axis.axhline(V, color="grey", linestyle=":", label="a guess")
    axis.set(xlabel="training step", yscale="log")
    axis.legend()
left.set(ylabel="perplexity")
plt.show()

print(f"highest perplexity: {float(wild.max()):.1e} not clipped, {float(tame.max()):.1e} clipped")
assert wild.max() > 100 * tame.max()

# %% [markdown]
# ## The network writes
#
# `step` reads one character. The likeliest next character is the next input. The first three
# characters of a poem are enough for the rest.


# %%
def write(name, cell, begin, length=24):
    weights = trained[name]
    text, state = begin[0], None
    while len(text) < length:
        x = jax.nn.one_hot(number_of[text[-1]], V)
        state, y = recurrax.step(cell, weights["cell"], x, state)
        likeliest = jnp.argmax(y @ weights["head"] + weights["head_bias"])
        # The first characters are given.
        if len(text) < len(begin):
            text += begin[len(text)]
        else:
            text += vocabulary[int(likeliest)]
    return text


written = [write("LSTM", lstm, poem[:3]) for poem in POEMS]
for text in written:
    print(text)
right_ones = sum(text == poem for text, poem in zip(written, POEMS, strict=True))
print(right_ones, "of", len(POEMS), "poems are right")
assert right_ones >= 4

# %% [markdown]
# The trained GRU reads the first poem, 静夜思. Its update gates are drawn below, one row for each
# unit. A dark field is a unit that keeps its state at this step. The vertical lines are the steps
# of the punctuation.

# %%
seen = recurrax.trace(recurrax.GRUCell(H), trained["GRU"]["cell"], xs[0])
update = np.asarray(seen.gates["update"])  # [T, H]
# Units that keep their state for long come first.
order = np.argsort(-update.mean(axis=0))

figure, axis = plt.subplots(figsize=(8, 3.4))
image = axis.imshow(update[:, order].T, aspect="auto", cmap="Blues", vmin=0, vmax=1)
for t, character in enumerate(POEMS[0]):
    if character in "，。":
        axis.axvline(t, color="tab:red", linewidth=0.8)
axis.set(title="update gate Z of the trained GRU on one poem")
axis.set(xlabel="step (one character each)", ylabel="unit")
figure.colorbar(image)
plt.show()

# %% [markdown]
# Read on in [vanishing gradients](04_vanishing_gradients.py), which shows why the gates matter.
