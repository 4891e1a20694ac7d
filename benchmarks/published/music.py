"""Polyphonic music: a recurrent network predicts which of 88 keys sound at the next step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import recurrax
from benchmarks.published.presets import CELLS, Recipe
from examples.music.model import step_losses
from examples.music.pieces import KEYS, Parts, padded
from recurrax import nnx as rnn


class Windows(NamedTuple):
    """The training data of one epoch, N windows of B streams, each T steps long.

    Attributes:
        xs: `uint8[N, B, T, 88]`, the keys of each step.
        targets: `uint8[N, B, T, 88]`, the keys of the step after it.
        reset: `bool[N, B, T]`, True at the first step of a piece.
        mask: `bool[N, B, T]`, False after the last piece.
    """

    xs: Any
    targets: Any
    reset: Any
    mask: Any


def windows_of(pieces: list[np.ndarray], rows: int, window: int, draw: np.random.Generator) -> Windows:
    """Puts the pieces one after another in a drawn order, and divides them into streams and windows.

    A stream that begins within a piece begins with the zero state. All other steps have their complete past.
    """
    order = draw.permutation(len(pieces))
    inputs, targets, reset = [], [], []
    for index in order:
        piece = pieces[index]
        inputs.append(piece[:-1])
        targets.append(piece[1:])
        first = np.zeros(len(piece) - 1, bool)
        first[0] = True
        reset.append(first)
    steps = sum(map(len, reset))
    number = math.ceil(steps / (rows * window))
    mask = np.ones(steps, bool)

    def divided(parts: list[np.ndarray]) -> np.ndarray:
        flat = np.concatenate(parts)
        missing = number * rows * window - steps
        flat = np.pad(flat, ((0, missing), *[(0, 0)] * (flat.ndim - 1)))
        streams = flat.reshape(rows, number, window, *flat.shape[1:])
        # Window n of all streams is one update.
        return np.moveaxis(streams, 1, 0)  # [N, B, T, ...]

    return Windows(divided(inputs), divided(targets), divided(reset), divided([mask]))


def layer_of(cell: str, recipe: Recipe) -> recurrax.Layer:
    """Makes the network: keys to logits of keys, with its regularization."""
    layers: list[recurrax.Layer] = [recurrax.Dropout(recipe.input_dropout)]
    for _ in range(recipe.layers):
        recurrent: recurrax.Layer = CELLS[cell](recipe.hidden_size)
        if recipe.weight_drop:
            recurrent = recurrax.WeightDrop(recurrent, recipe.weight_drop)
        layers += [recurrent, recurrax.Dropout(recipe.output_dropout, shared=True)]
    layers.append(recurrax.Dense(KEYS))
    return recurrax.Stack(tuple(layers))


def key_logits(pieces: list[np.ndarray]) -> np.ndarray:
    """How often each key sounds, as logits `[88]`. A model that knows no more begins with these."""
    rolls = np.concatenate(pieces)
    # One imagined step with each key, and one without, keep the logits finite.
    share = (rolls.sum(axis=0) + 1) / (len(rolls) + 2)
    return np.log(share / (1 - share)).astype(np.float32)


class Trained(NamedTuple):
    """What changes from one update to the next.

    Attributes:
        params: the parameters that the optimizer moves.
        averaged: their moving average, which is scored.
        opt_state: the state of the optimizer.
    """

    params: Any
    averaged: Any
    opt_state: Any


class Trainer:
    """The compiled functions of a run."""

    def __init__(self, cell: str, recipe: Recipe, pieces: list[np.ndarray], seed: int):
        self.recipe = recipe
        layer = layer_of(cell, recipe)
        weights = layer.init(jax.random.key(seed), KEYS)
        head = weights[-1]._replace(bias=jnp.asarray(key_logits(pieces)))
        weights = (*weights[:-1], head)
        model = rnn.Recurrent(layer, KEYS, params=weights, rngs=nnx.Rngs(dropout=seed))
        parts: tuple[Any, ...] = nnx.split(model, nnx.Param, ...)
        self.graphdef, self.params, self.rest = parts
        steps = sum(len(piece) - 1 for piece in pieces)
        updates = recipe.epochs * math.ceil(steps / (recipe.rows * recipe.window))
        rate = optax.cosine_onecycle_schedule(updates, recipe.rate, pct_start=0.05)
        decayed = partial(jax.tree.map, lambda leaf: leaf.ndim > 1)
        self.optimizer = optax.chain(
            optax.clip_by_global_norm(recipe.clip),
            optax.adamw(rate, weight_decay=recipe.weight_decay, mask=decayed),
        )

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    def model(self, params: nnx.State) -> rnn.Recurrent:
        """The module with these parameters."""
        return nnx.merge(self.graphdef, params, self.rest, copy=True)

    def first(self) -> Trained:
        """What training begins with."""
        # The first epoch takes the memory of its arguments, so no two of them share any.
        params, averaged = (jax.tree.map(jnp.array, self.params) for _ in range(2))
        return Trained(params, averaged, self.optimizer.init(params))

    @partial(jax.jit, static_argnums=0, donate_argnums=1)
    def epoch(self, trained: Trained, windows: Windows, key: jax.Array) -> tuple[Trained, jax.Array]:
        """Takes an update for each window; returns what changed, and the mean loss."""
        number, rows = windows.reset.shape[:2]

        def update(before: tuple, of_window: tuple) -> tuple[tuple, jax.Array]:
            (params, averaged, opt_state), state = before
            window, key = of_window

            def loss_of(params: Any) -> tuple[jax.Array, Any]:
                xs = window.xs.astype(jnp.float32)  # [B, T, 88]
                flags = {"reset": window.reset, "mask": window.mask}
                logits, after = self.model(params)(xs, state, **flags, deterministic=False, rngs=key)
                losses = step_losses(logits, window.targets)  # [B, T]
                total = jnp.sum(losses, where=window.mask)
                steps = jnp.maximum(window.mask.sum(), 1).astype(total.dtype)
                return total / steps, after

            # The state enters as a constant: truncated backpropagation through time.
            (loss, state), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
            updates, opt_state = self.optimizer.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
            averaged = optax.incremental_update(params, averaged, 1 - self.recipe.average)
            return (Trained(params, averaged, opt_state), state), loss

        state = self.model(trained.params).initial_state((rows,))
        keys = jax.random.split(key, number)
        (trained, _), losses = jax.lax.scan(update, (trained, state), (windows, keys))
        return trained, losses.mean()

    @partial(jax.jit, static_argnums=0)
    def total(self, params: Any, xs: jax.Array, targets: jax.Array, lengths: jax.Array) -> jax.Array:
        """The sum of the losses of all steps, without dropout."""
        logits, _ = self.model(params)(xs.astype(jnp.float32), lengths=lengths, deterministic=True)
        steps = jnp.arange(xs.shape[1])[None]  # [1, T]
        return jnp.sum(step_losses(logits, targets), where=steps < lengths[:, None])

    def score(self, params: Any, pieces: list[np.ndarray]) -> float:
        """The mean loss of a step, as the paper counts it: over all steps of all pieces alike."""
        total, steps = 0.0, 0
        for batch in padded(pieces, 16):
            total += float(self.total(params, *batch.xs, batch.lengths))
            steps += int(batch.lengths.sum())
        return total / steps


def train(
    cell: str,
    recipe: Recipe,
    parts: Parts,
    seed: int,
    told: Callable[[int, float, float], None],
    *,
    tests: bool = True,
) -> dict[str, Any]:
    """Trains one model, and scores the parameters of the best validation epoch on the test part.

    Args:
        cell: the name of the cell.
        recipe: how it is trained.
        parts: the pieces.
        seed: decides the first parameters, the order of the pieces and the dropout.
        told: is told the epoch, its training loss and its validation loss.
        tests: whether the test part is scored. Who chooses a recipe must not see that score.

    Returns:
        The row of the results.
    """
    began = time.monotonic()
    trainer = Trainer(cell, recipe, parts.train, seed)
    trained, draw = trainer.first(), np.random.default_rng(seed)
    best, best_epoch, best_params = math.inf, 0, trainer.params
    key = jax.random.key(seed + 1)
    for epoch in range(1, recipe.epochs + 1):
        windows = windows_of(parts.train, recipe.rows, recipe.window, draw)
        trained, loss = trainer.epoch(trained, windows, jax.random.fold_in(key, epoch))
        validation = trainer.score(trained.averaged, parts.validation)
        told(epoch, float(loss), validation)
        if validation < best:
            # `epoch` reuses the memory of its arguments, so the best parameters are copied.
            best, best_epoch, best_params = validation, epoch, jax.tree.map(np.array, trained.averaged)
    row = {"parameters": trainer.parameters, "best_epoch": best_epoch, "validation": round(best, 4)}
    if tests:
        row["test"] = round(trainer.score(best_params, parts.test), 4)
    return row | {"seconds": round(time.monotonic() - began, 1)}
