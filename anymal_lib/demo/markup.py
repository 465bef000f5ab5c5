"""Texts of the page as HTML, everything that is not ours escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from anymal_lib.demo.session import DemoItem, Weight
from anymal_lib.errors import AnyMALError
from anymal_lib.plots import BAD, GOOD


def answer(text: str) -> str:
    """The answer so far."""
    return f"<div style='white-space: pre-wrap; font-size: 125%'>{escape(text)}</div>"


def doing(what: str) -> str:
    """What the page is at."""
    return f"<i>{escape(what)} ...</i>"


def item_title(number: int, item: DemoItem) -> str:
    """Which item it is, and what the data say about it where they do."""
    truth = f"<br><i>the data say: {escape(item.truth)}</i>" if item.truth else ""
    return f"<b>{number} · {escape(item.label)}</b>{truth}"


def meter(weights: Sequence[Weight]) -> str:
    """One bar an item: how much of its likelihood the answer loses without it."""
    if not weights:
        return "No input: the answer is the language model's own."
    bars = "".join(_bar(number, weight) for number, weight in enumerate(weights, start=1))
    return f"<b>What the answer rests on</b>{bars}"


def _bar(number: int, weight: Weight) -> str:
    colour = GOOD if weight.reads else BAD
    noun, name = escape(weight.item.noun), f"{number} · {escape(weight.item.label)}"
    verdict = "" if weight.reads else f"<b>The answer does not rest on this {noun}.</b> "
    return (
        f"<div style='margin-top: 8px'>{name}: {weight.rests:.0%}"
        "<div style='background: #dddddd; height: 14px; width: 100%'>"
        f"<div style='background: {colour}; height: 14px; width: {100 * weight.rests:.1f}%'></div>"
        f"</div><small style='line-height: 1.3'>{verdict}This answer would be"
        f" {_times(weight, 'removed')} likely without it,"
        f" {_times(weight, 'blank')} likely with a blank {noun}. Log-likelihood:"
        f" {weight.of['clean']:.1f}, {weight.of['removed']:.1f} without,"
        f" {weight.of['blank']:.1f} blank.</small></div>"
    )


def _times(weight: Weight, control: str) -> str:
    """How many times less (or more) likely the answer is under a control."""
    nats = weight.of["clean"] - weight.of[control]
    if abs(nats) < math.log(1.1):  # nobody would notice less
        return "as"
    what = "less" if nats > 0 else "more"
    if abs(nats) > math.log(1e6):
        return f"over a million times {what}"
    return f"{math.exp(abs(nats)):,.{0 if abs(nats) > math.log(10) else 1}f} times {what}"


def error(found: AnyMALError) -> str:
    """The four parts of an error, a line each."""
    parts = {
        "What": found.subject,
        "Expected": found.expected,
        "Came": found.got,
        "To do": found.do,
    }
    lines = "".join(
        f"<div><b>{name}:</b> {escape(text.rstrip('.'))}.</div>" for name, text in parts.items()
    )
    return f"<div style='color: {BAD}; border-left: 4px solid; padding-left: 8px'>{lines}</div>"
