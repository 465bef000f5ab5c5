"""All runs of a grid, and the file that keeps them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from anymal_lib.ablation.experiment import Outcome, Shared, outcome
from anymal_lib.ablation.grid import Grid, Setting
from anymal_lib.runs import write_text

CURVES = "curves.jsonl"


@dataclass(frozen=True)
class Results:
    """Every setting of a grid with its runs, one a seed, seeds in the same order."""

    grid: Grid
    runs: dict[Setting, tuple[Outcome, ...]]

    @property
    def base(self) -> tuple[Outcome, ...]:
        """The runs of the base."""
        return self.runs[self.grid.base]

    def all(self) -> list[Outcome]:
        """Every run, the base's first."""
        return [run for runs in self.runs.values() for run in runs]


def run_grid(
    shared: Shared,
    grid: Grid,
    seeds: Sequence[int],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Results:
    """Every run of the grid that is not kept already; a whole grid for each seed in turn."""
    settings = grid.settings()
    planned = [(setting, seed) for seed in seeds for setting in settings]
    found: dict[Setting, tuple[Outcome, ...]] = dict.fromkeys(settings, ())
    for done, (setting, seed) in enumerate(planned):
        on_progress(done, len(planned))
        found[setting] = (*found[setting], outcome(shared, setting, seed))
    on_progress(len(planned), len(planned))
    return Results(grid, found)


def save_curves(results: Results, folder: Path) -> Path:
    """Write every run with its curve to `curves.jsonl`, a line each, the base's first."""
    path = folder / CURVES
    write_text(path, "".join(json.dumps(asdict(run)) + "\n" for run in results.all()))
    return path


def read_curves(folder: Path) -> list[Outcome]:
    """What `save_curves` wrote; nothing where there is no such file."""
    path = folder / CURVES
    if not path.is_file():
        return []
    return [Outcome.from_plain(json.loads(line)) for line in path.read_text().splitlines()]
