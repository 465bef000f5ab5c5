"""Notebooks that need no other one's results: measurements, a user's own data, wrong parameters."""

import json
from pathlib import Path

import papermill
import PIL.Image
import pytest
from few_steps import FEW, few

from anymal_lib import chain
from anymal_lib.controls import CONTROLS
from anymal_lib.runs import ROOT

ALIGN = {
    modality: Path("notebooks") / f"{name}_align_{modality}.ipynb"
    for name, modality in (("02", "image"), ("03", "imu"), ("04", "audio"), ("05", "video"))
}

pytestmark = pytest.mark.notebooks


def test_the_benchmark_runs_alone_and_follows_the_contract(tmp_path, capsys):
    given = ["-p", "QUICK", "True", "-p", "ACCURACY", "False", "--output", str(tmp_path)]
    assert chain.main(["--only", "11", *given]) == 0
    metrics = json.loads((tmp_path / "11_performance" / "metrics.json").read_text())["metrics"]
    assert set(metrics["ratios"]) >= {
        "step_over_bare",
        "step_compiled_over_bare",
        "transformers_recipe_over_step",
        "usual_recipe_over_step",
        "nf4_over_bf16",
        "batched_generation_speedup",
        "not_llm_share",
    }
    assert metrics["peak_fraction"] > 0 and all(metrics["ratios"].values())
    assert "step_over_bare" in capsys.readouterr().out
    assert (tmp_path / "11_performance.md").is_file() and not (tmp_path / "report.md").exists()


def test_the_ablations_run_alone_and_follow_the_contract(tmp_path, capsys):
    own = tmp_path / "02_align_image" / "curve.jsonl"
    own.parent.mkdir()
    own.write_text('{"step": 1, "loss": 3.0, "lr": 0.001, "samples": 16, "seconds": 0.5}\n')
    asked = {**few("08_ablations"), "CURVE": str(own)}
    given = [text for name, value in asked.items() for text in ("-p", name, str(value))]
    assert chain.main(["--only", "08", "--output", str(tmp_path), *given]) == 0
    folder = tmp_path / "08_ablations"
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert metrics["seeds"] == 2 and len(metrics["runs"]) == 2 * 3
    assert len(list((folder / "runs").iterdir())) == 2 * 3
    held = metrics["findings"]
    assert isinstance(held["more_layers_lower_loss"], bool)
    assert isinstance(held["larger_llm_lower_loss"], bool)
    assert (held["tokens_minor"], held["batch_minor"]) == (None, None), "nothing was varied"
    assert {"figure_4.png", "own_curve.png", "curves.jsonl"} <= {p.name for p in folder.iterdir()}
    assert "of the paper's 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong", [{"STPES": 2}, {"STEPS": "many"}, {"STEPS": 0}, {"PROFILE": "tiny"}], ids=str
)
def test_wrong_parameters_are_refused_by_name(tmp_path, wrong):
    given = {"OUTPUT_DIR": str(tmp_path), **wrong}
    (name,) = wrong
    named = "tiny" if name == "PROFILE" else name
    with pytest.raises(chain.NotebookError, match=rf"ConfigError: .*{named}.*See .*03_align_imu"):
        chain.run_notebook(ALIGN["imu"], tmp_path, given)


@pytest.fixture
def photographs(tmp_path):
    """Two real photographs in 24 crops of any size, free captions, no split, one broken file."""
    from sklearn.datasets import load_sample_images

    folder = tmp_path / "photographs"
    folder.mkdir()
    captions = ("a Chinese temple among green trees", "a pink flower in front of dark leaves")
    rows = []
    for k in range(24):
        photograph = PIL.Image.fromarray(load_sample_images().images[k % 2])
        crop = photograph.crop((5 * k, 3 * k, 300 + 11 * k, 200 + 7 * k))
        crop.save(folder / f"{k}.{'png' if k % 3 else 'jpg'}")
        rows.append(
            {"id": f"p{k}", "image": f"{k}.{'png' if k % 3 else 'jpg'}", "text": captions[k % 2]}
        )
    (folder / "broken.jpg").write_bytes((folder / "0.jpg").read_bytes()[:300])
    rows.append({"id": "broken", "image": "broken.jpg", "text": "half a picture"})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    card = folder / "card.yaml"
    card.write_text("name: photographs\nmodality: image\nrows: rows.jsonl\n")
    return card


def test_a_users_photographs_take_the_place_of_the_profiles(tmp_path, photographs):
    given = {**FEW, "LIMIT": None, "OUTPUT_DIR": str(tmp_path), "MANIFEST": str(photographs)}
    step = chain.run_notebook(ALIGN["image"], tmp_path, given)
    metrics = step.record["metrics"]
    assert list(step.record["data"]) == ["photographs"]
    assert (metrics["attributes"], metrics["attribute_accuracy"]) == ({}, None)
    assert metrics["grounding_score"] == "rouge_l" and set(metrics["grounding"]) == set(CONTROLS)
    skipped = [bad for part in metrics["samples"].values() for bad in part["skipped"]]
    assert all(bad["id"] == "broken" and "broken.jpg" in bad["reason"] for bad in skipped)
    used = sum(part["used"] for part in metrics["samples"].values())
    assert used + len(skipped) + VALIDATION == 25


VALIDATION = 2  # a tenth of 25 rows is nobody's training or test item


def test_motion_at_another_rate_takes_the_place_of_the_profiles_from_any_folder(
    tmp_path, imu_card_100
):
    away = tmp_path / "away"
    away.mkdir()
    results = tmp_path / "results"
    given = {**FEW, "LIMIT": None, "OUTPUT_DIR": str(results), "MANIFEST": str(imu_card_100)}
    papermill.execute_notebook(
        str(ROOT / ALIGN["imu"]),
        str(tmp_path / "executed.ipynb"),
        parameters=given,
        cwd=away,
        progress_bar=False,
    )
    record = json.loads((results / "03_align_imu" / "metrics.json").read_text())
    assert record["n"] > 0 and "shoulder-imu" not in record["data"]
    assert set(record["metrics"]["grounding"]) == set(CONTROLS)
    assert list(away.iterdir()) == []


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_a_users_sounds_and_films_take_the_place_of_the_profiles(tmp_path, card_of, modality):
    own = str(card_of[modality])
    given = {**FEW, "LIMIT": None, "OUTPUT_DIR": str(tmp_path), "MANIFEST": own}
    step = chain.run_notebook(ALIGN[modality], tmp_path, given)
    assert step.record["n"] > 0 and len(step.record["data"]) == 1
    assert set(step.record["metrics"]["grounding"]) == set(CONTROLS)
