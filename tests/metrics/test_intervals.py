"""Bootstrap intervals of means and of paired differences."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anymal_lib.errors import DataError
from anymal_lib.metrics.intervals import bootstrap, paired_bootstrap


def test_bootstrap_narrows_with_more_items_and_repeats():
    few, many = bootstrap([0, 1] * 10), bootstrap([0, 1] * 500)
    assert few.value == many.value == 0.5
    assert few.low < many.low < 0.5 < many.high < few.high
    # The normal approximation of a proportion.
    assert many.high - many.low == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 1000), rel=0.1)
    assert bootstrap([0, 1, 1], seed=3) == bootstrap([0, 1, 1], seed=3)
    assert bootstrap(np.linspace(0, 1, 50), seed=3) != bootstrap(np.linspace(0, 1, 50), seed=4)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("n", [1, 7, 100])
def test_bootstrap_of_one_value_has_no_width(value, n):
    interval = bootstrap([value] * n)
    assert (interval.value, interval.low, interval.high) == pytest.approx((value,) * 3)


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=300))
def test_the_interval_contains_the_mean(scores):
    interval = bootstrap(scores)
    assert interval.value == pytest.approx(float(np.mean(scores)))
    assert min(scores) - 1e-9 <= interval.low <= interval.value + 1e-9
    assert interval.value - 1e-9 <= interval.high <= max(scores) + 1e-9


def test_a_paired_difference_is_surer_than_two_intervals():
    draw = np.random.default_rng(0)
    hard = draw.normal(0, 1, 300)
    first, second = hard + 0.2 + draw.normal(0, 0.1, 300), hard
    found = paired_bootstrap(first, second)
    assert found.value == pytest.approx(float((first - second).mean()))
    assert 0 < found.low < 0.2 < found.high, "the difference shows"
    assert bootstrap(first).low < bootstrap(second).high, "which intervals of each do not show"
    turned = paired_bootstrap(second, first)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=2e-3)
    # The normal approximation of a mean.
    width = 2 * 1.96 * (first - second).std() / math.sqrt(300)
    assert found.high - found.low == pytest.approx(width, rel=0.1)


def test_equal_scores_do_not_differ():
    found = paired_bootstrap([0, 1, 1, 0.5], [0, 1, 1, 0.5], seed=3)
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_scores_of_other_numbers_of_items_are_refused():
    with pytest.raises(DataError, match="2 and 3 scores"):
        paired_bootstrap([0, 1], [0, 1, 1])
