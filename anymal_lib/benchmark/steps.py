"""One training step in four ways, on exactly the same tokens.

- bare: the LLM's forward and activation backward, head and loss on the caption alone. No adapter,
  no data, no optimizer. Everything else is measured against it.
- ours: a whole step of `anymal_lib.train`, data, adapter and optimizer included.
- transformers: `model(inputs_embeds, attention_mask, labels)` with the same adapter and optimizer.
- usual: the same in fp32, padded to a fixed length, as most kits train.

Shape letters: b batch, t positions, w width of the LLM, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from anymal_lib.bank import Bank
from anymal_lib.benchmark.timing import Step
from anymal_lib.config import MINI
from anymal_lib.encoders import Encoder, Features
from anymal_lib.llm import FrozenLLM
from anymal_lib.manifest import Row
from anymal_lib.model import AnyMAL
from anymal_lib.prompt import Prompt, render, splice, split_prefix
from anymal_lib.specs import AdapterSpec, StepSpec, TrainSpec
from anymal_lib.train import AdapterTrainer, Samples

PADDED = 128  # positions that the usual recipe pads to
_EMBEDDING = 384  # width of the pretended encoder's embedding, as MiniLM's
_ROWS = 256
_MODALITY = "imu"
# Instruction, items, response and nothing else: the number of tokens is then what is asked for.
_TEMPLATE = "{{ messages[-1]['content'] }}"


@dataclass(frozen=True)
class Work:
    """The tokens of one step. `spread` draws captions of `caption` +- `spread` tokens."""

    batch: int = 16
    instruction: int = 20
    modality: int = 16
    caption: int = 8  # the end of the turn included
    spread: int = 0
    micro_batch: int | None = None

    @property
    def length(self) -> int:
        """Positions of a whole sample."""
        return self.instruction + self.modality + self.caption


class Embeddings(Encoder):
    """An encoder whose inputs are embeddings already: the benchmark is of what comes after."""

    modality = _MODALITY
    sequence_width = pooled_width = _EMBEDDING

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("place", torch.empty(0))  # tells which device it is moved to

    def prepare(self, item: Any) -> Tensor:
        """Not used: the bank holds the embeddings."""
        raise NotImplementedError

    def frozen(self, batch: Tensor) -> Tensor:
        """As they are."""
        return batch

    def aligned(self, intermediate: Tensor) -> Features:
        """(b, e) -> Features with a sequence of one."""
        pooled = F.normalize(intermediate, dim=-1)
        return Features(pooled[:, None], pooled)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Not used."""
        raise NotImplementedError


class Bench:
    """An LLM before one kind of work, and its training step in every way."""

    def __init__(
        self,
        llm: FrozenLLM,
        work: Work,
        switches: StepSpec | None = None,
        adapter: AdapterSpec | None = None,
    ) -> None:
        self.llm, self.work = llm, work
        llm.tokenizer.chat_template = _TEMPLATE
        spec = replace(
            MINI.modality(_MODALITY),
            adapter=adapter or AdapterSpec(kind="linear", tokens=work.modality),
            align=TrainSpec(work.batch, 1e-3, steps=10_000, micro_batch=work.micro_batch),
            instructions=(_words(llm, work.instruction - 1),),  # a space follows
        )
        switches = switches or StepSpec(compile=False)
        profile = replace(MINI, modalities={_MODALITY: spec}, step=switches, system="")
        self.model = AnyMAL(llm, profile)
        self.adapter = self.model.add(_MODALITY, Embeddings())
        generator = torch.Generator().manual_seed(0)
        draw = torch.randint(-work.spread, work.spread + 1, (_ROWS,), generator=generator)
        rows = [
            Row(str(k), "train", _MODALITY, Path(), text=(_words(llm, work.caption - 1 + n),))
            for k, n in enumerate(draw.tolist())
        ]
        features = torch.randn(_ROWS, _EMBEDDING, generator=generator)
        self.bank = Bank(rows, list(features), [])

    def ours(self) -> Step:
        """A whole training step of this kit."""
        spec = self.model.spec(_MODALITY).align
        trainer = AdapterTrainer(self.model, _MODALITY, self.bank, spec, seed=0)
        samples, first = Samples(self.bank, spec, seed=0), count(step=spec.batch)

        def step() -> None:
            start = next(first)
            trainer.step([samples[start + k] for k in range(spec.batch)])

        return step

    def llm_alone(self) -> Step:
        """What of our step is the LLM's: body and head, forward and backward."""
        prompts = self.prompts()
        tokens = list(self.tokens().detach())
        texts, rest = zip(*map(split_prefix, prompts), strict=True)
        batch = splice(self.llm, rest, tokens, pad_left=False)
        embeddings = batch.embeddings.detach().requires_grad_()
        gradient = torch.randn(
            len(batch.rows), self.llm.model.config.vocab_size, device=self.llm.device
        )

        def step() -> None:
            hidden = self.llm.hidden(embeddings, prefix=self.llm.remember(texts)).flatten(0, 1)
            self.llm.logits(hidden[batch.rows]).backward(gradient)
            embeddings.grad = None

        return step

    def bare(self) -> Step:
        """The LLM's forward and activation backward over every position; loss on the caption."""
        work, llm = self.work, self.llm
        shape = (work.batch, work.length, llm.width)
        embeddings = torch.randn(shape, dtype=llm.dtype, device=llm.device) * llm.embedding_rms
        embeddings.requires_grad_()
        targets = self._ids()[:, -work.caption :].flatten()

        def step() -> None:
            hidden = llm.hidden(embeddings)[:, -work.caption - 1 : -1]
            F.cross_entropy(llm.logits(hidden.flatten(0, 1)), targets).backward()
            embeddings.grad = None

        return step

    def transformers(self, *, length: int | None = None) -> Step:
        """The library's own loss, every position's logits, padded to `length` if given."""
        work, llm = self.work, self.llm
        ids = self._ids()
        labels = ids.clone()
        labels[:, : -work.caption] = -100
        before, after = ids[:, : work.instruction], ids[:, work.instruction + work.modality :]
        padding = (length or work.length) - work.length
        labels = F.pad(labels, (0, padding), value=-100)
        mask = F.pad(torch.ones_like(ids), (0, padding))
        optimizer = torch.optim.AdamW(self.adapter.parameters(), lr=1e-3, fused=True)

        def step() -> None:
            tokens = self.tokens().to(llm.dtype)
            embeddings = torch.cat([llm.embed(before), tokens, llm.embed(after)], dim=1)
            embeddings = F.pad(embeddings, (0, 0, 0, padding))
            loss = llm.model(inputs_embeds=embeddings, attention_mask=mask, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return step

    def floating_point_operations(self) -> float:
        """Of the matrix products that our step needs: body and head, forward and backward."""
        work, model = self.work, self.llm.model
        body = sum(p.numel() for p in model.base_model.layers.parameters() if p.ndim > 1)
        head = model.get_output_embeddings().weight.numel()
        positions = work.modality + work.caption - 1
        return 4.0 * work.batch * (body * positions + head * work.caption)

    def tokens(self) -> Tensor:
        """The adapter's tokens of the first batch, (b, q, w)."""
        index = range(self.work.batch)
        return self.adapter(self.bank.features(self.model.encoders[_MODALITY], index))

    def prompts(self, *, answered: bool = True) -> list[Prompt]:
        """The prompts of the first batch, with their captions as responses or without."""
        parts = [self.model.spec(_MODALITY).instructions[0] + " ", object()]
        captions = [self.bank.rows[k].text[0] for k in range(self.work.batch)]
        return [
            render(self.llm, parts, response=caption if answered else None) for caption in captions
        ]

    def _ids(self) -> Tensor:
        """Token ids of every position, (b, t), any token in the places of the modality's."""
        rows = [[*p.pieces[0], *[0] * self.work.modality, *p.response] for p in self.prompts()]
        return torch.tensor(rows, device=self.llm.device)


def _words(llm: FrozenLLM, count: int) -> str:
    """A text of exactly `count` tokens."""
    text = " ".join(["red"] * count)
    if len(llm.tokenize(text)) != count:
        raise ValueError(f"'red' is not one token of {llm.identity.source}")
    return text
