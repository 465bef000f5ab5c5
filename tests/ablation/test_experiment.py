"""Real runs of a few steps: repeatable, kept by all that they depend on, never run twice."""

import json
from dataclasses import replace

import pytest
import torch

from anymal_lib.ablation import experiment
from anymal_lib.ablation.experiment import RESULT, Shared, outcome
from anymal_lib.ablation.grid import Setting
from anymal_lib.ablation.results import run_grid
from anymal_lib.ablation.stages import plan
from anymal_lib.ablation.truncated import depth, load_truncated, truncated_identity
from anymal_lib.runs import Run

BASE = Setting(layers=2, tokens=16, batch=16, steps=2, llm_layers=2)
FEW = {"STEPS": 2, "LAYERS": (1,), "TOKENS": (16,), "BATCH": (16,), "LLM_LAYERS": (2,)}


@pytest.fixture(scope="module")
def share(module_cache, tmp_path_factory, tiny_profile, image_card):
    """Function: what the runs of a tiny notebook 08 share, in a folder of its own."""

    def build(folder=None, profile=tiny_profile, **given):
        run = Run(
            "08_ablations",
            replace(profile, name="mini"),
            0,
            folder or tmp_path_factory.mktemp("ablations"),
            image_card,
            {**FEW, **given},
        )
        return Shared(run)

    return build


@pytest.fixture(scope="module")
def shared(share):
    return share()


def without_time(found):
    return replace(found, seconds=())


def test_a_run_is_a_function_of_its_setting_and_seed(share, shared):
    first = outcome(shared, BASE, 0)
    assert without_time(outcome(share(), BASE, 0)) == without_time(first)
    other = outcome(shared, BASE, 1)
    assert other.losses != first.losses and other.held_out_loss != first.held_out_loss
    assert len(first.losses) == len(first.seconds) == 2
    assert first.held_out_loss > 0 and 0 <= first.exact_match <= 1


def test_a_run_leaves_its_configuration_curve_and_result(shared):
    found = outcome(shared, BASE, 0)
    folder = shared.folder(BASE, 0)
    assert {path.name for path in folder.iterdir()} == {"config.json", "curve.jsonl", RESULT}
    curve = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    assert [round(point["loss"], 5) for point in curve] == list(found.losses)
    config = json.loads((folder / "config.json").read_text())
    assert config["setting"]["layers"] == 2 and config["image"]["align"]["steps"] == 2


def test_what_is_kept_is_not_run_again_and_one_more_value_is_one_more_run(share, monkeypatch):
    trained = []
    train = experiment.train_adapter

    def counted(*args, **options):
        trained.append(options["folder"])
        return train(*args, **options)

    monkeypatch.setattr(experiment, "train_adapter", counted)
    shared = share()
    grid, _ = plan(shared.run, shared)
    seen = []
    first = run_grid(shared, grid, [0, 1], lambda done, total: seen.append((done, total)))
    assert len(trained) == len(set(trained)) == 4 and seen == [(k, 4) for k in range(5)]
    again = share(folder=shared.run.output)
    assert run_grid(again, grid, [0, 1]).runs == first.runs and len(trained) == 4
    assert again._train is None, "nothing was encoded either"
    more = share(folder=shared.run.output, TOKENS=(4, 16))
    found = run_grid(more, plan(more.run, more)[0], [0, 1])
    assert len(trained) == 6 and len(found.runs) == 3


def test_a_run_that_was_killed_is_run_again(shared):
    before = outcome(shared, BASE, 0)
    (shared.folder(BASE, 0) / RESULT).unlink()
    assert without_time(outcome(shared, BASE, 0)) == without_time(before)


def test_every_cause_has_a_folder_of_its_own(share, shared, tiny_profile):
    told = replace(tiny_profile, system="You look.")
    image = tiny_profile.modality("image")
    slower = replace(image, align=replace(image.align, learning_rate=1e-3))
    names = {
        shared.folder(BASE, 0).name,
        shared.folder(BASE, 1).name,
        *(shared.folder(replace(BASE, **{name: 1}), 0).name for name in vars(BASE)),
        share(profile=told).folder(BASE, 0).name,
        share(profile=tiny_profile.with_modality("image", slower)).folder(BASE, 0).name,
        share(LIMIT=4).folder(BASE, 0).name,
    }
    assert len(names) == 2 + len(vars(BASE)) + 3


@pytest.mark.parametrize(("asked", "all_runs"), [(None, False), (False, False), (True, True)])
def test_all_runs_compile_or_none_does(share, tiny_profile, asked, all_runs):
    step = replace(tiny_profile.step, compile=asked)
    shared = share(profile=replace(tiny_profile, step=step))
    for steps in (1, 100_000):
        assert shared.profile(replace(BASE, steps=steps)).step == replace(step, compile=all_runs)


def test_held_out_items_begin_with_captions_in_turn(shared):
    bank = shared.held_out
    assert len(bank) == 8
    starts = [row.text[0] for row in bank.rows]
    assert all(text.endswith("square") == bool(k % 2) for k, text in enumerate(starts))


@pytest.fixture
def embeddings(tiny_llm):
    torch.manual_seed(0)
    return torch.randn(2, 5, tiny_llm().width)


def test_a_truncated_llm_is_the_first_layers_and_the_final_norm(tiny_folder, tiny_llm, embeddings):
    whole, cut = tiny_llm(), load_truncated(tiny_folder, 1, bits=32)
    assert (depth(whole), depth(cut)) == (2, 1)
    states = whole.model.base_model(
        inputs_embeds=embeddings, output_hidden_states=True
    ).hidden_states
    expected = whole.model.base_model.norm(states[1])
    assert torch.equal(cut.hidden(embeddings), expected)
    assert not torch.equal(cut.hidden(embeddings), whole.hidden(embeddings))
    assert torch.equal(cut.logits(expected[0]), whole.logits(expected[0]))


def test_a_truncated_llm_says_so(tiny_folder, tiny_llm):
    whole, cut = tiny_llm().identity, load_truncated(tiny_folder, 1, bits=32).identity
    assert cut.source == f"{whole.source}, first 1 of 2 layers"
    assert cut.sha256 != whole.sha256 and cut == truncated_identity(whole, 1, 2)
    assert truncated_identity(whole, 2, 2) == whole


def test_the_smaller_llm_of_a_run_is_truncated(shared):
    small = shared.model(replace(BASE, llm_layers=1), 0)
    assert depth(small.llm) == 1 and depth(shared.model(BASE, 0).llm) == 2
    assert outcome(shared, replace(BASE, llm_layers=1), 0).losses != outcome(shared, BASE, 0).losses
