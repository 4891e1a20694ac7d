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
# # Write a cell
#
# A cell of your own needs four methods. Then it has masks, resets, both directions, stacks, traces
# and Flax modules, like every cell of the package. You will see:
#
# - an oscillator as a cell, and its equation checked by a loop in NumPy,
# - `check_contract`, which accepts this cell and finds the mistake in another one,
# - a picture of struck oscillators, and a picture of their resonance,
# - the cell in a stack, in a Flax model that learns to hear tones.

# %%
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import recurrax
from recurrax.testing import check_contract, perturbed_params

# %% [markdown]
# ## The equation
#
# Each unit is a weight on a spring. Its state has two parts: the place h and the velocity v.
#
#     v' = (1 - 2ζω) * v + ω² * (tanh(z + h @ recurrent_kernel) - h),  with z = x @ kernel
#     h' = h + v'
#
# A unit by itself swings with the period 2π / ω, in steps, and ζ is its damping. The coRNN of Rusch
# and Mishra (2021) is a network of such oscillators. Here each unit has a frequency of its own, and
# learns it.
#
# Parameters and state are `NamedTuple`s of arrays. The cell is a frozen dataclass without arrays.


# %%
class OscillatorParams(NamedTuple):
    kernel: jax.Array  # [I, H]
    recurrent_kernel: jax.Array  # [H, H]
    log_omega: jax.Array  # [H]


class OscillatorState(NamedTuple):
    h: jax.Array  # [*B, H], the place
    v: jax.Array  # [*B, H], the velocity


@dataclasses.dataclass(frozen=True, repr=False)
class OscillatorCell(recurrax.Cell):
    """Damped oscillators that drive each other."""

    damping: float = 0.1  # ζ
    shortest: float = 6.0  # the periods at first, in steps
    longest: float = 40.0

    # The output is this part of the state.
    output_part = "h"
    # Frequencies keep their dtype where products are in bfloat16.
    exact = ("log_omega",)

    def init(self, key, input_size, dtype=jnp.float32):
        kernel_key, recurrent_key = jax.random.split(key)
        H = self.hidden_size
        # Draw in float32, then cast.
        kernel = jax.random.normal(kernel_key, (input_size, H)) * input_size**-0.5
        recurrent = 0.1 * jax.random.normal(recurrent_key, (H, H)) * H**-0.5
        periods = jnp.geomspace(self.shortest, self.longest, H)
        params = OscillatorParams(kernel, recurrent, jnp.log(2 * jnp.pi / periods))
        return jax.tree.map(lambda p: p.astype(dtype), params)

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        zeros = jnp.zeros((*batch_shape, self.hidden_size), dtype)
        return OscillatorState(zeros, zeros)

    def project_inputs(self, params, xs):
        return xs @ params.kernel  # [..., I] -> [..., H], for one step or for all steps at once

    def step(self, params, state, z):
        h, v = state  # each [*B, H]
        omega = jnp.exp(params.log_omega.astype(h.dtype))  # [H]
        omega = jnp.broadcast_to(omega, h.shape)
        u = h @ params.recurrent_kernel.astype(h.dtype)
        force = jnp.tanh(z.astype(h.dtype) + u)
        v = (1 - 2 * self.damping * omega) * v + omega**2 * (force - h)
        h = h + v
        return OscillatorState(h, v), h


# %% [markdown]
# The cell knows nothing of time, masks, batches or directions. `scan` adds them.

# %%
cell = OscillatorCell(3)
params = perturbed_params(cell, input_size=2)
xs = jax.random.normal(jax.random.key(0), (4, 50, 2))  # [B, T, I]
state, ys = recurrax.scan(cell, params, xs)
print(cell, "gives", ys.shape, "and", recurrax.num_params(cell, 2), "parameters")

# %% [markdown]
# ## Is it right?
#
# First the equation. A loop in NumPy is written from the equation, not from the code. The
# parameters are perturbed: then no zero hides a mistake.

# %%
kernel, recurrent_kernel, log_omega = (np.asarray(p, np.float64) for p in params)
h, v = np.zeros((4, 3)), np.zeros((4, 3))
largest = 0.0
for t in range(50):
    z = np.asarray(xs[:, t]) @ kernel
    omega = np.exp(log_omega)
    force = np.tanh(z + h @ recurrent_kernel)
    v = (1 - 0.2 * omega) * v + omega**2 * (force - h)
    h = h + v
    largest = max(largest, float(np.abs(h - ys[:, t]).max()))
print(f"scan against the loop in NumPy: largest difference {largest:.1e}")
assert largest < 1e-3

# %% [markdown]
# Then the contract. `check_contract` tries what `scan` promises: steps one by one, masks, NaN in
# the padding, resets, dtypes, every derivative. Some of these promises are enough here. Without
# `promises` it checks all of them, which takes longer.

# %%
check_contract(OscillatorCell(3), promises=["steps", "resets", "dtypes", "identity"])
print("the oscillator keeps these promises")

# %% [markdown]
# What does a mistake look like? This cell subtracts the mean of its inputs over time. That works in
# training. Step by step, or with another length, it gives other numbers.


# %%
@dataclasses.dataclass(frozen=True, repr=False)
class CenteredCell(OscillatorCell):
    def project_inputs(self, params, xs):
        zs = xs @ params.kernel
        return zs - zs.mean(axis=0, keepdims=True)


try:
    check_contract(CenteredCell(3), promises=["steps"])
except AssertionError as error:
    message = str(error)
else:
    raise AssertionError("the mistake was not found")
print("\n".join(message.strip().splitlines()[:3]))

# %% [markdown]
# ## See it swing
#
# `trace` runs the cell as `scan` does and returns every state. Three units get one impulse. The
# kernel is 1 and the units do not drive each other, so each shows its own period.

# %%
T = 120
lonely = OscillatorParams(
    jnp.ones((1, 3)), jnp.zeros((3, 3)), jnp.log(2 * jnp.pi / jnp.array([8.0, 16.0, 32.0]))
)
impulse = jnp.zeros((T, 1)).at[5].set(1.0)
struck = recurrax.trace(cell, lonely, impulse)

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=(2, 1))
for unit, period in enumerate((8, 16, 32)):
    left.plot(struck.states.h[:, unit], label=f"period {period}")
    right.plot(struck.states.h[:, unit], struck.states.v[:, unit], linewidth=0.9)
left.set(title="place after an impulse at step 5", xlabel="step", ylabel="h")
left.legend(loc="upper right")
right.set(title="place and velocity: a spiral to rest", xlabel="h", ylabel="v")
figure.tight_layout()
plt.show()

# %% [markdown]
# The periods can be counted. Two upward crossings of zero are one period apart.

# %%
for unit, period in enumerate((8, 16, 32)):
    h = np.asarray(struck.states.h[:, unit])
    crossings = np.flatnonzero((h[:-1] < 0) & (h[1:] >= 0))
    counted = np.diff(crossings).mean()
    print(f"period {period}: counted {counted:.1f}")
    assert abs(counted - period) < 0.1 * period

# %% [markdown]
# ## See it hear
#
# A unit that is driven at its own frequency swings far. So the units are ears, each for one tone.
# One call of `scan` plays all tones: each is a row of the batch.

# %%
periods = np.geomspace(5, 64, 80)
steps = np.arange(400)
tones = 0.1 * np.sin(2 * np.pi * steps / periods[:, None])[..., None]  # [B, T, 1]
_, ys = recurrax.scan(cell, lonely, jnp.asarray(tones, jnp.float32))
loudness = np.asarray(jnp.abs(ys[:, 200:]).max(axis=1))  # [B, H], once the swing is steady
loudness = loudness / loudness.max(axis=0)

figure, axis = plt.subplots(figsize=(8, 3.2))
for unit, period in enumerate((8, 16, 32)):
    axis.plot(periods, loudness[:, unit], label=f"unit of period {period}")
axis.set(xscale="log", title="resonance", xlabel="period of the tone, in steps")
axis.set(ylabel="swing, of its largest", xticks=[5, 8, 16, 32, 64])
axis.get_xaxis().set_major_formatter("{x:.0f}")
axis.minorticks_off()
axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
figure.tight_layout()
plt.show()

# %%
for unit, period in enumerate((8, 16, 32)):
    best = periods[loudness[:, unit].argmax()]
    print(f"unit of period {period}: loudest at period {best:.1f}")
    assert abs(best - period) < 0.1 * period

# %% [markdown]
# ## Stack it, and use it in Flax
#
# A layer takes any cell. Here a GRU reads the oscillators, and `Recurrent` is the module of NNX
# that holds the parameters. The task: which of four tones is hidden in the noise?


# %%
class Listener(nnx.Module):
    def __init__(self, layer, *, rngs):
        self.recurrent = recurrax.nnx.Recurrent(layer, 1, rngs=rngs)
        self.head = nnx.Linear(16, 4, rngs=rngs)

    def __call__(self, xs):
        ys, _ = self.recurrent(xs)  # [B, T, 16]
        return self.head(ys[:, -1])


def tones_in_noise(key, batch=32, steps=60):
    """Draws `[B, T, 1]` tones of a random phase, and `[B]`: which of the four tones it is."""
    which_key, phase_key, noise_key = jax.random.split(key, 3)
    which = jax.random.randint(which_key, (batch,), 0, 4)
    period = jnp.array([9.0, 12.0, 16.0, 21.0])[which][:, None]
    phase = 2 * jnp.pi * jax.random.uniform(phase_key, (batch, 1))
    wave = jnp.sin(2 * jnp.pi * jnp.arange(steps)[None] / period + phase)
    noise = jax.random.normal(noise_key, (batch, steps))
    return (0.5 * wave + 0.5 * noise)[..., None], which


@nnx.jit
def train_step(model, optimizer, key):
    xs, which = tones_in_noise(key)

    def loss_of(model):
        losses = optax.softmax_cross_entropy_with_integer_labels(model(xs), which)
        return losses.mean()

    loss, grads = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, grads)
    return loss


curves, shares = {}, {}
for name, first in (("oscillators", OscillatorCell(16)), ("GRU", recurrax.GRUCell(16))):
    layer = recurrax.Stack((first, recurrax.GRUCell(16)))
    model = Listener(layer, rngs=nnx.Rngs(1))
    rule = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
    optimizer = nnx.Optimizer(model, rule, wrt=nnx.Param)
    losses = []
    for key in jax.random.split(jax.random.key(2), 150):
        losses.append(float(train_step(model, optimizer, key)))
    curves[f"{name}, then a GRU"] = losses
    xs, which = tones_in_noise(jax.random.key(3), batch=512)
    shares[name] = float((model(xs).argmax(axis=-1) == which).mean())
    print(f"{name}, then a GRU: {shares[name]:.1%} of new tones are right")

# %%
figure, axis = plt.subplots(figsize=(8, 3))
for name, losses in curves.items():
    # The mean of ten neighbors.
    axis.plot(np.convolve(losses, np.ones(10) / 10, mode="valid"), label=name)
axis.axhline(np.log(4), color="grey", linestyle=":", label="a guess")
axis.set(title="hearing a tone in noise", xlabel="training step", ylabel="loss")
axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
figure.tight_layout()
plt.show()

# %%
assert shares["oscillators"] > 0.8

# %% [markdown]
# The oscillators hear a tone from the first training step on. A GRU must first learn to hear, so it
# needs more training steps.
#
# The module takes lengths and resets. Its layer may run in both directions.

# %%
layer = recurrax.Bidirectional(OscillatorCell(4))
both = recurrax.nnx.Recurrent(layer, 2, rngs=nnx.Rngs(0))
xs = jax.random.normal(jax.random.key(4), (2, 7, 2))
ys, _ = both(xs, lengths=jnp.array([7, 3]))
print("both directions:", ys.shape)
assert not ys[1, 3:].any()

# %% [markdown]
# [Extending recurrax](../docs/extending.md) has the other contracts. An `AffineCell` gets a faster
# derivative, and a `LinearCell` runs in parallel over time: see
# [linear recurrences](11_linear_recurrences.py).
