"""Streamed answers: joined, they are what `generate` returns, and each piece comes at once."""

import pytest
import torch

from anymal_lib import AnyMAL, Dialogue, Image
from anymal_lib.config import load_profile
from anymal_lib.errors import InputError
from anymal_lib.llm import load_llm
from anymal_lib.streaming import text_pieces


@pytest.fixture(scope="module")
def mini(tiny_profile, tiny_encoders):
    """SmolLM2 with a fresh adapter for pictures."""
    model = AnyMAL(load_llm(load_profile("mini").llm), tiny_profile)
    model.add("image", tiny_encoders["image"])
    return model


@pytest.fixture(scope="module")
def picture(image_card):
    return Image(next(image_card.parent.glob("*.png")))


def test_joined_is_what_is_generated(mini, picture):
    for prompt in (
        ["Describe the picture. ", picture],
        [picture, picture, " Are they the same?"],
        "Write one line in Greek, then an emoji.",
        picture,
        Dialogue([(["What is it? ", picture], "a square"), (["Where?"], None)]),
    ):
        pieces = list(mini.stream(prompt, max_new_tokens=24))
        assert "".join(pieces) == mini.generate(prompt, max_new_tokens=24)
        assert len(pieces) > 1 and all(pieces)


def test_pieces_come_before_the_answer_is_whole(mini, monkeypatch):
    steps = []
    logits = mini.llm.logits
    monkeypatch.setattr(mini.llm, "logits", lambda rows: steps.append(1) or logits(rows))
    stream = mini.stream("Tell me a story.", max_new_tokens=16)
    assert next(stream) and len(steps) <= 2
    assert "".join(stream) and len(steps) == 16


def test_nobody_else_is_put_into_inference_mode(mini):
    stream = mini.stream("Tell me a story.", max_new_tokens=4)
    next(stream)
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("text", ["Ωμέγα, 犬 and 🙂🙃 too", " a  b \n", "🙂", "", "don't , wait ."])
def test_half_characters_and_blanks_wait(mini, text):
    pieces = list(text_pieces(mini.llm, mini.llm.tokenize(text)))
    assert "".join(pieces) == text.strip()
    assert not any("\ufffd" in piece for piece in pieces)


def test_half_a_character_at_the_end_is_told_as_generate_does(mini):
    ids = mini.llm.tokenize("so 🦩")[:-1]
    assert mini.llm.text(ids).endswith("\ufffd"), "the emoji is several tokens"
    assert "".join(text_pieces(mini.llm, ids)) == mini.llm.text(ids).strip()


@pytest.mark.parametrize(
    ("prompt", "length"),
    [([], 4), ("Hello", 0), (Dialogue([(["Hi"], "Hello")]), 4)],
    ids=["empty", "no tokens", "answered"],
)
def test_is_refused_before_the_first_piece(mini, prompt, length):
    with pytest.raises(InputError):
        mini.stream(prompt, max_new_tokens=length)
