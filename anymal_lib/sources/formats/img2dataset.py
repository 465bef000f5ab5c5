"""LAION as img2dataset writes it: WebDataset archives of pictures with their alternative texts.

Schema (img2dataset, ``--output_format webdataset``): ``00000.tar`` holds ``<key>.jpg``,
``<key>.txt`` and ``<key>.json`` for every picture that came; ``00000.parquet`` has one row for
every address: the columns of the list (LAION: ``URL``, ``TEXT``, ... renamed to ``url`` and
``caption``) and ``key``, ``status`` (success, failed_to_download, failed_to_resize),
``error_message``, ``width``, ``height``, ``sha256``, ``exif``. Rows stay in their archives.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from anymal_lib.rows import open_parquet
from anymal_lib.sources.reading import Item, Lost, Shard, SourceFolder, dead_link
from anymal_lib.stream import shard_samples


def read(source: SourceFolder, target: Path) -> Iterator[Item]:
    """A `Shard` for each archive, and a `Lost` for each address without a picture.

    The paper names no held-out part. Ours: the last archive is the test split, where there are
    several.
    """
    archives = source.annotations("*.tar")
    for archive in archives:
        log = archive.with_suffix(".parquet")
        if log.is_file():
            yield from _failures(log)
        whole = 0
        for key, picture, text in shard_samples(archive):
            if picture and text:
                whole += 1
            else:
                yield Lost(key, "no caption" if picture else "no picture in the archive")
        held_out = len(archives) > 1 and archive == archives[-1]
        path = archive.relative_to(source.path).as_posix()
        yield Shard(path, "test" if held_out else "train", whole)


def _failures(log: Path) -> Iterator[Lost]:
    with open_parquet(log) as table:
        for batch in table.iter_batches(columns=["key", "status", "error_message"]):
            for entry in batch.to_pylist():
                if entry["status"] == "failed_to_download":
                    yield Lost(str(entry["key"]), dead_link(entry["error_message"] or "unknown"))
                elif entry["status"] != "success":
                    yield Lost(str(entry["key"]), f"unreadable: {entry['status']}")
