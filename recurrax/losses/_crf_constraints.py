"""Which labels may follow each other: `Constraints`, and the rules of BIO and BIOES."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from recurrax._arguments import describe, short


@dataclasses.dataclass(frozen=True, eq=False)
class Constraints:
    """The labels that may follow each other. A forbidden transition has probability zero.

    The flags are NumPy arrays that cannot be written to. Two records with equal flags are equal and
    have one hash, so a record may be a static argument of `jax.jit`.

    Attributes:
        transitions: `bool[L, L]`: entry [i, j] says whether label j may follow label i.
        start: `bool[L]`: whether a sequence may begin with the label. None allows every label.
        end: `bool[L]`: whether a sequence may end with the label. None allows every label.

    Raises:
        TypeError: if an array is not of bools.
        ValueError: if an array has a wrong shape.

    Example:
        >>> import numpy as np
        >>> from recurrax.losses import crf
        >>> alternating = crf.Constraints(~np.eye(2, dtype=bool))
        >>> alternating.start.tolist()
        [True, True]
    """

    transitions: Any
    start: Any = None
    end: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.transitions, jax.core.Tracer):
            raise TypeError(
                f"`transitions` must have known values; got {describe(self.transitions)}, which "
                "`jax.jit` traces. Make the constraints outside, or set scores to -inf instead."
            )
        shape = np.shape(self.transitions)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(
                "`transitions` must be bool[L, L], a flag for each pair of labels; got "
                f"{describe(self.transitions)}."
            )
        for name, axes in {"transitions": shape, "start": shape[:1], "end": shape[:1]}.items():
            flags = getattr(self, name)
            if flags is None:
                flags = np.ones(axes, bool)
            must = f"`{name}` must be bool[{', '.join(map(str, axes))}]; got {describe(flags)}."
            # A copy, so that nobody changes the flags after they were hashed.
            flags = np.array(flags)
            if flags.shape != axes:
                raise ValueError(must)
            if flags.dtype != np.bool_:
                raise TypeError(f"{must} Compare or `.astype(bool)` first.")
            flags.flags.writeable = False
            object.__setattr__(self, name, flags)

    @property
    def num_labels(self) -> int:
        """The number of labels L."""
        return len(self.start)

    def _content(self) -> tuple:
        return self.num_labels, *(part.tobytes() for part in self.arrays)

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The flags of transitions, first labels and last labels."""
        return self.transitions, self.start, self.end

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constraints) and self._content() == other._content()

    def __hash__(self) -> int:
        return hash(self._content())

    def __repr__(self) -> str:
        number = int(self.transitions.sum())
        return f"Constraints({self.num_labels} labels, {number} transitions)"


def bio_constraints(labels: Iterable[str]) -> Constraints:
    """Makes the constraints of BIO labels: `I-X` follows `B-X` or `I-X` alone.

    Args:
        labels: the names of the labels in the order of their numbers, such as `("O", "B-PER",
            "I-PER")`.

    Returns:
        The constraints.

    Raises:
        TypeError: if `labels` is a string, or a name is none.
        ValueError: if a name is not BIO or stands twice, or if a label can follow nothing.

    Example:
        >>> from recurrax.losses import crf
        >>> allowed = crf.bio_constraints(("O", "B-PER", "I-PER"))
        >>> allowed.transitions[0].tolist(), allowed.start.tolist()
        ([True, True, False], [True, True, False])

    References:
        Ramshaw and Marcus, Text chunking using transformation-based learning, 1995,
        https://aclanthology.org/W95-0107/
    """
    return _by_rule(labels, "BIO", opens="", needs="B")


def bioes_constraints(labels: Iterable[str]) -> Constraints:
    """Makes the constraints of BIOES labels: a span is `S-X`, or `B-X`, any `I-X`, and `E-X`.

    Args:
        labels: the names of the labels in the order of their numbers, such as `("O", "B-PER",
            "I-PER", "E-PER", "S-PER")`.

    Returns:
        The constraints.

    Raises:
        TypeError: if `labels` is a string, or a name is none.
        ValueError: if a name is not BIOES or stands twice, or if a label can follow nothing.

    Example:
        >>> from recurrax.losses import crf
        >>> allowed = crf.bioes_constraints(("O", "B-PER", "I-PER", "E-PER", "S-PER"))
        >>> allowed.transitions[1].tolist(), allowed.end.tolist()
        ([False, False, True, True, False], [True, False, False, True, True])

    References:
        Ratinov and Roth, Design challenges and misconceptions in named entity recognition, 2009,
        https://aclanthology.org/W09-1119/
    """
    return _by_rule(labels, "BIOES", opens="BI", needs="BE")


def _by_rule(labels: Iterable[str], scheme: str, opens: str, needs: str) -> Constraints:
    """Makes the constraints of a scheme.

    After a letter of `opens`, the span must go on. A type must have the letters of `needs`.
    """
    letters, kinds = _parsed(labels, scheme)
    for letter, kind in zip(letters, kinds, strict=True):
        held = {a for a, b in zip(letters, kinds, strict=True) if b == kind}
        missing = set(needs) - held
        # `O`, `S-X` and the `B-X` of BIO need no other label.
        if missing and (letter in "IE" or letter in opens):
            raise ValueError(
                f"`labels` must have {min(missing)}-{kind}, without which {letter}-{kind} has no "
                f"place in {scheme}; it is missing."
            )
    number = len(letters)
    transitions = np.zeros((number, number), bool)
    for i in range(number):
        for j in range(number):
            # `I` and `E` go on with a span; every other letter begins something new.
            goes_on = letters[j] in "IE"
            is_open = letters[i] in (opens or "BI")
            if goes_on:
                transitions[i, j] = is_open and kinds[i] == kinds[j]
            else:
                transitions[i, j] = letters[i] not in opens
    start = np.array([letter not in "IE" for letter in letters])
    end = np.array([letter not in opens for letter in letters])
    return Constraints(transitions, start, end)


def _parsed(labels: Iterable[str], scheme: str) -> tuple[list[str], list[str]]:
    """Returns the letter and the type of each label; the type of `O` is empty."""
    must = f"`labels` must be names of {scheme}, such as ('O', 'B-PER', 'I-PER')"
    if isinstance(labels, str) or not isinstance(labels, Iterable):
        raise TypeError(f"{must}; got {short(labels)}.")
    letters, kinds, seen = [], [], set()
    for label in labels:
        if not isinstance(label, str):
            raise TypeError(f"{must}; got {short(label)} among them.")
        # A type may have a dash of its own, so only the first dash counts.
        letter, dash, kind = label.partition("-")
        named = bool(dash and kind) and letter in set(scheme) - {"O"}
        if label != "O" and not named:
            hint = f" A label is O, or one of {', '.join(scheme.replace('O', ''))} with a type."
            if letter in ("E", "S"):
                hint = " Is it BIOES? Then use `bioes_constraints`."
            raise ValueError(f"{must}; got {label!r}.{hint}")
        if label in seen:
            raise ValueError(f"{must}, each once; got {label!r} twice.")
        seen.add(label)
        letters.append(letter)
        kinds.append(kind)
    if not letters:
        raise ValueError(f"{must}; got none.")
    return letters, kinds


def check_constraints(allowed: Any, num_labels: int) -> None:
    """Checks constraints against the number of labels.

    Raises:
        TypeError: if they are no `Constraints`.
        ValueError: if they are for another number of labels.
    """
    if allowed is None:
        return
    if not isinstance(allowed, Constraints):
        hint = ""
        if np.shape(allowed) == (num_labels, num_labels):
            hint = " Write `crf.Constraints(allowed)`."
        raise TypeError(f"`allowed` must be a crf.Constraints; got {describe(allowed)}.{hint}")
    if allowed.num_labels != num_labels:
        raise ValueError(
            f"`allowed` must be for {num_labels} labels; got constraints for {allowed.num_labels}."
        )


def check_paths(allowed: Constraints, lengths: set[int]) -> None:
    """Checks that there is an allowed labeling for each number of unmasked steps.

    Raises:
        ValueError: if there is none.
    """
    transitions, start, end = allowed.arrays
    # The labels with which an allowed labeling of some length can end.
    ends = start
    for length in range(1, max(lengths, default=0) + 1):
        if length > 1:
            ends = transitions[ends].any(axis=0)
        if length in lengths and not (ends & end).any():
            raise ValueError(
                f"`allowed` must leave a labeling to every sequence; a sequence of {length} "
                f"steps has none: {_reason(start, end, ends)}."
            )


def _reason(start: np.ndarray, end: np.ndarray, ends: np.ndarray) -> str:
    if not start.any():
        return "no label may come first"
    if not end.any():
        return "no label may come last"
    if not ends.any():
        return "no label may follow there"
    return f"it can end with {np.flatnonzero(ends).tolist()} alone, and none of them may come last"
