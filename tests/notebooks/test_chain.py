"""Notebooks 01 to 07, and 09, through Papermill on few steps, and the runner that chains them."""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import nbformat
import numpy as np
import PIL.Image
import pytest
from few_steps import METADATA, STEPS, few

from anymal_lib import AnyMAL, Image, chain
from anymal_lib.demo import stages as demo
from anymal_lib.errors import AnyMALError
from anymal_lib.evaluation import stages as evaluation
from anymal_lib.instruct import stages
from anymal_lib.lora import has_lora
from anymal_lib.manifest import write_manifest
from anymal_lib.runs import start

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = {
    name: Path("notebooks") / f"{name}.ipynb"
    for name in (
        "01_prepare_data",
        "02_align_image",
        "03_align_imu",
        "04_align_audio",
        "05_align_video",
        "06_finetune_mmit",
    )
}
RECORD = {
    "profile",
    "seed",
    "notebook",
    "versions",
    "git",
    "device",
    "data",
    "n",
    "seconds",
    "peak_memory_gb",
    "metrics",
}
FACTS = {
    "02_align_image": {"colour", "shape"},
    "03_align_imu": {"exercise", "arm"},
    "04_align_audio": {"instrument", "notes", "direction", "tempo", "register"},
    "05_align_video": {"colour", "shape", "direction"},
}
RETRIEVAL = ("recall_at_1", "recall_at_5", "zero_shot")
CONTROLS = {"clean", "blank", "shuffled", "removed"}

pytestmark = pytest.mark.notebooks


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """The results of one run of the notebooks."""
    folder = tmp_path_factory.mktemp("chain")
    before = {name: digest(ROOT / path) for name, path in NOTEBOOKS.items()}
    for name, path in NOTEBOOKS.items():
        chain.run_notebook(path, folder, {**few(name), "OUTPUT_DIR": str(folder)})
    assert before == {name: digest(ROOT / path) for name, path in NOTEBOOKS.items()}
    return folder


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_writes_a_record_and_a_whole_executed_copy(output, name):
    record = json.loads((output / name / "metrics.json").read_text())
    assert set(record) >= RECORD
    assert (record["profile"], record["seed"], record["notebook"]) == ("mini", 0, name)
    assert record["n"] > 0 and record["seconds"] > 0 and record["peak_memory_gb"] > 0
    assert record["data"] and all(record["data"].values())
    executed = nbformat.read(output / f"{name}.ipynb", as_version=4)
    code = [cell for cell in executed.cells if cell.cell_type == "code" and cell.source.strip()]
    assert all(cell.execution_count for cell in code)


@pytest.mark.parametrize("number", ["12", "1", "x"])
def test_a_notebook_that_is_not_there_is_refused(number, tmp_path, capsys):
    assert chain.main(["--only", number, "--output", str(tmp_path)]) == 1
    assert "--only" in capsys.readouterr().err


@pytest.mark.parametrize("name", FACTS)
def test_alignment_metrics_follow_the_contract(output, name):
    metrics = json.loads((output / name / "metrics.json").read_text())["metrics"]
    assert set(metrics["attributes"]) == FACTS[name]
    fractions = [metrics[key] for key in ("exact_match", "attribute_accuracy", "rouge_l")]
    fractions += [
        *metrics["attributes"].values(),
        *(metrics["retrieval"][key] for key in RETRIEVAL),
    ]
    assert all(0 <= value <= 1 for value in fractions)
    mean = sum(metrics["attributes"].values()) / len(metrics["attributes"])
    assert metrics["attribute_accuracy"] == pytest.approx(mean, abs=1e-5)
    assert 0 <= metrics["cider_d"] <= 10
    assert set(metrics["grounding"]) == CONTROLS
    for interval in metrics["grounding"].values():
        assert 0 <= interval["low"] <= interval["value"] <= interval["high"] <= 1
    assert metrics["grounding"]["clean"]["value"] == pytest.approx(metrics["exact_match"])


@pytest.mark.parametrize("name", FACTS)
def test_alignment_leaves_a_curve_and_an_adapter(output, name):
    lines = (output / name / "curve.jsonl").read_text().splitlines()
    curve = [json.loads(line) for line in lines]
    assert [point["step"] for point in curve] == list(range(1, STEPS + 1))
    assert all({"loss", "lr", "samples", "seconds"} <= set(point) for point in curve)
    assert list((output / name / "adapter").glob("*.safetensors"))
    assert list((output / name).glob("*.png"))


def test_fine_tuning_metrics_follow_the_contract(output):
    record = json.loads((output / "06_finetune_mmit" / "metrics.json").read_text())
    metrics = record["metrics"]
    assert set(metrics["by_stage"]) == {"aligned", "projection", "lora"}
    assert set(metrics["questions"]) == {"audio", "imu", "video"}
    assert set(metrics["grounding"]) == CONTROLS
    assert metrics["vqa_accuracy"] == metrics["by_stage"]["lora"]
    assert metrics["grounding"]["clean"]["value"] == pytest.approx(metrics["vqa_accuracy"])
    dropped = [
        metrics["filter"][f"planted_{kind}_dropped"] for kind in ("text_answerable", "grounded")
    ]
    fractions = [metrics["interleaved"]["agreement_accuracy"], *metrics["by_stage"].values()]
    assert all(0 <= value <= 1 for value in (*dropped, *fractions, *metrics["questions"].values()))
    assert metrics["filter"]["before"] >= metrics["filter"]["after"] >= 0
    limit = few("06_finetune_mmit")["LIMIT"]
    assert metrics["filter"]["before"] >= limit, "the written questions of LIMIT rows"
    assert all(value > 1 for value in metrics["text_perplexity"].values())
    assert len(record["data"]) == 4


def test_a_fine_tuned_model_loads_with_its_lora_and_answers(output):
    model = AnyMAL.from_pretrained(output / "06_finetune_mmit" / "adapter")
    assert set(model.adapters) == {"audio", "image", "imu", "video"} and has_lora(model.llm)
    image = Image(np.zeros((64, 64, 3), dtype=np.uint8))
    assert isinstance(model.generate(["What is it? ", image], max_new_tokens=2), str)


def test_a_users_own_questions_take_the_place_of_the_profiles(output, tmp_path):
    for k, grey in enumerate(range(0, 240, 30)):
        PIL.Image.new("RGB", (64, 64), (grey, grey, grey)).save(tmp_path / f"{k}.png")
    rows = [
        {"id": str(k), "split": split, "image": f"{k}.png", "question": "Dark?", "answer": said}
        for k, (split, said) in enumerate([("train", "yes"), ("test", "no")] * 4)
    ]
    card = write_manifest(tmp_path, {"name": "own", "modality": "image"}, rows)
    given = {"PROFILE": "mini", "OUTPUT_DIR": str(output), "MANIFEST": str(card), "LIMIT": 3}
    run = start("06_finetune_mmit", given)
    data = stages.instruction_set(run, stages.aligned_model(run))
    assert [e.question for e in data.train["image"]] == ["Dark?"] * 3
    assert {e.answer for e in data.test["image"]} == {"no"} and data.train["audio"]
    assert data.manifests["image"].card.name == "own"


def test_the_evaluation_keeps_everything_and_then_stops_a_model_that_reads_nothing(output):
    given = {**few("07_evaluate"), "OUTPUT_DIR": str(output)}
    with pytest.raises(chain.NotebookError, match=r"GroundingError: grounding of .*image.*ignores"):
        chain.run_notebook(Path("notebooks/07_evaluate.ipynb"), output, given)
    record = json.loads((output / "07_evaluate" / "metrics.json").read_text())
    metrics = record["metrics"]
    assert set(record) >= RECORD and record["n"] > 0
    assert set(metrics["grounding_report"]) == {"audio", "image", "imu", "video"}
    assert not all(found["grounded"] for found in metrics["grounding_report"].values())
    assert {"on", "off"} <= set(metrics["retrieval_augmented"])
    assert metrics["paper"]["claims_checked"] > metrics["paper"]["claims_that_fail"] > 0
    assert set(metrics["tables"]["captions"]) == {"audio", "image", "imu", "video"}
    assert all(line["paper"] > 0 for line in metrics["tables"]["beside_the_paper"])
    assert 0 <= metrics["interleaved"]["agreement_accuracy"] <= 1


def test_the_evaluation_fine_tunes_what_has_not_been(output, tmp_path):
    for name in FACTS:
        shutil.copytree(output / name / "adapter", tmp_path / name / "adapter")
    given = {"PROFILE": "mini", "OUTPUT_DIR": str(tmp_path), "LIMIT": 4, "STEPS": 2}
    run = start("07_evaluate", given)
    model = evaluation.tuned_model(run)
    assert set(model.adapters) == {"audio", "image", "imu", "video"} and has_lora(model.llm)
    saved = tmp_path / "06_finetune_mmit" / "adapter"
    before = {file: file.stat().st_mtime_ns for file in saved.rglob("*") if file.is_file()}
    evaluation.tuned_model(run)
    assert before == {f: f.stat().st_mtime_ns for f in saved.rglob("*") if f.is_file()}, "once"


def test_the_demo_answers_without_clicks_and_leaves_its_source_alone(output):
    source = Path("notebooks/09_demo.ipynb")
    before = digest(ROOT / source)
    record = chain.run_notebook(
        source, output, {**few("09_demo"), "OUTPUT_DIR": str(output)}
    ).record
    assert digest(ROOT / source) == before
    metrics = record["metrics"]
    assert set(record) >= RECORD and record["n"] == len(metrics["answers"]) == 9
    assert set(metrics["meter"]) == {"audio", "image", "imu", "video"}
    assert all(0 <= value <= 1 for found in metrics["answers"] for value in found["meter"])
    assert [len(found["meter"]) for found in metrics["answers"]] == [1] * 8 + [2]
    assert 0 < metrics["seconds_to_first_word"] <= metrics["seconds_to_answer"]
    executed = nbformat.read(output / "09_demo.ipynb", as_version=4)
    shown = [out.get("data", {}) for cell in executed.cells for out in cell.get("outputs", ())]
    assert any(chain._WIDGET in data for data in shown), "the page"


def test_the_demo_takes_another_model_or_the_aligned_one(output, tmp_path):
    image = output / "02_align_image" / "adapter"
    given = {"PROFILE": "mini", "OUTPUT_DIR": str(tmp_path), "LIMIT": 4}
    run = start("09_demo", {**given, "ADAPTER": str(image)})
    loaded = []
    session = demo.open_session(run, on_progress=lambda *parts: loaded.append(parts))
    assert session.modalities == ("image",) and loaded == [(0, 2), (1, 2), (2, 2)]
    for name in FACTS:
        shutil.copytree(output / name / "adapter", tmp_path / name / "adapter")
    session = demo.open_session(start("09_demo", given))
    assert set(session.modalities) == {"audio", "image", "imu", "video"}
    assert not has_lora(session.model.llm)
    with pytest.raises(AnyMALError, match="nowhere"):
        demo.open_session(start("09_demo", {**given, "ADAPTER": "nowhere/at-all"}))


# The runner itself, on notebooks of one cell.

WRITES = """
import json, pathlib, sys
folder = pathlib.Path(OUTPUT_DIR) / "{stem}"
folder.mkdir(parents=True)
metrics = {{"exact_match": 0.5, "attributes": {{"arm": 0.75}}, "retrieval": {{"recall_at_1": 1.0}}}}
record = {{"peak_memory_gb": 1.26, "metrics": metrics}}
(folder / "metrics.json").write_text(json.dumps(record))
print(sys.executable)
"""
FAILS = """
from anymal_lib.errors import DataError
raise DataError("row 7", expected="a caption", got="nothing", do="Write one.")
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder whose notebooks are given as {stem: source of its only cell}."""
    monkeypatch.setattr(chain, "ROOT", tmp_path)

    def write(sources):
        (tmp_path / "notebooks").mkdir()
        for stem, source in sources.items():
            tag = nbformat.v4.new_code_cell(
                'PROFILE = "mini"\nOUTPUT_DIR = None', metadata={"tags": ["parameters"]}
            )
            cell = nbformat.v4.new_code_cell(source.strip().format(stem=stem))
            notebook = nbformat.v4.new_notebook(cells=[tag, cell])
            notebook.metadata = METADATA
            nbformat.write(notebook, tmp_path / "notebooks" / f"{stem}.ipynb")
        return tmp_path

    return write


def test_chain_runs_in_order_in_this_environment_and_reports(checkout, capsys):
    root = checkout({"02_b": WRITES, "01_a": WRITES, "08_other": FAILS})
    assert chain.main(["--jobs", "1", "--output", str(root / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.endswith("...")] == ["01_a", "02_b"]
    said = [f"  {number}  {sys.executable}" for number in ("01", "02")]
    assert [line for line in lines if sys.executable in line] == said, "what notebooks say"
    report = (root / "out" / "report.md").read_text()
    for text in ("\n".join(lines), report):
        assert "1.3 GB" in text and "exact match 50.0 %, arm 75.0 %, recall@1 100.0 %" in text
    assert lines[-1].endswith("report.md")
    executed = nbformat.read(root / "out" / "01_a.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text.strip() == sys.executable


def test_chain_stops_at_a_failing_notebook_with_its_reason(checkout, capsys):
    root = checkout({"01_a": FAILS, "02_b": WRITES})
    assert chain.main(["--jobs", "1", "--output", str(root / "out")]) == 1
    shown = capsys.readouterr()
    assert "02_b" not in shown.out
    assert "row 7: expected a caption, but got nothing. Write one. See " in shown.err
    assert "01_a.ipynb" in shown.err and "Traceback" not in shown.err
    assert (root / "out" / "01_a.ipynb").is_file()


WAITS = """
import os, pathlib, time
folder = pathlib.Path(OUTPUT_DIR)
(folder / "{stem}").mkdir(parents=True)
deadline = time.monotonic() + 60
while not all((folder / stem).is_dir() for stem in ("01_a", "04_d")):
    assert time.monotonic() < deadline, "the other never started"
    time.sleep(0.05)
print("threads", os.environ["OMP_NUM_THREADS"])
"""
LAST = """
import os, pathlib
there = sorted(path.name for path in pathlib.Path(OUTPUT_DIR).iterdir() if path.is_dir())
print("after", *there, "own threads" if "OMP_NUM_THREADS" in os.environ else "all threads")
"""


def side_by_side(folder, sources):
    """What the chain says that runs such notebooks two at a time, and the report."""
    for stem, source in sources.items():
        cells = ['PROFILE = "mini"\nOUTPUT_DIR = None', source.strip().format(stem=stem)]
        notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
        notebook.cells[0].metadata = {"tags": ["parameters"]}
        notebook.metadata = METADATA
        nbformat.write(notebook, folder / f"{stem}.ipynb")
    notebooks = [Path(os.path.relpath(folder / f"{stem}.ipynb", ROOT)) for stem in sources]
    return chain.run_chain("mini", folder / "out", {}, notebooks=notebooks, jobs=2)


def test_independent_notebooks_run_side_by_side_on_their_share_of_the_cores(
    tmp_path, capfd, monkeypatch
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    sources = {"01_a": WAITS, "02_b": WRITES, "04_d": WAITS, "06_f": LAST}
    lines = list(side_by_side(tmp_path, sources))
    assert [line.split()[0] for line in lines if line.endswith("...")] == [
        "[1/4]", "[3/4]", "[2/4]", "[4/4]",
    ]  # fmt: skip
    said = capfd.readouterr().out.splitlines()
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert {f"  {number}  threads {share}" for number in ("01", "04")} <= set(said)
    assert "  06  after 01_a 02_b 04_d all threads" in said
    table = (tmp_path / "out" / "01_a.md").read_text().splitlines()[2:]
    assert [row.split()[1] for row in table[2:]] == list(sources), "in order of their numbers"


def test_the_one_beside_a_failing_notebook_runs_to_its_end(tmp_path, capfd):
    slow = 'import time\ntime.sleep(4)\nopen(OUTPUT_DIR + "/ended", "w").close()'
    with pytest.raises(chain.NotebookError, match="row 7: expected a caption"):
        list(side_by_side(tmp_path, {"01_a": FAILS, "02_b": WRITES, "04_d": slow}))
    assert (tmp_path / "out" / "ended").is_file()
    assert not (tmp_path / "out" / "02_b").exists(), "no other starts"
    assert "01_a failed; 04_d runs to its end first ..." in capfd.readouterr().out


@pytest.mark.parametrize(
    ("cores", "memory", "device", "jobs"),
    [(2, 16e9, "cpu", 2), (1, 16e9, "cpu", 1), (2, 8e9, "cpu", 1), (16, 64e9, "cuda", 1)],
)
def test_two_run_at_a_time_where_there_is_room(monkeypatch, cores, memory, device, jobs):
    monkeypatch.setattr(chain, "cores", lambda: cores)
    monkeypatch.setattr(chain, "total_memory", lambda: memory)
    monkeypatch.setattr(chain, "default_device", lambda: device)
    assert chain.at_a_time() == jobs


def test_unknown_profile_is_refused_before_anything_runs(checkout, capsys):
    root = checkout({"01_a": WRITES})
    assert chain.main(["--profile", "tiny", "--output", str(root / "out")]) == 1
    assert "tiny" in capsys.readouterr().err
    assert not (root / "out").exists()


def executed_notebook(text):
    image = {"image/png": "AAAA/tmp/AAAA"}
    cell = nbformat.v4.new_code_cell("1", metadata={"papermill": {"x": 1}, "execution": {"y": "1"}})
    cell.outputs = [
        nbformat.v4.new_output("stream", text=text),
        nbformat.v4.new_output("display_data", data=image),
        nbformat.v4.new_output("display_data", data={chain._WIDGET: {"model_id": "x"}}),
    ]
    return nbformat.v4.new_notebook(
        cells=[cell], metadata={"papermill": {"input_path": "p"}, "widgets": {}}
    )


def test_reference_keeps_results_without_this_machine(checkout):
    root = checkout({"01_a": WRITES, "08_b": WRITES})
    output = root / "out"
    (output / "01_a" / "adapter").mkdir(parents=True)
    text = f"{root}/x {Path.home()}/y {sys.prefix}/z"
    nbformat.write(executed_notebook(text), output / "01_a.ipynb")
    (output / "report.md").write_text("# report\n")
    (output / "01_a" / "metrics.json").write_text(json.dumps({"where": f"{root}/m"}))
    (output / "01_a" / "figure.png").write_bytes(b"\x89PNG")
    (output / "01_a" / "adapter" / "a.safetensors").write_bytes(b"0")
    nbformat.write(executed_notebook(""), output / "08_b.ipynb")
    (output / "08_b" / "runs" / "0").mkdir(parents=True)
    for place in ("curves.jsonl", "runs/0/curve.jsonl"):
        (output / "08_b" / place).write_text("{}\n")
    chain.store_reference(output, root / "ref" / "mini")
    stored = {str(p.relative_to(root / "ref")) for p in (root / "ref").rglob("*") if p.is_file()}
    names = ("01_a.ipynb", "01_a/figure.png", "01_a/metrics.json", "report.md")
    names += ("08_b.ipynb", "08_b/curves.jsonl")
    assert stored == {f"mini/{name}" for name in names}
    kept = nbformat.read(root / "ref" / "mini" / "01_a.ipynb", as_version=4)
    assert kept.cells[0].outputs[0].text == "./x ~/y <environment>/z"
    assert [output.get("data") for output in kept.cells[0].outputs[1:]] == [
        {"image/png": "AAAA/tmp/AAAA"}
    ]
    assert kept.metadata == {} and kept.cells[0].metadata == {}
    assert json.loads((root / "ref" / "mini" / "01_a" / "metrics.json").read_text()) == {
        "where": "./m"
    }


@pytest.mark.parametrize("left", ["/home/" + "ada/data", "Traceback (most recent call last):"])
def test_reference_refuses_what_would_give_the_machine_away(checkout, left):
    root = checkout({"01_a": WRITES})
    (root / "out").mkdir()
    (root / "out" / "report.md").write_text("# report\n")
    nbformat.write(executed_notebook(f"see {left}"), root / "out" / "01_a.ipynb")
    target = root / "ref" / "mini"
    target.mkdir(parents=True)
    (target / "old.txt").write_text("old")
    with pytest.raises(AnyMALError, match="reference run"):
        chain.store_reference(root / "out", target)
    assert [p.name for p in target.rglob("*")] == ["old.txt"]
    assert [p.name for p in (root / "ref").iterdir()] == ["mini"]
