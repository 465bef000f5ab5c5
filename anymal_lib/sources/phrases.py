"""Composed musical phrases as a captioned sound set: instrument, notes, direction, tempo, register.

Every phrase is written as MIDI and rendered with a bank of sampled instruments, so its caption
states what its own score says. The test split holds (instrument, pattern) pairs that training
never hears; a pattern is everything but the instrument.
"""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anymal_lib.progress import track

BUILD_VERSION = 2
HAS_FOLDS = False

SECONDS = 2.5  # of every clip: the phrase, then silence
RATE_HZ = 32_000
TRAIN_TAKES, TEST_TAKES = 6, 2  # clips of each (instrument, pattern) pair
TEST_PAIRS = 100

# Name in the captions -> General MIDI programme (from 0).
INSTRUMENTS = {
    "piano": 0,
    "xylophone": 13,
    "church organ": 19,
    "guitar": 24,
    "violin": 40,
    "choir": 52,
    "trumpet": 56,
    "saxophone": 65,
    "flute": 73,
    "sitar": 104,
}
NOTES = {"three": 3, "four": 4, "five": 5}
DIRECTIONS = {"rising": 1, "falling": -1, "level": 0}
TEMPOS = {"fast": (0.15, 0.2), "slow": (0.36, 0.44)}  # seconds from note to note
REGISTERS = {"low": (55, 60), "high": (79, 84)}  # MIDI numbers that a phrase is centred on
PHRASES = (
    "a {instrument} plays {notes} {direction} notes, {tempo} and {register}",
    "The {instrument} plays {notes} {direction} notes, {tempo} and {register}.",
    "This is a {instrument} with {notes} {direction} notes, {tempo} and {register}.",
    "One hears a {instrument} play {notes} {direction} notes, {tempo} and {register}.",
)

_TICKS = 1000  # of MIDI time a second
_SUSTAIN = 0.9  # share of the time to the next note that a note sounds


@dataclass(frozen=True)
class Phrase:
    """A score: what to play, and the facts that a caption states of it."""

    facts: dict[str, str]
    programme: int
    pitches: tuple[int, ...]  # MIDI numbers
    step: float  # seconds from note to note
    velocity: int  # 1..127


def build(member: Path, folder: Path, fold: int) -> list[dict[str, Any]]:
    """Render all phrases into ``folder/clips`` as FLAC and return their rows.

    Args:
        member: a sound bank (SF2) with the General MIDI instruments.
        folder: the manifest's folder to be.
        fold: unused, the held-out pairs are fixed.
    """
    return render(member, folder, list(phrases()))


def render(
    member: Path, folder: Path, chosen: Sequence[tuple[str, str, Phrase]]
) -> list[dict[str, Any]]:
    """Render (split, id, phrase) with a sound bank into ``folder/clips`` and return their rows."""
    (folder / "clips").mkdir()
    bank = member.read_bytes()

    def write(entry: tuple[str, str, Phrase]) -> None:
        write_clip(folder / "clips" / f"{entry[1]}.flac", entry[2], bank)

    with ThreadPoolExecutor() as pool:  # resampling and encoding release the lock
        list(track(pool.map(write, chosen), "sounds", total=len(chosen), unit="files"))
    return [
        {
            "id": name,
            "split": split,
            "audio": f"clips/{name}.flac",
            "text": [text.format(**phrase.facts) for text in PHRASES],
            "facts": phrase.facts,
        }
        for split, name, phrase in chosen
    ]


def phrases() -> Iterator[tuple[str, str, Phrase]]:
    """All (split, id, phrase); the same in every run."""
    axes = (INSTRUMENTS, NOTES, DIRECTIONS, TEMPOS, REGISTERS)
    pairs = list(itertools.product(*axes))
    held_out = set(random.Random("held-out pairs").sample(pairs, TEST_PAIRS))
    for pair in pairs:
        split, takes = ("test", TEST_TAKES) if pair in held_out else ("train", TRAIN_TAKES)
        for take in range(takes):
            name = "-".join((*pair, str(take))).replace(" ", "-")
            yield split, name, compose(*pair, random.Random(name))


def compose(
    instrument: str, notes: str, direction: str, tempo: str, register: str, draw: random.Random
) -> Phrase:
    """A phrase with these facts; `draw` chooses pitches, interval, tempo and loudness."""
    count = NOTES[notes]
    interval = draw.randint(5, 7) * DIRECTIONS[direction]  # semitones from note to note
    centre = draw.randint(*REGISTERS[register])
    first = centre - interval * (count - 1) // 2
    return Phrase(
        facts={
            "instrument": instrument,
            "notes": notes,
            "direction": direction,
            "tempo": tempo,
            "register": register,
        },
        programme=INSTRUMENTS[instrument],
        pitches=tuple(first + interval * k for k in range(count)),
        step=draw.uniform(*TEMPOS[tempo]),
        velocity=draw.randint(70, 115),
    )


def midi(phrase: Phrase) -> bytes:
    """The phrase as a MIDI file."""
    import mido

    step = round(phrase.step * _TICKS)
    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=1_000_000)])
    track.append(mido.Message("program_change", program=phrase.programme))
    rest = 0
    for pitch in phrase.pitches:
        track.append(mido.Message("note_on", note=pitch, velocity=phrase.velocity, time=rest))
        track.append(mido.Message("note_off", note=pitch, time=round(step * _SUSTAIN)))
        rest = step - round(step * _SUSTAIN)
    file = mido.MidiFile(type=0, ticks_per_beat=_TICKS)
    file.tracks.append(track)
    buffer = io.BytesIO()
    file.save(file=buffer)
    return buffer.getvalue()


def write_clip(path: Path, phrase: Phrase, bank: bytes) -> None:
    """Render a phrase with a sound bank (the bytes of an SF2) as mono FLAC of `SECONDS`."""
    import midirenderer
    import numpy as np
    import soundfile
    import soxr

    rendered = midirenderer.render_wave_from(bank, midi(phrase))
    samples, rate = soundfile.read(io.BytesIO(rendered), dtype="float32", always_2d=True)
    mono = soxr.resample(samples.mean(axis=1), rate, RATE_HZ)
    clip = np.zeros(round(SECONDS * RATE_HZ), np.float32)
    clip[: min(len(mono), len(clip))] = mono[: len(clip)]
    soundfile.write(path, clip, RATE_HZ, format="FLAC", subtype="PCM_16")
