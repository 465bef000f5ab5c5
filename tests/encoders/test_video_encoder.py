"""Video encoders: frames of an image encoder in order, and InternVideo's interface."""

import itertools
import json
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from anymal_lib.adapters import ClipPositions, build_adapter
from anymal_lib.assets import HubAsset
from anymal_lib.checksums import weights_checksum
from anymal_lib.encoders import Features
from anymal_lib.errors import AssetError, ConfigError, InputError
from anymal_lib.inputs import Image, Video
from anymal_lib.modalities import MODALITIES
from anymal_lib.specs import AdapterSpec, ImageEncoderSpec, VideoEncoderSpec


def pictures(count, seed=0, size=(50, 40)):
    random = np.random.default_rng(seed)
    return [
        PIL.Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8))
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def encoder(tiny_encoders):
    return tiny_encoders["video"]  # two frames


# Frames ------------------------------------------------------------------------------------------


def test_prepared_are_the_frames_at_the_centres_of_equal_parts(encoder):
    frames = pictures(8)
    prepared = encoder.prepare(Video(frames))
    assert prepared.shape == (2, 3, 64, 64)
    for pixels, frame in zip(prepared, (frames[2], frames[6]), strict=True):
        assert torch.equal(pixels, encoder.image.prepare(Image(frame)))
    alone = encoder.prepare(Video(frames[:1]))
    assert torch.equal(alone[0], alone[1]), "one frame is shown twice"


@torch.no_grad()
def test_the_sequence_is_frame_by_frame_and_the_embedding_their_mean(encoder):
    first, second = pictures(2)
    prepared = torch.stack([encoder.prepare(Video(clip)) for clip in ([first, second], [second])])
    features = encoder(prepared)
    one, two = (
        encoder.image(encoder.image.prepare(Image(frame))[None]) for frame in (first, second)
    )
    assert encoder.grid == (2, 2, 2) and one.sequence.shape[1] == 4
    assert features.sequence.shape == (2, 8, encoder.sequence_width)
    own = torch.cat([one.sequence, two.sequence], 1)[0]
    torch.testing.assert_close(features.sequence[0], own, rtol=1e-4, atol=1e-5)
    mean = F.normalize(one.pooled + two.pooled, dim=-1)[0]
    torch.testing.assert_close(features.pooled[0], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.pooled[1], two.pooled[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_frames_in_another_order_are_blocks_in_another_order(encoder):
    frames = pictures(2)
    forward, backward = (encoder(encoder.prepare(Video(c))[None]) for c in (frames, frames[::-1]))
    blocks = forward.sequence.unflatten(1, (2, 4))
    torch.testing.assert_close(
        backward.sequence, blocks.flip(1).flatten(1, 2), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(backward.pooled, forward.pooled, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_features_do_not_depend_on_the_batch(encoder):
    batch = torch.stack([encoder.prepare(Video(pictures(3, seed))) for seed in range(3)])
    together = encoder(batch)
    for k in range(3):
        alone = encoder(batch[k : k + 1])
        torch.testing.assert_close(alone.sequence[0], together.sequence[k], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone.pooled[0], together.pooled[k], rtol=1e-4, atol=1e-5)


def test_the_head_is_all_that_is_trained_and_comes_back(encoder, tiny_profile):
    torch.manual_seed(7)
    other = MODALITIES["video"].build_encoder(tiny_profile.modality("video").encoder)
    free = {name for name, p in other.named_parameters() if p.requires_grad}
    assert free == {"image.visual.head.proj.weight"}
    assert other.checksum() != encoder.checksum()
    other.load_trained_state(encoder.trained_state())
    assert other.checksum() == encoder.checksum()


def test_more_frames_are_an_option(tiny_profile):
    spec = replace(tiny_profile.modality("video").encoder, frames=8)
    encoder = MODALITIES["video"].build_encoder(spec)
    assert encoder.grid == (8, 2, 2)
    assert encoder.prepare(Video(pictures(3))).shape == (8, 3, 64, 64)


def test_dinov2_like_frames_have_a_grid_but_know_no_text():
    spec = VideoEncoderSpec(frames=2, image=ImageEncoderSpec(timm="test_vit", image_size=64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("timm.models._builder.load_pretrained", lambda *a, **k: None)  # no network
        encoder = MODALITIES["video"].build_encoder(spec)
    assert not encoder.text_aligned and encoder.trained_state() == {}
    assert encoder.grid == (2, 4, 4)
    with pytest.raises(ConfigError, match="aligned to text"):
        encoder.encode_text(["a red circle"])


def test_a_spec_that_names_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"video encoder.*neither"):
        MODALITIES["video"].build_encoder(VideoEncoderSpec())


def test_a_clip_that_cannot_be_read_is_refused_by_name(encoder, tmp_path):
    (tmp_path / "cut.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    with pytest.raises(InputError, match=r"cut\.mp4"):
        encoder.prepare(Video(tmp_path / "cut.mp4"))
    with pytest.raises(InputError, match="no frame"):
        encoder.prepare(Video([]))


# Positions in the resampler ----------------------------------------------------------------------


def adapter_of(grid):
    torch.manual_seed(0)
    spec = AdapterSpec(kind="resampler", tokens=3, layers=2, width=32, heads=4)
    return build_adapter(
        spec, sequence_width=12, pooled_width=10, llm_width=24, out_rms=0.1, grid=grid
    )


def clip_features(frames=4, patches=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, frames, patches, 12, generator=generator)


def tokens(adapter, clip):
    return adapter(Features(clip.flatten(1, 2), torch.zeros(len(clip), 10)))


def test_with_positions_the_resampler_knows_what_came_first_and_where():
    clip, ordered, orderless = clip_features(), adapter_of((4, 2, 3)), adapter_of(None)
    for axis in (1, 2):  # time, space
        turned = clip.flip(axis)
        torch.testing.assert_close(
            tokens(orderless, turned), tokens(orderless, clip), rtol=1e-4, atol=1e-5
        )
        changed = tokens(ordered, turned) - tokens(ordered, clip)
        assert changed.abs().mean() > 0.01 * tokens(ordered, clip).abs().mean()


def test_an_encoder_tells_the_adapter_its_grid(new_model):
    model = new_model(32)
    positions = model.adapters["video"].positions
    shapes = [p.shape for p in (positions.frames, positions.rows, positions.columns)]
    assert shapes == [(2, 64)] * 3
    assert model.adapters["image"].positions is None
    frames = pictures(2)
    forward, backward = (model.encode([Video(clip)])[0] for clip in (frames, frames[::-1]))
    assert (forward - backward).abs().mean() > 0.01 * forward.abs().mean()


def test_positions_are_of_a_frame_a_row_and_a_column_and_learn():
    torch.manual_seed(0)
    positions = ClipPositions((2, 3, 4), 5)
    added = positions(torch.zeros(1, 24, 5))[0].unflatten(0, (2, 3, 4))
    for frame, row, column in itertools.product(range(2), range(3), range(4)):
        own = positions.frames[frame] + positions.rows[row] + positions.columns[column]
        torch.testing.assert_close(added[frame, row, column], own)
    adapter = adapter_of((4, 2, 3))
    (tokens(adapter, clip_features()) * torch.randn(2, 3, 24)).sum().backward()
    for name, parameter in adapter.positions.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


# InternVideo -------------------------------------------------------------------------------------

CODE = """
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


class TinyConfig(PretrainedConfig):
    model_type = "tiny_internvideo"

    def __init__(self, width=24, embed=16, **more):
        self.width, self.embed = width, embed
        super().__init__(**more)


class TinyVideo(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.patch = nn.Conv3d(3, config.width, (1, 56, 56), (1, 56, 56))
        self.vision_proj = nn.Linear(config.width, config.embed)
        self.words = nn.Embedding(256, config.embed)
        self.post_init()

    def {method}(self, image, test=False):
        assert test and image.shape[1:] == (self.config.num_frames, 3, 224, 224)
        tokens = self.patch(image.transpose(1, 2)).flatten(2).transpose(1, 2)
        return tokens, tokens.mean(1)

    def get_txt_feat(self, text):
        ids = torch.tensor(list(text.encode()))
        return nn.functional.normalize(self.words(ids).mean(0, keepdim=True), dim=-1)
"""


def hub_folder(folder, method="encode_vision", frames=4):
    """A model folder as the hub has it: configuration, modelling file, weights."""
    folder.mkdir()
    (folder / "modeling_tiny.py").write_text(CODE.replace("{method}", method))
    config = {
        "architectures": ["TinyVideo"],
        "model_type": "tiny_internvideo",
        "auto_map": {
            "AutoConfig": "modeling_tiny.TinyConfig",
            "AutoModel": "modeling_tiny.TinyVideo",
        },
        "width": 24,
        "embed": 16,
        "num_frames": frames,
    }
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "patch.weight": (24, 3, 1, 56, 56),
        "patch.bias": (24,),
        "vision_proj.weight": (16, 24),
        "vision_proj.bias": (16,),
        "words.weight": (256, 16),
    }
    weights = {k: torch.randn(s, generator=generator) * 0.1 for k, s in shapes.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return weights, VideoEncoderSpec(frames=frames, hub=HubAsset(str(folder), "main"))


@pytest.fixture(autouse=True)
def modules_cache(tmp_path, monkeypatch):
    """transformers copies a repository's code here before it executes it."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hub"))
    monkeypatch.syspath_prepend(str(tmp_path / "hub"))


@torch.no_grad()
def test_a_video_model_of_the_hub_is_loaded_with_its_weights(tmp_path):
    weights, spec = hub_folder(tmp_path / "tiny-internvideo")
    encoder = MODALITIES["video"].build_encoder(spec)
    prepared = encoder.prepare(Video(pictures(6, size=(90, 120))))
    assert prepared.shape == (4, 3, 224, 224) and encoder.grid is None
    assert encoder.trained_state() == {} and encoder.text_aligned
    assert encoder.text_checksum() == weights_checksum(encoder.model.state_dict())
    assert not any(p.requires_grad for p in encoder.parameters())
    features = encoder(torch.stack([prepared, prepared.flip(0)]))
    assert features.sequence.shape == (2, 4 * 16, 24) == (2, 64, encoder.sequence_width)
    own = F.conv2d(prepared, weights["patch.weight"][:, :, 0], weights["patch.bias"], stride=56)
    own = own.flatten(2).transpose(1, 2).flatten(0, 1)  # frame by frame
    torch.testing.assert_close(features.sequence[0], own, rtol=1e-4, atol=1e-5)
    pooled = own.mean(0) @ weights["vision_proj.weight"].T + weights["vision_proj.bias"]
    assert features.pooled.shape == (2, 16) == (2, encoder.pooled_width)
    torch.testing.assert_close(
        features.pooled[0], F.normalize(pooled, dim=-1), rtol=1e-4, atol=1e-5
    )
    words = weights["words.weight"][list(b"up")].mean(0)
    texts = encoder.encode_text(["up", "left"])
    torch.testing.assert_close(texts[0], F.normalize(words, dim=-1), rtol=1e-4, atol=1e-5)


def test_its_pixels_are_normalised_as_imagenets(tmp_path):
    _, spec = hub_folder(tmp_path / "tiny-internvideo")
    white = (
        MODALITIES["video"]
        .build_encoder(spec)
        .prepare(Video([PIL.Image.new("RGB", (50, 40), "white")]))
    )
    own = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(white.mean((0, 2, 3)), own, rtol=1e-3, atol=1e-3)


def test_a_model_without_the_interface_is_refused_by_name(tmp_path):
    _, spec = hub_folder(tmp_path / "other-model", method="encode_images")
    with pytest.raises(AssetError, match=r"other-model at main.*without encode_vision"):
        MODALITIES["video"].build_encoder(spec)


def test_a_model_that_cannot_be_had_is_refused_by_name(tmp_path):
    for place in ("nobody/no-internvideo", str(tmp_path)):
        spec = VideoEncoderSpec(hub=HubAsset(place, "abc123"))
        with pytest.raises(AssetError, match=f"{place} at abc123"):
            MODALITIES["video"].build_encoder(spec)
