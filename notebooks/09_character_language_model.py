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
# # A character language model
#
# An LSTM reads the source of Python's standard library, and learns to guess the next character. It
# then writes Python of its own. You will see:
#
# - training with clipped gradients: the loss, and the norms that were clipped,
# - perplexity on a file that it has never read, beside two baselines,
# - sampling with temperature and top-k, and beam search,
# - a text colored by one unit of the state, and what this unit has learned,
# - the same model on a classical Chinese text (中文).

# %%
import argparse
import ast
import configparser
import functools
import inspect
import pprint

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from IPython.display import HTML

import recurrax
from recurrax import analysis
from recurrax.decoding import beam_search, generate

# %% [markdown]
# ## The text
#
# Three modules are for training, and one is held out. Each character has a number. Rare characters
# are left out.

# %%
train_text = "".join(inspect.getsource(module) for module in (argparse, configparser, ast))
train_text = train_text[:180_000]
held_out_text = inspect.getsource(pprint)
found, occurrences = np.unique(list(train_text), return_counts=True)
vocabulary = [str(character) for character in found[occurrences >= 10]]


def encode(text, vocabulary):
    """The numbers of the characters; unknown characters are left out."""
    numbers = {character: number for number, character in enumerate(vocabulary)}
    return np.array([numbers[character] for character in text if character in numbers])


train_ids, held_out_ids = encode(train_text, vocabulary), encode(held_out_text, vocabulary)
print(f"{len(train_ids):,} characters for training, {len(held_out_ids):,} held out")
print(f"{len(vocabulary)} different ones:", "".join(vocabulary).strip())

# %% [markdown]
# ## The model
#
# A layer of LSTM and a dense layer, which gives a score to each character of the vocabulary. The
# text is cut into parallel streams, and each stream into windows. The state goes on from window to
# window. The gradient does not: this is truncated backpropagation through time.
#
# Gradients are clipped at a norm of 0.5. The raw norm is kept for the picture.


# %%
def make_layer(hidden_size, vocabulary):
    return recurrax.Stack((recurrax.LSTMCell(hidden_size), recurrax.Dense(len(vocabulary))))


def logits_of(layer, params, ids, state=None):
    return recurrax.scan(layer, params, jax.nn.one_hot(ids, layer.output_size(1)), state)


@functools.partial(jax.jit, static_argnums=(0, 1))
def train_step(layer, optimizer, params, opt_state, state, window):
    def loss_of(params):
        new_state, logits = logits_of(layer, params, window[:, :-1], state)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, window[:, 1:])
        return losses.mean(), new_state

    (loss, state), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    updates, opt_state = optimizer.update(grads, opt_state)
    squares = jax.tree.map(lambda g: jnp.sum(g**2), grads)
    norm = jnp.sqrt(sum(jax.tree.leaves(squares)))
    return optax.apply_updates(params, updates), opt_state, state, loss, norm


def train(layer, ids, epochs, streams, steps, rate):
    """Returns the parameters, and the loss and the gradient's norm of every training step."""
    windows = (len(ids) - streams) // (streams * steps)
    rows = ids[: streams * (len(ids) // streams)].reshape(streams, -1)  # [B, T]
    schedule = optax.cosine_decay_schedule(rate, epochs * windows, 0.1)
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(schedule))
    params = layer.init(jax.random.key(0), layer.output_size(1))
    opt_state, losses, norms = optimizer.init(params), [], []
    for _ in range(epochs):
        # Each stream begins again at its first character.
        state = layer.initial_state((streams,))
        for window in range(windows):
            part = rows[:, window * steps : (window + 1) * steps + 1]
            params, opt_state, state, loss, norm = train_step(
                layer, optimizer, params, opt_state, state, part
            )
            losses.append(loss)
            norms.append(norm)
    return params, np.array(losses), np.array(norms)


layer = make_layer(128, vocabulary)
params, losses, norms = train(layer, train_ids, epochs=5, streams=16, steps=64, rate=1e-2)
print(f"{len(losses)} training steps")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.2))
left.plot(np.exp(losses), linewidth=0.8)
left.axhline(len(vocabulary), color="grey", linestyle=":", label="a guess among all")
left.set(title="perplexity of each window", xlabel="training step", yscale="log")
left.set_yticks([3, 10, 30, 100], ["3", "10", "30", "100"])
left.minorticks_off()
left.legend()
right.plot(norms, linewidth=0.8, color="tab:green")
right.axhline(0.5, color="tab:red", label="clipped above")
right.set(title="norm of the gradient", xlabel="training step", yscale="log")
right.set_yticks([0.2, 0.5, 1, 2], ["0.2", "0.5", "1", "2"])
right.minorticks_off()
right.legend()
figure.tight_layout()
plt.show()
print(f"clipped in {np.mean(norms > 0.5):.0%} of the training steps")

# %% [markdown]
# ## Perplexity
#
# Perplexity is the exponential of the mean loss. A model with perplexity 5 is as unsure as one that
# guesses among 5 characters. The baselines count in the training text: how often each character
# comes, and how often it comes after the one before.


# %%
@functools.partial(jax.jit, static_argnums=0)
def mean_loss(layer, params, ids):
    _, logits = logits_of(layer, params, ids[:-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, ids[1:]).mean()


V = len(vocabulary)
pairs = np.ones((V, V))  # one of each pair, so that none has probability zero
np.add.at(pairs, (train_ids[:-1], train_ids[1:]), 1)
after = pairs / pairs.sum(axis=1, keepdims=True)
alone = pairs.sum(axis=0) / pairs.sum()
perplexity = {
    "characters counted": np.exp(-np.log(alone[held_out_ids[1:]]).mean()),
    "pairs counted": np.exp(-np.log(after[held_out_ids[:-1], held_out_ids[1:]]).mean()),
    "LSTM": np.exp(float(mean_loss(layer, params, held_out_ids))),
}
for name, value in perplexity.items():
    print(f"{name:20s} perplexity {value:.2f} on the held-out file")
assert perplexity["LSTM"] < 0.7 * perplexity["pairs counted"]

# %% [markdown]
# ## Sampling
#
# `generate` writes a text: it draws a character, reads it, and draws the next one. A
# **temperature** below 1 makes likely characters likelier: the text repeats itself. A temperature
# above 1 makes mistakes. **Top-k** draws among the k likeliest.


# %%
def model_step(token, state):
    state, logits = recurrax.step(layer, params, jax.nn.one_hot(token, V), state)
    return logits, state


def read_prompt(tokens, state, lengths):
    xs = jax.nn.one_hot(tokens, V)
    return recurrax.scan(layer, params, xs, state, lengths=lengths)[0]


@functools.partial(jax.jit, static_argnames=("length", "top_k"))
def write(prompt, key=None, temperature=None, length=200, top_k=None):
    options = {"key": key, "temperature": temperature, "top_k": top_k, "length": length}
    state = layer.initial_state()
    return generate(model_step, state, prompt, read_prompt=read_prompt, **options)


def decode(ids):
    return "".join(vocabulary[number] for number in np.asarray(ids))


prompt_text = "    def __init__(self, "
prompt = jnp.array(encode(prompt_text, vocabulary))
surprise = {}
for temperature in (0.3, 0.8, 1.5):
    text = write(prompt, jax.random.key(2), temperature)
    surprise[temperature] = -float(text.log_probs.mean())
    print(f"--- temperature {temperature}: {surprise[temperature]:.2f} a character\n")
    print(prompt_text + decode(text.tokens).rstrip(), "\n")
print("--- temperature 1, top 3\n")
text = write(prompt, jax.random.key(2), 1.0, top_k=3)
print(prompt_text + decode(text.tokens).rstrip())
assert surprise[0.3] < surprise[0.8] < surprise[1.5]

# %% [markdown]
# The picture shows the eight likeliest characters after `if `, at each temperature.

# %%
ids = jnp.array(encode("        if ", vocabulary))
logits = logits_of(layer, params, ids)[1][-1]
likeliest = np.argsort(-np.asarray(logits))[:8]
figure, axis = plt.subplots(figsize=(8, 3))
for number, temperature in enumerate((0.3, 0.8, 1.5)):
    bars = jax.nn.softmax(logits / temperature)[likeliest]
    axis.bar(np.arange(8) + 0.28 * (number - 1), bars, width=0.26, label=f"{temperature}")
axis.set_xticks(range(8), [repr(vocabulary[number]) for number in likeliest])
axis.set(title="the character after 'if '", ylabel="probability")
axis.legend(title="temperature")
plt.show()

# %% [markdown]
# ## Beam search
#
# The likeliest character at each step need not give the likeliest text. Beam search keeps the 16
# best texts at each step.

# %%
search = jax.jit(functools.partial(beam_search, model_step, beam_size=16, length=24))
begin = read_prompt(prompt[:-1], layer.initial_state(), None)
beams = search(begin, prompt[-1])
greedy = write(prompt, length=24)
greedy_score = float(greedy.log_probs.sum())
print(f"greedy   {greedy_score:6.2f}  {decode(greedy.tokens)!r}")
for rank in range(3):
    print(f"beam {rank + 1}   {float(beams.scores[rank]):6.2f}  {decode(beams.tokens[rank])!r}")
assert float(beams.scores[0]) > greedy_score - 1e-3

# %% [markdown]
# ## What the state has learned
#
# `text_features` computes facts about a text: how far a line is indented, how long it is so far,
# whether a quote or a bracket is open. `find_units` finds the units that follow them. Nobody told
# the network of these facts.

# %%
known_text = "".join(character for character in held_out_text if character in vocabulary)
xs = jax.nn.one_hot(jnp.array(encode(known_text, vocabulary)), V)
states = recurrax.trace(layer.layers[0], params[0], xs).states  # h and c, [T, H]

features = analysis.text_features(known_text)
found = analysis.find_units(jnp.tanh(states.c), features, number=1)
for name, units in found.items():
    unit, correlation = int(units.units[0]), float(units.correlations[0])
    print(f"{name:12s} unit {unit:3d}, correlation {correlation:+.2f}")
best_unit, best = int(found["brackets"].units[0]), float(found["brackets"].correlations[0])
assert abs(best) > 0.3

# %% [markdown]
# The text, colored by the unit that follows the brackets: red is positive, blue is negative. Most
# opening brackets turn it on.

# %%
values = np.sign(best) * np.tanh(np.asarray(states.c[:, best_unit]))
# Begin at the definition of a function.
start = known_text.index("    def pprint(")
shown = slice(start, start + 600)
HTML(analysis.text_html(known_text[shown], values[shown]))

# %% [markdown]
# The same as a picture, and the unit beside its feature.

# %%
lines = known_text[start:].splitlines(keepends=True)
place = start
spread = (values - values.mean()) / values.std()
colors = np.full((12, 80), np.nan)
figure, (upper, lower) = plt.subplots(2, 1, figsize=(10, 6.4), height_ratios=(2, 1))
for row, line in enumerate(lines[:12]):
    for column, character in enumerate(line[:80]):
        colors[row, column] = spread[place + column]
        if character != "\n":
            upper.text(column, row, character, ha="center", va="center", family="monospace")
    place += len(line)
upper.imshow(colors, cmap="RdBu_r", vmin=-3, vmax=3, aspect="auto")
upper.set(title=f"unit {best_unit} in the text")
upper.axis("off")
window = slice(start, place)
feature = features["brackets"][window]
lower.plot(spread[window], label=f"unit {best_unit}")
lower.plot((feature - feature.mean()) / feature.std(), color="grey", label="brackets")
lower.set(xlabel="character", ylabel="in standard deviations")
lower.set(title="the unit, and how many brackets are open")
lower.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
figure.tight_layout()
plt.show()

# %% [markdown]
# ## 中文: a text of Laozi
#
# The textbooks train on a small Chinese text until the model knows it by heart. Here are four
# chapters of the 道德经. A character is a step, so nothing needs to be cut into words.

# %%
classic = """道可道，非常道；名可名，非常名。无名，天地之始；有名，万物之母。\
故常无欲，以观其妙；常有欲，以观其徼。此两者，同出而异名，同谓之玄。玄之又玄，众妙之门。
天下皆知美之为美，斯恶已；皆知善之为善，斯不善已。有无相生，难易相成，长短相形，高下相盈，音声相和，\
前后相随，恒也。是以圣人处无为之事，行不言之教；万物作而弗始，生而弗有，为而弗恃，功成而弗居。夫唯弗居，是以不去。
上善若水。水善利万物而不争，处众人之所恶，故几于道。居善地，心善渊，与善仁，言善信，政善治，事善能，动善时。夫唯不争，故无尤。
三十辐，共一毂，当其无，有车之用。埏埴以为器，当其无，有器之用。凿户牖以为室，当其无，有室之用。故有之以为利，无之以为用。
"""
characters = sorted(set(classic))
classic_ids = encode(classic, characters)
classic_layer = make_layer(64, characters)
classic_params, classic_losses, _ = train(
    classic_layer, classic_ids, epochs=120, streams=2, steps=32, rate=1e-2
)
classic_perplexity = np.exp(classic_losses[-4:].mean())
print(f"{len(classic)} characters, {len(characters)} different ones (不同的字)")
print(f"perplexity (困惑度) {classic_perplexity:.2f} after training")
assert classic_perplexity < 1.5

# %%
figure, axis = plt.subplots(figsize=(8, 2.8))
axis.plot(np.exp(classic_losses))
axis.axhline(1, color="grey", linestyle=":", label="known by heart")
axis.set(title="Laozi: perplexity in training", xlabel="training step", yscale="log")
axis.set_yticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
axis.minorticks_off()
axis.legend()
plt.show()


# %% [markdown]
# Now it continues a line, with the likeliest character at each step.


# %%
def classic_step(token, state):
    x = jax.nn.one_hot(token, len(characters))
    state, logits = recurrax.step(classic_layer, classic_params, x, state)
    return logits, state


begins = ("道可道，非常", "上善若水。水善")
for prefix in begins:
    tokens = jnp.array(encode(prefix, characters))
    state = classic_layer.initial_state()
    written = generate(classic_step, state, tokens, length=26)
    continued = "".join(characters[number] for number in np.asarray(written.tokens))
    print(prefix + continued)
    place = classic.index(prefix) + len(prefix)
    same = sum(a == b for a, b in zip(continued, classic[place:], strict=False))
    print(f"    {same} of 26 characters as in the book")

# %% [markdown]
# [Decoding](../docs/decoding.md) has more ways to write. `examples/char_lm` is this model as a
# program: it saves, resumes, and measures itself.
