"""Asserts that a replay gives the outputs of the rollout. If not, it looks for the cause."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from recurrax.testing._replayer import (
    Replayer,
    Rollout,
    Trial,
    as_array,
    check_alike,
    differences,
)

# With more rows, the orders of rows are not tried.
_MOST_ROWS = 32


def check_replay(
    step_function: Callable,
    rollout: Rollout,
    *,
    sequence_function: Callable | None = None,
    tol: float = 1e-5,
) -> float:
    """Checks that a replay of stored steps gives the outputs that the rollout had.

    state, output[t] = step_function(state, observations[t], resets[t])

    An agent with a state learns from stored observations. It computes its outputs again, from the
    stored state and with the stored resets. With the same parameters these must be the outputs of
    the rollout. In PPO, the ratio of the new to the old probability of each action is then 1.

    If an output differs, other resets and other states are tried, one after another. The first
    correction that makes all outputs agree is the likely cause:

    - The resets are one step early or one step late.
    - The rollout, or the function that is checked, does not reset at all.
    - The resets are inverted, some of them are missing, or there are too many.
    - Another state is stored: the state after the first step or after the last step, the initial
      state, or the state of another row.
    - The burn-in reaches across the start of an episode.

    Use the parameters of the rollout, and no dropout. Take a rollout in which episodes end.

    Args:
        step_function: `(state, observation, reset) -> (state, output)` with the parameters in it:
            one step of all rows. `reset` is `bool[*B]`, an array of NumPy. It acts before the step.
            `jax.jit` makes it fast.
        rollout: what is stored, time first; see `Rollout`.
        sequence_function: `(state, observations, resets) -> (state, outputs)`: how training
            computes all steps at once. It is compared too.
        tol: the largest difference that is allowed. Differences are divided by the largest output,
            if this is above 1.

    Returns:
        The largest difference. If the outputs are log-probabilities, `|ratio - 1|` is about that.

    Raises:
        AssertionError: if an output differs. It names the first step that differs, and the likely
            cause.
        TypeError: if `resets` is not bool.
        ValueError: if the shapes do not fit.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> from recurrax.testing import Rollout, check_replay, normal_like, perturbed_params
        >>> cell = recurrax.GRUCell(4)
        >>> params = perturbed_params(cell, 3)
        >>> xs = normal_like(jax.ShapeDtypeStruct((6, 2, 3), jnp.float32), seed=1)  # [T, B, I]
        >>> resets = jnp.zeros((6, 2), bool).at[3].set(True)
        >>> def step(state, x, reset):
        ...     return recurrax.step(cell, params, x, state, reset=reset)
        >>> state = cell.initial_state((2,))
        >>> _, ys = recurrax.scan(cell, params, xs, state, reset=resets, time_major=True)
        >>> check_replay(step, Rollout(xs, resets, state, ys)) < 1e-5
        True
        >>> early = jnp.roll(resets, -1, axis=0)
        >>> try:
        ...     check_replay(step, Rollout(xs, early, state, ys))
        ... except AssertionError as error:
        ...     print("one step early" in str(error))
        True

    References:
        Published misalignments, which this check finds: issues JaxMARL 119 (2024), Mava 1006 (2024)
            and PufferLib 622 (2026), pull requests RLlib 15737 (2021) and jax-aht 115 (2026).

        S. Kapturowski et al., "Recurrent Experience Replay in Distributed Reinforcement Learning",
            2019, https://openreview.net/forum?id=r1lyTjAqYX
    """
    # First the stored steps, one by one. Then the function that computes them all at once.
    replayer = Replayer(step_function, rollout)
    state, outputs = replayer.run(replayer.as_stored())
    errors = replayer.errors(outputs)
    if errors.max() > tol:
        head = "The replay differs from the rollout"
        raise AssertionError(_message(head, replayer, _Base(state, outputs, errors), tol, True))
    if sequence_function is None:
        return float(errors.max())

    _, got = sequence_function(rollout.state, rollout.observations, rollout.resets)
    check_alike("sequence_function", got, rollout.outputs, lead=0)
    worst = replayer.errors(replayer.flat(got))
    if worst.max() > tol:
        # The replay by steps is right. Which change of it gives what the function gives?
        replayer = replayer.expects(got)
        base = _Base(state, outputs, replayer.errors(outputs))
        head = "`sequence_function` differs from the replay by steps, which is as the rollout"
        raise AssertionError(_message(head, replayer, base, tol, False))
    return float(max(errors.max(), worst.max()))


class _Base(NamedTuple):
    """The replay of what is stored: its last state, its outputs, and its errors `[T, N]`."""

    state: Any
    outputs: list[np.ndarray]
    errors: np.ndarray


class _Cause(NamedTuple):
    """A change of a replay, and what it means if the change makes the outputs agree.

    Attributes:
        trials: the replays to try. Each row may agree with another one of them.
        stored: the meaning if the outputs are those of the rollout.
        computed: the meaning if the outputs are those of `sequence_function`.
        everywhere: whether the change must make every row agree. Otherwise some rows may agree
            without it.
        tells_flags: whether the message names the flags that are changed.
    """

    trials: Callable[[Replayer, float], list[Trial]]
    stored: str
    computed: str
    everywhere: bool = False
    tells_flags: bool = False


# The changes of a replay -------------------------------------------------------------------------


def _later(replayer: Replayer, tol: float) -> list[Trial]:
    """Every flag one step later. The flag before the first step is not known: both are tried."""
    flags = replayer.resets
    trials = []
    for first in (np.zeros_like(flags[:1]), np.ones_like(flags[:1])):
        moved = np.concatenate([first, flags[:-1]])  # [T, *B]
        trials.append(Trial(moved, replayer.rollout.state))
    return trials


def _earlier(replayer: Replayer, tol: float) -> list[Trial]:
    """Every flag one step earlier. The flag after the last step is not known: both are tried."""
    flags = replayer.resets
    trials = []
    for last in (np.zeros_like(flags[:1]), np.ones_like(flags[:1])):
        moved = np.concatenate([flags[1:], last])  # [T, *B]
        trials.append(Trial(moved, replayer.rollout.state))
    return trials


def _none(replayer: Replayer, tol: float) -> list[Trial]:
    return [Trial(np.zeros_like(replayer.resets), replayer.rollout.state)]


def _inverted(replayer: Replayer, tol: float) -> list[Trial]:
    return [Trial(~replayer.resets, replayer.rollout.state)]


def _from_initial(replayer: Replayer, tol: float) -> list[Trial]:
    flags = replayer.resets.copy()
    flags[0] = True
    return [Trial(flags, replayer.rollout.state)]


def _from_second_step(replayer: Replayer, tol: float) -> list[Trial]:
    if replayer.steps == 1:
        return []
    # A row with a reset at step 1 agrees from there on with any state, so it is no evidence.
    wrong = replayer.row_errors(replayer.as_stored()) > tol  # [N]
    if replayer.resets[1].reshape(-1)[wrong].all():
        return []
    return [Trial(replayer.resets, replayer.rollout.state, start=1)]


def _reset_in_burn_in(replayer: Replayer, tol: float) -> list[Trial]:
    """One more flag: at the second step of the burn-in, or later, up to the first step after it."""
    trials = []
    for t in range(1, replayer.rollout.burn_in + 1):
        flags = replayer.resets.copy()
        flags[t] = True
        trials.append(Trial(flags, replayer.rollout.state))
    return trials


def _more_flags(replayer: Replayer, tol: float) -> list[Trial]:
    flags = replayer.resets | _fitting_flags(replayer, tol)
    return [Trial(flags, replayer.rollout.state)]


def _fewer_flags(replayer: Replayer, tol: float) -> list[Trial]:
    flags = replayer.resets & _fitting_flags(replayer, tol)
    return [Trial(flags, replayer.rollout.state)]


def _other_flags(replayer: Replayer, tol: float) -> list[Trial]:
    return [Trial(_fitting_flags(replayer, tol), replayer.rollout.state)]


def _fitting_flags(replayer: Replayer, tol: float) -> np.ndarray:
    """The flags with which each output agrees: a stored flag is turned only if that helps."""
    flags = replayer.resets.copy()
    state = replayer.rollout.state
    for t in range(replayer.steps):
        errors = []
        for reset in (flags[t], ~flags[t]):
            _, output = replayer.step(t, reset, state)
            errors.append(replayer.step_errors(t, output))  # [N]
        kept, turned = errors
        turn = (kept > tol) & (turned <= tol)
        flags[t] ^= turn.reshape(replayer.batch)
        state, _ = replayer.step(t, flags[t], state)
    return flags


def _other_rows(replayer: Replayer, tol: float) -> list[Trial]:
    """Every row gets the state of every other row."""
    rows = replayer.rows
    if len(replayer.batch) != 1 or rows > _MOST_ROWS:
        return []
    trials = []
    for shift in range(1, rows):
        order = (np.arange(rows) + shift) % rows
        moved = jax.tree.map(lambda leaf, order=order: leaf[order], replayer.rollout.state)
        trials.append(Trial(replayer.resets, moved))
    return trials


# In this order. The first one that makes every row agree is named.
_CAUSES = (
    _Cause(
        _from_initial,
        "the rollout began with the initial state, but `state` is another one: with a reset at "
        "step 0 all outputs agree. Store the state that went into the first step, or its flag.",
        "it ignores `state`: it begins with the initial state.",
    ),
    _Cause(
        _later,
        "`resets` are stored one step early: with each flag one step later all outputs agree. "
        "The `done` that a step returns belongs to the next observation. Store the flag that came "
        "with the observation, or use `recurrax.rl.dones_to_resets`.",
        "it resets one step late: at step t it acts on the flag of step t - 1.",
        everywhere=True,
    ),
    _Cause(
        _earlier,
        "`resets` are stored one step late: with each flag one step earlier all outputs agree. "
        "The flag must be True at the first observation of an episode, not at the second.",
        "it resets one step early: at step t it acts on the flag of step t + 1.",
        everywhere=True,
    ),
    _Cause(
        _none,
        "the rollout did not reset its state: without any reset all outputs agree. "
        "Reset the state in the rollout too, before the first step of an episode.",
        "it ignores `resets`: without any reset all outputs agree.",
        everywhere=True,
    ),
    _Cause(
        _inverted,
        "`resets` are inverted: with `~resets` all outputs agree. "
        "Is it the mask of steps after which the episode goes on?",
        "it reads `resets` inverted, as the mask of steps that continue an episode.",
        everywhere=True,
    ),
    _Cause(
        _from_second_step,
        "`state` is the state of the next step: as the state before step 1 it makes all later "
        "outputs agree. Store the state that goes into a step, not the state that comes out.",
        "it takes `state` for the state before step 1, the second step.",
        everywhere=True,
    ),
    _Cause(
        _reset_in_burn_in,
        "the burn-in reaches across the start of an episode, and no reset is stored there. "
        "With this flag all outputs agree: {flags}. Store it, or begin the burn-in there.",
        "it resets in the burn-in, where no flag is: {flags}.",
        tells_flags=True,
    ),
    _Cause(
        _more_flags,
        "a reset is missing: the rollout reset its state where `resets` are False. "
        "With these flags all outputs agree: {flags}.",
        "it also resets where no flag is: {flags}.",
        tells_flags=True,
    ),
    _Cause(
        _fewer_flags,
        "there is a reset too many: the rollout kept its state where `resets` are True. "
        "With these flags all outputs agree: {flags}.",
        "it misses a reset: {flags}.",
        tells_flags=True,
    ),
    _Cause(
        _other_flags,
        "the rollout reset its state at other steps. With these flags all outputs agree: {flags}.",
        "it resets at other steps: {flags}.",
        tells_flags=True,
    ),
    _Cause(
        _other_rows,
        "`state` has its rows in another order than `observations`: with the state of another row "
        "each row agrees. Shuffle both by one permutation.",
        "it takes the state of another row for each row.",
    ),
)


# The message -------------------------------------------------------------------------------------


def _message(head: str, replayer: Replayer, base: _Base, tol: float, stored: bool) -> str:
    wrong = base.errors > tol  # [T, N]
    t = int(wrong.any(axis=1).argmax())
    n = int(wrong[t].argmax())
    count = f"{wrong.sum()} of {wrong.size} outputs differ"
    first = f"first at step {t} of row {_row(replayer, n)}, by {base.errors[t, n]:.1e}"
    lines = [f"{head}: {first}. {count}, and at most {tol:.1e} is allowed."]
    if _is_random(replayer, base):
        lines.append(
            "Likely cause: `step_function` is random, since two replays differ. Turn dropout and "
            "noise off, or store the random numbers among the observations."
        )
    else:
        lines.append(_cause(replayer, base, tol, stored))
    return "\n".join(lines)


def _row(replayer: Replayer, n: int) -> str:
    index = tuple(map(int, np.unravel_index(n, replayer.batch)))
    if len(index) == 1:
        return str(index[0])
    return str(index)


def _is_random(replayer: Replayer, base: _Base) -> bool:
    _, again = replayer.run(replayer.as_stored())
    return bool(differences(again, base.outputs).any())


def _cause(replayer: Replayer, base: _Base, tol: float, stored: bool) -> str:
    agrees = base.errors.max(axis=0) <= tol  # [N], the rows that need no change
    most, nearest = int(agrees.sum()), ""
    for cause in _CAUSES:
        explained = agrees.copy()
        if cause.everywhere:
            explained[:] = False
        # The flags of the trial with which each row agrees.
        flags = replayer.resets.copy().reshape(replayer.steps, -1)  # [T, N]
        for trial in cause.trials(replayer, tol):
            fits = replayer.row_errors(trial) <= tol
            chosen = fits & ~explained
            flags[:, chosen] = trial.resets.reshape(replayer.steps, -1)[:, chosen]
            explained |= fits
        text = cause.computed
        if stored:
            text = cause.stored
        if cause.tells_flags:
            text = text.format(flags=_told(replayer, flags))
        if explained.all():
            return f"Likely cause: {text}"
        if explained.sum() > most:
            most, nearest = int(explained.sum()), text
    if _state_is_wrong(replayer, base, tol):
        return f"Likely cause: {_of_state(replayer, base, tol, stored)}"
    return _unexplained(replayer, base, tol, most, nearest)


def _told(replayer: Replayer, flags: np.ndarray) -> str:
    """Tells in words which flags differ from those that are stored."""
    changed = flags != replayer.resets.reshape(replayer.steps, -1)
    words = []
    for t, n in np.argwhere(changed)[:4]:
        words.append(f"{flags[t, n]} at step {t} of row {_row(replayer, int(n))}")
    if changed.sum() > 4:
        words.append(f"and {changed.sum() - 4} more")
    return ", ".join(words)


def _state_is_wrong(replayer: Replayer, base: _Base, tol: float) -> bool:
    """Whether rows differ from their first step on, and agree once they have been reset."""
    wrong = base.errors > tol  # [T, N]
    rows = wrong.any(axis=0)  # [N]
    first = wrong.argmax(axis=0)[rows]
    flags = replayer.resets.reshape(replayer.steps, -1)
    after_reset = np.logical_or.accumulate(flags, axis=0)
    # The burn-in is not compared, so no difference shows before its end.
    at_once = bool((first == replayer.rollout.burn_in).all())
    return at_once and not wrong[after_reset].any()


def _of_state(replayer: Replayer, base: _Base, tol: float, stored: bool) -> str:
    """Says which wrong state is stored. The right state is not known, so it cannot be tried."""
    if not stored:
        return "it begins with another state than `state`."
    rows = (base.errors > tol).any(axis=0)
    # If a reset at the first step changes nothing, the stored state is the initial state.
    [trial] = _from_initial(replayer, tol)
    _, outputs = replayer.run(trial)
    if (differences(outputs, base.outputs)[:, rows] <= tol).all():
        return (
            "the initial state is stored as `state`, such as zeros, but the rollout had another "
            "one. Outputs agree only after a reset. Store the state that went into the first step."
        )
    # The state after the last step is known in rows with a reset.
    restarted = replayer.resets.reshape(replayer.steps, -1).any(axis=0)
    known = np.logical_and(rows, restarted)  # [N]
    if known.any() and _same_rows(replayer, replayer.rollout.state, base.state, known, tol):
        return (
            "`state` is the state after the last step. Keep the state from before the rollout: "
            "the loop has replaced it."
        )
    return (
        "`state` is not the state before the first step. Outputs agree only after a reset. Was it "
        "computed with other parameters, or is it of another step or another row?"
    )


def _same_rows(replayer: Replayer, one: Any, two: Any, rows: np.ndarray, tol: float) -> bool:
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        a = as_array(a).reshape(replayer.rows, -1)[rows]
        b = as_array(b).reshape(replayer.rows, -1)[rows]
        if not np.allclose(a, b, rtol=0, atol=tol):
            return False
    return True


def _unexplained(replayer: Replayer, base: _Base, tol: float, most: int, nearest: str) -> str:
    text = "No change of the resets and of the state that was tried makes all rows agree."
    flags = replayer.resets.reshape(replayer.steps, -1)
    if (base.errors[flags] > tol).any():
        text += (
            " Steps with a reset differ too, where no state matters: are the parameters or the "
            "observations others than in the rollout, such as observations before normalization?"
        )
    else:
        text += " Are the parameters and the observations those of the rollout?"
    if nearest:
        text += f" This makes {most} of {replayer.rows} rows agree: {nearest}"
    return text
