"""The batch, the order and the side of the padding decide nothing about an answer."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from anymal_lib.inputs import Image
from anymal_lib.prompt import render, splice

TOKENS = 4
BATCHES = (1, 7, 64)
ITEM = object()
# A tie is near where the two logits are closer than bf16 can tell apart after some layers: it
# keeps 8 bits, so a number is known to 2^-8 of itself.
NEAR = 2**-5


def asked(count):
    """Prompts of many lengths, each with a picture of its own; every fifth has none."""
    random = np.random.default_rng(0)
    pictures = [Image(random.integers(0, 255, (24, 24, 3), dtype=np.uint8)) for _ in range(count)]
    words = ["what", "is", "it", "here", "now", "say", "please"]
    texts = [" ".join(words[: 1 + k % 7]) + f" {k}? " for k in range(count)]
    return texts, pictures


def prompts_of(model, count):
    """Rendered prompts and the modality tokens of each."""
    texts, pictures = asked(count)
    spans = [[] if k % 5 == 4 else [t] for k, t in enumerate(model.encode(pictures))]
    prompts = [
        render(model.llm, [text, *[ITEM for _ in own]])
        for text, own in zip(texts, spans, strict=True)
    ]
    return prompts, spans


def said(model, prompts, spans, order=None):
    """Answers in the order of the prompts, asked in another order."""
    order = range(len(prompts)) if order is None else order
    texts = model.respond(
        [prompts[k] for k in order],
        [span for k in order for span in spans[k]],
        max_new_tokens=TOKENS,
    )
    return [text for _, text in sorted(zip(order, texts, strict=True))]


@pytest.fixture(scope="module")
def in_fp32(new_model):
    model = new_model(32)
    return model, *prompts_of(model, 20)


def test_answers_are_the_same_in_any_batch_and_order(new_model, in_fp32):
    model, prompts, spans = in_fp32
    alone = [said(model, [p], [s])[0] for p, s in zip(prompts, spans, strict=True)]
    assert len(set(alone)) > 15, "they differ, so that equality says something"
    draw = np.random.default_rng(0)
    for batch in BATCHES:
        other = new_model(32, eval_batch=batch)
        orders = [range(20), range(19, -1, -1), *(draw.permutation(20).tolist() for _ in range(2))]
        assert all(said(other, prompts, spans, order) == alone for order in orders)


def most_likely(model, prompts, spans, answers, pad_left):
    """The most likely token at every place of the answers, padded on one side: (k,)."""
    given = [replace(p, response=a) for p, a in zip(prompts, answers, strict=True)]
    batch = splice(model.llm, given, [span for own in spans for span in own], pad_left=pad_left)
    with torch.inference_mode():
        states = model.llm.hidden(batch.embeddings, batch.mask)
        return model.llm.logits(states.flatten(0, 1)[batch.rows]).argmax(-1).tolist()


def greedy_ids(model, prompts, spans, batch):
    """Token ids of answers, so many prompts of similar length at a time."""
    order = sorted(range(len(prompts)), key=lambda k: sum(map(len, prompts[k].pieces)))
    ids = {}
    for start in range(0, len(order), batch):
        chunk = order[start : start + batch]
        tokens = [span for k in chunk for span in spans[k]]
        with torch.inference_mode():
            found = model._greedy([prompts[k] for k in chunk], tokens, TOKENS).tolist()
        end = model.llm.end_of_turn
        filled = [tuple(row + [end] * (TOKENS - len(row))) for row in found]
        ids.update(zip(chunk, filled, strict=True))
    return [ids[k] for k in range(len(prompts))]


def test_answers_are_the_same_with_padding_on_either_side(in_fp32):
    model, prompts, spans = in_fp32
    answers = greedy_ids(model, prompts, spans, 1)
    expected = [token for answer in answers for token in answer]
    assert len(set(expected)) > 20 and model.llm.end_of_turn not in expected
    for pad_left in (True, False):
        assert most_likely(model, prompts, spans, answers, pad_left) == expected


def test_in_bf16_only_near_ties_depend_on_the_batch(new_model):
    count = 100
    model = new_model(16)
    prompts, spans = prompts_of(model, count)
    alone = greedy_ids(model, prompts, spans, 1)
    differ = 0
    for batch in BATCHES[1:]:
        other = greedy_ids(model, prompts, spans, batch)
        changed = [k for k in range(count) if other[k] != alone[k]]
        differ += len(changed)
        for k in changed:
            gap = gap_where_they_part(model, prompts[k], spans[k], alone[k], other[k])
            assert gap < NEAR, f"prompt {k}: the two tokens' logits are {gap:.3f} apart"
    print(f"{differ} of {count * len(BATCHES[1:])} answers differ")
    assert differ <= 0.01 * count * len(BATCHES[1:])


def gap_where_they_part(model, prompt, spans, first, second):
    """How far apart two answers' first different tokens are, as a share of the better logit."""
    at = next(k for k in range(TOKENS) if first[k] != second[k])
    read = replace(prompt, response=first[: at + 1])  # the last token is predicted, not read
    batch = splice(model.llm, [read], spans, pad_left=True)
    with torch.inference_mode():
        logits = model.llm.logits(model.llm.hidden(batch.embeddings)[:, -1])[0]
    return abs(logits[first[at]] - logits[second[at]]).item() / abs(logits[first[at]]).item()
