"""JupyterLab for the kit: `make lab`, or `python -m anymal_lib.lab` with JupyterLab's arguments.

Its server keeps the kit's notebooks as sources: what a run adds is shown and not saved into them.
And it takes films: by itself it drops the connection over a file of more than 10 MB, and is silent.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Copies under other names, and the executed ones in outputs/, are the user's and keep everything.
_SOURCE = re.compile(r"notebooks/\d\d_\w+\.ipynb")
_MOST_UPLOADED = 500 * 2**20  # bytes of a file that the demo's page is given
_OF_A_RUN = ("collapsed", "execution", "jupyter", "scrolled")  # in the metadata of cells


def source_only(model: dict[str, Any], path: str, contents_manager: Any) -> None:
    """What the server calls before it saves a file: take a run's traces out of the kit's notebooks.

    Outputs, execution counts, the state of widgets and the kernel's version go; text and code, as
    the user has edited them, stay. `model` is changed in place; any other file stays as it is.
    """
    place = Path(contents_manager.root_dir, path)
    if model["type"] != "notebook" or not _SOURCE.fullmatch("/".join(place.parts[-2:])):
        return
    notebook = model["content"]
    notebook["metadata"].pop("widgets", None)
    notebook["metadata"]["language_info"] = {"name": "python"}
    for cell in notebook["cells"]:
        for key in _OF_A_RUN:
            cell["metadata"].pop(key, None)
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run JupyterLab until the user stops it."""
    from jupyterlab.labapp import LabApp

    given = sys.argv[1:] if arguments is None else arguments
    hook = f"--ContentsManager.pre_save_hook=anymal_lib.lab.{source_only.__name__}"
    size = f"--ServerApp.tornado_settings={{'websocket_max_message_size': {_MOST_UPLOADED}}}"
    LabApp.launch_instance([hook, size, *given])


if __name__ == "__main__":
    main()
