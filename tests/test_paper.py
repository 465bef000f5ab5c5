"""The paper as data: its figures, where they stand, and what they say about its claims."""

import inspect
import re
from importlib import import_module

import pytest
import torch

from anymal_lib.config import load_profile
from anymal_lib.paper import (
    ABLATIONS,
    DATA,
    PROMPTS,
    TABLES,
    TRAINING,
    claims,
    settings,
    tables,
    verdicts,
)
from anymal_lib.paper.results import AUDIO_CAPTIONS
from anymal_lib.paper.training import LLM_WIDTHS, epochs, weights_gib
from anymal_lib.sources.catalogue import paper_cards

RESULTS = [result for table in TABLES for result in table.results]
RUNS = {training.run: training for training in TRAINING}
PAPER = ("paper-7b", "paper-13b", "paper-70b")


@pytest.mark.parametrize(
    ("source", "model", "benchmark", "metric", "value"),
    [
        ("Table 2", "AnyMAL 13B", "COCO", "CIDEr", 99.5),
        ("Table 2", "OpenFlamingo-v2 9B", "MM-IT-Cap", "CIDEr", 1.8),
        ("Table 3", "AnyMAL 70B + synthetic", "MM-IT", "object recognition", 83.5),
        ("Table 3", "LLaVA", "MM-IT", "integrity", 99.5),
        ("Figure 3", "AnyMAL", "MM-IT", "wins against the human reference", 41.1),
        ("Table 4", "AnyMAL 13B, ViT-G", "Hateful Memes", "AUC", 66.0),
        ("Table 4", "AnyMAL 70B, ViT-L", "TextVQA", "accuracy", 35.4),
        ("Table 4", "AnyMAL 70B, ViT-G + MM-IT", "OKVQA", "accuracy", 46.1),
        ("Table 5", "PANNs+BERT", "AudioCaps", "SPICE", 17.2),
        ("Table 5", "AnyMAL 70B", "AudioCaps", "SPIDEr", 50.4),
        ("Table 6", "AnyMAL 70B, image frames", "How2QA", "accuracy", 68.1),
        ("Table 6", "BLIP-2", "NextQA", "accuracy", 62.4),
        ("text", "AnyMAL 7B", "Ego4D, held out", "ROUGE-L", 23.2),
    ],
)
def test_results(source, model, benchmark, metric, value):
    found = [
        r.value
        for r in RESULTS
        if (r.source, r.model, r.benchmark, r.metric) == (source, model, benchmark, metric)
    ]
    assert found == [value]


def test_every_printed_number_is_there_once():
    counts = {table.source: len(table.results) for table in TABLES}
    assert counts == {
        "Table 2": 12, "Table 3": 18, "Figure 3": 5, "Table 4": 30, "Table 5": 15, "Table 6": 15,
        "text": 2,
    }  # fmt: skip
    assert len({(r.source, r.model, r.benchmark, r.metric) for r in RESULTS}) == len(RESULTS)


def test_fine_tuning_and_ablation():
    mm_it = RUNS["MM-IT"]
    assert (mm_it.batch, mm_it.learning_rate, mm_it.steps) == (128, 1e-5, 3000)
    assert (mm_it.lora.rank, mm_it.lora.alpha) == (64, 16)
    assert [(a.base, a.changed) for a in ABLATIONS if a.loss == "lower"] == [(2, 6), ("13B", "70B")]


@pytest.mark.parametrize("name", PAPER)
def test_paper_profiles_are_table_12(name):
    profile = load_profile(name)
    assert set(profile.modalities) == set(RUNS) - {"MM-IT"}
    for run, spec in profile.modalities.items():
        row, align, adapter = RUNS[run], spec.align, spec.adapter
        assert (align.batch, align.learning_rate, align.steps) == (
            row.batch, row.learning_rate, row.steps,
        ), run  # fmt: skip
        assert (adapter.kind, adapter.tokens, adapter.layers) == (row.kind, row.tokens, row.layers)


def test_cards_state_the_same_sizes():
    sizes = {card.fields["paper_count"] for card in paper_cards()} - {None}
    assert sizes == {d.samples for d in DATA if d.run != "MM-IT"}


def test_derived_values():
    seen = {run: round(epochs(training), 2) for run, training in RUNS.items()}
    assert seen == {"image": 1.02, "audio": 0.06, "video": 0.73, "imu": 0.97, "MM-IT": 1.83}
    gib = [round(weights_gib(precision), 1) for precision in ("nf4", "int8", "bf16")]
    assert gib == [33.6, 65.2, 130.4]


def test_the_paper_disagrees_with_itself_in_five_places():
    assert {claim.name for claim in claims() if not claim.holds} == {
        "gain on AudioCaps", "token range", "SPICEr", "trainable parameters", "data seen",
    }  # fmt: skip
    assert len({claim.name for claim in claims()}) == len(claims()) == 14


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("gain on AudioCaps", "against PANNs+BERT +11.1, against ACT +9.9"),
        ("token range", "image 64, audio 32, video 32, imu 32 (Table 12)"),
        ("SPICEr", "it is SPIDEr on 5 of 5 rows"),
        ("MM-IT and object recognition", "82.4 before, 79.3 after"),
        ("resolution", "ViT-L is better on TextVQA"),
    ],
)
def test_what_the_tables_give(name, found):
    assert {claim.name: claim.found for claim in claims()}[name] == found


def test_trainable_parameters_differ_by_the_last_layer():
    """Of a resampler of width r, the last layer onto w has (r + 1) * w weights."""
    width = load_profile("paper-70b").modality("image").adapter.width
    small, large = (
        verdicts.trained_weights(f"paper-{size.lower()}", w) for size, w in LLM_WIDTHS.items()
    )
    assert large - small == (width + 1) * (8192 - 5120)


@pytest.mark.parametrize(
    ("name", "part", "change"),
    [
        ("_audio_gain", "AUDIO_CAPTIONS", {"AnyMAL 70B": (78.8, 23.0, 50.9)}),
        ("_spider", "AUDIO_CAPTIONS", {"ACT": (67.9, 16.0, 42.1)}),
        ("_frames", "VIDEO_QUESTIONS", {"AnyMAL 13B, image frames": (44.4, 59.6, 46.7)}),
        ("_weakest_encoder", "IMAGE_QUESTIONS", {"AnyMAL 70B, ViT-L": (0.0,) * 6}),
        ("_resolution", "IMAGE_QUESTIONS", {"AnyMAL 70B, ViT-L": (70.0,) * 6}),
        ("_mm_it_recognition", "HUMAN_RATINGS", {"AnyMAL 70B": (56.0, 79.2, 99.3)}),
        ("_size_and_task", "IMAGE_CAPTIONS", {"AnyMAL 70B": (140.0, 22.0)}),
    ],
)
def test_a_verdict_follows_the_numbers(monkeypatch, name, part, change):
    table = getattr(verdicts, part)
    before = getattr(verdicts, name)().holds
    monkeypatch.setattr(
        verdicts, part, type(table)(table.source, table.columns, {**table.rows, **change})
    )
    assert getattr(verdicts, name)().holds is not before


def test_no_record_without_a_source():
    known = re.compile(
        r"(text|abstract|(Table|Figure) \d+|section \d(\.\d)?|appendix B\.1|arXiv \d{4}\.\d{5})"
        r"(, .+| and .+)?"
    )
    records = [*RESULTS, *TRAINING, *DATA, *ABLATIONS, *PROMPTS]
    records += [s for s in settings(load_profile("mini")) if s.mark == "stated"]
    assert [r for r in records if not known.fullmatch(r.source)] == []
    assert [c for c in claims() if not known.fullmatch(c.where)] == []


@pytest.mark.parametrize("name", ["mini", "small", *PAPER])
def test_choices_that_stand_in_code_are_there(name):
    profile = load_profile(name)
    for setting in settings(profile):
        if setting.mark == "ours" and setting.source != f"profile {name}":
            module, thing = setting.source.rsplit(".", 1)
            assert hasattr(import_module(f"anymal_lib.{module}"), thing)
    assert inspect.signature(torch.optim.AdamW).parameters["betas"].default == (0.9, 0.999)


def test_what_table_12_states_is_not_ours_and_what_is_carried_over_is():
    marks = {
        name: {(s.run, s.name): s.value for s in settings(load_profile(name)) if s.mark == "ours"}
        for name in ("mini", *PAPER)
    }
    for name in ("paper-13b", "paper-70b"):
        assert ("image", "align.batch") not in marks[name]
        assert marks[name]["imu", "align.batch"] == 256, "the table has IMU for 7B"
    assert ("imu", "align.batch") not in marks["paper-7b"]
    assert marks["paper-7b"]["image", "align.batch"] == 2048
    assert marks["mini"]["image", "align.batch"] == 16
    for ours in marks.values():
        assert {("image", "adapter.width"), ("imu", "align.weight_decay")} <= set(ours)
        assert ("imu", "adapter.width") not in ours, "a linear projection has none"
    assert ("imu", "encoder.rate") not in marks["paper-7b"], "IMU2CLIP's"
    assert marks["mini"]["imu", "encoder.rate"] == 50


def test_prompts_belong_to_benchmarks_of_the_tables():
    asked = [benchmark for prompt in PROMPTS for benchmark in prompt.benchmarks]
    assert len(set(asked)) == len(asked)
    assert set(asked) == {r.benchmark for r in RESULTS} - {"MM-IT", "MM-IT-Cap"}


def test_frames():
    frames = tables.result_tables()
    assert list(frames) == [t.source for t in TABLES[:-1]] + ["IMU captions (text)"]
    assert frames["Table 4"].loc["AnyMAL 70B, DINOv2", "TextVQA, accuracy"] == 13.7
    assert frames["Table 3"].loc["BLIP-2", "MM-IT, integrity"] == ""
    assert tables.training_table().loc["video", "layers"] == 4
    assert tables.training_table().loc["MM-IT", "lora"] == "rank 64, alpha 16, layers all linear"
    assert tables.data_table()["samples"].to_dict()["audio", "AudioCaps"] == 46_000
    assert tables.ablation_table().loc["batch", "changed"] == 16_384
    assert "one word" in tables.prompt_table().loc["VQAv2", "instruction"]
    assert tables.claim_table()["holds"].value_counts().to_dict() == {"yes": 9, "no": 5}
    chosen = tables.setting_table(load_profile("paper-70b"))
    assert set(chosen["mark"]) == {"stated", "derived", "ours"}
    assert chosen["value"].to_dict()["image", "epochs"] == 1.024


def test_a_column_leaves_out_models_without_a_value():
    assert set(TABLES[0].column("MM-IT-Cap", "CIDEr")) & {"IDEFICS 80B", "CM3Leon"} == set()
    assert AUDIO_CAPTIONS.column("AudioCaps", "SPICE")["ACT"] == 16.0
