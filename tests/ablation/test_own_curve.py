"""A user's own curve over stored ones."""

import json

import pytest

from anymal_lib.ablation import figures, reference
from anymal_lib.ablation.experiment import Outcome
from anymal_lib.ablation.grid import Grid, Setting
from anymal_lib.ablation.results import Results, save_curves
from anymal_lib.errors import DataError
from anymal_lib.runs import start

BASE = Setting(layers=2, tokens=16, batch=16, steps=10, llm_layers=30)


def write_curve(folder, losses, batch=16):
    folder.mkdir(parents=True)
    lines = [
        {"step": k, "loss": loss, "lr": 1e-3, "samples": batch * k, "seconds": 0.5 * k}
        for k, loss in enumerate(losses, start=1)
    ]
    path = folder / "curve.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A stored reference: notebooks 02, 03 and 08."""
    folder = tmp_path / "reference"
    monkeypatch.setattr(reference, "REFERENCE", folder)
    write_curve(folder / "mini" / "02_align_image", [3.0] * 10)
    write_curve(folder / "mini" / "03_align_imu", [2.0] * 10)
    grid = Grid(BASE, {"layers": (2, 6), "tokens": (16,), "batch": (16,), "llm_layers": (30,)})
    runs = {
        setting: tuple(
            Outcome(setting, seed, (loss + seed,) * 10, tuple(range(10)), 1.0, 0.5)
            for seed in range(2)
        )
        for setting, loss in zip(grid.settings(), (1.0, 5.0), strict=True)
    }
    (folder / "mini" / "08_ablations").mkdir()
    save_curves(Results(grid, runs), folder / "mini" / "08_ablations")
    return folder


@pytest.fixture
def begin(tmp_path):
    def run(curve=None):
        given = {"PROFILE": "mini", "OUTPUT_DIR": str(tmp_path / "out"), "CURVE": curve}
        return start("08_ablations", given)

    return run


def test_a_picture_curve_stands_over_all_that_is_stored_of_pictures(stored, begin, tmp_path):
    own = write_curve(tmp_path / "elsewhere", [4.0] * 5, batch=8)
    found = reference.beside(begin(str(own)))
    assert found.own.samples.tolist() == [8, 16, 24, 32, 40]
    assert found.notebook.name == "stored run of 02_align_image"
    assert len(found.base) == 2 and len(found.others) == 2
    table = reference.loss_table(found)
    assert set(table["your run"]) == {"4.000", ""} and table["your run"].loc[40] == "4.000"
    assert table["base of notebook 08"].loc[40] == "1.500 (1.000-2.000)"
    axis = figures.own_curve(found).axes[0]
    drawn = [line.get_ydata()[0] for line in axis.lines]
    assert sorted(drawn) == [1.5, 3.0, 4.0, 5.0, 6.0] and drawn[-1] == 4.0, "the own one on top"


def test_a_motion_curve_stands_over_its_own_notebooks_alone(stored, begin, tmp_path):
    own = write_curve(tmp_path / "mine" / "03_align_imu", [4.0] * 5)
    found = reference.beside(begin(str(own)))
    assert (found.notebook.loss == 2.0).all() and found.base == found.others == []


def test_without_a_curve_the_stored_ones_say_what_to_expect(stored, begin):
    found = reference.beside(begin())
    assert found.own is None and len(found.base) == 2
    table = reference.loss_table(found)
    assert list(table) == ["stored run of 02_align_image", "base of notebook 08"]
    assert all((table[name] != "").sum() >= 5 for name in table), "each on its own way"


def test_without_anything_stored_there_is_an_empty_page(begin, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "REFERENCE", tmp_path / "nothing")
    found = reference.beside(begin())
    assert reference.loss_table(found).empty and figures.own_curve(found).axes


@pytest.mark.parametrize("text", [None, "", "{}\n", "loss\n", '{"loss": 1, "samples": "x"}\n'])
def test_what_is_no_curve_is_refused(stored, begin, tmp_path, text):
    path = tmp_path / "own.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=r"CURVE own\.jsonl"):
        reference.beside(begin(str(path)))
