"""Training on a stream: it learns, resumes to the same bytes, and keeps little in memory."""

import hashlib
import json
from dataclasses import replace
from itertools import islice

import pytest
import torch

from anymal_lib.errors import DataError
from anymal_lib.manifest import load_manifest, write_manifest
from anymal_lib.stream import RowStream
from anymal_lib.stream_bank import StreamBank
from anymal_lib.train import train_adapter


class InterruptedRunError(Exception):
    """The machine went down."""


@pytest.fixture
def stream_bank(tiny_encoders, image_card):
    """Function: a bank over the squares' training rows, shuffled in blocks of 4."""

    def build(card=image_card, seed=0, chunk=8, max_bad_share=0.05):
        return StreamBank(
            tiny_encoders["image"],
            RowStream(card, seed=seed, block=4),
            chunk=chunk,
            batch=4,
            max_bad_share=max_bad_share,
            title="squares",
        )

    return build


def with_bad_rows(image_card, folder, missing):
    """The squares' card in another folder, where some pictures are not."""
    rows = [json.loads(line) for line in (image_card.parent / "train.jsonl").open()]
    for number, row in enumerate(rows):
        if number not in missing:
            (folder / row["image"]).write_bytes((image_card.parent / row["image"]).read_bytes())
    return write_manifest(folder, {"name": "squares", "modality": "image"}, rows)


def test_rows_and_features_are_those_of_the_bank(stream_bank, bank_of, image_card):
    bank, stream = bank_of(image_card), stream_bank()
    known = {row.id: tensor for row, tensor in zip(bank.rows, bank.intermediate, strict=True)}
    order = [row.id for row in RowStream(image_card, block=4)]
    assert len(stream) == len(order) == len(bank)
    assert [stream.rows[k].id for k in range(16)] == order
    assert sorted(order) == sorted(known)
    for k in (15, 3, 16 + 2, 0):  # any order, and the next epoch
        # Batches of another size may be added up in another order.
        own, kept = stream.intermediate[k], known[stream.rows[k].id]
        torch.testing.assert_close(own, kept, rtol=1e-3, atol=1e-4)
    assert len(stream._chunks) == 3
    assert stream.report()["skipped"] == []


def test_a_bad_row_is_named_and_the_next_good_one_takes_its_place(
    stream_bank, image_card, tmp_path
):
    card = with_bad_rows(image_card, tmp_path, {3, 7})
    order = [row.id for row in islice(RowStream(card, block=4).rows(), 32)]
    bank = stream_bank(card, chunk=16, max_bad_share=0.2)
    bad = {"square-3", "square-7"}
    for k in range(16):
        assert bank.rows[k].id == next(name for name in order[k:] if name not in bad)
    assert {skipped.id for skipped in bank.skipped} == bad
    assert "no such file" in bank.skipped[0].reason
    assert bank.report()["used"] == bank.report()["seen"] - len(bank.skipped)


@pytest.mark.parametrize(("missing", "share"), [(range(8), 0.2), (range(16), 1.0)])
def test_too_many_bad_rows_stop_the_run(stream_bank, image_card, tmp_path, missing, share):
    card = with_bad_rows(image_card, tmp_path, set(missing))
    bank = stream_bank(card, chunk=16, max_bad_share=share)
    with pytest.raises(DataError, match=f"squares.*{len(missing)} of 16; the first: square-"):
        bank.rows[0]


def test_questions_are_bad_rows_here(stream_bank, image_card, tmp_path):
    card = with_bad_rows(image_card, tmp_path, set())
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    asked = [{**json.loads(x), "text": None, "question": "?", "answer": "red"} for x in lines]
    card = write_manifest(tmp_path, {"name": "squares", "modality": "image"}, asked)
    assert len(load_manifest(card).rows) == 16
    with pytest.raises(DataError, match="no caption"):
        stream_bank(card).rows[0]


@pytest.fixture
def trained(new_model, stream_bank):
    """Function: train on a stream in a folder; returns the curve and the adapter's bytes."""

    def run(folder, stop_at=None, seed=0):
        model = new_model(32, 0)
        spec = replace(model.spec("image").align, steps=12, checkpoint_every=4)

        def on_step(report):
            if report.step == stop_at:
                raise InterruptedRunError

        bank = stream_bank(seed=seed)
        curve = train_adapter(model, "image", bank, spec, seed=0, folder=folder, on_step=on_step)
        saved = model.save_pretrained(folder / "adapter") / "image.adapter.safetensors"
        return curve, hashlib.sha256(saved.read_bytes()).hexdigest()

    return run


def test_training_learns_and_goes_on_where_it_stopped(trained, tmp_path):
    curve, whole = trained(tmp_path / "whole")
    losses = [report.loss for report in curve]
    assert sum(losses[-3:]) < 0.96 * sum(losses[:3])
    with pytest.raises(InterruptedRunError):
        trained(tmp_path / "cut", stop_at=7)
    resumed, after = trained(tmp_path / "cut")
    assert after == whole
    assert [r.loss for r in resumed] == [r.loss for r in curve]


def test_another_order_is_another_run(trained, tmp_path):
    with pytest.raises(InterruptedRunError):
        trained(tmp_path, stop_at=7)
    _, other = trained(tmp_path, seed=1)
    assert other == trained(tmp_path / "fresh", seed=1)[1]
