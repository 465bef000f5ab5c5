"""A tiny model that is asked about squares and motions, with an LLM of its own to put LoRA on."""

from copy import deepcopy
from dataclasses import replace

import pytest

from anymal_lib.instruct.media import Media
from anymal_lib.instruct.questions import from_facts
from anymal_lib.llm import FrozenLLM
from anymal_lib.manifest import load_manifest
from anymal_lib.model import AnyMAL
from anymal_lib.specs import FinetuneSpec, LoraSpec, TrainSpec


@pytest.fixture(scope="session")
def asked_cards(image_card, imu_card):
    """Modality -> manifest of the items that are asked about."""
    return {"image": load_manifest(image_card), "imu": load_manifest(imu_card)}


@pytest.fixture(scope="session")
def media_of(bank_of, image_card, imu_card):
    """Function: the items of a split."""

    def get(split="train"):
        return Media({"image": bank_of(image_card, split), "imu": bank_of(imu_card, split)})

    return get


@pytest.fixture(scope="session")
def asked(asked_cards):
    """Function: questions of a split, by modality."""

    def get(split="train"):
        return {
            modality: from_facts(card.split(split), modality, seed=0, fact_values=card.fact_values)
            for modality, card in asked_cards.items()
        }

    return get


@pytest.fixture(scope="session")
def recipe():
    """Fine-tuning of a few steps, the same thing asked of four items."""
    train = TrainSpec(batch=8, learning_rate=3e-3, steps=8, checkpoint_every=3)
    return FinetuneSpec(
        projection=train,
        lora_train=train,
        lora=LoraSpec(rank=4, alpha=8),
        questions={},
        weights={"image": 2.0, "imu": 1.0},
        same_question=4,
        max_new_tokens=4,
    )


@pytest.fixture(scope="session")
def own_model(tiny_llm, tiny_profile, own_encoder, recipe):
    """Function: a tiny model for squares and motions; its LLM is the test's own."""

    def build(seed=0, **changes):
        shared = tiny_llm(32)
        llm = FrozenLLM(deepcopy(shared.model), shared.tokenizer, shared.identity, 32)
        model = AnyMAL(llm, replace(tiny_profile, **{"finetune": recipe, **changes}))
        for name in ("image", "imu"):
            model.add(name, own_encoder(name), seed)
        return model

    return build
