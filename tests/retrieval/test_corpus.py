"""A corpus finds what brute force finds, comes back as saved, and refuses what is not its own."""

import csv
import json
from copy import copy, deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anymal_lib.encoders.image import TimmImageEncoder
from anymal_lib.encoders.text import TextTower
from anymal_lib.errors import AssetError, ConfigError, DataError, InputError
from anymal_lib.retrieval import Corpus, Entry, read_entries
from anymal_lib.retrieval.corpus import CONFIG

TEXTS = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=6)


def queries(count, seed=0, width=384):
    draw = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(draw, dim=-1)


@pytest.fixture(scope="module")
def encoder(tiny_encoders):
    return tiny_encoders["image"]


@pytest.fixture(scope="module")
def other_tower(encoder):
    """The same encoder beside a text tower of which one weight is another."""
    model = deepcopy(encoder.text._model)
    next(model.parameters()).data[0, 0] += 1
    other = copy(encoder)
    other.text = TextTower(model, model, encoder.text._tokenize)
    return other


@pytest.fixture(scope="module")
def unaligned():
    """DINOv2's place: a trunk of timm without a text tower."""
    from open_clip.timm_model import TimmModel

    visual = TimmModel("test_vit", 0, 64, pool="token", proj="none")
    return TimmImageEncoder(visual, None)


# nearest ------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(texts=TEXTS, k=st.integers(1, 8), seed=st.integers(0, 99))
def test_nearest_are_those_of_brute_force(encoder, texts, k, seed):
    entries = [Entry(str(place), text) for place, text in enumerate(texts)]
    asked = queries(3, seed)
    found = Corpus.build(entries, encoder).nearest(asked, k)
    cosines = asked @ encoder.encode_text(texts).T  # (3, entries)
    best = cosines.topk(min(k, len(texts))).values
    assert torch.allclose(
        torch.tensor([[n.cosine for n in near] for near in found]), best, atol=1e-5
    )
    for near, own in zip(found, cosines, strict=True):
        assert len({n.entry for n in near}) == len(near)
        places = [int(n.entry.title) for n in near]
        assert torch.allclose(own[places], torch.tensor([n.cosine for n in near]), atol=1e-5)


def test_a_text_is_nearest_to_itself(corpus, encoder):
    own = encoder.encode_text([entry.text for entry in corpus.entries])
    for entry, near in zip(corpus.entries, corpus.nearest(own, 2), strict=True):
        assert near[0].entry == entry
        assert near[0].cosine == pytest.approx(1, abs=1e-5) and near[1].cosine < 0.999


@pytest.mark.parametrize(
    ("asked", "k", "says"),
    [
        (queries(1), 0, "at least 1"),
        (queries(1), -2, "got -2"),
        (queries(1, width=7), 1, r"\(1, 7\)"),
        (queries(1)[0], 1, r"\(384,\)"),
    ],
)
def test_what_cannot_be_searched_is_refused(corpus, asked, k, says):
    with pytest.raises(InputError, match=says):
        corpus.nearest(asked, k)


def test_a_corpus_needs_texts_and_an_aligned_encoder(encoder, unaligned, corpus, tmp_path):
    with pytest.raises(DataError, match="at least one text"):
        Corpus.build([], encoder)
    for refused in (
        lambda: Corpus.build(corpus.entries, unaligned),
        lambda: corpus.require(unaligned),
        lambda: Corpus.load(corpus.save(tmp_path), unaligned),
    ):
        with pytest.raises(ConfigError, match="aligned to text"):
            refused()


# save and load ------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(texts=TEXTS, titles=st.text(max_size=5))
def test_a_saved_corpus_comes_back(tmp_path_factory, encoder, texts, titles):
    folder = tmp_path_factory.mktemp("corpus")
    built = Corpus.build([Entry(titles, text) for text in texts], encoder)
    back = Corpus.load(built.save(folder), encoder)
    assert (back.entries, back.tower) == (built.entries, built.tower)
    assert back.nearest(queries(4), 3) == built.nearest(queries(4), 3)


def test_saving_again_replaces_all_and_gives_the_same_bytes(corpus, encoder, tmp_path):
    corpus.save(tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    Corpus.build(corpus.entries[:2], encoder).save(tmp_path)
    assert len(Corpus.load(tmp_path, encoder)) == 2
    assert len(list(tmp_path.iterdir())) == 2
    corpus.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_an_interrupted_save_leaves_the_old_corpus(corpus, encoder, tmp_path, monkeypatch):
    corpus.save(tmp_path)

    def stop(path, text):
        raise KeyboardInterrupt

    monkeypatch.setattr("anymal_lib.retrieval.corpus.write_text", stop)
    with pytest.raises(KeyboardInterrupt):
        Corpus.build(corpus.entries[:1], encoder).save(tmp_path)
    assert Corpus.load(tmp_path, encoder).entries == corpus.entries


def test_an_index_of_another_tower_is_refused(
    corpus, encoder, other_tower, tmp_path, tiny_encoders
):
    folder = corpus.save(tmp_path)
    assert Corpus.load(folder, tiny_encoders["imu"]).entries == corpus.entries  # the same tower
    assert corpus.tower == encoder.text_checksum() != other_tower.text_checksum()
    with pytest.raises(AssetError, match=r"another tower.*Build the corpus anew"):
        Corpus.load(folder, other_tower)


def _edited(folder, **changes):
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _without(folder, name):
    config = json.loads((folder / CONFIG).read_text())
    del config[name]
    (folder / CONFIG).write_text(json.dumps(config))


def _index(folder):
    return next(folder.glob("*.faiss"))


DAMAGES = {
    "no folder": (lambda f: [p.unlink() for p in f.iterdir()], "FileNotFoundError"),
    "no index": (lambda f: _index(f).unlink(), "FileNotFoundError"),
    "a short index": (lambda f: _index(f).write_bytes(_index(f).read_bytes()[:-9]), "checksum"),
    "a changed bit": (
        lambda f: _index(f).write_bytes(_index(f).read_bytes()[:-1] + b"\7"),
        "checksum",
    ),
    "no JSON": (lambda f: (f / CONFIG).write_text("{"), "JSONDecodeError"),
    "another format": (lambda f: _edited(f, format=0), "another format"),
    "a list": (lambda f: (f / CONFIG).write_text("[]"), "another format"),
    "no tower": (lambda f: _without(f, "tower"), "tower"),
    "fewer texts": (lambda f: _edited(f, entries=[]), "0 texts for an index of 4"),
    "other columns": (lambda f: _edited(f, entries=[{"name": "a"}]), "name"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_corpus_is_refused(corpus, encoder, tmp_path, name):
    damage, says = DAMAGES[name]
    corpus.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(AssetError, match=f"{says}.*Build the corpus from its texts"):
        Corpus.load(tmp_path, encoder)


# files of texts -----------------------------------------------------------------------------------

FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1).filter(
    lambda text: text == text.strip()
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=4))
def test_entries_come_out_of_either_kind_of_file_as_they_went_in(tmp_path_factory, pairs):
    folder = tmp_path_factory.mktemp("texts")
    entries = [Entry(*pair) for pair in pairs]
    lines = [json.dumps({"title": a, "text": b, "more": 1}, ensure_ascii=False) for a, b in pairs]
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    with (folder / "b.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("name", "what"), *pairs])
    assert read_entries(folder / "a.jsonl") == entries
    assert read_entries(folder / "b.csv", title="name", text="what") == entries


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '{"title": "a", "text": "b"}\n{"title": "c"}', "line 2.*'text'.*title"),
        ("a.jsonl", '{"name": "a", "text": "b"}', "column 'title'"),
        ("a.jsonl", '{"title": "a", "text": " "}', "some text in 'text'"),
        ("a.jsonl", '{"title": 3, "text": "b"}', "some text in 'title'.*3"),
        ("a.jsonl", '{"title": ', "line 1.*one JSON object"),
        ("a.jsonl", "[1]", "line 1.*one JSON object"),
        ("a.csv", "name,text\na,b\n", "line 2.*column 'title'.*name"),
        ("a.csv", "title,text\na\n", "line 2.*some text in 'text'.*None"),
        ("a.txt", "a", "ends in .jsonl or .csv"),
        ("a.csv", b"title,text\n\xff,b", "UTF-8"),
        ("a.jsonl", None, "No such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_line(tmp_path, name, content, says):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=says):
        read_entries(path)
