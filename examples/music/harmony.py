"""Pieces to learn without any file: four voices that follow a few rules of harmony.

They are exercises, no chorales: a program makes them from random numbers. Each chord leads to a
chord that may follow it. Each phrase ends on the tonic or on the dominant. Each voice moves as
little as it can.
"""

import itertools

import numpy as np

from .midi import KEYS, LOWEST

# How many pieces there are to learn, to validate and to test.
NUMBERS = (240, 30, 30)

# The notes of a key, in half tones above its tonic.
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 11)}

# Which degrees may follow a degree. Degree 0 is the tonic, 4 the dominant.
FOLLOWERS = {0: (3, 4, 5, 1), 1: (4,), 3: (4, 0, 1), 4: (0, 0, 5), 5: (1, 3)}

# The lowest note of each upper voice, as a number of MIDI. Each has a range of 16 half tones.
UPPER_VOICES = (52, 57, 62)
RANGE = 16
LOWEST_BASS = 40

PHRASES, CHORDS, STEPS_PER_CHORD = 4, 8, 2


def compose_parts() -> list[list[np.ndarray]]:
    """Composes the three parts. They are the same in every run."""
    draw = np.random.default_rng(0)
    parts = []
    for number in NUMBERS:
        part = []
        for _ in range(number):
            part.append(compose(draw))
        parts.append(part)
    return parts


def compose(draw: np.random.Generator) -> np.ndarray:
    """Composes a piece, `uint8[64, 88]`."""
    tonic = int(draw.integers(12))
    scale = SCALES[str(draw.choice(list(SCALES)))]
    degrees: list[int] = []
    for phrase in range(PHRASES):
        # The first and the third phrase end on the dominant, the others on the tonic.
        end = 4 * (1 - phrase % 2)
        degrees += phrase_of(draw, end)

    roll = np.zeros((len(degrees) * STEPS_PER_CHORD, KEYS), np.uint8)
    upper = [lowest + RANGE // 2 for lowest in UPPER_VOICES]
    before = None
    for number, degree in enumerate(degrees):
        notes = []
        for third in (0, 2, 4):
            octave, place = divmod(degree + third, len(scale))
            notes.append(tonic + 12 * octave + scale[place])
        bass = LOWEST_BASS + (notes[0] - LOWEST_BASS) % 12
        upper = nearest_voices(notes, upper)
        start = number * STEPS_PER_CHORD
        for note in (bass, *upper):
            roll[start : start + STEPS_PER_CHORD, note - LOWEST] = 1
        # The highest voice fills a third between two chords with the note in the middle.
        if before is not None and abs(upper[-1] - before) in (3, 4):
            low, high = sorted((before, upper[-1]))
            between = next(
                note for note in range(low + 1, high + 1) if (note - tonic) % 12 in scale
            )
            roll[start - 1, before - LOWEST] = 0
            roll[start - 1, between - LOWEST] = 1
        before = upper[-1]
    return roll


def phrase_of(draw: np.random.Generator, end: int) -> list[int]:
    """Draws the degrees of a phrase, from the tonic to a chord before `end`, and `end`."""
    while True:
        degrees = [0]
        while len(degrees) < CHORDS:
            degrees.append(int(draw.choice(FOLLOWERS[degrees[-1]])))
        # A phrase that does not end as it should is drawn again.
        if degrees[-1] == end:
            return degrees


def nearest_voices(notes: list[int], voices: list[int]) -> list[int]:
    """Gives each upper voice a note of the chord, so that all move as little as possible."""
    best: list[int] = []
    least = np.inf
    for chosen in itertools.permutations(notes):
        moved = []
        for note, voice, lowest in zip(chosen, voices, UPPER_VOICES, strict=True):
            # The octave of the note that is nearest to the voice, within its range.
            octaves = range(lowest + (note - lowest) % 12, lowest + RANGE + 1, 12)
            moved.append(min(octaves, key=lambda found: abs(found - voice)))
        distance = sum(abs(new - old) for new, old in zip(moved, voices, strict=True))
        # No voice may cross the voice above it.
        if distance < least and moved == sorted(set(moved)):
            best, least = moved, distance
    return best
