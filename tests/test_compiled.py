"""Compiled layers: the plain loss and gradient from one graph, and nothing of it stays behind."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from anymal_lib.compiled import compiled_layers, repays
from anymal_lib.config import load_profile
from anymal_lib.errors import ConfigError
from anymal_lib.llm import load_llm
from anymal_lib.lora import add_lora, lora_parameters
from anymal_lib.model import AnyMAL
from anymal_lib.prompt import render, split_prefix
from anymal_lib.specs import LoraSpec, StepSpec
from anymal_lib.train import train_adapter

ITEM = object()
LONG = "Look closely and describe in a few words what you see in this picture: "
ENDS = ("red", "a blue square", "on the left is a blue square and on the right is a red one")


@pytest.fixture(scope="module")
def llms(tiny_folder, gemma_folder):
    """Tiny language models of this file's own."""
    folders = {"llama": tiny_folder, "gemma": gemma_folder}
    return {name: load_llm(folder, bits=32) for name, folder in folders.items()}


def prompts_of(llm, texts, ends):
    return [render(llm, [*text, " Say."], response=e) for text, e in zip(texts, ends, strict=True)]


def batches_of(llm, same):
    """Batches of two prompts in several lengths; their texts before the item same or not."""
    texts = [["What is it? ", ITEM]] * 2 if same else [["What is it? ", ITEM], [LONG, ITEM]]
    return [prompts_of(llm, texts, ends) for ends in (ENDS[:2], ENDS[1:], ENDS[::2])]


def loss_and_gradient(llm, prompts, prefix):
    torch.manual_seed(0)
    adapter = torch.nn.Linear(5, 3 * llm.width)
    adapter.weight.data *= llm.embedding_rms
    spans = list(adapter(torch.randn(len(prompts), 5)).unflatten(-1, (3, -1)))
    model = AnyMAL(llm, replace(load_profile("mini"), step=StepSpec(prefix=prefix)))
    loss = model.response_loss(prompts, spans)
    loss.backward()
    return loss.item(), adapter.weight.grad


def assert_as_it_was(llm):
    for layer in llm.model.base_model.layers:
        assert "forward" not in vars(layer) and layer.forward.__func__ is type(layer).forward
        assert not layer._forward_pre_hooks
    assert llm.model.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("name", "same", "prefix"),
    [
        ("llama", True, False),
        ("llama", True, True),
        ("llama", False, True),
        ("gemma", False, True),
    ],
)
def test_one_graph_gives_all_layers_lengths_and_runs_the_plain_gradient(llms, name, same, prefix):
    llm = llms[name]
    batches = batches_of(llm, same)
    assert len({split_prefix(prompt)[0] for prompt in batches[0]}) == (1 if same else 2)
    plain = [loss_and_gradient(llm, prompts, prefix) for prompts in batches]
    llm._remember_one.cache_clear()
    torch._dynamo.reset()
    counters.clear()
    with compiled_layers(llm):
        ours = [loss_and_gradient(llm, prompts, prefix) for prompts in batches]
    with compiled_layers(llm):
        assert loss_and_gradient(llm, batches[0], prefix)[0] == ours[0][0]
    assert len(llm.model.base_model.layers) == 2 and counters["stats"]["unique_graphs"] == 1
    for (loss, gradient), (own, own_gradient) in zip(ours, plain, strict=True):
        assert abs(loss - own) <= 1e-6 * max(1, own)
        assert (gradient - own_gradient).norm() <= 2e-4 * own_gradient.norm()
    assert_as_it_was(llm)


def test_layers_with_lora_are_one_graph_where_nothing_below_learns(tiny_folder):
    """Modality tokens come from adapters that stay as they are: the first layer reads constants."""
    llm = load_llm(tiny_folder, bits=32)
    add_lora(llm, LoraSpec(rank=4, alpha=8), seed=0)
    learned = lora_parameters(llm)
    for name, parameter in learned.items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    prompts = batches_of(llm, True)[0]
    spans = [torch.full((3, llm.width), llm.embedding_rms) for _ in prompts]
    model = AnyMAL(llm, load_profile("mini"))

    def step():
        loss = model.response_loss(prompts, spans)
        return loss.item(), torch.autograd.grad(loss, list(learned.values()))

    plain, gradients = step()
    torch._dynamo.reset()
    counters.clear()
    with compiled_layers(llm):
        ours, own = step()
    assert len(llm.model.base_model.layers) == 2 and counters["stats"]["unique_graphs"] == 1
    assert abs(ours - plain) <= 1e-6 * max(1, plain)
    for found, wanted in zip(own, gradients, strict=True):
        assert wanted.norm() > 0
        assert (found - wanted).norm() <= 2e-4 * wanted.norm()


def test_answers_are_the_same_before_within_and_after(llms):
    llm = llms["llama"]
    model = AnyMAL(llm, load_profile("mini"))
    prompts = [["Who are you?"], ["Tell me a long story about the sea."], [LONG, "a cat"]]
    before = model.generate(prompts, max_new_tokens=8)
    assert len(set(before)) == 3
    with compiled_layers(llm):
        loss_and_gradient(llm, batches_of(llm, True)[0], True)
        llm._remember_one.cache_clear()
        assert model.generate(prompts, max_new_tokens=8) == before
    llm._remember_one.cache_clear()
    assert model.generate(prompts, max_new_tokens=8) == before
    assert_as_it_was(llm)


def test_an_exception_inside_leaves_nothing_behind(llms):
    llm = llms["gemma"]
    with pytest.raises(KeyboardInterrupt), compiled_layers(llm):
        assert all("forward" in vars(layer) for layer in llm.model.base_model.layers)
        raise KeyboardInterrupt
    assert_as_it_was(llm)


# When it is worth it -----------------------------------------------------------------------------


def paper_steps():
    return load_profile("paper-7b").modality("image").align


@pytest.mark.parametrize("how", ["nothing on the path", "CXX names none"])
def test_without_a_compiler_it_is_refused_by_name(llms, monkeypatch, tmp_path, how):
    llm = llms["llama"]
    assert repays(llm, paper_steps().samples, 128)
    if how == "CXX names none":
        monkeypatch.setenv("CXX", "no-such-compiler")
    else:
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
    assert not repays(llm, paper_steps().samples, 128)
    with pytest.raises(ConfigError, match=r"compile: .*C\+\+ compiler"), compiled_layers(llm):
        pytest.fail("nothing can be compiled here")
    assert_as_it_was(llm)


def test_it_repays_for_whole_runs_and_not_for_a_few_steps():
    mini = load_profile("mini")
    llm = load_llm(mini.llm, bits=32, device="cpu")
    for spec in mini.modalities.values():
        tokens = spec.adapter.tokens + spec.max_new_tokens
        assert repays(llm, spec.align.samples, tokens)
        assert not repays(llm, 40 * spec.align.batch, tokens)
    assert repays(llm, paper_steps().samples, 128)


@pytest.mark.parametrize(("bits", "worth"), [(32, True), (16, True), (8, False), (4, False)])
def test_quantized_layers_are_left_alone(tiny_llm, bits, worth):
    assert repays(tiny_llm(bits), paper_steps().samples, 128) == worth


# Training ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def train(new_model, bank_of, image_card, tmp_path_factory):
    """Function: train a tiny model, compiled or not; its losses and the adapter's bytes."""

    def run(compile, stop_at=None):
        model = new_model(32, step=StepSpec(compile=compile))
        spec = replace(model.spec("image").align, steps=20)
        folder = tmp_path_factory.mktemp("run")
        layers = model.llm.model.base_model.layers

        def on_step(report):
            assert all(("forward" in vars(layer)) == bool(compile) for layer in layers)
            if report.step == stop_at:
                raise KeyboardInterrupt

        try:
            curve = train_adapter(
                model,
                "image",
                bank_of(image_card),
                spec,
                seed=0,
                folder=folder / "run",
                on_step=on_step,
            )
        finally:
            assert_as_it_was(model.llm)
        saved = model.save_pretrained(folder / "model") / "image.adapter.safetensors"
        return [r.loss for r in curve], hashlib.sha256(saved.read_bytes()).hexdigest()

    return run


def test_a_compiled_run_learns_ends_where_a_plain_one_ends_and_repeats_itself(train):
    (compiled, sha), (plain, _) = train(True), train(False)
    assert compiled[0] == pytest.approx(plain[0], rel=1e-5)
    assert np.mean(compiled[-5:]) == pytest.approx(np.mean(plain[-5:]), rel=0.01)
    assert np.mean(compiled[-5:]) < 0.9 * compiled[0]
    assert train(True) == (compiled, sha)


def test_a_compiled_run_that_is_interrupted_leaves_a_plain_model(train):
    with pytest.raises(KeyboardInterrupt):
        train(True, stop_at=1)


def test_a_run_of_the_tiny_model_is_not_worth_compiling(train):
    assert train(None) == train(False)
