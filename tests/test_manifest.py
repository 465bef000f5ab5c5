"""Manifests: what is accepted, and for every rule a folder that breaks it."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anymal_lib.errors import ManifestError
from anymal_lib.manifest import load_card, load_manifest, write_manifest

CARD = {"name": "mine", "modality": "image"}


def row(number, split="train", **more):
    return {"id": f"r{number}", "split": split, "image": f"{number}.png", "text": "a cat", **more}


def bare(number, **more):
    return {k: v for k, v in row(number, **more).items() if k != "split"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


def put(folder, rows, card=None, name="rows.jsonl"):
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD | (card or {})))
    lines = [r if isinstance(r, str) else json.dumps(r) for r in rows]
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / "card.yaml"


# What is accepted --------------------------------------------------------------------------------


def test_a_minimal_folder_of_ones_own(folder):
    full = row(
        1, facts={"colour": "red", "shape": "circle"}, group="anna", question="What?",
        answers=["a cat", "cat"], licence="MIT", boxes=[[0, 0, 1, 1]], objects=["cat"],
        text=["a cat", "one cat"], unknown=1, rate=None,
    )  # fmt: skip
    manifest = load_manifest(put(folder, [full, row(2, "val", facts={"colour": "blue"})]))
    first = manifest.rows[0]
    assert (first.id, first.split, first.modality) == ("r1", "train", "image")
    assert first.path == folder / "1.png"
    assert first.text == ("a cat", "one cat")
    assert first.answers == ("a cat", "cat")
    assert (first.group, first.question, first.licence) == ("anna", "What?", "MIT")
    assert (first.boxes, first.objects) == (([0, 0, 1, 1],), ("cat",))
    assert (first.start, first.end, first.rate) == (None, None, None)
    assert manifest.modality == "image"
    assert manifest.fact_values == {"colour": ["blue", "red"], "shape": ["circle"]}
    assert [r.id for r in manifest.split("val")] == ["r2"]
    assert manifest.split("test") == []
    with pytest.raises(ManifestError, match="training"):
        manifest.split("training")


def test_a_url_an_answer_and_numbers_as_ids(folder):
    card = put(folder, [{"id": 7, "split": "train", "image": "https://a.org/x.png", "text": "x",
                         "answer": 3, "group": 12}])  # fmt: skip
    (only,) = load_manifest(card).rows
    assert (only.id, only.path, only.answers, only.group) == (
        "7", "https://a.org/x.png", ("3",), "12",
    )  # fmt: skip


@pytest.mark.parametrize("rows", ["data/a.jsonl", ["data/a.jsonl"], None])
def test_where_rows_may_be_named(folder, rows):
    (folder / "data").mkdir()
    put(folder / "data", [row(1)], name="a.jsonl")
    sha = hashlib.sha256((folder / "data" / "a.jsonl").read_bytes()).hexdigest()
    more = {"rows": rows} if rows else {"files": [{"path": "data/a.jsonl", "sha256": sha}]}
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD | more))
    assert [r.path for r in load_manifest(folder / "card.yaml").rows] == [folder / "1.png"]


def test_files_named_after_splits_give_the_split(folder):
    put(folder, [bare(1)], name="train.jsonl")
    put(folder, [bare(2)], name="validation.jsonl")
    card = put(folder, [bare(3)], name="test.jsonl")
    assert {r.id: r.split for r in load_manifest(card).rows} == {
        "r1": "train", "r2": "val", "r3": "test",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("alias", "split"),
    [("validation", "val"), ("valid", "val"), ("dev", "val"), ("Testing", "test"),
     ("training", "train"), ("TRAIN", "train")],
)  # fmt: skip
def test_split_aliases(folder, alias, split):
    card = put(folder, [row(1), row(2, alias)])
    assert load_manifest(card).rows[1].split == split


def test_bom_crlf_blank_lines_and_line_separators_in_text(folder):
    card = put(folder, [row(1)])
    lines = [json.dumps(row(1)), "", json.dumps(row(2, text="one\u2028two"), ensure_ascii=False)]
    content = "\r\n".join([*lines, "   ", ""])
    (folder / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert [r.text[0] for r in load_manifest(card).rows] == ["a cat", "one\u2028two"]


def test_media_that_are_missing_are_no_error_here(folder):
    assert not (folder / "1.png").exists()
    assert load_manifest(put(folder, [row(1)])).rows


def test_the_checksum_covers_card_and_rows_but_not_the_place(folder, tmp_path):
    first = load_manifest(put(folder, [row(1)])).checksum
    shutil.copytree(folder, tmp_path / "copy")
    assert load_manifest(tmp_path / "copy" / "card.yaml").checksum == first
    assert load_manifest(put(folder, [row(1, text="b")])).checksum != first
    assert load_manifest(put(folder, [row(1)], {"version": "2"})).checksum != first


def test_parquet_rows_or_what_to_install(folder):
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD | {"rows": "r.parquet"}))
    (folder / "r.parquet").write_bytes(b"PAR1")
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        with pytest.raises(ManifestError, match=r"r\.parquet.*pyarrow"):
            load_manifest(folder / "card.yaml")
        return
    with pytest.raises(ManifestError, match=r"r\.parquet"):
        load_manifest(folder / "card.yaml")
    rows = [
        row(1, facts={"colour": "red", "shape": None}, rate=None),
        row(2, facts={"colour": None, "shape": "circle"}, rate=50.0),
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "r.parquet")
    loaded = load_manifest(folder / "card.yaml").rows
    assert [r.facts for r in loaded] == [{"colour": "red"}, {"shape": "circle"}]
    assert [r.rate for r in loaded] == [None, 50.0]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[:1] * 2), folder / "r.parquet")
    with pytest.raises(ManifestError, match=r"r\.parquet, row 2: .*id of its own"):
        load_manifest(folder / "card.yaml")


# Seeded splits -----------------------------------------------------------------------------------


def splits(card, seed=0):
    return {r.id: r.split for r in load_manifest(card, seed=seed).rows}


def test_without_splits_the_seed_gives_80_10_10(folder):
    card = put(folder, [bare(i) for i in range(100)])
    first = splits(card)
    counts = [list(first.values()).count(s) for s in ("train", "val", "test")]
    assert counts == [80, 10, 10]
    assert splits(card) == first
    assert splits(card, seed=1) != first


def test_groups_and_windows_of_one_file_stay_together(folder):
    rows = [bare(i, group=f"g{i % 10}") for i in range(40)]
    by_group = {}
    for name, split in splits(put(folder, rows)).items():
        by_group.setdefault(int(name[1:]) % 10, set()).add(split)
    assert all(len(found) == 1 for found in by_group.values())
    windows = [
        {"id": f"{i}", "image": f"{i // 4}.png", "text": "x", "start": i % 4, "end": i % 4 + 2}
        for i in range(40)
    ]
    found = splits(put(folder, windows))
    assert all(len({found[str(4 * f + k)] for k in range(4)}) == 1 for f in range(10))


@given(n=st.integers(1, 60), seed=st.integers(0, 5), groups=st.integers(1, 60))
@settings(max_examples=40)
def test_every_split_gets_something_from_three_units_on(n, seed, groups, tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    found = splits(put(folder, [bare(i, group=str(i % groups)) for i in range(n)]), seed)
    assert set(found.values()) >= {"train"}
    units = min(n, groups)
    assert len(set(found.values())) == min(units, 3)


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "line", "says"),
    [
        (["{not json"], 1, "one JSON object"),
        ([row(1), "[1, 2]"], 2, "one JSON object"),
        ([row(1), "", '"text"'], 3, "one JSON object"),
        (["[" * 100_000], 1, "one JSON object"),
        ([{k: v for k, v in row(1).items() if k != "id"}], 1, "`id`"),
        ([{k: v for k, v in row(1).items() if k != "text"}], 1, "`text`"),
        ([{k: v for k, v in row(1).items() if k != "image"}], 1, "modality"),
        ([row(1, text="")], 1, "`text`"),
        ([row(1, text=[])], 1, "`text`"),
        ([row(1, text=["fine", "  "])], 1, "`text`"),
        ([row(1, text={"a": 1})], 1, "`text`"),
        ([row(1), row(2), row(1)], 3, "rows.jsonl, line 1"),
        ([row(1, image="/etc/hostname")], 1, "relative path"),
        ([row(1, image="../other.png")], 1, "relative path"),
        ([row(1, image="a/../../other.png")], 1, "relative path"),
        ([row(1, image="a\0b.png")], 1, "path"),
        ([row(1, image="")], 1, "path or URL"),
        ([row(1, image=5)], 1, "path or URL"),
        ([row(1, imu="a.csv")], 1, "one modality"),
        ([{"id": "r", "split": "train", "imu": "a.csv", "text": "x"}], 1, "one modality"),
        ([row(1, "nonsense")], 1, "a split out of"),
        ([row(1, 3)], 1, "a split out of"),
        ([row(1, True)], 1, "split"),
        ([row(1, start=2, end=1)], 1, "`end`"),
        ([row(1, start=-1)], 1, "`start`"),
        ([row(1, end="soon")], 1, "`end`"),
        ([row(1, end=True)], 1, "`end`"),
        ([row(1, rate=0)], 1, "`rate`"),
        ([row(1, rate=10**400)], 1, "`rate`"),
        (['{"id": 1, "image": "a", "text": "x", "start": NaN}'], 1, "`start`"),
        ([row(1, facts=["red"])], 1, "`facts`"),
        ([row(1, facts={"colour": ""})], 1, "`facts`"),
        ([row(1, group=["a"])], 1, "`group`"),
        ([row(1, boxes="all")], 1, "`boxes`"),
        ([row(1, answers={"a": 1})], 1, "`answers`"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_by_file_and_line(folder, lines, line, says):
    with pytest.raises(ManifestError) as error:
        load_manifest(put(folder, lines))
    assert error.value.subject == f"{folder / 'rows.jsonl'}, line {line}"
    assert says in str(error.value)


def test_links_may_not_leave_the_folder(folder, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"x")
    (folder / "1.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ManifestError, match=r"rows\.jsonl, line 1.*relative path that stays"):
        load_manifest(put(folder, [row(1)]))
    (folder / "1.png").unlink()
    (folder / "1.png").symlink_to("1.png")  # a loop
    with pytest.raises(ManifestError, match=r"rows\.jsonl, line 1"):
        load_manifest(put(folder, [row(1)]))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        (b"", "NoneType"),
        (b"just text", "str"),
        (b"a: [1", "YAML"),
        (b"\xff\xfe\x00", "YAML"),
        (b"modality: image", "`name`"),
        (b"name: mine", "`modality`"),
        (b"name: 5\nmodality: image", "`name`"),
        (b"name: mine\nmodality: smell", "smell"),
        (b"name: mine\nmodality: image\nfiles: all", "`files`"),
        (b"name: mine\nmodality: image\nrows: [1]", "rows"),
        (b"name: mine\nmodality: image\nrows: ../out.jsonl", "relative path"),
        (b"name: mine\nmodality: image\nrows: none.jsonl", "none.jsonl"),
        (b"name: mine\nmodality: image", "rows beside the card"),
    ],
)
def test_a_bad_card_is_named(folder, content, says):
    if content is not None:
        (folder / "card.yaml").write_bytes(content)
    with pytest.raises(ManifestError) as error:
        load_manifest(folder / "card.yaml")
    assert error.value.subject == str(folder / "card.yaml")
    assert says in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_named(folder, content):
    card = put(folder, [])
    (folder / "rows.jsonl").write_bytes(content)
    with pytest.raises(ManifestError, match=r"rows\.jsonl: .*an empty file"):
        load_manifest(card)


def test_rows_that_are_no_utf8_are_named(folder):
    card = put(folder, [])
    (folder / "rows.jsonl").write_bytes(b'{"id": "\xff"}')
    with pytest.raises(ManifestError, match=r"rows\.jsonl: .*UTF-8"):
        load_manifest(card)


def test_a_wrong_checksum_is_named_with_both(folder):
    put(folder, [row(1)])
    card = put(folder, [row(1)], {"files": [{"path": "rows.jsonl", "sha256": "0" * 64}]})
    came = hashlib.sha256((folder / "rows.jsonl").read_bytes()).hexdigest()
    with pytest.raises(ManifestError) as error:
        load_manifest(card)
    assert all(part in str(error.value) for part in ("rows.jsonl", "0" * 64, came))


def test_splits_in_some_rows_only(folder):
    with pytest.raises(ManifestError, match=r"card\.yaml.*'r2' without"):
        load_manifest(put(folder, [row(1), bare(2)]))


def test_an_empty_training_split(folder):
    with pytest.raises(ManifestError, match=r"card\.yaml.*empty training split"):
        load_manifest(put(folder, [row(1, "test"), row(2, "val")]))


# Leaks -------------------------------------------------------------------------------------------


def window(number, split, start, end, image="1.png"):
    return row(number, split, image=image, start=start, end=end)


@pytest.mark.parametrize("held_out", ["val", "test"])
@pytest.mark.parametrize(
    "pair",
    [
        lambda s: [row(1), row(2, s, image="1.png")],
        lambda s: [row(1), row(2, s, image="./a/../1.png")],
        lambda s: [row(1, image="https://a.org/1.png"), row(2, s, image="https://a.org/1.png")],
        lambda s: [row(1, group="anna"), row(2, s, group="anna")],
        lambda s: [window(1, "train", 0, 5), window(2, s, 4.5, 9)],
        lambda s: [window(1, "train", 0, 5), window(2, s, 0, 5)],
        lambda s: [window(1, "train", 3, 4), window(2, s, 0, 9)],
        lambda s: [window(1, "train", 0, 9), window(2, "train", 0, 1), window(3, s, 5, 6)],
        lambda s: [window(1, s, 0, 5), row(2, image="1.png")],
        lambda s: [window(1, s, 50, 55), window(2, "train", 10, None)],
    ],
)
def test_what_is_in_two_splits_is_refused(folder, pair, held_out):
    with pytest.raises(ManifestError, match=rf"card\.yaml.*\({held_out}\)") as error:
        load_manifest(put(folder, pair(held_out)))
    assert "(train)" in str(error.value)


def test_val_and_test_may_not_share_either(folder):
    with pytest.raises(ManifestError, match=r"\(val\).*\(test\)"):
        load_manifest(put(folder, [row(1), row(2, "val"), row(3, "test", image="2.png")]))


def test_a_copy_under_another_name_is_found(folder):
    for name, data in (("1", b"same"), ("2", b"same"), ("3", b"diff")):
        (folder / f"{name}.png").write_bytes(data)
    with pytest.raises(ManifestError, match=r"'r1'.*'r2'"):
        load_manifest(put(folder, [row(1), row(2, "test"), row(3, "test")]))
    assert load_manifest(put(folder, [row(1), row(2), row(3, "test")])).rows
    windows = [window(1, "train", 0, 5, "1.png"), window(2, "test", 5, 9, "2.png")]
    assert load_manifest(put(folder, windows)).rows


def test_windows_that_do_not_overlap_may_be_in_two_splits(folder):
    rows = [window(1, "train", 0, 5), window(2, "train", 4, 8), window(3, "test", 8, 9)]
    assert len(load_manifest(put(folder, rows)).rows) == 3


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(1, 5), st.sampled_from(["train", "val", "test"])),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=150)
def test_the_leak_check_equals_comparing_all_pairs(tmp_path_factory, windows):
    folder = tmp_path_factory.mktemp("own")
    windows.append((100, 1, "train"))
    rows = [window(i, split, a, a + n) for i, (a, n, split) in enumerate(windows)]
    leak = any(a < b + m and b < a + n and s != t for a, n, s in windows for b, m, t in windows)
    card = put(folder, rows)
    if leak:
        with pytest.raises(ManifestError, match=r"card\.yaml"):
            load_manifest(card)
    else:
        assert len(load_manifest(card).rows) == len(windows)


# Anything at all ---------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
KEYS = ["id", "split", "image", "imu", "text", "facts", "group", "question", "answer"]
KEYS += ["start", "end", "rate", "boxes"]


@given(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, JSON)), max_size=4))
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_odd_rows_load_or_raise_manifest_errors(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("own")
    card = put(folder, [row(1), *({**row(2 + i), **odd} for i, odd in enumerate(rows))])
    try:
        assert len(load_manifest(card).rows) == len(rows) + 1
    except ManifestError as error:
        assert str(folder) in str(error)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace")))
@settings(max_examples=150)
def test_garbage_raises_manifest_errors_only(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("own")
    card = put(folder, [])
    (folder / "rows.jsonl").write_bytes(content)
    with pytest.raises(ManifestError, match=r"rows\.jsonl"):
        load_manifest(card)


# Writing -----------------------------------------------------------------------------------------


def test_what_is_written_is_read_again(folder):
    rows = [row(1, text="größer"), row(2, "test"), row(3)]
    card = write_manifest(folder / "new", CARD | {"licence": "MIT"}, iter(rows))
    manifest = load_manifest(card)
    assert [r.id for r in manifest.rows] == ["r1", "r3", "r2"]
    assert manifest.rows[0].text == ("größer",)
    fields = load_card(card).fields
    assert fields["licence"] == "MIT"
    assert [(f["path"], f["rows"]) for f in fields["files"]] == [
        ("train.jsonl", 2), ("test.jsonl", 1),
    ]  # fmt: skip
    for entry in fields["files"]:
        data = (folder / "new" / entry["path"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert entry["bytes"] == len(data)
    again = write_manifest(folder / "again", CARD | {"licence": "MIT"}, rows)
    assert load_manifest(again).checksum == manifest.checksum
    assert {p.name for p in (folder / "new").iterdir()} == {
        "card.yaml", "train.jsonl", "test.jsonl",
    }  # fmt: skip


def test_rows_without_a_split_are_written_for_the_seed(folder):
    card = write_manifest(folder, CARD, [bare(i) for i in range(10)])
    assert (folder / "rows.jsonl").exists()
    assert set(splits(card).values()) == {"train", "val", "test"}


def test_a_changed_row_file_is_noticed(folder):
    card = write_manifest(folder, CARD, [row(1)])
    with (folder / "train.jsonl").open("a") as file:
        file.write(json.dumps(row(2)) + "\n")
    with pytest.raises(ManifestError, match=r"train\.jsonl.*SHA-256"):
        load_manifest(card)


def test_a_split_cannot_name_another_place(folder):
    with pytest.raises(ManifestError, match="a split out of"):
        write_manifest(folder / "new", CARD, [row(1, "../../evil")])


# Questions ---------------------------------------------------------------------------------------


def asked(number, split="train", **more):
    fields = {"question": "What is it?", "answers": ["a cat", "cat"], **more}
    return {k: v for k, v in row(number, split, **fields).items() if k != "text"}


def test_a_question_with_answers_needs_no_caption(folder):
    rows = [asked(1), asked(2, options=["a dog", "a cat", "cat"])]
    first, second = load_manifest(put(folder, rows)).rows
    assert (first.text, first.question, first.answers) == ((), "What is it?", ("a cat", "cat"))
    assert (first.options, second.options) == ((), ("a dog", "a cat", "cat"))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"answers": []}, "`question` with `answers`"),
        ({"answers": ["  "]}, "`question` with `answers`"),
        ({"question": None}, "`question` with `answers`"),
        ({"options": ["a cat"], "answers": "a cat"}, "two or more `options`"),
        ({"options": ["a dog", "a bird"]}, "the answers among them"),
        ({"options": {"A": "a cat"}}, "`options`"),
    ],
)
def test_half_a_question_is_named(folder, more, says):
    with pytest.raises(ManifestError, match=r"rows\.jsonl, line 1") as error:
        load_manifest(put(folder, [asked(1, **more)]))
    assert says in str(error.value)


def test_a_benchmark_needs_no_training_split_and_keeps_its_official_ones(folder):
    (folder / "1.png").write_bytes(b"same")
    (folder / "2.png").write_bytes(b"same")
    rows = [asked(1, "val"), asked(2, "test")]
    card = put(folder, rows, {"stage": "evaluate"})
    assert [r.split for r in load_manifest(card).rows] == ["val", "test"]
    with pytest.raises(ManifestError, match="empty training split"):
        load_manifest(put(folder, rows, {"stage": "align"}))
    with pytest.raises(ManifestError, match="share no media"):
        load_manifest(put(folder, [asked(1), asked(2, "test")], {"stage": "align"}))


def test_media_may_start_in_a_folder_that_the_card_names(folder, tmp_path):
    (tmp_path / "media").mkdir()
    card = put(folder, [row(1)], {"media_folder": "../media"})
    assert load_manifest(card).rows[0].path == tmp_path / "media" / "1.png"
    with pytest.raises(ManifestError, match="stays in"):
        load_manifest(put(folder, [row(1, image="../own/1.png")], {"media_folder": "../media"}))
    with pytest.raises(ManifestError, match="`media_folder`"):
        load_manifest(put(folder, [row(1)], {"media_folder": 3}))
