"""A demo session: items are encoded once, answers stream, and the meter finds out blind models."""

import numpy as np
import pytest

from anymal_lib.demo import DemoItem, Weight
from anymal_lib.errors import InputError
from anymal_lib.inputs import Image

ASKED = "What is it?"


@pytest.fixture
def items(session, samples):
    """One item of each modality."""
    firsts = {name: found[0] for name, found in samples.items()}
    return {name: session.take(s.name, s.open(), s.truth) for name, s in firsts.items()}


def test_takes_all_modalities(session, items):
    assert session.modalities == ("image", "imu", "audio", "video") == tuple(items)
    for name, item in items.items():
        assert item.modality == name and item.tokens.ndim == 2 and item.truth
    assert items["imu"].label == "motion sample 1"


def test_answers_as_the_model_does(session, samples, items):
    raw = [samples[name][0].open() for name in ("image", "audio")]
    asked = [items["image"], items["audio"]]
    said = "".join(session.stream(f" {ASKED} ", asked))
    assert said == session.model.generate(
        [f"{ASKED} ", raw[0], " ", raw[1]], max_new_tokens=session.max_new_tokens
    )


def test_an_item_is_encoded_once(session, items, monkeypatch):
    monkeypatch.setattr(session.model, "sense", None)  # whoever encodes now fails
    first, second = (session.ask(ASKED, [items["video"]]) for _ in range(2))
    assert first.answer == second.answer and first.weights == second.weights
    assert 0 < first.first_word <= first.seconds


def test_weighs_by_the_likelihood_with_and_without(session, items, own_loss, mini_llm):
    image, imu = items["image"], items["imu"]
    weights = session.weigh(ASKED, [image, imu], "a square")
    assert [weight.item for weight in weights] == [image, imu]
    without = session._prompt(ASKED, [imu], "a square")
    loss = own_loss(mini_llm, without, [imu.tokens]).item()
    assert weights[0].tokens == without.learned
    assert weights[0].of["removed"] == pytest.approx(-loss * without.learned, rel=0.02)
    assert weights[0].of["clean"] == weights[1].of["clean"]


def test_without_an_item_nothing_is_weighed(session):
    assert session.weigh(ASKED, [], "text") == []
    assert session.ask(ASKED, []).weights == ()


def test_a_model_that_says_the_same_of_every_input_is_found_out(blind):
    picture = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    found = blind.ask(ASKED, [blind.take("noise", Image(picture))])
    (weight,) = found.weights
    assert weight.of["removed"] != pytest.approx(weight.of["clean"], abs=0.01)
    assert weight.lost <= 0.01 and weight.rests == 0 and not weight.reads


@pytest.mark.parametrize(
    ("blank", "removed", "rests"),
    [(-3.1, -2.503, 0.9), (-0.1, -9.0, 0.0), (-9.0, -0.15, 0.0), (0.0, 0.0, 0.0)],
)
def test_an_answer_rests_on_what_it_loses_without(blank, removed, rests):
    item = DemoItem("a", "image", None, None)
    of = {"clean": -0.1, "blank": blank, "removed": removed}
    weight = Weight(item, of, tokens=2)
    assert weight.rests == pytest.approx(rests, abs=1e-3)
    assert weight.reads == (rests > 0)


@pytest.mark.parametrize("question", ["", "  \n"])
def test_no_question_is_refused(session, question):
    with pytest.raises(InputError, match="question"):
        session.stream(question, [])


def test_what_cannot_be_read_is_refused(session, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a\.png"):
        session.take("a", Image(tmp_path / "a.png"))
