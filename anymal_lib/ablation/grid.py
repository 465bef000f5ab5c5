"""What is varied: one factor at a time around a base, as in the paper's Figure 4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from anymal_lib.errors import ConfigError
from anymal_lib.paper import ABLATIONS
from anymal_lib.runs import Run

Same = Literal["samples", "steps"]  # what two batch sizes have in common
SAME: tuple[Same, ...] = ("samples", "steps")

# Factor (a field of `Setting`) -> its name in the paper; the notebook's parameter is in capitals.
FACTORS = {
    "layers": "resampler layers",
    "tokens": "modality tokens",
    "batch": "batch",
    "llm_layers": "LLM",
}
# The base's value first (ours: the paper's ratios of 3, 4 and 8 are in them).
_MINI = {"layers": (2, 1, 6), "tokens": (16, 4, 64), "batch": (16, 4, 32)}
_PAPER = {
    factor: (int(found.base), int(found.changed))
    for factor, name in FACTORS.items()
    for found in ABLATIONS
    if found.setting == name and factor in _MINI
}
_MINI_STEPS = 18  # three seeds of the whole grid in a quarter of an hour on two cores


@dataclass(frozen=True)
class Setting:
    """One configuration of the image alignment; with a seed it is a run."""

    layers: int  # of the resampler
    tokens: int
    batch: int
    steps: int
    llm_layers: int  # how many of the LLM's layers there are, from the first

    def asked(self) -> dict[str, int]:
        """The same as parameters of the image notebook, which knows whole LLMs only."""
        return {
            "LAYERS": self.layers,
            "TOKENS": self.tokens,
            "BATCH": self.batch,
            "STEPS": self.steps,
        }


@dataclass(frozen=True)
class Grid:
    """The base and the values of each factor, ascending and the base's among them."""

    base: Setting
    values: Mapping[str, tuple[int, ...]]

    def at(self, factor: str, value: int, same: Same = "samples") -> Setting:
        """The base with another value of one factor.

        Another batch either takes as many steps, and so sees fewer or more samples, or it sees as
        many samples in fewer or more steps. The learning rate stays: one change at a time.
        """
        changed = replace(self.base, **{factor: value})
        if same == "steps":
            return changed
        steps = round(self.base.steps * self.base.batch / changed.batch)
        return replace(changed, steps=max(1, steps))

    def of(self, factor: str) -> list[Setting]:
        """Every setting of a factor once, values ascending, the base's among them."""
        values = self.values[factor]
        return list(
            dict.fromkeys(self.at(factor, value, same) for value in values for same in SAME)
        )

    def settings(self) -> list[Setting]:
        """Every setting once, the base first."""
        return list(dict.fromkeys([self.base, *(s for factor in FACTORS for s in self.of(factor))]))


def grid(run: Run, depth: int) -> Grid:
    """The grid of a run, before an LLM of `depth` layers.

    The mini profile's has a base of its own; other profiles have the paper's values and their own
    steps. The LLM is compared with its first third. Values that were asked for take the place of a
    factor's; the base's is always among them, so that another value costs no other run.

    Raises:
        ConfigError: more layers of the LLM than it has.
    """
    mini = run.profile.name == "mini"
    known = {**(_MINI if mini else _PAPER), "llm_layers": (depth, max(1, depth // 3))}
    base = {factor: values[0] for factor, values in known.items()}
    steps = _MINI_STEPS if mini else run.profile.modality("image").align.steps
    values = {
        factor: tuple(sorted({base[factor], *run.asked.get(factor.upper(), known[factor])}))
        for factor in FACTORS
    }
    if max(values["llm_layers"]) > depth:
        raise ConfigError(
            "LLM_LAYERS",
            expected=f"at most the {depth} layers of this LLM",
            got=str(max(values["llm_layers"])),
            do="Name smaller numbers; the whole LLM is always among them.",
        )
    return Grid(Setting(**base, steps=run.asked.get("STEPS", steps)), values)
