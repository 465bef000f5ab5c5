"""The project's files hold together: dependencies, Makefile, README, what an import does."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNTIME = PROJECT["dependencies"]
DEPENDENCIES = [*RUNTIME, *PROJECT["optional-dependencies"]["dev"]]
LOCK = (ROOT / "requirements.lock").read_text()
LOCKED = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", LOCK, flags=re.MULTILINE)
}
# Declared without an import here: users were promised them, or another package needs them to fit.
NOT_IMPORTED = {
    "torchvision",
    "bitsandbytes",
    "laion-clap",
    "gguf",
    "ipykernel",
    "aiohttp",
}
PACKAGES = {  # by module
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "faiss": "faiss-cpu",
    "open_clip": "open_clip_torch",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}


@pytest.mark.parametrize("text", DEPENDENCIES)
def test_locked_version_satisfies_the_specifier(text):
    requirement = Requirement(text)
    name = canonicalize_name(requirement.name)
    assert name in LOCKED, f"{name} is not in requirements.lock: make lock"
    assert requirement.specifier.contains(LOCKED[name]), f"{text}, locked {LOCKED[name]}"


def test_every_pin_of_the_lock_has_hashes():
    pins = [block for block in re.split(r"\n(?=\S)", LOCK) if re.match(r"[\w.-]+==", block)]
    assert len(pins) == len(LOCKED) > len(DEPENDENCIES)
    assert [pin.split()[0] for pin in pins if "--hash=sha256:" not in pin] == []


def test_lock_says_what_it_is_for_and_names_no_host_or_path():
    header = "".join(line for line in LOCK.splitlines(True)[:4] if line.startswith("#"))
    assert all(word in header for word in ("Linux x86-64", "Python 3.11", "make lock"))
    lines = [line.split("#")[0] for line in LOCK.splitlines()]
    assert [x for x in lines if re.search(r"://|file:|(^|[\s=])/|--(extra-)?index|--find", x)] == []
    assert " @ " not in LOCK


def test_environment_yml_repeats_pyproject():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert conda[:2] == ["python=3.11", "pip"]
    assert conda[2]["pip"] == [*DEPENDENCIES, "-e ."]


def test_imports_and_declared_dependencies_agree():
    imported = set()
    for path in (ROOT / "anymal_lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    imported -= {"anymal_lib", *sys.stdlib_module_names}
    declared = {canonicalize_name(Requirement(text).name) for text in RUNTIME}
    imported.remove("lmms_eval")  # beside the extra `harness`, see docs/harness.md
    packages = {canonicalize_name(PACKAGES.get(module, module)) for module in imported}
    assert sorted(packages - declared) == []
    assert sorted(declared - packages - NOT_IMPORTED) == []


WATCHED_IMPORT = """
import sys, time
seen = []
WRITES = {"os.mkdir", "os.rename", "os.remove", "subprocess.Popen"}
def hook(event, args):
    write = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
    if write or event in WRITES or event.startswith("socket."):
        seen.append((event, str(args)[:200]))
sys.addaudithook(hook)
started = time.process_time()
import anymal_lib
print(round(time.process_time() - started, 2))
print(seen)
"""


def test_import_is_quick_and_touches_neither_network_nor_disk(tmp_path):
    cache = tmp_path / "cache"
    done = subprocess.run(
        [sys.executable, "-B", "-c", WATCHED_IMPORT],
        cwd=tmp_path,
        env={**os.environ, "ANYMAL_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    seconds, seen = done.stdout.splitlines()
    assert seen == "[]"
    assert float(seconds) <= 2, "seconds of processor time for `import anymal_lib`"
    assert not cache.exists() and list(tmp_path.iterdir()) == []


def test_readme_names_only_targets_that_the_makefile_has():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"(?:`|^\s*\$?\s*)make ([a-z][a-z-]*)", readme, re.MULTILINE))
    assert {"run", "test", "lab"} <= named
    assert named <= targets


def test_ci_entry_can_be_executed():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_no_file_names_a_home_folder():
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    home = re.compile(rb"(?<![\w.])/(?:home|Users)/\w+/|(?<![\w.])/[r]oot/|[A-Z]:\\Users\\")
    files = [ROOT / name for name in listed.split("\0") if name]
    found = [f for f in files if f.is_file() and home.search(f.read_bytes())]
    assert [str(f.relative_to(ROOT)) for f in found] == []
