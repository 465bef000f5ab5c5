"""The paper's claims, recomputed from its own tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import torch

from anymal_lib.adapters import build_adapter
from anymal_lib.config import load_profile
from anymal_lib.paper.results import (
    AUDIO_CAPTIONS,
    HUMAN_RATINGS,
    IMAGE_CAPTIONS,
    IMAGE_QUESTIONS,
    TABLES,
    TEXT,
    VIDEO_QUESTIONS,
    Table,
)
from anymal_lib.paper.training import (
    BITS,
    DATA,
    LLM_WIDTHS,
    QUANTIZATION,
    TABLE_12,
    TRAINING,
    epochs,
    training_samples,
    weights_gib,
)

_HALF_STEP = 0.05 + 1e-9  # the tables are rounded to 0.1
_VIT_L_WIDTH = 1024


@dataclass(frozen=True)
class Claim:
    """What the paper claims, and what its tables give."""

    name: str
    where: str
    claimed: str
    found: str
    holds: bool


def claims() -> list[Claim]:
    """Every claim that the tables can decide."""
    return [claim() for claim in _CLAIMS]


def _state_of_the_art() -> Claim:
    columns = [(t, *c) for t in TABLES for c in t.columns]
    best = {}
    for table, benchmark, metric in columns:
        scores = table.column(benchmark, metric)
        if not all(model.startswith("AnyMAL") for model in scores):
            best[f"{benchmark} {metric}"] = max(scores, key=scores.__getitem__)
    lost = {name: f"({m})" for name, m in best.items() if not m.startswith("AnyMAL")}
    return Claim(
        "state of the art",
        "abstract",
        "the best on various tasks (here: on most of those with other models in the table)",
        f"{len(best) - len(lost)} of {len(best)}; not on {_listed(lost)}",
        len(lost) < len(best) / 2,
    )


def _token_range() -> Claim:
    low, high = 64, 256
    tokens = {t.run: t.tokens for t in TRAINING if t.tokens is not None}
    return Claim(
        "token range",
        "section 3.1",
        f"{low} to {high} modality tokens per adapter",
        f"{_listed(tokens)} ({TABLE_12})",
        all(low <= count <= high for count in tokens.values()),
    )


def _fits_one_gpu() -> Claim:
    stated = {s.name: s.value for s in QUANTIZATION}
    gpu = stated["GPU memory, GB"] * 1e9 / 2**30
    sizes = {precision: round(weights_gib(precision), 1) for precision in BITS}
    return Claim(
        "70B on one GPU",
        TEXT,
        f"{stated['LLM']} in 4 bits trains on one GPU of {stated['GPU memory, GB']} GB",
        f"weights alone, GiB: {_listed(sizes)}; the GPU has {gpu:.1f}",
        sizes["nf4"] < gpu,
    )


def _fine_tuning_data() -> Claim:
    stated = 210_000
    return Claim(
        "MM-IT's size",
        TEXT,
        f"{stated:,} instructions for training",
        " + ".join(f"{d.samples:,}" for d in DATA if d.run == "MM-IT" and d.use == "train"),
        training_samples("MM-IT") == stated,
    )


def _data_seen() -> Claim:
    seen = {t.run: round(epochs(t), 2) for t in TRAINING}
    return Claim(
        "data seen",
        TEXT,
        "each run trains on the data that the paper lists for it",
        f"epochs, steps x batch / samples: {_listed(seen)}",
        all(epochs(t) >= 1 for t in TRAINING),
    )


def _trainable_parameters() -> Claim:
    counts = {size: trained_weights(f"paper-{size.lower()}", w) for size, w in LLM_WIDTHS.items()}
    millions = {size: f"{count / 1e6:.1f} M" for size, count in counts.items()}
    return Claim(
        "trainable parameters",
        TEXT,
        "as many for 13B as for 70B",
        f"a projection onto widths {_listed(LLM_WIDTHS)}; this kit's: {_listed(millions)}",
        len(set(counts.values())) == 1,
    )


def trained_weights(profile: str, llm_width: int) -> int:
    """Weights of a paper profile's image projection onto an LLM of that width (none are made)."""
    with torch.device("meta"):
        adapter = build_adapter(
            load_profile(profile).modality("image").adapter,
            sequence_width=_VIT_L_WIDTH,
            pooled_width=_VIT_L_WIDTH,
            llm_width=llm_width,
            out_rms=1.0,
        )
    return sum(p.numel() for p in adapter.parameters())


def _size_and_task() -> Claim:
    captions = {
        "image captions": _mean_change(IMAGE_CAPTIONS, "AnyMAL 13B", "AnyMAL 70B"),
        "audio captions": _mean_change(AUDIO_CAPTIONS, "AnyMAL 13B", "AnyMAL 70B"),
    }
    reasoning = {
        "image questions": _mean_change(IMAGE_QUESTIONS, "AnyMAL 13B, ViT-G", "AnyMAL 70B, ViT-G"),
        "video questions": _mean_change(
            VIDEO_QUESTIONS, "AnyMAL 13B, image frames", "AnyMAL 70B, image frames"
        ),
    }
    changes = {name: f"{100 * c:+.1f} %" for name, c in (captions | reasoning).items()}
    return Claim(
        "LLM size",
        f"{TEXT}, on Tables 2, 4 to 6",
        "the LLM's size matters for reasoning and hardly for captions",
        f"13B to 70B, mean relative change: {_listed(changes)}",
        max(map(abs, captions.values())) < min(reasoning.values()),
    )


def _mm_it_recognition() -> Claim:
    scores = HUMAN_RATINGS.column("MM-IT", "object recognition")
    before, after = scores["AnyMAL 70B"], scores["AnyMAL 70B + human and synthetic"]
    return Claim(
        "MM-IT and object recognition",
        f"{TEXT}, on Table 3",
        "fine-tuning on MM-IT lowers object recognition",
        f"{before} before, {after} after",
        after < before,
    )


def _resolution() -> Claim:
    large, giant = (IMAGE_QUESTIONS.rows[f"AnyMAL 70B, ViT-{size}"] for size in "LG")
    names = [benchmark for benchmark, _ in IMAGE_QUESTIONS.columns]
    better = [n for n, a, b in zip(names, large, giant, strict=True) if a > b]
    return Claim(
        "resolution",
        f"{TEXT}, on Table 4",
        "ViT-L at 336 pixels beats ViT-G at 224 on TextVQA only",
        f"ViT-L is better on {', '.join(better) or 'none'}",
        better == ["TextVQA"],
    )


def _weakest_encoder() -> Claim:
    means = {
        name: round(fmean(IMAGE_QUESTIONS.rows[f"AnyMAL 70B, {name}"]), 1)
        for name in ("DINOv2", "ViT-L", "ViT-G")
    }
    return Claim(
        "encoder without text",
        f"{TEXT}, on Table 4",
        "DINOv2 is the weakest encoder of the 70B models overall",
        f"mean of the six benchmarks: {_listed(means)}",
        min(means, key=means.__getitem__) == "DINOv2",
    )


def _audio_gain() -> Claim:
    stated, ours = 10.9, "AnyMAL 70B"
    cider = AUDIO_CAPTIONS.column("AudioCaps", "CIDEr")
    gains = {
        f"against {model}": round(cider[ours] - value, 1)
        for model, value in cider.items()
        if not model.startswith("AnyMAL")
    }
    return Claim(
        "gain on AudioCaps",
        f"{TEXT}, on Table 5",
        f"+{stated} points of CIDEr over the literature",
        _listed({name: f"+{gain}" for name, gain in gains.items()}),
        stated in gains.values(),
    )


def _spider_off() -> dict[str, float]:
    """How far each third score of Table 5 is from the mean of CIDEr and SPICE, which is SPIDEr."""
    return {
        model: abs(third - (cider + spice) / 2)
        for model, (cider, spice, third) in AUDIO_CAPTIONS.rows.items()
    }


def _spicer() -> Claim:
    spider = [m for m, off in _spider_off().items() if off <= _HALF_STEP]
    return Claim(
        "SPICEr",
        "Table 5",
        "the third column is a score called SPICEr",
        f"it is SPIDEr on {len(spider)} of {len(AUDIO_CAPTIONS.rows)} rows",
        not spider,
    )


def _spider() -> Claim:
    off = _spider_off()
    return Claim(
        "SPIDEr",
        "Table 5",
        "the third column is the mean of CIDEr and SPICE",
        f"off by {max(off.values()):.2f} at most, where scores are rounded to 0.1",
        max(off.values()) <= _HALF_STEP,
    )


def _frames() -> Claim:
    gains = {
        f"{size} {benchmark}": round(
            scores[f"AnyMAL {size}, image frames"] - scores[f"AnyMAL {size}, video encoder"], 1
        )
        for benchmark, metric in VIDEO_QUESTIONS.columns
        for scores in [VIDEO_QUESTIONS.column(benchmark, metric)]
        for size in LLM_WIDTHS
    }
    return Claim(
        "image frames",
        f"{TEXT}, on Table 6",
        "image frames beat the video encoder on all three benchmarks",
        _listed({name: f"{gain:+}" for name, gain in gains.items()}),
        min(gains.values()) > 0,
    )


def _mean_change(table: Table, small: str, large: str) -> float:
    """Mean relative change over a table's columns from one model to another."""
    pairs = zip(table.rows[small], table.rows[large], strict=True)
    return fmean(b / a - 1 for a, b in pairs)


def _listed(values: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


_CLAIMS: tuple[Callable[[], Claim], ...] = (
    _state_of_the_art,
    _token_range,
    _fits_one_gpu,
    _fine_tuning_data,
    _data_seen,
    _trainable_parameters,
    _size_and_task,
    _mm_it_recognition,
    _resolution,
    _weakest_encoder,
    _audio_gain,
    _spicer,
    _spider,
    _frames,
)
