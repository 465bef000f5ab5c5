"""The rules on runs made up by hand: they agree, disagree, are unclear, or say nothing."""

import json
from dataclasses import replace

import numpy as np
import pytest

from anymal_lib.ablation import figures, tables
from anymal_lib.ablation.experiment import Outcome
from anymal_lib.ablation.findings import changes, findings, margin, over_seeds
from anymal_lib.ablation.grid import Grid, Setting
from anymal_lib.ablation.results import Results, read_curves, save_curves
from anymal_lib.ablation.stages import ablation_metrics
from anymal_lib.runs import plain

BASE = Setting(layers=2, tokens=16, batch=16, steps=20, llm_layers=30)
VALUES = {"layers": (1, 2, 6), "tokens": (4, 16, 64), "batch": (4, 16, 32), "llm_layers": (10, 30)}
START, END = 4.0, 1.0  # training takes off 3 nats: the margin is 0.15
JITTER = (0.00, 0.02, -0.02)


def results(effect=lambda setting: 0.0, seeds=3, noise=0.0, values=VALUES):
    """Runs whose held-out loss is 1 and `effect`; seeds differ alike in all settings."""
    grid = Grid(BASE, values)

    def run(setting, seed, k):
        fall = np.linspace(START, END, setting.steps)
        chance = np.random.default_rng((seed, k)).normal()
        loss = END + effect(setting) + JITTER[seed % 3] + noise * chance
        steps = np.arange(1, setting.steps + 1)
        return Outcome(setting, seed, tuple(fall), tuple(0.5 * steps), loss, 0.5)

    settings = grid.settings()
    return Results(
        grid, {s: tuple(run(s, seed, k) for seed in range(seeds)) for k, s in enumerate(settings)}
    )


def held(found):
    return {finding.name: finding.holds for finding in findings(found)}


def as_in_the_paper(setting):
    return -0.1 * (setting.layers - 2) + 0.4 * (setting.llm_layers < 30)


def otherwise(setting):
    return (
        0.1 * (setting.layers == 6) + 0.5 * (setting.tokens == 4)
        - 0.5 * (setting.batch == 32) - 0.4 * (setting.llm_layers < 30)
    )  # fmt: skip


def test_runs_that_agree_with_the_paper():
    assert all(held(results(as_in_the_paper)).values())


def test_runs_that_disagree_with_the_paper():
    assert not any(held(results(otherwise)).values())
    told = tables.finding_table(results(otherwise))
    assert set(told["agrees"]) == {"not shown here"}
    assert "2 to 6: little changed, higher" in told.loc["resampler layers", "here"]
    assert "4 to 16: lower" in told.loc["modality tokens", "here"]
    assert "16 to 32 at equal steps: lower" in told.loc["batch", "here"]
    assert told.loc["resampler layers", "the paper"] == "2 to 6: lower"


def test_noisy_seeds_show_nothing():
    found = results(as_in_the_paper, noise=0.6)
    assert not held(found)["tokens_minor"] and not held(found)["more_layers_lower_loss"]
    verdicts = {c.verdict(margin(found)) for c in changes(found) if c.factor == "tokens"}
    assert "not clear from these seeds" in verdicts


def test_a_clear_change_may_still_be_little():
    found = results(lambda setting: 0.1 * (setting.tokens == 64))
    (up,) = (c for c in changes(found) if (c.factor, c.larger) == ("tokens", 64))
    assert up.held_out_loss.low > 0 and up.verdict(margin(found)) == "little changed, higher"
    assert held(found)["tokens_minor"]
    assert not held(results(lambda s: 0.2 * (s.tokens == 64)))["tokens_minor"]


def test_the_batch_is_judged_at_equal_samples():
    few_steps = results(lambda s: 0.5 * (s.steps < 20))  # equal samples in larger batches
    assert not held(few_steps)["batch_minor"]
    few_samples = results(lambda s: 0.5 * (s.batch < 16 and s.steps == 20))
    assert held(few_samples)["batch_minor"]
    assert {c.same for c in changes(few_samples) if c.factor == "batch"} == {"samples", "steps"}


def test_more_layers_are_those_beyond_the_base():
    better_from_one = results(lambda s: 0.5 * (s.layers == 1))
    assert not held(better_from_one)["more_layers_lower_loss"]
    none_beyond = results(lambda s: 0.5 * (s.layers == 1), values={**VALUES, "layers": (1, 2)})
    assert held(none_beyond)["more_layers_lower_loss"]


def test_the_llm_is_compared_with_the_smallest():
    values = {**VALUES, "llm_layers": (10, 20, 30)}
    assert held(results(lambda s: 1.0 * (s.llm_layers == 10), values=values))[
        "larger_llm_lower_loss"
    ]
    assert not held(results(lambda s: 1.0 * (s.llm_layers == 20), values=values))[
        "larger_llm_lower_loss"
    ]


def test_one_seed_or_one_value_says_nothing():
    assert set(held(results(as_in_the_paper, seeds=1)).values()) == {None}
    alone = results(as_in_the_paper, values={**VALUES, "tokens": (16,)})
    assert held(alone)["tokens_minor"] is None and held(alone)["more_layers_lower_loss"]


def test_the_margin_is_a_twentieth_of_the_fall():
    last = np.linspace(START, END, BASE.steps)[-2:].mean()
    assert margin(results()) == pytest.approx(0.05 * (START - last))


def test_intervals_are_students_and_paired():
    interval = over_seeds([1.0, 2.0, 3.0])
    assert interval.value == 2 and interval.high - 2 == pytest.approx(2.920 / 3**0.5, rel=1e-3)
    assert over_seeds([1.0]).low == -np.inf
    for found in changes(results(as_in_the_paper)):  # the seeds' own differences cancel out
        assert found.held_out_loss.high - found.held_out_loss.low < 1e-9


def test_metrics_follow_the_contract():
    found = results(as_in_the_paper)
    metrics = plain(ablation_metrics(found))
    json.dumps(metrics)
    assert metrics["seeds"] == 3 and metrics["findings"] == held(found)
    assert set(metrics["findings"]) == {
        "more_layers_lower_loss", "tokens_minor", "batch_minor", "larger_llm_lower_loss",
    }  # fmt: skip
    assert len(metrics["runs"]) == 3 * len(found.grid.settings())
    keys = {"setting", "seed", "final_loss", "held_out_loss", "exact_match", "seconds"}
    assert all(set(run) == keys for run in metrics["runs"])
    assert metrics["runs"][0]["setting"]["layers"] == 2 and metrics["runs"][0]["seconds"] == 10


def test_curves_come_back_from_their_file(tmp_path):
    found = results(as_in_the_paper)
    assert read_curves(tmp_path) == []
    save_curves(found, tmp_path)
    assert read_curves(tmp_path) == found.all()
    assert read_curves(tmp_path)[0].setting == BASE


def test_the_figure_has_a_row_for_each_factor_that_varies():
    figure = figures.figure_4(results(as_in_the_paper))
    assert len(figure.axes) == 4 * 4
    steps, samples, seconds, accuracy = figure.axes[8:12]  # the batch
    ends = {axis: {line.get_xdata()[-1] for line in axis.lines} for axis in (steps, samples)}
    assert ends == {steps: {20}, samples: {320}}, "equal steps over steps, equal samples over them"
    assert {line.get_xdata()[-1] for line in seconds.lines} == {40, 10, 5}
    labels = [label.get_text() for label in accuracy.get_yticklabels()]
    assert labels == ["4, equal samples", "4, equal steps", "16", "32, equal samples",
                      "32, equal steps"]  # fmt: skip
    one = figures.figure_4(results(values={**VALUES, "tokens": (16,), "batch": (16,)}))
    assert len(one.axes) == 2 * 4


def test_tables_name_every_run_and_change():
    found = results(as_in_the_paper)
    assert len(tables.plan_table(found.grid, range(3))) == len(tables.run_table(found)) == 10
    assert len(tables.change_table(found)) == 2 + 2 + 2 * 2 + 1
    assert (tables.plan_table(found.grid, range(3))["runs"] == 3).all()
    assert "1.000 (0.980-1.020)" in set(tables.run_table(found)["held-out loss"])


def test_a_runs_final_loss_is_that_of_its_last_tenth():
    run = replace(results().base[0], losses=(9.0,) * 18 + (1.0, 2.0))
    assert run.final_loss == 1.5
    assert run.along("samples")[-1] == 320 and run.along("seconds")[-1] == 10
