"""The gate catches a blind adapter in every modality, passes a seeing one, and is sound."""

import json
import string
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from torch import nn

from anymal_lib.bank import Bank
from anymal_lib.controls import CONDITIONS, blank_tokens, modality_tokens
from anymal_lib.errors import AnyMALError, DataError, GroundingError
from anymal_lib.evaluate import captions, chance, evaluate_captions
from anymal_lib.grounding.figures import grounding_report
from anymal_lib.grounding.report import (
    LEAST_GAIN,
    LEAST_ITEMS,
    Grounding,
    ground,
    grounding_metrics,
    measure,
    require_grounded,
)
from anymal_lib.grounding.stages import ground_all, held_out, held_out_items
from anymal_lib.grounding.tables import grounding_scores, verdicts
from anymal_lib.manifest import load_manifest
from anymal_lib.metrics.facts import words
from anymal_lib.metrics.intervals import bootstrap
from anymal_lib.model import AnyMAL
from anymal_lib.prompt import render
from anymal_lib.runs import Run

MODALITIES = ("image", "imu", "audio", "video")
NOUNS = {"image": "picture", "imu": "motion", "audio": "sound", "video": "clip"}


@pytest.fixture(scope="module")
def seeing(new_model):
    """A tiny model, its adapters as they are drawn: what it says depends on its input."""
    model = new_model(32)
    model.adapters.eval()
    return model


@pytest.fixture(scope="module")
def told(seeing, bank_of, card_of):
    """Modality -> a bank of which the seeing model is always right.

    The fact to be named is what it says; the caption is the letter that its item makes likelier.
    """
    banks = {}
    for modality in MODALITIES:
        bank = bank_of(card_of[modality], "test")
        said = captions(seeing, modality, bank)
        rows = [
            replace(row, text=(letter, text), facts={"said": words(text)})
            for row, letter, text in zip(
                bank.rows, likelier(seeing, modality, bank), said, strict=True
            )
        ]
        banks[modality] = Bank(rows, bank.intermediate, [])
    return banks


def likelier(model, modality, bank):
    """For each item the letter that it makes likelier than any other, a blank one or none does."""
    tokens = modality_tokens(model, modality, bank)
    spans = [*([span] for span in tokens), [blank_tokens(model, modality)], []]
    said, system = model.spec(modality).instructions[0] + " ", model.profile.system
    pool = string.ascii_letters + string.digits
    prompts = [
        render(model.llm, [said, *map(id, span)], system=system, response=letter)
        for span in spans
        for letter in pool
    ]
    found = model.score(prompts, [span for span in spans for _ in pool])
    table = torch.stack([x.mean() for x in found]).view(len(spans), len(pool))
    best, second = table.topk(2, dim=0).values  # (letters,) each
    gain = table - torch.where(table == best, second, best)
    return [pool[k] for k in gain[: len(bank)].argmax(1).tolist()]


def values_of(bank):
    return {"said": sorted({row.facts["said"] for row in bank.rows})}


def report_of(model, told, modality, facts=True):
    bank = told[modality]
    if facts:
        return ground(model, modality, bank, values_of(bank))
    rows = [replace(row, facts={}) for row in bank.rows]
    return ground(model, modality, Bank(rows, bank.intermediate, []), {})


@pytest.fixture(scope="module")
def seen(seeing, told):
    return {modality: report_of(seeing, told, modality) for modality in MODALITIES}


class Blind(nn.Module):
    """An adapter that says of every input what the true one says of a single one."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens = tokens

    def forward(self, features):
        return self.tokens.expand(len(features.pooled), -1, -1)


class Noise(Blind):
    """An adapter whose tokens differ from item to item and have nothing to do with them."""

    def forward(self, features):
        noise = torch.randn(len(features.pooled), *self.tokens.shape[1:], generator=self.draw)
        return self.tokens + 0.1 * noise

    draw = torch.Generator().manual_seed(0)


def zeros(adapter, tokens):
    return Blind(torch.zeros_like(tokens))


BLINDED = {
    "constant": lambda adapter, tokens: Blind(tokens),
    "zeros": zeros,
    "noise": lambda adapter, tokens: Noise(tokens),
}


def blinded(seeing, told, modality, how):
    """The seeing model with one adapter that does not look at its input."""
    model = AnyMAL(seeing.llm, seeing.profile)
    model.encoders = seeing.encoders
    model.adapters = nn.ModuleDict(dict(seeing.adapters.items()))
    with torch.inference_mode():
        tokens = seeing.adapters[modality](told[modality].features(seeing.encoders[modality], [0]))
    model.adapters[modality] = BLINDED[how](seeing.adapters[modality], tokens)
    return model


def test_a_seeing_model_passes_the_gate(seen):
    require_grounded(seen)
    for modality, report in seen.items():
        assert report.grounded and report.items == 8 and report.score.name == "exact_match"
        assert report.score.of["clean"].value == 1
        assert report.verdict.startswith(
            f"This model reads the {NOUNS[modality]}: exact match 1.00"
        )
        assert set(report.score.of) == set(CONDITIONS) == set(report.log_likelihood.of)
        assert set(report.score.above) == set(CONDITIONS) - {"clean"}


@pytest.mark.parametrize("how", BLINDED)
@pytest.mark.parametrize("modality", MODALITIES)
def test_the_gate_catches_a_blind_adapter_in_every_modality(seeing, told, seen, modality, how):
    model = blinded(seeing, told, modality, how)
    reports = {**seen, modality: report_of(model, told, modality)}
    assert not reports[modality].grounded
    with pytest.raises(GroundingError, match=rf"^grounding of {modality}: expected") as caught:
        require_grounded(reports)
    message = str(caught.value)
    assert f"ignores the {NOUNS[modality]}" in message and "no more than chance" in message
    assert all(f"the {noun}:" not in message for m, noun in NOUNS.items() if m != modality)
    assert isinstance(caught.value, AnyMALError) and "train the adapter" in message


@pytest.mark.parametrize("modality", MODALITIES)
def test_free_captions_are_scored_by_rouge_l(seeing, told, modality):
    report = report_of(seeing, told, modality, facts=False)
    assert report.grounded and report.score.name == "rouge_l" and "ROUGE-L 1.00" in report.verdict
    assert not report_of(
        blinded(seeing, told, modality, "constant"), told, modality, False
    ).grounded


def test_the_gate_names_every_ignored_modality(seeing, told, seen):
    blind = {
        m: report_of(blinded(seeing, told, m, "constant"), told, m) for m in ("audio", "image")
    }
    with pytest.raises(GroundingError, match=r"^grounding of image, audio: .*picture.*sound"):
        require_grounded({**seen, **blind})


def test_a_gate_without_any_modality_does_not_open():
    with pytest.raises(GroundingError, match="no modality at all"):
        require_grounded({})


def test_the_score_is_that_of_the_captions_report(seeing, told, seen):
    bank = told["image"]
    expected = evaluate_captions(seeing, "image", bank, values_of(bank))
    for control, found in expected.grounding.items():
        assert seen["image"].score.of[control] == found
    assert seen["image"].chance == chance(bank)
    assert report_of(seeing, told, "image") == seen["image"], "and it repeats itself"


@pytest.mark.parametrize("count", [0, LEAST_ITEMS - 1])
def test_few_items_are_refused(seeing, told, count):
    bank = told["image"]
    few = Bank(bank.rows[:count], bank.intermediate[:count], [])
    with pytest.raises(DataError, match=rf"report of image.*at least 6.*got {count} with.*LIMIT"):
        ground(seeing, "image", few, values_of(bank))


def test_items_that_all_say_the_same_are_refused(seeing, told):
    bank = told["image"]
    rows = [replace(row, text=("a square",), facts={}) for row in bank.rows]
    with pytest.raises(DataError, match="8 with 1 different meanings"):
        ground(seeing, "image", Bank(rows, bank.intermediate, []), {})


def test_rows_of_questions_only_are_refused(seeing, told):
    rows = [replace(row, text=()) for row in told["image"].rows]
    with pytest.raises(DataError, match="answering questions"):
        ground(seeing, "image", Bank(rows, told["image"].intermediate, []), {})


# The rule, on scores item by item.

PER_ITEM = st.lists(st.floats(-5, 5), min_size=LEAST_ITEMS, max_size=30)


@settings(max_examples=40, deadline=None)
@given(PER_ITEM, st.integers(0, 9))
def test_a_control_that_says_the_same_is_never_cleared(values, seed):
    better = [value - 1 for value in values]
    found = measure("log_likelihood", {"clean": values, "blank": better, "shuffled": values}, seed)
    assert found.clears("blank") and not found.clears("shuffled") and not found.reads
    assert found.nearest == "shuffled"


@settings(max_examples=40, deadline=None)
@given(PER_ITEM, st.floats(0.1, 2), st.lists(st.floats(-50, 50), min_size=30, max_size=30))
def test_what_makes_an_item_hard_cancels_out(values, gain, hard):
    """The difference is paired: it does not matter how much the items differ among themselves."""
    clean = np.array(values) + np.array(hard[: len(values)])
    found = measure("log_likelihood", {"clean": clean, "shuffled": clean - gain}, 0, LEAST_GAIN)
    apart = found.above["shuffled"]
    assert (apart.value, apart.low, apart.high) == pytest.approx((gain,) * 3)
    assert found.reads
    assert not measure("log_likelihood", {"clean": clean, "shuffled": clean + gain}, 0).reads


@settings(max_examples=20, deadline=None)
@given(PER_ITEM)
def test_intervals_are_those_of_the_bootstrap(values):
    other = [value / 2 for value in values]
    found = measure("x", {"clean": values, "blank": other}, 3)
    assert found.of == {"clean": bootstrap(values, 3), "blank": bootstrap(other, 3)}
    assert found.above == {"blank": bootstrap(np.subtract(values, other), 3)}


def test_a_gain_within_rounding_is_none():
    clean = np.linspace(-3, -1, 50)
    for gain, reads in ((0.001, False), (LEAST_GAIN * 2, True)):
        found = measure("log_likelihood", {"clean": clean, "blank": clean - gain}, 0, LEAST_GAIN)
        assert found.reads is reads


def test_a_likelihood_that_is_no_number_does_not_open_the_gate():
    values = {"clean": [float("nan")] * 8, "blank": [0.0] * 8}
    assert not measure("log_likelihood", values, 0).reads


def drawn(random, items, gain):
    """Scores and likelihoods of a model to which its item is worth `gain`, others nothing."""
    hard = random.normal(-2, 1, items)
    said = {c: hard + random.normal(0, 0.5, items) for c in ("clean", "shuffled", "wrong_partner")}
    said["clean"] += gain
    right = {c: (random.random(items) < 0.1 + 0.8 * (gain > 0) * (c == "clean")) for c in said}
    return Grounding(
        "image",
        items,
        measure("exact_match", {c: v.astype(float) for c, v in right.items()}, 0),
        measure("log_likelihood", said, 0, LEAST_GAIN),
        0.1,
    )


@pytest.mark.parametrize("items", [LEAST_ITEMS, 40])
def test_blind_models_pass_at_most_one_time_in_forty(items):
    random = np.random.default_rng(0)
    passed = sum(drawn(random, items, 0.0).grounded for _ in range(60))
    assert passed <= 60 / 40
    assert sum(drawn(random, 40, 1.0).grounded for _ in range(5)) == 5, "seeing ones always"


def test_both_measures_have_to_show_it(seen):
    good, random = seen["image"], np.random.default_rng(0)
    blind = drawn(random, 40, 0.0)
    assert not replace(good, score=blind.score).grounded
    assert not replace(good, log_likelihood=blind.log_likelihood).grounded
    half = replace(good, score=blind.score).verdict
    assert half.startswith("This model ignores") and half.count("no more than chance") == 1


def test_the_verdict_carries_its_numbers(seen):
    report = seen["audio"]
    for found in (report.score, report.log_likelihood):
        apart = found.above[found.nearest]
        assert f"{apart.value:.2f} apart ({apart.low:.2f} to {apart.high:.2f})" in report.verdict
        assert apart.low == min(other.low for other in found.above.values())


# What notebooks and metrics.json get.


@pytest.fixture(scope="module")
def mixed(seeing, told, seen):
    return {
        **seen,
        "audio": report_of(blinded(seeing, told, "audio", "constant"), told, "audio"),
    }


def test_metrics_are_plain_json(mixed):
    found = grounding_metrics(mixed)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    report = found["grounding_report"]
    assert {m: r["grounded"] for m, r in report.items()} == {
        "image": True, "imu": True, "audio": False, "video": True,
    }  # fmt: skip
    for part in ("score", "log_likelihood"):
        assert set(report["imu"][part]) == set(CONDITIONS)
        assert set(report["imu"]["differences"][part]) == set(CONDITIONS) - {"clean"}
        assert set(report["imu"][part]["clean"]) == {"value", "low", "high"}


def test_tables_hold_every_condition(mixed):
    table = grounding_scores(mixed)
    assert len(table) == 4 * (len(CONDITIONS) + 1)
    line = table.loc["audio", "wrong partner"]
    assert line["the model senses"] == "an item as unlike it as there is"
    assert line["its difference"] == "0.000 (0.000 to 0.000)"
    assert list(verdicts(mixed)["grounded"]) == ["yes", "yes", "no", "yes"]


def test_the_picture_has_a_panel_for_each_modality(mixed, tmp_path):
    figure = grounding_report(mixed)
    with warnings.catch_warnings(action="error"):  # a layout that does not fit only warns
        figure.savefig(tmp_path / "grounding.png")
    titles = [panel.get_suptitle() for row in [figure.subfigs] for panel in row]
    assert titles == [
        "reads the picture",
        "reads the motion",
        "ignores the sound",
        "reads the clip",
    ]
    names = [label.get_text() for label in figure.subfigs[0].axes[0].get_yticklabels()]
    assert names == ["clean", "blank", "shuffled", "wrong partner", "removed"]
    alone = grounding_report({"imu": mixed["imu"]})
    assert len(alone.subfigs) == 1 and len(alone.axes) == 2
    plt.close("all")


# A run's own data.


@pytest.fixture(scope="module")
def images_only(seeing):
    model = AnyMAL(seeing.llm, seeing.profile)
    model.encoders = {"image": seeing.encoders["image"]}
    model.adapters = nn.ModuleDict({"image": seeing.adapters["image"]})
    return model


def run_of(model, manifest, seed=0, **asked):
    return Run("07_evaluate", model.profile, seed, manifest.parent, manifest, asked)


def test_a_runs_report_is_on_its_held_out_items(images_only, image_card):
    run = run_of(images_only, image_card)
    manifest, bank = held_out(run, images_only, "image", 100)
    assert [row.id for row in bank.rows] == [row.id for row in manifest.split("test")]
    items = held_out_items(run, images_only, 100)
    reports = ground_all(images_only, items)
    assert reports == {"image": ground(images_only, "image", bank, manifest.fact_values)}


def test_the_seed_draws_which_items(images_only, image_card):
    def ids(seed):
        bank = held_out(run_of(images_only, image_card, seed), images_only, "image", 6)[1]
        return [row.id for row in bank.rows]

    assert len(ids(0)) == 6 and ids(0) == ids(0) != ids(1)
    assert set(ids(0)) <= {row.id for row in load_manifest(image_card).split("test")}


def test_a_manifest_of_another_modality_leaves_this_one_alone(images_only, imu_card):
    run = run_of(images_only, imu_card, LIMIT=8)
    manifest, bank = held_out(run, images_only, "image", 6)
    assert manifest.card.name == "easy-vqa" and len(bank) == 6
