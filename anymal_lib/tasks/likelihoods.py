"""How likely each option is as the answer, by the LLM's own count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from anymal_lib.model import AnyMAL
from anymal_lib.prompt import Prompt


@torch.inference_mode()
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
    llm, spans = model.llm, iter(modality_tokens)
    asked: list[tuple[Prompt, list[Tensor]]] = []
    for prompt, choices in zip(prompts, options, strict=True):
        own = [next(spans) for _ in range(prompt.items)]
        for option in choices:
            response = (*llm.tokenize(option), llm.end_of_turn)
            asked.append((replace(prompt, response=response), own))
    found: list[float] = []
    for first in range(0, len(asked), model.profile.eval_batch):
        chunk, tokens = zip(*asked[first : first + model.profile.eval_batch], strict=True)
        each = model.log_likelihoods(chunk, [span for own in tokens for span in own])
        # Answers of earlier turns come first; they are the same for every option.
        for prompt, values in zip(chunk, each.split([p.learned for p in chunk]), strict=True):
            found.append(float(values[-len(prompt.response) :].sum()))
    values = iter(found)
    return [tuple(next(values) for _ in choices) for choices in options]
