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
# A tagger, that is an embedding, two bidirectional LSTM layers and a linear layer, is trained a little in PyTorch,
# moved to recurrax, found equal, trained on with Flax NNX and optax, written as ONNX, and served by onnxruntime. It
# needs `pip install torch onnxruntime` beside recurrax' `interop` and `examples`.

# %%
import io
import keyword
import sysconfig
import tokenize
from collections import Counter
from pathlib import Path

import jax.numpy as jnp
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
# Lines of Python's standard library, token by token; names are to be told apart by what they are there for. What a name
# is, the token before it tells (an attribute, a definition) or the one after it (a call, a keyword argument), so a
# tagger must look both ways.

# %%
TAGS = ["other", "keyword", "definition", "attribute", "call", "argument", "name"]


def lines(source):
    """For each line its tokens, and the tag of each."""
    line = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
            if 1 < len(line) <= 40:
                yield [text for _, text in line], [tag(line, i) for i in range(len(line))]
            line = []
        elif token.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING):
            text = token.string if token.type in (tokenize.NAME, tokenize.OP) else tokenize.tok_name[token.type]
            line.append((token.type, text))


def tag(line, i):
    kind, text = line[i]
    before = line[i - 1][1] if i else ""
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
    return TAGS.index("argument" if before in ("(", ",") and after == "=" else "name")


library = Path(sysconfig.get_path("stdlib"))
examples = [
    example
    for name in ("argparse", "ast", "dataclasses", "datetime", "difflib", "inspect", "pathlib", "tarfile", "typing")
    for path in [library / f"{name}.py", *(library / name).glob("__init__.py")]
    if path.exists()
    for example in lines(path.read_text())
]
words = [word for word, _ in Counter(word for text, _ in examples for word in text).most_common(400)]
index = {word: number for number, word in enumerate(words, start=1)}  # 0 is any other word
examples = [
    (np.array([index.get(word, 0) for word in text], np.int32), np.array(tags, np.int32)) for text, tags in examples
]
np.random.default_rng(0).shuffle(held := list(range(len(examples))))
test, train = [examples[i] for i in held[:400]], [examples[i] for i in held[400:]]
print(len(train), "lines to train on,", len(test), "to test; the first of these:", test[0])

# %% [markdown]
# ## In PyTorch


# %%
class Tagger(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(len(words) + 1, 24)
        self.lstm = torch.nn.LSTM(24, 32, num_layers=2, bidirectional=True, batch_first=True)
        self.head = torch.nn.Linear(64, len(TAGS))

    def forward(self, ids, lengths):
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            self.embed(ids), lengths, batch_first=True, enforce_sorted=False
        )
        output, _ = torch.nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=40)
        return self.head(output)


def batches(examples, size=32):
    """Of one shape, with the lengths of the lines; the last is filled up with lines of no tokens."""
    return recurrax.batch_by_length(examples, lengths=(40,), batch_size=size)


torch.manual_seed(0)
model = Tagger()
adam = torch.optim.Adam(model.parameters(), 1e-2)
for step, batch in zip(range(40), batches(train), strict=False):
    ids, tags = (torch.from_numpy(x).long() for x in batch.xs)
    lengths = torch.from_numpy(batch.lengths)
    real = torch.arange(40) < lengths[:, None]
    loss = torch.nn.functional.cross_entropy(model(ids, lengths)[real], tags[real])
    adam.zero_grad()
    loss.backward()
    adam.step()
    if step % 10 == 9:
        print(f"step {step + 1}: {loss.item():.3f} nats")

# %% [markdown]
# ## To recurrax
#
# `from_torch` reads the recurrent layer out of the model; an embedding and a linear layer are a lookup and a product.
# The whole is a stack: two bidirectional LSTMs and a `Dense`.

# %%
bilstm, params = interop.from_torch(model, prefix="lstm")
head = recurrax.DenseParams(*(jnp.asarray(p.detach().numpy().T) for p in model.head.parameters()))
embedding = jnp.asarray(model.embed.weight.detach().numpy())
layer, params = recurrax.Stack((*bilstm.layers, recurrax.Dense(len(TAGS)))), (*params, head)
print(layer)

batch = next(batches(test, 400))
ids, tags = batch.xs
with torch.no_grad():
    theirs = model(torch.from_numpy(ids).long(), torch.from_numpy(batch.lengths)).numpy()
_, ours = recurrax.scan(layer, params, embedding[ids], lengths=batch.lengths)
real = np.arange(40) < batch.lengths[:, None]
print("the largest difference:", np.abs(theirs - ours)[real].max())
assert np.abs(theirs - ours)[real].max() < 1e-5

# %% [markdown]
# ## Trained on
#
# With Flax NNX and optax, from where PyTorch stopped.


# %%
class NNXTagger(nnx.Module):
    def __init__(self, embedding, layer, params):
        self.embedding = nnx.Param(embedding)
        self.rnn = rnn.Recurrent(layer, embedding.shape[1], params=params, rngs=nnx.Rngs(0))

    def __call__(self, ids, lengths):
        return self.rnn(self.embedding[ids], lengths=lengths)[0]


@nnx.jit
def train_step(tagger, optimizer, ids, tags, lengths):
    def loss_of(tagger):
        losses = optax.softmax_cross_entropy_with_integer_labels(tagger(ids, lengths), tags)
        return losses.mean(where=recurrax.lengths_to_mask(lengths, 40))

    loss, grads = nnx.value_and_grad(loss_of)(tagger)
    optimizer.update(tagger, grads)
    return loss


def accuracy(logits):
    return (np.asarray(logits).argmax(-1) == tags)[real].mean()


tagger = NNXTagger(embedding, layer, params)
optimizer = nnx.Optimizer(tagger, optax.adam(5e-3), wrt=nnx.Param)
before = accuracy(tagger(ids, batch.lengths))
for some in batches(train):
    loss = train_step(tagger, optimizer, *some.xs, some.lengths)
after = accuracy(tagger(ids, batch.lengths))
print(f"tags right: {before:.1%} when it came, {after:.1%} now")
assert after > before

# %% [markdown]
# ## To ONNX
#
# The recurrent layers become ONNX' own `LSTM` operators. Ids go in, logits come out, for any batch and any length.

# %%
params = rnn.params_of(tagger.rnn)
onnx_model = interop.to_onnx(layer, params, embedding=tagger.embedding[...], lengths=True)
print("operators:", ", ".join(sorted({node.op_type for node in onnx_model.graph.node})))

session = onnxruntime.InferenceSession(onnx_model.SerializeToString())
print("inputs:", {i.name: i.shape for i in session.get_inputs()})
print("outputs:", {o.name: o.shape for o in session.get_outputs()})

# %%
(logits,) = session.run(["ys"], {"ids": ids, "lengths": batch.lengths})
expected = np.asarray(tagger(ids, batch.lengths))
print("the largest difference:", np.abs(logits - expected)[real].max())
assert np.abs(logits - expected)[real].max() < 1e-5
print(f"served, it has {accuracy(logits):.1%} of the tags right")

text = "value = self.lookup(key, default=None).strip()"
tokens, _ = next(lines(text + "\n"))
line = np.array([[index.get(word, 0) for word in tokens]], np.int32)
(logits,) = session.run(["ys"], {"ids": line, "lengths": np.array([len(tokens)], np.int32)})
print(*(f"{token}/{TAGS[best]}" for token, best in zip(tokens, logits[0].argmax(-1), strict=True)))
