"""AnyMAL (arXiv 2309.16058 v1) as data: what it measured, how it trained, what it claims.

Every record has its source: a table, figure, section or appendix of the paper, "text" for its
running text, or another paper where its facts come from there.
"""

from __future__ import annotations

from anymal_lib.paper.prompts import PROMPTS, EvaluationPrompt
from anymal_lib.paper.results import TABLES, Result, Table
from anymal_lib.paper.training import (
    ABLATIONS,
    DATA,
    TRAINING,
    Ablation,
    Data,
    Setting,
    Training,
    settings,
)
from anymal_lib.paper.verdicts import Claim, claims

__all__ = [
    "ABLATIONS",
    "DATA",
    "PROMPTS",
    "TABLES",
    "TRAINING",
    "Ablation",
    "Claim",
    "Data",
    "EvaluationPrompt",
    "Result",
    "Setting",
    "Table",
    "Training",
    "claims",
    "settings",
]
