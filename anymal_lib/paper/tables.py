"""The paper as pandas frames, for a notebook."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pandas as pd

from anymal_lib.paper.prompts import PROMPTS
from anymal_lib.paper.results import TABLES, TEXT, Table
from anymal_lib.paper.training import ABLATIONS, DATA, TRAINING, settings
from anymal_lib.paper.verdicts import claims
from anymal_lib.specs import Profile


def result_tables() -> dict[str, pd.DataFrame]:
    """The paper's tables of results by their source: a row a model, blank where none is printed."""
    return {
        "IMU captions (text)" if table.source == TEXT else table.source: _frame(table)
        for table in TABLES
    }


def _frame(table: Table) -> pd.DataFrame:
    columns = [f"{benchmark}, {metric}" for benchmark, metric in table.columns]
    frame = pd.DataFrame.from_dict(table.rows, orient="index", columns=columns)
    return frame.rename_axis("model").astype(object).where(frame.notna(), "")


def training_table() -> pd.DataFrame:
    """Table 12: a row a run."""
    rows = {}
    for training in TRAINING:
        row = {k: "" if v is None else v for k, v in asdict(training).items()}
        run = row.pop("run")
        row["sizes"] = ", ".join(training.sizes)
        row["lora"] = ", ".join(f"{k} {v}" for k, v in dict(row["lora"]).items())
        rows[run] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("run")


def data_table() -> pd.DataFrame:
    """Data and their sizes as the paper counts them."""
    return _by(["run", "name"], DATA)


def ablation_table() -> pd.DataFrame:
    """Figure 4: one change each, and what the training loss does."""
    return _by(["setting"], ABLATIONS)


def prompt_table() -> pd.DataFrame:
    """What the evaluations ask for, a row a benchmark."""
    rows = [(b, p.instruction, p.source) for p in PROMPTS for b in p.benchmarks]
    return pd.DataFrame(rows, columns=["benchmark", "instruction", "source"]).set_index("benchmark")


def setting_table(profile: Profile) -> pd.DataFrame:
    """Settings with their marks: what is stated, what follows, what the profile chose."""
    frame = _by(["run", "name"], settings(profile))
    frame["value"] = [
        round(v, 4) if isinstance(v, float) and v > 1e-3 else v for v in frame["value"]
    ]
    return frame


def claim_table() -> pd.DataFrame:
    """The paper's claims beside what its tables give."""
    frame = _by(["name"], claims())
    frame["holds"] = frame["holds"].map({True: "yes", False: "no"})
    return frame


def _by(index: list[str], records: Any) -> pd.DataFrame:
    return pd.DataFrame([asdict(record) for record in records]).set_index(index)
