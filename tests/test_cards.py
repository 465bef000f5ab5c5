"""The cards of the paper's sources, and what stands between a user and a manifest."""

import importlib
import json
import re
import subprocess
from dataclasses import asdict

import pytest
import yaml

from anymal_lib import sources
from anymal_lib.config import PROFILES
from anymal_lib.errors import ManifestError
from anymal_lib.manifest import load_card, load_manifest
from anymal_lib.sources import profile_manifest
from anymal_lib.sources.catalogue import CARDS, converted_card, paper_cards, paper_sources
from anymal_lib.sources.convert import convert, main

NAMES = {
    "laion-2b-cat", "audioset", "audiocaps", "clotho", "ego4d", "howto100m", "coco-karpathy",
    "vqav2", "textvqa", "okvqa", "vizwiz", "scienceqa", "hateful-memes", "star", "how2qa", "nextqa",
}  # fmt: skip
FIELDS = [
    "version", "stage", "description", "licence", "redistribution", "citation", "homepage",
    "how_to_get", "size", "paper", "source", "files",
]  # fmt: skip
# No media, so no card: a README says what they are.
TEXTS = {"plain-text", "planted-questions", "general-questions"}
KINDS = {"pypi-wheel", "http", "huggingface", "local", "webdataset", "agreement", "generated"}
ALL = sorted(CARDS.glob("*/card.yaml"))
PAPER = paper_cards()
IDS = [card.name for card in PAPER]


def test_every_source_of_the_paper_has_its_card_and_every_profile_its_manifest():
    assert set(IDS) == NAMES
    folders = {path.parent.name for path in ALL}
    named = {spec.manifest for p in PROFILES.values() for spec in p.modalities.values()}
    assert named <= folders


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.parent.name)
def test_every_card_keeps_the_contract(path):
    card = load_card(path)
    assert card.name == path.parent.name
    needed = FIELDS if card.fields.get("source") != "generated" else set(FIELDS) - {"files"}
    assert [key for key in needed if not card.fields.get(key)] == []
    assert card.fields["licence"].keys() == {"annotations", "media"}
    assert card.fields["redistribution"] in ("allowed", "forbidden")
    assert card.fields["source"] in KINDS
    assert card.fields["stage"] in ("align", "instruct", "evaluate")
    for entry in card.fields["files"]:
        assert entry.keys() == {"path", "sha256", "bytes", "rows"}
        assert re.fullmatch("[0-9a-f]{64}", entry["sha256"] or "0" * 64)
        assert entry["sha256"] or card.fields["sha256_missing"]


@pytest.mark.parametrize("card", PAPER, ids=IDS)
def test_every_source_of_the_paper_has_a_reader_and_a_tool(card):
    reader = importlib.import_module(f"anymal_lib.sources.formats.{card.fields['reader']}")
    assert callable(reader.read)
    assert "Schema" in reader.__doc__, "its module states the format"
    tool = card.fields["tool"]
    assert re.search(rf"\b{tool}\b", card.fields["how_to_get"]) or tool == "http"
    assert card.fields["paper_count"] is None or card.fields["stage"] == "align"
    assert (card.fields["source"] == "agreement") <= bool(card.fields.get("agreement"))


def test_rows_that_may_not_be_passed_on_are_not_shipped():
    listed = subprocess.run(
        ["git", "ls-files", "data_manifests"], cwd=CARDS.parent, capture_output=True, text=True
    ).stdout.split()
    shipped = {path.split("/")[1] for path in listed if not path.endswith("card.yaml")}
    on_disk = {p.parent.name for p in CARDS.glob("*/*") if p.name != "card.yaml"}
    for name in shipped | on_disk:
        if name in TEXTS:
            readme = (CARDS / name / "README.md").read_text()
            assert "Written for this kit. Licence: CC0-1.0." in readme
        else:
            assert load_card(CARDS / name / "card.yaml").fields["redistribution"] == "allowed"


# Before the conversion ---------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ANYMAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("card", PAPER, ids=IDS)
def test_a_source_that_is_not_converted_says_what_to_sign_fetch_and_run(card, cache):
    with pytest.raises(ManifestError) as error:
        profile_manifest(card.name)
    says = str(error.value)
    assert f"python -m anymal_lib.sources.convert {card.name} --from" in says
    assert card.fields["how_to_get"] in says
    assert card.fields.get("agreement", "") in says
    assert "SEE" not in says and "prepare" not in says


@pytest.mark.parametrize("name", ["ego4d", "hateful-memes"])
def test_an_empty_folder_stops_with_the_agreement(name, cache, tmp_path):
    card = load_card(CARDS / name / "card.yaml")
    (tmp_path / "empty").mkdir()
    for folder, got in ((tmp_path / "empty", "none of them"), (tmp_path / "no", "no folder")):
        with pytest.raises(ManifestError) as error:
            convert(name, folder, tmp_path / "to")
        assert error.value.got == got
        assert card.fields["agreement"] in error.value.do


# The conversion ----------------------------------------------------------------------------------


def okvqa(folder, missing=1):
    """Two questions of OKVQA's format, one of which has no picture."""
    asked = [{"question_id": k, "image_id": k, "question": "Why?"} for k in range(1 + missing)]
    answers = [{"question_id": k, "answers": [{"answer": "so"}]} for k in range(1 + missing)]
    folder.mkdir()
    for name, content in (
        ("OpenEnded_mscoco_val2014_questions.json",
         {"data_subtype": "val2014", "questions": asked}),
        ("mscoco_val2014_annotations.json", {"annotations": answers}),
    ):  # fmt: skip
        (folder / name).write_text(json.dumps(content))
    (folder / "COCO_val2014_000000000000.jpg").write_bytes(b"\xff\xd8\xff picture")
    return folder


def test_a_converted_source_is_an_ordinary_manifest_with_its_provenance(cache, tmp_path):
    report = convert("okvqa", okvqa(tmp_path / "okvqa"))
    manifest = profile_manifest("okvqa")
    (row,) = manifest.rows
    assert (row.id, row.split, row.question, row.answers) == ("0", "val", "Why?", ("so",))
    assert row.path == tmp_path / "okvqa" / "COCO_val2014_000000000000.jpg"
    fields = manifest.card.fields
    assert fields["licence"] == load_card(CARDS / "okvqa" / "card.yaml").fields["licence"]
    assert [entry["rows"] for entry in fields["files"]] == [1]
    assert [entry["path"] for entry in fields["converted"]["annotations"]] == [
        "OpenEnded_mscoco_val2014_questions.json", "mscoco_val2014_annotations.json",
    ]  # fmt: skip
    assert str(tmp_path) not in (converted_card("okvqa")).read_text(), "no place of this machine"
    stored = json.loads((converted_card("okvqa").parent / "report.json").read_text())
    assert stored == {k: v for k, v in asdict(report).items() if k != "card"}
    assert stored["lost"] == {"missing file": 1} and stored["paper"] is None


def test_the_same_source_gives_the_same_bytes(tmp_path):
    okvqa(tmp_path / "okvqa")
    contents = []
    for _ in range(2):
        convert("okvqa", tmp_path / "okvqa", tmp_path / "to")
        contents.append({p.name: p.read_bytes() for p in (tmp_path / "to").iterdir()})
    assert contents[0] == contents[1]
    assert contents[0].keys() == {"card.yaml", "val.jsonl", "lost.jsonl", "report.json"}


def test_an_interrupted_conversion_leaves_no_card(tmp_path, monkeypatch):
    okvqa(tmp_path / "okvqa")
    convert("okvqa", tmp_path / "okvqa", tmp_path / "to")
    (tmp_path / "okvqa" / "mscoco_val2014_annotations.json").write_text("{")
    with pytest.raises(ManifestError, match=r"annotations\.json"):
        convert("okvqa", tmp_path / "okvqa", tmp_path / "to")
    assert not (tmp_path / "to" / "card.yaml").exists()
    assert not list((tmp_path / "to").glob("*.partial-*"))
    with pytest.raises(ManifestError):
        load_manifest(tmp_path / "to" / "card.yaml")


def test_media_that_are_no_media_are_counted(tmp_path):
    folder = okvqa(tmp_path / "okvqa", missing=2)
    (folder / "COCO_val2014_000000000001.jpg").write_bytes(b"")
    (folder / "COCO_val2014_000000000002.jpg").write_text("<!DOCTYPE html>")
    report = convert("okvqa", folder, tmp_path / "to")
    assert report.lost == {"empty file": 1, "unreadable: not a file of its kind": 1}
    for page in folder.glob("*.jpg"):
        page.write_bytes(b"")
    with pytest.raises(ManifestError, match=r"at least one usable record.*3 lost.*report\.json"):
        convert("okvqa", folder, tmp_path / "to")


def test_a_row_that_would_break_the_manifest_is_lost_not_fatal(tmp_path):
    folder = okvqa(tmp_path / "okvqa", missing=0)
    file = folder / "OpenEnded_mscoco_val2014_questions.json"
    content = json.loads(file.read_text())
    content["questions"][0]["question"] = " "
    content["questions"].append({"question_id": 1, "image_id": 0, "question": "Who?"})
    file.write_text(json.dumps(content))
    answers = [{"question_id": k, "answers": [{"answer": "so"}]} for k in range(2)]
    (folder / "mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": answers}))
    report = convert("okvqa", folder, tmp_path / "to")
    assert report.lost == {"no valid row: text in `question`": 1}
    assert [row.id for row in load_manifest(tmp_path / "to" / "card.yaml").rows] == ["1"]


@pytest.mark.parametrize("inside", [".", "manifest"])
def test_the_target_may_not_lie_in_the_source(tmp_path, inside):
    folder = okvqa(tmp_path / "okvqa")
    before = sorted(folder.iterdir())
    with pytest.raises(ManifestError, match=r"outside.*--to"):
        convert("okvqa", folder, folder / inside)
    assert sorted(folder.iterdir()) == before


def test_command_line(tmp_path, cache, capsys):
    assert main(["okvqa", "--from", str(okvqa(tmp_path / "okvqa"))]) == 0
    said = capsys.readouterr().out
    assert re.search(r"in the paper +not stated\n", said)
    assert re.search(r"records here +2\nok +1\nok, val +1\nmissing file +1\n", said)
    assert main(["imagenet", "--from", str(tmp_path)]) == 1
    assert re.search(r"'imagenet'", capsys.readouterr().err)


def test_a_card_of_ones_own_may_use_a_reader(tmp_path):
    fields = yaml.safe_load((CARDS / "okvqa" / "card.yaml").read_text()) | {"name": "a-okvqa"}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(fields))
    report = convert(str(tmp_path / "card.yaml"), okvqa(tmp_path / "okvqa"), tmp_path / "to")
    assert report.name == load_card(tmp_path / "to" / "card.yaml").name == "a-okvqa"
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(fields | {"reader": "nothing"}))
    with pytest.raises(ManifestError, match=r"card\.yaml.*reader.*nothing"):
        convert(str(tmp_path / "card.yaml"), tmp_path / "okvqa", tmp_path / "to")


def test_a_record_in_another_format_leaves_no_half_files(tmp_path):
    folder = okvqa(tmp_path / "okvqa")
    file = folder / "OpenEnded_mscoco_val2014_questions.json"
    content = json.loads(file.read_text())
    content["questions"].append({"id": 7})
    file.write_text(json.dumps(content))
    with pytest.raises(ManifestError, match=r"okvqa.*formats/vqa\.py.*KeyError"):
        convert("okvqa", folder, tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []


def test_the_table_of_sources_tells_what_is_here(tmp_path, cache):
    convert("okvqa", okvqa(tmp_path / "okvqa"))
    table = paper_sources()
    assert set(table.index) == NAMES
    assert table.loc["okvqa", "rows here"] == 1
    assert (table.drop("okvqa")["rows here"] == 0).all()
    assert table.loc["ego4d", "agreement"] == "yes"
    assert table.loc["howto100m", "in the paper"] == 28_000_000
    assert sources.BUILDERS.keys().isdisjoint(table.index)
