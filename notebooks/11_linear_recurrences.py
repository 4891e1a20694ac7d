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
# # Linear recurrences, and time in parallel
#
# A GRU needs T turns for T steps: no step begins before the one before it has ended. A **linear**
# recurrence h' = a * h + b, with a and b from the inputs alone, needs about log T rounds. You will
# see:
#
# - why it can: the tree of an associative scan, drawn,
# - that the numbers are the same in five cells, and so are the gradients,
# - the eigenvalues of an LRU, and the memories that follow from them,
# - the rounds and the time on this machine, against the number of steps.

# %%
import statistics
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import recurrax

# %% [markdown]
# ## Two steps are one step
#
# Take step (a1, b1), then step (a2, b2):
#
#     a2 * (a1 * h + b1) + b2  =  (a2 * a1) * h + (a2 * b1 + b2)
#
# This is one step again, with the pair (a2 * a1, a2 * b1 + b2). So pairs can be **joined** before
# any state is known. Joining is associative: brackets may stand anywhere.


# %%
def join(earlier, later):
    (a1, b1), (a2, b2) = earlier, later
    return a2 * a1, a2 * b1 + b2


random = np.random.default_rng(0)
one, two, three = random.uniform(-1, 1, (3, 2))
left_first = join(join(one, two), three)
right_first = join(one, join(two, three))
print("left first: ", np.round(left_first, 6))
print("right first:", np.round(right_first, 6))
assert np.allclose(left_first, right_first)

# %% [markdown]
# ## The tree
#
# In round 1 each step joins its neighbor. In round 2 it joins the result that lies 2 steps before,
# then 4, then 8. After each round a pair covers twice as many steps. All joins of a round are
# independent, so a machine with enough cores does them at once.

# %%
T = 16
a, b = random.uniform(0.5, 1, T), random.standard_normal(T)
rounds, links = [(a, b)], []
distance = 1
while distance < T:
    a_now, b_now = rounds[-1]
    a_next, b_next = a_now.copy(), b_now.copy()
    # All of these joins could run at the same time.
    for t in range(distance, T):
        earlier = a_now[t - distance], b_now[t - distance]
        a_next[t], b_next[t] = join(earlier, (a_now[t], b_now[t]))
        links.append((len(rounds), t, t - distance))
    rounds.append((a_next, b_next))
    distance *= 2

h, loop = 0.0, []
for t in range(T):
    h = a[t] * h + b[t]
    loop.append(h)
tree = rounds[-1][1]
print(f"{T} steps in {len(rounds) - 1} rounds, difference {np.abs(tree - loop).max():.1e}")
assert len(rounds) - 1 == np.log2(T)
assert np.allclose(tree, loop)

# %%
# What the last step is made of, from the last round back to the inputs.
used = {(len(rounds) - 1, T - 1)}
for level, t, before in reversed(links):
    if (level, t) in used:
        used |= {(level - 1, t), (level - 1, before)}

figure, axis = plt.subplots(figsize=(9, 4))
for level, t, before in links:
    part = (level, t) in used
    color, width = ("tab:red", 1.6) if part else ("lightgrey", 0.8)
    axis.plot([before, t], [level - 1, level], color=color, linewidth=width, zorder=1 + part)
for level in range(len(rounds)):
    for t in range(T):
        if level:
            part = (level, t) in used
            color, width = ("tab:red", 1.6) if part else ("lightgrey", 0.8)
            axis.plot([t, t], [level - 1, level], color=color, linewidth=width, zorder=1 + part)
        covered = min(2**level, t + 1)
        axis.scatter(t, level, s=190, color="white", edgecolor="black", zorder=3)
        axis.text(t, level - 0.01, str(covered), ha="center", va="center", fontsize=8, zorder=4)
axis.set(title="16 steps in 4 rounds; a number is how many steps a pair covers", xlabel="step")
axis.set(ylabel="round", xticks=range(T), yticks=range(len(rounds)), ylim=(-0.35, 4.35))
axis.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# The red lines are what the last state is made of: every input reaches it, on a path of 4 joins.
# This form is by Hillis and Steele (1986). `jax.lax.associative_scan`, which recurrax uses, takes
# up to twice as many rounds and far fewer joins. The idea is the same.
#
# ## The same numbers
#
# Every `LinearCell` runs by these implementations. `"sequential"` takes one step after another.
# `"associative"` is the tree. `"blocked"` is a tree within blocks, and then a loop over the blocks.

# %%
cells = {
    "minGRU": recurrax.MinGRUCell(8),
    "minLSTM": recurrax.MinLSTMCell(8),
    "LRU": recurrax.LRUCell(8),
    "S5": recurrax.S5Cell(8),
    "RG-LRU": recurrax.RGLRUCell(8),
}
xs = jax.random.normal(jax.random.key(0), (2, 8, 8))  # [B, T, I]
reset = jnp.zeros((2, 8), bool).at[:, 5].set(True)


def difference(one, two):
    """The largest difference between two pytrees."""
    each = jax.tree.map(lambda p, q: jnp.abs(p - q).max(), one, two)
    return float(max(jax.tree.leaves(each)))


def outputs(cell, params, implementation):
    return recurrax.scan(cell, params, xs, reset=reset, implementation=implementation)[1]


run = jax.jit(outputs, static_argnums=(0, 2))
for name, cell in cells.items():
    params = cell.init(jax.random.key(1), 8)
    expected = run(cell, params, "sequential")
    tree = difference(run(cell, params, "associative"), expected)
    print(f"{name:8s} tree and loop differ by {tree:.1e}")
    assert tree < 1e-4

# %% [markdown]
# So are the gradients. The transpose of a linear recurrence is one too, from the last step to the
# first. So the way back is a tree as well.

# %%
cell = cells["LRU"]
params = cell.init(jax.random.key(1), 8)


def loss_of(params, implementation):
    return jnp.mean(outputs(cell, params, implementation) ** 2)


gradient = jax.jit(jax.grad(loss_of), static_argnums=1)
tree = difference(gradient(params, "associative"), gradient(params, "sequential"))
print(f"LRU: gradients of the tree and of the loop differ by {tree:.1e}")
assert tree < 1e-4

# %% [markdown]
# The same cell also runs step by step, with a state of fixed size. So it trains in parallel, and
# answers one step at a time.

# %%
step = jax.jit(lambda state, x: recurrax.step(cell, params, x, state))
state, one_by_one = cell.initial_state((2,)), []
for t in range(8):
    state, y = step(state, xs[:, t])
    one_by_one.append(y)
_, at_once = recurrax.scan(cell, params, xs, implementation="associative")
error = difference(jnp.stack(one_by_one, axis=1), at_once)
print(f"step by step, or all at once: difference {error:.1e}")
assert error < 1e-4

# %% [markdown]
# ## Eigenvalues are memories
#
# In an LRU the factor a is a complex number λ for each unit, and the same at every step. Its
# modulus says how fast the unit forgets: half of it is left after log 0.5 / log |λ| steps. Its
# phase says how fast the unit turns. `min_radius`, `max_radius` and `max_phase` choose the part of
# the disk from which `init` draws. The grey circle is |λ| = 1, where nothing is forgotten.

# %%
choices = {
    "default": recurrax.LRUCell(64),
    "ring, 0.9 to 0.999": recurrax.LRUCell(64, min_radius=0.9, max_radius=0.999),
    "ring, small phases": recurrax.LRUCell(64, min_radius=0.9, max_radius=0.999, max_phase=0.3),
}
figure, panels = plt.subplots(1, 3, figsize=(11, 4.1))
circle = np.exp(1j * np.linspace(0, 2 * np.pi, 200))
halves = {}
for axis, (name, cell) in zip(panels, choices.items(), strict=True):
    params = cell.init(jax.random.key(2), 1)
    decay, phase = np.exp(params.log_decay), np.exp(params.log_phase)
    eigenvalues = np.exp(-decay + 1j * phase)
    # |λ| is exp(-decay).
    halves[name] = np.log(2) / decay
    assert (np.abs(eigenvalues) < 1).all()
    axis.plot(circle.real, circle.imag, color="grey", linewidth=0.8)
    axis.scatter(eigenvalues.real, eigenvalues.imag, s=14, color="tab:blue")
    axis.set(title=name, xlabel="real part", aspect="equal")
    middle = np.median(halves[name])
    print(f"{name:20s} half is left after {middle:.1f} steps (median)")
panels[0].set(ylabel="imaginary part")
figure.tight_layout()
plt.show()
assert np.median(halves["ring, 0.9 to 0.999"]) > 5 * np.median(halves["default"])

# %% [markdown]
# An impulse shows it. A single unit of each kind gets the input 1 at step 0, and then nothing.

# %%
impulse = jnp.zeros((120, 1)).at[0].set(1.0)
figure, axis = plt.subplots(figsize=(9, 3))
single = recurrax.LRUCell(1)
drawn = single.init(jax.random.key(3), 1)
for modulus, period in ((0.8, 40), (0.97, 40), (0.97, 10)):
    params = drawn._replace(
        log_decay=jnp.log(-jnp.log(jnp.array([modulus]))),
        log_phase=jnp.log(jnp.array([2 * np.pi / period])),
        # The input enters as it is.
        log_scale=jnp.zeros(1),
        kernel=jnp.array([[1.0, 0.0]]),
    )
    h = recurrax.trace(single, params, impulse).states.h[:, 0]
    expected = (modulus * np.exp(2j * np.pi / period)) ** np.arange(120)
    assert np.allclose(h, expected, atol=1e-4)
    axis.plot(h.real, label=f"|λ| = {modulus}, one turn in {period} steps")
axis.set(title="after an impulse the state is λ to the power t")
axis.set(xlabel="step t", ylabel="real part of h")
axis.legend()
plt.show()

# %% [markdown]
# ## Time against length
#
# The rounds can be counted, and hold on every machine. The time cannot: a tree does more work than
# a loop, and wins only where enough cores share it. The cell below measures the forward pass on
# this machine. Each time is divided by the time of the loop over the same steps. Above 1, the loop
# is faster.

# %%
LENGTHS = (64, 512, 2048)
cell = recurrax.MinGRUCell(32)
params = cell.init(jax.random.key(4), 32)
NAMES = ("sequential", "associative", "blocked")
ratios = {name: [] for name in NAMES}
for length in LENGTHS:
    xs = jax.random.normal(jax.random.key(5), (4, length, 32))
    runs = {}
    for name in NAMES:

        def forward(params, xs, name=name):
            return recurrax.scan(cell, params, xs, implementation=name)[1]

        runs[name] = jax.jit(forward).lower(params, xs).compile()
        # The first run also checks the numbers.
        assert difference(runs[name](params, xs), runs["sequential"](params, xs)) < 1e-4
    seconds = {name: [] for name in NAMES}
    # The contenders take turns, so that a disturbance meets all of them.
    for _ in range(11):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run(params, xs))
            seconds[name].append(time.perf_counter() - start)
    for name in NAMES:
        pairs = zip(seconds[name], seconds["sequential"], strict=True)
        ratios[name].append(statistics.median(mine / loop for mine, loop in pairs))
    shown = ", ".join(f"{name} {ratios[name][-1]:.2f}" for name in NAMES)
    print(f"{length:5d} steps, of the loop's time: {shown}")

# %%
lengths = np.array(LENGTHS)
root = np.sqrt(lengths)
counts = {
    "sequential": lengths,
    "associative": 2 * np.log2(lengths),
    # A tree within the blocks, then one block after another.
    "blocked": 2 * np.log2(root) + root,
}
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6))
for name in NAMES:
    left.loglog(lengths, counts[name], marker="o", label=name)
    right.loglog(lengths, ratios[name], marker="o", label=name)
left.set(title="rounds that must follow each other", xlabel="steps", ylabel="rounds, about")
right.set(title="time on this machine", xlabel="steps", ylabel="time / time of the loop")
for axis in (left, right):
    axis.set_xticks(lengths, [str(length) for length in LENGTHS])
    axis.minorticks_off()
right.set(ylim=(0.25, 8))
right.set_yticks([0.25, 0.5, 1, 2, 4, 8], ["0.25", "0.5", "1", "2", "4", "8"])
left.legend()
figure.tight_layout()
plt.show()

# %% [markdown]
# Without a choice, `scan` takes the implementation that is fastest on the platform: the loop on a
# CPU. On a GPU the tree has enough cores.
#
# [Long sequences](../docs/long_sequences.md) says more: time spread over devices, and Newton's
# method for cells that are not linear.
