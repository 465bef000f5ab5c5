"""AnyMAL as a model of lmms-eval, from outside that package (docs/harness.md).

lmms-eval finds `manifest` through the entry point group `lmms_eval.models` in pyproject.toml. It
is imported by `manifest` and by `model` only; everything else works without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest

NAME = "anymal"


def manifest() -> ModelManifest:
    """How lmms-eval lists the model and where it finds its class.

    The class is a simple one, in lmms-eval's words: it is handed text and media apart, so that
    prompts have the order of training, instruction first, and likelihoods can be asked for.
    """
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(NAME, simple_class_path="anymal_lib.harness.model.AnyMALModel")
