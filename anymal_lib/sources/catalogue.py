"""The paper's own sources: their cards, what is still needed, and what is on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from anymal_lib.assets import cache_dir
from anymal_lib.errors import ManifestError
from anymal_lib.manifest import Card, load_card
from anymal_lib.rows import refusal
from anymal_lib.sources.reading import how_to_get

if TYPE_CHECKING:
    import pandas as pd

CARDS = Path(__file__).resolve().parents[2] / "data_manifests"


def paper_card(name: str) -> Card:
    """The card of a source that the paper names.

    Raises:
        ManifestError: no such source.
    """
    cards = {card.name: card for card in paper_cards()}
    if name not in cards:
        do = "Choose one of them; your own data needs no conversion."
        raise refusal("source", f"one of {sorted(cards)}", repr(name), do)
    return cards[name]


def paper_cards() -> list[Card]:
    """Cards below ``data_manifests/`` that a reader converts, by name."""
    cards = (load_card(path) for path in sorted(CARDS.glob("*/card.yaml")))
    return [card for card in cards if "reader" in card.fields]


def converted_card(name: str) -> Path:
    """Where the converted manifest of a source lies unless it was written elsewhere."""
    return cache_dir() / "data" / name / "card.yaml"


def not_converted(card: Card) -> ManifestError:
    """The error of a source that the user has to fetch and convert first."""
    do = f"{how_to_get(card)} Then run this again, or give the new card as MANIFEST."
    expected = f"{card.name} as a manifest in {converted_card(card.name).parent}"
    got = f"no such manifest (source: {card.fields['source']})"
    return ManifestError(card.name, expected=expected, got=got, do=do)


def paper_sources() -> pd.DataFrame:
    """One line per source: licences, agreement, stated size, and what this machine has.

    ``rows here`` counts the rows of the converted manifest in its usual place, 0 without one.
    """
    import pandas as pd

    lines = []
    for card in paper_cards():
        fields = card.fields
        lines.append(
            {
                "name": card.name,
                "modality": card.modality,
                "stage": fields["stage"],
                "licence of the annotations": fields["licence"]["annotations"],
                "licence of the media": fields["licence"]["media"],
                "agreement": "yes" if fields.get("agreement") else "no",
                "fetched with": fields["tool"],
                "size": fields["size"],
                "in the paper": fields["paper_count"],
                "rows here": _rows_here(card.name),
            }
        )
    return pd.DataFrame(lines).set_index("name").astype({"in the paper": "Int64"})


def _rows_here(name: str) -> int:
    path = converted_card(name)
    if not path.is_file():
        return 0
    fields = load_card(path).fields
    return sum(entry["rows"] for key in ("files", "shards") for entry in fields.get(key) or ())
