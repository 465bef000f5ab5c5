"""Notebooks as they are kept: no outputs, one parameters cell, no logic of their own."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from anymal_lib.runs import PARAMETERS

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
ABSOLUTE = re.compile(
    r"(?<![\w.:/)\]])/(?:home|root|Users|tmp|mnt|opt|usr|var|etc|content|work)\b|\b[A-Z]:\\"
)
LONGEST = 25  # lines of a cell: what a screen shows


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


@pytest.fixture
def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parsed(cell):
    return ast.parse(cell.source)  # a "!" or "%" line is no Python and fails here


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_is_valid_4_5_with_cell_ids(notebook):
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)


def test_holds_no_trace_of_a_run(notebook, code):
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert "widgets" not in notebook.metadata
    assert "papermill" not in notebook.metadata


def test_is_written_as_jupyter_writes_it(path, notebook):
    assert path.read_text() == nbformat.writes(notebook) + "\n", "saving it would change it"


def test_names_only_the_standard_kernel(notebook):
    assert notebook.metadata.kernelspec == KERNEL
    assert notebook.metadata.language_info.name == "python"


def test_parameters_cell_is_the_first_and_holds_literals(code):
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == code[:1]
    names = set()
    for statement in parsed(tagged[0]).body:
        assert isinstance(statement, ast.Assign)
        assert len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name)
        ast.literal_eval(statement.value)
        names.add(statement.targets[0].id)
    assert {"PROFILE", "SEED", "OUTPUT_DIR"} <= names <= set(PARAMETERS)


def test_next_code_cell_checks_the_parameters(path, code):
    calls = [
        [ast.unparse(argument) for argument in node.args]
        for node in ast.walk(parsed(code[1]))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "start"
    ]
    assert calls == [[repr(path.stem), "globals()"]]


def test_defines_nothing_and_runs_no_shell(code):
    for cell in code:
        kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        assert not any(isinstance(node, kinds) for node in ast.walk(parsed(cell))), cell.source
        assert "pip install" not in cell.source


def test_names_no_absolute_path(notebook):
    assert [cell.source for cell in notebook.cells if ABSOLUTE.search(cell.source)] == []


def test_cells_are_short_and_introduced(notebook):
    cells = notebook.cells
    assert [c.source for c in cells if len(c.source.splitlines()) > LONGEST] == []
    for before, cell in zip([None, *cells], cells, strict=False):
        if cell.cell_type == "code":
            assert before is not None and before.cell_type == "markdown", cell.source


def test_is_listed_in_the_readme(path):
    assert path.name in (ROOT / "README.md").read_text()
