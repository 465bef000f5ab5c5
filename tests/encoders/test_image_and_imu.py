"""Encoders of images and motion: features, whose weights they hold, which inputs they accept."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from anymal_lib.assets import fetch
from anymal_lib.config import load_profile
from anymal_lib.encoders.image import ClipImageEncoder, TimmImageEncoder, build
from anymal_lib.encoders.imu import MIN_SECONDS, ImuEncoder
from anymal_lib.encoders.text import sentence_tower
from anymal_lib.errors import AssetError, ConfigError, InputError
from anymal_lib.inputs import Image, Imu
from anymal_lib.modalities import MODALITIES
from anymal_lib.specs import ImageEncoderSpec, ImuEncoderSpec, TrainSpec

TEXTS = ["a red circle", "someone lifts an arm", "a"]


def pictures(count, size=(50, 40)):
    random = np.random.default_rng(0)
    return [Image(random.integers(0, 255, (*size, 3), dtype=np.uint8)) for _ in range(count)]


def lengths_of(vectors):
    return vectors.norm(dim=-1)


# open_clip ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[24, 96], ids=["narrow", "wide"])
def clip(request, tmp_path_factory):
    """A tiny CLIP with random weights in a file: the encoder, and open_clip's own model of it.

    Its embedding is once narrower and once wider than its patch features (64).
    """
    import open_clip

    folder, name = tmp_path_factory.mktemp("clip"), f"tiny-clip-{request.param}"
    config = {
        "embed_dim": request.param,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 16,
                       "patch_size": 16},
        "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2,
                     "layers": 1},
    }  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{name}.json")
    torch.manual_seed(0)
    torch.save(open_clip.create_model(name).state_dict(), folder / "weights.pt")
    model, _, preprocess = open_clip.create_model_and_transforms(
        name, pretrained=str(folder / "weights.pt")
    )
    model.eval()
    return ClipImageEncoder(name, str(folder / "weights.pt")), model, preprocess, name


@torch.no_grad()
def test_clip_features_equal_open_clips_own(clip):
    encoder, model, preprocess, _ = clip
    batch = torch.stack([encoder.prepare(picture) for picture in pictures(3)])
    assert torch.equal(batch[0], preprocess(pictures(1)[0].load()))
    features = encoder(batch)
    assert features.sequence.shape == (3, 4, 64) == (3, 4, encoder.sequence_width)
    assert features.pooled.shape == (3, encoder.pooled_width)
    torch.testing.assert_close(lengths_of(features.pooled), torch.ones(3))
    own = model.encode_image(batch, normalize=True)
    torch.testing.assert_close(features.pooled, own)
    model.visual.output_tokens = True
    torch.testing.assert_close(features.sequence, model.visual(batch)[1])
    model.visual.output_tokens = False
    assert features.mask is None


@torch.no_grad()
def test_clip_texts_equal_open_clips_own(clip):
    import open_clip

    encoder, model, _, name = clip
    own = model.encode_text(open_clip.get_tokenizer(name)(TEXTS), normalize=True)
    torch.testing.assert_close(encoder.encode_text(TEXTS), own)
    torch.testing.assert_close(encoder.encode_text(TEXTS[::-1]), own.flip(0))


def test_a_text_tower_is_known_by_its_weights_whatever_stands_beside_it(clip, tmp_path):
    encoder, model, _, name = clip
    state = model.state_dict()
    torch.save({k: v + (k == "positional_embedding") for k, v in state.items()}, tmp_path / "a.pt")
    torch.save({k: v + (k == "visual.proj") for k, v in state.items()}, tmp_path / "b.pt")
    own = encoder.text_checksum()
    assert ClipImageEncoder(name, str(tmp_path / "a.pt")).text_checksum() != own
    assert ClipImageEncoder(name, str(tmp_path / "b.pt"), torch.bfloat16).text_checksum() == own


def test_clip_arrives_aligned_and_frozen(clip):
    encoder = clip[0]
    assert encoder.trained_state() == {} and encoder.text_aligned
    assert not any(p.requires_grad for p in encoder.parameters())


@pytest.mark.parametrize(
    ("name", "pretrained"),
    [("no-such-model", "openai"), ("ViT-B-32", "no-such-tag"), ("ViT-B-32", "laion2b_s34b_b79k")],
)
def test_a_clip_that_cannot_be_had_is_refused_by_name(name, pretrained):
    with pytest.raises(AssetError, match=f"{name}.*{pretrained}"):
        MODALITIES["image"].build_encoder(ImageEncoderSpec(open_clip=name, pretrained=pretrained))


# timm --------------------------------------------------------------------------------------------


def test_a_plain_timm_trunk_gives_patches_but_knows_no_text():
    from open_clip.timm_model import TimmModel

    torch.manual_seed(0)
    visual = TimmModel("test_vit", 0, 64, pool="token", proj="none")
    encoder = TimmImageEncoder(visual, None)
    batch = torch.stack([encoder.prepare(picture) for picture in pictures(2)])
    features = encoder(batch)
    width = encoder.sequence_width
    assert batch.shape == (2, 3, 64, 64)
    assert features.sequence.shape == (2, 16, width) == (2, 16, visual.trunk.num_features)
    assert features.pooled.shape == (2, width) == (2, encoder.pooled_width)
    with torch.no_grad():
        tokens = visual.trunk.forward_features(batch)
    assert torch.equal(features.sequence, tokens[:, 1:]), "the class token is no patch"
    cosine = F.cosine_similarity(features.pooled, visual.trunk.forward_head(tokens))
    torch.testing.assert_close(cosine, torch.ones(2))
    assert not encoder.text_aligned and encoder.trained_state() == {}
    with pytest.raises(ConfigError, match="aligned to text"):
        encoder.encode_text(["a red circle"])


def test_a_spec_that_names_nothing_is_refused():
    with pytest.raises(ConfigError, match="image encoder"):
        MODALITIES["image"].build_encoder(ImageEncoderSpec())
    spec = ImuEncoderSpec(align=TrainSpec(batch=1, learning_rate=1e-3, steps=1))
    with pytest.raises(ConfigError, match="text tower"):
        MODALITIES["imu"].build_encoder(spec)


# The mini profile's image encoder ----------------------------------------------------------------


def test_half_precision_changes_features_by_rounding_only(tiny_profile):
    spec = tiny_profile.modality("image").encoder
    pixels = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    full, half = (build(replace(spec, bf16=bf16)).eval().frozen(pixels) for bf16 in (False, True))
    assert (full.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    cosine = torch.nn.functional.cosine_similarity(full.flatten(1), half.float().flatten(1))
    assert cosine.min() > 0.97 and not torch.equal(full, half.float())


def test_the_mini_trunk_holds_the_files_own_tensors(tiny_profile):
    spec = tiny_profile.modality("image").encoder
    path = fetch(spec.trunk_asset)
    file = torch.load(path, weights_only=True, map_location="cpu")
    trunk = build(replace(spec, bf16=False)).visual.trunk.state_dict()
    assert len(file) == 296 and list(file)[-2:] == ["_fc.weight", "_fc.bias"]
    assert len(trunk) == 294, "all but the classifier"
    for ours, theirs in zip(trunk.values(), file.values(), strict=False):
        assert torch.equal(ours, theirs)
    assert torch.equal(trunk["conv_stem.weight"], file["_conv_stem.weight"])
    assert trunk["conv_stem.weight"].double().sum().item() == pytest.approx(-26.811377, abs=1e-5)


@torch.no_grad()
def test_mini_image_features_do_not_depend_on_the_batch(tiny_encoders):
    encoder = tiny_encoders["image"]
    batch = torch.stack([encoder.prepare(picture) for picture in pictures(4)])
    together = encoder(batch)
    assert together.sequence.shape == (4, 4, encoder.sequence_width)
    assert together.pooled.shape == (4, 384) == (4, encoder.pooled_width)
    torch.testing.assert_close(lengths_of(together.pooled), torch.ones(4))
    for k in range(4):
        alone = encoder(batch[k : k + 1])
        torch.testing.assert_close(alone.sequence[0], together.sequence[k], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone.pooled[0], together.pooled[k], rtol=1e-4, atol=1e-5)


def test_only_the_head_of_the_mini_encoder_is_to_be_trained(tiny_profile):
    encoder = MODALITIES["image"].build_encoder(tiny_profile.modality("image").encoder)
    free = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert free == {"visual.head.proj.weight"}
    state = {name: tensor + 1 for name, tensor in encoder.trained_state().items()}
    before = encoder.checksum()
    encoder.load_trained_state(state)
    assert encoder.checksum() != before
    assert torch.equal(encoder.visual.head.proj.weight, state["proj.weight"])


def test_the_sentence_tower_is_minilm_with_mean_pooling():
    """Against transformers' own BERT and a mean over the real tokens."""
    from transformers import AutoModel, AutoTokenizer

    folder = fetch(load_profile("mini").modality("image").encoder.text_asset)
    tower, width = sentence_tower(folder)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    tokens = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model.eval()(**tokens).last_hidden_state
    mask = tokens.attention_mask[..., None]
    own = F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    got = tower(TEXTS)
    assert got.shape == (3, width) == (3, 384)
    torch.testing.assert_close(got, own, rtol=1e-4, atol=1e-5)
    near, far = (
        tower(["a red circle", "a crimson disc", "he lifts his arm"])[0]
        @ tower(["a crimson disc", "he lifts his arm"]).T
    )
    assert near > far


# IMU ---------------------------------------------------------------------------------------------


def wave(seconds, rate, seed=0):
    """One smooth motion, sampled at any rate: up to 3 Hz, with gravity on z."""
    time = np.arange(round(seconds * rate)) / rate
    random = np.random.default_rng(seed)
    size, hertz, phase = random.uniform([[0.2], [0.3], [0]], [[1], [3], [6]], (3, 6))
    samples = size * np.sin(2 * np.pi * hertz * time[:, None] + phase)
    samples[:, 2] += 1
    return Imu(samples.astype(np.float32), rate=rate, accel_unit="g")


@pytest.fixture(scope="module")
def imu(tiny_encoders):
    return tiny_encoders["imu"]


@torch.no_grad()
def embedding(encoder, item):
    return encoder(encoder.prepare(item)[None]).pooled[0]


def test_imu2clips_size(tiny_encoders):
    spec = ImuEncoderSpec(align=TrainSpec(batch=1, learning_rate=1e-3, steps=1))
    encoder = ImuEncoder(spec, tiny_encoders["imu"].text, 512)
    count = sum(p.numel() for p in encoder.parameters())
    convolutions = (6 * 10 + 1) * 32 + 2 * (32 * 5 + 1) * 32
    gru = 3 * 512 * (32 + 512 + 2)
    assert count == convolutions + 2 * 32 + gru + (512 + 1) * 512
    assert count - (512 + 1) * 512 == pytest.approx(850_000, rel=0.01), "the paper's 0.85 M"
    assert encoder.prepare(wave(9, 100)).shape == (1000, 6), "5 s at 200 Hz"


@pytest.mark.parametrize("seconds", [1.0, 1.5, 2.02, 3.3, 5.0, 12.0])
@pytest.mark.parametrize("rate", [25, 50, 99.5, 400])
@torch.no_grad()
def test_any_length_from_one_second_is_accepted(imu, seconds, rate):
    features = imu(imu.prepare(wave(seconds, rate))[None])
    assert features.pooled.shape == (1, 384)
    torch.testing.assert_close(lengths_of(features.pooled), torch.ones(1))
    assert features.sequence.shape[2] == 16 and torch.isfinite(features.sequence).all()
    samples = round(min(seconds, 5.0) * 50)
    assert abs(features.sequence.shape[1] - samples / 27) < 1.1, "three poolings by three"


@pytest.mark.parametrize(("seconds", "rate"), [(0.98, 50), (0.5, 200), (0.1, 40)])
def test_a_shorter_signal_is_refused_and_named(imu, tmp_path, seconds, rate):
    with pytest.raises(InputError, match=f"IMU array.*{MIN_SECONDS}.*{rate} Hz"):
        imu.prepare(wave(seconds, rate))
    np.save(tmp_path / "short.npy", wave(seconds, rate).source)
    with pytest.raises(InputError, match=r"short\.npy"):
        imu.prepare(Imu(tmp_path / "short.npy", rate=rate))


@torch.no_grad()
def test_the_gru_runs_over_time(imu):
    """A change late in the signal leaves the earlier states as they are (but for the norm)."""
    signal = imu.prepare(wave(5, 50))[None]
    convolved = imu.norm(imu.convolutions((signal * imu.units).transpose(1, 2)))
    states = imu(signal).sequence
    torch.testing.assert_close(states, imu.gru(convolved.transpose(1, 2))[0])
    assert states.shape == (1, convolved.shape[2], 16)
    for step in (1, 4, states.shape[1]):
        torch.testing.assert_close(
            imu.gru(convolved.transpose(1, 2)[:, :step])[0], states[:, :step]
        )
    last = F.normalize(imu.projection(states[:, -1]), dim=-1)
    torch.testing.assert_close(imu(signal).pooled, last)


@pytest.mark.parametrize("seconds", [2.0, 4.5])
def test_the_rate_does_not_change_the_embedding(imu, seconds):
    base = embedding(imu, wave(seconds, 50))
    other = embedding(imu, wave(seconds, 50, seed=1))
    for rate in (100, 200, 80):
        same = embedding(imu, wave(seconds, rate))
        assert 1 - same @ base < 0.02 * (1 - other @ base)


def test_a_longer_signal_gives_its_central_window(imu):
    long = wave(9, 50)
    prepared = imu.prepare(long)
    assert prepared.shape == (250, 6)
    torch.testing.assert_close(prepared, torch.from_numpy(long.source[100:350]))
    short = wave(3, 50)
    torch.testing.assert_close(imu.prepare(short), torch.from_numpy(short.source))


@pytest.mark.parametrize("samples", [50, 99, 250])
def test_augmentation_keeps_its_contract_and_repeats_itself(imu, samples):
    signals = torch.stack([imu.prepare(wave(5, 50, seed))[:samples] for seed in range(3)])
    kept = signals.clone()
    one, same, other = (
        imu.augment(signals, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert one.shape == (3, int((samples - 1) / 1.25), 6)
    assert one.dtype == torch.float32 and torch.isfinite(one).all()
    assert torch.equal(one, same) and not torch.allclose(one, other, atol=0.05)
    assert torch.equal(signals, kept), "the bank stays as it was"
    assert imu(one).pooled.shape == (3, 384)


def test_augmentation_is_mild(imu):
    """Gravity stays gravity: the tilt and the scale are small, speeds are within a quarter."""
    still = torch.zeros(64, 250, 6)
    still[..., 2] = 1
    got = imu.augment(still, torch.Generator().manual_seed(0))
    assert got[..., :3].norm(dim=-1).mean().item() == pytest.approx(1, abs=0.03)
    assert got[..., 2].mean() > 0.85
    assert got[..., 3:].abs().mean() < 0.03
    time = torch.arange(250) / 50
    swing = torch.zeros(64, 250, 6)
    swing[..., 3] = torch.sin(2 * math.pi * 2 * time)  # 2 Hz
    spectrum = imu.augment(swing, torch.Generator().manual_seed(0))[..., 3].mul(1.0)
    peak = torch.fft.rfft(spectrum - spectrum.mean(1, keepdim=True)).abs().argmax(1)
    hertz = peak * 50 / spectrum.shape[1]
    assert hertz.min() >= 2 / 1.25 - 0.3 and hertz.max() <= 2 * 1.25 + 0.3
    assert hertz.std() > 0.1, "and the speed does change"


def test_images_are_not_augmented(tiny_encoders):
    batch = torch.randn(2, 1280, 2, 2)
    assert torch.equal(tiny_encoders["image"].augment(batch, torch.Generator()), batch)


def test_weights_of_the_imu_encoder_come_back(imu, tiny_profile):
    spec = replace(tiny_profile.modality("imu").encoder)
    torch.manual_seed(9)
    other = MODALITIES["imu"].build_encoder(spec).eval()
    item = wave(3, 50)
    assert not torch.allclose(embedding(other, item), embedding(imu, item), atol=1e-3)
    other.load_trained_state(imu.trained_state())
    assert torch.equal(embedding(other, item), embedding(imu, item))
    assert other.checksum() == imu.checksum()
    assert not any("text" in name for name in imu.trained_state()), "MiniLM is not saved"
