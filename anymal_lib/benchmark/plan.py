"""How much notebook 11 measures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from anymal_lib.benchmark.memory import KINDS
from anymal_lib.benchmark.steps import Work
from anymal_lib.config import MINI
from anymal_lib.runs import Run
from anymal_lib.specs import Profile


@dataclass(frozen=True)
class Plan:
    """How much is measured. `QUICK` shows that everything runs; its numbers mean nothing."""

    profile: Profile = MINI  # whose LLM and encoders are measured
    rounds: int = 9
    work: Work = field(default_factory=Work)
    batches: tuple[int, ...] = (4, 16, 64)
    captions: tuple[int, ...] = (8, 16, 32, 64)
    tokens: tuple[int, ...] = (4, 8, 16, 32, 64)
    shapes: tuple[str, ...] = ("35M", "135M", "360M")
    prompts: int = 64  # generated together
    alone: int = 8  # of them also one by one
    items: int = 256  # encoded
    memory: tuple[str, ...] = KINDS  # steps whose memory is measured

    @property
    def few(self) -> int:
        """Rounds of a point on a curve: fewer than for a ratio that stands alone."""
        return max(2, self.rounds // 2)


QUICK = Plan(
    rounds=2,
    work=Work(batch=1),
    batches=(1, 2),
    captions=(4, 8),
    tokens=(4, 8),
    shapes=("35M",),
    prompts=4,
    alone=2,
    items=8,
    memory=("bare", "ours"),
)


def plan_of(run: Run) -> Plan:
    """The plan that a run's parameters ask for."""
    chosen = QUICK if run.asked.get("QUICK") else Plan()
    return replace(chosen, profile=run.profile, rounds=run.asked.get("ROUNDS", chosen.rounds))
