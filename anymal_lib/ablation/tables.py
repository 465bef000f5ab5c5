"""Tables of notebook 08, as pandas frames."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from anymal_lib.ablation.findings import Finding, changes, findings, margin
from anymal_lib.ablation.grid import FACTORS, Grid, Setting
from anymal_lib.ablation.results import Results
from anymal_lib.metrics.intervals import Interval
from anymal_lib.paper import ABLATIONS

_AGREES = {True: "yes", False: "not shown here", None: "cannot be said"}


def plan_table(grid: Grid, seeds: Sequence[int]) -> pd.DataFrame:
    """Every setting that will be run, the base first, and the samples that each run sees."""
    return pd.DataFrame(
        [
            {**_named(setting), "samples": setting.steps * setting.batch, "runs": len(seeds)}
            for setting in grid.settings()
        ]
    )


def run_table(results: Results) -> pd.DataFrame:
    """What every setting reached: means over the seeds, smallest and largest in brackets."""
    return pd.DataFrame(
        [
            {
                **_named(setting),
                "training loss": _range([run.final_loss for run in runs]),
                "held-out loss": _range([run.held_out_loss for run in runs]),
                "exact match": _range([run.exact_match for run in runs]),
                "seconds": _range([run.seconds[-1] for run in runs], digits=1),
            }
            for setting, runs in results.runs.items()
        ]
    )


def change_table(results: Results) -> pd.DataFrame:
    """What more of each factor does, paired by seed, with 90 % intervals."""
    little = margin(results)
    return pd.DataFrame(
        [
            {
                "factor": FACTORS[found.factor],
                "change": f"{found.smaller} to {found.larger}",
                "at equal": found.same,
                "held-out loss": _interval(found.held_out_loss),
                "training loss": _interval(found.training_loss),
                "exact match": _interval(found.exact_match),
                "held-out loss is": found.verdict(little),
            }
            for found in changes(results)
        ]
    ).set_index(["factor", "change"])


def finding_table(results: Results) -> pd.DataFrame:
    """The paper's findings of Figure 4 in words, ours beside them, and whether they agree."""
    return pd.DataFrame(
        {
            FACTORS[finding.factor]: {
                "the paper": _paper(finding),
                "here": _here(results, finding),
                "agrees": _AGREES[finding.holds],
            }
            for finding in findings(results)
        }
    ).T


def _paper(finding: Finding) -> str:
    (told,) = (a for a in ABLATIONS if a.setting == FACTORS[finding.factor])
    return f"{told.base} to {told.changed}: {told.loss}"


def _here(results: Results, finding: Finding) -> str:
    little = margin(results)
    unit = " layers" if finding.factor == "llm_layers" else ""
    return "; ".join(
        f"{c.smaller} to {c.larger}{unit}{' at equal steps' if c.same == 'steps' else ''}:"
        f" {c.verdict(little)}"
        for c in changes(results)
        if c.factor == finding.factor
    )


def _named(setting: Setting) -> dict[str, int]:
    names = {**FACTORS, "llm_layers": "LLM layers"}
    return {**{names[f]: getattr(setting, f) for f in names}, "steps": setting.steps}


def _range(values: Sequence[float], digits: int = 3) -> str:
    mean, low, high = sum(values) / len(values), min(values), max(values)
    return f"{mean:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def _interval(found: Interval) -> str:
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
