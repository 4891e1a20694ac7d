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
# # Time series: forecasts with intervals, and classification
#
# You will see two tasks on data that somebody measured:
#
# - **sunspots**, a number for each year since 1700: a forecast with intervals, and how many of the
#   later years lie in them, beside two baselines,
# - **digits**, drawn by hand and read row by row: what the network believes after each row.
#
# The sunspots come with statsmodels, and the digits with scikit-learn. Nothing is downloaded.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from statsmodels.datasets import sunspots

import recurrax

# %% [markdown]
# ## The series
#
# The sun has a cycle of about eleven years. Its highs differ. The network learns from the years up
# to 1859. The next 60 years tell how wide its intervals must be. The years since 1920 are held out.

# %%
table = sunspots.load_pandas().data
years = table["YEAR"].to_numpy().astype(int)
counts = table["SUNACTIVITY"].to_numpy()
first_check, first_test = 1860, 1920
is_train, is_test = years < first_check, years >= first_test
is_check = ~is_train & ~is_test

figure, axis = plt.subplots(figsize=(11, 2.8))
axis.plot(years, counts, color="black", linewidth=0.9)
axis.axvspan(first_check, first_test, color="tab:blue", alpha=0.15, label="width of intervals")
axis.axvspan(first_test, years[-1], color="tab:orange", alpha=0.15, label="held out")
axis.set(title="sunspots of each year", xlabel="year", ylabel="mean number")
axis.set(xlim=(1700, 2008), ylim=(0, 250))
axis.legend(loc="upper left", ncols=2)
plt.show()

# %% [markdown]
# Large numbers vary more than small ones. The square root makes the variation even. The scale comes
# from the training years alone.

# %%
roots = np.sqrt(counts)
middle, scale = roots[is_train].mean(), roots[is_train].std()
series = jnp.asarray((roots - middle) / scale, jnp.float32)[:, None]  # [T, 1]


def to_counts(values):
    """From scaled roots back to numbers of sunspots; a root below zero counts as zero."""
    return np.maximum(np.asarray(values) * scale + middle, 0) ** 2


# %% [markdown]
# ## A network that says how sure it is
#
# The output at a year is a normal distribution of the next year: a mean and the log of a standard
# deviation. The loss is its negative log-likelihood. The series is short, so the network is small
# and its inputs get noise.

# %%
layer = recurrax.Stack((recurrax.GRUCell(16), recurrax.Dense(2)))


def negative_log_likelihood(ys, values):
    """The mean over all steps, without a constant. `ys` is `[..., 2]`, `values` `[..., 1]`."""
    mean, log_std = ys[..., :1], ys[..., 1:]
    return jnp.mean(log_std + 0.5 * ((values - mean) * jnp.exp(-log_std)) ** 2)


adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(5e-3, weight_decay=1e-2))
WINDOW = 66
train_series = series[is_train]


@jax.jit
def train_step(params, state, key):
    start_key, noise_key = jax.random.split(key)
    # Windows of the training years, [B, T + 1, 1].
    starts = jax.random.randint(start_key, (16,), 0, len(train_series) - WINDOW)
    windows = train_series[starts[:, None] + jnp.arange(WINDOW + 1)]

    def loss_of(params):
        xs = windows[:, :-1]
        noise = 0.2 * jax.random.normal(noise_key, xs.shape)
        _, ys = recurrax.scan(layer, params, xs + noise)
        # The first years have too little past to tell anything.
        return negative_log_likelihood(ys[:, 10:], windows[:, 11:])

    loss, grads = jax.value_and_grad(loss_of)(params)
    updates, state = adam.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss


params = layer.init(jax.random.key(0), 1)
state, losses = adam.init(params), []
for key in jax.random.split(jax.random.key(1), 150):
    params, state, loss = train_step(params, state, key)
    losses.append(float(loss))
print(f"loss: {np.mean(losses[:20]):.2f} at first, {np.mean(losses[-20:]):.2f} at the end")

# %% [markdown]
# ## One year ahead
#
# The distribution of each held-out year follows from all years before it. The 80% interval should
# hold four years of five. A network is often too sure of itself. So its standard deviations are
# multiplied by one factor: then the intervals hold 80% of the years from 1860 to 1919.
#
# Two baselines have intervals as wide as their errors before 1920:
#
# - **last year**: the next year is like this year,
# - **last cycle**: the next year is like the year eleven years before.

# %%
_, ys = recurrax.scan(layer, params, series[:-1])  # [T-1, 2], about years[1:]
mean, std = ys[:, 0], jnp.exp(ys[:, 1])
BOUND = 1.2816  # 80% of a normal distribution lie within so many standard deviations
distance = np.abs(np.asarray((series[1:, 0] - mean) / std))  # in standard deviations
factor = float(np.quantile(distance[is_check[1:]], 0.8)) / BOUND
print(f"factor of the standard deviations: {factor:.2f}")
truth = counts[is_test]


def judge(name, middle_values, low, high):
    """Prints and returns the share of years in the interval, and the root mean squared error."""
    coverage = np.mean((truth >= low) & (truth <= high))
    error = np.sqrt(np.mean((truth - middle_values) ** 2))
    width = np.mean(high - low)
    print(f"{name:16s} {coverage:8.0%} {width:11.0f} {error:11.1f}")
    return coverage, error


test_steps = np.flatnonzero(is_test) - 1  # the outputs about these years
narrow = [to_counts(mean + sign * BOUND * std)[test_steps] for sign in (0, -1, 1)]
network = [to_counts(mean + sign * BOUND * factor * std)[test_steps] for sign in (0, -1, 1)]
print(f"{'':16s} {'inside':>8s} {'mean width':>11s} {'error':>11s}")
judge("GRU, as it is", *narrow)
results = {"GRU": judge("GRU, factor", *network)}
for name, back in (("last year", 1), ("last cycle", 11)):
    differences = roots[back:] - roots[:-back]
    errors = differences[~is_test[back:]]
    low, high = np.quantile(errors, (0.1, 0.9))
    before = roots[np.flatnonzero(is_test) - back]
    interval = [np.maximum(before + shift, 0) ** 2 for shift in (0, low, high)]
    results[name] = judge(name, *interval)

# %%
figure, axis = plt.subplots(figsize=(11, 3.2))
axis.fill_between(years[is_test], network[1], network[2], alpha=0.3, label="80% interval")
axis.plot(years[is_test], network[0], label="GRU, one year ahead")
axis.plot(years[is_test], truth, "k.", markersize=5, label="what came")
axis.set(title="the held-out years, each from the years before", xlabel="year")
axis.set(ylabel="sunspots", ylim=(0, 300))
axis.legend(ncols=3, loc="upper left")
plt.show()

# %%
assert 0.6 < results["GRU"][0] < 0.95
assert results["GRU"][1] < results["last year"][1]
assert results["GRU"][1] < results["last cycle"][1]

# %% [markdown]
# ## Eleven years ahead
#
# For the second year, the first one is not known. So `unroll` draws the next year from the
# distribution, and reads it as the next input. Each draw is a path. The spread of many paths is the
# interval: it grows with the distance.

# %%
PAST, AHEAD, PATHS = 60, 11, 200
origins = np.arange(first_test, years[-1] - AHEAD + 2, 6)  # the first year of each forecast
starts = origins - PAST - years[0]
windows = jnp.stack([series[start : start + PAST + AHEAD] for start in starts])
xs = jnp.broadcast_to(windows, (PATHS, *windows.shape))  # [P, B, T, 1]


def draw_next(y, x, key):
    noise = jax.random.normal(key, y[..., :1].shape)
    return y[..., :1] + factor * jnp.exp(y[..., 1:]) * noise


@jax.jit
def forecast(params, xs, key):
    return recurrax.unroll(layer, params, draw_next, xs, observed=PAST, key=key)[2]


paths = to_counts(forecast(params, xs, jax.random.key(2))[:, :, PAST:, 0])  # [P, B, AHEAD]
low, half, high = np.quantile(paths, (0.1, 0.5, 0.9), axis=0)
came = to_counts(windows[:, PAST:, 0])  # [B, AHEAD]
inside = (came >= low) & (came <= high)
repeated = np.stack([counts[start + PAST - 11 : start + PAST] for start in starts])
constant = np.stack([np.full(AHEAD, counts[start + PAST - 1]) for start in starts])
print(f"{inside.mean():.0%} of {inside.size} forecasts are in the 80% interval")
far_errors = {}
for name, values in (("GRU", half), ("last year", constant), ("last cycle", repeated)):
    far_errors[name] = np.abs(values - came).mean()
    print(f"{name:11s} mean absolute error {far_errors[name]:.1f}")

# %%
figure, axis = plt.subplots(figsize=(11, 3.4))
axis.plot(years, counts, color="black", linewidth=0.9, label="what came")
shown = [row for row, origin in enumerate(origins) if (origin - first_test) % 24 == 0]
for row in shown:
    ahead = origins[row] + np.arange(AHEAD)
    first = row == shown[0]
    axis.fill_between(
        ahead, low[row], high[row], alpha=0.3, color="tab:blue", label="80%" if first else None
    )
    axis.plot(ahead, half[row], color="tab:blue", label="median" if first else None)
    axis.axvline(origins[row] - 0.5, color="grey", linewidth=0.8, linestyle=":")
axis.set(title="eleven years ahead, from the dotted lines", xlabel="year", ylabel="sunspots")
axis.set(xlim=(1900, 2008), ylim=(0, 300))
axis.legend(ncols=3, loc="upper left")
plt.show()

# %%
assert 0.5 < inside.mean() < 0.97
assert far_errors["GRU"] < far_errors["last year"]

# %% [markdown]
# The network knows the cycle: it tells the next low and the next high. It cannot tell how high the
# high will be, and its interval says so. The highs after 1940 are higher than most before 1860. So
# they often lie above the interval. A network can only be as sure as its past allows.

# %% [markdown]
# ## Digits, row by row
#
# An image of 8 rows is a sequence of 8 steps with 8 features. An LSTM reads it from top to bottom.
# The last 597 images are held out; other people drew most of them. The baseline is a linear model
# that sees all pixels at once.
#
# The network also learns from shifted images: a pixel left or right, up or down.

# %%
images, classes = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32).reshape(-1, 8, 8)  # [N, T, I]
train_images, test_images = images[:1200], images[1200:]
train_classes, test_classes = classes[:1200], classes[1200:]

linear = LogisticRegression(max_iter=1000)
linear.fit(train_images.reshape(len(train_images), -1), train_classes)
linear_share = linear.score(test_images.reshape(len(test_images), -1), test_classes)

reader = recurrax.Stack((recurrax.LSTMCell(48), recurrax.Dense(10)))


def class_loss(params, images, classes):
    _, ys = recurrax.scan(reader, params, images)  # [B, T, 10]
    # The last row counts most. The rows before learn to say what is known so far.
    losses = optax.softmax_cross_entropy_with_integer_labels(ys, classes[:, None].repeat(8, 1))
    return losses[:, -1].mean() + 0.1 * losses[:, :-1].mean()


digit_adam = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1e-2, 800))
)


@jax.jit
def digit_step(params, state, images, classes):
    loss, grads = jax.value_and_grad(class_loss)(params, images, classes)
    updates, state = digit_adam.update(grads, state)
    return optax.apply_updates(params, updates), state, loss


def shifted(image, down, right):
    """Moves an image by at most a pixel; zeros come in."""
    return np.pad(image, 1)[1 - down : 9 - down, 1 - right : 9 - right]


random = np.random.default_rng(0)
weights = reader.init(jax.random.key(3), 8)
state = digit_adam.init(weights)
for _ in range(800):
    rows = random.integers(0, len(train_images), 64)
    moves = random.integers(-1, 2, (64, 2))
    batch = [shifted(train_images[row], *move) for row, move in zip(rows, moves, strict=True)]
    weights, state, loss = digit_step(weights, state, np.stack(batch), train_classes[rows])

# %%
_, ys = recurrax.scan(reader, weights, test_images)
beliefs = np.asarray(jax.nn.softmax(ys))  # [N, T, 10]
by_row = (beliefs.argmax(axis=-1) == test_classes[:, None]).mean(axis=0)
print(f"linear model, all pixels at once: {linear_share:.1%} right")
print(f"LSTM, after the last row:         {by_row[-1]:.1%} right")
for row, share in enumerate(by_row):
    print(f"after row {row + 1}: {share:.1%} right")

# %%
assert by_row[-1] > 0.93
assert by_row[-1] > linear_share
assert by_row[1] < by_row[4] < by_row[-1]

# %% [markdown]
# Four digits, and the belief after each row. Dark is sure.

# %%
chosen = []
for digit in (3, 6, 7, 9):
    # The image of this digit on which the belief turns most often, and ends right.
    guesses = beliefs.argmax(axis=-1)
    turns = (guesses[:, 1:] != guesses[:, :-1]).sum(axis=1)
    fits = (test_classes == digit) & (guesses[:, -1] == digit)
    chosen.append(int(np.where(fits, turns, -1).argmax()))

figure, panels = plt.subplots(2, 4, figsize=(11, 5.4))
for column, number in enumerate(chosen):
    upper, lower = panels[:, column]
    upper.imshow(test_images[number], cmap="Greys")
    upper.set(title=f"a {test_classes[number]}", xticks=[], yticks=range(8))
    upper.set_yticklabels(range(1, 9))
    lower.imshow(beliefs[number], cmap="Blues", vmin=0, vmax=1)
    lower.set(xlabel="digit", xticks=range(10), yticks=range(8))
    lower.set_yticklabels(range(1, 9))
panels[0, 0].set(ylabel="row")
panels[1, 0].set(ylabel="belief after row")
figure.tight_layout()
plt.show()

# %% [markdown]
# The network needs only its state to go on: it can read a row, wait, and read the next one.
#
# [Decoding](../docs/decoding.md) has more on `unroll`: inputs that are known in advance, and gaps
# in the record.
