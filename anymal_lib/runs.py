"""A notebook's run: its checked parameters, its output folder and its metrics.json.

Papermill passes unknown names and mistyped values on without a word; `start` refuses them.
"""

from __future__ import annotations

import ast
import json
import logging
import math
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from anymal_lib.config import load_profile
from anymal_lib.errors import ConfigError
from anymal_lib.model_card import CONFIG, folder_checksum, write_card
from anymal_lib.specs import ModalitySpec, Profile, VideoEncoderSpec
from anymal_lib.tracking import Tracker, tracker_kind

ROOT = Path(__file__).resolve().parents[1]  # paths are resolved from the repository's root

_PACKAGES = (
    "torch",
    "transformers",
    "bitsandbytes",
    "accelerate",
    "peft",
    "open_clip_torch",
    "timm",
)
_INJECTED = "# Parameters"  # how Papermill's own cell begins


def _positive(value: Any) -> int:
    number = int(value)
    if number != float(value) or number < 1:
        raise ValueError("not a whole number above 0")
    return number


def _seed(value: Any) -> int:
    number = int(value)
    if number != float(value) or not 0 <= number < 2**63:
        raise ValueError("not a whole number from 0 to 2^63")
    return number


def _rate(value: Any) -> float:
    number = float(value)
    if not 0 < number < 1:
        raise ValueError("not between 0 and 1")
    return number


def _bits(value: Any) -> int:
    number = _positive(value)
    if number not in (32, 16, 8, 4):
        raise ValueError("not 32, 16, 8 or 4")
    return number


def _fold(value: Any) -> int | str:
    if str(value) == "all":
        return "all"
    number = _positive(value)
    if number > 5:
        raise ValueError("not 1 to 5 or 'all'")
    return number


def _several(value: Any) -> tuple[int, ...]:
    parts = value if isinstance(value, list | tuple) else str(value).split(",")
    return tuple(sorted({_positive(part) for part in parts}))


def _flag(value: Any) -> bool:
    text = str(value).lower()
    if text not in ("true", "false"):
        raise ValueError("not True or False")
    return text == "true"


# Every notebook parameter, how it is read and what it may be.
PARAMETERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "PROFILE": (str, "a profile's name"),
    "SEED": (_seed, "a whole number of at least 0"),
    "OUTPUT_DIR": (str, "a folder"),
    "MANIFEST": (str, "the path of a card.yaml"),
    "ADAPTER": (str, "a saved model's folder, or its name on the hub"),
    "STEPS": (_positive, "training steps, a whole number above 0"),
    "PROJECTION_STEPS": (_positive, "steps without LoRA, a whole number above 0"),
    "RANK": (_positive, "the rank of LoRA, a whole number above 0"),
    "ITEMS": (_positive, "items that a writer is asked about, a whole number above 0"),
    "WRITER_URL": (str, "the address of an OpenAI-compatible endpoint"),
    "WRITER_MODEL": (str, "the name of a model there"),
    "ENCODER_STEPS": (_positive, "encoder alignment steps, a whole number above 0"),
    "BATCH": (_positive, "samples a step, a whole number above 0"),
    "LEARNING_RATE": (_rate, "a number between 0 and 1"),
    "TOKENS": (_positive, "modality tokens, a whole number above 0"),
    "LAYERS": (_positive, "resampler layers, a whole number above 0"),
    "BITS": (_bits, "32, 16, 8 or 4"),
    "COMPARE_BITS": (_flag, "True or False"),
    "COMPARE_BANK": (_flag, "True or False"),
    "FRAMES": (_positive, "frames of a clip, a whole number above 0"),
    "FOLD": (_fold, "1 to 5, or 'all'"),
    "LIMIT": (_positive, "items of each split, a whole number above 0"),
    "ROUNDS": (_positive, "measured rounds, a whole number above 0"),
    "QUICK": (_flag, "True or False"),
    "ACCURACY": (_flag, "True or False"),
    "TRACK": (tracker_kind, "tensorboard or wandb"),
    "SEEDS": (_positive, "how many seeds, a whole number above 0"),
    "LLM_LAYERS": (_several, "whole numbers above 0, for example '10,30'"),
    "CURVE": (str, "the path of a curve.jsonl"),
}
# Where a name takes several values.
SEVERAL: dict[str, tuple[str, ...]] = {"08_ablations": ("BATCH", "LAYERS", "TOKENS")}


@dataclass
class Run:
    """A notebook's configuration and where its results go.

    `asked` holds the parameters that were set (the others follow the profile); `trackers` are
    those of its trainings so far, where TRACK names one.
    """

    notebook: str
    profile: Profile
    seed: int
    output: Path
    manifest: Path | None
    asked: dict[str, Any]
    trackers: list[Tracker] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    def for_modality(self, modality: str) -> Profile:
        """The profile with this run's parameters put into one modality."""
        spec = _override(self.profile.modality(modality), self.asked)
        profile = self.profile.with_modality(modality, spec)
        return replace(profile, bits=self.asked.get("BITS", profile.bits))

    def for_finetuning(self) -> Profile:
        """The profile with this run's parameters put into the recipe of fine-tuning."""
        recipe, asked = self.profile.finetuning, self.asked
        shared = {"BATCH": "batch", "LEARNING_RATE": "learning_rate"}
        # What comes before LoRA's own steps takes no more of them.
        most = asked.get("STEPS")
        before = {
            name: replace(spec, steps=min(spec.steps, most))
            for name in ("words", "comparisons")
            if most and (spec := getattr(recipe, name))
        }
        recipe = replace(
            recipe,
            **before,
            projection=_changed(recipe.projection, asked, {"PROJECTION_STEPS": "steps", **shared}),
            lora_train=_changed(recipe.lora_train, asked, {"STEPS": "steps", **shared}),
            lora=_changed(recipe.lora, asked, {"RANK": "rank"}),
        )
        return replace(self.profile, finetune=recipe, bits=asked.get("BITS", self.profile.bits))

    def finish(self, metrics: Mapping[str, Any], *, data: Mapping[str, str], n: int) -> Path:
        """Write metrics.json (see the README for its keys) and return its path.

        `data` maps manifest names to checksums; `n` is how many held-out items were scored.
        """
        record = {
            "profile": self.profile.name,
            "seed": self.seed,
            "notebook": self.notebook,
            "parameters": {k: v for k, v in self.asked.items() if k not in _PLACES},
            "versions": versions(),
            "git": _git(),
            "device": device_name(),
            "data": dict(data),
            "n": n,
            "seconds": round(time.perf_counter() - self.started, 1),
            "peak_memory_gb": round(peak_memory_gb(), 2),
            "metrics": plain(metrics),
        }
        path = self.output / "metrics.json"
        adapter = self.output / "adapter"
        if (adapter / CONFIG).is_file():  # its model card quotes the metrics of these weights
            record["adapter"] = folder_checksum(adapter)
        write_text(path, json.dumps(record, indent=1) + "\n")
        if "adapter" in record:
            write_card(adapter)
        while self.trackers:
            self.trackers.pop().finish(record["metrics"])
        return path


_PLACES = ("OUTPUT_DIR", "MANIFEST", "ADAPTER", "CURVE")


def start(notebook: str, variables: Mapping[str, Any]) -> Run:
    """Check a notebook's parameters and return its run.

    `variables` is the notebook's `globals()`. `None` means the profile's value. Raises
    `ConfigError` for a name that no notebook has, and for a value of the wrong kind.
    """
    known = {name for name in PARAMETERS if name in variables}
    for name in sorted(_unknown_names(variables, known)):
        close = get_close_matches(name.upper(), known - {name}, n=1)
        raise ConfigError(
            f"notebook parameter {name}",
            expected=f"one of {sorted(known - {name})}",
            got=name,
            do=f"Did you mean {close[0]}?" if close else "Remove it.",
        )
    asked = {
        name: _cast(name, variables[name], several=name in SEVERAL.get(notebook, ()))
        for name in sorted(known)
        if variables[name] is not None and str(variables[name]).lower() not in ("none", "null")
    }
    profile = load_profile(asked.pop("PROFILE", "mini"))
    seed = asked.pop("SEED", 0)
    base = from_root(asked.get("OUTPUT_DIR") or Path("outputs") / profile.name)
    output = base / notebook
    output.mkdir(parents=True, exist_ok=True)
    manifest = from_root(asked["MANIFEST"]) if "MANIFEST" in asked else None
    _speak()
    return Run(notebook, profile, seed, output, manifest, asked)


def from_root(path: str | Path) -> Path:
    """A path as users mean it: absolute, or relative to the repository's root."""
    return (ROOT / Path(path).expanduser()).resolve()


def shown(path: Path) -> str:
    """A path as notebooks print it: relative to the repository where it lies inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def _unknown_names(variables: Mapping[str, Any], known: set[str]) -> set[str]:
    """Upper-case names that no notebook has, and what Papermill injected without a declaration."""
    names = {
        name
        for name, value in variables.items()
        if name.isupper() and isinstance(value, str | int | float | bool | None | list | dict)
    }
    declared, injected = set(), set()
    for source in variables.get("In", []):
        assigned = _assigned_names(source)
        if source.startswith(_INJECTED):
            injected |= assigned - declared
        else:
            declared |= assigned
    return (names - known) | injected


def _assigned_names(source: str) -> set[str]:
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a cell with IPython's own syntax
        return set()
    assignments = (node for node in tree.body if isinstance(node, ast.Assign))
    return {t.id for node in assignments for t in node.targets if isinstance(t, ast.Name)}


def _cast(name: str, value: Any, *, several: bool) -> Any:
    cast, expected = PARAMETERS[name]
    if several:
        cast, expected = _several, "whole numbers above 0, for example '4,16'"
    try:
        return cast(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"notebook parameter {name}",
            expected=expected,
            got=repr(value),
            do=f"Set {name} to such a value, or to None for the profile's.",
        ) from error


def _override(spec: ModalitySpec, asked: Mapping[str, Any]) -> ModalitySpec:
    names = {"STEPS": "steps", "BATCH": "batch", "LEARNING_RATE": "learning_rate"}
    align = _changed(spec.align, asked, names)
    adapter = _changed(spec.adapter, asked, {"TOKENS": "tokens", "LAYERS": "layers"})
    encoder = spec.encoder
    if getattr(encoder, "align", None) is not None:
        encoder = replace(encoder, align=_changed(encoder.align, asked, {"ENCODER_STEPS": "steps"}))
    if isinstance(encoder, VideoEncoderSpec):
        encoder = _changed(encoder, asked, {"FRAMES": "frames"})
    return replace(spec, align=align, adapter=adapter, encoder=encoder)


def _changed(part: Any, asked: Mapping[str, Any], names: Mapping[str, str]) -> Any:
    """A spec with the parameters that were asked for in place of its fields."""
    given = {attribute: asked[name] for name, attribute in names.items() if name in asked}
    return replace(part, **given) if given else part


def _speak() -> None:
    """Show tables and the library's messages in the notebook, and only transformers' errors."""
    import pandas
    from transformers.utils import logging as transformers_logging

    pandas.set_option("display.max_colwidth", None)  # tables show texts whole
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logger = logging.getLogger("anymal_lib")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def plain(value: Any) -> Any:
    """Results as JSON-ready values."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):  # JSON knows no NaN
        return round(value, 6) if math.isfinite(value) else None
    return value


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    partial.write_text(text)
    os.replace(partial, path)


def peak_memory_gb() -> float:
    """Largest memory of this process so far, in GB; on a GPU, of the device."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def device_name() -> str:
    """What the run computes on."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def versions() -> dict[str, str]:
    """Python and the packages that a result depends on most, with their versions."""
    found = {"python": platform.python_version()}
    for package in ("anymal-lib", *_PACKAGES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _git() -> str | None:
    """The commit this ran at, with "+" when files had changed; None outside a checkout."""
    try:
        commit, status = (
            subprocess.run(
                ["git", *args], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for args in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if status else "")
