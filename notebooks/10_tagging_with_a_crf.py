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
# # Tagging with a BiLSTM and a CRF
#
# A tagger gives each word a label. A bidirectional LSTM reads the sentence, and a conditional
# random field (CRF) makes the labels fit each other. You will see:
#
# - a BiLSTM that labels each word by itself, and spans that break,
# - the CRF's paths through a sentence, drawn as a lattice,
# - the sums of the forward algorithm and the best path, checked by trying every labeling,
# - which transitions the CRF learns without being told.

# %%
import itertools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import recurrax
from recurrax.losses import crf

# %% [markdown]
# ## Names that are persons or places
#
# Jordan is a person or a country, and every name here is like this. The words beside it tell which:
# people *said* something, and trains go *to* a place. After "we like" nothing tells. Labels are
# BIO: `B-PER` begins a person, `I-PER` continues it, and `O` is outside of every name.

# %%
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
names_text = """
Jordan Victoria Chelsea Paris Austin Madison Florence Israel Georgia Carolina Lincoln Hamilton
Houston Jackson Sydney Charlotte Savannah Brooklyn Camden Orlando Hill Lake Woods Rivers Ford Stone
Banks Field Park West
"""
NAMES = names_text.split()
SENTENCES = (
    # P is a person, L a place, and ? one of the two.
    "{P} said hello",
    "yesterday {P} laughed",
    "we asked {P} again",
    "the train to {L}",
    "it rains in {L} today",
    "{L} has a harbor",
    "we like {?}",
    "they spoke about {?} again",
)


def draw_sentence(random):
    """Draws the words of a sentence and the numbers of their labels."""
    words, labels = [], []
    for part in random.choice(SENTENCES).split():
        kind = {"{P}": "PER", "{L}": "LOC", "{?}": random.choice(["PER", "LOC"])}.get(part)
        if kind is None:
            words.append(part)
            labels.append(LABELS.index("O"))
            continue
        # A name has one to three words.
        name = random.choice(NAMES, size=random.integers(1, 4), replace=False)
        words.extend(str(word) for word in name)
        begin = LABELS.index(f"B-{kind}")
        labels.extend([begin] + [begin + 1] * (len(name) - 1))
    return words, labels


random = np.random.default_rng(0)
vocabulary = sorted(set(NAMES) | set(" ".join(SENTENCES).split()))
for _ in range(4):
    words, labels = draw_sentence(random)
    print(" ".join(f"{word}/{LABELS[label]}" for word, label in zip(words, labels, strict=True)))


# %%
def draw_batch(random, number):
    """Draws `[B, T]` words, `[B, T]` labels and `[B]` lengths, right-padded to T = 8."""
    ids, numbers = np.zeros((number, 8), int), np.zeros((number, 8), int)
    lengths = np.zeros(number, int)
    for row in range(number):
        words, labels = draw_sentence(random)
        lengths[row] = len(words)
        ids[row, : len(words)] = [vocabulary.index(word) for word in words]
        numbers[row, : len(words)] = labels
    return jnp.array(ids), jnp.array(numbers), jnp.array(lengths)


train_set = draw_batch(random, 4096)
test_set = draw_batch(random, 512)

# %% [markdown]
# ## Two taggers
#
# Both have the same BiLSTM. A dense layer turns its outputs into a score for each word and label:
# the **emissions**. The first tagger takes a softmax at each word. The second adds the CRF, with a
# score for each pair of neighboring labels, and normalizes over complete labelings:
#
#     score(y) = start[y_1] + Σ emissions[t, y_t] + Σ transitions[y_{t-1}, y_t] + end[y_T]

# %%
reader = recurrax.Stack((recurrax.Bidirectional(recurrax.LSTMCell(16)), recurrax.Dense(5)))


def emissions_of(weights, ids, lengths):
    _, ys = recurrax.scan(reader, weights["reader"], weights["embedding"][ids], lengths=lengths)
    return ys  # [B, T, L]


def softmax_loss(weights, ids, labels, lengths):
    emissions = emissions_of(weights, ids, lengths)
    losses = optax.softmax_cross_entropy_with_integer_labels(emissions, labels)
    return jnp.sum(losses * recurrax.lengths_to_mask(lengths, 8)) / len(ids)


def crf_loss(weights, ids, labels, lengths):
    emissions = emissions_of(weights, ids, lengths)
    return -crf.log_likelihood(weights["crf"], emissions, labels, lengths=lengths).mean()


def train(loss_of, epochs=5):
    """Returns the trained weights and the loss of each training step."""
    keys = jax.random.split(jax.random.key(0), 3)
    weights = {
        "embedding": 0.3 * jax.random.normal(keys[0], (len(vocabulary), 12)),
        "reader": reader.init(keys[1], 12),
        "crf": crf.init(keys[2], len(LABELS)),
    }
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))

    @jax.jit
    def train_step(weights, state, *batch):
        loss, grads = jax.value_and_grad(loss_of)(weights, *batch)
        updates, state = adam.update(grads, state)
        return optax.apply_updates(weights, updates), state, loss

    state, losses = adam.init(weights), []
    order = np.random.default_rng(1)
    for _ in range(epochs):
        for rows in order.permutation(4096).reshape(128, 32):
            batch = (part[rows] for part in train_set)
            weights, state, loss = train_step(weights, state, *batch)
            losses.append(float(loss))
    return weights, losses


softmax_weights, softmax_losses = train(softmax_loss)
crf_weights, crf_losses = train(crf_loss)
print(f"softmax: loss {softmax_losses[0]:.2f}, then {np.mean(softmax_losses[-128:]):.2f}")
print(f"CRF:     loss {crf_losses[0]:.2f}, then {np.mean(crf_losses[-128:]):.2f}")

# %%
figure, axis = plt.subplots(figsize=(8, 3))
for losses, name in ((softmax_losses, "softmax at each word"), (crf_losses, "CRF")):
    # The mean of 20 neighbors.
    axis.plot(np.convolve(losses, np.ones(20) / 20, mode="valid"), label=name)
axis.axhline(np.log(2) / 2, color="grey", linestyle=":", linewidth=1, label="best possible")
axis.axhline(np.log(2) / 4, color="grey", linestyle=":", linewidth=1)
axis.set(title="training", xlabel="training step", ylabel="loss of a sentence")
axis.set(yscale="log")
axis.set_yticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
axis.minorticks_off()
axis.legend()
plt.show()

# %% [markdown]
# The dotted lines can be computed. A quarter of the sentences does not tell the type of the name.
# So the best loss is log 2 / 4 = 0.17 on average. The softmax pays once for each word of the name.
# A name has two words on average, and so its best loss is 0.35.

# %% [markdown]
# ## Broken spans
#
# After "we like", person and place are equally likely. The softmax decides at each word by itself.
# So it may begin a person and continue a place, which is no name at all. The CRF decides once for
# the sentence. `allowed` forbids broken spans altogether.


# %%
def spans(labels):
    """Returns the spans of a labeling as a set of (first, last, type), and the broken labels."""
    found, broken, begin = set(), 0, None
    names = [LABELS[label] for label in labels]
    for t, name in enumerate(names):
        before = names[t - 1] if t else "O"
        starts = name.startswith("B")
        # I-X must follow B-X or I-X.
        if name.startswith("I") and before[1:] != name[1:]:
            broken += 1
            starts = True
        if starts:
            begin = t
        goes_on = t + 1 < len(names) and names[t + 1] == f"I{name[1:]}"
        if name != "O" and not goes_on:
            found.add((begin, t, name[2:]))
    return found, broken


def measure(labelings):
    """Returns the F1 score over the spans, and the number of broken labels."""
    right = predicted = expected = broken = 0
    for row, length in enumerate(np.asarray(lengths)):
        ours, faults = spans(np.asarray(labelings[row, :length]))
        theirs, _ = spans(np.asarray(labels[row, :length]))
        right += len(ours & theirs)
        predicted += len(ours)
        expected += len(theirs)
        broken += faults
    return 2 * right / (predicted + expected), broken


ids, labels, lengths = test_set
rules = crf.bio_constraints(LABELS)
softmax_emissions = emissions_of(softmax_weights, ids, lengths)
emissions = emissions_of(crf_weights, ids, lengths)
table = crf_weights["crf"]
best_paths, _ = crf.viterbi(table, emissions, lengths=lengths)
lawful_paths, _ = crf.viterbi(table, emissions, lengths=lengths, allowed=rules)
predictions = {
    "softmax": softmax_emissions.argmax(axis=-1),
    "CRF": best_paths,
    "CRF, with rules": lawful_paths,
}
scores = {}
for name, labelings in predictions.items():
    scores[name] = measure(labelings)
    print(f"{name:16s} F1 {scores[name][0]:.3f}, broken labels {scores[name][1]}")

# %%
assert scores["softmax"][1] > 0
assert scores["CRF"][1] < scores["softmax"][1]
assert scores["CRF, with rules"][1] == 0
assert scores["CRF"][0] > 0.8

# %% [markdown]
# No tagger can be right everywhere: half of the guesses after "we like" must be wrong.
#
# ## The lattice
#
# A sentence of T words and L labels has L to the power of T labelings. They are the paths through a
# lattice of T columns. A large circle is a likely label (`marginals`). A thick blue line is a
# likely pair of labels (`pair_marginals`). The red path is the best one (`viterbi`).


# %%
def draw_lattice(axis, sentence):
    words = sentence.split()
    sentence_ids = jnp.array([[vocabulary.index(word) for word in words]])
    scores = emissions_of(crf_weights, sentence_ids, jnp.array([len(words)]))[0]  # [T, L]
    nodes = crf.marginals(crf_weights["crf"], scores)  # [T, L]
    pairs = crf.pair_marginals(crf_weights["crf"], scores)  # [T-1, L, L]
    path, _ = crf.viterbi(crf_weights["crf"], scores)
    for t, i, j in itertools.product(range(len(words) - 1), range(5), range(5)):
        # A thin line for every path, and a thick one where the probability is.
        axis.plot([t, t + 1], [i, j], color="lightgrey", linewidth=0.5, zorder=1)
        width = 6 * float(pairs[t, i, j])
        axis.plot([t, t + 1], [i, j], color="tab:blue", linewidth=width, alpha=0.6, zorder=2)
    axis.plot(path, color="tab:red", linewidth=1.5, zorder=3, label="best path")
    for t, i in itertools.product(range(len(words)), range(5)):
        area = 25 + 400 * float(nodes[t, i])
        axis.scatter(t, i, s=area, color="white", edgecolor="black", zorder=4)
    axis.set_xticks(range(len(words)), words)
    axis.set_yticks(range(5), LABELS)
    axis.set(ylim=(5.2, -0.6), xlim=(-0.4, len(words) - 0.6))
    axis.spines[["top", "right"]].set_visible(False)
    return nodes, scores, path


figure, panels = plt.subplots(1, 2, figsize=(12, 4.2), sharey=True)
clear, _, _ = draw_lattice(panels[0], "we asked Jordan Hill again")
unclear, scores, path = draw_lattice(panels[1], "we like Jordan Hill")
panels[0].set(title="a person: the words beside the name tell it")
panels[1].set(title="person or place: two paths are likely")
panels[0].legend(loc="lower left")
figure.tight_layout()
plt.show()

# %%
person = [float(nodes[2, LABELS.index("B-PER")]) for nodes in (clear, unclear)]
print(f"Jordan begins a person: {person[0]:.3f} when asked, {person[1]:.3f} when liked")
assert person[0] > 0.95
assert 0.1 < person[1] < 0.9

# %% [markdown]
# ## Forward and Viterbi
#
# The **forward** algorithm sums over all paths in T rounds: the sum for a label comes from the sums
# one word before. **Viterbi** takes the maximum in place of the sum, and so finds the best path.

# %%
table = jax.tree.map(np.asarray, crf_weights["crf"])
scores = np.asarray(scores, np.float64)  # [T, L]
forward = table.start + scores[0]  # the log of the sum over all paths to each label, [L]
best = table.start + scores[0]  # the score of the best path to each label, [L]
for t in range(1, len(scores)):
    # Entry [i, j] goes from label i to label j.
    forward = np.logaddexp.reduce(forward[:, None] + table.transitions, axis=0) + scores[t]
    best = (best[:, None] + table.transitions).max(axis=0) + scores[t]
log_z = np.logaddexp.reduce(forward + table.end)
best_score = (best + table.end).max()

# %% [markdown]
# This sentence has 5 to the power of 4 labelings, so all of them can be tried.

# %%
labelings = list(itertools.product(range(5), repeat=len(scores)))
all_scores = []
for labeling in labelings:
    score = table.start[labeling[0]] + table.end[labeling[-1]]
    for t, label in enumerate(labeling):
        score += scores[t, label]
    for before, after in itertools.pairwise(labeling):
        score += table.transitions[before, after]
    all_scores.append(score)
print(f"{len(labelings)} labelings")
print(f"log Z: forward {log_z:.4f}, all labelings {np.logaddexp.reduce(all_scores):.4f}")
print(f"best:  Viterbi {best_score:.4f}, all labelings {max(all_scores):.4f}")
assert np.isclose(log_z, np.logaddexp.reduce(all_scores))
assert np.isclose(best_score, max(all_scores))
assert np.isclose(log_z, crf.log_partition(crf_weights["crf"], jnp.float32(scores)), atol=1e-3)
assert labelings[int(np.argmax(all_scores))] == tuple(path.tolist())

# %%
numbers, path_scores = crf.k_best(crf_weights["crf"], jnp.float32(scores), 4)
for labeling, score in zip(numbers, path_scores, strict=True):
    names = " ".join(f"{LABELS[label]:5s}" for label in labeling)
    print(f"{names}  probability {float(np.exp(score - log_z)):.3f}")

# %% [markdown]
# ## What the transitions learned
#
# Nobody told the CRF the rules of BIO. Its scores of the forbidden transitions went down, since no
# sentence has them.

# %%
figure, axis = plt.subplots(figsize=(6, 4.6))
limit = float(np.abs(table.transitions).max())
image = axis.imshow(table.transitions, cmap="RdBu_r", vmin=-limit, vmax=limit)
figure.colorbar(image, label="score")
for i, j in itertools.product(range(5), range(5)):
    text = f"{table.transitions[i, j]:.1f}"
    if not rules.transitions[i, j]:
        text += "\nforbidden"
    color = "white" if abs(table.transitions[i, j]) > 0.6 * limit else "black"
    axis.text(j, i, text, ha="center", va="center", fontsize=7, color=color)
axis.set_xticks(range(5), LABELS)
axis.set_yticks(range(5), LABELS)
axis.set(title="score of each transition, as learned", xlabel="label", ylabel="label before it")
figure.tight_layout()
plt.show()

# %%
forbidden = table.transitions[~rules.transitions]
goes_on = [table.transitions[i, i + 1] for i in (1, 3)]
print(f"forbidden: mean {forbidden.mean():.2f}; B-X to I-X: {goes_on[0]:.2f}, {goes_on[1]:.2f}")
assert forbidden.mean() < -0.5
assert min(goes_on) > forbidden.max()

# %% [markdown]
# [The page on tagging](../docs/tagging.md) has the same model as a Flax module. `examples/tagger`
# is a program that reads a Chinese newspaper.
