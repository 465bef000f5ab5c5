"""A fifth modality, from the page that explains it: aligned, captioned, saved, loaded."""

import importlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anymal_lib import AnyMAL, config, specs
from anymal_lib.encoders import Encoder
from anymal_lib.errors import AnyMALError, ConfigError, InputError
from anymal_lib.inputs import Image
from anymal_lib.manifest import load_manifest, write_manifest
from anymal_lib.modalities import MODALITIES, modality_of, open_row, register
from anymal_lib.rows import Row

HERE = Path(__file__).resolve().parent
PAGE = (HERE.parent / "docs" / "extending.md").read_text()
BUILT_IN = dict(MODALITIES)


def block(name):
    """The code below a comment of the page."""
    return re.search(rf"<!-- {name} -->\n```python\n(.*?)```", PAGE, re.DOTALL)[1]


@pytest.fixture(scope="module")
def depth():
    """The example's module, registered until the end of this module."""
    yield importlib.import_module("depth_modality")
    del MODALITIES["depth"], specs.SAVED_TYPES["DepthSpec"], sys.modules["depth_modality"]


@pytest.fixture
def unregistered(depth, monkeypatch):
    """As in a process that has not imported the example."""
    monkeypatch.delitem(MODALITIES, "depth")
    monkeypatch.delitem(specs.SAVED_TYPES, "DepthSpec")


def scene(side, draw):
    """(h, w) metres: a room with a door, further away, on one side."""
    metres = draw.normal(2.0, 0.05, (48, 72))
    left = draw.integers(3, 15) + (36 if side == "right" else 0)
    metres[10:, left : left + 14] = draw.uniform(4, 6)
    return metres.astype(np.float32)


def write_scenes(folder, count=60):
    draw = np.random.default_rng(0)
    folder.mkdir()
    rows = []
    for k in range(count):
        side = ("left", "right")[k % 2]
        np.save(folder / f"{k}.npy", scene(side, draw))
        text = [f"a door on the {side}", f"on the {side} there is a door"]
        facts = {"side": side}
        split = "test" if k >= count - 12 else "train"
        rows.append(
            {"id": str(k), "split": split, "depth": f"{k}.npy", "text": text, "facts": facts}
        )
    return write_manifest(folder, {"name": "my-depth", "modality": "depth"}, rows)


@pytest.fixture(scope="module")
def trained(depth, tiny_profile, module_cache, tmp_path_factory):
    """What the page's code leaves behind in a folder of its own, on the tiny language model."""
    folder = tmp_path_factory.mktemp("extending")
    write_scenes(folder / "my-depth")
    (folder / "my-depth" / "3.npy").write_bytes(b"no array")
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(config, "load_profile", lambda name: tiny_profile)
        exec(block("train"), names)
    return names, folder


def test_the_page_and_the_example_are_one_and_short():
    code = (HERE / "depth_modality.py").read_text()
    assert block("the modality") == code
    assert len([line for line in code.splitlines() if line.strip()]) < 40
    assert code.count("register(") == 1


def test_it_is_aligned_and_bad_rows_are_named(trained):
    found = trained[0]["sensed"]
    assert found.retrieval.zero_shot >= 0.9, "chance is 0.5"
    assert [bad.id for bad in found.train.skipped] == ["3"]
    assert "3.npy" in found.train.skipped[0].reason and "metres" in found.train.skipped[0].reason


def test_it_captions_saves_and_loads(trained, depth, monkeypatch, capsys):
    names, place = trained
    assert set(names["report"].grounding) == {"clean", "blank", "shuffled", "removed"}
    folder = place / "outputs" / "depth" / "adapter"
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "anymal.json", "depth.adapter.safetensors", "depth.encoder.safetensors",
    }  # fmt: skip
    monkeypatch.chdir(place)
    capsys.readouterr()
    used = {}
    exec(block("use"), used)
    item = depth.Depth(place / "my-depth" / "0.npy")
    said = names["model"].generate(["Describe the scene. ", item])
    assert said and said == capsys.readouterr().out.strip()
    for key, tensor in names["model"].encoders["depth"].trained_state().items():
        assert np.array_equal(used["model"].encoders["depth"].state_dict()[key], tensor)


def test_its_adapter_learns(trained):
    names, place = trained
    lines = (place / "outputs" / "depth" / "curve.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert len(losses) == names["spec"].align.steps
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:3])
    assert len(set(names["report"].captions)) > 1, "what is said depends on the input"


def test_a_saved_model_of_an_unknown_modality_is_refused_by_name(trained, unregistered):
    with pytest.raises(ConfigError, match="DepthSpec"):
        AnyMAL.from_pretrained(trained[1] / "outputs" / "depth" / "adapter")


def test_rows_open_as_its_inputs(depth, tmp_path):
    row = load_manifest(write_scenes(tmp_path / "scenes", 14)).rows[0]
    assert isinstance(open_row(row), depth.Depth)
    assert modality_of(open_row(row)) == "depth"


def test_without_registration_its_card_is_refused(unregistered, tmp_path):
    card = write_scenes(tmp_path / "scenes", 14)
    row = Row("0", "train", "depth", tmp_path / "0.npy", ("a door",))
    with pytest.raises(AnyMALError, match=r"card\.yaml.*modality out of.*depth"):
        load_manifest(card)
    with pytest.raises(AnyMALError, match=r"row '0'.*image.*depth"):
        open_row(row)


@pytest.mark.parametrize("source", ["gone.npy", "empty.npy", "pickle.npy", "line.npy", "words.npy"])
def test_what_the_example_cannot_read_is_refused_by_name(depth, tiny_profile, tmp_path, source):
    (tmp_path / "empty.npy").write_bytes(b"")
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "line.npy", np.zeros(5))
    np.save(tmp_path / "words.npy", np.full((3, 3), "x"))
    encoder = depth.DepthEncoder(depth.DepthSpec(align=tiny_profile.modality("imu").align))
    with pytest.raises(InputError, match=source):
        encoder.prepare(depth.Depth(tmp_path / source))


def test_names_and_classes_of_inputs_are_unique(depth):
    ours = MODALITIES["depth"]
    register("depth", ours)  # the same again: a notebook's cell may be run twice
    for name, modality in (
        ("depth", replace(ours, item=Encoder)),
        ("relief", ours.__class__(**{**vars(ours), "blank_means": "a floor"})),
        ("image", replace(ours, item=Encoder)),
        ("photo", replace(ours, item=Image)),
    ):
        with pytest.raises(ConfigError, match=f"modality '{name}'"):
            register(name, modality)
    assert {name: MODALITIES[name] for name in BUILT_IN} == BUILT_IN
