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
# # Gates from inside
#
# A step of an LSTM has three phases:
#
# | phase | in Chinese | gate | what it does |
# |---|---|---|---|
# | forget | 忘记阶段 | f, `"forget"` | f ⊙ c keeps a part of the memory |
# | select | 选择记忆阶段 | i, `"input"` | i ⊙ g selects what is written to the memory |
# | output | 输出阶段 | o, `"output"` | o ⊙ tanh(c) selects what is shown |
#
# You will see each phase at work, in two networks that train in some seconds:
#
# - a memory with a write command and a read command, whose gates open on command,
# - a reader of brackets, with units that count how deep it is.

# %%
# %matplotlib inline
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import recurrax
from recurrax import analysis

# %% [markdown]
# ## A memory on command
#
# Each step has a value and two flags. At **write**, the network must remember the value and forget
# the one before. At **read**, it must answer with the remembered value. At all other steps it must
# answer 0.


# %%
def commands(key, batch=32, steps=30):
    """Draws `[B, T, 3]` inputs (value, write, read), `[B, T]` answers and `[B, T]` memories."""
    value_key, command_key = jax.random.split(key)
    values = jax.random.uniform(value_key, (batch, steps), minval=-1)
    command = jax.random.uniform(command_key, (batch, steps))
    # A fifth of the steps write, a fifth read. The first step always writes.
    write = (command < 0.2).at[:, 0].set(True)
    read = (command > 0.8) & ~write

    def remember(memory, step):
        value, write = step
        memory = jnp.where(write, value, memory)
        return memory, memory

    _, memories = jax.lax.scan(remember, jnp.zeros(batch), (values.T, write.T))
    xs = jnp.stack([values, write, read], axis=-1)  # [B, T, 3]
    return xs, memories.T * read, memories.T


H = 4
cell = recurrax.LSTMCell(H)


def answer(weights, xs):
    _, ys = recurrax.scan(cell, weights["cell"], xs)
    return ys @ weights["head"]  # [B, T]


def loss_of(weights, key):
    xs, answers, _ = commands(key)
    return jnp.mean((answer(weights, xs) - answers) ** 2)


# %%
adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(2e-2))


@jax.jit
def train_step(weights, state, key):
    loss, grads = jax.value_and_grad(loss_of)(weights, key)
    updates, state = adam.update(grads, state)
    return optax.apply_updates(weights, updates), state, loss


weights = {"cell": cell.init(jax.random.key(0), 3), "head": jnp.ones(H) / H}
state, losses = adam.init(weights), []
for key in jax.random.split(jax.random.key(1), 1500):
    weights, state, loss = train_step(weights, state, key)
    losses.append(loss)
test_key = jax.random.key(2)
final = float(loss_of(weights, test_key))
print(f"mean squared error: {float(losses[0]):.4f} at first, {final:.5f} at the end")
assert final < 0.01

# %% [markdown]
# `trace` runs the layer as `scan` does, and also returns the states and the gates of every step.

# %%
xs, answers, memories = commands(test_key)
seen = recurrax.trace(cell, weights["cell"], xs)
for name, values in seen.gates.items():
    print(f"{name:7s} {values.shape}, from {float(values.min()):.2f} to {float(values.max()):.2f}")

# %% [markdown]
# The first sequence: the lines at the top are its value (blue), write (orange) and read (green).

# %%
row = 0
PHASES = ("forget", "input", "output")
analysis.plot_gates({name: seen.gates[name][row] for name in PHASES}, series=xs[row])

# %% [markdown]
# Which unit holds the memory? `find_units` finds the unit whose cell state c follows the value
# that should be remembered. One unit does most of the work, and the others help.

# %%
found = analysis.find_units(seen.states.c, {"memory": memories}, number=H)["memory"]
for unit, correlation in zip(found.units, found.correlations, strict=True):
    print(f"unit {unit}: correlation with the remembered value {correlation:+.2f}")
unit = int(found.units[0])

# %%
write, read = np.array(xs[..., 1] == 1), np.array(xs[..., 2] == 1)
kinds = {"write": write, "read": read, "neither": ~write & ~read}
means = {}
for name in PHASES:
    gate = np.array(seen.gates[name][..., unit])  # [B, T]
    means[name] = [float(gate[where].mean()) for where in kinds.values()]
    shown = [f"{kind} {mean:.2f}" for kind, mean in zip(kinds, means[name], strict=True)]
    print(f"{name:7s} gate of unit {unit}:", ", ".join(shown))

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.2), width_ratios=(2, 1))
left.step(range(30), memories[row], where="mid", label="to be remembered", color="grey")
shown = np.array(seen.states.c[row, :, unit]) * np.sign(found.correlations[0])
left.step(range(30), shown, where="mid", label=f"c of unit {unit}", color="tab:blue")
for t in np.flatnonzero(write[row]):
    left.axvline(t, color="tab:orange", linewidth=0.8)
left.set(title="the memory; orange lines write", xlabel="step")
left.legend()
places = np.arange(3)
for number, (name, bars) in enumerate(means.items()):
    right.bar(places + 0.27 * (number - 1), bars, width=0.25, label=name)
right.set(title=f"mean gates of unit {unit}", ylim=(0, 1.35))
right.set_xticks(places, kinds)
right.legend(ncols=3, fontsize=8)
plt.show()

# %% [markdown]
# So the phases are what their names say. At a write, the forget gate shuts and the input gate
# opens: out with the old, in with the new. Between writes it is the other way. The output gate
# opens at a read.

# %%
on_write, on_read, on_neither = 0, 1, 2
assert means["forget"][on_write] < means["forget"][on_neither] - 0.3
assert means["input"][on_write] > means["input"][on_neither] + 0.3
assert means["output"][on_read] > means["output"][on_neither] + 0.3

# %% [markdown]
# ### Is each phase needed?
#
# A gate with a huge bias is always open. The error then shows what the gate was there for.

# %%
order = ("input", "forget", "cell", "output")  # in the kernel and in the bias
for name in PHASES:
    start = order.index(name) * H
    params = weights["cell"]
    open_bias = params.bias.at[start : start + H].set(100.0)
    stuck = {**weights, "cell": params._replace(bias=open_bias)}
    stuck_loss = float(loss_of(stuck, test_key))
    print(f"{name:7s} gate always open: error {stuck_loss:.3f}, {stuck_loss / final:.0f} times")
    assert stuck_loss > 5 * final

# %% [markdown]
# ## Brackets
#
# The second network reads letters and brackets. At each character it says whether it stands inside
# of brackets. So it must count how many are open.

# %%
CHARACTERS = "()abc"


def bracket_texts(seed, batch=64, steps=40, deepest=4):
    """Draws `[B, T]` characters and the `[B, T]` depth after each of them."""
    random = np.random.default_rng(seed)
    ids = random.integers(2, len(CHARACTERS), (batch, steps))
    depth = np.zeros((batch, steps), int)
    now = np.zeros(batch, int)
    for t in range(steps):
        draw = random.random(batch)
        opens = (draw < 0.25) & (now < deepest)
        closes = (draw > 0.75) & (now > 0)
        ids[:, t] = np.where(opens, 0, np.where(closes, 1, ids[:, t]))
        now = now + opens - closes
        depth[:, t] = now
    return ids, depth


ids, depth = bracket_texts(0, batch=1)
print("".join(CHARACTERS[i] for i in ids[0]))
print("".join(str(d) for d in depth[0]))

# %%
reader = recurrax.LSTMCell(12)


def inside_logits(weights, ids):
    xs = jax.nn.one_hot(ids, len(CHARACTERS))
    _, ys = recurrax.scan(reader, weights["cell"], xs)
    return ys @ weights["head"] + weights["bias"]  # [B, T]


@jax.jit
def reader_step(weights, state, ids, inside):
    def loss_of(weights):
        logits = inside_logits(weights, ids)
        return optax.sigmoid_binary_cross_entropy(logits, inside).mean()

    loss, grads = jax.value_and_grad(loss_of)(weights)
    updates, state = adam.update(grads, state)
    return optax.apply_updates(weights, updates), state, loss


weights = {
    "cell": reader.init(jax.random.key(3), len(CHARACTERS)),
    "head": jnp.ones(12) / 12,
    "bias": jnp.zeros(()),
}
state = adam.init(weights)
for seed in range(600):
    ids, depth = bracket_texts(seed)
    weights, state, loss = reader_step(weights, state, jnp.array(ids), jnp.array(depth > 0))

ids, depth = bracket_texts(10_000)
right_share = float(jnp.mean((inside_logits(weights, jnp.array(ids)) > 0) == (depth > 0)))
print(f"right at {right_share:.1%} of the characters")
assert right_share > 0.95

# %% [markdown]
# The network was never told the depth. It still has a unit that follows it.

# %%
text, text_depth = "a(b(c)a)bc((a)((b)c))ab(c)a(b(c(a)b)c)a", []
for character in text:
    before = text_depth[-1] if text_depth else 0
    text_depth.append(before + (character == "(") - (character == ")"))
text_ids = jnp.array([CHARACTERS.index(character) for character in text])
seen = recurrax.trace(reader, weights["cell"], jax.nn.one_hot(text_ids, len(CHARACTERS)))

found = analysis.find_units(seen.states.c, {"depth": text_depth}, number=3)["depth"]
for unit, correlation in zip(found.units, found.correlations, strict=True):
    print(f"c of unit {unit}: correlation with the depth {correlation:+.2f}")
assert abs(found.correlations[0]) > 0.8

# %%
figure, axis = plt.subplots(figsize=(9, 3))
analysis.plot_units(seen.states.c, found.units[:2], text=text, axes=axis)
axis.step(range(len(text)), text_depth, where="mid", color="grey", label="depth")
axis.set(title="two units that follow the depth of the brackets")
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
figure.tight_layout()
plt.show()

# %% [markdown]
# The gates of the three phases over the text, a row for each unit. Inside of brackets many forget
# gates are open: their units remember the depth. Outside there is nothing to remember, and many of
# them shut.

# %%
analysis.plot_gates({name: seen.gates[name] for name in PHASES}, text=text)

# %% [markdown]
# `text_ansi` colors the text by the value of a unit, for a terminal. `text_html` does the same for
# a page. [The page on analysis](../docs/analysis.md) shows more: fixed points, trajectories, and
# chaos.
