"""Modality tokens that the LLM reads as words: adapters fitted to the embeddings of words (ours).

Alignment on captions leaves tokens that steer a frozen LLM, many times larger than its word
embeddings and unlike any of them. An LLM that learns can do better with words: what it has learned
about words it can then say of pictures, sounds, motions and clips as well.

Shape letters: b batch, q modality tokens, w width of the LLM.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from anymal_lib.adapters import scale_tokens
from anymal_lib.bank import Bank, augmented, encode_aligned
from anymal_lib.checksums import weights_checksum
from anymal_lib.controls import modality_tokens
from anymal_lib.instruct.examples import Example
from anymal_lib.llm import FrozenLLM
from anymal_lib.model import AnyMAL
from anymal_lib.seeds import epoch_order, generator_for
from anymal_lib.specs import TrainSpec
from anymal_lib.train import StepReport, Trainer, run_steps

Phrases = Mapping[str, tuple[str, ...]]  # row id -> what is known of it, in words

_SCALED = 64  # items by which the size of an adapter's tokens is measured


def phrases_of(bank: Bank, asked: Sequence[Example]) -> Phrases:
    """What is known of each row of a bank: its facts by name, else answers, else caption's words.

    Args:
        bank: of one modality.
        asked: questions about its rows; their answers count but for yes and no.

    Returns:
        Row id -> one or more words or phrases. Rows of which nothing is known are left out.
    """
    answers: dict[str, dict[str, None]] = {}
    for example in asked:
        open_ended = example.answer.strip().lower() not in ("yes", "no")
        if open_ended and len(example.items) == len(example.turns) == 1:
            answers.setdefault(example.items[0].id, {})[example.answer] = None
    found = {}
    for row in bank.rows:
        said = re.findall(r"\w+", row.text[0]) if row.text else []
        facts = tuple(value for _, value in sorted(row.facts.items()))
        if known := facts or tuple(answers.get(row.id, said)):
            found[row.id] = known
    return found


@dataclass(frozen=True)
class Place:
    """A row of the bank and the step, from 0, that it is for."""

    row: int
    step: int


class Places(Dataset[Place]):
    """All samples of a run in order, each of `rows` once an epoch."""

    def __init__(self, rows: Sequence[int], spec: TrainSpec, seed: int) -> None:
        self.rows, self.spec, self.seed = rows, spec, seed

    def __len__(self) -> int:
        return self.spec.samples

    def __getitem__(self, position: int) -> Place:
        row = self.rows[epoch_order(self.seed, len(self.rows), position)]
        return Place(row, position // self.spec.batch)


class WordTrainer(Trainer):
    """Fits the adapter of one modality to word embeddings; the LLM itself is not asked."""

    tokens = 0  # of the LLM's positions

    def __init__(
        self,
        model: AnyMAL,
        modality: str,
        bank: Bank,
        phrases: Phrases,
        spec: TrainSpec,
        seed: int,
    ) -> None:
        super().__init__(model, f"{modality} tokens as words", model.adapters[modality], spec)
        self.modality, self.bank, self.seed, self.phrases = modality, bank, seed, phrases
        self.embedding = Embedding(model.llm)
        self.count = model.spec(modality).adapter.tokens

    def parts(self, samples: Sequence[Place]) -> Iterator[list[tuple[int, Tensor]]]:
        """Rows with their features."""
        encoder = self.model.encoders[self.modality]
        generator = generator_for(self.seed, "augment", samples[0].step)
        own = augmented(encoder, [self.bank.intermediate[s.row] for s in samples], generator)
        pairs = [(s.row, tensor) for s, tensor in zip(samples, own, strict=True)]
        for start in range(0, len(pairs), self.micro_batch):
            yield pairs[start : start + self.micro_batch]

    def loss(self, part: Sequence[tuple[int, Tensor]]) -> Tensor:
        """Squared distance of tokens and words, as a share of the words' squared length."""
        rows, inputs = zip(*part, strict=True)
        with torch.no_grad():
            features = encode_aligned(self.model.encoders[self.modality], inputs)
        tokens = self.learned(features).float()  # (b, q, w)
        known = (self.phrases[self.bank.rows[row].id] for row in rows)
        words = torch.stack([self.embedding.slots(phrases, self.count) for phrases in known])
        return (tokens - words).square().mean() / words.square().mean()


class Embedding:
    """Embeddings of words and phrases before an LLM, in fp32."""

    def __init__(self, llm: FrozenLLM) -> None:
        self.llm = llm
        self._known: dict[str, Tensor] = {}

    def __call__(self, phrase: str) -> Tensor:
        """The mean of the phrase's token embeddings, as inside a text: (w,)."""
        if phrase not in self._known:
            ids = torch.tensor(self.llm.tokenize(f" {phrase}"), device=self.llm.device)
            self._known[phrase] = self.llm.embed(ids).float().mean(0)
        return self._known[phrase]

    def slots(self, phrases: Sequence[str], count: int) -> Tensor:
        """Phrases in turn, for so many modality tokens: (q, w)."""
        return torch.stack([self(phrases[k % len(phrases)]) for k in range(count)])


@dataclass(frozen=True)
class Worded:
    """What fitting an adapter to words did: fact -> share of held-out items, and how long it took.

    The share of those whose token for the fact is nearest to the right value, before and after.
    """

    before: dict[str, float]
    after: dict[str, float]
    seconds: float


def fit_to_words(
    model: AnyMAL,
    modality: str,
    bank: Bank,
    phrases: Phrases,
    spec: TrainSpec,
    *,
    seed: int,
    folder: Path,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> list[StepReport]:
    """Train `model.adapters[modality]` so that its tokens are words; returns the loss curve.

    It starts from the adapter as it is, its tokens brought to the size of token embeddings. What is
    known of an item comes in turn, token by token, as often as there are tokens. See `run_steps`
    for files and errors.
    """
    adapter = model.adapters[modality]
    rows = [k for k, row in enumerate(bank.rows) if row.id in phrases]
    few = random.Random(f"{seed}/size").sample(rows, min(_SCALED, len(rows)))
    with torch.no_grad():
        inputs = [bank.intermediate[k] for k in few]
        tokens = adapter(encode_aligned(model.encoders[modality], inputs))
    scale_tokens(adapter, model.llm.embedding_rms / tokens.float().square().mean().sqrt().item())
    curve = run_steps(
        WordTrainer(model, modality, bank, phrases, spec, seed),
        Places(rows, spec, seed),
        folder=folder,
        depends_on=[seed, bank.identity(), phrases, weights_checksum(adapter.state_dict())],
        on_step=on_step,
    )
    adapter.eval()
    return curve


def nearest_words(
    model: AnyMAL, modality: str, bank: Bank, fact_values: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Fact -> share of a bank's rows whose token for it is nearest to the right value's words.

    By cosine, among the words of all values; of facts that have a token of their own, as
    `fit_to_words` gives out tokens where rows state the same facts. Empty without facts.
    """
    embedding = Embedding(model.llm)
    tokens = modality_tokens(model, modality, bank).float()  # (rows, q, w)
    found = {}
    for slot, (fact, values) in enumerate(sorted(fact_values.items())[: tokens.shape[1]]):
        words = torch.stack([embedding(value) for value in values])  # (values, w)
        near = F.cosine_similarity(tokens[:, slot, None], words, dim=-1).argmax(-1).tolist()
        right = [
            values[n] == row.facts[fact]
            for n, row in zip(near, bank.rows, strict=True)
            if fact in row.facts
        ]
        if right:
            found[fact] = sum(right) / len(right)
    return found
