"""The chain of notebooks without a browser: `python -m anymal_lib.chain`, or `make run`.

Notebooks 01 to 07 run through Papermill; at the end stands a table of what was reached. 01 to 05
need nothing of each other: they run two at a time where cores and memory suffice, each on its share
of the cores: one alone leaves them idle now and then. 06 and 07 follow on all of them.

With `--reference` the run starts from nothing (no results, an empty cache), notebook 00 looks back
on it at the end, and a copy without this machine's paths is stored under outputs/reference/.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import chdir
from dataclasses import dataclass
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import papermill
from papermill.exceptions import PapermillExecutionError

from anymal_lib.assets import cache_dir
from anymal_lib.config import load_profile
from anymal_lib.errors import AnyMALError, ConfigError
from anymal_lib.machine import cores, default_device, total_memory
from anymal_lib.runs import PARAMETERS, ROOT, from_root, write_text

# Notebooks that need no other's results, in the order in which they start. 04 and 05 take as long
# as the first three.
_INDEPENDENT = ("01", "04", "02", "03", "05")
_MEMORY = 11e9  # bytes of main memory from which two of them run at a time; they take 6.5 GB
_COLUMNS = ("notebook", "seconds", "done after", "peak memory", "results")
# What a reference keeps of a notebook's folder.
_KEPT = ("metrics.json", "curve.jsonl", "curves.jsonl", "*.png")
_HOME = re.compile(r"(?<![\w.])/(?:home|Users)/\w|(?<![\w.])/root\b|\b[A-Z]:\\+Users\b")
_WIDGET = "application/vnd.jupyter.widget-view+json"
_TRACEBACK = "Traceback (most recent call last)"


class NotebookError(AnyMALError):
    """A notebook of the chain stopped with an error."""


@dataclass(frozen=True)
class Step:
    """One notebook that ran: its seconds, and the metrics.json it wrote."""

    notebook: str
    seconds: float
    record: Mapping[str, Any]

    def cells(self, after: float) -> tuple[str, str, str, str, str]:
        """This step as a row of the table; it was done so many seconds after the run began."""
        memory = self.record.get("peak_memory_gb")
        return (
            self.notebook,
            f"{self.seconds:.0f}",
            f"{after // 60:.0f}:{after % 60:02.0f}",
            "" if memory is None else f"{memory:.1f} GB",
            headline(self.record.get("metrics", {})),
        )


def headline(metrics: Mapping[str, Any]) -> str:
    """The main metrics in one line; what a notebook does not measure is left out."""
    found = {
        "exact match": metrics.get("exact_match"),
        **metrics.get("attributes", {}),
        "recall@1": metrics.get("retrieval", {}).get("recall_at_1"),
        "vqa": metrics.get("vqa_accuracy"),
        **metrics.get("questions", {}),
        "agreement": metrics.get("interleaved", {}).get("agreement_accuracy"),
        "names by retrieval": metrics.get("retrieval_augmented", {}).get("on"),
        "without": metrics.get("retrieval_augmented", {}).get("off"),
    }
    parts = [f"{name} {100 * v:.1f} %" for name, v in found.items() if v is not None]
    if report := metrics.get("grounding_report"):
        parts.append(
            f"reads {sum(found['grounded'] for found in report.values())} of {len(report)}"
        )
    parts += [f"{name} {value:.2f}" for name, value in metrics.get("ratios", {}).items()]
    if findings := metrics.get("findings"):
        parts.append(f"shows {sum(map(bool, findings.values()))} of the paper's {len(findings)}")
    return ", ".join(parts)


def chain_notebooks() -> list[Path]:
    """The notebooks of the chain in order, relative to the repository's root."""
    return sorted(path.relative_to(ROOT) for path in ROOT.glob("notebooks/0[1-7]_*.ipynb"))


def reference_notebooks() -> list[Path]:
    """The chain, ablations, demo, benchmark, and then the overview, which tells what is ready."""
    after = [path for n in ("08", "09", "11", "00") for path in ROOT.glob(f"notebooks/{n}_*.ipynb")]
    return [*chain_notebooks(), *(path.relative_to(ROOT) for path in after)]


def numbered(number: str) -> list[Path]:
    """The notebook of a number, "11" for example.

    Raises:
        ConfigError: there is none.
    """
    found = [path.relative_to(ROOT) for path in ROOT.glob(f"notebooks/{number}_*.ipynb")]
    if len(found) != 1:
        raise ConfigError(
            "--only",
            expected="a notebook's number, 00 to 11",
            got=repr(number),
            do="See the folder notebooks/ for those that are there.",
        )
    return found


def run_notebook(notebook: Path, output: Path, parameters: Mapping[str, Any]) -> Step:
    """Run one notebook; its executed copy is `<output>/<its name>`.

    Raises:
        NotebookError: a cell failed, or the kernel died.
    """
    output.mkdir(parents=True, exist_ok=True)
    executed = output / notebook.name
    seen = _shown(executed)
    started = time.perf_counter()
    try:
        with chdir(ROOT):  # relative paths only, so that no machine's get into the metadata
            declared = papermill.inspect_notebook(str(notebook))
            papermill.execute_notebook(
                str(notebook),
                os.path.relpath(executed),
                # Names of other notebooks are left out; unknown ones go on, to be refused there.
                {k: v for k, v in parameters.items() if k in declared or k not in PARAMETERS},
                kernel_name="python3",
                progress_bar=False,  # the notebook says more of where it is
                stdout_file=_Below(notebook.stem.partition("_")[0]),
                extra_arguments=["--log-level=ERROR"],  # ipykernel warns of TCP at each start
            )
    except PapermillExecutionError as error:
        reason = f"{error.ename}: {error.evalue}".strip().splitlines()[0].rstrip(".")
        raise _stopped(notebook, reason, seen) from error
    except RuntimeError as error:  # nbclient's and jupyter_client's: the kernel died
        raise _stopped(notebook, f"{error} (out of memory?)", seen) from error
    record = output / notebook.stem / "metrics.json"
    return Step(
        notebook.stem,
        time.perf_counter() - started,
        json.loads(record.read_text()) if record.is_file() else {},
    )


class _Below:
    """A file that shows what a notebook says, each line with its number."""

    def __init__(self, number: str) -> None:
        self.number = number

    def write(self, text: str) -> None:
        # Whole lines in one call: another process may write between two.
        lines = (f"  {self.number}  {line}\n" for line in text.splitlines() if line.strip())
        sys.stdout.write("".join(lines))

    def flush(self) -> None:
        sys.stdout.flush()


def _stopped(notebook: Path, reason: str, executed: str) -> NotebookError:
    return NotebookError(
        str(notebook), expected="a run to its end", got=reason, do=f"See {executed}."
    )


def run_chain(
    profile: str,
    output: Path,
    parameters: Mapping[str, Any],
    *,
    notebooks: Sequence[Path] | None = None,
    fresh: bool = False,
    jobs: int = 1,
) -> Iterator[str]:
    """Run the chain (or `notebooks`) and write a report; yields what to show meanwhile, by line.

    `fresh` removes each notebook's earlier results before it runs. So many of those that need no
    other run at a time as `jobs` says.
    """
    load_profile(profile)  # an unknown one is refused before anything starts
    whole = notebooks is None
    if notebooks is None:
        notebooks = reference_notebooks() if fresh else chain_notebooks()
    given = {**parameters, "PROFILE": profile, "OUTPUT_DIR": os.path.relpath(output, ROOT)}
    for notebook in notebooks if fresh else ():
        shutil.rmtree(output / notebook.stem, ignore_errors=True)
    began, rows = time.perf_counter(), {}
    for notebook, step in _run_all(notebooks, output, given, jobs):
        mark = f"[{notebooks.index(notebook) + 1}/{len(notebooks)}] {notebook.stem}"
        if step is None:
            yield f"{mark} ..."
            continue
        rows[notebook] = step.cells(time.perf_counter() - began)
        yield f"{mark}: {rows[notebook][1]} s  {rows[notebook][-1]}".rstrip()
    table = [_COLUMNS, *(rows[notebook] for notebook in notebooks)]
    report = output / ("report.md" if whole else f"{notebooks[0].stem}.md")
    write_text(report, f"# AnyMAL, profile {profile}\n\n{_markdown(table)}\n")
    yield f"\n{_aligned(table)}\n\nReport: {_shown(report)}"


Event = tuple[Path, Step | None]  # a notebook starts (None), or has ended


def _run_all(
    notebooks: Sequence[Path], output: Path, given: Mapping[str, Any], jobs: int
) -> Iterator[Event]:
    """Independent notebooks side by side where more than one may run at a time, then the others."""
    numbered = {notebook.stem.partition("_")[0]: notebook for notebook in notebooks}
    first = [numbered[number] for number in _INDEPENDENT if number in numbered]
    if jobs == 1 or len(first) == 1:
        first = []
    others = [notebook for notebook in notebooks if notebook not in first]
    return chain(_side_by_side(first, output, given, jobs), _in_turn(others, output, given))


def _in_turn(notebooks: Sequence[Path], output: Path, given: Mapping[str, Any]) -> Iterator[Event]:
    for notebook in notebooks:
        yield notebook, None
        yield notebook, run_notebook(notebook, output, given)


def _side_by_side(
    notebooks: Sequence[Path], output: Path, given: Mapping[str, Any], jobs: int
) -> Iterator[Event]:
    """Each in a process with its share of the cores; where one fails, the running ones still end.

    Raises:
        NotebookError: one failed.
    """
    waiting, running = list(notebooks), dict[Future[Step], Path]()
    threads = max(1, cores() // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), _take_share, (threads,)) as pool:
        while waiting or running:
            while waiting and len(running) < jobs:
                notebook = waiting.pop(0)
                running[pool.submit(run_notebook, notebook, output, given)] = notebook
                yield notebook, None
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                notebook = running.pop(future)
                try:
                    yield notebook, future.result()
                except BrokenProcessPool as error:
                    reason = "the end of its process (out of memory?)"
                    raise _stopped(notebook, reason, _shown(output / notebook.name)) from error
                except NotebookError:
                    for other in running.values():
                        _say([f"{notebook.stem} failed; {other.stem} runs to its end first ..."])
                    raise


def _take_share(threads: int) -> None:
    """Kernels that this process starts compute on so many threads, or as the user's shell says."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def at_a_time() -> int:
    """How many notebooks run at a time: two, but on a GPU, one core or little memory one."""
    enough = cores() > 1 and total_memory() >= _MEMORY
    return 2 if enough and default_device() == "cpu" else 1


def _shown(path: Path) -> str:
    """A path as the user's shell understands it, short where it can be."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(_COLUMNS) + "|", *lines[1:]])


def store_reference(output: Path, target: Path) -> None:
    """Copy a run's notebooks, metrics, curves and figures to `target`, without machine paths.

    Raises:
        AnyMALError: a home folder, the user's name or a traceback would remain. Then nothing of
            `target` has changed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    replaced = _machine_paths()
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as folder:
        fresh = Path(folder) / target.name
        for source in _reference_files(output):
            copy = fresh / source.relative_to(output)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.suffix == ".png":
                shutil.copyfile(source, copy)
            elif source.suffix == ".ipynb":
                content = _scrubbed(json.loads(source.read_text()), replaced)
                copy.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
            else:
                copy.write_text(_without_paths(source.read_text(), replaced))
        shutil.rmtree(target, ignore_errors=True)
        os.replace(fresh, target)


def _reference_files(output: Path) -> Iterator[Path]:
    yield output / "report.md"
    for notebook in reference_notebooks():
        yield output / notebook.name
        for pattern in _KEPT:
            yield from sorted((output / notebook.stem).glob(pattern))


def _machine_paths() -> dict[str, str]:
    """Folders of this machine and what stands for them, longest first."""
    named = {
        str(ROOT): ".",
        str(cache_dir()): "<cache>",
        sysconfig.get_path("purelib"): "<site-packages>",
        sys.prefix: "<environment>",
        tempfile.gettempdir(): "<tmp>",
        str(Path.home()): "~",
    }
    return {path: named[path] for path in sorted(named, key=len, reverse=True) if path != "/"}


def _scrubbed(content: Any, replaced: Mapping[str, str]) -> Any:
    """An executed notebook's JSON without machine paths, times and dead widgets."""
    if isinstance(content, list):
        live = (i for i in content if not (isinstance(i, dict) and _WIDGET in i.get("data", ())))
        return [_scrubbed(item, replaced) for item in live]
    if isinstance(content, dict):
        return {
            # A figure is base64, in which a short path may occur by chance.
            key: value if key.startswith("image/") else _scrubbed(value, replaced)
            for key, value in content.items()
            if key not in ("papermill", "execution", "widgets")
        }
    return _without_paths(content, replaced) if isinstance(content, str) else content


def _without_paths(text: str, replaced: Mapping[str, str]) -> str:
    for path, name in replaced.items():
        text = re.sub(rf"(?<![\w.-]){re.escape(path)}(?![\w-])", name, text)
    user = Path.home().name
    # "root" is a user's name and a word of these notebooks; /root is caught as a path.
    patterns = [_HOME, re.escape(_TRACEBACK), *([rf"\b{re.escape(user)}\b"] * (user != "root"))]
    for pattern in patterns:
        if found := re.search(pattern, text):
            raise AnyMALError(
                "reference run",
                expected="no home folder, user name or traceback",
                got=repr(text[max(0, found.start() - 30) : found.end() + 30]),
                do="Correct what prints it, and run again.",
            )
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chain from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m anymal_lib.chain", description=__doc__)
    parser.add_argument("--profile", default="mini", help="default: mini")
    parser.add_argument("--output", help="folder of the results; default: outputs/<profile>")
    parser.add_argument("--reference", action="store_true", help="run afresh, store a reference")
    parser.add_argument("--only", metavar="NUMBER", help="one notebook in place of the chain")
    parser.add_argument(
        "--jobs",
        type=int,
        choices=(1, 2),
        help="notebooks at a time, of 01 to 05; default: 2 on a CPU with 12 GB of memory, else 1",
    )
    parser.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a notebook parameter; may be repeated",
    )
    given = parser.parse_args(arguments)
    parameters = dict(given.parameters)
    if given.only and given.reference:
        parser.error("a reference is of the whole chain: leave out --only or --reference")
    if {"PROFILE", "OUTPUT_DIR"} & set(parameters):
        parser.error("PROFILE and OUTPUT_DIR are set with --profile and --output")
    output = from_root(given.output or Path("outputs") / given.profile)
    jobs = given.jobs or at_a_time()
    try:
        if given.reference:
            target = ROOT / "outputs" / "reference" / given.profile
            with tempfile.TemporaryDirectory(prefix="anymal-cache-") as cache:
                os.environ["ANYMAL_CACHE"] = cache  # the kernels inherit it
                _say(run_chain(given.profile, output, parameters, fresh=True, jobs=jobs))
                store_reference(output, target)
            _say([f"Reference: {_shown(target)}"])
        else:
            notebooks = numbered(given.only) if given.only else None
            _say(run_chain(given.profile, output, parameters, notebooks=notebooks, jobs=jobs))
    except AnyMALError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _say(lines: Iterator[str] | Sequence[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
