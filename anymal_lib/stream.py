"""Rows of a large manifest in a seeded order, a few at a time: memory does not grow with it.

The order is a function of the seed and the position alone, so a run goes on where it stopped. The
manifest's pieces (archives, row groups of Parquet, files of JSON Lines) are read in a shuffled
order, and the rows of each block of `RowStream.block` rows are shuffled among themselves.
"""

from __future__ import annotations

import random
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from anymal_lib.assets import sha256_of
from anymal_lib.manifest import load_card, media_folder, row_files
from anymal_lib.rows import Row, inside_folder, open_parquet, read_rows, refusal

_PICTURES = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True)
class Piece:
    """What is read in one go: how many rows it holds, and how to read them."""

    rows: int
    read: Callable[[], Iterator[Row]]


class RowStream:
    """One split of a manifest as an endless, seeded stream of rows.

    Args:
        card_path: a card with row files, or with ``shards``: archives of ``<key>.jpg`` and
            ``<key>.txt``, as img2dataset writes them. Their rows carry the picture's bytes.
        split: which rows; those of the other splits are read and left out.
        seed: of the order.
        block: rows that are held and shuffled together.

    Raises:
        ManifestError: the card or its files break the contract, or the split is empty.
    """

    def __init__(
        self, card_path: str | Path, *, split: str = "train", seed: int = 0, block: int = 2048
    ) -> None:
        card = load_card(card_path)
        self.modality, self.seed, self.block = card.modality, seed, block
        self.checksum = f"{sha256_of(card.path)}/{split}"
        if card.fields.get("shards"):
            self.pieces = _archives(card.path, media_folder(card), card.fields["shards"], split)
        else:
            self.pieces = [
                piece
                for file in row_files(card)
                for piece in _row_pieces(file, media_folder(card), card.modality, split)
            ]
        if not len(self):
            raise refusal(card.path, f"rows whose split is {split}", "none")

    def __len__(self) -> int:
        """Rows of one epoch."""
        return sum(piece.rows for piece in self.pieces)

    def __iter__(self) -> Iterator[Row]:
        """The first epoch."""
        return islice(self.rows(), len(self))

    def rows(self, position: int = 0) -> Iterator[Row]:
        """All rows from `position` on, epoch after epoch, each epoch in another order.

        Whole pieces before the position are not read.
        """
        epoch, inside = divmod(position, len(self))
        while True:
            yield from self._epoch(epoch, inside)
            epoch, inside = epoch + 1, 0

    def _epoch(self, epoch: int, position: int) -> Iterator[Row]:
        pieces = random.Random(f"{self.seed} {epoch}").sample(self.pieces, len(self.pieces))
        number, inside = divmod(position, self.block)
        rows = _skipping(pieces, number * self.block)
        while block := list(islice(rows, self.block)):
            random.Random(f"{self.seed} {epoch} {number}").shuffle(block)
            yield from block[inside:]
            number, inside = number + 1, 0


def _skipping(pieces: list[Piece], rows: int) -> Iterator[Row]:
    """Rows of the pieces in order, without the first ones."""
    for piece in pieces:
        if rows >= piece.rows:
            rows -= piece.rows
            continue
        yield from islice(piece.read(), rows, None)
        rows = 0


def shard_samples(archive: Path) -> Iterator[tuple[str, bytes | None, str]]:
    """Key, picture and text of each sample of a WebDataset archive; "" and None where missing.

    Raises:
        ManifestError: it is no whole tar archive.
    """
    from webdataset.tariterators import tarfile_samples

    try:
        for sample in tarfile_samples(iter([{"url": str(archive)}])):
            picture = next((sample[name] for name in _PICTURES if sample.get(name)), None)
            text = sample.get("txt", b"").decode("utf-8", "replace").strip()
            yield sample["__key__"], picture, text
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        got = str(error.args[0])  # webdataset appends its own objects
        raise refusal(archive, "a whole tar archive", got, "Fetch it again.") from error


def _archives(card: Path, folder: Path, shards: Any, split: str) -> list[Piece]:
    fields = {"path", "split", "rows"}
    if not isinstance(shards, list) or not all(
        isinstance(shard, dict) and fields <= shard.keys() for shard in shards
    ):
        raise refusal(card, "`shards` with path, split and rows each", repr(shards)[:80])
    return [
        Piece(s["rows"], partial(_archive_rows, inside_folder(folder, s["path"], card), s))
        for s in shards
        if s["split"] == split
    ]


def _archive_rows(archive: Path, shard: dict[str, Any]) -> Iterator[Row]:
    """Rows of a shard; `ManifestError` if there are not as many as its card says."""
    seen = 0
    for key, picture, text in shard_samples(archive):
        if picture and text:
            seen += 1
            name = f"{archive.stem}/{key}"
            path = archive / f"{key}.jpg"
            yield Row(name, shard["split"], "image", path, (text,), content=picture)
    if seen != shard["rows"]:
        do = "Convert the source again."
        raise refusal(archive, f"{shard['rows']} samples as its card says", f"{seen}", do)


def _row_pieces(file: Path, folder: Path, modality: str, split: str) -> list[Piece]:
    """A Parquet file by its row groups, another whole; each knows its rows of the split."""
    pieces = []
    for group, count in _groups(file, split):
        read = partial(_rows_of_split, file, folder, modality, group, split)
        if count is None:
            count = sum(1 for _ in read())
        if count:
            pieces.append(Piece(count, read))
    return pieces


def _groups(file: Path, split: str) -> Iterator[tuple[int | None, int | None]]:
    """Number of each row group, and its rows of the split where its statistics tell."""
    if file.suffix != ".parquet":
        yield None, None
        return
    with open_parquet(file) as table:
        names = table.schema.names
        for number in range(table.num_row_groups):
            group = table.metadata.row_group(number)
            known = None
            if "split" in names and len(names) == group.num_columns:
                known = group.column(names.index("split")).statistics
            if known and known.has_min_max and not known.null_count and known.min == known.max:
                yield number, group.num_rows if known.min == split else 0
            else:
                yield number, None


def _rows_of_split(
    file: Path, folder: Path, modality: str, group: int | None, split: str
) -> Iterator[Row]:
    for where, row in read_rows(file, folder, modality, group=group):
        if not row.split:
            do = "Write one into each row: a stream does not know the others, to draw it by."
            raise refusal(where, "a split in every row of a stream", "none", do)
        if row.split == split:
            yield row
