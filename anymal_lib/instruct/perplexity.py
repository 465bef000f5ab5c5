"""What fine-tuning costs the LLM: its perplexity on plain text, which it is never tuned on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from anymal_lib.errors import InputError
from anymal_lib.llm import FrozenLLM


@torch.inference_mode()
def perplexity(llm: FrozenLLM, texts: Sequence[str]) -> float:
    """exp of the mean negative log-likelihood of all tokens but the first of each text.

    Raises `InputError` where no text has two tokens.
    """
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([llm.tokenize(text)], device=llm.device)  # (1, t)
        if ids.shape[1] < 2:
            continue
        states = llm.hidden(llm.embed(ids[:, :-1]))  # (1, t - 1, w)
        total += F.cross_entropy(llm.logits(states[0]), ids[0, 1:], reduction="sum").item()
        count += ids.shape[1] - 1
    if not count:
        raise InputError(
            "texts for the perplexity",
            expected="at least one text of two tokens",
            got=f"{len(texts)} shorter ones",
            do="Give paragraphs of plain text.",
        )
    return math.exp(total / count)
