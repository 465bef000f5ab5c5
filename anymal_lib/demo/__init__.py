"""The demo: hand over files, ask, watch the answer come, and see what it rests on.

A `Session` answers and weighs without any page, a `DemoPage` shows it in a notebook.
"""

from __future__ import annotations

from anymal_lib.demo.page import DemoPage
from anymal_lib.demo.session import Answered, DemoItem, Session, Weight

__all__ = ["Answered", "DemoItem", "DemoPage", "Session", "Weight"]
