"""Piano rolls as MIDI files, by the library mido."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from .config import UserError

# A piano has 88 keys. The lowest one, an A, has number 21 in MIDI.
KEYS, LOWEST = 88, 21

# The time unit of the files that are written, in parts of a quarter note.
TICKS = 480

# How hard the keys are pressed, of at most 127.
VELOCITY = 80


def _mido() -> Any:
    if importlib.util.find_spec("mido") is None:
        hint = "Install it by: pip install 'recurrax[music]'"
        raise UserError(f"MIDI files need mido, which is not installed. {hint}")
    import mido

    return mido


def write(roll: np.ndarray, path: Path, steps_per_beat: int, beats_per_minute: float) -> None:
    """Writes a piano roll as a MIDI file.

    A roll does not say whether a key is held or pressed again. Here it is held as long as it sounds
    in consecutive steps.

    Args:
        roll: `[T, 88]`, zeros and ones.
        path: the file.
        steps_per_beat: the steps of a quarter note, a divisor of 480.
        beats_per_minute: the tempo, in quarter notes.

    Raises:
        UserError: if mido is not installed.
    """
    mido = _mido()
    file = mido.MidiFile(ticks_per_beat=TICKS)
    track = mido.MidiTrack()
    file.tracks.append(track)
    tempo = mido.bpm2tempo(beats_per_minute)
    track.append(mido.MetaMessage("set_tempo", tempo=tempo))
    sounding = np.asarray(roll).astype(bool)
    # Silence before the first step and after the last one, so that every note begins and ends.
    silence = np.zeros((1, KEYS), bool)
    changes = np.diff(np.concatenate([silence, sounding, silence]).astype(int), axis=0)
    written = 0  # the time of the last message
    for step, change in enumerate(changes):
        now = step * TICKS // steps_per_beat
        # Notes end before others begin.
        for kind, keys in (("note_off", change < 0), ("note_on", change > 0)):
            for key in np.flatnonzero(keys):
                note = LOWEST + int(key)
                # MIDI counts the time from one message to the next.
                message = mido.Message(kind, note=note, velocity=VELOCITY, time=now - written)
                track.append(message)
                written = now
    # The file lasts as long as the roll, also if that ends in silence.
    end = len(sounding) * TICKS // steps_per_beat
    track.append(mido.MetaMessage("end_of_track", time=end - written))
    file.save(path)


def read(path: Path, steps_per_beat: int) -> np.ndarray:
    """Reads a MIDI file as a piano roll `uint8[T, 88]`.

    Each note is moved to the nearest step, and lasts one step at least. All tracks but the drums
    are read together. Keys that no piano has are left out.

    Args:
        path: the file.
        steps_per_beat: the steps of a quarter note.

    Raises:
        UserError: if mido is not installed, or the file cannot be read.
    """
    mido = _mido()
    try:
        file = mido.MidiFile(path)
        ticks_per_step = file.ticks_per_beat / steps_per_beat
        if ticks_per_step <= 0:
            raise ValueError(f"a quarter note has {file.ticks_per_beat} ticks")
        messages = mido.merge_tracks(file.tracks)
    # mido raises errors of many types for a damaged file.
    except Exception as error:
        raise UserError(
            f"--data: {str(path)!r} is not a MIDI file that can be read: {error}."
        ) from error
    now = 0
    began: dict[tuple[int, int], int] = {}  # when each sounding note of a channel began
    notes = []
    for message in messages:
        now += message.time
        # Channel 9 has the drums, whose notes are no pitches.
        if message.type not in ("note_on", "note_off") or message.channel == 9:
            continue
        note = message.channel, message.note
        # A note is ended by note_off, by note_on without velocity, or by its next beginning.
        if note in began:
            notes.append((message.note - LOWEST, began.pop(note), now))
        if message.type == "note_on" and message.velocity:
            began[note] = now
    for (_, number), start in began.items():
        notes.append((number - LOWEST, start, now))
    placed = []
    steps = round(now / ticks_per_step)
    for key, start, end in notes:
        first = round(start / ticks_per_step)
        last = max(first + 1, round(end / ticks_per_step))
        steps = max(steps, last)
        if 0 <= key < KEYS:
            placed.append((key, first, last))
    roll = np.zeros((steps, KEYS), np.uint8)
    for key, first, last in placed:
        roll[first:last, key] = 1
    return roll
