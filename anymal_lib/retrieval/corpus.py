"""A user's texts with an index over their embeddings: what a model can look up.

The paper names retrieval as the remedy for its second limit: the LLM knows only what it met in
alignment (section "Limitations"). The texts are embedded by the tower that an encoder is aligned
to, so an item's own embedding finds the texts about it.

Shape letters: b batch, e width of the text-aligned embedding.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from anymal_lib.encoders import Encoder
from anymal_lib.errors import AssetError, DataError, InputError
from anymal_lib.runs import write_text

if TYPE_CHECKING:
    import faiss

CONFIG = "corpus.json"
FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """One text of a corpus: its title, and the text itself, which is embedded and read."""

    title: str
    text: str


@dataclass(frozen=True)
class Neighbour:
    """An entry that was found, and the cosine (-1 to 1) of its text and the item."""

    entry: Entry
    cosine: float


class Corpus:
    """Texts of a user's own, found by embedding. Make one with `build` or `load`."""

    def __init__(self, entries: Sequence[Entry], index: faiss.IndexFlatIP, tower: str) -> None:
        self.entries = tuple(entries)
        self.tower = tower  # checksum of the text tower that embedded the texts
        self._index = index

    def __len__(self) -> int:
        return len(self.entries)

    @classmethod
    def build(cls, entries: Sequence[Entry], encoder: Encoder) -> Corpus:
        """Embed the texts with the tower that `encoder` is aligned to.

        Every encoder that is aligned to the same tower can search the corpus. Raises `DataError`
        without any entry and `ConfigError` for an encoder that is not aligned to text.
        """
        import faiss

        tower = encoder.text_checksum()
        if not entries:
            raise DataError(
                "corpus",
                expected="at least one text",
                got="none",
                do="Give entries, for example Entry('Zorvex', 'a red circle').",
            )
        embeddings = encoder.encode_text([entry.text for entry in entries])  # (entries, e)
        index = faiss.IndexFlatIP(embeddings.shape[1])
        index.add(embeddings.numpy())
        return cls(entries, index, tower)

    def nearest(self, embeddings: Tensor, k: int) -> list[list[Neighbour]]:
        """The k entries nearest to each embedding (b, e) of unit length, nearest first.

        Of a corpus of fewer entries, all. Raises `InputError` for a k below 1 and for embeddings
        of another width.
        """
        if k < 1:
            raise InputError(
                "k",
                expected="at least 1",
                got=str(k),
                do="Say how many texts are to be retrieved, for example 1.",
            )
        if embeddings.ndim != 2 or embeddings.shape[1] != self._index.d:
            raise InputError(
                "embeddings",
                expected=f"shape (items, {self._index.d}), as the corpus was embedded",
                got=str(tuple(embeddings.shape)),
                do="Build the corpus with the encoder that embeds the items.",
            )
        queries = np.ascontiguousarray(embeddings.detach().float().cpu().numpy())
        cosines, places = self._index.search(queries, min(k, len(self)))  # (b, k) each
        return [
            [Neighbour(self.entries[p], float(c)) for p, c in zip(*row, strict=True)]
            for row in zip(places, cosines, strict=True)
        ]

    def require(self, encoder: Encoder) -> None:
        """Raise `AssetError` where the encoder is aligned to another text tower than the corpus's.

        Raises `ConfigError` for an encoder that is not aligned to text.
        """
        tower = encoder.text_checksum()
        if tower != self.tower:
            raise AssetError(
                "corpus",
                expected=f"texts embedded by the {encoder.modality} encoder's text tower "
                f"({tower[:12]})",
                got=f"those of another tower ({self.tower[:12]})",
                do="Build the corpus anew with this encoder: Corpus.build(entries, encoder).",
            )

    def save(self, folder: str | Path) -> Path:
        """Write texts and index; an interruption leaves the old corpus or the new one."""
        import faiss

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        data = faiss.serialize_index(self._index).tobytes()
        digest = hashlib.sha256(data).hexdigest()
        # The index is named after its content, and the file that names it is replaced last.
        name = f"{digest[:16]}.faiss"
        partial = folder / f"{name}.partial-{os.getpid()}"
        partial.write_bytes(data)
        os.replace(partial, folder / name)
        config = {
            "format": FORMAT,
            "tower": self.tower,
            "index": name,
            "sha256": digest,
            "entries": [asdict(entry) for entry in self.entries],
        }
        write_text(folder / CONFIG, json.dumps(config, indent=1, ensure_ascii=False) + "\n")
        for old in folder.glob("*.faiss"):
            if old.name != name:
                old.unlink(missing_ok=True)
        return folder

    @classmethod
    def load(cls, folder: str | Path, encoder: Encoder) -> Corpus:
        """Read a folder that `save` wrote, to be searched by `encoder`.

        Raises `AssetError` where a file is missing or damaged, or where another text tower
        embedded the texts; `ConfigError` for an encoder that is not aligned to text.
        """
        import faiss

        path = Path(folder) / CONFIG
        config = _read_config(path)
        file = path.parent / config["index"]
        try:
            data = file.read_bytes()
        except OSError as error:
            raise _damaged(file, type(error).__name__) from error
        if hashlib.sha256(data).hexdigest() != config["sha256"]:
            raise _damaged(file, "another checksum")
        index = faiss.deserialize_index(np.frombuffer(data, np.uint8))
        try:
            entries = [Entry(**entry) for entry in config["entries"]]
        except TypeError as error:
            raise _damaged(path, str(error)) from error
        if index.ntotal != len(entries):
            raise _damaged(path, f"{len(entries)} texts for an index of {index.ntotal}")
        corpus = cls(entries, index, config["tower"])
        corpus.require(encoder)
        return corpus


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, type(error).__name__) from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise _damaged(path, "another format")
    if missing := {"tower", "index", "sha256", "entries"} - config.keys():
        raise _damaged(path, f"no {sorted(missing)}")
    return config


def _damaged(path: Path, got: str) -> AssetError:
    return AssetError(
        f"'{path.name}' in corpus '{path.parent.name}'",
        expected="a file written by Corpus.save",
        got=got,
        do="Build the corpus from its texts and save it again.",
    )
