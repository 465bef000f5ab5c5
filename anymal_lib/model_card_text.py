"""The text of a model card: tables of what a saved folder holds and what its run measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open

Record = Mapping[str, Any]  # what a metrics.json holds

_ITEMS = {
    "image": 'Image("picture.png")',
    "imu": 'Imu("motion.csv", rate=50)',
    "audio": 'Audio("sound.wav")',
    "video": 'Video("clip.mp4")',
}
SCORES = {  # key of metrics.json -> metric, and what it is
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


def sections(
    folder: Path, config: Mapping[str, Any], record: Record | None, place: str
) -> Iterator[str]:
    """The parts of a card, of a folder with such an `anymal.json`, measured by `record`."""
    names = config["modalities"]
    spec = config["profile"]["modalities"]
    base = config["base_model"]
    lora = ", and low-rank weights (LoRA) of the language model," if config.get("lora") else ""
    yield f"# AnyMAL adapters: {', '.join(names) or 'none'} (profile {config['profile']['name']})"
    yield (
        f"Trained projections{lora} that turn what frozen encoders sense into token embeddings of "
        "a frozen language model, after *AnyMAL: An Efficient and Scalable Any-Modality Augmented "
        "Language Model* ([arXiv 2309.16058](https://arxiv.org/abs/2309.16058)). Only what was "
        "trained is here: the base model and pretrained encoders are fetched when it is loaded. "
        "The licence named above is the base model's; encoders and data have their own."
    )
    yield "## Base model\n\n" + _table(
        ["source", "checksum", "precision here"],
        [[without_place(base["source"]), base["sha256"] or "none", f"{config['bits']} bits"]],
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


def without_place(source: str) -> str:
    """The source of a model without a machine's path."""
    return Path(source).name if Path(source).is_absolute() else source


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
                yield without_place(spec[name])
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
    return [kind, f"{adapter['tokens']} x {width}", f"{sum(map(prod, shapes.values())):,}"]


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
        before = {"all: tokens as words": "words", "LoRA: comparisons of words": "comparisons"}
        stages |= {what: recipe[name] for what, name in before.items() if recipe.get(name)}
        stages["all: instructions, with LoRA"] = recipe["lora_train"]
        rank, alpha = recipe["lora"]["rank"], recipe["lora"]["alpha"]
        first = recipe["lora"]["first_layer"]
        where = f" from decoder layer {first} on" if first else ""
        learn = "learn at LoRA's rate" if recipe["adapters_learn"] else "stay as they are"
        text += f"LoRA: rank {rank}, alpha {alpha}, beside every linear layer{where}; the adapters"
        text += f" {learn} meanwhile.\n\n"
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
        for key, (_, name) in SCORES.items()
        if metrics.get(key) is not None
    ]
    blind = metrics.get("chance", metrics.get("blind"))
    if blind is not None:
        plain.append(["the best answer that needs no item", f"{blind:.3f}"])
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
