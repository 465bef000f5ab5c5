"""The stages of notebook 08: what will be run, and what metrics.json says of it."""

from __future__ import annotations

from typing import Any

from anymal_lib.ablation.experiment import Shared
from anymal_lib.ablation.findings import changes, findings, margin
from anymal_lib.ablation.grid import Grid, grid
from anymal_lib.ablation.results import Results
from anymal_lib.ablation.truncated import depth
from anymal_lib.runs import Run

_SEEDS = 3


def plan(run: Run, shared: Shared) -> tuple[Grid, range]:
    """The settings of a notebook's run, and the seeds of each: SEED and those after it."""
    return grid(run, depth(shared.llm)), range(run.seed, run.seed + run.asked.get("SEEDS", _SEEDS))


def ablation_metrics(results: Results) -> dict[str, Any]:
    """The `metrics` part of metrics.json for notebook 08.

    A finding is None where nothing can be said; `changes` are what the findings rest on, with 90 %
    intervals over the seeds (without bounds for one seed), `little` the margin in nats.
    """
    return {
        "seeds": len(results.base),
        "findings": {finding.name: finding.holds for finding in findings(results)},
        "changes": changes(results),
        "little": margin(results),
        "runs": [
            {
                "setting": run.setting,
                "seed": run.seed,
                "final_loss": run.final_loss,
                "held_out_loss": run.held_out_loss,
                "exact_match": run.exact_match,
                "seconds": run.seconds[-1],
            }
            for run in results.all()
        ],
    }
