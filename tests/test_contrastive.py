"""Alignment of encoders to text: the loss, what it reaches, retrieval numbers, the cache."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from anymal_lib.bank import Bank
from anymal_lib.contrastive import align_encoder, info_nce, meaning, retrieval, warm_cosine
from anymal_lib.encoder_cache import ready_encoder
from anymal_lib.encoders import Encoder, Features
from anymal_lib.encoders.text import TextTower
from anymal_lib.manifest import load_manifest
from anymal_lib.rows import Row
from anymal_lib.specs import TrainSpec

SCALE = torch.tensor(math.log(10.0))


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@settings(max_examples=25)
@given(batch=st.integers(1, 9), width=st.integers(2, 16), seed=st.integers(0, 99))
def test_distinct_captions_give_plain_symmetric_cross_entropy(batch, width, seed):
    items, texts = unit(batch, width, seed=seed), unit(batch, width, seed=seed + 100)
    logits, target = 10 * items @ texts.T, torch.arange(batch)
    plain = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(
        info_nce(items, texts, torch.eye(batch, dtype=torch.bool), SCALE), plain
    )


def test_a_value_computed_by_hand():
    # Similarities [[1, 0], [0.6, 0.8]], scale 2, each item its own text.
    items, texts = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.eye(2)

    def cross(*logits, right):
        return math.log(sum(map(math.exp, logits))) - logits[right]

    rows = (cross(2, 0, right=0) + cross(1.2, 1.6, right=1)) / 2
    columns = (cross(2, 1.2, right=0) + cross(0, 1.6, right=1)) / 2
    got = info_nce(items, texts, torch.eye(2, dtype=torch.bool), torch.tensor(math.log(2)))
    assert got.item() == pytest.approx((rows + columns) / 2, abs=1e-6)
    # Both say the same: the target is half and half.
    same = [(cross(*pair, right=0) + cross(*pair, right=1)) / 2
            for pair in ((2, 0), (1.2, 1.6), (2, 1.2), (0, 1.6))]  # fmt: skip
    got = info_nce(items, texts, torch.ones(2, 2, dtype=torch.bool), torch.tensor(math.log(2)))
    assert got.item() == pytest.approx(sum(same) / 4, abs=1e-6)


def test_perfect_alignment_is_the_minimum():
    texts, positives = torch.eye(6), torch.eye(6, dtype=torch.bool)
    best = info_nce(texts, texts, positives, SCALE)
    assert best.item() == pytest.approx(math.log(1 + 5 * math.exp(-10)), abs=1e-6)
    assert info_nce(texts.roll(1, 0), texts, positives, SCALE) > best + 5
    for seed in range(5):
        assert info_nce(unit(6, 6, seed=seed), texts, positives, SCALE) > best
    items = texts.clone().requires_grad_()
    info_nce(F.normalize(items, dim=-1), texts, positives, SCALE).backward()
    assert items.grad.abs().max() < 1e-3, "and it is flat there"


def test_equal_captions_do_not_repel_each_other():
    texts = torch.eye(2)[[0, 0, 1]]
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    torch.testing.assert_close(
        info_nce(texts, texts, same, torch.tensor(5.0)), torch.tensor(2 / 3 * math.log(2))
    )
    assert info_nce(texts.flip(0), texts, same, SCALE) > info_nce(texts, texts, same, SCALE)


def test_the_learning_rate_warms_up_and_decays_to_zero():
    spec = TrainSpec(batch=1, learning_rate=1, steps=100, warmup=0.1)
    rates = [warm_cosine(step, spec) for step in range(101)]
    assert rates[:10] == pytest.approx([k / 10 for k in range(1, 11)])
    assert rates[10] == 1 and rates[55] == pytest.approx(0.5) and rates[100] == pytest.approx(0)
    assert rates[10:] == sorted(rates[10:], reverse=True)


# Alignment of a real encoder ---------------------------------------------------------------------

LEARN = TrainSpec(batch=8, learning_rate=1e-2, steps=30)


@pytest.fixture(scope="module")
def align(own_encoder, bank_of):
    """Function: align a copy of a tiny encoder; returns it and the losses."""

    def run(card, modality="imu", seed=0, spec=LEARN):
        encoder = own_encoder(modality)
        trained = {tensor.data_ptr() for tensor in encoder.trained_state().values()}
        for parameter in encoder.parameters():
            parameter.requires_grad_(parameter.data_ptr() in trained)
        return encoder, align_encoder(encoder, bank_of(card), spec, seed)

    return run


@pytest.fixture(scope="module", params=["imu_card", "imu_card_100"])
def aligned(request, align):
    card = request.getfixturevalue(request.param)
    return card, *align(card)


def test_alignment_learns_two_motions_of_unknown_people(aligned, bank_of, tiny_encoders):
    card, encoder, losses = aligned
    held_out = bank_of(card, "test")
    found = retrieval(encoder, held_out)
    assert len(losses) == 30 and sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert found.zero_shot >= 0.9 and found.recall_at_1 >= 0.9, "chance is 0.5"
    assert found.captions == 2


def test_alignment_leaves_everything_frozen(aligned):
    _, encoder, _ = aligned
    assert not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())


@pytest.mark.parametrize(
    ("modality", "head"),
    [("image", "visual.head.proj.weight"), ("video", "image.visual.head.proj.weight")],
)
def test_alignment_trains_the_head_of_a_pretrained_trunk_only(
    align, card_of, tiny_encoders, modality, head
):
    encoder, losses = align(card_of[modality], modality, spec=replace(LEARN, steps=4))
    before = tiny_encoders[modality].state_dict()
    changed = {k for k, v in encoder.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {head}
    assert losses[-1] < losses[0]
    assert not any(p.requires_grad for p in encoder.parameters())


def test_alignment_trains_all_of_an_audio_tower_but_its_spectrogram(
    align, audio_card, bank_of, tiny_encoders
):
    encoder, losses = align(audio_card, "audio", spec=replace(LEARN, steps=40, learning_rate=3e-3))
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert retrieval(encoder, bank_of(audio_card, "test")).recall_at_5 >= 0.5
    before, after = tiny_encoders["audio"].state_dict(), encoder.state_dict()
    same = {k for k in before if torch.equal(before[k], after[k])}
    frozen = {k for k in before if "spectrogram_extractor" in k or "logmel_extractor" in k}
    assert frozen <= same and len(frozen) == 3
    # What only laion-clap's classifier reads stays too, and what is constant in an architecture.
    others = {k.split(".")[-2] for k in same - frozen if before[k].is_floating_point()}
    assert others <= {"tscam_conv", "head"}


@pytest.mark.parametrize("modality", ["imu", "audio", "video"])
def test_alignment_repeats_itself_bit_by_bit(align, card_of, modality):
    short = replace(LEARN, steps=4)
    (one, losses), (same, again), (other, others) = (
        align(card_of[modality], modality, seed=seed, spec=short) for seed in (0, 0, 1)
    )
    assert losses == again != others
    assert one.checksum() == same.checksum() != other.checksum()


def test_texts_are_embedded_in_an_order_that_is_no_sets():
    lengths, order = [], []

    def encode(ids):
        lengths.append(len(ids))
        order.extend(ids.flatten().tolist())
        return torch.ones(len(ids), 2)

    def tokenize(texts):
        return torch.tensor([[int(text)] for text in texts])

    texts = [str(k) for k in range(100, 300)]
    tower = TextTower(nn.Linear(1, 1), encode, tokenize)
    tower([*texts[::-1], *texts, "7"])
    tower(texts)
    assert order == [7, *range(100, 300)], "short ones first, and none twice"
    assert lengths == [64, 64, 64, 9]


# Retrieval ---------------------------------------------------------------------------------------


class Given(Encoder):
    """An encoder whose embeddings are given: the intermediate features are the embedding."""

    modality = "image"

    def __init__(self, texts):
        super().__init__()
        self.texts = texts

    def aligned(self, intermediate):
        return Features(intermediate[:, None], F.normalize(intermediate, dim=-1))

    def encode_text(self, texts):
        return F.normalize(torch.stack([self.texts[text] for text in texts]), dim=-1)


def row(k, texts, facts=None):
    return Row(f"r{k}", "test", "image", f"{k}.png", tuple(texts), facts or {})


def test_retrieval_counts_by_hand():
    """Seven captions along seven axes; items point at their caption, but for two."""
    axes = torch.eye(7)
    encoder = Given({f"t{k}": axes[k] for k in range(7)})
    items = list(axes.clone())
    items[1] = axes[1] + 2 * axes[2]  # its caption is second
    items[6] = torch.tensor([6.0, 5, 4, 3, 2, 1, 0])  # its caption is last
    rows = [row(k, [f"t{k}"], {"number": str(k)}) for k in range(7)]
    found = retrieval(encoder, Bank(rows, items, []), batch=3)
    assert found.captions == 7
    assert found.recall_at_1 == pytest.approx(5 / 7)
    assert found.recall_at_5 == pytest.approx(6 / 7)
    assert found.zero_shot == pytest.approx(5 / 7)


def test_zero_shot_takes_the_mean_of_all_phrasings_and_the_gallery_the_first():
    axes = torch.eye(3)
    encoder = Given({"a": axes[0], "a too": axes[1], "b": axes[2]})
    rows = [row(0, ["a", "a too"], {"x": "a"}), row(1, ["b"], {"x": "b"})]
    items = [axes[1] + 0.9 * axes[2], axes[2]]
    # To the first phrasing of a: 0, to b: 0.9. To the mean of both: 0.71, which is less too.
    lost = retrieval(encoder, Bank(rows, items, []))
    assert (lost.recall_at_1, lost.zero_shot) == (0.5, 0.5)
    items[0] = axes[1] + 0.6 * axes[2]
    found = retrieval(encoder, Bank(rows, items, []))
    assert (found.recall_at_1, found.recall_at_5, found.zero_shot) == (0.5, 1.0, 1.0)
    bare = [replace(r, facts={}) for r in rows]
    assert retrieval(encoder, Bank(bare, items, [])).zero_shot is None


def test_what_a_row_means():
    assert meaning(row(0, ["x"], {"b": "2", "a": "1"})) == ("1", "2")
    assert meaning(row(0, ["x", "y"])) == ("x",)


# The cache of aligned encoders -------------------------------------------------------------------


@pytest.fixture
def ready(own_cache, tiny_profile, imu_card):
    """Function: `ready_encoder` in an empty cache; returns it and how many steps it trained."""

    def get(seed=0, manifest=None, profile=tiny_profile, stop=False):
        steps = []

        def on_step(step, loss):
            steps.append(step)
            if stop:
                raise KeyboardInterrupt

        manifest = manifest or load_manifest(imu_card)
        return ready_encoder(profile, "imu", manifest, seed, on_step=on_step), len(steps)

    return get


def cached(own_cache):
    return sorted(path.name for path in (own_cache / "encoders").glob("*"))


def test_an_encoder_is_trained_once(ready, own_cache):
    first, steps = ready()
    assert steps == 3 == len(first.losses) and first.seconds > 0
    again, steps = ready()
    assert steps == 0 == len(again.losses)
    assert again.encoder.checksum() == first.encoder.checksum()
    assert not again.encoder.training
    assert not any(p.requires_grad for p in again.encoder.parameters())
    (name,) = cached(own_cache)
    assert name.startswith("imu-") and name.endswith(".safetensors"), "nothing half-written"


def test_other_data_seed_or_settings_train_again(ready, own_cache, imu_card, tiny_profile):
    base = ready()[0].encoder.checksum()
    manifest = load_manifest(imu_card)
    spec = tiny_profile.modality("imu")
    encoder = replace(spec.encoder, align=replace(spec.encoder.align, learning_rate=1e-4))
    profile = tiny_profile.with_modality("imu", replace(spec, encoder=encoder))
    seeded, steps = ready(seed=1)
    assert steps == 3 and seeded.encoder.checksum() != base
    assert ready(manifest=replace(manifest, checksum="0" * 64))[1] == 3
    slower, steps = ready(profile=profile)
    assert steps == 3 and slower.encoder.checksum() != base
    assert len(cached(own_cache)) == 4
    # The adapter's settings do not matter to the encoder.
    spec = replace(spec, adapter=replace(spec.adapter, tokens=9))
    assert ready(profile=tiny_profile.with_modality("imu", spec))[1] == 0


def test_an_interrupted_alignment_leaves_nothing_behind(ready, own_cache):
    with pytest.raises(KeyboardInterrupt):
        ready(stop=True)
    assert cached(own_cache) == []
    assert ready()[1] == 3


def test_an_encoder_appears_whole_or_not_at_all(ready, own_cache, monkeypatch):
    """The cache never shows a file under its final name before it is complete."""
    from anymal_lib import encoder_cache

    seen = []
    write = encoder_cache.save_file

    def watched(tensors, path):
        write(tensors, path)
        seen.append((path.name, [n for n in cached(own_cache) if n.endswith(".safetensors")]))

    monkeypatch.setattr(encoder_cache, "save_file", watched)
    ready()
    ((name, complete),) = seen
    assert ".partial-" in name and complete == []


def test_the_cache_follows_the_seed_for_fresh_weights(ready, own_cache):
    torch.manual_seed(123)
    one = ready()[0].encoder.checksum()
    for path in (own_cache / "encoders").iterdir():
        path.unlink()
    torch.manual_seed(321)
    assert ready()[0].encoder.checksum() == one
