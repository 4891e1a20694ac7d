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
# # From PyTorch to recurrax to onnxruntime
#
# This notebook takes one network through three libraries. The network is a tagger: an embedding,
# two bidirectional LSTM layers and a linear layer.
#
# 1. PyTorch trains the tagger for a few steps.
# 2. The tagger moves to recurrax, and gives the same numbers there.
# 3. Flax NNX and optax train it further.
# 4. The tagger is written as ONNX, and onnxruntime serves it.
#
# You will see one curve of the loss, across PyTorch and Flax, and a picture of the tags that
# onnxruntime gives to a line of Python.
#
# The notebook needs `pip install torch onnxruntime` and the extras `interop` and `examples` of
# recurrax.

# %%
import io
import keyword
import sysconfig
import tokenize
from collections import Counter
from pathlib import Path

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import onnxruntime
import optax
import torch
from flax import nnx

import recurrax
from recurrax import interop
from recurrax import nnx as rnn

# %% [markdown]
# ## The data
#
# The data are lines of Python's standard library, as tokens. The tagger tells what role each name
# plays. The token before a name shows an attribute or a definition. The token after it shows a call
# or a keyword argument. A tagger must therefore read in both directions.

# %%
TAGS = ["other", "keyword", "definition", "attribute", "call", "argument", "name"]
MAX_LENGTH = 40


def tag(line, i):
    """Returns the tag of token i of a line."""
    kind, text = line[i]
    # At either end of the line there is no neighbor.
    before = line[i - 1][1] if i > 0 else ""
    after = line[i + 1][1] if i + 1 < len(line) else ""
    if kind != tokenize.NAME:
        return TAGS.index("other")
    if keyword.iskeyword(text):
        return TAGS.index("keyword")
    if before in ("def", "class"):
        return TAGS.index("definition")
    if after == "(":
        return TAGS.index("call")
    if before == ".":
        return TAGS.index("attribute")
    if before in ("(", ",") and after == "=":
        return TAGS.index("argument")
    return TAGS.index("name")


def tagged_lines(source):
    """Yields the tokens and the tags of each line."""
    line = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.NAME, tokenize.OP):
            line.append((token.type, token.string))
        elif token.type in (tokenize.NUMBER, tokenize.STRING):
            # All numbers are one word, and so are all strings.
            line.append((token.type, tokenize.tok_name[token.type]))
        elif token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
            if 1 < len(line) <= MAX_LENGTH:
                tokens = [text for _, text in line]
                yield tokens, [tag(line, i) for i in range(len(line))]
            line = []


# %% [markdown]
# The vocabulary is the 400 most frequent tokens. Number 0 stands for every other token.

# %%
MODULES = ["argparse", "ast", "dataclasses", "datetime", "difflib", "inspect", "pathlib"]
MODULES += ["tarfile", "typing"]

library = Path(sysconfig.get_path("stdlib"))
lines = []
for name in MODULES:
    # From Python 3.13, pathlib is a folder.
    for path in (library / f"{name}.py", library / name / "__init__.py"):
        if path.exists():
            lines.extend(tagged_lines(path.read_text()))

counts = Counter()
for tokens, _ in lines:
    counts.update(tokens)
number_of = {}
for word, _ in counts.most_common(400):
    number_of[word] = len(number_of) + 1


# %%
def encode(tokens):
    return np.array([number_of.get(token, 0) for token in tokens], np.int32)


examples = []
for tokens, tags in lines:
    examples.append((encode(tokens), np.array(tags, np.int32)))

# The order is random, so the test lines come from every module.
order = list(range(len(examples)))
np.random.default_rng(0).shuffle(order)
test = [examples[i] for i in order[:400]]
train = [examples[i] for i in order[400:]]
print(len(train), "lines to train on,", len(test), "to test; the first test line:", test[0])

# %% [markdown]
# ## In PyTorch


# %%
class Tagger(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(len(number_of) + 1, 24)
        self.lstm = torch.nn.LSTM(24, 32, num_layers=2, bidirectional=True, batch_first=True)
        self.head = torch.nn.Linear(64, len(TAGS))

    def forward(self, ids, lengths):
        xs = self.embed(ids)
        # PyTorch needs packing, or the backward direction would begin in the padding.
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            xs, lengths, batch_first=True, enforce_sorted=False
        )
        packed, _ = self.lstm(packed)
        ys, _ = torch.nn.utils.rnn.pad_packed_sequence(
            packed, batch_first=True, total_length=MAX_LENGTH
        )
        return self.head(ys)


def batches(examples, size=32):
    """Yields batches of one shape, with the lengths of the lines.

    Lines without tokens fill the last batch.
    """
    return recurrax.data.batch_by_length(examples, lengths=(MAX_LENGTH,), batch_size=size)


# %% [markdown]
# The loss is the mean over tokens. The padding does not count.

# %%
torch.manual_seed(0)
model = Tagger()
adam = torch.optim.Adam(model.parameters(), 1e-2)
torch_losses = []
for step, batch in zip(range(40), batches(train), strict=False):
    ids, tags = batch.xs
    ids = torch.from_numpy(ids).long()
    tags = torch.from_numpy(tags).long()
    lengths = torch.from_numpy(batch.lengths)
    mask = torch.arange(MAX_LENGTH) < lengths[:, None]
    logits = model(ids, lengths)
    loss = torch.nn.functional.cross_entropy(logits[mask], tags[mask])
    adam.zero_grad()
    loss.backward()
    adam.step()
    torch_losses.append(loss.item())
    if step % 10 == 9:
        print(f"step {step + 1}: {loss.item():.3f} nats")

# %% [markdown]
# ## To recurrax
#
# `from_torch` reads the LSTM layers and their parameters from the model. The linear layer becomes a
# `Dense`, and the embedding a lookup in an array. In recurrax the tagger is one stack: two
# bidirectional LSTMs and the `Dense`.


# %%
def to_jax(tensor):
    return jnp.asarray(tensor.detach().numpy())


bilstm, bilstm_params = interop.from_torch(model, prefix="lstm")
# PyTorch stores a kernel as [outputs, inputs], recurrax as [inputs, outputs].
head = recurrax.layers.DenseParams(to_jax(model.head.weight).T, to_jax(model.head.bias))
embedding = to_jax(model.embed.weight)

layer = recurrax.Stack((*bilstm.layers, recurrax.Dense(len(TAGS))))
params = (*bilstm_params, head)
print(layer)

# %% [markdown]
# Both libraries give the same logits for the test lines.

# %%
batch = next(batches(test, 400))
ids, tags = batch.xs
lengths = batch.lengths
mask = np.arange(MAX_LENGTH) < lengths[:, None]

with torch.no_grad():
    theirs = model(torch.from_numpy(ids).long(), torch.from_numpy(lengths)).numpy()
_, ours = recurrax.scan(layer, params, embedding[ids], lengths=lengths)
# In the padding the outputs differ: recurrax gives zeros, and PyTorch gives the bias.
difference = np.abs(theirs - ours)[mask].max()
print("the largest difference:", difference)
assert difference < 1e-5

# %% [markdown]
# ## Further training
#
# Flax NNX and optax start with the parameters that PyTorch has trained.


# %%
class NNXTagger(nnx.Module):
    def __init__(self, embedding, layer, params):
        self.embedding = nnx.Param(embedding)
        input_size = embedding.shape[1]
        self.rnn = rnn.Recurrent(layer, input_size, params=params, rngs=nnx.Rngs(0))

    def __call__(self, ids, lengths):
        logits, _ = self.rnn(self.embedding[ids], lengths=lengths)
        return logits


@nnx.jit
def train_step(tagger, optimizer, ids, tags, lengths):
    def loss_of(tagger):
        logits = tagger(ids, lengths)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tags)
        return losses.mean(where=recurrax.lengths_to_mask(lengths, MAX_LENGTH))

    loss, grads = nnx.value_and_grad(loss_of)(tagger)
    optimizer.update(tagger, grads)
    return loss


def accuracy(logits):
    """Returns the share of the test tokens that get the right tag."""
    best = np.asarray(logits).argmax(-1)
    return (best == tags)[mask].mean()


# %%
tagger = NNXTagger(embedding, layer, params)
optimizer = nnx.Optimizer(tagger, optax.adam(5e-3), wrt=nnx.Param)

before = accuracy(tagger(ids, lengths))
nnx_losses = []
for batch in batches(train):
    nnx_losses.append(float(train_step(tagger, optimizer, *batch.xs, batch.lengths)))
after = accuracy(tagger(ids, lengths))
print(f"right tags: {before:.1%} before, {after:.1%} after")
assert after > before

# %% [markdown]
# The loss goes on where PyTorch stopped.

# %%
switch = len(torch_losses)
figure, axis = plt.subplots(figsize=(9, 3))
axis.plot(range(switch), torch_losses, color="tab:orange", label="PyTorch")
axis.plot(range(switch, switch + len(nnx_losses)), nnx_losses, label="Flax NNX")
axis.axvline(switch - 0.5, color="grey", linewidth=0.8, linestyle=":")
axis.set(title="one training in two libraries", xlabel="training step", yscale="log")
axis.set(ylabel="loss, nats a token")
axis.set_yticks([0.001, 0.01, 0.1, 1], ["0.001", "0.01", "0.1", "1"])
axis.minorticks_off()
axis.legend()
plt.show()

# %% [markdown]
# ## To ONNX
#
# The recurrent layers become `LSTM` operators of ONNX. The model takes numbers of tokens and
# returns logits, for any batch size and any length.

# %%
params = rnn.params_of(tagger.rnn)
onnx_model = interop.to_onnx(layer, params, embedding=tagger.embedding[...], lengths=True)
operators = {node.op_type for node in onnx_model.graph.node}
print("operators:", ", ".join(sorted(operators)))

session = onnxruntime.InferenceSession(onnx_model.SerializeToString())
for value in (*session.get_inputs(), *session.get_outputs()):
    print(value.name, value.shape)

# %% [markdown]
# onnxruntime gives the logits of the trained tagger.

# %%
(logits,) = session.run(["ys"], {"ids": ids, "lengths": lengths})
expected = np.asarray(tagger(ids, lengths))
difference = np.abs(logits - expected)[mask].max()
print("the largest difference:", difference)
assert difference < 1e-5
print(f"onnxruntime gets {accuracy(logits):.1%} of the tags right")

# %% [markdown]
# At last, one line that is not in the data.

# %%
text = "value = self.lookup(key, default=None).strip()\n"
tokens, _ = next(tagged_lines(text))
inputs = {"ids": encode(tokens)[None], "lengths": np.array([len(tokens)], np.int32)}
(logits,) = session.run(["ys"], inputs)
for token, best in zip(tokens, logits[0].argmax(-1), strict=True):
    print(f"{token}/{TAGS[best]}", end=" ")

# %%
odds = np.exp(logits[0])
probabilities = odds / odds.sum(axis=-1, keepdims=True)  # [T, tags]
figure, axis = plt.subplots(figsize=(9, 3))
image = axis.imshow(probabilities.T, cmap="Blues", vmin=0, vmax=1, aspect="auto")
axis.set_xticks(range(len(tokens)), tokens, family="monospace", rotation=45, ha="right")
axis.set_yticks(range(len(TAGS)), TAGS)
axis.set(title="what onnxruntime says about each token")
figure.colorbar(image, label="probability of the tag")
plt.show()
