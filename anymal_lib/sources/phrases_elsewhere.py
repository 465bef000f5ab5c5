"""The held-out phrases of `phrases` on another sound bank: nothing is ever learned from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anymal_lib.sources.phrases import phrases, render

BUILD_VERSION = 3  # above those of `phrases`, which rendered all of them here once
HAS_FOLDS = False


def build(member: Path, folder: Path, fold: int) -> list[dict[str, Any]]:
    """Render the test split into ``folder/clips`` and return its rows.

    Args:
        member: a sound bank (SF2) with the General MIDI instruments.
        folder: the manifest's folder to be.
        fold: unused, the held-out pairs are fixed.
    """
    return render(member, folder, [entry for entry in phrases() if entry[0] == "test"])
