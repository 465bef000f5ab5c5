"""The demo's page: plain ipywidgets around a `Session`, which does all the work.

Everything runs in the callbacks themselves. A value that they set is shown at once, and that is
how the answer streams, in JupyterLab, VS Code and Voila alike.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from anymal_lib.demo import markup, previews
from anymal_lib.demo.files import MissingRateError, take_file
from anymal_lib.demo.samples import Sample
from anymal_lib.demo.session import DemoItem, Session
from anymal_lib.errors import AnyMALError, InputError
from anymal_lib.inputs.imu import RATES_HZ
from anymal_lib.modalities import MODALITIES

log = logging.getLogger(__name__)

_RATE_HZ = 50.0  # what is in the field before somebody says better: that of many watches


class DemoPage(widgets.VBox):
    """Items in, a question, the answer word by word, and beside it what it rests on.

    Every part has a CSS class of its own, `anymal-` and its name here.

    Args:
        session: with the model.
        samples: held-out items to pick from, by modality.
    """

    def __init__(self, session: Session, samples: Mapping[str, Sequence[Sample]]) -> None:
        self.session, self.samples = session, dict(samples)
        self._views: dict[DemoItem, widgets.Widget] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="anymal-demo-")
        self._waiting: list[Path] = []  # motion whose rate is not known
        self._make_inputs()
        self._make_outputs()
        self._buttons = [self.add, self.add_rated, self.ask, self.clear]
        picker = [self.sample_modality, self.sample, self.add] if self.samples else []
        super().__init__(
            [
                widgets.HBox([self.upload, *picker], layout=_wrapped()),
                self.rate_row,
                self.shown,
                widgets.HBox([self.question, self.ask, self.clear]),
                self.status,
                self.error,
                widgets.HBox([self.answer, self.meter]),
            ],
            layout=widgets.Layout(max_width="1100px"),
        )
        self.add_class("anymal-demo")
        self._show_items()

    @property
    def items(self) -> list[DemoItem]:
        """What is on the page, in the order in which the model reads it."""
        return list(self._views)

    def _make_inputs(self) -> None:
        self.upload = _named("upload", widgets.FileUpload(multiple=True, description="Files"))
        self.upload.observe(self._uploaded, "value")
        nouns = [(MODALITIES[name].noun or name, name) for name in self.samples]
        self.sample_modality = _named("sample-modality", widgets.Dropdown(options=nouns))
        self.sample_modality.observe(lambda _: self._list_samples(), "value")
        self.sample = _named("sample", widgets.Dropdown())
        self._list_samples()
        self.add = self._button("add", "Add sample", "plus", self._add_sample)
        self.rate = _named(
            "rate", widgets.BoundedFloatText(_RATE_HZ, min=RATES_HZ[0], max=RATES_HZ[1])
        )
        self.add_rated = self._button("add-rated", "Add motion", "plus", self._add_rated)
        self._rate_of = widgets.Label()
        self.rate_row = widgets.HBox([self._rate_of, self.rate, self.add_rated])
        self.question = _named(
            "question",
            widgets.Combobox(
                placeholder="Ask about what is above",
                ensure_option=False,
                layout=widgets.Layout(flex="1 1 auto"),
            ),
        )
        self.ask = self._button("ask", "Ask", "comment", self._ask, style="primary")
        self.clear = self._button("clear", "Start again", "refresh", self._clear)

    def _make_outputs(self) -> None:
        self.shown = _named("items", widgets.HBox(layout=_wrapped()))
        self.status = _named("status", widgets.HTML())
        self.error = _named("error", widgets.HTML())
        half = partial(widgets.Layout, flex="1 1 0", margin="8px", min_width="0")
        self.answer = _named("answer", widgets.HTML(layout=half()))
        self.meter = _named("meter", widgets.HTML(layout=half()))

    def _button(
        self, name: str, label: str, icon: str, act: Callable[[], str], style: str = ""
    ) -> widgets.Button:
        button = widgets.Button(description=label, icon=icon, button_style=style)
        button.on_click(lambda _: self._do(act))
        return _named(name, button)

    def _do(self, act: Callable[[], str]) -> None:
        """Do what a click asks for; it returns what to say when it is done."""
        self.error.value = self.status.value = ""
        for button in self._buttons:
            button.disabled = True
        try:
            self.status.value = act()
        except AnyMALError as error:
            self._tell(error)
        except Exception as error:  # a page has no place for a traceback
            log.debug("the demo's page", exc_info=True)
            self._tell(_unexpected(error))
        finally:
            for button in self._buttons:
                button.disabled = False

    def _tell(self, error: AnyMALError) -> None:
        self.status.value = ""
        self.error.value += markup.error(error)

    # What the buttons do

    def _uploaded(self, change: Any) -> None:
        if change.new:  # empty once it is read
            files = [(Path(file["name"]).name, bytes(file["content"])) for file in change.new]
            self.upload.value = ()
            self._do(partial(self._add_files, files))

    def _add_files(self, files: Sequence[tuple[str, bytes]]) -> str:
        for name, content in files:
            path = Path(tempfile.mkdtemp(dir=self._folder.name)) / name
            path.write_bytes(content)
            self._add_file(path)
        return ""

    def _add_rated(self) -> str:
        waiting, self._waiting = self._waiting, []
        for path in waiting:
            self._add_file(path, self.rate.value)
        self._show_items()
        return ""

    def _add_file(self, path: Path, rate: float | None = None) -> None:
        """One file; what is wrong with it is told and does not keep the others back."""
        self.status.value = markup.doing(f"Reading {path.name}")
        try:
            self._add_item(take_file(self.session, path, rate))
        except MissingRateError:
            self._waiting.append(path)
            self._show_items()
        except AnyMALError as error:
            self._tell(_by_name(error, path))

    def _add_sample(self) -> str:
        sample = self.sample.value
        if sample is None:
            raise InputError(
                "sample",
                expected="one of a list",
                got="an empty list",
                do="Choose another modality, or give a file.",
            )
        self.status.value = markup.doing(f"Reading {sample.name}")
        self._add_item(self.session.take(sample.name, sample.open(), sample.truth))
        return ""

    def _add_item(self, item: DemoItem) -> None:
        self._views[item] = previews.view(item.raw)
        if not self.question.value.strip():
            self.question.value = self.session.model.spec(item.modality).instructions[0]
        self._show_items()

    def _remove(self, item: DemoItem) -> str:
        del self._views[item]
        self._show_items()
        return ""

    def _clear(self) -> str:
        self._views, self._waiting = {}, []
        self.question.value = self.answer.value = self.meter.value = ""
        self._show_items()
        return ""

    def _ask(self) -> str:
        question, items = self.question.value, self.items
        self.answer.value = self.meter.value = ""
        self.status.value = markup.doing("Thinking")
        started, said, first = time.perf_counter(), "", 0.0
        for piece in self.session.stream(question, items):
            first = first or time.perf_counter() - started
            said += piece
            self.answer.value = markup.answer(said)
        seconds = time.perf_counter() - started
        if not said:
            self.answer.value = markup.answer("(no answer)")
        self.status.value = markup.doing("Weighing the answer")
        self.meter.value = markup.meter(self.session.weigh(question, items, said))
        return f"First word after {first or seconds:.1f} s, answer after {seconds:.1f} s."

    # What is on the page

    def _show_items(self) -> None:
        items = self.items
        self.shown.children = [self._card(k, item) for k, item in enumerate(items, start=1)]
        asked = [text for item in items for text in self._suggestions(item)]
        self.question.options = tuple(dict.fromkeys(asked))
        names = ", ".join(path.name for path in self._waiting)
        self._rate_of.value = f"{names} states no time. Samples per second:"
        self.rate_row.layout.display = "" if self._waiting else "none"

    def _card(self, number: int, item: DemoItem) -> widgets.VBox:
        title = widgets.HTML(markup.item_title(number, item))
        remove = self._button("remove", "Remove", "trash", partial(self._remove, item))
        layout = widgets.Layout(width="380px", margin="4px", border="1px solid #cccccc")
        return widgets.VBox([title, self._views[item], remove], layout=layout)

    def _suggestions(self, item: DemoItem) -> Sequence[str]:
        known = {s.name: s for s in self.samples.get(item.modality, ())}
        own = [question for question, _ in known[item.name].questions] if item.name in known else []
        return (*self.session.model.spec(item.modality).instructions, *own)

    def _list_samples(self) -> None:
        found = self.samples.get(self.sample_modality.value, ())
        self.sample.options = [(sample.name, sample) for sample in found]
        self.sample.index = 0 if found else None  # a list that was empty has no selection


def _named(name: str, widget: Any) -> Any:
    """The widget with the CSS class by which styles and tests find it."""
    widget.add_class(f"anymal-{name}")
    return widget


def _wrapped() -> widgets.Layout:
    return widgets.Layout(flex_flow="row wrap")


def _by_name(error: AnyMALError, path: Path) -> AnyMALError:
    """The same, with the file as its owner knows it, without the folder that it was put into."""
    parts = (error.subject, error.expected, error.got, error.do)
    subject, expected, got, do = (part.replace(f"{path.parent}/", "") for part in parts)
    return AnyMALError(subject, expected=expected, got=got, do=do)


def _unexpected(error: Exception) -> AnyMALError:
    told = str(error).strip().splitlines()
    return AnyMALError(
        "the demo",
        expected="to get through this",
        got=type(error).__name__ + (f" ({told[0]})" if told else ""),
        do="Try again, or with a smaller input; if it stays, restart the notebook's kernel.",
    )
