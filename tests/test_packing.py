"""Packed rows: what a learning LLM gives for prompts with shared beginnings is what it gives for
each of them alone.
"""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anymal_lib.compiled import compiled_layers
from anymal_lib.config import load_profile
from anymal_lib.llm import load_llm
from anymal_lib.lora import add_lora, freeze_lora, lora_parameters
from anymal_lib.model import AnyMAL
from anymal_lib.packing import pack
from anymal_lib.prompt import Dialogue, render_dialogue
from anymal_lib.specs import LoraSpec, StepSpec

SYSTEM = "You describe what you sense."
LONG = "Look very closely, take your time, and describe in a few words what you see in here: "
SIDES = "on the left is a blue square and on the right is a red one"


def asked(*parts, answer):
    """A prompt of one turn; whole numbers are items of so many modality tokens."""
    return Dialogue([(parts, answer)])


BATCHES = {
    "a shared question": [
        asked("What is it? ", 3, " Say.", answer=end) for end in ("red", "a blue square", SIDES)
    ],
    "a question each": [
        asked("What is it? ", 3, answer="red"),
        asked("Which colour? ", 3, " Now.", answer="a blue square"),
        asked(LONG, 2, answer="green"),
    ],
    "two questions by turns": [
        asked(("What is it? ", LONG)[k % 2], 1 + k, answer="red " * (1 + k)) for k in range(5)
    ],
    "short questions by turns beside a long one": [
        *(asked(("Hi ", "So? ")[k % 2], 1 + k, answer="no " * (1 + k)) for k in range(4)),
        asked(LONG * 6, 2, answer="red"),
    ],
    "text only": [
        asked("Who are you?", answer="nobody at all"),
        asked("Who are you?", answer="me"),
        asked("Hi, how is the sea?", answer="deep and green"),
    ],
    "text beside items": [
        asked("Who are you?", answer="nobody"),
        asked("What is it? ", 3, answer="red"),
        asked("Who are you?", answer="somebody else"),
        asked("What is it? ", 3, answer="a blue square"),
    ],
    "several items": [
        asked("See ", 3, " and ", 1, ": compare.", answer="both are red"),
        asked("See ", 2, 2, 1, answer="three"),
        asked(4, " or ", 3, answer="neither"),
        asked("See ", 3, " and ", 4, ": compare.", answer="no"),
    ],
    "several turns": [
        Dialogue([(["See ", 3], "a square"), (["Its colour?"], "red")]),
        Dialogue([(["See ", 3], "a ring"), (["And ", 2, "?"], "a dot"), (["Sure?"], "yes")]),
        Dialogue([(["Hi"], "Hello."), (["What is it? ", 1], "a red square")]),
        Dialogue([(["Hi"], "Hello."), (["What is it? ", 4], "a dot"), (["Where?"], "on top")]),
        Dialogue([(["Hi"], "Hello."), (["Who are you?"], "nobody")]),
    ],
    "without their items": [
        asked("What is it? ", 3, answer="red"),
        asked("What is it? ", answer="a blue square"),
        asked("What is it? ", answer="red"),
        asked("What is it? ", 1, answer="a ring"),
        asked("Where? ", answer="on top"),
        asked(2, " Where? ", answer="there"),
    ],
    "more of a question than a row takes": [
        asked("What is it? ", 1 + k % 3, " Say.", answer=" ".join(["red"] * (1 + k % 4)))
        for k in range(19)
    ],
    "lengths far apart": [
        asked("Hi ", 1, answer="red"),
        asked(LONG * 3, 4, LONG, answer=SIDES * 2),
        asked("Hi ", 1, answer=""),
        asked("So?", answer="no"),
    ],
    "one prompt": [asked("What is it? ", 3, answer="red")],
}


def learning(folder, bits=32):
    """An LLM whose LoRA learns and is not the zero it starts from."""
    llm = load_llm(folder, bits=bits)
    add_lora(llm, LoraSpec(rank=4, alpha=8), seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in lora_parameters(llm).items():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return llm


@pytest.fixture(scope="module")
def llms(tiny_folder, gemma_folder, tmp_path_factory):
    """Tiny LLMs that learn; gemma's window is 16 positions, that of wide-gemma longer than all."""
    wide = shutil.copytree(gemma_folder, tmp_path_factory.mktemp("llm") / "wide-gemma")
    config = json.loads((wide / "config.json").read_text())
    (wide / "config.json").write_text(json.dumps({**config, "sliding_window": 400}))
    folders = {"llama": tiny_folder, "gemma": gemma_folder, "wide-gemma": wide}
    return {name: learning(folder) for name, folder in folders.items()}


def rendered(llm, batch, system=SYSTEM):
    """Prompts of dialogues, and leaf modality tokens on the scale of token embeddings."""
    prompts = [render_dialogue(llm, dialogue, system=system) for dialogue in batch]
    generator = torch.Generator().manual_seed(0)
    spans = [
        (torch.randn(length, llm.width, generator=generator) * llm.embedding_rms).requires_grad_()
        for dialogue in batch
        for length in dialogue.items
    ]
    return prompts, spans


def model_of(llm, packed):
    """With packed rows and nothing read that is padding, or on the plain path."""
    switches = StepSpec(prefix=packed, unpad=packed, compile=False)
    return AnyMAL(llm, replace(load_profile("mini"), step=switches))


def step(llm, batch, prefix, system=SYSTEM):
    """Loss, and the gradients of all modality tokens and of each LoRA weight."""
    prompts, spans = rendered(llm, batch, system)
    learned = [*lora_parameters(llm).values()]
    loss = model_of(llm, prefix).response_loss(prompts, spans)
    gradients = torch.autograd.grad(loss, [*spans, *learned])
    of_spans, of_lora = gradients[: len(spans)], gradients[len(spans) :]
    return loss.item(), [torch.cat(of_spans)] if spans else [], of_lora


def assert_equal(ours, plain):
    """Loss and gradients up to the rounding of fp32."""
    assert abs(ours[0] - plain[0]) <= 1e-6 * max(1, plain[0])
    for got, wanted in zip([*ours[1], *ours[2]], [*plain[1], *plain[2]], strict=True):
        assert wanted.norm() > 0
        assert (got - wanted).norm() <= 2e-4 * wanted.norm()


@pytest.mark.parametrize("system", [SYSTEM, ""])
@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("name", ["llama", "gemma", "wide-gemma"])
def test_a_packed_batch_gives_the_plain_loss_and_gradients(llms, name, kind, system):
    packed, plain = (step(llms[name], BATCHES[kind], prefix, system) for prefix in (True, False))
    assert_equal(packed, plain)


def test_a_base_model_without_template_gives_the_same(tiny_folder):
    llm = learning(tiny_folder)
    llm.tokenizer.chat_template = None  # an item can be the very first: no text is shared
    items_first = [asked(2, answer="red"), asked(3, " or ", 1, answer="a blue square")]
    for batch in (items_first, [*items_first, *BATCHES["several turns"]]):
        assert_equal(*(step(llm, batch, prefix, system="") for prefix in (True, False)))


@pytest.fixture(scope="module")
def reads(llms):
    """What the first layer of llama reads: rows and positions, call by call."""
    seen = []
    llms["llama"].model.base_model.layers[0].register_forward_pre_hook(
        lambda layer, args: seen.append(tuple(args[0].shape[:2]))
    )
    return seen


@pytest.mark.parametrize("kind", ["a shared question", "more of a question than a row takes"])
def test_a_shared_beginning_is_read_once_a_row(llms, reads, kind):
    llm, (prompts, spans) = llms["llama"], rendered(llms["llama"], BATCHES[kind])
    reads.clear()
    model_of(llm, True).log_likelihoods(prompts, spans)
    model_of(llm, False).log_likelihoods(prompts, spans)
    (rows, length), (plain_rows, plain_length) = reads
    assert plain_rows == len(prompts)
    assert rows <= -(-len(prompts) // 4)
    assert rows * length < 0.75 * plain_rows * plain_length


def test_short_groups_share_a_row(llms):
    llm = llms["llama"]
    batch = [asked(LONG * 4, 2, answer="red")]
    batch += [asked(f"{k}? ", 1, answer="no") for k in range(4)]
    prompts, spans = rendered(llm, batch, "")
    assert len(pack(llm, prompts, spans).mask) < len(batch)
    assert_equal(*(step(llm, batch, prefix, "") for prefix in (True, False)))


def test_rows_with_texts_come_in_few_lengths(llms):
    """So that what one step frees is what the next one asks for."""
    batches = [[asked(LONG, k, answer="red") for k in range(50, n)] for n in (53, 57)]
    shapes = [pack(llms["llama"], *rendered(llms["llama"], b)).mask.shape for b in batches]
    assert shapes[1][0] > shapes[0][0]
    assert all(length % 8 == 0 for rows, *_, length in shapes if rows > 1)


def test_a_group_is_cut_where_its_parts_fill_rows_better(llms):
    """Of one text and twenty prompts a row holds some; as many in the last as in the others."""
    llm = llms["llama"]
    prompts, spans = rendered(llm, [asked("What is it? ", 6, answer="red") for _ in range(20)])
    rows, length = pack(llm, prompts, spans).positions.shape
    branch = 6 + len(prompts[0].pieces[1]) + len(prompts[0].response) - 1
    read = rows * len(prompts[0].pieces[0]) + 20 * branch
    assert rows > 1 and read > 0.9 * rows * length


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_prompts_after_a_constant_prefix_share_rows(tiny_folder, gemma_folder, name):
    """Read in rows of several or one each: the same likelihoods and gradients."""
    llm = load_llm({"llama": tiny_folder, "gemma": gemma_folder}[name], bits=32)
    batch = [asked("What is it? ", 2 + k % 3, answer="red " * (1 + 3 * (k % 5))) for k in range(9)]
    prompts, spans = rendered(llm, batch)
    found, shapes = [], []
    llm.model.base_model.layers[0].register_forward_pre_hook(
        lambda layer, args: shapes.append(tuple(args[0].shape[:2]))
    )
    for unpad in (True, False):
        model = AnyMAL(llm, replace(load_profile("mini"), step=StepSpec(unpad=unpad)))
        loss = model.response_loss(prompts, spans)
        found.append((loss.item(), [torch.cat(torch.autograd.grad(loss, spans))], []))
    assert_equal(*found)
    _, (rows, length), (plain_rows, plain_length) = shapes  # the first read is the prefix
    assert plain_rows == len(batch)
    if name == "llama":  # gemma's window is shorter than the prompts
        assert rows < len(batch) and rows * length < 0.8 * plain_rows * plain_length


def one_by_one(llm, prompts, spans):
    """Log-likelihoods of each prompt alone on the plain path."""
    model, rest = model_of(llm, False), iter(spans)
    with torch.no_grad():
        return [model.log_likelihoods([p], [next(rest) for _ in range(p.items)]) for p in prompts]


def packed_by_prompt(llm, prompts, spans):
    """The same from one packed batch."""
    with torch.no_grad():
        together = model_of(llm, True).log_likelihoods(prompts, spans)
    return together.split([prompt.learned for prompt in prompts])


@pytest.mark.parametrize("kind", BATCHES)
def test_likelihoods_come_prompt_by_prompt_as_alone(llms, kind):
    llm = llms["llama"]
    prompts, spans = rendered(llm, BATCHES[kind])
    alone = one_by_one(llm, prompts, spans)
    for ours, own in zip(packed_by_prompt(llm, prompts, spans), alone, strict=True):
        torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-4)


turns = st.tuples(
    st.sampled_from([("Hi ",), ("What is it? ",), ("Who?",), (LONG,), ("Hi ", 2, " or ", 1), (3,)]),
    st.lists(st.integers(1, 4), max_size=2),
    st.sampled_from(["red", "a blue square", "", SIDES]),
)
batches = st.lists(st.lists(turns, min_size=1, max_size=3), min_size=1, max_size=12)


@settings(max_examples=25)
@given(batch=batches, system=st.sampled_from([SYSTEM, ""]))
def test_any_groups_of_prompts_are_as_each_alone(llms, batch, system):
    llm = llms["llama"]
    dialogues = [
        Dialogue([((*text, *items), answer) for text, items, answer in conversation])
        for conversation in batch
    ]
    prompts, spans = rendered(llm, dialogues, system)
    alone = one_by_one(llm, prompts, spans)
    for ours, own in zip(packed_by_prompt(llm, prompts, spans), alone, strict=True):
        torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-4)
    assert_equal(*(step(llm, dialogues, prefix, system) for prefix in (True, False)))


# Nothing of a neighbour --------------------------------------------------------------------------

NEIGHBOURS = [
    asked("What is it? ", 3, " Say.", answer="a red square"),
    asked("What is it? ", 2, " Say.", answer="blue"),
    asked("Hi ", 1, answer="no"),
    asked("What is it? ", 3, " Say.", answer="green"),
    asked("Who are you?", answer="nobody"),
]


@pytest.mark.parametrize("changed", range(len(NEIGHBOURS)))
def test_no_prompt_sees_another(llms, changed):
    llm = llms["llama"]
    prompts, spans = rendered(llm, NEIGHBOURS)
    before = packed_by_prompt(llm, prompts, spans)
    others = [k for k in range(len(prompts)) if k != changed]
    first = sum(prompt.items for prompt in prompts[:changed])
    for k in range(first, first + prompts[changed].items):
        spans[k] = -2 * spans[k].detach()
    turned = tuple(reversed(prompts[changed].response))
    prompts[changed] = replace(prompts[changed], response=turned)
    after = packed_by_prompt(llm, prompts, spans)
    assert not torch.equal(before[changed], after[changed])
    for k in others:
        assert torch.equal(before[k], after[k]), f"prompt {k} saw prompt {changed}"


def test_no_gradient_reaches_another_prompts_items(llms):
    llm = llms["llama"]
    prompts, spans = rendered(llm, NEIGHBOURS[:4])
    together = model_of(llm, True).log_likelihoods(prompts, spans)
    parts = together.split([prompt.learned for prompt in prompts])
    for k, part in enumerate(parts):
        gradients = torch.autograd.grad(part.sum(), spans, retain_graph=True)
        assert [gradient.abs().sum() > 0 for gradient in gradients] == [k == at for at in range(4)]


def test_the_mask_shows_a_branch_its_text_and_itself(llms):
    """Two prompts of one text: text, branch, branch, padding; and a row of another prompt."""
    llm = llms["llama"]
    prompts, spans = rendered(llm, [NEIGHBOURS[0], NEIGHBOURS[3], asked("Hi ", 120, answer="")])
    packed = pack(llm, prompts, spans)
    text = len(prompts[0].pieces[0])
    ends = [len(prompts[k].pieces[1]) + 3 + len(prompts[k].response) - 1 for k in (0, 1)]
    seen = (packed.mask[1, 0] == 0).long()  # the longest prompt's row comes first
    last = text + sum(ends) - 1
    assert packed.mask.shape[0] == 2 and packed.mask.shape[-1] > last + 1
    at = text + ends[0]  # the second branch begins
    assert packed.positions[1, [0, text - 1, text, at, last]].tolist() == [
        *(0, text - 1, text, text, text + ends[1] - 1)
    ]
    assert seen[at].nonzero().flatten().tolist() == [*range(text), at]
    assert seen[text - 1].sum() == text and seen[at - 1].sum() == at
    assert seen[last].sum() == text + ends[1]
    assert not seen[last + 1 :, : last + 1].any(), "padding looks at a prompt"
    assert (packed.mask.amax(-1) == 0).all(), "padding sees something: no softmax of nothing"


# Other ways to run it ----------------------------------------------------------------------------


def test_a_frozen_llm_is_not_packed_and_gives_the_same(tiny_folder):
    llm = learning(tiny_folder)
    prompts, spans = rendered(llm, BATCHES["several turns"])
    learning_loss = model_of(llm, True).response_loss(prompts, spans)
    freeze_lora(llm)
    asked_for = []
    remember = llm.remember
    llm.remember = lambda texts: asked_for.append(texts) or remember(texts)
    frozen_loss = model_of(llm, True).response_loss(prompts, spans)
    assert len(asked_for) == 1
    assert frozen_loss.item() == pytest.approx(learning_loss.item(), rel=1e-6)


def test_compiled_layers_give_the_plain_loss_and_gradients(llms):
    llm = llms["llama"]
    kinds = ["a shared question", "text beside items", "several turns"]
    plain = [step(llm, BATCHES[kind], False) for kind in kinds]
    torch._dynamo.reset()
    with compiled_layers(llm):
        ours = [step(llm, BATCHES[kind], True) for kind in kinds]
    for packed, own in zip(ours, plain, strict=True):
        assert_equal(packed, own)


def test_a_bf16_llm_gives_the_loss_up_to_its_rounding(tiny_folder):
    llm = learning(tiny_folder, bits=16)
    for kind in ("a shared question", "lengths far apart"):
        packed, plain = (step(llm, BATCHES[kind], prefix) for prefix in (True, False))
        assert packed[0] == pytest.approx(plain[0], rel=0.02)
        assert all(gradient.isfinite().all() for gradient in (*packed[1], *packed[2]))
