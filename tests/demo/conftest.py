"""A session of the real mini language model behind tiny encoders, and samples to pick from."""

import pytest
import torch

from anymal_lib.config import load_profile
from anymal_lib.demo import Session
from anymal_lib.demo.samples import Sample
from anymal_lib.instruct.sets import questions_of
from anymal_lib.llm import load_llm
from anymal_lib.manifest import load_manifest
from anymal_lib.model import AnyMAL


@pytest.fixture(scope="session")
def mini_llm():
    """SmolLM2, as the mini profile has it."""
    return load_llm(load_profile("mini").llm)


@pytest.fixture(scope="session")
def mini_model(mini_llm, tiny_profile, tiny_encoders):
    """SmolLM2 with fresh adapters for small real inputs of all four modalities."""
    model = AnyMAL(mini_llm, tiny_profile)
    for name, encoder in tiny_encoders.items():
        model.add(name, encoder)
    return model


@pytest.fixture
def session(mini_model):
    """A session that answers briefly."""
    return Session(mini_model, max_new_tokens=8)


@pytest.fixture
def blind(mini_llm, tiny_profile, tiny_encoders):
    """A session whose adapters say the same of every input."""
    model = AnyMAL(mini_llm, tiny_profile)
    model.add("image", tiny_encoders["image"])
    model.adapters["image"].register_forward_hook(lambda *args: torch.ones_like(args[-1]))
    return Session(model, max_new_tokens=8)


@pytest.fixture(scope="session")
def samples(card_of):
    """Three held-out items of each modality."""
    found = {}
    for name, card in card_of.items():
        manifest = load_manifest(card)
        examples, rows = questions_of(manifest, "test", 0)
        found[name] = [
            Sample(
                f"sample {k}",
                row,
                tuple((e.question, e.answer) for e in examples if e.items[0].id == row.id),
                manifest.fact_values,
            )
            for k, row in enumerate(rows[:3], start=1)
        ]
    return found
