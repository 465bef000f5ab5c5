"""The benchmark measures what it says: the tokens, the work, the order of the steps."""

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from anymal_lib.benchmark import curves, figures, inference, recipes, switches
from anymal_lib.benchmark.memory import Growth, growth
from anymal_lib.benchmark.plan import QUICK, Plan, plan_of
from anymal_lib.benchmark.steps import Bench, Embeddings, Work
from anymal_lib.benchmark.timing import Spread, Times, alternate
from anymal_lib.config import MINI
from anymal_lib.errors import AnyMALError
from anymal_lib.llm import load_llm
from anymal_lib.runs import start

WORK = Work(batch=4, instruction=7, modality=3, caption=5)


@pytest.fixture(scope="module")
def llm(tiny_folder):
    """An LLM of this file's own: a bench changes its chat template."""
    return load_llm(tiny_folder, bits=32)


@pytest.fixture
def bench(llm):
    return Bench(llm, WORK)


def test_a_step_has_exactly_the_tokens_that_were_asked_for(bench):
    for prompt in bench.prompts():
        assert [len(piece) for piece in prompt.pieces] == [7, 0]
        assert len(prompt.response) == 5
    assert all(prompt.response == () for prompt in bench.prompts(answered=False))
    assert bench.tokens().shape == (4, 3, 64)
    assert WORK.length == 15


def test_a_spread_draws_captions_of_several_lengths(llm):
    bench = Bench(llm, Work(batch=32, instruction=7, modality=3, caption=6, spread=2))
    lengths = {len(prompt.response) for prompt in bench.prompts()}
    assert lengths == {4, 5, 6, 7, 8}


@pytest.mark.parametrize("kind", ["ours", "transformers", "padded"])
def test_a_recipe_trains_the_adapter_and_leaves_the_llm(bench, kind):
    before = bench.llm.fingerprint()
    weight = bench.adapter.projection.weight
    first = weight.detach().clone()
    step = {
        "ours": bench.ours,
        "transformers": bench.transformers,
        "padded": lambda: bench.transformers(length=40),
    }[kind]()
    step()
    assert not torch.equal(first, weight)
    assert bench.llm.fingerprint() == before


@pytest.mark.parametrize("kind", ["bare", "llm_alone"])
def test_the_llms_part_needs_no_adapter_and_keeps_nothing(bench, kind):
    step = getattr(bench, kind)()
    weight = bench.adapter.projection.weight.detach().clone()
    step()
    step()
    assert torch.equal(weight, bench.adapter.projection.weight)
    assert all(p.grad is None for p in bench.llm.model.parameters())


def products(step):
    """Floating-point operations of a step's matrix products, as torch counts them."""
    step()  # what is remembered is read once
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_flop_counts()["Global"][torch.ops.aten.mm]


def test_the_needed_work_is_what_torch_counts(bench):
    assert products(bench.llm_alone()) == bench.floating_point_operations()
    layers = bench.llm.model.base_model.layers
    body = sum(p.numel() for p in layers.parameters() if p.ndim > 1)
    more = 15 - (3 + 5 - 1)  # positions: the instruction, and the token that is never read
    assert products(bench.bare()) == bench.floating_point_operations() + 4 * 4 * body * more


def test_the_padded_recipe_does_more_work_and_the_longer_the_more(bench):
    ours, exact, padded = (
        products(step)
        for step in (bench.ours(), bench.transformers(), bench.transformers(length=40))
    )
    assert ours < exact < padded


def test_steps_alternate_each_timed_after_one_of_its_own():
    calls = []
    steps = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    times = alternate(steps, 5)
    rounds = [tuple(calls[k : k + 4]) for k in range(0, len(calls), 4)]
    assert len(rounds) == 5 and set(rounds) == {("a", "a", "b", "b"), ("b", "b", "a", "a")}
    assert {name: len(seconds) for name, seconds in times.seconds.items()} == {"a": 5, "b": 5}


def test_steps_can_be_timed_after_another_one():
    calls = []
    alternate({"read": lambda: calls.append("read")}, 2, before=lambda: calls.append("step"))
    assert calls == ["step", "read", "step", "read"]


def test_on_a_gpu_the_untimed_step_has_ended_before_the_timed_one_begins(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("ended"))
    alternate({"a": lambda: calls.append("a")}, 1)
    assert calls == ["a", "ended", "a", "ended"]


def test_a_ratio_is_the_median_of_pairs():
    times = Times({"a": [1.0, 2.0, 9.0], "b": [1.0, 4.0, 3.0]})
    assert times.ratio("a", "b") == Spread(1.0, 0.75, 2.0)
    assert times.of("a").median == 2.0
    assert str(Spread(1.23456, 1.0, 2.0)) == "1.23 (1-2)"


@pytest.mark.parametrize(
    ("asked", "batch", "rounds"),
    [({}, 16, 9), ({"ROUNDS": 3}, 16, 3), ({"QUICK": True}, 1, 2), ({"QUICK": "False"}, 16, 9)],
)
def test_the_parameters_choose_the_plan(tmp_path, asked, batch, rounds):
    given = {"PROFILE": "mini", "OUTPUT_DIR": str(tmp_path), "ROUNDS": None, "QUICK": False}
    plan = plan_of(start("11_performance", {**given, **asked}))
    assert (plan.work.batch, plan.rounds, plan.profile.name) == (batch, rounds, "mini")


def fake_headline():
    names = ("bare", "ours", "ours, compiled", "transformers", "usual")
    seconds = {name: [k + 1.0] * 3 for k, name in enumerate(names)}
    parts = Times({"ours": [2.0] * 3, "ours, the LLM alone": [1.5] * 3})
    grown = {name: Growth(100.0, 1.0) for name in ("bare", "ours", "transformers", "usual")}
    return recipes.Headline(Times(seconds), parts, grown, tokens=704, gflops=200.0, peak=400.0)


def test_metrics_carry_the_names_of_the_contract():
    same = Times({"bf16": [1.0] * 3, "int8": [1.0] * 3, "nf4": [1.5] * 3})
    spread = Spread(9.0, 8.0, 10.0)
    metrics = recipes.metrics(fake_headline(), same, inference.Generation(spread, spread, spread))
    assert metrics["ratios"] == {
        "step_over_bare": 2.0,
        "step_compiled_over_bare": 3.0,
        "transformers_recipe_over_step": 2.0,
        "transformers_recipe_over_step_compiled": 4 / 3,
        "usual_recipe_over_step": 2.5,
        "not_llm_share": 0.25,
        "nf4_over_bf16": 1.5,
        "int8_over_bf16": 1.0,
        "batched_generation_speedup": 9.0,
    }
    assert metrics["peak_fraction"] == 0.5
    json.dumps(metrics)


def test_where_fp32_is_faster_quantized_steps_stand_beside_both():
    times = {"fp32": [2.0] * 3, "bf16": [8.0] * 3, "int8": [3.0] * 3, "nf4": [4.0] * 3}
    spread = Spread(9.0, 8.0, 10.0)
    found = inference.Generation(spread, spread, spread)
    ratios = recipes.metrics(fake_headline(), Times(times), found)["ratios"]
    assert (ratios["nf4_over_fp32"], ratios["int8_over_fp32"]) == (2.0, 1.5)
    assert (ratios["nf4_over_bf16"], ratios["int8_over_bf16"]) == (0.5, 0.375)


def test_tables_and_figures_show_every_step():
    found = fake_headline()
    shown = figures.table(found.rows())
    assert list(shown.index) == list(found.times.seconds)
    assert shown.loc["usual", "/ ours"] == "2.5 (2.5-2.5)"
    assert figures.headline(found).axes[0].get_xlabel() == "time / bare step"


def test_peak_memory_is_measured_in_a_process_of_its_own():
    small = growth("bare", Work(batch=1, instruction=2, modality=2, caption=2))
    large = growth("bare", Work(batch=4, instruction=20, modality=16, caption=8))
    assert 0 < small.megabytes < large.megabytes
    with pytest.raises(AnyMALError, match=r"step 'bare'.*no-such-profile"):
        growth("bare", profile="no-such-profile")


def test_a_random_llm_has_its_shape_and_fits_the_gpu_search(monkeypatch):
    monkeypatch.setitem(curves.SHAPES, "tiny", (64, 128, 2, 4, 2))
    llm = curves.random_llm("tiny")
    assert llm.width == 64 and len(llm.model.base_model.layers) == 2
    best = curves._largest_batch(llm, WORK, most=32)
    assert best["batch"] == 32 and best["tokens / s"] > 0
    assert curves.on_gpu(QUICK) == {} or torch.cuda.is_available()


def test_an_encoder_without_weights_is_where_it_was_moved_to():
    assert Embeddings().to("meta").device.type == "meta"


def test_switches_and_generation_are_measured_on_any_llm(tiny_folder):
    plan = Plan(
        profile=replace(MINI, llm=str(tiny_folder)),
        rounds=2,
        work=WORK,
        prompts=4,
        alone=2,
    )
    assert set(switches.without_each(plan)) >= {
        "prefix as constants",
        "logits of the caption alone",
        "padding taken out, captions of 4 to 60",
    }
    assert inference.generation(plan, new_tokens=3).speedup.median > 0
