"""Fine-tuning on a tiny model: it learns, repeats itself, goes on where it stopped, keeps the LLM.

Items and their tokens (`anymal_lib.instruct.media`) are at the end.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from anymal_lib.instruct.examples import Item, ask
from anymal_lib.instruct.finetune import InstructionTrainer, finetune
from anymal_lib.instruct.media import Media
from anymal_lib.instruct.mixture import Drawn
from anymal_lib.lora import add_lora, lora_parameters
from anymal_lib.seeds import generator_for


class InterruptedRunError(Exception):
    """The machine went down."""


def learned(model):
    """Adapters and LoRA weights by name, as they are now."""
    weights = {**model.adapters.state_dict(), **lora_parameters(model.llm)}
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


def base_weights(llm):
    """The LLM's own weights, by the names that they have without LoRA."""
    return {
        name.replace(".base_layer", ""): tensor.clone()
        for name, tensor in llm.model.state_dict().items()
        if ".lora_" not in name
    }


def same(one, other):
    """Are two sets of weights equal in every bit?"""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture(scope="module")
def train(own_model, media_of, asked):
    """Function: fine-tune a model in a folder; returns it, its curve and the steps taken."""

    def run(folder, *, lora, model=None, seed=0, parts=None, stop_at=None, **changes):
        model = model or own_model(seed)
        spec = replace(model.profile.finetuning.lora_train, **changes)
        steps = []

        def on_step(report):
            steps.append(report.step)
            if report.step == stop_at:
                raise InterruptedRunError

        result = {"model": model, "steps": steps}
        try:
            result["curve"] = finetune(
                model, media_of(), parts or asked(), spec,
                lora=lora, seed=seed, folder=folder, on_step=on_step,
            )  # fmt: skip
        except InterruptedRunError:
            return result
        return result | {"weights": learned(model)}

    return run


def losses(result):
    return [report.loss for report in result["curve"]]


@pytest.mark.parametrize("lora", [False, True])
def test_the_loss_falls_and_only_what_learns_changes(train, own_model, tmp_path, lora):
    model = own_model()
    llm, adapters = base_weights(model.llm), learned(model)
    encoders = {name: encoder.checksum() for name, encoder in model.encoders.items()}
    result = train(tmp_path, lora=lora, model=model, steps=30)
    curve = losses(result)
    assert np.mean(curve[-8:]) < 0.8 * np.mean(curve[:3])
    assert same(base_weights(model.llm), llm)
    assert {name: encoder.checksum() for name, encoder in model.encoders.items()} == encoders
    for modality in ("image", "imu"):
        names = [name for name in adapters if name.startswith(f"{modality}.")]
        assert any(not torch.equal(adapters[n], result["weights"][n]) for n in names), modality
    second = {name: w for name, w in lora_parameters(model.llm).items() if ".lora_B" in name}
    assert bool(second) == lora and all(w.any() for w in second.values())
    assert not model.llm.learns and not model.adapters.training


@pytest.mark.parametrize("lora", [False, True])
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(train, tmp_path, lora):
    first, again, other = (
        train(tmp_path / name, lora=lora, seed=seed, steps=3)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert same(first["weights"], again["weights"]) and losses(first) == losses(again)
    assert not same(first["weights"], other["weights"])


@pytest.mark.parametrize("lora", [False, True])
def test_a_resumed_run_ends_with_the_bytes_of_an_uninterrupted_one(train, tmp_path, lora):
    whole = train(tmp_path / "whole", lora=lora)
    stopped = train(tmp_path / "stopped", lora=lora, stop_at=5)
    assert stopped["steps"] == [1, 2, 3, 4, 5]
    assert [p.name for p in (tmp_path / "stopped").glob("check*")] == ["checkpoint-0000003"]
    resumed = train(tmp_path / "stopped", lora=lora)
    assert resumed["steps"] == [4, 5, 6, 7, 8]
    assert same(resumed["weights"], whole["weights"]) and losses(resumed) == losses(whole)


def with_weights(model, **changes):
    model.profile = replace(model.profile, finetune=replace(model.profile.finetuning, **changes))
    return model


def test_another_mixture_start_or_kind_does_not_go_on_from_a_checkpoint(
    train, own_model, asked, tmp_path
):
    other = {**asked(), "imu": asked()["imu"][:-1]}
    moved = own_model()
    with torch.no_grad():
        next(moved.adapters.parameters()).add_(1e-6)
    weighted = with_weights(own_model(), weights={"image": 1.0, "imu": 1.0})
    for name, changes in {
        "examples": {"parts": other},
        "weights": {"model": weighted},
        "start": {"model": moved},
        "kind": {"lora": True},
        "seed": {"seed": 1, "model": own_model(0)},
    }.items():
        folder = tmp_path / name
        assert train(folder, lora=False, steps=5, stop_at=4)["steps"] == [1, 2, 3, 4]
        assert train(folder, **{"lora": False, "steps": 5, **changes})["steps"][0] == 1, name


def test_lora_that_is_there_goes_on_learning_or_stays(train, tmp_path):
    """A saved model that was loaded has its LoRA frozen; a run that was stopped has not."""
    model = train(tmp_path / "first", lora=True, steps=2)["model"]
    before = {name: w.detach().clone() for name, w in lora_parameters(model.llm).items()}
    train(tmp_path / "further", lora=True, model=model, steps=2)
    after = {name: w.detach().clone() for name, w in lora_parameters(model.llm).items()}
    assert before.keys() == after.keys() and not any(
        torch.equal(before[name], after[name]) for name in before
    )
    train(tmp_path / "stopped", lora=True, model=model, steps=2, stop_at=1)
    assert model.llm.learns
    kept = {name: w.detach().clone() for name, w in lora_parameters(model.llm).items()}
    train(tmp_path / "adapters", lora=False, model=model, steps=2)
    assert same(lora_parameters(model.llm), kept) and not model.llm.learns


@pytest.mark.parametrize("learn", [True, False])
def test_beside_lora_the_adapters_learn_where_the_recipe_says_so(train, own_model, tmp_path, learn):
    """Alone they learn all the same."""
    for lora in (True, False):
        model = with_weights(own_model(), adapters_learn=learn)
        before = {name: tensor.clone() for name, tensor in model.adapters.state_dict().items()}
        result = train(tmp_path / f"{lora}", lora=lora, model=model, steps=2)
        assert same(model.adapters.state_dict(), before) == (lora and not learn)
        assert result["curve"][-1].lr > 0
        assert all(w.any() for name, w in lora_parameters(model.llm).items() if "lora_B" in name)


def test_below_loras_first_layer_nothing_is_kept_for_a_backward(own_model, media_of, asked):
    model = with_weights(own_model(), adapters_learn=False)
    add_lora(model.llm, replace(model.profile.finetuning.lora, first_layer=1), seed=0)
    trainer = InstructionTrainer(
        model, media_of(), model.profile.finetuning.lora_train, 0, adapters=False
    )
    needed = []
    for layer in model.llm.model.base_model.layers:
        layer.register_forward_hook(
            lambda layer, args, output: needed.append((args[0].requires_grad, output.requires_grad))
        )
    samples = [Drawn(example, 0) for example in asked()["image"][:8]]
    (part,) = trainer.parts(samples)
    trainer.loss(part).backward()
    assert needed == [(False, False), (False, True)]
    assert all(p.grad is None for p in model.adapters.parameters())


def test_items_are_left_out_only_where_the_llm_learns(train, own_model, tmp_path):
    every = {"image": 1.0, "imu": 1.0}
    for lora in (False, True):
        kept, dropped = (
            train(tmp_path / f"{lora}-{name}", lora=lora, model=model, steps=3)["weights"]
            for name, model in {
                "kept": own_model(),
                "dropped": with_weights(own_model(), item_dropout=every),
            }.items()
        )
        assert same(kept, dropped) == (not lora)


@pytest.mark.parametrize("lora", [False, True])
def test_accumulated_micro_batches_equal_the_whole_batch(train, tmp_path, lora):
    """Motions are augmented at random: micro-batches must draw what the whole batch does."""
    one = train(tmp_path / "one", lora=lora, steps=2)
    many = train(tmp_path / "many", lora=lora, steps=2, micro_batch=2)
    assert many["steps"] == [1, 2]
    assert losses(many) == pytest.approx(losses(one), rel=1e-5)


def test_micro_batches_have_the_whole_batchs_gradient(own_model, media_of, asked):
    model = own_model()
    spec = model.profile.finetuning.projection
    mixed = [e for both in zip(asked()["image"], asked()["imu"], strict=False) for e in both]
    drawn = [Drawn(example, 0) for example in mixed[: spec.batch]]
    gradients = []
    for size in (8, 2, 1):
        trainer = InstructionTrainer(model, media_of(), replace(spec, micro_batch=size), 0)
        model.adapters.zero_grad()
        for part in trainer.parts(drawn):
            (trainer.loss(part) * size / 8).backward()
        gradients.append([p.grad.clone() for p in model.adapters.parameters()])
    for other in gradients[1:]:
        for whole, summed in zip(gradients[0], other, strict=True):
            # What is nothing but rounding (a key's bias shifts all scores alike) is left out.
            assert (whole - summed).norm() <= 1e-4 * whole.norm() + 1e-7


def some_items():
    names = [("image", "square-3"), ("imu", "motion-1"), ("image", "square-0"), ("imu", "motion-2")]
    return [Item(*name) for name in names]


def tokens_of(model, media, items):
    return media.tokens(model, model.adapters, items, media.inputs(model, items))


def test_tokens_come_in_the_order_of_the_items_and_equal_one_by_one(own_model, media_of):
    model, media, items = own_model(), media_of(), some_items()
    model.adapters.eval()
    together = tokens_of(model, media, items)
    assert [len(span) for span in together] == [4, 3, 4, 3]
    for item, span in zip(items, together, strict=True):
        torch.testing.assert_close(span, tokens_of(model, media, [item])[0])
    evaluated = media.all_tokens(model, [*items, items[0]])
    assert set(evaluated) == set(items)
    for item, span in zip(items, together, strict=True):
        torch.testing.assert_close(evaluated[item], span.detach())
    sum(span.sum() for span in together).backward()
    assert all(p.grad is not None for p in model.adapters.parameters())


def test_augmented_inputs_follow_their_generator(own_model, media_of):
    model, media, items = own_model(), media_of(), some_items()

    def inputs(step):
        return media.inputs(model, items, lambda modality: generator_for(0, modality, step))

    plain, one, again, other = media.inputs(model, items), inputs(0), inputs(0), inputs(1)
    for k, item in enumerate(items):
        assert torch.equal(one[k], again[k])
        changes = item.modality == "imu"
        for variant in (plain, other):
            equal = one[k].shape == variant[k].shape and torch.equal(one[k], variant[k])
            assert equal != changes


def test_examples_of_items_that_could_not_be_read_are_dropped(media_of, asked):
    media = media_of()
    images = replace_rows(media.banks["image"], lambda row: row.id != "square-3")
    fewer = Media({**media.banks, "image": images})
    pair = ask("Same?", *some_items()[:2], answer="no", kind="any", source="pairs")
    examples = [*asked()["image"], pair]
    assert media.of(examples) == examples
    lost = Item("image", "square-3")
    kept = fewer.of(examples)
    assert kept == [e for e in examples if lost not in e.items]
    assert kept and pair not in kept
    assert lost not in fewer.rows and media.rows[lost].id == "square-3"


def replace_rows(bank, keep):
    """The bank without some rows, as where they could not be read."""
    chosen = [k for k, row in enumerate(bank.rows) if keep(row)]
    return replace(
        bank,
        rows=[bank.rows[k] for k in chosen],
        intermediate=[bank.intermediate[k] for k in chosen],
    )
