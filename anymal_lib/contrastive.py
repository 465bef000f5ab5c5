"""Alignment of an encoder to the frozen text tower: symmetric InfoNCE, and what it reached.

The paper demands encoders that are already aligned to text. The mini profile's are aligned here,
as IMU2CLIP does it (arXiv 2210.14395).

Shape letters: b batch, c captions, e embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from anymal_lib.bank import Bank
from anymal_lib.encoders import Encoder
from anymal_lib.machine import keep_freed_memory
from anymal_lib.manifest import Row
from anymal_lib.seeds import epoch_order, generator_for
from anymal_lib.specs import TrainSpec

_TEMPERATURE = 0.1  # at the start; learned (IMU2CLIP)
_AVERAGED = 1 / 6  # of the steps: the memory of the weight average that is kept (ours)
_COMPARED = 1024  # captions that a step compares its items with, where there are as many (ours)


def info_nce(items: Tensor, texts: Tensor, positives: Tensor, logit_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of unit embeddings (b, e) and (c, e) -> scalar.

    `positives` (b, c), True where an item and a text say the same; every item has one at least.
    Texts without one are further negatives of the items. Each row's target is uniform over its
    positives; with as many texts as items and a diagonal it is plain InfoNCE.
    """
    logits = logit_scale.exp() * items @ texts.T
    said = positives.any(0)
    return (
        _cross_entropy(logits, positives) + _cross_entropy(logits.T[said], positives.T[said])
    ) / 2


def _cross_entropy(logits: Tensor, positives: Tensor) -> Tensor:
    target = positives.float()
    return F.cross_entropy(logits, target / target.sum(1, keepdim=True))


def meaning(row: Row) -> tuple[str, ...]:
    """What a row says: its facts where it has them, else its first caption."""
    return tuple(row.facts[name] for name in sorted(row.facts)) or (row.text[0],)


def align_encoder(
    encoder: Encoder,
    bank: Bank,
    spec: TrainSpec,
    seed: int,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> list[float]:
    """Train what `encoder` leaves trainable against its text tower; returns the losses.

    The encoder is left frozen, in evaluation mode, with the average of its last weights.
    """
    trainable = [p for p in encoder.parameters() if p.requires_grad]
    device = encoder.device
    logit_scale = torch.nn.Parameter(torch.tensor(math.log(1 / _TEMPERATURE), device=device))
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trainable if p.ndim > 1], "weight_decay": spec.weight_decay},
            {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
            {"params": [logit_scale], "weight_decay": 0.0, "lr": 10 * spec.learning_rate},
        ],
        lr=spec.learning_rate,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, spec))
    bank.require_captions()
    texts = _Texts(bank)
    average = deepcopy(encoder.trained_state())
    losses = []
    batch = min(spec.batch, len(bank))
    keep_freed_memory()
    encoder.train()
    torch.manual_seed(seed)  # dropout
    for step in range(spec.steps):
        generator = generator_for(seed, "encoder", step)
        index = [epoch_order(seed, len(bank), step * batch + k) for k in range(batch)]
        pooled = bank.features(encoder, index, generator).pooled
        captions, positives = texts.draw(index, generator)
        embeddings = encoder.encode_text(captions).to(device)
        loss = info_nce(pooled, embeddings, positives.to(device), logit_scale)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, spec.grad_clip)
        optimizer.step()
        schedule.step()
        decay = min(1 - 1 / max(1, _AVERAGED * spec.steps), (step + 1) / (step + 10))
        for name, tensor in encoder.trained_state().items():
            average[name].lerp_(tensor, 1 - decay)
        losses.append(loss.item())
        on_step(step + 1, losses[-1])
    encoder.load_trained_state(average)
    encoder.eval().requires_grad_(False)
    return losses


def warm_cosine(step: int, spec: TrainSpec) -> float:
    """Share of the peak learning rate: linear warm-up, then a cosine to zero."""
    warm = max(1, round(spec.warmup * spec.steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, spec.steps - warm)))


class _Texts:
    """The meanings of a bank, and which of its captions a step compares with.

    The text tower is frozen and every caption embedded once, so a step compares with all meanings
    of the training split, not only with its own items': a small batch hardly ever holds the two
    captions that differ in one word.
    """

    def __init__(self, bank: Bank) -> None:
        phrasings: dict[tuple[str, ...], dict[str, None]] = {}
        for row in bank.rows:
            phrasings.setdefault(meaning(row), {}).update(dict.fromkeys(row.text))
        self.phrasings = [list(phrasings[m]) for m in sorted(phrasings)]
        numbers = {m: k for k, m in enumerate(sorted(phrasings))}
        self.labels = torch.tensor([numbers[meaning(row)] for row in bank.rows])

    def draw(self, index: Sequence[int], generator: torch.Generator) -> tuple[list[str], Tensor]:
        """One phrasing of each compared meaning (c), and where items (b) mean it: (b, c)."""
        labels = self.labels[list(index)]
        compared = labels.unique()
        others = torch.randperm(len(self.phrasings), generator=generator)
        others = others[~torch.isin(others, compared)][: max(0, _COMPARED - len(compared))]
        compared = torch.cat([compared, others])
        draws = torch.rand(len(compared), generator=generator).tolist()
        captions = []
        for number, draw in zip(compared.tolist(), draws, strict=True):
            choices = self.phrasings[number]
            captions.append(choices[int(draw * len(choices))])
        return captions, labels[:, None] == compared[None]


@dataclass(frozen=True)
class Retrieval:
    """How well an encoder finds the right text on held-out items (fractions 0-1)."""

    recall_at_1: float
    recall_at_5: float
    zero_shot: float | None  # None without facts: there are no classes then
    captions: int  # size of the gallery


@torch.no_grad()
def retrieval(encoder: Encoder, bank: Bank, batch: int = 256) -> Retrieval:
    """Retrieval of an item's caption among the distinct captions of the bank.

    The gallery holds each meaning's first caption once. Zero-shot classification compares with
    the mean embedding of all phrasings of a meaning.
    """
    phrasings: dict[tuple[str, ...], set[str]] = {}
    for row in bank.rows:
        phrasings.setdefault(meaning(row), set()).update(row.text)
    gallery = sorted(phrasings)
    first = {meaning(row): row.text[0] for row in reversed(bank.rows)}
    single = encoder.encode_text([first[m] for m in gallery])  # (c, e)
    mean = torch.stack([encoder.encode_text(sorted(phrasings[m])).mean(0) for m in gallery])
    pooled = bank.embeddings(encoder, batch)
    truth = torch.tensor([gallery.index(meaning(row)) for row in bank.rows])
    ranked = (pooled @ single.T).topk(min(5, len(gallery))).indices == truth[:, None]
    guessed = (pooled @ F.normalize(mean, dim=-1).T).argmax(1) == truth
    return Retrieval(
        recall_at_1=ranked[:, 0].float().mean().item(),
        recall_at_5=ranked.any(1).float().mean().item(),
        zero_shot=guessed.float().mean().item() if bank.rows[0].facts else None,
        captions=len(gallery),
    )
