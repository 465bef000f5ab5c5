"""What the paper measured: its tables of results, a row a model, a column a benchmark's metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TEXT = "text"  # in the paper's running text, outside its tables and figures


@dataclass(frozen=True)
class Result:
    """One number. Accuracies, AUC and human judgements are in %, caption scores times 100."""

    source: str
    model: str
    benchmark: str
    metric: str
    value: float


@dataclass(frozen=True)
class Table:
    """A table or figure of the paper."""

    source: str
    columns: tuple[tuple[str, str], ...]  # benchmark and metric
    rows: Mapping[str, tuple[float | None, ...]]  # by model; None where nothing is printed

    @property
    def results(self) -> tuple[Result, ...]:
        """The printed numbers, row by row."""
        return tuple(
            Result(self.source, model, *column, value)
            for model, values in self.rows.items()
            for column, value in zip(self.columns, values, strict=True)
            if value is not None
        )

    def column(self, benchmark: str, metric: str) -> dict[str, float]:
        """Model -> its value on one benchmark, for the models that have one."""
        return {
            result.model: result.value
            for result in self.results
            if (result.benchmark, result.metric) == (benchmark, metric)
        }


IMAGE_CAPTIONS = Table(
    "Table 2",
    (("COCO", "CIDEr"), ("MM-IT-Cap", "CIDEr")),
    {
        "BLIP-2": (None, 2.9),
        "MiniGPT-4": (None, 14.1),
        "LLaVA": (None, 14.3),
        "CM3Leon": (61.6, None),
        "OpenFlamingo-v2 9B": (79.5, 1.8),
        "Flamingo 80B": (84.3, None),
        "IDEFICS 80B": (91.8, None),
        "AnyMAL 13B": (99.5, 15.5),
        "AnyMAL 70B": (95.9, 15.7),
    },
)
HUMAN_RATINGS = Table(
    "Table 3",
    (
        ("MM-IT", "response accuracy"),
        ("MM-IT", "object recognition"),
        ("MM-IT", "integrity"),
    ),
    {
        "BLIP-2": (43.3, 73.5, None),
        "InstructBLIP": (46.3, 73.2, None),
        "MiniGPT-4": (42.7, 73.0, None),
        "LLaVA": (51.7, 85.4, 99.5),
        "AnyMAL 70B": (56.0, 82.4, 99.3),
        "AnyMAL 70B + synthetic": (54.2, 83.5, 99.5),
        "AnyMAL 70B + human and synthetic": (58.0, 79.3, 99.7),
    },
)
WINS = Table(
    "Figure 3",
    (("MM-IT", "wins against the human reference"),),
    {
        "BLIP-2": (4.1,),
        "InstructBLIP": (16.7,),
        "MiniGPT-4": (27.0,),
        "LLaVA": (34.4,),
        "AnyMAL": (41.1,),
    },
)
IMAGE_QUESTIONS = Table(
    "Table 4",
    (
        ("Hateful Memes", "AUC"),
        ("VQAv2", "accuracy"),
        ("TextVQA", "accuracy"),
        ("ScienceQA", "accuracy"),
        ("VizWiz", "accuracy"),
        ("OKVQA", "accuracy"),
    ),
    {
        "AnyMAL 13B, ViT-G": (66.0, 59.6, 24.7, 52.7, 24.4, 33.1),
        "AnyMAL 70B, DINOv2": (65.6, 59.2, 13.7, 64.7, 23.6, 41.4),
        "AnyMAL 70B, ViT-L": (68.2, 62.0, 35.4, 67.2, 32.2, 41.2),
        "AnyMAL 70B, ViT-G": (69.1, 64.2, 32.9, 70.8, 33.8, 42.6),
        "AnyMAL 70B, ViT-G + MM-IT": (67.4, 67.8, 32.5, 67.6, 41.3, 46.1),
    },
)
AUDIO_CAPTIONS = Table(
    "Table 5",
    # The paper's heading of the third column is "SPICEr".
    (("AudioCaps", "CIDEr"), ("AudioCaps", "SPICE"), ("AudioCaps", "SPIDEr")),
    {
        "PANNs+BERT": (66.7, 17.2, 42.0),
        "ACT": (67.9, 16.0, 42.0),
        "AnyMAL 7B": (70.4, 21.0, 45.7),
        "AnyMAL 13B": (72.1, 22.0, 47.0),
        "AnyMAL 70B": (77.8, 23.0, 50.4),
    },
)
VIDEO_QUESTIONS = Table(
    "Table 6",
    (("STAR", "accuracy"), ("How2QA", "accuracy"), ("NextQA", "accuracy")),
    {
        "BLIP-2": (42.2, 69.8, 62.4),
        "AnyMAL 13B, video encoder": (37.5, 54.8, 46.8),
        "AnyMAL 70B, video encoder": (41.3, 60.0, 50.6),
        "AnyMAL 13B, image frames": (44.4, 59.6, 47.9),
        "AnyMAL 70B, image frames": (48.2, 68.1, 57.6),
    },
)
IMU_CAPTIONS = Table(
    TEXT,
    (("Ego4D, held out", "CIDEr"), ("Ego4D, held out", "ROUGE-L")),
    {"AnyMAL 7B": (52.5, 23.2)},
)

TABLES = (
    IMAGE_CAPTIONS,
    HUMAN_RATINGS,
    WINS,
    IMAGE_QUESTIONS,
    AUDIO_CAPTIONS,
    VIDEO_QUESTIONS,
    IMU_CAPTIONS,
)
