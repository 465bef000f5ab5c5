"""CLAP's checkpoints: small ones in the published files' own format, and what is none of them.

The files are written as laion-clap's training does; what they should give comes from laion-clap's
own forward pass, transformers' RoBERTa and its port of CLAP's features.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from torch import nn
from torch.nn import functional as F
from transformers import AutoTokenizer, ClapFeatureExtractor, RobertaConfig, RobertaModel

from anymal_lib.encoders import audio as audio_encoders
from anymal_lib.encoders.clap_fusion import fused_spectrogram
from anymal_lib.encoders.htsat import _architecture
from anymal_lib.errors import AssetError
from anymal_lib.inputs import Audio
from anymal_lib.modalities import MODALITIES
from anymal_lib.specs import AudioEncoderSpec

RATE = 48_000
TEXTS = ["a dog barks", "the sound of a violin that plays five rising notes", "rain"]
SENTENCES = [*TEXTS, "a man speaks while music plays", "birds sing in the rain", "a bell rings"]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    """A byte-level BPE of RoBERTa's kind, in the files that the hub has of roberta-base."""
    folder = tmp_path_factory.mktemp("roberta")
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(SENTENCES * 4, vocab_size=300, special_tokens=SPECIAL)
    bpe.save_model(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512}))
    return folder


def architecture(fusion):
    """laion-clap's HTSAT with published sizes but for depth and width."""
    sizes = {"mel_bins": 64, "fmin": 50, "fmax": 14_000}
    config = SimpleNamespace(sample_rate=RATE, window_size=1024, hop_size=480, **sizes)
    return _architecture().HTSAT_Swin_Transformer(
        spec_size=256,
        embed_dim=16,
        depths=[1, 1, 2, 1],
        num_heads=[1, 2, 2, 4],
        config=config,
        enable_fusion=fusion,
        fusion_type="aff_2d" if fusion else "None",
    )


def projection(width):
    return nn.Sequential(nn.Linear(width, 24), nn.ReLU(), nn.Linear(24, 24))


class Clap(nn.Module):
    """The parts of laion-clap's model under its own names."""

    def __init__(self, fusion, words):
        super().__init__()
        self.audio_branch = architecture(fusion)
        config = RobertaConfig(
            vocab_size=words,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=1,
            intermediate_size=96,
            max_position_embeddings=514,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
        )
        self.text_branch = RobertaModel(config)
        self.audio_projection, self.text_projection = projection(128), projection(64)
        self.audio_transform, self.text_transform = projection(24), projection(24)
        self.logit_scale_a = nn.Parameter(torch.tensor(2.659))
        self.logit_scale_t = nn.Parameter(torch.tensor(2.659))


def saved_as_published(model, path, position_ids):
    """What laion-clap's training writes: names of the parallel wrapper, numbers beside them."""
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    if position_ids:
        state["module.text_branch.embeddings.position_ids"] = torch.arange(514)[None]
    beside = {
        "epoch": 45,
        "name": "2022_09_16-model_HTSAT-tiny-lr_0.001",
        "best_acc": np.float64(0.42),
        "metrics": {"map": np.float32(0.3), "step": np.int64(7)},
        "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"betas": (0.9, 0.999)}]},
    }
    torch.save({**beside, "state_dict": state}, path)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "fusion"])
def published(request, tokenizer_folder, tmp_path_factory):
    """A checkpoint's model, its file, and the spec that names it."""
    torch.manual_seed(0)
    model = Clap(request.param, len(AutoTokenizer.from_pretrained(tokenizer_folder))).eval()
    with torch.no_grad():
        model.audio_branch.bn0.running_mean.normal_(-40, 5)
        model.audio_branch.bn0.running_var.uniform_(200, 400)
        for parameter in model.parameters():
            if parameter.ndim:
                parameter.add_(0.05 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("clap") / "630k-tiny-best.pt"
    saved_as_published(model, path, position_ids=not request.param)
    return model, path, AudioEncoderSpec(checkpoint=str(path), tokenizer=str(tokenizer_folder))


@pytest.fixture(scope="module")
def encoder(published):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audio_encoders, "fast_bf16", lambda: False)
        yield MODALITIES["audio"].build_encoder(published[2]).eval()


def sound(seconds, seed=0):
    """Some partials that come and go, with noise."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    parts = [
        0.2 * np.sin(2 * np.pi * hertz * time) * np.sin(np.pi * beat * time)
        for hertz, beat in zip(random.uniform(100, 8000, 4), random.uniform(0.2, 2, 4), strict=True)
    ]
    return (sum(parts) + random.normal(0, 0.01, len(time))).astype(np.float32)


def as_clap_quantizes(samples):
    return ((samples.clip(-1, 1) * 32767).astype(np.int16) / 32767).astype(np.float32)


# The towers --------------------------------------------------------------------------------------


@torch.no_grad()
def test_embeddings_are_those_of_laion_claps_own_forward_pass(published, encoder):
    model, _, _ = published
    sounds = [sound(3.0), sound(10.0, 1), sound(13.0, 2)]
    prepared = torch.stack([encoder.prepare(Audio(samples, RATE)) for samples in sounds])
    if encoder.tower.fusion:
        batch = {"mel_fusion": prepared, "longer": torch.tensor([False, False, True])}
    else:
        batch = {"waveform": prepared}
    own = model.audio_branch(batch)
    features = encoder(prepared)
    pooled = F.normalize(model.audio_projection(own["embedding"]), dim=-1)
    torch.testing.assert_close(features.pooled, pooled, rtol=1e-4, atol=1e-5)
    fine = own["fine_grained_embedding"]
    assert features.sequence.shape == (3, fine.shape[1] // 32, 128)
    torch.testing.assert_close(features.sequence, fine[:, ::32], rtol=1e-4, atol=1e-4)
    assert (features.pooled[0] @ features.pooled[1]) < 0.9999, "sounds differ"


@torch.no_grad()
def test_texts_are_those_of_roberta_padded_as_clap_pads(published, encoder, tokenizer_folder):
    model, _, _ = published
    tokens = AutoTokenizer.from_pretrained(tokenizer_folder)(
        TEXTS, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
    )
    pooled = model.text_branch(tokens.input_ids, tokens.attention_mask).pooler_output
    own = F.normalize(model.text_projection(pooled), dim=-1)
    got = encoder.encode_text(TEXTS)
    torch.testing.assert_close(got, own, rtol=1e-4, atol=1e-5)
    assert got.shape == (3, encoder.pooled_width) and got[0] @ got[1] < 0.9999
    long = encoder.encode_text(["rain " * 300])
    assert torch.isfinite(long).all(), "cut at the length that CLAP's texts have"


def test_a_published_encoder_arrives_aligned_and_frozen(published, encoder):
    assert encoder.trained_state() == {} and encoder.text_aligned and not encoder.augments
    assert not any(p.requires_grad for p in encoder.parameters())
    spec = encoder.spec
    assert (spec.width, spec.depths, spec.heads) == (16, (1, 1, 2, 1), (1, 2, 2, 4))
    assert encoder.tower.fusion == ("mel_conv2d" in " ".join(published[0].state_dict()))


@torch.no_grad()
def test_short_sounds_are_repeated_and_long_ones_cropped_or_fused(encoder):
    short = as_clap_quantizes(sound(3.0))
    filled = np.zeros(480_000, np.float32)
    filled[: 3 * len(short)] = np.tile(short, 3)
    long = sound(14.0)
    ours, cut = (encoder.prepare(Audio(samples, RATE)) for samples in (short, long))
    if encoder.tower.fusion:
        assert ours.shape == cut.shape == (4, 1001, 64)
        assert (ours == ours[0]).all() and not (cut[1:] == cut[0]).flatten(1).all(1).any()
        torch.testing.assert_close(ours, fused_spectrogram(encoder.spec, filled, 480_000))
    else:
        np.testing.assert_allclose(ours, filled, atol=1.1 / 32767)
        assert np.array_equal(cut, as_clap_quantizes(long)[96_000:576_000])


# Fusion ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [1.0, 1.009, 1.011, 1.5, 3.0])
def test_fused_spectrograms_are_those_of_transformers_port(monkeypatch, seconds):
    """Its places are drawn; here they are the ones that we choose."""
    spec = AudioEncoderSpec(seconds=1.0)
    port = ClapFeatureExtractor(
        frequency_min=50, max_length_s=1, truncation="fusion", padding="repeatpad"
    )
    last = round(seconds * RATE) // 480 - 100
    middles = iter([last // 6, last * 3 // 6, last * 5 // 6])

    def middle(places):
        chosen = next(middles)
        assert chosen in places or last < 3, "each chunk begins within its own third"
        return chosen

    monkeypatch.setattr(np.random, "choice", middle)
    samples = sound(seconds)
    theirs = port(samples, sampling_rate=RATE, return_tensors="pt")
    ours = fused_spectrogram(spec, samples, RATE)
    assert ours.shape == theirs.input_features[0].shape == (4, 101, 64)
    torch.testing.assert_close(ours, theirs.input_features[0].float(), rtol=1e-4, atol=1e-2)
    assert bool((ours[:1] != ours[1:]).any()) == (last > 0)


# What is no such checkpoint ----------------------------------------------------------------------


def refused(path, tokenizer="roberta-base"):
    spec = AudioEncoderSpec(checkpoint=str(path), tokenizer=str(tokenizer))
    with pytest.raises(AssetError) as error:
        MODALITIES["audio"].build_encoder(spec)
    return str(error.value)


def five_tokens(folder):
    folder.mkdir()
    ByteLevelBPETokenizer(dict(zip(SPECIAL, range(5), strict=True)), []).save_model(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    assert len(AutoTokenizer.from_pretrained(folder)) == 5
    return folder


def test_a_tokenizer_that_does_not_fit_is_refused(published, tmp_path):
    _, path, _ = published
    assert "300 tokens" in refused(path, five_tokens(tmp_path / "five"))
    assert "5 tokens" in refused(path, tmp_path / "five")
    assert "tokenizer 'roberta-base'" in refused(path, "roberta-base"), "there is no network here"
    assert "nowhere" in refused(path, tmp_path / "nowhere")


class Trap:
    """A pickle that writes a file when it is executed."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"state_dict": {}, "epoch": t}])
def test_a_pickle_with_code_inside_is_refused_and_not_executed(tmp_path, wrap):
    path, mark = tmp_path / "630k-evil.pt", tmp_path / "executed"
    torch.save(wrap(Trap(mark)), path)
    assert "630k-evil.pt" in refused(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists(), "the trap was real"


@pytest.mark.parametrize("seed", range(8))
def test_random_bytes_are_refused_by_name(tmp_path, seed):
    path = tmp_path / "noise.pt"
    start = (b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04}")[seed % 4]
    path.write_bytes(start + np.random.default_rng(seed).bytes(300 * seed))
    assert "noise.pt" in refused(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99, 0.9999])
def test_a_truncated_file_is_refused_by_name(published, tmp_path, share):
    data = published[1].read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: int(share * len(data))])
    assert "cut.pt" in refused(tmp_path / "cut.pt")


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path):
    assert "nothing.pt" in refused(tmp_path / "nothing.pt")


def pann(state):
    """CLAP was also trained with another audio tower."""
    state = {k: v for k, v in state.items() if ".audio_branch." not in k}
    return {**state, "module.audio_branch.conv_block1.conv1.weight": torch.zeros(3)}


def without(part):
    return lambda state: {k: v for k, v in state.items() if not k.startswith(part)}


DAMAGES = {
    "another model": lambda state: nn.Linear(3, 3).state_dict(),
    "no tensors": lambda state: dict.fromkeys(state, 7),
    "keys of numbers": lambda state: dict(enumerate(state.values())),
    "a list": lambda state: list(state.values()),
    "a number": lambda state: 3,
    "PANN": pann,
    "no text": without("module.text_branch."),
    "no text layers": without("module.text_branch.encoder"),
    "no audio": without("module.audio_branch."),
    "no patches": without("module.audio_branch.patch_embed.proj"),
    "no stages": without("module.audio_branch.layers"),
    "a missing stage": without("module.audio_branch.layers.1"),
    "no projection": without("module.audio_projection.2"),
    "one tensor less": without("module.audio_branch.norm.bias"),
    "other shapes": lambda state: {k: torch.zeros(2, 2) for k in state},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_state_dict_of_something_else_is_refused_by_name(published, tmp_path, damage):
    _, path, spec = published
    state = torch.load(path, weights_only=False)["state_dict"]
    torch.save({"epoch": 1, "state_dict": DAMAGES[damage](state)}, tmp_path / "other.pt")
    message = refused(tmp_path / "other.pt", spec.tokenizer)
    assert "other.pt" in message and "630k-audioset-best.pt" in message
    torch.save(DAMAGES[damage](state), tmp_path / "bare.pt")
    assert "bare.pt" in refused(tmp_path / "bare.pt", spec.tokenizer)


def test_a_bare_state_dict_is_taken_too(published, tmp_path):
    model, _, spec = published
    torch.save(model.state_dict(), tmp_path / "bare.pt")
    bare = AudioEncoderSpec(checkpoint=str(tmp_path / "bare.pt"), tokenizer=spec.tokenizer)
    encoder = MODALITIES["audio"].build_encoder(bare)
    state = encoder.tower.tower.state_dict()
    assert all(torch.equal(state[k], v) for k, v in model.audio_branch.state_dict().items())
