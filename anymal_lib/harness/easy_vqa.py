"""easy-VQA's official test questions as the data set of the local lmms-eval tasks.

    python -m anymal_lib.harness.easy_vqa

A Parquet file with the pictures inside, below outputs/ in the repository, where
`tasks/easy_vqa/easy_vqa.yaml` looks for it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from anymal_lib.errors import AnyMALError
from anymal_lib.instruct.questions import written
from anymal_lib.manifest import Manifest
from anymal_lib.runs import ROOT
from anymal_lib.sources import profile_manifest

SOURCE = "easy-vqa-questions"
FILE = ROOT / "outputs" / "harness" / "easy_vqa" / "test.parquet"

_TEXTS = ("id", "question", "answer", "kind")
# `datasets` reads from here that the column holds pictures, and opens them.
_FEATURES = {"image": {"_type": "Image"}} | {
    name: {"dtype": "string", "_type": "Value"} for name in _TEXTS
}
_SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        *((name, pa.string()) for name in _TEXTS),
    ],
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)


def write(manifest: Manifest, file: Path) -> int:
    """Write the test questions of a manifest of pictures, in its order; returns how many.

    Raises:
        ManifestError: there are none.
    """
    examples, rows = written(manifest, "test")
    pictures = {row.id: {"bytes": Path(row.path).read_bytes(), "path": None} for row in rows}
    records = [
        {
            "image": pictures[example.items[0].id],
            "id": f"{example.items[0].id}/{k}",
            "question": example.question,
            "answer": example.answer,
            "kind": example.kind,
        }
        for k, example in enumerate(examples)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial-{os.getpid()}")
    pq.write_table(pa.Table.from_pylist(records, _SCHEMA), partial)
    os.replace(partial, file)
    return len(records)


def main() -> int:
    """Write the data set where the task looks for it; returns the exit status."""
    try:
        count = write(profile_manifest(SOURCE), FILE)
    except AnyMALError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{count:,} questions in {FILE.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
