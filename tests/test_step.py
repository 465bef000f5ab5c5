"""A training step: every switch leaves loss and gradient as on the plain path, which is the same
as transformers' own of each prompt.
"""

import hashlib
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from anymal_lib.bank import EncodedAtUse, build_bank
from anymal_lib.config import load_profile
from anymal_lib.llm import load_llm
from anymal_lib.manifest import load_manifest
from anymal_lib.model import AnyMAL
from anymal_lib.prompt import render, split_prefix
from anymal_lib.specs import StepSpec
from anymal_lib.train import AdapterTrainer, Samples, train_adapter

ITEM = object()
SYSTEM = "You describe what you sense."
SWITCHES = [field.name for field in fields(StepSpec) if field.name != "compile"]
# Compilation has tests of its own (test_compiled.py).
OFF = StepSpec(**dict.fromkeys(SWITCHES, False), compile=False)
ON = StepSpec(**dict.fromkeys(SWITCHES, True), compile=False)


def assert_equal(ours, plain):
    """Loss and gradient up to the rounding of fp32."""
    (loss, gradient), (plain_loss, plain_gradient) = ours, plain
    assert abs(loss - plain_loss) <= 1e-6 * max(1, plain_loss)
    assert plain_gradient.norm() > 0
    assert (gradient - plain_gradient).norm() <= 2e-4 * plain_gradient.norm()


@pytest.fixture(scope="module")
def one_step(new_model, bank_of, tiny_encoders, image_card, imu_card, own_loss):
    """Function: loss and gradient of one real step, with captions of several lengths.

    With `own`, transformers' loss of each prompt takes the place of ours. `seen` gets the lengths
    of the responses, micro-batch by micro-batch.
    """

    def banked(modality, cache):
        card = image_card if modality == "image" else imu_card
        bank = bank_of(card)
        if not cache:
            rows = load_manifest(card).split("train")
            encoder = tiny_encoders[modality]
            bank = build_bank(encoder, rows, batch=16, max_bad_share=0, title="", cache=False)
            assert isinstance(bank.intermediate, EncodedAtUse)
        longer = " and nobody knows why"
        rows = [replace(r, text=(r.text[0] + k % 3 * longer,)) for k, r in enumerate(bank.rows)]
        return replace(bank, rows=rows)

    def run(switches, modality="image", *, micro_batch=None, own=False, seen=None):
        model = new_model(32, step=switches)
        response_loss = model.response_loss

        def own_of(prompts, spans):
            losses = [own_loss(model.llm, p, [s]) for p, s in zip(prompts, spans, strict=True)]
            return sum(losses) / len(losses)

        def watched(prompts, spans):
            seen.append([len(prompt.response) for prompt in prompts])
            return response_loss(prompts, spans)

        if own:
            model.response_loss = own_of
        if seen is not None:
            model.response_loss = watched
        bank = banked(modality, switches.cache_features)
        spec = model.spec(modality).align
        spec = replace(spec, grad_clip=1e9, micro_batch=micro_batch)  # the gradient as it is
        trainer = AdapterTrainer(model, modality, bank, spec, seed=0)
        gradients = []
        trainer.optimizer.optimizer.register_step_pre_hook(
            lambda *_: gradients.append(
                torch.cat([p.grad.flatten() for p in trainer.learned.parameters()])
            )
        )
        samples = Samples(bank, spec, 0)
        loss = trainer.step([samples[k] for k in range(spec.batch)])
        (gradient,) = gradients
        return loss, gradient

    return run


@pytest.mark.parametrize(
    ("modality", "micro_batch"), [("image", None), ("image", 2), ("imu", None), ("imu", 4)]
)
def test_the_plain_step_is_transformers_own(one_step, modality, micro_batch):
    plain = one_step(OFF, modality, micro_batch=micro_batch)
    assert_equal(plain, one_step(OFF, modality, micro_batch=micro_batch, own=True))


@pytest.mark.parametrize(
    ("switch", "modality"),
    # Augmentation of motions is drawn in the order of the samples.
    [(s, m) for s in SWITCHES for m in ("image", "imu") if (s, m) != ("sort_micro_batches", "imu")],
)
def test_each_switch_gives_the_plain_step(one_step, switch, modality):
    plain = one_step(OFF, modality, micro_batch=2)
    assert_equal(one_step(replace(OFF, **{switch: True}), modality, micro_batch=2), plain)


@pytest.mark.parametrize("micro_batch", [None, 2])
@pytest.mark.parametrize("modality", ["image", "imu"])
def test_all_switches_together_give_the_plain_step(one_step, modality, micro_batch):
    on = ON if modality == "image" else replace(ON, sort_micro_batches=False)
    plain = one_step(OFF, modality, micro_batch=micro_batch)
    assert_equal(one_step(on, modality, micro_batch=micro_batch), plain)


@pytest.mark.parametrize("switches", [OFF, ON])
def test_micro_batches_give_the_step_of_the_whole_batch(one_step, switches):
    assert_equal(one_step(switches, micro_batch=2), one_step(switches))


def test_micro_batches_are_sorted_by_length(one_step):
    drawn, ordered = [], []
    one_step(OFF, micro_batch=2, seen=drawn)
    one_step(replace(OFF, sort_micro_batches=True), micro_batch=2, seen=ordered)
    assert [len(lengths) for lengths in drawn] == [len(lengths) for lengths in ordered] == [2] * 4
    drawn, ordered = ([n for lengths in seen for n in lengths] for seen in (drawn, ordered))
    assert drawn != ordered == sorted(drawn) and len(set(drawn)) > 2


# Any batch of prompts, not only what training makes ---------------------------------------------

BATCHES = {
    "one instruction": [(["What is it? ", ITEM, " Say it."], end) for end in ("red", "a big dog")],
    "another instruction each": [
        (["What is it? ", ITEM], "red"),
        (["Look closely and describe in a few words what you see: ", ITEM, " Now."], "a blue one"),
        (["Say. ", ITEM], "on the left is a blue square"),
    ],
    "some of text only": [
        (["Who are you?"], "nobody at all"),
        (["What is it? ", ITEM], "red"),
        (["Tell me a long story about the sea, please, and be kind."], "no"),
    ],
    "text only": [(["Who are you?"], "nobody"), (["Hi, how is the sea?"], "deep and green")],
    "items first": [([ITEM, " What is it?"], "red"), ([ITEM, ITEM], "two of them")],
    "two items": [
        (["See ", ITEM, " and ", ITEM, ": compare."], "both are red"),
        (["What is it? ", ITEM, ITEM], "a pair"),
    ],
    "all kinds": [
        ([ITEM, " then ", ITEM, ITEM], "three"),
        (["Who are you?"], "nobody"),
        (["What is it? ", ITEM], "on the left is a blue square"),
        (["See ", ITEM, " and ", ITEM], "red"),
        ([ITEM], ""),
    ],
}


@pytest.fixture(scope="module")
def batch_step(tiny_folder, gemma_folder, own_loss):
    """Function: loss and gradient of a batch of prompts whose tokens come from one linear layer."""
    folders = {"llama": tiny_folder, "gemma": gemma_folder}
    llms = {name: load_llm(folder, bits=32) for name, folder in folders.items()}

    def run(name, batch, switches, *, system=SYSTEM, own=False):
        llm = llms[name]
        prompts = [render(llm, parts, system=system, response=end) for parts, end in batch]
        counts = [prompt.items for prompt in prompts]
        torch.manual_seed(0)
        adapter = torch.nn.Linear(5, 3 * llm.width)
        adapter.weight.data *= llm.embedding_rms
        spans = list(adapter(torch.randn(sum(counts), 5)).unflatten(-1, (3, -1)))
        if own:
            rest = iter(spans)
            losses = [own_loss(llm, p, [next(rest) for _ in range(p.items)]) for p in prompts]
            loss = sum(losses) / len(losses)
        else:
            model = AnyMAL(llm, replace(load_profile("mini"), step=switches))
            loss = model.response_loss(prompts, spans)
        if spans:
            loss.backward()
            return loss.item(), adapter.weight.grad
        assert not loss.requires_grad
        return loss.item(), torch.ones(1)

    return run


@pytest.mark.parametrize("system", [SYSTEM, ""])
@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_any_batch_gives_transformers_own_loss_and_gradient(batch_step, name, kind, system):
    own = batch_step(name, BATCHES[kind], OFF, system=system, own=True)
    for switches in (OFF, ON, replace(OFF, prefix=True)):
        assert_equal(batch_step(name, BATCHES[kind], switches, system=system), own)


# What the prefix keeps out of a step -------------------------------------------------------------


@pytest.mark.parametrize("unpad", [True, False])
def test_a_step_that_learns_reads_nothing_before_the_first_item_and_little_padding(
    new_model, bank_of, image_card, tiny_folder, unpad
):
    model, reads = new_model(32, step=replace(ON, unpad=unpad)), []
    model.llm = load_llm(tiny_folder, bits=32)
    model.llm.model.base_model.layers[0].register_forward_pre_hook(
        lambda layer, args: reads.append((*args[0].shape[:2], torch.is_grad_enabled()))
    )
    bank, spec = bank_of(image_card), model.spec("image").align
    longer = " and nobody knows why"
    rows = [replace(r, text=(r.text[0] + k % 2 * longer,)) for k, r in enumerate(bank.rows)]
    bank = replace(bank, rows=rows)
    trainer = AdapterTrainer(model, "image", bank, spec, seed=0)
    samples = Samples(bank, spec, 0)
    after = 4 + len(render(model.llm, ["", ITEM]).pieces[1])
    lengths = []
    for step in range(8):
        batch = [samples[step * spec.batch + k] for k in range(spec.batch)]
        trainer.step(batch)
        # A caption's last token is predicted, the end of the turn: what is read is the caption.
        lengths.append([after + len(model.llm.tokenize(sample.caption)) for sample in batch])
    learned = [rows * length for rows, length, learns in reads if learns]
    padded = [len(own) * max(own) for own in lengths]
    if unpad:
        shares = [sum(own) / area for own, area in zip(lengths, learned, strict=True)]
        assert max(shares) <= 1 and sum(shares) / len(shares) > 0.9
        assert sum(learned) < 0.95 * sum(padded)
    else:
        assert learned == padded
    constant = [rows for rows, _, learns in reads if not learns]
    instructions = model.spec("image").instructions
    assert constant == [1] * len(constant) and 2 <= len(constant) <= len(instructions)


def test_a_batch_that_shares_its_text_asks_for_it_once(tiny_folder):
    llm = load_llm(tiny_folder, bits=32)
    prompts = [render(llm, ["What? ", ITEM], response=end) for end in ("red", "a blue square")]
    texts = [split_prefix(prompt)[0] for prompt in prompts]
    prefix = llm.remember(texts)
    assert llm.remember(texts[:1]) is prefix is llm.remember(texts * 2)
    assert not any(t.requires_grad or t.grad_fn for layer in prefix.layers for t in layer)


# Whole runs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def train(new_model, bank_of, image_card, tmp_path_factory):
    """Function: train in bf16 with some switches; the losses and the adapter's bytes."""

    def run(switches, steps=30):
        model = new_model(16, step=switches)
        spec = replace(model.spec("image").align, steps=steps, micro_batch=4)
        folder = tmp_path_factory.mktemp("run")
        curve = train_adapter(
            model, "image", bank_of(image_card), spec, seed=0, folder=folder / "run"
        )
        saved = model.save_pretrained(folder / "model") / "image.adapter.safetensors"
        return [r.loss for r in curve], hashlib.sha256(saved.read_bytes()).hexdigest()

    return run


def test_in_bf16_all_switches_end_where_the_plain_path_ends(train):
    (on, _), (off, _) = train(ON), train(OFF)
    assert on[0] == pytest.approx(off[0], rel=0.02)
    on_end, off_end = np.mean(on[-5:]), np.mean(off[-5:])
    assert on_end == pytest.approx(off_end, rel=0.1)
    assert max(on_end, off_end) < 0.9 * on[0], "both have learned"


@pytest.mark.parametrize("switches", [ON, OFF])
def test_the_same_seed_gives_the_same_bytes(train, switches):
    assert train(switches, steps=6) == train(switches, steps=6)


@pytest.mark.parametrize("cache", [True, False])
def test_some_rows_of_a_bank_have_their_own_features(tiny_encoders, image_card, cache):
    rows = load_manifest(image_card).split("train")
    encoder = tiny_encoders["image"]
    bank = build_bank(encoder, rows, batch=16, max_bad_share=0, title="", cache=cache)
    few = bank.some([5, 0, 3])
    assert [row.id for row in few.rows] == [bank.rows[k].id for k in (5, 0, 3)]
    assert isinstance(few.intermediate, EncodedAtUse) != cache
    for place, k in enumerate((5, 0, 3)):
        assert torch.equal(few.intermediate[place], bank.intermediate[k])
