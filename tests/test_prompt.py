"""Prompts: order and template of the pieces, and modality vectors exactly at their places."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anymal_lib.errors import InputError
from anymal_lib.llm import load_llm
from anymal_lib.prompt import Prompt, render, splice, split_prefix

ITEM = object()
SYSTEM = "You describe what you sense."


@pytest.fixture(scope="module")
def llm(tiny_llm):
    return tiny_llm(32)


def texts_of(llm, prompt):
    return [llm.tokenizer.decode(piece) for piece in prompt.pieces]


def spans_of(llm, lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(q, llm.width, generator=generator) for q in lengths]


def test_instruction_then_modality_inside_the_chat_template(llm):
    prompt = render(llm, ["What is it? ", ITEM], system=SYSTEM, response="a red square")
    assert texts_of(llm, prompt) == [
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nWhat is it? ",
        "<|im_end|>\n<|im_start|>assistant\n",
    ]
    assert prompt.items == 1
    assert llm.tokenizer.decode(prompt.response) == "a red square<|im_end|>"
    assert prompt.response[-1] == llm.end_of_turn


def test_pieces_are_the_templates_own_tokens_when_there_is_no_item(llm):
    prompt = render(llm, ["Who ", "are you?"], system=SYSTEM)
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Who are you?"}]
    own = llm.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert prompt.pieces == (tuple(own),)
    assert prompt.items == 0 and prompt.response == ()


def test_items_keep_order_and_number_anywhere(llm):
    prompt = render(llm, [ITEM, "then ", ITEM, ITEM, " what?"], system=SYSTEM)
    assert prompt.items == 3
    first, *rest = texts_of(llm, prompt)
    assert first.endswith("<|im_start|>user\n")
    assert rest == ["then ", "", " what?<|im_end|>\n<|im_start|>assistant\n"]


def test_an_item_alone_is_a_prompt(llm):
    prompt = render(llm, [ITEM])
    assert prompt.items == 1 and texts_of(llm, prompt)[0].endswith("user\n")
    assert render(llm, ["", ITEM, " "]).items == 1


def test_a_base_model_without_template_gets_plain_text(tiny_folder):
    llm = load_llm(tiny_folder, bits=32)
    llm.tokenizer.chat_template = None
    prompt = render(llm, ["See: ", ITEM], system="Look.")
    assert texts_of(llm, prompt) == ["Look.\nSee: ", "\n"]


@pytest.mark.parametrize("parts", [[], [""], [" \n\t"], ["", "  "]])
def test_an_empty_prompt_is_refused(llm, parts):
    with pytest.raises(InputError, match="an empty prompt"):
        render(llm, parts, system=SYSTEM)


@pytest.mark.parametrize("parts", [["a\x00b"], ["\x00", ITEM], ["What? ", ITEM, "\x00"]])
def test_a_nul_character_is_refused(llm, parts):
    with pytest.raises(InputError, match="NUL"):
        render(llm, parts, system=SYSTEM)


def plain_row(llm, prompt, spans):
    """A prompt's embeddings one by one; the response's last token is predicted and never read."""
    rows = []
    for k, piece in enumerate([*prompt.pieces, prompt.response[:-1]]):
        if 0 < k <= len(spans):
            rows.append(spans[k - 1])
        rows.append(llm.embed(torch.tensor(piece, dtype=torch.long)))
    return torch.cat(rows)


@st.composite
def batches(draw):
    """Prompts of texts and items (numbers are their lengths), with or without responses."""
    part = st.one_of(st.sampled_from(["What? ", " blue", "two words", "é\n"]), st.integers(1, 4))
    prompts = draw(st.lists(st.lists(part, min_size=1, max_size=5), min_size=1, max_size=4))
    responses = draw(
        st.none()
        | st.lists(
            st.sampled_from(["red", "a green square", ""]),
            min_size=len(prompts),
            max_size=len(prompts),
        )
    )
    return prompts, responses


@settings(max_examples=40, deadline=None)
@given(batch=batches(), left=st.booleans())
def test_splice_puts_everything_exactly_where_it_belongs(llm, batch, left):
    parts, responses = batch
    lengths = [[p for p in prompt if isinstance(p, int)] for prompt in parts]
    prompts = [
        render(
            llm,
            [p if isinstance(p, str) else ITEM for p in prompt],
            system=SYSTEM,
            response=None if responses is None else responses[k],
        )
        for k, prompt in enumerate(parts)
    ]
    spans = spans_of(llm, [q for row in lengths for q in row])
    got = splice(llm, prompts, spans, pad_left=left)
    rest, place = iter(spans), 0
    longest = got.embeddings.shape[1]
    rows, targets = [], []
    for k, prompt in enumerate(prompts):
        own = [next(rest) for _ in range(prompt.items)]
        plain = plain_row(llm, prompt, own)
        start = longest - len(plain) if left else 0
        real = torch.zeros(longest, dtype=torch.bool)
        real[start : start + len(plain)] = True
        assert torch.equal(got.embeddings[k][real], plain)
        assert got.mask is None or torch.equal(got.mask[k], real)
        assert got.mask is not None or real.all()
        end = start + len(plain)
        rows += [k * longest + t for t in range(end - len(prompt.response), end)]
        targets += prompt.response
        place += len(own)
    assert place == len(spans)
    assert got.rows.tolist() == rows
    assert got.targets.tolist() == targets


def test_rows_predict_the_response_and_nothing_else(llm):
    prompts = [
        render(llm, ["What? ", ITEM], response="red"),
        render(llm, ["What? ", ITEM], response="a blue square"),
    ]
    got = splice(llm, prompts, spans_of(llm, [2, 2]), pad_left=False)
    assert llm.tokenizer.decode(got.targets) == "red<|im_end|>a blue square<|im_end|>"
    flat, read = got.embeddings.flatten(0, 1), got.targets != llm.end_of_turn
    assert torch.equal(flat[got.rows[read] + 1], llm.embed(got.targets[read])), "the state before"
    assert got.rows[-1] == len(flat) - 1, "the last token is predicted and never read"


@pytest.mark.parametrize(("left", "expected"), [(True, [0, 1, 1]), (False, [1, 1, 0])])
def test_padding_is_masked_on_its_side(llm, left, expected):
    prompts = [Prompt(((5, 6),)), Prompt(((7, 8, 9),))]
    got = splice(llm, prompts, [], pad_left=left)
    assert got.mask.long().tolist() == [expected, [1, 1, 1]]
    assert splice(llm, prompts[:1], [], pad_left=left).mask is None


def test_the_gradient_reaches_modality_tokens_only(llm):
    prompts = [render(llm, ["What? ", ITEM, ITEM], response="red"), render(llm, [ITEM])]
    spans = [span.requires_grad_() for span in spans_of(llm, [2, 3, 1])]
    got = splice(llm, prompts, spans, pad_left=True)
    (got.embeddings * torch.arange(llm.width)).sum().backward()
    for span in spans:
        assert torch.equal(span.grad, torch.arange(llm.width).float().expand_as(span))
    assert llm.model.get_input_embeddings().weight.grad is None


def test_a_bf16_model_gets_bf16_and_fp32_tokens_get_their_gradient(tiny_llm):
    llm = tiny_llm(16)
    (span,) = spans_of(llm, [2])
    got = splice(llm, [render(llm, [ITEM])], [span.requires_grad_()], pad_left=True)
    got.embeddings.float().sum().backward()
    assert got.embeddings.dtype == torch.bfloat16 and span.grad.dtype == torch.float32


def test_the_prefix_is_the_text_before_the_first_item(llm):
    for parts in (["What? ", ITEM, " It."], ["Who is it? ", ITEM, " and ", ITEM], [ITEM, "?"]):
        prompt = render(llm, parts, system=SYSTEM, response="red")
        prefix, rest = split_prefix(prompt)
        assert prefix == prompt.pieces[0] and len(prefix) > 5
        assert rest == Prompt(((), *prompt.pieces[1:]), prompt.response)
    assert split_prefix(Prompt(((), (5,)), (6,))) == ((), Prompt(((), (5,)), (6,)))


def test_a_prompt_of_text_alone_keeps_its_last_token(llm):
    prompt = render(llm, ["What? "], system=SYSTEM, response="red")
    prefix, rest = split_prefix(prompt)
    assert (prefix, *rest.pieces) == (prompt.pieces[0][:-1], prompt.pieces[0][-1:])
    assert rest.response == prompt.response
    assert split_prefix(Prompt(((5,),))) == ((), Prompt(((5,),)))


@pytest.mark.parametrize("left", [True, False])
def test_what_follows_the_prefix_is_spliced_as_in_the_whole_prompt(llm, left):
    parts = [["What is it? ", ITEM, " Say."], [ITEM, " or ", ITEM], ["Who are you?"]]
    prompts = [render(llm, p, system=SYSTEM, response="a red square") for p in parts]
    prefixes, rest = zip(*map(split_prefix, prompts), strict=True)
    spans = spans_of(llm, [2, 3, 1])
    whole = splice(llm, prompts, spans, pad_left=left)
    tail = splice(llm, rest, spans, pad_left=left)
    assert torch.equal(tail.targets, whole.targets)
    for k, prefix in enumerate(prefixes):
        row = whole.embeddings[k][whole.mask[k]]
        assert torch.equal(tail.embeddings[k][tail.mask[k]], row[len(prefix) :])
