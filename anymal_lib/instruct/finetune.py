"""Fine-tuning on multimodal instructions: adapters alone, or with LoRA on the LLM (section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from anymal_lib.checksums import weights_checksum
from anymal_lib.instruct.examples import TEXT, Example
from anymal_lib.instruct.media import Media, prompt_of
from anymal_lib.instruct.mixture import Drawn, Mixture
from anymal_lib.lora import add_lora, freeze_lora, has_lora, lora_parameters, unfreeze_lora
from anymal_lib.model import AnyMAL
from anymal_lib.seeds import generator_for
from anymal_lib.specs import TrainSpec
from anymal_lib.train import StepReport, Trainer, run_steps

Inputs = list[Tensor]  # of an example's items, as `Media.inputs` gives them

_ANSWER_TOKENS = 12  # a question's end, its answer, a share of its beginning: for a step's work


class InstructionTrainer(Trainer):
    """Trains all adapters, and the LoRA weights where the LLM has any that learn.

    Without `adapters` these alone. `beside` is the run that goes before or after it: layers that
    are compiled for one are there for the other.
    """

    def __init__(
        self,
        model: AnyMAL,
        media: Media,
        spec: TrainSpec,
        seed: int,
        *,
        adapters: bool = True,
        beside: TrainSpec | None = None,
        name: str = "instruction tuning",
    ) -> None:
        learned = nn.ModuleDict({"adapters": model.adapters} if adapters else {})
        if model.llm.learns:
            # Their own names hold dots, which parameters of a module may not.
            learned["lora"] = nn.ParameterList(lora_parameters(model.llm).values())
        super().__init__(model, name, learned, spec)
        self.media, self.seed, self.adapters_learn, self.beside = media, seed, adapters, beside
        self.adapters = self.learned["adapters"] if adapters else model.adapters.eval()

    @property
    def tokens(self) -> int:
        """Modality tokens of one item, and a short answer."""
        specs = self.model.profile.modalities.values()
        return max(spec.adapter.tokens for spec in specs) + _ANSWER_TOKENS

    @property
    def samples(self) -> int:
        """The run's, and those of the one beside it."""
        return super().samples + (self.beside.samples if self.beside else 0)

    def parts(self, samples: Sequence[Drawn]) -> Iterator[list[tuple[Example, Inputs]]]:
        """Examples with their items' inputs; neighbours stay together: they ask the same question.

        Inputs are those of the whole step, so that micro-batches draw what it would.
        """
        examples = [drawn.example for drawn in samples]
        step = samples[0].step
        inputs = iter(
            self.media.inputs(
                self.model,
                [item for example in examples for item in example.items],
                lambda modality: generator_for(self.seed, f"augment {modality}", step),
            )
        )
        pairs = [(example, [next(inputs) for _ in example.items]) for example in examples]
        for start in range(0, len(pairs), self.micro_batch):
            yield pairs[start : start + self.micro_batch]

    def loss(self, part: Sequence[tuple[Example, Inputs]]) -> Tensor:
        """Negative log-likelihood of the answers, mean over the examples."""
        items = [item for example, _ in part for item in example.items]
        inputs = [tensor for _, own in part for tensor in own]
        with torch.set_grad_enabled(self.adapters_learn):
            tokens = self.media.tokens(self.model, self.adapters, items, inputs)
        prompts = [prompt_of(self.model, example, learn=True) for example, _ in part]
        return self.model.response_loss(prompts, tokens)


def finetune(
    model: AnyMAL,
    media: Media,
    parts: Mapping[str, Sequence[Example]],
    spec: TrainSpec,
    *,
    lora: bool,
    seed: int,
    folder: Path,
    enough: float | None = None,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> list[StepReport]:
    """Train the model's adapters, with `lora` also LoRA on its LLM; returns the loss curve.

    Beside LoRA adapters may stay as they are (`FinetuneSpec.adapters_learn`). Where the LLM has no
    LoRA yet, it gets the profile's; LoRA that it has goes on learning, or without `lora` stays as
    it is. See `run_steps` for files, errors and what is `enough`.
    """
    recipe = model.profile.finetuning
    if lora and not has_lora(model.llm):
        add_lora(model.llm, recipe.lora, seed=seed)
    (unfreeze_lora if lora else freeze_lora)(model.llm)
    if not lora:  # the LLM stays as it is: without an item nothing learns
        recipe = replace(recipe, item_dropout={})
        parts = {name: list(filter(_senses, examples)) for name, examples in parts.items()}
    mixture = Mixture(parts, recipe, spec, seed)
    senses = any(_senses(example) for examples in mixture.parts.values() for example in examples)
    adapters = senses and (recipe.adapters_learn or not lora)
    trainer = InstructionTrainer(
        model,
        media,
        spec,
        seed,
        adapters=adapters,
        beside=(recipe.comparisons if senses else recipe.lora_train) if lora else None,
        name="instruction tuning" if senses else "instruction tuning on text",
    )
    depends_on = [
        asdict(recipe),
        lora,
        seed,
        {name: bank.identity() for name, bank in media.banks.items()},
        mixture.parts,
        weights_checksum(trainer.learned.state_dict()),
        weights_checksum(model.adapters.state_dict()),
    ]
    curve = run_steps(
        trainer, mixture, folder=folder, depends_on=depends_on, enough=enough, on_step=on_step
    )
    model.adapters.eval()
    freeze_lora(model.llm)
    return curve


def _senses(example: Example) -> bool:
    """Is there an item that an adapter reads?"""
    return any(item.modality != TEXT for item in example.items)
