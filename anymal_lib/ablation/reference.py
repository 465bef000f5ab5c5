"""What loss should I see? A user's own curve over stored ones.

Every alignment notebook stores its curve with the reference run of a profile, notebook 08 those of
all its runs. Curves are compared where they have seen as many samples; a longer run lowers its
learning rate later, so it may stand above a shorter one on the way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from anymal_lib.ablation.experiment import Outcome
from anymal_lib.ablation.results import read_curves
from anymal_lib.errors import DataError
from anymal_lib.plots import running_mean
from anymal_lib.runs import Run, from_root
from anymal_lib.tables import REFERENCE

IMAGE = "02_align_image"


@dataclass(frozen=True)
class Curve:
    """Training loss over samples, as a running mean over a tenth of the steps."""

    name: str
    samples: np.ndarray
    loss: np.ndarray

    @classmethod
    def of(cls, name: str, samples: Sequence[float] | np.ndarray, losses: Sequence[float]) -> Curve:
        """A curve from the loss of every step."""
        window = max(1, len(losses) // 10)
        return cls(name, np.asarray(samples), running_mean(np.array(losses), window))

    def at(self, samples: float) -> float | None:
        """The loss after so many samples; None before the first step and after the last."""
        if not self.samples[0] <= samples <= self.samples[-1]:
            return None
        return float(np.interp(samples, self.samples, self.loss))


@dataclass(frozen=True)
class Beside:
    """A user's curve, where there is one, and the stored ones that it is drawn over."""

    own: Curve | None
    notebook: Curve | None  # the stored run of the notebook that the curve is of
    base: list[Curve]  # the base of notebook 08, one a seed
    others: list[Curve]  # its other settings, one a run


def beside(run: Run) -> Beside:
    """The run's CURVE and what is stored of its notebook, which its folder names.

    A curve from a folder of another name is taken for one of notebook 02. The runs of notebook 08
    are of images: other modalities' curves have that of their own notebook alone.

    Raises:
        DataError: CURVE is not such a file.
    """
    stored = REFERENCE / run.profile.name
    path = from_root(run.asked["CURVE"]) if "CURVE" in run.asked else None
    own = None if path is None else read_curve(path, "your run")
    known = path is not None and (stored / path.parent.name / "curve.jsonl").is_file()
    notebook = path.parent.name if known else IMAGE
    there = stored / notebook / "curve.jsonl"
    runs = read_curves(stored / run.notebook) if notebook == IMAGE else []
    return Beside(
        own,
        read_curve(there, f"stored run of {notebook}") if there.is_file() else None,
        [_curve(one) for one in runs if one.setting == runs[0].setting],
        [_curve(one) for one in runs if one.setting != runs[0].setting],
    )


def _curve(run: Outcome) -> Curve:
    return Curve.of(f"seed {run.seed}", run.along("samples"), run.losses)


def read_curve(path: Path, name: str) -> Curve:
    """A `curve.jsonl` of an alignment notebook; `DataError` where it is none."""
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        samples, losses = ([float(line[key]) for line in lines] for key in ("samples", "loss"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_curve(path, f"{type(error).__name__}: {error}") from error
    if not lines:
        raise _no_curve(path, "an empty file")
    return Curve.of(name, samples, losses)


def _no_curve(path: Path, got: str) -> DataError:
    return DataError(
        f"CURVE {path.name}",
        expected="a curve.jsonl of an alignment notebook, whose lines have `samples` and `loss`",
        got=got,
        do="Give for example outputs/mini/02_align_image/curve.jsonl, or None.",
    )


def loss_table(found: Beside, rows: int = 5) -> pd.DataFrame:
    """The loss of each curve as samples grow, `rows` places on the way of each; of the base, the
    mean and the seeds' range.
    """
    ends = {c.samples[-1] for c in (found.own, found.notebook, *found.base[:1]) if c}
    table = {}
    for samples in sorted({s for end in ends for s in np.linspace(0, end, rows + 1)[1:]}):
        base = [loss for curve in found.base if (loss := curve.at(samples)) is not None]
        row = {c.name: _shown(c.at(samples)) for c in (found.own, found.notebook) if c}
        if found.base:
            range_of = f"{np.mean(base):.3f} ({min(base):.3f}-{max(base):.3f})" if base else ""
            row["base of notebook 08"] = range_of
        table[round(samples)] = row
    return pd.DataFrame(table).T.rename_axis("samples")


def _shown(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.3f}"
