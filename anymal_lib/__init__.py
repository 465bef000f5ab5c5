"""AnyMAL: any-modality augmented language model, a reproducibility kit (arXiv 2309.16058).

Names are loaded on first use, so importing the package costs nothing.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

# OpenMP threads that wait spin for long by default: beside one other busy process on two cores that
# made generation up to 15 times slower (measured). A short spin keeps the speed of an idle machine.
# It has to be set before torch loads its OpenMP.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

_HOMES = {
    "AnyMAL": "anymal_lib.model",
    "AnyMALError": "anymal_lib.errors",
    "Audio": "anymal_lib.inputs",
    "Dialogue": "anymal_lib.prompt",
    "Image": "anymal_lib.inputs",
    "Imu": "anymal_lib.inputs",
    "Video": "anymal_lib.inputs",
    "load_manifest": "anymal_lib.manifest",
    "load_profile": "anymal_lib.config",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'anymal_lib' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
