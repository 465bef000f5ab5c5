"""Prompts: order and template of the pieces, and modality vectors exactly at their places."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anymal_lib.config import load_profile
from anymal_lib.errors import InputError
from anymal_lib.llm import load_llm
from anymal_lib.model import AnyMAL
from anymal_lib.prompt import (
    Dialogue,
    Prompt,
    layouts_of,
    render,
    render_dialogue,
    splice,
    split_prefix,
)
from anymal_lib.specs import StepSpec

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


@settings(max_examples=40)
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


# Several turns -----------------------------------------------------------------------------------

HELLO = (["Hi there."], "Hello, you.")
SHAPE = (["See ", ITEM, " now."], "a square, I think")
BOTH = ([ITEM, " or ", ITEM, "?"], "the first")
COLOUR = (["Its colour?"], "red")
CONVERSATIONS = {
    "an item, then text": [SHAPE, COLOUR],
    "text, then an item": [HELLO, SHAPE],
    "text on both sides": [HELLO, SHAPE, COLOUR, HELLO],
    "items in every turn": [SHAPE, BOTH, SHAPE],
    "two items at once": [BOTH, COLOUR],
    "text alone": [HELLO, COLOUR, HELLO],
    "an empty answer": [(["See ", ITEM], ""), COLOUR],
    "one turn": [SHAPE],
}


def whole_text(llm, turns, system, **more):
    """The template's own text of a conversation, items as a word that is no part of it."""
    messages = [{"role": "system", "content": system}] if system else []
    for parts, answer in turns:
        said = "".join(part if isinstance(part, str) else "<ITEM>" for part in parts)
        messages.append({"role": "user", "content": said})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
    return llm.tokenizer.apply_chat_template(messages, tokenize=False, **more)


@pytest.mark.parametrize("system", [SYSTEM, ""])
@pytest.mark.parametrize("turns", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_a_conversation_is_the_chat_templates_own(llm, turns, system):
    *before, (last, answer) = turns
    asked = render_dialogue(llm, Dialogue([*before, (last, None)]), system=system)
    own = whole_text(llm, [*before, (last, None)], system, add_generation_prompt=True)
    assert "<ITEM>".join(texts_of(llm, asked)) == own
    pieces = own.split("<ITEM>")
    assert asked.pieces == tuple(llm.tokenize(piece) for piece in pieces)
    answered = render_dialogue(llm, Dialogue(turns), system=system)
    assert answered == replace(asked, response=(*llm.tokenize(answer), llm.end_of_turn))
    said = "<ITEM>".join([*texts_of(llm, answered)]) + llm.tokenizer.decode(answered.response)
    assert said + "\n" == whole_text(llm, turns, system)


words = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=6)
answers = st.lists(words, max_size=4).map(" ".join)


@settings(max_examples=40)
@given(
    turns=st.lists(st.tuples(words.map(lambda text: [text]), answers), min_size=1, max_size=4),
    last=words,
)
def test_any_conversation_of_text_has_the_templates_own_tokens(llm, turns, last):
    """Also that answers cut the text where tokens end, so that nothing is tokenized otherwise."""
    prompt = render_dialogue(llm, Dialogue([*turns, ([last], None)]), system=SYSTEM)
    own = whole_text(llm, [*turns, ([last], None)], SYSTEM, add_generation_prompt=True)
    assert prompt.pieces == (llm.tokenize(own),)
    assert prompt.learned == 0 and len(prompt.earlier) == len(turns)
    for (_, answer), (piece, start, stop) in zip(turns, prompt.earlier, strict=True):
        assert piece == 0
        assert prompt.pieces[0][start:stop] == (*llm.tokenize(answer), llm.end_of_turn)


LEARNED = {
    "an item, then text": ["a square, I think", "red"],
    "text, then an item": ["a square, I think"],
    "text on both sides": ["a square, I think", "red", "Hello, you."],
    "items in every turn": ["a square, I think", "the first", "a square, I think"],
    "two items at once": ["the first", "red"],
    "text alone": ["Hello, you."],
    "an empty answer": ["", "red"],
    "one turn": ["a square, I think"],
}


@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_answers_after_the_first_item_are_learned_with_their_end(llm, kind):
    prompt = render_dialogue(llm, Dialogue(CONVERSATIONS[kind]), system=SYSTEM)
    expected = [t for text in LEARNED[kind] for t in (*llm.tokenize(text), llm.end_of_turn)]
    spans = spans_of(llm, [2] * prompt.items)
    assert prompt.learned == len(expected)
    got = splice(llm, [prompt], spans, pad_left=False)
    assert got.targets.tolist() == expected
    (layout,) = layouts_of([prompt], spans)
    assert [layout.ids[at] for at in layout.learned()] == expected
    assert not any(layout.is_item[at] for at in layout.learned())
    assert layout.read() == len(layout.ids) - 1 == got.embeddings.shape[1]
    flat = got.embeddings.flatten(0, 1)
    assert torch.equal(flat[got.rows[:-1] + 1], llm.embed(got.targets[:-1])), "the state before"
    rest = split_prefix(prompt)[1]
    assert rest.learned == prompt.learned
    tail = splice(llm, [rest], spans, pad_left=False)
    assert torch.equal(tail.targets, got.targets)
    assert torch.equal(tail.embeddings.flatten(0, 1)[tail.rows], flat[got.rows])


def test_items_of_a_conversation_come_in_order():
    one, two, three = object(), object(), object()
    turns = [(["a", one, "b"], "x"), (["c"], "y"), ([two, three], None)]
    assert Dialogue(turns).items == [one, two, three]


def test_a_base_model_ends_answers_of_a_conversation_too(tiny_folder):
    llm = load_llm(tiny_folder, bits=32)
    llm.tokenizer.chat_template = None
    prompt = render_dialogue(llm, Dialogue([HELLO, SHAPE, COLOUR]), system="Look.")
    first, second = texts_of(llm, prompt)
    assert first == "Look.\nHi there.\nHello, you.<|im_end|>\nSee "
    assert second == " now.\na square, I think<|im_end|>\nIts colour?\n"
    assert llm.tokenizer.decode(prompt.response) == "red<|im_end|>"


@pytest.mark.parametrize("space", ["", " ", "\n"])
def test_a_template_that_writes_the_end_itself_gets_one_end(tiny_folder, space):
    llm = load_llm(tiny_folder, bits=32)
    llm.tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content | trim + space + "
        "eos_token }}{% else %}{{ '[ASK] ' + m.content + ' [SAY] ' }}{% endif %}{% endfor %}"
    ).replace("space", repr(space))
    prompt = render_dialogue(llm, Dialogue([SHAPE, COLOUR]))
    assert texts_of(llm, prompt) == [
        "[ASK] See ",
        " now. [SAY] a square, I think<|im_end|>[ASK] Its colour? [SAY] ",
    ]
    ((piece, start, stop),) = prompt.earlier
    assert llm.tokenizer.decode(prompt.pieces[piece][start:stop]) == "a square, I think<|im_end|>"


@pytest.mark.parametrize(
    ("turns", "got"),
    [
        ([], "got none"),
        ([(["Hi"], None), (["Who?"], None)], "a turn without one"),
        ([SHAPE, (["Hi"], None), COLOUR], "a turn without one"),
        ([(["  "], "yes"), COLOUR], "an empty prompt"),
        ([SHAPE, ([], None)], "an empty prompt"),
        ([SHAPE, (["a\x01b"], None)], "SOH"),
        ([(["a\x00b", ITEM], "red"), COLOUR], "NUL"),
    ],
)
def test_a_conversation_with_something_missing_is_refused(llm, turns, got):
    with pytest.raises(InputError, match=got):
        render_dialogue(llm, Dialogue(turns), system=SYSTEM)


def test_control_characters_of_answers_are_text(llm):
    turns = [(["See ", ITEM], "a\x01b\x00c"), COLOUR]
    prompt = render_dialogue(llm, Dialogue(turns))
    ((piece, start, stop),) = prompt.earlier
    assert prompt.items == 1
    assert prompt.pieces[piece][start:stop] == (*llm.tokenize("a\x01b\x00c"), llm.end_of_turn)


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("name", ["tiny_folder", "gemma_folder"])
def test_the_loss_of_conversations_is_transformers_own(request, own_loss, name, prefix):
    llm = load_llm(request.getfixturevalue(name), bits=32)
    model = AnyMAL(llm, replace(load_profile("mini"), step=StepSpec(prefix=prefix)))
    kinds = {kind: render_dialogue(llm, Dialogue(t)) for kind, t in CONVERSATIONS.items()}
    for prompts in (*([prompt] for prompt in kinds.values()), [*kinds.values()]):
        spans = spans_of(llm, [1 + k % 3 for k in range(sum(p.items for p in prompts))])
        spans = [(span * llm.embedding_rms).requires_grad_() for span in spans]
        rest = iter(spans)
        own = [own_loss(llm, p, [next(rest) for _ in range(p.items)]) for p in prompts]
        own, ours = sum(own) / len(own), model.response_loss(prompts, spans)
        assert ours.item() == pytest.approx(own.item(), abs=1e-6 * max(1, own.item()))
        if spans:
            gradients = zip(torch.autograd.grad(ours, spans), torch.autograd.grad(own, spans))  # noqa: B905
            assert all((a - b).norm() < 2e-4 * b.norm() for a, b in gradients)
