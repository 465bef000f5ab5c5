"""Streams: every row once an epoch, an order that the seed and the position give, flat memory."""

import io
import json
import subprocess
import sys
import tarfile
from collections import Counter
from itertools import islice
from pathlib import Path

import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anymal_lib.errors import InputError, ManifestError
from anymal_lib.inputs import Image
from anymal_lib.manifest import load_card, load_manifest, write_manifest
from anymal_lib.modalities import open_row
from anymal_lib.sources import row_writer
from anymal_lib.sources.convert import convert
from anymal_lib.sources.row_writer import RowWriter
from anymal_lib.stream import RowStream

CARD = {"name": "many", "modality": "image"}


def row(number, split="train"):
    return {"id": f"r{number}", "split": split, "image": f"{number}.png", "text": f"item {number}"}


def parquet(folder, rows, group):
    """A manifest as the converter writes large ones, with row groups of a size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_writer, "PARQUET_ABOVE", 1)
        patch.setattr(row_writer, "GROUP_ROWS", group)
        writer = RowWriter(folder)
        for fields in rows:
            writer.write(fields)
        files = writer.finish()
    card = {**CARD, "rows": [entry["path"] for entry in files], "files": files}
    (folder / "card.yaml").write_text(json.dumps(card))  # JSON is YAML
    return folder / "card.yaml"


@pytest.fixture(params=["parquet", "jsonl"])
def card(request, tmp_path):
    rows = [row(k, "test" if k % 10 == 0 else "train") for k in range(1000)]
    if request.param == "parquet":
        return parquet(tmp_path, rows, group=64)
    return write_manifest(tmp_path, CARD, rows)


def ids(rows):
    return [one.id for one in rows]


def test_an_epoch_has_every_row_of_the_split_once_in_another_order(card):
    manifest = load_manifest(card)
    for split in ("train", "test"):
        stream = RowStream(card, split=split, block=50)
        rows = list(stream)
        assert len(stream) == len(rows) == len(manifest.split(split))
        assert sorted(rows, key=lambda r: r.id) == sorted(manifest.split(split), key=lambda r: r.id)
        assert ids(rows) != ids(manifest.split(split))
    epochs = ids(islice(RowStream(card).rows(), 1800))
    assert Counter(epochs).keys() == set(ids(manifest.split("train")))
    assert sorted(epochs[:900]) == sorted(epochs[900:]) and epochs[:900] != epochs[900:]


def test_the_order_is_the_seeds(card):
    assert ids(RowStream(card, seed=3)) == ids(RowStream(card, seed=3))
    assert ids(RowStream(card, seed=3)) != ids(RowStream(card, seed=4))


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(position=st.integers(0, 2500), block=st.sampled_from([1, 7, 64, 5000]))
def test_a_stream_goes_on_from_any_position(card, position, block):
    stream = RowStream(card, block=block)
    assert ids(islice(stream.rows(position), 120)) == ids(
        islice(stream.rows(), position, position + 120)
    )


def test_whole_pieces_before_the_position_are_not_read(tmp_path):
    card = parquet(tmp_path, [row(k) for k in range(1000)], group=100)
    stream = RowStream(card, block=10)
    reads = []
    stream.pieces = [
        type(piece)(piece.rows, lambda piece=piece: reads.append(piece) or piece.read())
        for piece in stream.pieces
    ]
    next(stream.rows(905))
    assert len(reads) == 1


def test_rows_read_back_are_those_of_json_lines(tmp_path):
    full = {
        "id": "q", "split": "val", "video": "a.mp4", "start": 1.5, "end": 3.0, "rate": 50.0,
        "question": "why?", "answers": ["b"], "options": ["a", "b"], "group": "g", "licence": "MIT",
        "text": ["größer", "x"],
    }  # fmt: skip
    rows = [full, {**full, "id": "p", "text": "one", "options": ["b", "c"]}]
    card = {**CARD, "modality": "video", "stage": "evaluate"}
    as_lines = load_manifest(write_manifest(tmp_path / "lines", card, rows)).rows
    (tmp_path / "table").mkdir()
    path = parquet(tmp_path / "table", rows, group=1)
    path.write_text(json.dumps(json.loads(path.read_text()) | card))
    as_table = load_manifest(path).rows
    assert [{**vars(r), "path": r.path.name} for r in as_table] == [
        {**vars(r), "path": r.path.name} for r in as_lines
    ]


def test_without_pyarrow_a_conversion_stops_early_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(row_writer, "PARQUET_ABOVE", 1)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    writer = RowWriter(tmp_path)
    writer.write(row(1))
    with pytest.raises(ManifestError, match=r"train\.parquet.*pip install pyarrow"):
        writer.write(row(2))


@pytest.mark.parametrize(
    ("fields", "split", "says"),
    [
        ({"rows": "a.jsonl"}, "val", "rows whose split is val"),
        ({"rows": "b.jsonl"}, "train", "a split in every row"),
        ({"shards": [{"path": "x.tar"}]}, "train", "path, split and rows"),
        ({"shards": [{"path": "../x.tar", "split": "train", "rows": 1}]}, "train", "stays in"),
    ],
)
def test_what_cannot_be_streamed_is_refused(tmp_path, fields, split, says):
    (tmp_path / "a.jsonl").write_text(json.dumps(row(1)))
    (tmp_path / "b.jsonl").write_text(json.dumps({k: v for k, v in row(1).items() if k != "split"}))
    (tmp_path / "card.yaml").write_text(json.dumps(CARD | fields))
    with pytest.raises(ManifestError) as error:
        RowStream(tmp_path / "card.yaml", split=split)
    assert says in str(error.value)


# Archives of img2dataset -------------------------------------------------------------------------


def picture(number):
    content = io.BytesIO()
    PIL.Image.new("RGB", (8, 8), (number % 256, 0, 0)).save(content, "PNG")
    return content.getvalue()


def shard(path, keys, *, without=(), picture=picture):
    """``<key>.jpg``, ``<key>.txt``, ``<key>.json`` as img2dataset writes them."""
    with tarfile.open(path, "w") as archive:
        for key in keys:
            parts = {"jpg": picture(key), "txt": f"a thing {key}".encode(), "json": b"{}"}
            for suffix, content in parts.items():
                if (key, suffix) not in without:
                    member = tarfile.TarInfo(f"{key:09d}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def laion(tmp_path):
    """Three archives of img2dataset with the log of the first, converted."""
    import pyarrow
    import pyarrow.parquet

    source = tmp_path / "laion"
    source.mkdir()
    for number in range(3):
        keys = range(number * 10_000, number * 10_000 + 20)
        shard(source / f"{number:05d}.tar", keys, without={(10_003, "txt")})
    failed = [
        ("failed_to_download", "HTTP Error 404: Not Found"),
        ("failed_to_download", "HTTP Error 404: Not Found"),
        ("failed_to_download", "<urlopen error [Errno -2] Name or service not known>"),
        ("failed_to_resize", "image decoding error"),
    ]
    log = [{"key": f"{k:09d}", "status": "success", "error_message": None} for k in range(20)]
    log += [
        {"key": f"{k:09d}", "status": s, "error_message": m} for k, (s, m) in enumerate(failed, 20)
    ]
    more = {"url": "https://x", "caption": "a", "width": 8, "height": 8, "exif": "{}"}
    table = pyarrow.Table.from_pylist([entry | more for entry in log])
    pyarrow.parquet.write_table(table, source / "00000.parquet")
    return convert("laion-2b-cat", source, tmp_path / "manifest")


def test_archives_stream_with_their_pictures(laion):
    assert laion.lost == {
        "dead link: HTTP 404": 2,
        "dead link: <urlopen error [Errno -2] Name or service not known>": 1,
        "unreadable: failed_to_resize": 1,
        "no caption": 1,
    }
    assert (laion.records, laion.ok) == (64, 59)
    assert laion.splits == {"test": 20, "train": 39}
    train = list(RowStream(laion.card))
    assert sorted({one.id.split("/")[0] for one in train}) == ["00000", "00001"]
    assert len({one.id for one in train}) == 39
    for one in train:
        number = int(one.id.split("/")[1])
        assert one.text == (f"a thing {number}",)
        assert open_row(one).load().getpixel((0, 0)) == (number % 256, 0, 0)
    assert len(RowStream(laion.card, split="test")) == 20
    fields = load_card(laion.card).fields
    assert [entry["rows"] for entry in fields["shards"]] == [20, 19, 20]
    assert fields["media_folder"] == "../laion"
    with pytest.raises(ManifestError, match="RowStream"):
        load_manifest(laion.card)


def test_a_picture_that_is_none_is_refused_when_it_is_opened():
    with pytest.raises(InputError, match="7 bytes"):
        Image(b"garbage").load()


def test_archives_that_changed_or_broke_are_named(laion, tmp_path):
    archive = tmp_path / "laion" / "00000.tar"
    whole = archive.read_bytes()
    shard(archive, range(19))
    with pytest.raises(ManifestError, match=r"00000\.tar.*20 samples as its card says.*19"):
        list(RowStream(laion.card))
    archive.write_bytes(whole[:7000])
    with pytest.raises(ManifestError, match=r"00000\.tar.*whole tar archive"):
        list(RowStream(laion.card))


# Memory ------------------------------------------------------------------------------------------

MEASURE = """
import sys
from pathlib import Path
from anymal_lib.stream import RowStream
def peak():  # not of getrusage, which counts what was before exec
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return int(line.split()[1]) / 1024
stream = RowStream(sys.argv[1])
early, seen = 0.0, 0
for row in stream:
    seen += 1
    if seen == len(stream) // 10:
        early = peak()
print(len(stream), seen, round(peak() - early, 1))
"""
ALLOWED_MIB = 10  # of growth after the first tenth; keeping 18,000 rows takes 18


def growth(card):
    """Rows of one epoch, and MiB by which the peak grew after its first tenth."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(card)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    rows, seen, grown = done.stdout.split()
    assert rows == seen
    return int(rows), float(grown)


def generated(folder, count):
    writer = RowWriter(folder)
    for number in range(count):
        writer.write(row(number) | {"text": f"item {number} " + "and more words " * 20})
    files = writer.finish()
    assert [Path(entry["path"]).suffix for entry in files] == [
        ".parquet" if count > row_writer.PARQUET_ABOVE else ".jsonl"
    ]
    fields = {**CARD, "rows": [entry["path"] for entry in files], "files": files}
    (folder / "card.yaml").write_text(json.dumps(fields))
    return folder / "card.yaml"


def test_memory_stays_flat(tmp_path):
    rows, grown = growth(generated(tmp_path, 20_000))
    assert rows == 20_000
    assert grown < ALLOWED_MIB


@pytest.mark.slow
def test_memory_stays_flat_over_200_000_rows(tmp_path):
    rows, grown = growth(generated(tmp_path, 200_000))
    assert rows == 200_000
    assert grown < ALLOWED_MIB


@pytest.mark.slow
def test_memory_stays_flat_over_200_000_pictures_in_archives(tmp_path):
    source = tmp_path / "laion"
    source.mkdir()
    same = b"\xff\xd8\xff" + bytes(2000)
    for number in range(20):
        keys = range(number * 10_000, (number + 1) * 10_000)
        shard(source / f"{number:05d}.tar", keys, picture=lambda key: same)
    report = convert("laion-2b-cat", source, tmp_path / "manifest")
    rows, grown = growth(report.card)
    assert rows == 190_000, "the last archive is the test split"
    assert grown < ALLOWED_MIB
