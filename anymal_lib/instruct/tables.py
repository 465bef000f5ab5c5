"""Tables of instruction data, as pandas frames."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from anymal_lib.instruct.synthetic import Yield
from anymal_lib.instruct.verdicts import REASONS


def yield_counts(yields: Mapping[str, Yield]) -> pd.DataFrame:
    """What came of asking writers: items, pairs, drops by reason, kept; one column a set."""
    return pd.DataFrame(
        {
            name: {
                "writer": found.writer,
                "items asked": found.asked,
                "texts without a pair": len(found.without_pair),
                "pairs written": len(found.pairs),
                **{f"dropped: {reason}": found.dropped[reason] for reason in REASONS},
                "pairs kept": found.kept,
                "kept of written": f"{found.kept / max(1, len(found.pairs)):.0%}",
            }
            for name, found in yields.items()
        }
    )


def yield_pairs(found: Yield, each: int = 3) -> pd.DataFrame:
    """Pairs with what became of them, at most `each` of a kind; texts without a pair at the end."""
    lines = []
    for reason in (None, *REASONS):
        like = [pair for pair in found.pairs if pair.reason == reason]
        for pair in like[:each]:
            verdict = f"dropped: {reason}" if reason else "kept"
            lines.append((pair.item.id, pair.question, pair.answer, verdict))
    for item, text in found.without_pair[:each]:
        lines.append((item.id, text[:200], "", "no pair in this text"))
    return pd.DataFrame(lines, columns=["item", "question", "answer", "verdict"])
