"""Adapter training: the frozen LLM reads modality tokens and must say the caption.

Only the adapter learns (paper, section 3.1). The run is a function of its seed: data order,
phrasing, instruction and augmentation of a step depend on the seed and the step alone, so a run
that was interrupted and resumed ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from anymal_lib.bank import Bank, augmented, encode_aligned
from anymal_lib.compiled import compiled_layers, repays
from anymal_lib.contrastive import warm_cosine
from anymal_lib.errors import DataError
from anymal_lib.machine import keep_freed_memory
from anymal_lib.model import AnyMAL
from anymal_lib.progress import Progress
from anymal_lib.prompt import render
from anymal_lib.seeds import generator_for
from anymal_lib.specs import TrainSpec

log = logging.getLogger(__name__)
logging.getLogger("accelerate").setLevel(logging.WARNING)  # it tells of every file it saves


@dataclass(frozen=True)
class Sample:
    """One training sample: which row, which of its captions, at which step."""

    row: int
    caption: str
    step: int


class Samples(Dataset[Sample]):
    """All samples of a run in order; position k is a function of (seed, k).

    Batches are drawn without regard to length: batches of like length padded less, but held like
    phrasings, and the mini adapters learned worse in the same time.
    """

    def __init__(self, bank: Bank, spec: TrainSpec, seed: int) -> None:
        bank.require_captions()
        self.bank, self.spec, self.seed = bank, spec, seed

    def __len__(self) -> int:
        return self.spec.samples

    def __getitem__(self, position: int) -> Sample:
        row = self.bank.drawn(self.seed, position)
        captions = self.bank.rows[row].text
        draw = generator_for(self.seed, "caption", position)
        caption = captions[int(torch.randint(len(captions), (), generator=draw))]
        return Sample(row, caption, position // self.spec.batch)


@dataclass(frozen=True)
class StepReport:
    """One line of curve.jsonl. `seconds` counts training time since the first step."""

    step: int
    loss: float
    lr: float
    samples: int
    seconds: float


def final_loss(curve: Sequence[StepReport], steps: int | None = None) -> float:
    """Mean loss of the last tenth of the steps, of so many planned ones or those of the curve."""
    last = curve[-max(1, (steps or len(curve)) // 10) :]
    return sum(point.loss for point in last) / len(last)


def train_adapter(
    model: AnyMAL,
    modality: str,
    bank: Bank,
    spec: TrainSpec,
    *,
    seed: int,
    folder: Path,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> list[StepReport]:
    """Train `model.adapters[modality]` on captions; returns the loss curve (see `run_steps`)."""
    trainer = AdapterTrainer(model, modality, bank, spec, seed)
    curve = run_steps(
        trainer,
        Samples(bank, spec, seed),
        folder=folder,
        depends_on=[
            asdict(model.spec(modality)),
            seed,
            bank.identity(),
            model.encoders[modality].checksum(),
        ],
        on_step=on_step,
    )
    model.adapters[modality].eval()
    return curve


def run_steps(
    trainer: Trainer,
    samples: Dataset[Any],
    *,
    folder: Path,
    depends_on: Sequence[Any],
    enough: float | None = None,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> list[StepReport]:
    """Train on all samples in order; returns the loss curve.

    Writes `curve.jsonl` and, every `spec.checkpoint_every` steps, a checkpoint below `folder`; a
    run with the same settings continues from it. `depends_on` holds the settings that are not the
    model's or the spec's. From the middle of the run on it ends where the mean loss of a tenth of
    its steps is at most `enough`. Raises `DataError` when the loss is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spec = trainer.spec
    checkpoints = Checkpoints(folder, _fingerprint(trainer, depends_on))
    curve = checkpoints.resume(trainer.accelerator)
    remaining = Subset(samples, range(len(curve) * spec.batch, spec.samples))
    loader = DataLoader(remaining, batch_size=spec.batch, collate_fn=list)
    started = time.perf_counter() - (curve[-1].seconds if curve else 0.0)
    progress = Progress(trainer.name, spec.steps, "steps", done=len(curve))
    with trainer.compiled(), progress, (folder / "curve.jsonl").open("a") as file:
        for batch in trainer.accelerator.prepare(loader):
            if _has_learned(curve, spec, enough):
                log.info("%s: learned after %d steps", trainer.name, len(curve))
                break
            lr, step = trainer.learning_rate, len(curve) + 1
            loss = trainer.step(batch)
            seconds = time.perf_counter() - started
            report = StepReport(step, loss, lr, step * spec.batch, round(seconds, 3))
            curve.append(report)
            file.write(json.dumps(asdict(report)) + "\n")
            file.flush()
            progress(step, note=f"loss {loss:.3f}")
            on_step(report)
            if step % spec.checkpoint_every == 0 and step < spec.steps:
                checkpoints.save(trainer.accelerator, step)
    checkpoints.clear()
    return curve


def _has_learned(curve: Sequence[StepReport], spec: TrainSpec, enough: float | None) -> bool:
    """Whether a run may end before its last step."""
    half_done = 2 * len(curve) >= spec.steps
    return enough is not None and half_done and final_loss(curve, spec.steps) <= enough


class Trainer(ABC):
    """What learns, its optimizer and schedule; `step` learns from one batch.

    A subclass says how a batch is cut into equal micro-batches and what the loss of one is.
    """

    def __init__(self, model: AnyMAL, name: str, learned: nn.Module, spec: TrainSpec) -> None:
        self.model, self.name, self.spec = model, name, spec
        self.switches = model.profile.step
        self.micro_batch = min(spec.micro_batch or spec.batch, spec.batch)
        while spec.batch % self.micro_batch:  # equal parts, or their mean is not the batch's
            self.micro_batch -= 1
        parts = GradientAccumulationPlugin(
            num_steps=spec.batch // self.micro_batch, sync_with_dataloader=False
        )
        self.accelerator = Accelerator(
            gradient_accumulation_plugin=parts, cpu=model.llm.device.type == "cpu"
        )
        optimizer = torch.optim.AdamW(
            learned.parameters(),
            lr=spec.learning_rate,
            weight_decay=spec.weight_decay,
            fused=True,  # one pass through memory instead of one an operation
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(warm_cosine, spec=spec))
        self.learned, self.optimizer, self.schedule = self.accelerator.prepare(
            learned.train(), optimizer, schedule
        )
        if self.switches.keep_memory:
            keep_freed_memory()

    @abstractmethod
    def parts(self, samples: Sequence[Any]) -> Iterator[Any]:
        """A batch as micro-batches of `self.micro_batch` samples."""

    @abstractmethod
    def loss(self, part: Any) -> Tensor:
        """Mean loss of a micro-batch's samples."""

    @property
    @abstractmethod
    def tokens(self) -> int:
        """About how many positions of a sample enter the backward pass."""

    @property
    def samples(self) -> int:
        """How many samples are learned from by the layers that this run would compile."""
        return self.spec.samples

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return self.optimizer.param_groups[0]["lr"]

    def compiled(self) -> AbstractContextManager[None]:
        """The LLM's layers compiled, where the profile says so or the planned steps repay it."""
        wanted = self.switches.compile
        if wanted is None:
            wanted = repays(self.model.llm, self.samples, self.tokens)
        return compiled_layers(self.model.llm) if wanted else nullcontext()

    def step(self, samples: Sequence[Any]) -> float:
        """One optimizer step on a batch; returns its loss."""
        total = 0.0
        for part in self.parts(samples):
            with self.accelerator.accumulate(self.learned):
                loss = self.loss(part)
                self.accelerator.backward(loss)
                total += loss.item() / self.accelerator.gradient_accumulation_steps
                _check_finite(total, self.name, samples[0].step + 1)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.learned.parameters(), self.spec.grad_clip)
                self.optimizer.step()
                self.schedule.step()
                self.optimizer.zero_grad()
        return total


class AdapterTrainer(Trainer):
    """Trains the adapter of one modality on captions."""

    def __init__(
        self, model: AnyMAL, modality: str, bank: Bank, spec: TrainSpec, seed: int
    ) -> None:
        super().__init__(model, f"{modality} alignment", model.adapters[modality], spec)
        self.modality, self.bank, self.seed = modality, bank, seed

    @property
    def tokens(self) -> int:
        """Modality tokens, and a caption of the longest kind."""
        spec = self.model.spec(self.modality)
        return spec.adapter.tokens + spec.max_new_tokens

    def parts(self, samples: Sequence[Sample]) -> Iterator[list[tuple[Sample, Tensor]]]:
        """Samples with their features, similar lengths together: the order in a batch is free."""
        pairs = list(zip(samples, self._inputs(samples), strict=True))
        if self.switches.sort_micro_batches:
            pairs.sort(key=lambda pair: len(self.model.llm.tokenize(pair[0].caption)))
        for start in range(0, len(pairs), self.micro_batch):
            yield pairs[start : start + self.micro_batch]

    def _inputs(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Intermediate features of a whole step, so that micro-batches draw what it would."""
        encoder = self.model.encoders[self.modality]
        generator = generator_for(self.seed, "augment", samples[0].step)
        return augmented(encoder, [self.bank.intermediate[s.row] for s in samples], generator)

    def loss(self, part: list[tuple[Sample, Tensor]]) -> Tensor:
        """Captions under one instruction for the whole step: all prompts begin alike."""
        samples, inputs = zip(*part, strict=True)
        instructions = self.model.spec(self.modality).instructions
        generator = generator_for(self.seed, "prompt", samples[0].step)
        draw = int(torch.randint(len(instructions), (), generator=generator))
        place = object()  # the item itself is in the bank already
        prompts = [
            render(
                self.model.llm,
                [instructions[draw] + " ", place],
                system=self.model.profile.system,
                response=sample.caption,
            )
            for sample in samples
        ]
        with torch.no_grad():
            features = encode_aligned(self.model.encoders[self.modality], inputs)
        return self.model.response_loss(prompts, list(self.learned(features)))


def _check_finite(loss: float, name: str, step: int) -> None:
    """Stop before a damaged gradient reaches what learns."""
    if math.isfinite(loss):
        return
    raise DataError(
        f"{name}, step {step}",
        expected="a finite loss",
        got=str(loss),
        do="Lower the learning rate, or look for damaged samples; the last checkpoint is kept.",
    )


def _fingerprint(trainer: Trainer, depends_on: Sequence[Any]) -> str:
    """Everything that a training run depends on; another value starts anew."""
    model = trainer.model
    facts = [
        trainer.name,
        asdict(trainer.spec),
        asdict(trainer.switches),
        asdict(model.llm.identity),
        model.llm.bits,
        model.llm.dtype,
        model.profile.system,
        *depends_on,
    ]
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()


class Checkpoints:
    """What learned, optimizer, schedule and random states in `folder`; complete or not there."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self.fingerprint = fingerprint

    def save(self, accelerator: Accelerator, step: int) -> None:
        """Write the state after `step`, then drop the older one."""
        target = self.folder / f"checkpoint-{step:07d}"
        partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
        accelerator.save_state(str(partial), safe_serialization=True)
        (partial / "run.json").write_text(
            json.dumps({"step": step, "fingerprint": self.fingerprint})
        )
        partial.rename(target)
        for other in self._all():
            if other != target:
                self._remove(other)

    def resume(self, accelerator: Accelerator) -> list[StepReport]:
        """Load the last state of the same run; returns the curve so far (empty: a fresh start)."""
        path = self.folder / "curve.jsonl"
        for checkpoint in reversed(self._all()):
            run = json.loads((checkpoint / "run.json").read_text())
            if run["fingerprint"] != self.fingerprint or not path.is_file():
                continue
            lines = path.read_text().splitlines()[: run["step"]]
            accelerator.load_state(str(checkpoint))
            path.write_text("".join(line + "\n" for line in lines))
            log.info("Resuming after step %d.", run["step"])
            return [StepReport(**json.loads(line)) for line in lines]
        self.clear()
        path.unlink(missing_ok=True)
        return []

    def clear(self) -> None:
        """Remove all checkpoints, half-written ones included."""
        for checkpoint in self.folder.glob("checkpoint-*"):
            self._remove(checkpoint)

    def _remove(self, checkpoint: Path) -> None:
        """Delete a checkpoint so that a half-deleted one is never taken for whole."""
        doomed = checkpoint.with_name(f"{checkpoint.name}.partial-removed")
        shutil.rmtree(doomed, ignore_errors=True)
        checkpoint.rename(doomed)
        shutil.rmtree(doomed)

    def _all(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("checkpoint-*") if "partial" not in p.name)
