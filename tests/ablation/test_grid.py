"""Which settings are run: one change each, and no more of them than were asked for."""

from dataclasses import astuple

import pytest

from anymal_lib.ablation.grid import FACTORS, grid
from anymal_lib.config import load_profile
from anymal_lib.errors import ConfigError
from anymal_lib.paper import ABLATIONS
from anymal_lib.runs import PARAMETERS, start

DEPTH = 30


@pytest.fixture
def grid_of(tmp_path):
    """Function: the grid of a run of notebook 08 with these parameters."""

    def build(depth=DEPTH, **given):
        declared = dict.fromkeys(PARAMETERS) | {"OUTPUT_DIR": str(tmp_path)}
        return grid(start("08_ablations", {**declared, **given}), depth)

    return build


def test_the_default_is_what_the_requirement_names(grid_of):
    found = grid_of()
    assert found.values["layers"] == (1, 2, 6) and found.values["tokens"] == (4, 16, 64)
    assert len(found.values["batch"]) == 3 and found.values["llm_layers"] == (10, DEPTH)
    assert found.settings()[0] == found.base
    assert astuple(found.base)[:3] == (2, 16, 16) and found.base.llm_layers == DEPTH


def test_every_setting_changes_one_factor_and_comes_once(grid_of):
    found = grid_of()
    settings = found.settings()
    assert len(set(settings)) == len(settings) == 1 + 2 + 2 + 2 * 2 + 1
    for setting in settings[1:]:
        changed = [f for f in FACTORS if getattr(setting, f) != getattr(found.base, f)]
        assert len(changed) == 1
        assert setting.steps == found.base.steps or changed == ["batch"]


def test_another_batch_shares_steps_or_samples_with_the_base(grid_of):
    found = grid_of(STEPS=10, BATCH="4,16,64")
    shared = {
        (batch, same): found.at("batch", batch, same)
        for batch in (4, 64)
        for same in ("steps", "samples")
    }
    assert {key: setting.steps for key, setting in shared.items()} == {
        (4, "steps"): 10, (4, "samples"): 40, (64, "steps"): 10, (64, "samples"): 2,
    }  # fmt: skip
    assert found.at("batch", 16) == found.base
    assert found.at("batch", 4096).steps == 1


def test_one_more_value_is_one_more_setting(grid_of):
    before, after = set(grid_of().settings()), set(grid_of(LAYERS="1,2,4,6").settings())
    assert before < after and {s.layers for s in after - before} == {4} and len(after - before) == 1


def test_the_base_is_always_there(grid_of):
    found = grid_of(LAYERS=6, TOKENS="4", BATCH=[8], LLM_LAYERS=5)
    assert found.base == grid_of().base
    assert dict(found.values) == {
        "layers": (2, 6), "tokens": (4, 16), "batch": (8, 16), "llm_layers": (5, DEPTH),
    }  # fmt: skip


def test_more_layers_than_the_llm_has_are_refused(grid_of):
    with pytest.raises(ConfigError, match=r"LLM_LAYERS.*30.*31"):
        grid_of(LLM_LAYERS="10,31")


def test_other_profiles_have_the_papers_values(grid_of):
    found = grid_of(PROFILE="paper-13b", depth=40)
    for factor, name in FACTORS.items():
        (told,) = (a for a in ABLATIONS if a.setting == name)
        if name != "LLM":
            assert getattr(found.base, factor) == told.base
            assert found.values[factor] == (told.base, told.changed)
    assert found.base.steps == load_profile("paper-13b").modality("image").align.steps
