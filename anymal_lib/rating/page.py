"""The page on which people rate: plain ipywidgets around a `Session`, which does all the work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from html import escape
from typing import Any

import ipywidgets as widgets

from anymal_lib.errors import AnyMALError, ConfigError, DataError
from anymal_lib.instruct.examples import Item
from anymal_lib.modalities import open_row
from anymal_lib.rating.journal import RULE, is_rule
from anymal_lib.rating.questions import PREFERENCE, Question
from anymal_lib.rating.session import Session
from anymal_lib.rating.views import view
from anymal_lib.rows import Row

_CHOSEN = "info"  # the look of a button that was pressed


class RatingPage(widgets.VBox):
    """What a rater sees: the item, the prompt, the answers, and buttons to judge them.

    Attributes:
        answers: (question, value) -> its button.
        back, undo, forward: the other buttons.

    Args:
        session: the rater's.
        rows: the row of every item, to open its media by.

    Raises:
        ConfigError: the rater is a rule; the page is for people.
    """

    def __init__(self, session: Session, rows: Mapping[Item, Row]) -> None:
        if is_rule(session.rater):
            raise ConfigError(
                "rater of a page",
                expected=f"a person, whose name does not begin with {RULE!r}",
                got=repr(session.rater),
                do="Give the name or initials of who rates.",
            )
        self.session, self._rows = session, rows
        self._viewed: str | None = None  # the item whose media are on the page
        self._buttons: list[widgets.Button] = []
        self._make_parts()
        self.answers: dict[tuple[str, int | str], widgets.Button] = {}
        lines = [self._question(question) for question in session.study.questions]
        moves = widgets.HBox([self.back, self.undo, self.forward])
        parts = [self._top, self._media, self._prompt, self._responses, *lines, moves]
        super().__init__([*parts, self._status], layout=widgets.Layout(max_width="1000px"))
        self.refresh()

    def _make_parts(self) -> None:
        self._bar = widgets.IntProgress(max=len(self.session.tasks))
        self._count = widgets.Label()
        self._top = widgets.HBox([self._bar, self._count])
        self._media = widgets.HBox()
        self._prompt, self._status = widgets.HTML(), widgets.HTML()
        self._responses = widgets.HBox()
        self.back = self._button("Back", self.session.back, "arrow-left")
        self.undo = self._button("Undo", self.session.undo, "undo")
        self.forward = self._button("Next", self.session.next, "arrow-right")

    def _question(self, question: Question) -> widgets.HBox:
        buttons = []
        for value, label in question.options.items():
            button = self._button(label, partial(self.session.rate, question.name, value))
            button.layout.width = "220px"
            self.answers[question.name, value] = button
            buttons.append(button)
        name = [] if question is PREFERENCE else [_label(question.name)]
        return widgets.HBox([*name, *buttons])

    def _button(self, label: str, act: Callable[[], None], icon: str = "") -> widgets.Button:
        button = widgets.Button(description=label, icon=icon)
        button.on_click(lambda _: self._do(act))
        self._buttons.append(button)
        return button

    def _do(self, act: Callable[[], None]) -> None:
        # Drawing takes a while, and a click on what is in view until then would count for the next.
        for button in self._buttons:
            button.disabled = True
        told = ""
        try:
            act()
        except AnyMALError as error:
            told = _alarm(error)
        self.refresh()
        self._status.value = told

    def refresh(self) -> None:
        """Show the session as it is: what takes time first, and the buttons last."""
        session = self.session
        self._show_media()
        self._show_texts()
        self._bar.value = session.done
        where = min(session.position + 1, len(session.tasks))
        self._count.value = (
            f"{session.done} of {len(session.tasks)} rated; this is number {where}, "
            f"for {session.rater}"
        )
        for (question, value), button in self.answers.items():
            button.button_style = _CHOSEN if session.said.get(question) == value else ""
            button.disabled = session.current is None
        self.back.disabled = session.position == 0
        self.undo.disabled = not session.can_undo
        self.forward.disabled = session.current is None

    def _show_texts(self) -> None:
        item, left = self.session.item, len(self.session.tasks) - self.session.done
        self._responses.children = [_answer(text) for text in self.session.responses]
        if item is not None:
            self._prompt.value = f"<b>{escape(item.prompt)}</b>"
        elif left:
            self._prompt.value = f"<b>The end; {left} are not rated yet. Go back for them.</b>"
        else:
            self._prompt.value = "<b>All are rated and saved. Thank you.</b>"

    def _show_media(self) -> None:
        item = self.session.item
        if (name := item.id if item else None) != self._viewed:
            self._media.children = [self._view(media) for media in item.media] if item else []
            self._viewed = name

    def _view(self, media: Item) -> widgets.Widget:
        try:
            return view(self._open(media))
        except AnyMALError as error:  # one bad file does not end a rater's work
            return widgets.HTML(_alarm(error))

    def _open(self, media: Item) -> Any:
        if media not in self._rows:
            raise DataError(
                f"{media.modality} {media.id!r}",
                expected="an item among the rows that the page was given",
                got="none of that id",
                do="Give the page the rows of all items, or go on with Next.",
            )
        return open_row(self._rows[media])


def _label(text: str) -> widgets.Label:
    return widgets.Label(text, layout=widgets.Layout(width="150px"))


def _answer(text: str) -> widgets.HTML:
    shown = escape(text) if text.strip() else "<i>(no answer)</i>"
    layout = widgets.Layout(flex="1 1 0", border="1px solid #999999", padding="8px", margin="4px")
    return widgets.HTML(f"<div style='white-space: pre-wrap'>{shown}</div>", layout=layout)


def _alarm(error: AnyMALError) -> str:
    return f"<span style='color: #b2182b'>{escape(str(error))}</span>"
