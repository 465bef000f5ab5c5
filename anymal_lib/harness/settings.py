"""What lmms-eval passes on, checked: the model's arguments, and how a task wants its answers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anymal_lib.config import PROFILES
from anymal_lib.errors import ConfigError
from anymal_lib.machine import default_device
from anymal_lib.model import AnyMAL

_ARGUMENTS = ("pretrained", "bits", "batch_size", "device")


@dataclass(frozen=True)
class Arguments:
    """What `--model_args` and `--batch_size` say.

    Attributes:
        pretrained: a folder written by save_pretrained, a profile's name (its adapters are fresh:
            they know nothing), or a repository on the hub.
        bits: precision of the LLM; None is the profile's.
        batch_size: prompts a batch; None ("auto") is the profile's `eval_batch`.
    """

    pretrained: str
    bits: int | None = None
    batch_size: int | None = None


def read_arguments(given: Mapping[str, Any]) -> Arguments:
    """Check the model's arguments; `ConfigError` for an unknown name or a wrong value."""
    for name in sorted(given.keys() - set(_ARGUMENTS)):
        raise _refused(name, f"one of {sorted(_ARGUMENTS)}", name, "Remove it from --model_args.")
    if not given.get("pretrained"):
        do = "Set --model_args pretrained=outputs/mini/02_align_image/adapter, for example."
        raise _refused("pretrained", "a saved model or a profile's name", "nothing", do)
    if given.get("device") not in (None, default_device()):
        do = "Leave --device out; CUDA_VISIBLE_DEVICES chooses among GPUs."
        raise _refused("device", f"{default_device()}, where AnyMAL runs", given["device"], do)
    batch = given.get("batch_size")
    return Arguments(
        str(given["pretrained"]),
        None if given.get("bits") is None else _whole("bits", given["bits"]),
        None if batch in (None, "auto") else _whole("batch_size", batch),
    )


def load_model(arguments: Arguments) -> AnyMAL:
    """The model that the arguments name; a folder comes before a profile of the same name.

    Raises:
        AnyMALError: no such model, or several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "WORLD_SIZE",
            expected="one process",
            got=os.environ["WORLD_SIZE"],
            do="Start python -m lmms_eval without accelerate launch or torchrun.",
        )
    name = arguments.pretrained
    if name in PROFILES and not Path(name).is_dir():
        return AnyMAL.from_profile(name, bits=arguments.bits)
    return AnyMAL.from_pretrained(name, bits=arguments.bits)


@dataclass(frozen=True)
class Generation:
    """How answers are generated, always greedily.

    Attributes:
        max_new_tokens: of an answer; the default is for tasks that do not say (ours).
        until: an answer ends before the first of these.
    """

    max_new_tokens: int = 128
    until: tuple[str, ...] = ()

    def cut(self, answer: str) -> str:
        """The answer up to the first of the `until`, wherever one occurs."""
        return answer[: min((answer.find(s) for s in self.until if s in answer), default=None)]


def read_generation(given: Mapping[str, Any]) -> Generation:
    """A task's `generation_kwargs`; what only matters to sampling is left aside.

    Raises:
        ConfigError: it asks for sampling or beams, or one of its values has another type.
    """
    temperature, beams = given.get("temperature"), given.get("num_beams")
    sample = given.get("do_sample", bool(temperature))  # without a word on it, a temperature is one
    if sample or (beams or 1) != 1:
        got = f"do_sample={sample}, temperature={temperature}, num_beams={beams}"
        do = "Set --gen_kwargs temperature=0,do_sample=False,num_beams=1 to answer greedily."
        raise _refused("generation_kwargs", "greedy answers", got, do)
    until = given.get("until") or ()
    until = (until,) if isinstance(until, str) else tuple(until)
    if not all(isinstance(stop, str) for stop in until):
        raise _refused("until", "a text or a list of texts", until, "Correct the task.")
    tokens = given.get("max_new_tokens")
    length = Generation.max_new_tokens if tokens is None else _whole("max_new_tokens", tokens)
    return Generation(length, tuple(filter(None, until)))


def _whole(name: str, value: Any) -> int:
    try:
        number = int(value)
        if number >= 1 and number == float(value):
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise _refused(name, "a whole number above 0", value, "Correct it, or leave it out.")


def _refused(name: str, expected: str, got: Any, do: str) -> ConfigError:
    return ConfigError(f"lmms-eval's {name}", expected=expected, got=str(got), do=do)
