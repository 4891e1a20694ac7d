"""Runs a step function over a stored rollout, and compares its outputs with others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from recurrax._arguments import as_int, describe, named_leaves


class Rollout(NamedTuple):
    """What a rollout has stored, with time first.

    Arrays may be of JAX, of NumPy or of PyTorch.

    Attributes:
        observations: `[T, *B, ...]`, or a pytree of such arrays: what the step function reads
            beside its state. The actions may be among them, for a step function that returns the
            log-probability of an action.
        resets: `bool[T, *B]`, True where the observation is the first one of an episode. The
            state returns to the initial state before this step.
        state: the state before the first step, a pytree of arrays `[*B, ...]`.
        outputs: `[T, *B, ...]`, or a pytree of such arrays: what the step function returned in the
            rollout.
        burn_in: the number of first steps that only update the state. Their outputs are not
            compared.
    """

    observations: Any
    resets: Any
    state: Any
    outputs: Any
    burn_in: int = 0


class Trial(NamedTuple):
    """One way to replay a rollout.

    Attributes:
        resets: `bool[T, *B]`.
        state: the state before step `start`.
        start: the first step that runs.
    """

    resets: np.ndarray
    state: Any
    start: int = 0


class Replayer:
    """A step function with a rollout, and the outputs that are expected of a replay.

    Outputs are lists of arrays `[T, N, F]`: N rows, which are all of the batch, and F numbers.

    Args:
        step_function: `(state, observation, reset) -> (state, output)`.
        rollout: the rollout.
    """

    def __init__(self, step_function: Callable, rollout: Rollout) -> None:
        check_rollout(rollout)
        self.step_function = step_function
        self.rollout = rollout
        self.resets = as_array(rollout.resets)  # bool[T, *B]
        self.steps, *batch = self.resets.shape
        self.batch = tuple(batch)
        self.rows = int(np.prod(batch))
        self.expected = self.flat(rollout.outputs)

    def flat(self, outputs: Any) -> list[np.ndarray]:
        """Returns the outputs of all steps as arrays `[T, N, F]`."""
        shape = (self.steps, self.rows, -1)
        return [_numbers(leaf).reshape(shape) for leaf in jax.tree.leaves(outputs)]

    def step(self, t: int, reset: np.ndarray, state: Any) -> tuple[Any, list[np.ndarray]]:
        """Runs step t; returns the state and the output as arrays `[N, F]`."""
        observation = jax.tree.map(lambda leaf: leaf[t], self.rollout.observations)
        state, output = self.step_function(state, observation, reset)
        check_alike("step_function", output, self.rollout.outputs, lead=1)
        leaves = jax.tree.leaves(output)
        return state, [_numbers(leaf).reshape(self.rows, -1) for leaf in leaves]

    def run(self, trial: Trial) -> tuple[Any, list[np.ndarray]]:
        """Returns the last state, and the outputs. Steps that do not run are as expected."""
        state = trial.state
        outputs = [leaf.copy() for leaf in self.expected]
        for t in range(trial.start, self.steps):
            state, output = self.step(t, trial.resets[t], state)
            for leaf, new in zip(outputs, output, strict=True):
                leaf[t] = new
        return state, outputs

    def errors(self, outputs: list[np.ndarray]) -> np.ndarray:
        """Returns the error of each step and row, `[T, N]`: zeros in the burn-in."""
        errors = differences(outputs, self.expected)
        errors[: self.rollout.burn_in] = 0
        return errors

    def step_errors(self, t: int, output: list[np.ndarray]) -> np.ndarray:
        """Returns the errors of the output of one step, `[N]`."""
        outputs = [leaf.copy() for leaf in self.expected]
        for leaf, new in zip(outputs, output, strict=True):
            leaf[t] = new
        return self.errors(outputs)[t]

    def row_errors(self, trial: Trial) -> np.ndarray:
        """Returns the largest error of each row in a trial, `[N]`."""
        _, outputs = self.run(trial)
        return self.errors(outputs).max(axis=0, initial=0)

    def as_stored(self) -> Trial:
        """Returns the trial that changes nothing."""
        return Trial(self.resets, self.rollout.state)

    def expects(self, outputs: Any) -> Replayer:
        """Returns a replayer that expects other outputs than those of the rollout."""
        return Replayer(self.step_function, self.rollout._replace(outputs=outputs))


def differences(outputs: list[np.ndarray], expected: list[np.ndarray]) -> np.ndarray:
    """Returns how far two lists of outputs `[T, N, F]` differ, `[T, N]`.

    The difference of two numbers is divided by the largest number of their array, if this is
    above 1.
    """
    steps, rows, _ = expected[0].shape
    errors = np.zeros((steps, rows))
    for got, wanted in zip(outputs, expected, strict=True):
        finite = np.abs(wanted[np.isfinite(wanted)])
        scale = finite.max(initial=1.0)
        # Logits may hold -inf, for actions that are not allowed.
        same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
        with np.errstate(invalid="ignore"):
            distance = np.abs(got - wanted) / scale
        distance = np.where(same, 0.0, distance)
        distance = np.where(np.isnan(distance), np.inf, distance)
        errors = np.maximum(errors, distance.max(axis=-1, initial=0))
    return errors


def as_array(leaf: Any) -> np.ndarray:
    """Returns an array of any library as an array of NumPy."""
    # A tensor of PyTorch may be a part of a gradient, or lie on a GPU.
    if hasattr(leaf, "detach"):
        leaf = leaf.detach().cpu()
    return np.asarray(leaf)


def _numbers(leaf: Any) -> np.ndarray:
    array = as_array(leaf)
    if np.iscomplexobj(array):
        return array.astype(np.complex128)
    return array.astype(np.float64)


def check_alike(name: str, got: Any, outputs: Any, lead: int) -> None:
    """Checks that a function returns outputs with the structure and the shapes of `outputs`.

    `lead` is the number of leading axes that the outputs of the function lack: 1 for one step.

    Raises:
        ValueError: if it does not.
    """
    wanted = {}
    for path, leaf in named_leaves(outputs).items():
        wanted[path] = np.shape(leaf)[lead:]
    found = {path: np.shape(leaf) for path, leaf in named_leaves(got).items()}
    if found != wanted:
        raise ValueError(
            f"`{name}` must return (state, output), and the output must be like `outputs` of the "
            f"rollout, {_shapes(wanted)}; got {_shapes(found)}."
        )


def _shapes(leaves: dict[str, tuple[int, ...]]) -> str:
    parts = [f"{path} {list(shape)}".strip() for path, shape in leaves.items()]
    return ", ".join(parts) or "nothing"


def check_rollout(rollout: Rollout) -> None:
    """Checks the shapes of a rollout.

    Raises:
        TypeError: if it is no `Rollout`, or `resets` is not bool.
        ValueError: if an array has other leading axes than `resets`.
    """
    if not isinstance(rollout, Rollout):
        raise TypeError(
            "`rollout` must be a recurrax.testing.Rollout(observations, resets, state, outputs); "
            f"got {type(rollout).__name__}."
        )
    # Flags of another dtype may mean the opposite, such as the mask 1 - done.
    resets = as_array(rollout.resets)
    if resets.dtype != np.bool_ or not resets.ndim or not resets.size:
        raise TypeError(
            "`resets` must be bool[T, *B], True at the first step of an episode; "
            f"got {describe(resets)}. Compare or `.astype(bool)` first."
        )
    if not jax.tree.leaves(rollout.outputs):
        raise ValueError("`outputs` must hold at least one array; got none.")
    # The state alone has no axis of time.
    axes = {"observations": resets.shape, "outputs": resets.shape, "state": resets.shape[1:]}
    for name, lead in axes.items():
        for path, leaf in named_leaves(getattr(rollout, name)).items():
            if tuple(np.shape(leaf)[: len(lead)]) != lead:
                raise ValueError(
                    f"`{name}{path}` must begin with the axes {list(lead)}, as `resets` "
                    f"{list(resets.shape)} has time first; got {list(np.shape(leaf))}. "
                    "Is it batch-major?"
                )
    burn_in = as_int(rollout.burn_in)
    if burn_in is None or not 0 <= burn_in < len(resets):
        raise ValueError(
            f"`burn_in` must be an int from 0 to {len(resets) - 1}, as there are {len(resets)} "
            f"steps; got {rollout.burn_in!r}."
        )
