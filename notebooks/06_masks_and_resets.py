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
# # Masks, lengths, packing and resets
#
# Sequences have different lengths, gaps, and borders between them. Three arguments of `scan` say
# so. You will see what each of them does to the state:
#
# | argument | shape | meaning |
# |---|---|---|
# | `lengths` | `int[B]` | the number of steps of each sequence; the rest is padding |
# | `mask` | `bool[B, T]` | True at the steps that count, in any pattern |
# | `reset` | `bool[B, T]` | True at the first step of a new segment |
#
# The pictures show padding, a gap, sequences packed into rows, and episodes.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import recurrax

cell = recurrax.GRUCell(8)
params = cell.init(jax.random.key(0), input_size=2)

# %% [markdown]
# ## Lengths
#
# The state stops at the last step within the length. In the padding, the outputs are zero. The
# padding has no influence, so even NaN may stand there.

# %%
lengths = jnp.array([40, 25, 12, 0])
xs = jax.random.normal(jax.random.key(1), (4, 40, 2))  # [B, T, I]
padding = ~recurrax.lengths_to_mask(lengths, 40)
xs = jnp.where(padding[..., None], jnp.nan, xs)

state, ys = recurrax.scan(cell, params, xs, lengths=lengths)
print("any NaN in the outputs:", bool(jnp.isnan(ys).any()))

# The second sequence alone, without padding.
alone, _ = recurrax.scan(cell, params, xs[1, :25])
difference = float(jnp.abs(alone.h - state.h[1]).max())
print(f"final state, padded or alone: difference {difference:.1e}")
assert difference < 1e-6


# %%
def loss_of(params):
    _, ys = recurrax.scan(cell, params, xs, lengths=lengths)
    return jnp.sum(ys**2)


grads = jax.grad(loss_of)(params)
finite = all(bool(jnp.isfinite(grad).all()) for grad in jax.tree.leaves(grads))
print("every gradient is finite:", finite)
assert finite

# %%
seen = recurrax.trace(cell, params, xs, lengths=lengths)
# The unit whose final states are farthest from zero shows best that they are kept.
unit = int(jnp.abs(state.h[1:3]).min(axis=0).argmax())
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 2.6))
for axis, values, title in (
    (left, ys, "output: zero in the padding"),
    (right, seen.states.h, "state: kept in the padding"),
):
    image = axis.imshow(values[..., unit], aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1)
    axis.set(title=f"unit {unit}, {title}", xlabel="step", ylabel="sequence", yticks=range(4))
figure.colorbar(image, ax=(left, right))
plt.show()

# %% [markdown]
# In the other direction, the reader begins at the last step within the length, and not in the
# padding. `Bidirectional` therefore needs no packing, unlike `pack_padded_sequence` in PyTorch.

# %%
both = recurrax.Bidirectional(cell)
both_params = both.init(jax.random.key(2), 2)
_, padded = recurrax.scan(both, both_params, xs, lengths=lengths)
_, alone = recurrax.scan(both, both_params, xs[2, :12])
difference = float(jnp.abs(padded[2, :12] - alone).max())
print(f"both directions, padded or alone: difference {difference:.1e}")
assert difference < 1e-6

# %% [markdown]
# ## A mask with gaps
#
# A sensor fails for some steps. A masked step keeps the state and outputs zero. The run with a
# mask equals a run over the other steps alone.

# %%
steps = np.arange(60)
signal = np.sin(steps / 5)[:, None] * np.ones((1, 2))  # [T, I]
mask = ~(((steps >= 15) & (steps < 25)) | ((steps >= 42) & (steps < 46)))

signal = jnp.asarray(signal, jnp.float32)
seen = recurrax.trace(cell, params, signal, mask=jnp.array(mask))
_, short = recurrax.scan(cell, params, signal[mask])
difference = float(jnp.abs(seen.ys[mask] - short).max())
print(f"masked, or without these steps: difference {difference:.1e}")
assert difference < 1e-6
assert not seen.ys[~mask].any()

# %%
figure, axes = plt.subplots(3, 1, figsize=(9, 5), sharex=True)
axes[0].plot(steps, np.where(mask, signal[:, 0], np.nan), marker=".")
axes[1].plot(seen.states.h[:, :3])
axes[2].plot(seen.ys[:, :3])
titles = ("input, with two gaps", "state of three units: kept", "output of three units: zero")
for axis, title in zip(axes, titles, strict=True):
    axis.fill_between(steps, -1, 1, where=~mask, color="lightgrey", step="mid")
    axis.set(title=title, ylim=(-1.1, 1.1))
axes[2].set(xlabel="step; the masked steps are gray")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Packing
#
# Most sequences of a corpus are short, so padding wastes most of the work. `pack` puts several
# sequences into one row. `reset` marks where each begins: the state of one does not reach the next.

# %%
random = np.random.default_rng(0)
sequences = []
for length in random.geometric(0.12, size=24).clip(2, 32):
    sequences.append(random.standard_normal((length, 2)).astype(np.float32))
longest = max(len(sequence) for sequence in sequences)
steps_used = sum(len(sequence) for sequence in sequences)

packed = recurrax.data.pack(sequences, row_length=longest)
padded_steps, packed_steps = len(sequences) * longest, packed.mask.size
print(f"padded: {len(sequences)} rows, {steps_used / padded_steps:.0%} of the steps are used")
print(f"packed: {len(packed.mask)} rows, {steps_used / packed_steps:.0%} of the steps are used")

_, ys = recurrax.scan(cell, params, packed.xs, mask=packed.mask, reset=packed.reset)
parts = recurrax.data.unpack(ys, packed)

# The same sequences, each in a row of its own.
(padded,) = recurrax.data.batch_by_length(sequences, [longest], len(sequences))
_, padded_ys = recurrax.scan(cell, params, padded.xs, lengths=padded.lengths)
largest = 0.0
for row, number in enumerate(padded.indices):
    difference = jnp.abs(padded_ys[row, : padded.lengths[row]] - parts[number])
    largest = max(largest, float(difference.max()))
print(f"packed or padded: largest difference {largest:.1e}")
assert largest < 1e-5
assert packed_steps < padded_steps / 2

# %%
padded_picture = np.full((len(sequences), longest), np.nan)
packed_picture = np.full(packed.mask.shape, np.nan)
for number, (row, start, length) in enumerate(packed.places):
    padded_picture[number, :length] = number
    packed_picture[row, start : start + length] = number

# The rows have the same height in both pictures.
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
for axis, picture, title in (
    (left, padded_picture, f"padded: {len(sequences)} rows"),
    (right, packed_picture, f"packed: {len(packed.mask)} rows"),
):
    axis.imshow(picture, aspect="auto", cmap="turbo", interpolation="nearest")
    axis.set(title=f"{title}, one color for each sequence", xlabel="step")
left.set(ylim=(len(sequences) - 0.5, -0.5), ylabel="row")
row_numbers, step_numbers = np.nonzero(packed.reset)
right.scatter(step_numbers - 0.3, row_numbers, marker="|", color="black", s=60, label="reset")
right.legend(loc="lower right")
plt.show()

# %% [markdown]
# ## Resets
#
# A reset returns the state to the initial state before its step. In reinforcement learning it
# marks the first step of an episode. The two runs below read the same three episodes. Only the run
# with resets begins each of them at the initial state.

# %%
episode = jnp.asarray(np.stack([np.linspace(1, -1, 20), np.ones(20)], axis=-1), jnp.float32)
xs = jnp.concatenate([episode, episode, episode])  # [T, I], three times the same
reset = jnp.arange(60) % 20 == 0

with_resets = recurrax.trace(cell, params, xs, reset=reset).states.h  # [T, H]
without = recurrax.trace(cell, params, xs).states.h
same = float(jnp.abs(with_resets[:20] - with_resets[40:]).max())
other = float(jnp.abs(without[:20] - without[40:]).max())
print(f"first and third episode with resets: difference {same:.1e}")
print(f"first and third episode without:     difference {other:.1e}")
assert same < 1e-6
assert other > 1e-3

# %%
figure, (upper, lower) = plt.subplots(2, 1, figsize=(9, 4), sharex=True)
for axis, values, title in (
    (upper, without, "without resets"),
    (lower, with_resets, "with resets"),
):
    axis.plot(values[:, :4])
    axis.set(title=f"state of four units, {title}")
    for t in np.flatnonzero(reset):
        axis.axvline(t, color="tab:red", linestyle="--", linewidth=0.8)
lower.set(xlabel="step; the red lines are the first steps of episodes")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Parts of a sequence
#
# The returned state joins parts: two runs over parts equal one run. Masks and resets keep to this.

# %%
state, first = recurrax.scan(cell, params, xs[:33], reset=reset[:33])
state, second = recurrax.scan(cell, params, xs[33:], state, reset=reset[33:])
difference = float(jnp.abs(jnp.concatenate([first, second]) - with_resets).max())
print(f"one run, or two parts: difference {difference:.1e}")
assert difference < 1e-6

# %% [markdown]
# Read on in [the guide](../docs/guide.md), in [reinforcement
# learning](../docs/reinforcement_learning.md), or in [long sequences](../docs/long_sequences.md).
