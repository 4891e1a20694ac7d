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
# # From Keras
#
# `recurrax.keras` has the recurrent layers of Keras 3 as Flax NNX modules: the same arguments, the
# same weights in the same order. Neither TensorFlow nor Keras is needed. You will see:
#
# - the model of Keras' guide to recurrent networks, with the same number of parameters per layer,
# - where these numbers come from, as a picture, and what `reset_after` adds,
# - what layers return at masked steps, as a picture,
# - a model that trains, with its loss as a picture.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import recurrax
from recurrax import keras as layers

# %% [markdown]
# ## The model of the guide
#
# The guide "Working with RNNs" (https://keras.io/guides/working_with_rnns) stacks an embedding, a
# `GRU(256)`, a `SimpleRNN(128)` and a dense layer. Its summary prints these numbers of parameters:
# 64000, 247296, 49280, 1290. In recurrax only the import of the recurrent layers differs. An NNX
# module takes the place of `Sequential`.


# %%
class Guide(nnx.Module):
    def __init__(self, rngs):
        self.embedding = nnx.Embed(1000, 64, rngs=rngs)
        # The output of every step, [B, T, 256].
        self.gru = layers.GRU(256, return_sequences=True, rngs=rngs)
        # The output of the last step alone, [B, 128].
        self.simple = layers.SimpleRNN(128, rngs=rngs)
        self.dense = nnx.Linear(128, 10, rngs=rngs)
        # Keras knows the input size after the first call. `build` says it at once.
        self.gru.build((None, None, 64))
        self.simple.build((None, None, 256))

    def __call__(self, ids):
        return self.dense(self.simple(self.gru(self.embedding(ids))))


def count(part):
    """Returns the number of parameters of a module."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(part, nnx.Param)))


model = Guide(nnx.Rngs(0))
counts = {}
for name in ("embedding", "gru", "simple", "dense"):
    counts[name] = count(getattr(model, name))
    print(f"{name:10s} {counts[name]:7d}")
print("outputs", model(jnp.zeros((2, 12), jnp.int32)).shape)
assert list(counts.values()) == [64000, 247296, 49280, 1290]

# %% [markdown]
# ## Where the numbers come from
#
# For H units and I features, each gate has a kernel `[I, H]`, a recurrent kernel `[H, H]`, and a
# bias `[H]`. So the count is gates × H × (I + H + biases).
#
# | layer | gates | biases | 128 units, 64 features |
# |---|---|---|---|
# | `SimpleRNN` | 1 | 1 | 24704 |
# | `GRU(reset_after=False)` | 3 | 1 | 74112 |
# | `GRU`, the default | 3 | 2 | 74496 |
# | `LSTM` | 4 | 1 | 98816 |

# %%
H, features = 128, 64
kinds = {
    "SimpleRNN": (layers.SimpleRNN(H), 1, 1),
    "GRU, reset_after=False": (layers.GRU(H, reset_after=False), 3, 1),
    "GRU": (layers.GRU(H), 3, 2),
    "LSTM": (layers.LSTM(H), 4, 1),
}
parts = {"kernel": [], "recurrent kernel": [], "bias": []}
for name, (layer, gates, biases) in kinds.items():
    layer.build((None, None, features))
    shapes = [weight.shape for weight in layer.get_weights()]
    print(f"{name:23s} {layer.count_params():6d}  kernel, recurrent kernel, bias: {shapes}")
    assert layer.count_params() == gates * H * (features + H + biases)
    for part, shape in zip(parts, shapes, strict=True):
        parts[part].append(int(np.prod(shape)))

# %%
figure, axis = plt.subplots(figsize=(8, 2.8))
start = np.zeros(len(kinds))
for part, sizes in parts.items():
    axis.barh(list(kinds), sizes, left=start, label=part)
    start += sizes
for row, total in enumerate(start):
    axis.text(total + 800, row, f"{total:.0f}", va="center")
axis.set(title="parameters of 128 units on 64 features", xlim=(0, 118_000))
axis.legend(loc="upper right")
axis.invert_yaxis()
plt.show()

# %% [markdown]
# The core has the same counts. Its cells take the same choices under other names.

# %%
core = {
    "SimpleRNN": recurrax.ElmanCell(H),
    "GRU, reset_after=False": recurrax.GRUCell(H, reset_after=False),
    "GRU": recurrax.GRUCell(H),
    "LSTM": recurrax.LSTMCell(H),
}
for name, cell in core.items():
    print(f"{name:23s} {recurrax.num_params(cell, input_size=features):6d}  {cell}")
    assert recurrax.num_params(cell, input_size=features) == kinds[name][0].count_params()

# %% [markdown]
# ## `reset_after`
#
# The reset gate acts after the recurrent product by default, as in cuDNN and PyTorch. Then the
# candidate needs a bias on both sides of the gate, and the bias has two rows. With
# `reset_after=False` the gate acts before the product, as in the paper of Cho et al. (2014), and
# the bias has one row.
#
# A GRU by hand, in Keras' order of gates (z, r, n), checks both forms:


# %%
def gru_by_hand(x, kernel, recurrent_kernel, bias, reset_after):
    """Returns the last state `[H]` for one sequence `[T, I]`."""
    h = np.zeros(len(recurrent_kernel))
    in_bias, state_bias = bias if reset_after else (bias, 0 * bias)
    size = len(h)
    for step in x:
        a = step @ kernel + in_bias  # [3*H]
        u = h @ recurrent_kernel + state_bias
        z, r = 1 / (1 + np.exp(-(a + u)[: 2 * size].reshape(2, size)))
        candidate = r * u[2 * size :]
        if not reset_after:
            candidate = (r * h) @ recurrent_kernel[:, 2 * size :]
        h = z * h + (1 - z) * np.tanh(a[2 * size :] + candidate)
    return h


random = np.random.default_rng(0)
x = random.standard_normal((2, 9, 3)).astype(np.float32)  # [B, T, I]
for reset_after in (True, False):
    layer = layers.GRU(5, reset_after=reset_after)
    layer.build(x.shape)
    # `set_weights` takes what `get_weights` of a Keras layer returns.
    weights = []
    for weight in layer.get_weights():
        weights.append(0.5 * random.standard_normal(weight.shape).astype(np.float32))
    layer.set_weights(weights)
    by_hand = gru_by_hand(x[0], *weights, reset_after)
    difference = float(np.abs(np.asarray(layer(x))[0] - by_hand).max())
    print(f"reset_after={reset_after}: bias {weights[2].shape}, difference {difference:.1e}")
    assert difference < 1e-5

# %% [markdown]
# ## Masked steps
#
# `Masking` marks the steps that hold only one value. Keras hands the mask on by itself, but an
# array of JAX has no mask, so you pass it. At masked steps Keras repeats the last output, and
# `recurrax.scan` returns zeros. `zero_output_for_mask=True` gives zeros in Keras too.

# %%
x = np.ones((3, 16, 2), np.float32)
x[1, 10:] = x[2, 5:] = 0
masking = layers.Masking(0.0)
mask = masking.compute_mask(x)

repeats = layers.LSTM(4, return_sequences=True, seed=0)
zeros = layers.LSTM(4, return_sequences=True, zero_output_for_mask=True, seed=0)
outputs = {
    "Keras: the last output repeats": repeats(masking(x), mask=mask),
    "zero_output_for_mask=True: zeros": zeros(masking(x), mask=mask),
}
_, ys = recurrax.scan(recurrax.LSTMCell(4), repeats.params(), x, mask=mask)
difference = float(jnp.abs(ys - outputs["zero_output_for_mask=True: zeros"]).max())
print(f"`scan` and zero_output_for_mask: difference {difference:.1e}")
assert difference < 1e-6

figure, axes = plt.subplots(1, 2, figsize=(11, 2.2))
for axis, (title, values) in zip(axes, outputs.items(), strict=True):
    image = axis.imshow(jnp.abs(values).mean(axis=-1), aspect="auto", cmap="viridis", vmin=0)
    axis.set(title=title, xlabel="step", ylabel="sequence", yticks=range(3))
figure.colorbar(image, ax=axes, label="mean |output|")
plt.show()

# %% [markdown]
# ## A model that trains
#
# Each sequence is a noisy sine of random length, slow or fast. The model says which. Two lines do
# what `fit` does by itself: they pass the mask and add the penalties.


# %%
class Classifier(nnx.Module):
    def __init__(self, rngs):
        self.masking = layers.Masking(mask_value=0.0)
        lstm = layers.LSTM(12, kernel_regularizer=layers.regularizers.L2(1e-4), rngs=rngs)
        self.rnn = layers.Bidirectional(lstm, rngs=rngs)
        self.rnn.build((None, None, 1))
        self.head = nnx.Linear(24, 1, rngs=rngs)

    def __call__(self, x):
        mask = self.masking.compute_mask(x)
        return self.head(self.rnn(x, mask=mask))[:, 0]


def waves(seed, batch=64, steps=30):
    """Draws `[B, T, 1]` sines, zero in the padding, and `[B]` answers: whether they are fast."""
    random = np.random.default_rng(seed)
    fast = random.random(batch) < 0.5
    speed = np.where(fast, 0.8, 0.5)[:, None]
    phase = random.uniform(0, 2 * np.pi, (batch, 1))
    x = np.sin(speed * np.arange(steps) + phase) + 0.2 * random.standard_normal((batch, steps))
    lengths = random.integers(12, steps + 1, (batch, 1))
    x = np.where(np.arange(steps) < lengths, x, 0)
    return jnp.asarray(x[..., None], jnp.float32), jnp.asarray(fast)


model = Classifier(nnx.Rngs(0))
optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)


@nnx.jit
def train_step(model, optimizer, x, answers):
    def loss_of(model):
        loss = optax.sigmoid_binary_cross_entropy(model(x), answers).mean()
        return loss + sum(model.rnn.losses)

    loss, grads = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, grads)
    return loss


losses = []
for seed in range(150):
    losses.append(float(train_step(model, optimizer, *waves(seed))))

x, answers = waves(10_000, batch=500)
right_share = float(jnp.mean((model(x) > 0) == answers))
print(f"right for {right_share:.1%} of 500 other sequences")
assert right_share > 0.9

# %%
figure, axis = plt.subplots(figsize=(7, 2.6))
axis.plot(losses)
axis.axhline(np.log(2), color="grey", linestyle=":", label="a guess")
axis.set(title="slow or fast: Bidirectional(LSTM(12))", xlabel="training step", ylabel="loss")
axis.legend()
plt.show()

# %% [markdown]
# Read on in [coming from another library](../docs/coming_from.md). `recurrax.interop.from_keras`
# there turns a layer of Keras into a layer of the core.
