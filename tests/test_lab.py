"""What JupyterLab's server takes out of the kit's notebooks before it saves them."""

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from anymal_lib.lab import source_only

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path.relative_to(ROOT) for path in (ROOT / "notebooks").glob("*.ipynb"))


def executed(source):
    """A notebook as JupyterLab hands it over after a run."""
    notebook = nbformat.read(ROOT / source, as_version=4)
    notebook.metadata["widgets"] = {"state": {}}
    notebook.metadata.language_info["version"] = "3.11.9"
    for cell in notebook.cells:
        cell.metadata["scrolled"] = True
        if cell.cell_type == "code":
            cell.metadata["execution"] = {"iopub.status.busy": "now"}
            cell.execution_count = 3
            cell.outputs = [nbformat.v4.new_output("stream", text="a result")]
    return {"type": "notebook", "content": notebook}


def saved(model, root, path):
    source_only(model=model, path=str(path), contents_manager=SimpleNamespace(root_dir=str(root)))
    return nbformat.writes(model["content"]) + "\n"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_run_leaves_nothing_in_the_kits_notebooks(source):
    text = (ROOT / source).read_text()
    assert saved(executed(source), ROOT, source) == text
    assert saved(executed(source), ROOT / "notebooks", source.name) == text, "as make lab opens it"


def test_what_the_user_has_changed_stays():
    source = SOURCES[0]
    model = executed(source)
    model["content"].cells[0].source = "mine"
    model["content"].cells[1].metadata["tags"] = ["mine"]
    saved(model, ROOT, source)
    assert model["content"].cells[0].source == "mine"
    assert model["content"].cells[1].metadata == {"tags": ["mine"]}


@pytest.mark.parametrize(
    "path",
    [
        "notebooks/00_start_here-Copy1.ipynb",
        "notebooks/mine.ipynb",
        "outputs/mini/03_align_imu.ipynb",
        "03_align_imu.ipynb",
    ],
)
def test_other_notebooks_keep_their_outputs(path):
    model = executed(SOURCES[0])
    before = deepcopy(model)
    saved(model, ROOT, path)
    assert model == before


def test_other_files_are_left_alone():
    model = {"type": "file", "content": "text", "format": "text"}
    source_only(model, "notebooks/03_align_imu.ipynb", SimpleNamespace(root_dir=str(ROOT)))
    assert model == {"type": "file", "content": "text", "format": "text"}
