"""What one notebook has encoded, the next one reads: to the bit, and never of another file."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from PIL import Image

from anymal_lib import feature_cache
from anymal_lib.bank import build_bank, encode_frozen
from anymal_lib.manifest import load_manifest


@pytest.fixture
def rows(image_card, tmp_path):
    """Rows of the squares, their files the test's own."""
    copied = []
    for row in load_manifest(image_card).split("train")[:6]:
        own = tmp_path / row.path.name
        own.write_bytes(row.path.read_bytes())
        copied.append(replace(row, path=own))
    return copied


@pytest.fixture
def encode(own_cache, own_encoder, tiny_profile, monkeypatch):
    """Function: the bank of some rows, and how many prepared inputs were encoded for it."""
    encoder, seen = own_encoder("image"), []
    spec = tiny_profile.modality("image").encoder
    frozen = encoder.frozen
    monkeypatch.setattr(encoder, "frozen", lambda batch: seen.append(len(batch)) or frozen(batch))

    def run(rows, spec=spec, batch=4, max_bad_share=0.0, **options):
        seen.clear()
        bank = build_bank(
            encoder, rows, batch=batch, max_bad_share=max_bad_share, title="t", spec=spec, **options
        )
        return bank, sum(seen)

    run.encoder, run.spec = encoder, spec
    run.files = lambda: sorted((own_cache / "features").glob("*"))
    return run


def same(bank, other):
    return all(map(torch.equal, bank.intermediate, other.intermediate))


def test_what_was_encoded_is_read_to_the_bit(encode, rows):
    first, encoded = encode(rows)
    again, encoded_again = encode(rows)
    assert (encoded, encoded_again) == (6, 0)
    assert len(encode.files()) == 1 and encode.files()[0].suffix == ".safetensors"
    assert again.rows == rows and len(again.intermediate) == 6 and same(first, again)


def test_the_same_files_in_another_order_and_twice_are_known(encode, rows):
    first, _ = encode(rows)
    other = [replace(rows[k], id=f"question {k}") for k in (3, 0, 0, 5, 1, 2, 4)]
    bank, encoded = encode(other)
    assert encoded == 0 and bank.rows == other
    for place, k in enumerate((3, 0, 0, 5, 1, 2, 4)):
        assert torch.equal(bank.intermediate[place], first.intermediate[k])


def test_a_picture_that_changed_is_encoded_anew(encode, rows):
    first, _ = encode(rows)
    Image.new("RGB", (32, 32), "white").save(rows[2].path)
    bank, encoded = encode(rows)
    assert encoded == 6
    differ = [not torch.equal(a, b) for a, b in zip(first.intermediate, bank.intermediate)]  # noqa: B905
    assert differ == [k == 2 for k in range(6)]


def test_the_same_pictures_in_another_folder_are_known(encode, rows, tmp_path):
    first, _ = encode(rows)
    (tmp_path / "other").mkdir()
    moved = [replace(row, path=row.path.rename(tmp_path / "other" / row.path.name)) for row in rows]
    bank, encoded = encode(moved)
    assert encoded == 0 and same(first, bank)


def test_fewer_files_are_another_set(encode, rows):
    encode(rows)
    assert encode(rows[:4])[1] == 4


@pytest.mark.parametrize("window", [{"start": 1.0}, {"end": 1.0}, {"rate": 50.0}])
def test_another_piece_of_a_file_is_another_item(encode, rows, window):
    encode(rows)
    assert encode([replace(rows[0], **window), *rows[1:]])[1] == 6


def test_it_belongs_to_what_is_frozen_and_to_the_batch(encode, rows):
    encode(rows)
    other_size = replace(encode.spec, image_size=2 * encode.spec.image_size)
    assert encode(rows, spec=other_size)[1] == 6
    assert encode(rows, batch=3)[1] == 6
    trained_longer = replace(encode.spec, align=replace(encode.spec.align, steps=999))
    with torch.no_grad():
        for tensor in encode.encoder.trained_state().values():
            tensor.add_(1)
    assert encode(rows, spec=trained_longer)[1] == 0
    with torch.no_grad():
        next(encode.encoder.visual.trunk.parameters()).add_(1)
    assert encode(rows)[1] == 6


def test_where_a_row_was_skipped_nothing_is_kept(encode, rows):
    rows[1].path.write_bytes(b"not a picture")
    for _ in range(2):
        bank, encoded = encode(rows)
        assert encoded == 5 and len(bank) == 5 and len(bank.skipped) == 1
    assert not encode.files()


def test_a_file_that_is_gone_is_named_as_ever(encode, rows):
    encode(rows)
    rows[4].path.unlink()
    bank, _ = encode(rows)
    assert [bad.id for bad in bank.skipped] == [rows[4].id]


def test_what_is_not_to_be_kept_is_not(encode, rows, monkeypatch):
    encode(rows, cache=False)
    encode(rows, spec=None)
    from_a_stream = replace(rows[0], content=rows[0].path.read_bytes())
    encode([from_a_stream, *rows[1:]])
    for limit in ("_LARGEST", "_READ"):
        with monkeypatch.context() as patch:
            patch.setattr(feature_cache, limit, 100)
            encode(rows)
    assert not encode.files()


def test_features_are_laid_out_as_they_are_kept(own_encoder):
    """What an encoder gives may be laid out otherwise, and sums over it would round otherwise."""
    encoder = own_encoder("image")
    frozen = encoder.frozen(torch.rand(2, 3, 32, 32))
    assert frozen.is_contiguous(memory_format=torch.channels_last)
    [one, _] = encode_frozen(encoder, list(torch.rand(2, 3, 32, 32)), batch=2)
    assert one.is_contiguous()


def test_signals_of_several_lengths_are_not_kept(own_cache, own_encoder, tiny_profile, imu_card):
    rows, spec = load_manifest(imu_card).split("train"), tiny_profile.modality("imu").encoder
    bank = build_bank(own_encoder("imu"), rows, batch=4, max_bad_share=0, title="t", spec=spec)
    assert len({tensor.shape for tensor in bank.intermediate}) == 2
    assert not (own_cache / "features").exists()


def test_a_damaged_file_is_told_of_and_written_anew(encode, rows, caplog):
    first, _ = encode(rows)
    [file] = encode.files()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING):
        bank, encoded = encode(rows)
    assert encoded == 6 and same(first, bank) and file.name in caplog.text
    assert file.read_bytes() == whole


def test_a_full_disk_stops_no_run(encode, rows, caplog, monkeypatch):
    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_cache, "save_file", full)
    with caplog.at_level(logging.WARNING):
        bank, _ = encode(rows)
    assert len(bank) == 6 and "No space left" in caplog.text
    assert not encode.files()
