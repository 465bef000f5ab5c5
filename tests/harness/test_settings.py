"""Arguments of the model and of tasks, as lmms-eval passes them on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anymal_lib.errors import AnyMALError, AssetError, ConfigError
from anymal_lib.harness.settings import (
    Arguments,
    Generation,
    load_model,
    read_arguments,
    read_generation,
)
from anymal_lib.machine import default_device


def test_arguments_as_lmms_eval_parses_them():
    asked = read_arguments({"pretrained": "a/b", "bits": 4.0, "batch_size": "8"})
    assert asked == Arguments("a/b", bits=4, batch_size=8)
    assert read_arguments({"pretrained": "mini", "batch_size": "auto"}) == Arguments("mini")
    assert read_arguments({"pretrained": "mini", "device": default_device()}) == Arguments("mini")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({}, "pretrained"),
        ({"pretrained": "mini", "modle": 1}, "modle"),
        ({"pretrained": "mini", "batch_size": "auto:4"}, "batch_size"),
        ({"pretrained": "mini", "batch_size": 0}, "batch_size"),
        ({"pretrained": "mini", "bits": "four"}, "bits"),
        ({"pretrained": "mini", "bits": 1.5}, "bits"),
        ({"pretrained": "mini", "device": "cuda:7"}, "device"),
    ],
)
def test_wrong_arguments_are_refused_by_name(wrong, named):
    with pytest.raises(ConfigError, match=named):
        read_arguments(wrong)


def test_a_saved_folder_is_loaded(tmp_path, new_model):
    model = new_model()
    model.save_pretrained(tmp_path / "mini")
    loaded = load_model(Arguments(str(tmp_path / "mini")))
    assert sorted(loaded.encoders) == sorted(model.encoders)
    with pytest.raises(AssetError, match="nowhere"):
        load_model(Arguments(str(tmp_path / "nowhere")))


def test_a_profiles_name_and_precision_are_loaded(own_cache):
    with pytest.raises(AnyMALError, match="Llama-2-7b"):  # gated, and no hub here
        load_model(Arguments("paper-7b"))
    with pytest.raises(ConfigError, match="BITS"):
        load_model(Arguments("mini", bits=3))


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process"):
        load_model(Arguments("mini"))


def test_generation_settings_of_tasks():
    assert read_generation({}) == Generation()
    given = {"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1}
    assert read_generation({**given, "do_sample": False, "until": "\n\n"}) == Generation(
        16, ("\n\n",)
    )
    assert read_generation({"until": ["a", "", "b"]}) == Generation(until=("a", "b"))
    assert read_generation({"temperature": 0.2, "do_sample": False}) == Generation()


@pytest.mark.parametrize(
    "wrong",
    [
        {"do_sample": True},
        {"temperature": 0.2},
        {"num_beams": 4},
        {"max_new_tokens": 0},
        {"max_new_tokens": "many"},
        {"until": [1]},
    ],
)
def test_what_is_not_greedy_or_not_a_number_is_refused(wrong):
    with pytest.raises(ConfigError, match=r"lmms-eval's"):
        read_generation(wrong)


@given(st.text("abc", max_size=12), st.lists(st.text("abc", min_size=1, max_size=2), max_size=3))
def test_an_answer_ends_before_the_first_stop(answer, until):
    cut = Generation(until=tuple(until)).cut(answer)
    ends = [k for k in range(len(answer)) if any(answer.startswith(s, k) for s in until)]
    assert cut == answer[: min(ends, default=len(answer))]
