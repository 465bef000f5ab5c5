"""Notebooks for tests: of one cell, or the kit's own on few steps."""

import ast
from pathlib import Path

import nbformat

STEPS = 2
FEW = {
    "LIMIT": 24,
    "STEPS": STEPS,
    "ENCODER_STEPS": 2,
    "COMPARE_BITS": False,
}
OF_ONE = {
    "04_align_audio": {"COMPARE_BANK": False},
    # Many questions a row.
    "06_finetune_mmit": {"LIMIT": 6, "BATCH": 8, "PROJECTION_STEPS": 2, "ITEMS": 4},
    "07_evaluate": {"LIMIT": 12},
    "08_ablations": {
        "LIMIT": 8,
        "SEEDS": 2,
        "LAYERS": 1,
        "TOKENS": 16,
        "BATCH": 16,
        "LLM_LAYERS": 3,
    },
    "09_demo": {"LIMIT": 12},
    "11_performance": {"QUICK": True, "ACCURACY": False},
}


def few(stem):
    """The parameters with which a notebook shows that it runs; it need not have all of them."""
    return {**FEW, **OF_ONE.get(stem, {})}


METADATA = {
    "kernelspec": {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    },
    "language_info": {"name": "python"},
}


def write_notebook(target, source):
    """Write a notebook of one cell."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    notebook.metadata = METADATA
    nbformat.write(notebook, target)


def write_copy(source, target, given):
    """Write a notebook with other values in its parameters cell; names it has not are left out."""
    notebook = nbformat.read(source, as_version=nbformat.NO_CONVERT)
    (cell,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()))
    lines = []
    for statement in ast.parse(cell.source).body:
        name = statement.targets[0].id
        value = given.get(name, ast.literal_eval(statement.value))
        lines.append(f"{name} = {str(value) if isinstance(value, Path) else value!r}")
    cell.source = "\n".join(lines)
    nbformat.write(notebook, target)
