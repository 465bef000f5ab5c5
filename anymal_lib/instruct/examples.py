"""Examples of instruction tuning: conversations about items of any modality."""

from __future__ import annotations

from dataclasses import dataclass

TEXT = "text"  # a modality of its own: its tokens are the LLM's own word embeddings


@dataclass(frozen=True)
class Item:
    """An item by its modality and the id of its row in that modality's manifest.

    Words that stand in an item's place have the modality `TEXT` and are their own id.
    """

    modality: str
    id: str


@dataclass(frozen=True)
class Turn:
    """What the user says, texts and items in order, and the answer that is right."""

    parts: tuple[str | Item, ...]
    answer: str


@dataclass(frozen=True)
class Example:
    """A conversation to learn from or to be scored on.

    Attributes:
        turns: at least one.
        kind: what is asked, by which scores are told apart, for example "colour".
        source: where it comes from: "written", "facts", "synthetic", "pairs", "captions",
            "dialogues", "comparisons", "negated comparisons", "told", "general" or "planted".
    """

    turns: tuple[Turn, ...]
    kind: str
    source: str

    @property
    def items(self) -> tuple[Item, ...]:
        """All items in the order of the conversation."""
        return tuple(part for turn in self.turns for part in turn.parts if isinstance(part, Item))

    @property
    def question(self) -> str:
        """The texts of the last turn, without its items."""
        return "".join(p for p in self.turns[-1].parts if isinstance(p, str)).strip()

    @property
    def answer(self) -> str:
        """The answer of the last turn, the one that is scored."""
        return self.turns[-1].answer


def text_item(words: str) -> Item:
    """Words in an item's place, read as they are: a first one begins with its blank."""
    return Item(TEXT, words)


def ask(question: str, *items: Item, answer: str, kind: str, source: str) -> Example:
    """One question, then its items: the paper's order `[<instruction> <modality_tokens>]`."""
    return Example((Turn((f"{question} ", *items), answer),), kind, source)
