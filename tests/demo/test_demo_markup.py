"""The page's texts in words that a person understands."""

import math

import pytest

from anymal_lib.demo import DemoItem, Weight, markup
from anymal_lib.errors import InputError


def weight(removed, blank):
    """An answer of three tokens, sure with a picture and less so without."""
    of = {"clean": -0.1, "removed": -0.1 - removed, "blank": -0.1 - blank}
    return Weight(DemoItem("a<b>.png", "image", None, None), of, tokens=3)


@pytest.mark.parametrize(
    ("removed", "blank", "told"),
    [
        (math.log(1200), math.log(2.5), "1,200 times less likely without it, 2.5 times less"),
        (40, math.log(1.05), "over a million times less likely without it, as likely with"),
        (-math.log(3), 1e-3, "3.0 times more likely without it, as likely with a blank"),
    ],
)
def test_the_meter_speaks_of_times(removed, blank, told):
    shown = markup.meter([weight(removed, blank)])
    assert told in shown and "1 · picture a&lt;b&gt;.png" in shown
    assert ("does not rest on this picture" in shown) == (min(removed, blank) < 0.15)


def test_the_bar_is_as_long_as_the_share_that_is_lost():
    found = weight(math.log(2) + 0.15, 9)
    assert "width: 50.0%" in markup.meter([found]) and ": 50%" in markup.meter([found])


def test_an_error_tells_its_four_parts():
    error = InputError("a.png", expected="a picture", got="<nothing>", do="Send another.")
    shown = markup.error(error)
    for part in ("a.png", "a picture", "&lt;nothing&gt;", "Send another."):
        assert part in shown
    assert "another.." not in shown
