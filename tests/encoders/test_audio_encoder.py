"""The audio encoder that is trained here: how sound enters it, and what comes out."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from anymal_lib.encoders import audio as audio_encoders
from anymal_lib.encoders.audio import MIN_SECONDS
from anymal_lib.encoders.htsat import Htsat
from anymal_lib.errors import ConfigError, InputError
from anymal_lib.inputs import Audio
from anymal_lib.modalities import MODALITIES
from anymal_lib.specs import AudioEncoderSpec

RATE = 16_000  # the tiny encoder's; it hears one second


@pytest.fixture(scope="module")
def encoder(tiny_encoders):
    return tiny_encoders["audio"]


def tone(hertz=440.0, seconds=0.8, rate=RATE, size=0.3):
    time = np.arange(round(seconds * rate)) / rate
    return (size * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


@torch.no_grad()
def embedding(encoder, item):
    return encoder(encoder.prepare(item)[None]).pooled[0]


# How sound enters --------------------------------------------------------------------------------


def test_short_sounds_are_repeated_as_often_as_they_fit_and_then_padded(encoder):
    sound = tone(seconds=0.3)
    prepared = encoder.prepare(Audio(sound, RATE)).numpy()
    assert prepared.shape == (RATE,) and prepared.dtype == np.float32
    first, second, third, rest = np.split(prepared, [4800, 9600, 14_400])
    np.testing.assert_allclose(first, sound, atol=1 / 32767)
    assert np.array_equal(first, second) and np.array_equal(first, third)
    assert len(rest) == 1600 and not rest.any()


@pytest.mark.parametrize("seconds", [0.51, 0.8, 1.0])
def test_sounds_that_fit_once_are_padded_only(encoder, seconds):
    prepared = encoder.prepare(Audio(tone(seconds=seconds), RATE)).numpy()
    count = round(seconds * RATE)
    np.testing.assert_allclose(prepared[:count], tone(seconds=seconds), atol=1 / 32767)
    assert not prepared[count:].any()


def test_long_sounds_give_their_middle(encoder):
    sound = np.linspace(-0.9, 0.9, 3 * RATE + 7, dtype=np.float32)
    prepared = encoder.prepare(Audio(sound, RATE)).numpy()
    np.testing.assert_allclose(prepared, sound[RATE + 3 : 2 * RATE + 3], atol=1 / 32767)


def test_samples_are_rounded_to_16_bits_as_clap_was_trained(encoder):
    """Towards zero, by 32767, and what is beyond full scale is full scale."""
    sound = np.tile(np.float32([0.5, -0.5, 1.7, -1.7, 2e-5, 1e-3]), 400)
    got = encoder.prepare(Audio(sound, RATE)).numpy()[:6]
    assert (got * 32767).round(3).tolist() == [16383, -16383, 32767, -32767, 0, 32]


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 96_000])
def test_the_rate_hardly_changes_the_sound_nor_the_embedding(encoder, rate):
    base, same = Audio(tone(), RATE), Audio(tone(rate=rate), rate)
    inner = slice(800, 12_000)  # resampling rings at the ends
    one, two = (encoder.prepare(item)[inner] for item in (base, same))
    assert (one - two).abs().max() < 0.01 * 0.3
    other = 1 - embedding(encoder, Audio(tone(2500), RATE)) @ embedding(encoder, base)
    assert 1 - embedding(encoder, same) @ embedding(encoder, base) < 0.05 * other


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: np.stack([x, x], axis=1),
        lambda x: np.stack([x * 7 / 4] * 4 + [x * 0] * 3),
        lambda x: (x * 32768).astype(np.int16),
        lambda x: (x * 2**31).astype(np.int32),
    ],
    ids=["stereo", "seven channels", "16 bit", "32 bit"],
)
def test_channels_and_types_do_not_matter(encoder, convert):
    base = encoder.prepare(Audio(tone(), RATE))
    same = encoder.prepare(Audio(convert(tone()), RATE))
    assert (base - same).abs().max() <= 2.1 / 32767


def test_the_sound_of_a_file_is_that_of_its_array(encoder, tmp_path):
    path = tmp_path / "tone.flac"
    soundfile.write(path, np.stack([tone(), tone()], 1), RATE)
    same = encoder.prepare(Audio(path)) - encoder.prepare(Audio(tone(), RATE))
    assert same.abs().max() <= 2.1 / 32767


@pytest.mark.parametrize("seconds", [0.02, 0.099])
def test_too_short_a_sound_is_refused_and_named(encoder, tmp_path, seconds):
    with pytest.raises(InputError, match=rf"audio array.*{MIN_SECONDS} s.*{seconds:.3f} s"):
        encoder.prepare(Audio(tone(seconds=seconds), RATE))
    soundfile.write(tmp_path / "click.wav", tone(seconds=seconds), RATE)
    with pytest.raises(InputError, match=r"click\.wav.*at least"):
        encoder.prepare(Audio(tmp_path / "click.wav"))
    with pytest.raises(InputError, match="at least"):
        encoder.prepare(Audio(tone(), RATE, start=0.1, end=0.1 + seconds))


# What comes out ----------------------------------------------------------------------------------


def test_the_spectrogram_is_librosas(encoder):
    import librosa

    spec = encoder.spec
    sound = tone(1000, 1.0) + np.random.default_rng(0).normal(0, 0.01, RATE).astype(np.float32)
    prepared = encoder.prepare(Audio(sound, RATE))
    got = encoder.tower.spectrogram(prepared[None])[0, 0].numpy()
    mel = librosa.feature.melspectrogram(
        y=prepared.numpy(),
        sr=RATE,
        n_fft=spec.window,
        hop_length=spec.hop,
        n_mels=spec.mel_bins,
        fmin=spec.mel_range[0],
        fmax=spec.mel_range[1],
        pad_mode="reflect",
    )
    own = librosa.power_to_db(mel, ref=1.0, amin=1e-10, top_db=None).T
    assert got.shape == own.shape == (101, 32)
    np.testing.assert_allclose(got, own, atol=0.01)
    centres = librosa.mel_frequencies(34, fmin=spec.mel_range[0], fmax=spec.mel_range[1])[1:-1]
    assert abs(centres[own.mean(0).argmax()] - 1000) < 200


@torch.no_grad()
def test_silence_is_as_silent_as_the_floor(encoder):
    silent = encoder.frozen(encoder.prepare(Audio(np.zeros(RATE), RATE))[None])
    assert silent.shape == (1, 1, 101, 32) and (silent == encoder.spec.floor).all()
    features = encoder.aligned(silent)
    assert torch.isfinite(features.sequence).all() and torch.isfinite(features.pooled).all()


@torch.no_grad()
def test_features_do_not_depend_on_the_batch(encoder, monkeypatch):
    monkeypatch.setattr(audio_encoders, "fast_bf16", lambda: False)
    batch = torch.stack([encoder.prepare(Audio(tone(h), RATE)) for h in (200, 800, 3000)])
    together = encoder(batch)
    assert together.sequence.shape == (3, 16, 32) == (3, 16, encoder.sequence_width)
    assert together.pooled.shape == (3, 384) == (3, encoder.pooled_width)
    torch.testing.assert_close(together.pooled.norm(dim=-1), torch.ones(3))
    for k in range(3):
        alone = encoder(batch[k : k + 1])
        torch.testing.assert_close(alone.sequence[0], together.sequence[k], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone.pooled[0], together.pooled[k], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_frame_of_the_sequence_stands_for_what_laion_clap_repeats(encoder, monkeypatch):
    monkeypatch.setattr(audio_encoders, "fast_bf16", lambda: False)
    sound = encoder.prepare(Audio(tone(900, 0.4), RATE))[None]
    own = encoder.tower.tower({"waveform": sound})["fine_grained_embedding"]
    frames, mean = encoder.tower(encoder.tower.spectrogram(sound))
    times = own.shape[1] // frames.shape[1]
    torch.testing.assert_close(frames.repeat_interleave(times, dim=1), own)
    torch.testing.assert_close(frames.mean(1), mean, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_half_precision_changes_features_by_rounding_only(encoder, monkeypatch):
    batch = torch.stack([encoder.prepare(Audio(tone(h), RATE)) for h in (200, 3000)])
    found = {}
    for half in (False, True):
        monkeypatch.setattr(audio_encoders, "fast_bf16", lambda half=half: half)
        found[half] = encoder(batch)
    full, rounded = found[False], found[True]
    assert rounded.sequence.dtype == rounded.pooled.dtype == torch.float32
    assert not torch.equal(full.pooled, rounded.pooled)
    assert (full.pooled * rounded.pooled).sum(-1).min() > 0.999
    error = (full.sequence - rounded.sequence).norm() / full.sequence.norm()
    assert error < 0.03


def test_augmentation_keeps_its_contract_and_repeats_itself(encoder):
    spectrograms = encoder.frozen(
        torch.stack([encoder.prepare(Audio(tone(h), RATE)) for h in (200, 800, 3000)])
    )
    kept = spectrograms.clone()
    one, same, other = (
        encoder.augment(spectrograms, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert encoder.augments and one.shape == spectrograms.shape and one.dtype == torch.float32
    assert torch.equal(one, same) and not torch.allclose(one, other, atol=0.5)
    assert torch.equal(spectrograms, kept), "the bank stays as it was"
    assert one.min() >= encoder.spec.floor
    assert encoder.aligned(one).pooled.shape == (3, 384)


def test_augmentation_is_mild(encoder):
    """The loudest bin stays the loudest, the level within some dB, and time moves a little."""
    time = torch.arange(101.0)
    bump = -50 + 40 * torch.exp(-((time - 50) ** 2) / 8)
    spectrograms = torch.full((64, 1, 101, 32), -55.0)
    spectrograms[:, 0, :, 9] = bump
    got = encoder.augment(spectrograms, torch.Generator().manual_seed(0))
    peaks = got[:, 0].flatten(1).argmax(1)
    assert (peaks % 32 == 9).all()
    moved = peaks // 32 - 50
    seconds = moved * encoder.spec.hop / encoder.spec.rate
    assert seconds.abs().max() <= 0.15 and moved.float().std() > 2
    level = got[:, 0].amax((1, 2)) + 10
    assert level.mean().abs() < 2.5 and 1.5 < level.std() < 5


def test_weights_come_back_without_the_text_tower_and_constants(encoder, tiny_profile):
    torch.manual_seed(9)
    spec = tiny_profile.modality("audio").encoder
    other = MODALITIES["audio"].build_encoder(spec).eval()
    item = Audio(tone(700), RATE)
    assert not torch.allclose(embedding(other, item), embedding(encoder, item), atol=1e-3)
    state = encoder.trained_state()
    other.load_trained_state(state)
    assert torch.equal(embedding(other, item), embedding(encoder, item))
    assert other.checksum() == encoder.checksum()
    assert not any("text" in name or "extractor" in name for name in state)
    with pytest.raises(RuntimeError, match="missing"):
        other.load_trained_state({name: state[name] for name in list(state)[1:]})
    with pytest.raises(RuntimeError, match="unknown"):
        other.load_trained_state({**state, "smell": torch.zeros(1)})


def test_fresh_weights_follow_the_seed(encoder, tiny_profile):
    torch.manual_seed(0)
    again = MODALITIES["audio"].build_encoder(tiny_profile.modality("audio").encoder)
    assert again.checksum() == encoder.checksum()
    free = {name for name, p in again.named_parameters() if p.requires_grad}
    assert free and not any("extractor" in name for name in free)


def test_positions_are_an_option(tiny_profile):
    spec = tiny_profile.modality("audio").encoder
    with_, without = (Htsat(replace(spec, positions=on)).tower for on in (True, False))
    assert with_.absolute_pos_embed.std() > 0.1
    assert not hasattr(without, "absolute_pos_embed")


def test_a_spec_that_names_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"audio encoder.*CLAP checkpoint.*neither"):
        MODALITIES["audio"].build_encoder(AudioEncoderSpec())


OFFLINE = """
import socket, sys

def refuse(*args, **more):
    raise SystemExit("asked the network")

socket.socket.connect = socket.getaddrinfo = refuse
import anymal_lib.encoders.audio
print("heavy" if "torchlibrosa" in sys.modules else "light")
from anymal_lib.specs import AudioEncoderSpec
from anymal_lib.encoders.htsat import Htsat

Htsat(AudioEncoderSpec(spectrogram=64, mel_bins=32, width=8, depths=(1, 1), heads=(1, 2)))
print(sorted(name for name in sys.modules if name.split(".")[0] == "laion_clap"))
"""


def test_neither_the_package_of_laion_clap_nor_the_network_is_touched():
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True, cwd=root)
    assert run.stdout.split() == ["light", "[]"], run.stderr[-2000:]
