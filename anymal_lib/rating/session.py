"""One rater's way through a study: where they are, what they see, and what they have said."""

from __future__ import annotations

from pathlib import Path

from anymal_lib.errors import DataError
from anymal_lib.rating.journal import Rating, append, file_of, read
from anymal_lib.rating.study import RatedItem, Task, load_study


class Session:
    """A rater in a study's folder; everything said before is there again.

    Args:
        folder: where `Study.save` put the study.
        rater: who rates; each name has a file and an order of its own.

    Raises:
        ConfigError: no name.
        DataError: the study or this rater's file is damaged.
    """

    def __init__(self, folder: str | Path, rater: str) -> None:
        self.study = load_study(folder)
        self.rater = rater.strip()
        self.tasks = self.study.tasks(self.rater)
        self._file = file_of(Path(folder), self.rater)
        self._ratings = read(self._file, self.study, self.rater)
        self.position = self._next_open(0)

    @property
    def current(self) -> Task | None:
        """The task in view; None after the last one."""
        return self.tasks[self.position] if self.position < len(self.tasks) else None

    @property
    def item(self) -> RatedItem | None:
        """The item in view."""
        return self.study.by_id[self.current.item] if self.current else None

    @property
    def responses(self) -> tuple[str, ...]:
        """The answers in view, from left to right, without their systems' names."""
        if self.current is None:
            return ()
        texts = self.study.by_id[self.current.item].responses
        return tuple(texts[system] for system in self.current.shown)

    @property
    def said(self) -> dict[str, int | str]:
        """What this rater has said about the task in view: question -> value."""
        return self._answers().get(self.current.key, {}) if self.current else {}

    @property
    def done(self) -> int:
        """How many tasks have all their questions answered."""
        return len(self.tasks) - len(self._open())

    @property
    def can_undo(self) -> bool:
        """Is there anything to take back?"""
        return bool(self._ratings)

    def rate(self, question: str, value: int | str) -> None:
        """Answer a question about the task in view, and save it.

        Its last open question leads on to the next open task; a changed answer stays in view.
        Raises `DataError` for what is not asked here, and where it cannot be saved.
        """
        options = {q.name: q for q in self.study.questions} if self.current else {}
        if question not in options or not options[question].takes(value):
            raise DataError(
                "rating",
                expected=f"one of { ({name: list(q.options) for name, q in options.items()}) }",
                got=f"{question}: {value!r}",
                do="Answer a question of the task in view.",
            )
        was_open = self.position in self._open()
        rating = Rating(self.rater, self.current, question, value)
        append(self._file, self.study, rating)
        self._ratings.append(rating)
        if was_open and self.position not in self._open():
            self.position = self._next_open(self.position)

    def undo(self) -> None:
        """Take the last click back and return to its task; what it had replaced counts again."""
        if self._ratings:
            append(self._file, self.study, self._ratings[-1], undone=True)
            key = self._ratings.pop().task.key
            self.position = next(k for k, task in enumerate(self.tasks) if task.key == key)

    def next(self) -> None:
        """Go on, rated or not."""
        self.position = min(self.position + 1, len(self.tasks))

    def back(self) -> None:
        """Go to the task before."""
        self.position = max(self.position - 1, 0)

    def _answers(self) -> dict[tuple[str, ...], dict[str, int | str]]:
        """What stands for each task; a later answer replaces an earlier one."""
        found: dict[tuple[str, ...], dict[str, int | str]] = {}
        for rating in self._ratings:
            found.setdefault(rating.task.key, {})[rating.question] = rating.value
        return found

    def _open(self) -> list[int]:
        """Where in the order tasks lack an answer."""
        answers, wanted = self._answers(), len(self.study.questions)
        return [k for k, task in enumerate(self.tasks) if len(answers.get(task.key, ())) < wanted]

    def _next_open(self, start: int) -> int:
        """The first open task from `start` on, else from the beginning, else the end."""
        places = self._open()
        return min(places, key=lambda k: (k < start, k), default=len(self.tasks))
