"""What the LLM says of itself, learned again beside the questions so that it is not unlearned.

No data set is needed: shown where a user speaks, a tuned LLM writes what users say (Magpie, arXiv
2406.08464), and then it replies. Samples of a model's own words hold it where it was.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from anymal_lib.instruct.examples import Example, Item, Turn
from anymal_lib.instruct.writers import LocalWriter
from anymal_lib.model import AnyMAL
from anymal_lib.progress import track
from anymal_lib.prompt import render
from anymal_lib.seeds import generator_for

KIND = "own words"
_WORDS = 3  # of a request, at least: less says nothing
_TOKENS = 32  # of a request, and of a reply
_BATCH = 64


def own_words(
    model: AnyMAL, items: Sequence[Item], *, requests: int, replies: int, seed: int
) -> list[Example]:
    """Requests that the LLM thinks of, each with several of its replies.

    Every other request comes with an item that it has nothing to do with: an item does not change
    what is said of something else.

    Args:
        model: its LLM writes, as it is now.
        items: one or more, to be drawn from.
        requests: how many to sample; those that break off are left out.
        replies: to each of them; the same one twice counts once.
        seed: of the samples and the items.

    Returns:
        Examples with source "text" and kind `KIND`.
    """
    writer = LocalWriter(model.llm, _BATCH, temperature=1.0, top_p=1.0, max_new_tokens=_TOKENS)
    opening = render(model.llm, [object()]).pieces[0] or (model.llm.end_of_turn,)
    said = _sampled(writer, [opening] * requests, "requests", seed)
    asked = list(dict.fromkeys(filter(None, map(_request, said))))
    prompts = [render(model.llm, [text], system=model.profile.system).pieces[0] for text in asked]
    answers = _sampled(writer, [p for p in prompts for _ in range(replies)], "replies", seed)
    draw = random.Random(f"items of requests {seed}")
    shown = [(f"{text} ", draw.choice(items)) if k % 2 else (text,) for k, text in enumerate(asked)]
    examples = (
        Example((Turn(shown[k // replies], reply),), KIND, "text")
        for k, reply in enumerate(map(_sentences, answers))
        if reply
    )
    return list(dict.fromkeys(examples))


def _sampled(writer: LocalWriter, rows: Sequence[Sequence[int]], what: str, seed: int) -> list[str]:
    """One continuation of each row; rows of like length together."""
    order = sorted(range(len(rows)), key=lambda k: len(rows[k]))
    texts: dict[int, str] = {}
    chunks = [order[k : k + writer.batch] for k in range(0, len(order), writer.batch)]
    for number, chunk in enumerate(track(chunks, what, total=len(chunks), unit="batches")):
        draw = generator_for(seed, f"own words, {what}", number).initial_seed() % 2**31
        texts.update(zip(chunk, writer.go_on([rows[k] for k in chunk], draw), strict=True))
    return [texts[k] for k in range(len(rows))]


def _request(text: str) -> str | None:
    """A sampled request's first line; None where it breaks off or says nothing."""
    line = text.strip().partition("\n")[0].strip()
    return line if re.search(r"[.!?]$", line) and len(line.split()) >= _WORDS else None


def _sentences(text: str) -> str:
    """The whole sentences at the beginning of a text."""
    found = re.match(r".*[.!?](?=\s|$)", text.strip(), flags=re.DOTALL)
    return found.group() if found else ""
