"""How likely each option is as the answer, by the LLM's own count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from anymal_lib.model import AnyMAL
from anymal_lib.prompt import Prompt


def option_likelihoods(
    model: AnyMAL,
    prompts: Sequence[Prompt],
    modality_tokens: Sequence[Tensor],
    options: Sequence[Sequence[str]],
) -> list[tuple[float, ...]]:
    """Log-likelihood in nats of each option as the whole response, its end included.

    Args:
        model: its adapters have made the modality tokens.
        prompts: rendered without a response.
        modality_tokens: (q, w) each, in the order of all prompts' items.
        options: those of each prompt. Sums over tokens are compared, so of two options that are
            as likely token by token the longer one is less likely.

    Returns:
        A value, below 0, for every option of every prompt.
    """
    llm, tokens = model.llm, iter(modality_tokens)
    asked: list[Prompt] = []
    spans: list[list[Tensor]] = []
    for prompt, choices in zip(prompts, options, strict=True):
        own = [next(tokens) for _ in range(prompt.items)]
        for option in choices:
            response = (*llm.tokenize(option), llm.end_of_turn)
            asked.append(replace(prompt, response=response))
            spans.append(own)
    scored = model.score(asked, spans)
    # Answers of earlier turns come first; they are the same for every option.
    found = (float(x[-len(p.response) :].sum()) for p, x in zip(asked, scored, strict=True))
    return [tuple(next(found) for _ in choices) for choices in options]
