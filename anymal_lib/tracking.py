"""Trainings in TensorBoard or Weights & Biases, through accelerate's trackers.

Off unless a notebook's TRACK names one. Loss, learning rate and speed go in by step, the run's
metrics at its end. TensorBoard reads `<OUTPUT_DIR>/tracking`, one folder a training; W&B follows
its own configuration, WANDB_MODE=offline included.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anymal_lib.errors import ConfigError
from anymal_lib.specs import to_plain

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

    from anymal_lib.runs import Run
    from anymal_lib.train import StepReport

KINDS = ("tensorboard", "wandb")  # as accelerate names them, and their packages
PROJECT = "anymal"


def tracker_kind(value: Any) -> str:
    """A value of TRACK.

    Raises:
        ValueError: no tracker has this name.
        ConfigError: its package is not installed.
    """
    kind = str(value)
    if kind not in KINDS:
        raise ValueError(f"not {' or '.join(KINDS)}")
    if find_spec(kind) is None:
        raise ConfigError(
            f"notebook parameter TRACK, {kind}",
            expected=f"the package {kind}",
            got="an environment without it",
            do=f"Run: pip install {kind}. Or set TRACK to None.",
        )
    return kind


def tracked(
    run: Run, folder: str, settings: Any, on_step: Callable[[StepReport], None]
) -> Callable[[StepReport], None]:
    """`on_step` for a training of the run that writes to `folder`; before it TRACK's, if any.

    `settings` is a spec, kept beside the curves; "." is the training of the run's own adapter,
    which `Run.finish` adds its metrics to.
    """
    if "TRACK" not in run.asked:
        return on_step
    name = run.notebook if folder == "." else f"{run.notebook}-{folder}"
    place = run.output.parent / "tracking"
    facts = {"profile": run.profile.name, "seed": run.seed, "settings": to_plain(settings)}
    tracker = Tracker(run.asked["TRACK"], name, place, facts, main=folder == ".")
    run.trackers.append(tracker)

    def told(report: StepReport) -> None:
        tracker(report)
        on_step(report)

    return told


class Tracker:
    """One training in one tracker, which starts with the first step.

    `main`: its adapter is what the run's metrics are about. A training that goes on where it was
    interrupted adds to its folder; one that begins anew replaces it.
    """

    def __init__(
        self, kind: str, name: str, folder: Path, facts: Mapping[str, Any], *, main: bool
    ) -> None:
        self.kind, self.name, self.folder = kind, name, folder
        self.facts, self.main = facts, main
        self._tracker: GeneralTracker | None = None
        self._last: StepReport | None = None

    def __call__(self, report: StepReport) -> None:
        """Log a step."""
        if self._tracker is None:
            self._tracker = self._started(fresh=report.step == 1)
        values = {"train/loss": report.loss, "train/lr": report.lr}
        if self._last is not None and report.seconds > self._last.seconds:
            samples = report.samples - self._last.samples
            values["train/samples_per_second"] = samples / (report.seconds - self._last.seconds)
        self._tracker.log(values, step=report.step)
        self._last = report

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Log the run's metrics where they are about this training, and close."""
        if self._tracker is None or self._last is None:
            return
        if self.main:
            self._tracker.log(flat(metrics), step=self._last.step)
        self._tracker.finish()
        self._tracker = None

    def _started(self, *, fresh: bool) -> GeneralTracker:
        from accelerate import PartialState
        from accelerate.tracking import TensorBoardTracker, WandBTracker

        PartialState()  # a trainer has made it; trackers cannot log without
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.kind == "tensorboard":
            if fresh:
                shutil.rmtree(self.folder / self.name, ignore_errors=True)
            tracker: GeneralTracker = TensorBoardTracker(self.name, self.folder)
            tracker.start()
            tracker.log({"settings": f"```\n{json.dumps(self.facts, indent=1)}\n```"}, step=0)
            return tracker
        tracker = WandBTracker(
            PROJECT,
            name=self.name,
            dir=str(self.folder),
            config=dict(self.facts),
            reinit="create_new",  # a run has several trainings
        )
        try:
            tracker.start()
        except Exception as error:  # its own classes, which only wandb has
            raise ConfigError(
                "notebook parameter TRACK, wandb",
                expected="a configured Weights & Biases",
                got=str(error).splitlines()[0] if str(error) else type(error).__name__,
                do="Run `wandb login`, set WANDB_MODE=offline, or set TRACK to None.",
            ) from error
        return tracker


def flat(metrics: Mapping[str, Any], place: str = "metrics") -> dict[str, float]:
    """Every number among nested metrics, by its place: {"metrics/grounding/clean/value": 0.9}."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{place}/{name}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{place}/{name}"] = value
    return found
