"""How far something is that takes a while: live where somebody watches, sparse lines elsewhere.

In JupyterLab one line with a bar changes in place; on a terminal it is tqdm's. Papermill and other
headless runs would make a line of every change, so one is logged only now and then: after ten
seconds, and then after each tenth of the time that all of it seems to take, or five minutes.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from html import escape
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from IPython.display import DisplayHandle

log = logging.getLogger(__name__)

T = TypeVar("T")

SOONEST_S, LATEST_S = 10.0, 300.0  # between two lines of a log
_AFTER_S = 1.0  # a bar that would be gone within a second is not shown
_REDRAWN_S = 0.5


def track(
    items: Iterable[T],
    what: str,
    *,
    total: int,
    unit: str,
    count: Callable[[T], int] = lambda item: 1,
) -> Iterator[T]:
    """The items, telling how far the loop over them is; each counts `count` units of `total`."""
    done = 0
    with Progress(what, total, unit) as progress:
        for item in items:
            yield item
            done += count(item)
            progress(done)


class Progress:
    """Tells how much of `total` is done: call it with what is done so far, and the total if new.

    `done` is what was done before the clock began, by a run that goes on here. Nothing is said of
    what is over within a second (live) or ten (log).
    """

    def __init__(
        self, what: str, total: float | None = None, unit: str = "items", *, done: float = 0
    ) -> None:
        self.what, self.total, self.unit = what, total, unit
        self._first = self._done = done
        self._began = time.monotonic()
        self._display: _Bar | _Terminal | _Log
        if sys.stderr.isatty():
            self._display = _Terminal(self)
        else:
            self._display = _Bar(self) if watched() else _Log(self)

    def __call__(self, done: float, total: float | None = None, *, note: str = "") -> None:
        """So much is done by now; `note` is shown with it, a loss for example."""
        self._done, self.total = done, total or self.total
        if self.share == 1:
            self._display.close()
        else:
            self._display.show(note)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._display.close()

    @property
    def share(self) -> float | None:
        """What is done of the whole, 0 to 1; None where the whole is not known."""
        return min(1.0, self._done / self.total) if self.total else None

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    @property
    def needed(self) -> float | None:
        """Seconds that all of it seems to take from the beginning here; None if nobody knows."""
        here = self._done - self._first
        return self.elapsed * (self.total - self._first) / here if self.total and here else None

    def line(self, note: str = "") -> str:
        """What is done, how fast, and how long the rest will take."""
        of = f"/{self.total:,.0f}" if self.total else ""
        parts = [f"{self.what}: {self._done:,.0f}{of} {self.unit}", *([note] if note else [])]
        here = self._done - self._first
        if self.share == 1:
            return ", ".join([*parts, f"in {spell(self.elapsed)}"])
        if here:
            each = self.elapsed / here
            parts.append(f"{each:.2g} s each" if each > 0.5 else f"{1 / each:.3g} {self.unit}/s")
        if self.needed is not None:
            parts.append(f"{spell(self.needed - self.elapsed)} left")
        return ", ".join(parts)


def spell(seconds: float) -> str:
    """A duration as people say it: 27 s, 4 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def watched() -> bool:
    """Is this a notebook that somebody sits at?

    Papermill, nbconvert and nbclient tell their kernel that nobody can be asked for input.
    """
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return bool(getattr(getattr(get_ipython(), "kernel", None), "_allow_stdin", False))


class _Log:
    """Lines through `logging`, now and then."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self._said = progress, 0.0

    def show(self, note: str) -> None:
        now, needed = self.progress.elapsed, self.progress.needed
        pause = now / 2 if needed is None else needed / 10
        if now - self._said >= max(SOONEST_S, min(LATEST_S, pause)):
            self._said = now
            log.info(self.progress.line(note))

    def close(self) -> None:
        if self._said and self.progress.share == 1:
            self._said = 0.0
            log.info(self.progress.line())


class _Bar:
    """One line with a bar in a notebook's front end; no widget, so it outlives its kernel."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self._drawn = progress, 0.0
        self._handle: DisplayHandle | None = None

    def show(self, note: str) -> None:
        now = self.progress.elapsed
        if now >= _AFTER_S and now - self._drawn >= _REDRAWN_S:
            self._drawn = now
            self._draw(self.progress.line(note))

    def close(self) -> None:
        if self._handle is not None:
            self._draw(self.progress.line())
            self._handle = None

    def _draw(self, line: str) -> None:
        from IPython.display import display

        share = self.progress.share
        value = "" if share is None else f' value="{share:.3f}"'
        bar = f"<progress{value}></progress> {escape(line)}"
        data = {"text/plain": line, "text/html": bar}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


class _Terminal:
    """tqdm's bar on standard error."""

    def __init__(self, progress: Progress) -> None:
        from tqdm import tqdm

        self.progress = progress
        self._bar: Any = tqdm(
            desc=progress.what,
            total=progress.total,
            initial=progress._done,
            unit=f" {progress.unit}",
            delay=_AFTER_S,
            leave=False,
        )

    def show(self, note: str) -> None:
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(self.progress._done - self._bar.n)

    def close(self) -> None:
        self._bar.close()
