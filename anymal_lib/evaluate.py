"""Captions of held-out items, and whether they rest on the input at all.

Every score stands beside three controls: a blank input, the features of another item, and a
prompt without any modality tokens. A captioner can look fine and be blind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anymal_lib.bank import Bank, encode_aligned, encode_frozen
from anymal_lib.contrastive import meaning
from anymal_lib.encoders import Features
from anymal_lib.metrics.captions import cider_d, rouge_l
from anymal_lib.metrics.facts import facts_right, is_reference
from anymal_lib.metrics.intervals import Interval, bootstrap
from anymal_lib.modalities import MODALITIES
from anymal_lib.model import AnyMAL
from anymal_lib.prompt import Prompt, render
from anymal_lib.seeds import generator_for

CONTROLS = ("clean", "blank", "shuffled", "removed")


@dataclass(frozen=True)
class CaptionReport:
    """Scores of one modality on held-out items (fractions 0-1; CIDEr-D up to 10).

    `grounding_score` names what `grounding` counts: exact match where rows state facts, else
    ROUGE-L, because free captions hardly ever match word for word.
    """

    captions: list[str]
    right: list[bool]  # which captions state every fact (or, without facts, equal a reference)
    exact_match: Interval
    attributes: dict[str, float]
    cider_d: float | None
    rouge_l: float
    grounding: dict[str, Interval]
    grounding_score: str

    @property
    def attribute_accuracy(self) -> float | None:
        """Mean accuracy over the facts; None without facts."""
        if not self.attributes:
            return None
        return sum(self.attributes.values()) / len(self.attributes)


def evaluate_captions(
    model: AnyMAL,
    modality: str,
    bank: Bank,
    fact_values: dict[str, list[str]],
    *,
    seed: int = 0,
    controls: tuple[str, ...] = CONTROLS,
) -> CaptionReport:
    """Caption every row of `bank` greedily, with its input and under each control."""
    bank.require_captions()
    clean = captions(model, modality, bank)
    said = {"clean": clean}
    for control in controls:
        if control == "shuffled":
            said[control] = _of_partners(clean, bank, seed)
        elif control != "clean":
            said[control] = captions(model, modality, bank, control)
    has_facts = all(row.facts for row in bank.rows)
    truth = [row.text for row in bank.rows]
    per_fact = [
        facts_right(caption, row.facts, fact_values)
        for caption, row in zip(clean, bank.rows, strict=True)
    ]
    exact = {control: _exact(texts, bank, fact_values) for control, texts in said.items()}
    return CaptionReport(
        captions=clean,
        right=[score == 1 for score in exact["clean"]],
        exact_match=bootstrap(exact["clean"], seed),
        attributes={
            name: float(np.mean([facts[name] for facts in per_fact if name in facts]))
            for name in (sorted(fact_values) if has_facts else ())
        },
        cider_d=cider_d(clean, truth),
        rouge_l=float(rouge_l(clean, truth).mean()),
        grounding={
            control: bootstrap(exact[control] if has_facts else rouge_l(texts, truth), seed)
            for control, texts in said.items()
        },
        grounding_score="exact_match" if has_facts else "rouge_l",
    )


def _exact(texts: list[str], bank: Bank, fact_values: dict[str, list[str]]) -> list[float]:
    """1 where a caption has every fact right (or, without facts, equals a reference)."""
    return [
        float(
            all(facts_right(text, row.facts, fact_values).values())
            if row.facts
            else is_reference(text, row.text)
        )
        for text, row in zip(texts, bank.rows, strict=True)
    ]


def exact_captions(
    model: AnyMAL, modality: str, bank: Bank, fact_values: dict[str, list[str]]
) -> float:
    """The share of rows whose greedy caption has every fact right."""
    return float(np.mean(_exact(captions(model, modality, bank), bank, fact_values)))


def captions(
    model: AnyMAL, modality: str, bank: Bank, control: str = "clean", seed: int = 0
) -> list[str]:
    """Greedy captions of all rows under the first instruction, the input as `control` says."""
    if control == "shuffled":
        return _of_partners(captions(model, modality, bank), bank, seed)
    spec = model.spec(modality)
    parts: list[Any] = [spec.instructions[0] + " "]
    if control != "removed":
        parts.append(object())  # the item's place; its tokens are computed below
    prompt = render(model.llm, parts, system=model.profile.system)
    if control in ("blank", "removed"):  # the same prompt for every row: one answer
        tokens = [] if control == "removed" else [blank_tokens(model, modality)]
        answer = model.respond([prompt], tokens, max_new_tokens=spec.max_new_tokens)
        return answer * len(bank)
    tokens = list(modality_tokens(model, modality, bank))
    return model.respond([prompt] * len(bank), tokens, max_new_tokens=spec.max_new_tokens)


def respond_once(
    model: AnyMAL,
    prompts: Sequence[Prompt],
    spans: Sequence[Sequence[Tensor]],
    max_new_tokens: int,
) -> list[str]:
    """Greedy responses to prompts with the modality tokens of each, (q, w) an item.

    Prompts that are the same, with the same tensors, are answered once.
    """
    keys = [(prompt, *map(id, own)) for prompt, own in zip(prompts, spans, strict=True)]
    first = {key: k for k, key in reversed(list(enumerate(keys)))}
    chosen = sorted(first.values())
    tokens = [span for k in chosen for span in spans[k]]
    texts = model.respond([prompts[k] for k in chosen], tokens, max_new_tokens=max_new_tokens)
    found = dict(zip(chosen, texts, strict=True))
    return [found[first[key]] for key in keys]


def _of_partners(clean: list[str], bank: Bank, seed: int) -> list[str]:
    """What the model says with another row's features: exactly what it said of that row.

    The prompt is the same and greedy decoding a function of the tokens, so nothing is generated
    twice.
    """
    return [clean[k] for k in derangement(bank, seed)]


@torch.inference_mode()
def modality_tokens(model: AnyMAL, modality: str, bank: Bank) -> Tensor:
    """The adapter's tokens of every row: (rows, q, w)."""
    encoder, adapter = model.encoders[modality], model.adapters[modality]
    size = model.profile.encode_batch
    starts = range(0, len(bank), size)
    return torch.cat(
        [
            adapter(bank.features(encoder, range(start, min(start + size, len(bank)))))
            for start in starts
        ]
    )


@torch.inference_mode()
def blank_tokens(model: AnyMAL, modality: str) -> Tensor:
    """The adapter's tokens of an input in which there is nothing to sense: (q, w)."""
    encoder = model.encoders[modality]
    prepared = encoder.prepare(MODALITIES[modality].blank())
    features: Features = encode_aligned(encoder, encode_frozen(encoder, [prepared], 1))
    return model.adapters[modality](features)[0]


def derangement(bank: Bank, seed: int) -> list[int]:
    """Another row for every row: shuffled, then shifted within the shuffle so none stays."""
    generator = generator_for(seed, "shuffled control", 0)
    order = torch.randperm(len(bank), generator=generator).tolist()
    shifted = order[1:] + order[:1]
    partner = dict(zip(order, shifted, strict=True))
    return [partner[k] for k in range(len(bank))]


def chance(bank: Bank) -> float:
    """The best score of one caption for all items, which needs no input.

    Counted like `CaptionReport.grounding`: the share of the most common meaning where rows state
    facts, else the best mean ROUGE-L among the five most common captions.
    """
    meanings = Counter(meaning(row) for row in bank.rows)
    if all(row.facts for row in bank.rows):
        return meanings.most_common(1)[0][1] / len(bank)
    truth = [row.text for row in bank.rows]
    common = [words[0] for words, _ in meanings.most_common(5)]
    return max(float(rouge_l([caption] * len(bank), truth).mean()) for caption in common)
