"""Adapter training: it learns, repeats itself byte for byte, and goes on where it stopped."""

import hashlib
import json
import math
import shutil
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from anymal_lib.bank import Bank, build_bank
from anymal_lib.errors import DataError
from anymal_lib.manifest import load_manifest
from anymal_lib.seeds import epoch_order
from anymal_lib.train import train_adapter


class InterruptedRunError(Exception):
    """The machine went down."""


@pytest.fixture(scope="module")
def train(new_model, bank_of, card_of):
    """Function: train a fresh tiny model in a folder; returns it, its curve and its bytes."""

    def run(folder, *, modality="image", seed=0, bits=32, bank=None, stop_at=None, **changes):
        model = new_model(bits, seed)
        steps = []

        def on_step(report):
            steps.append(report.step)
            if report.step == stop_at:
                raise InterruptedRunError

        result = {"model": model, "steps": steps}
        try:
            result["curve"] = train_adapter(
                model,
                modality,
                bank or bank_of(card_of[modality]),
                replace(model.spec(modality).align, **changes),
                seed=seed,
                folder=folder,
                on_step=on_step,
            )
        except InterruptedRunError:
            return result
        saved = model.save_pretrained(folder / "adapter") / f"{modality}.adapter.safetensors"
        return result | {"sha": hashlib.sha256(saved.read_bytes()).hexdigest()}

    return run


def timeless(curve):
    return [{**asdict(report), "seconds": None} for report in curve]


def lines_of(folder):
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def checkpoints_in(folder):
    return sorted(path.name for path in folder.glob("checkpoint-*"))


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """A run without interruption, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return {**train(folder), "folder": folder}


@pytest.mark.parametrize("modality", ["image", "imu", "audio", "video"])
def test_the_loss_falls(train, tmp_path, modality):
    losses = [r.loss for r in train(tmp_path, modality=modality, steps=30)["curve"]]
    assert np.mean(losses[-8:]) < 0.9 * np.mean(losses[:3])


def test_the_curve_has_a_complete_line_for_every_step(whole):
    curve, spec = whole["curve"], whole["model"].spec("image").align
    lines = lines_of(whole["folder"])
    assert lines == [asdict(report) for report in curve]
    assert all(set(line) == {"step", "loss", "lr", "samples", "seconds"} for line in lines)
    assert [line["step"] for line in lines] == list(range(1, spec.steps + 1)) == whole["steps"]
    assert [line["samples"] for line in lines] == [8 * k for k in range(1, spec.steps + 1)]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds) and seconds[0] > 0
    rates = [line["lr"] for line in lines]
    assert max(rates) == rates[0] == spec.learning_rate, "one step of warm-up for twelve"
    assert rates == sorted(rates, reverse=True) and rates[-1] < 0.05 * spec.learning_rate
    last = spec.learning_rate * 0.5 * (1 + math.cos(math.pi * 10 / 11))
    assert rates[-1] == pytest.approx(last)
    assert checkpoints_in(whole["folder"]) == [], "a finished run leaves none"


@pytest.mark.parametrize(
    ("modality", "bits"),
    [("image", 32), ("imu", 32), ("audio", 32), ("video", 32), ("image", 4)],
)
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(train, tmp_path, modality, bits):
    first, same, other = (
        train(tmp_path / name, modality=modality, bits=bits, seed=seed, steps=4)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first["sha"] == same["sha"] != other["sha"]
    assert timeless(first["curve"]) == timeless(same["curve"]) != timeless(other["curve"])


@pytest.mark.parametrize("modality", ["image", "imu"])
def test_a_resumed_run_ends_with_the_bytes_of_an_uninterrupted_one(train, tmp_path, modality):
    whole = train(tmp_path / "whole", modality=modality)
    folder = tmp_path / "stopped"
    first = train(folder, modality=modality, stop_at=10)
    assert first["steps"][-1] == 10 and checkpoints_in(folder) == ["checkpoint-0000008"]
    assert len(lines_of(folder)) == 10, "two lines later than the checkpoint"
    second = train(folder, modality=modality)
    assert second["steps"] == [9, 10, 11, 12]
    assert second["sha"] == whole["sha"]
    assert timeless(second["curve"]) == timeless(whole["curve"])
    assert lines_of(folder) == [asdict(report) for report in second["curve"]]
    seconds = [line["seconds"] for line in lines_of(folder)]
    assert seconds == sorted(seconds)
    assert checkpoints_in(folder) == []


def test_a_run_may_be_interrupted_more_than_once(train, whole, tmp_path):
    folder = tmp_path / "stopped"
    assert train(folder, stop_at=5)["steps"] == [1, 2, 3, 4, 5]
    assert train(folder, stop_at=9)["steps"] == [5, 6, 7, 8, 9]
    assert train(folder, stop_at=9)["steps"] == [9]
    last = train(folder)
    assert last["steps"] == [9, 10, 11, 12] and last["sha"] == whole["sha"]


@pytest.mark.parametrize(
    "changes", [{"learning_rate": 1e-4}, {"seed": 1}, {"steps": 6}, {"batch": 4}, {"bits": 16}]
)
def test_a_checkpoint_of_other_settings_is_not_used(train, tmp_path, changes):
    train(tmp_path / "mixed", stop_at=5)
    assert checkpoints_in(tmp_path / "mixed") == ["checkpoint-0000004"]
    again = train(tmp_path / "mixed", **changes)
    assert again["steps"][0] == 1
    assert lines_of(tmp_path / "mixed") == [asdict(report) for report in again["curve"]]
    assert again["sha"] == train(tmp_path / "alone", **changes)["sha"]


def test_a_checkpoint_of_other_data_is_not_used(train, bank_of, image_card, tmp_path):
    train(tmp_path, stop_at=5)
    bank = bank_of(image_card)
    rows = [replace(bank.rows[0], text=("another caption",)), *bank.rows[1:]]
    assert train(tmp_path, bank=Bank(rows, bank.intermediate, []))["steps"][0] == 1


def test_half_written_checkpoints_are_ignored(train, whole, tmp_path):
    folder = tmp_path / "stopped"
    train(folder, stop_at=9)
    complete = folder / "checkpoint-0000008"
    half = folder / "checkpoint-0000012.partial-77"
    shutil.copytree(complete, half)
    (half / "model.safetensors").write_bytes(b"")
    resumed = train(folder)
    assert resumed["steps"] == [9, 10, 11, 12] and resumed["sha"] == whole["sha"]
    assert checkpoints_in(folder) == []

    train(folder, stop_at=9)
    complete.rename(half)
    anew = train(folder)
    assert anew["steps"][0] == 1 and anew["sha"] == whole["sha"]


@pytest.mark.parametrize("bits", [32, 4])
def test_accumulated_micro_batches_equal_the_whole_batch(train, tmp_path, bits):
    one = train(tmp_path / "one", bits=bits, steps=3)
    many = train(tmp_path / "many", bits=bits, steps=3, micro_batch=2)
    assert many["steps"] == [1, 2, 3]
    tolerance = 1e-5 if bits == 32 else 2e-2
    for a, b in zip(one["curve"], many["curve"], strict=True):
        assert (a.lr, a.samples) == (b.lr, b.samples)
        assert a.loss == pytest.approx(b.loss, rel=tolerance)
    if bits == 32:
        theirs = many["model"].adapters.state_dict()
        for name, tensor in one["model"].adapters.state_dict().items():
            # Where a gradient is hardly more than rounding, AdamW makes a whole step of it.
            assert (tensor - theirs[name]).norm() <= 1e-4 * tensor.norm(), name


@pytest.mark.parametrize("micro_batch", [8, 32, 3])
def test_any_micro_batch_gives_the_asked_steps(train, tmp_path, micro_batch):
    one = train(tmp_path / "one", steps=3)
    other = train(tmp_path / "other", steps=3, micro_batch=micro_batch)
    assert other["steps"] == [1, 2, 3]
    for a, b in zip(one["curve"], other["curve"], strict=True):
        assert (a.lr, a.samples) == (b.lr, b.samples)
        assert a.loss == pytest.approx(b.loss, rel=1e-5)


def spoiled(bank, index):
    intermediate = list(bank.intermediate)
    intermediate[index] = torch.full_like(intermediate[index], float("nan"))
    return Bank(bank.rows, intermediate, [])


@pytest.mark.parametrize("index", [0, 5])
def test_a_loss_that_is_no_number_stops_the_run_at_its_step(
    train, bank_of, image_card, tmp_path, index
):
    bank = spoiled(bank_of(image_card), index)
    order = [epoch_order(0, len(bank), k) for k in range(12 * 8)]
    step = order.index(index) // 8 + 1
    with pytest.raises(DataError, match=rf"image alignment, step {step}: .*finite.*nan"):
        train(tmp_path, bank=bank)
    assert len(lines_of(tmp_path)) == step - 1


def test_training_changes_the_adapter_and_nothing_else(
    new_model, bank_of, image_card, imu_card, tmp_path
):
    model = new_model(32)
    encoders = deepcopy({name: e.state_dict() for name, e in model.encoders.items()})
    adapters = deepcopy(model.adapters.state_dict())
    bank = bank_of(imu_card)
    frozen = deepcopy(bank.intermediate)
    train_adapter(model, "imu", bank, model.spec("imu").align, seed=0, folder=tmp_path)
    for name, encoder in model.encoders.items():
        assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
        after = encoder.state_dict()
        assert all(torch.equal(encoders[name][key], after[key]) for key in after)
    for name, tensor in model.adapters.state_dict().items():
        assert torch.equal(adapters[name], tensor) != name.startswith("imu."), name
    assert all(map(torch.equal, frozen, bank.intermediate))
    assert not model.adapters["imu"].training


# Bad rows ----------------------------------------------------------------------------------------


@pytest.fixture
def damaged_card(image_card, tmp_path):
    """Function: a copy of the squares whose first images of the training split are damaged."""

    def build(count):
        folder = Path(shutil.copytree(image_card.parent, tmp_path / "damaged"))
        for k in range(count):
            (folder / f"{k}.png").write_bytes(b"no picture")
        return load_manifest(folder / "card.yaml")

    return build


def test_bad_rows_are_skipped_counted_and_named(damaged_card, tiny_encoders, train, tmp_path):
    rows = damaged_card(2).split("train")
    bank = build_bank(tiny_encoders["image"], rows, batch=5, max_bad_share=0.125, title="squares")
    assert len(bank) == 14 and [row.id for row in bank.rows] == [row.id for row in rows[2:]]
    report = bank.report()
    assert report["used"] == 14
    assert [bad["id"] for bad in report["skipped"]] == ["square-0", "square-1"]
    assert "0.png" in report["skipped"][0]["reason"]
    json.dumps(report)
    assert len(train(tmp_path / "run", bank=bank, steps=2)["curve"]) == 2


def test_too_many_bad_rows_stop_the_run(damaged_card, tiny_encoders):
    rows = damaged_card(3).split("train")
    with pytest.raises(DataError, match=r"squares.*18%.*3 of 16.*square-0.*max_bad_share"):
        build_bank(tiny_encoders["image"], rows, batch=5, max_bad_share=0.18, title="squares")


def test_two_bad_rows_never_stop_a_run(damaged_card, tiny_encoders):
    rows = damaged_card(2).split("train")[:4]
    bank = build_bank(tiny_encoders["image"], rows, batch=5, max_bad_share=0.2, title="squares")
    assert (len(bank), len(bank.skipped)) == (2, 2)


@pytest.mark.parametrize("count", [0, 1])
def test_no_good_row_at_all_stops_the_run(damaged_card, tiny_encoders, count):
    rows = damaged_card(1).split("train")[:count]
    with pytest.raises(DataError, match="squares"):
        build_bank(tiny_encoders["image"], rows, batch=5, max_bad_share=1.0, title="squares")


def test_a_banks_features_do_not_depend_on_the_neighbours(bank_of, tiny_encoders, imu_card):
    bank, encoder = bank_of(imu_card), tiny_encoders["imu"]
    assert len({tensor.shape for tensor in bank.intermediate}) == 2
    together = bank.features(encoder, [3, 0, 2, 5])
    for place, index in enumerate([3, 0, 2, 5]):
        alone = bank.features(encoder, [index])
        torch.testing.assert_close(together.pooled[place], alone.pooled[0])
        kept = together.sequence[place][together.mask[place]]
        torch.testing.assert_close(kept, alone.sequence[0])


def test_questions_are_no_captions_to_learn_from(train, bank_of, image_card, tmp_path):
    bank = bank_of(image_card)
    asked = replace(bank.rows[1], text=(), question="What colour?", answers=("red",))
    mixed = Bank([bank.rows[0], asked, *bank.rows[2:]], bank.intermediate, [])
    with pytest.raises(DataError, match=f"{asked.id!r}.*`text` with a caption"):
        train(tmp_path, bank=mixed)
