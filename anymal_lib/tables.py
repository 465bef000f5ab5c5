"""Tables of the notebooks, as pandas frames."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from anymal_lib.controls import senses
from anymal_lib.evaluate import CaptionReport, chance
from anymal_lib.machine import fast_bf16, has_compiler
from anymal_lib.manifest import Manifest
from anymal_lib.model import AnyMAL
from anymal_lib.runs import ROOT, device_name, versions
from anymal_lib.specs import Profile
from anymal_lib.stages import Comparison, Sensed

REFERENCE = ROOT / "outputs" / "reference"


def data_counts(manifest: Manifest) -> pd.DataFrame:
    """Rows, files, groups and captions of each split."""
    return pd.DataFrame(
        {
            split: {
                "rows": len(rows),
                "files": len({str(row.path) for row in rows}),
                "groups (people)": len({row.group for row in rows if row.group}),
                "distinct captions": len({text for row in rows for text in row.text}),
            }
            for split in ("train", "val", "test")
            if (rows := manifest.split(split))
        }
    )


def fact_counts(manifest: Manifest, fact: str) -> pd.DataFrame:
    """How often each value of a fact occurs in each split."""
    counts = {
        split: Counter(row.facts.get(fact) for row in manifest.split(split))
        for split in ("train", "test")
    }
    return pd.DataFrame(counts).fillna(0).astype(int).sort_index()


def retrieval_scores(sensed: Sensed) -> pd.DataFrame:
    """Does the encoder find the right text among the held-out captions?"""
    found = sensed.retrieval
    if found is None:
        return pd.DataFrame({"value": {"aligned to text": "no"}})
    return pd.DataFrame(
        {
            "value": {
                "recall@1": round(found.recall_at_1, 3),
                "recall@5": round(found.recall_at_5, 3),
                "zero-shot accuracy": found.zero_shot and round(found.zero_shot, 3),
            },
            "chance": {
                "recall@1": round(1 / found.captions, 3),
                "recall@5": round(min(1, 5 / found.captions), 3),
                "zero-shot accuracy": round(1 / found.captions, 3),
            },
        }
    )


def parameter_counts(model: AnyMAL, modality: str) -> pd.DataFrame:
    """Weights of each part, in millions, and whether they learn during alignment."""
    parts = {
        "LLM": (sum(p.numel() for p in model.llm.model.parameters()), "frozen"),
        f"{modality} encoder": (
            sum(p.numel() for p in model.encoders[modality].parameters()),
            "frozen",
        ),
        f"{modality} adapter": (
            sum(p.numel() for p in model.adapters[modality].parameters()),
            "trained",
        ),
    }
    return pd.DataFrame(
        {"stored weights, millions": {k: round(n / 1e6, 2) for k, (n, _) in parts.items()},
         "in alignment": {k: state for k, (_, state) in parts.items()}}
    )  # fmt: skip


def caption_scores(report: CaptionReport) -> pd.DataFrame:
    """Scores of the captions of held-out items."""
    rows: dict[str, float | None] = {"exact match": report.exact_match.value}
    rows |= {f"{name} right": value for name, value in report.attributes.items()}
    rows |= {"CIDEr-D": report.cider_d, "ROUGE-L": report.rouge_l}
    return pd.DataFrame({"value": {k: v if v is None else round(v, 4) for k, v in rows.items()}})


def elsewhere_scores(report: CaptionReport, elsewhere: CaptionReport | None) -> pd.DataFrame:
    """Scores on the run's own test split beside those on another source's."""
    table = {"own": caption_scores(report)["value"]}
    if elsewhere is not None:
        table["elsewhere"] = caption_scores(elsewhere)["value"]
    return pd.DataFrame(table)


def grounding_scores(report: CaptionReport, sensed: Sensed) -> pd.DataFrame:
    """Clean score against the controls, with 95 % intervals."""
    table = {
        control: {
            "the model senses": senses(control, sensed.manifest.modality),
            report.grounding_score: round(found.value, 3),
            "95 % low": round(found.low, 3),
            "95 % high": round(found.high, 3),
        }
        for control, found in report.grounding.items()
    }
    table["best blind answer"] = {
        "the model senses": "nothing; always the most common caption",
        report.grounding_score: round(chance(sensed.test), 3),
    }
    return pd.DataFrame(table).T.fillna("")


def precisions(rows: Sequence[Comparison]) -> pd.DataFrame:
    """Training on a quantized LLM beside bf16."""
    return pd.DataFrame(
        {
            row.precision: {
                "final loss": round(row.final_loss, 3),
                "exact match, same LLM": round(row.exact_match, 3),
                "exact match, full-precision LLM swapped in": round(row.swapped, 3),
                "training seconds": round(row.seconds),
            }
            for row in rows
        }
    ).T


def installed() -> pd.DataFrame:
    """What there is here that a run depends on: versions, processor or GPU, precision, compiler."""
    found = {
        **versions(),
        "computes on": device_name(),
        "precision of the LLM": "bf16" if fast_bf16() else "fp32: bf16 would be emulated",
        "C++ compiler, for compiled layers": "found" if has_compiler() else "not found",
    }
    return pd.DataFrame({"here": found})


def steps_overview(profile: Profile, output: Path, slower: float) -> pd.DataFrame:
    """What each notebook does, whether its result is there, and what it will take here.

    Time and memory come from the stored reference run; `slower` is how much slower this machine
    multiplies matrices than the one of the reference.
    """
    table = {}
    for stem, what in NOTEBOOKS.items():
        reference = _metrics(REFERENCE / profile.name / stem)
        table[stem] = {
            "does": what,
            "ready": "yes" if (output / stem / "metrics.json").is_file() else "not yet",
            "minutes here": round(reference["seconds"] * slower / 60, 1) if reference else "?",
            "GB": reference["peak_memory_gb"] if reference else "?",
        }
    return pd.DataFrame(table).T


NOTEBOOKS = {
    "01_prepare_data": "fetch and verify the data, look at it; CAT filter, face blur, duplicates",
    "02_align_image": "teach the LLM to see: captions of pictures, through a Perceiver resampler",
    "03_align_imu": "teach it to feel: captions of motions, through a linear layer; int8 and nf4",
    "04_align_audio": "teach it to hear: captions of sounds; the same on another sound bank",
    "05_align_video": "teach it to watch: captions of clips, frames with positions",
    "06_finetune_mmit": "questions about all four, with and without LoRA; synthetic pairs, filter",
    "07_evaluate": "beside the paper's tables; grounding report, retrieval, human ratings",
    "08_ablations": "Figure 4: layers, tokens, batch, size of the LLM; your own loss curve",
    "09_demo": "ask about files of your own, and see what the answer rests on",
    "11_performance": "what a training step costs, switch by switch, beside other recipes",
}


def _metrics(folder: Path) -> dict | None:
    path = folder / "metrics.json"
    return json.loads(path.read_text()) if path.is_file() else None


def reference_speed(profile: Profile) -> float | None:
    """Matrix-product speed (GFLOP/s) of the machine of the stored reference run."""
    found = _metrics(REFERENCE / profile.name / "00_start_here")
    return found["metrics"]["matmul_gflops"] if found else None
