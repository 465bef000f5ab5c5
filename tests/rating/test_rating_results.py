"""Results: rates, points, agreement; people and rules apart."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rated import items, rate_all

from anymal_lib.errors import DataError
from anymal_lib.instruct.examples import Item, ask
from anymal_lib.manifest import load_manifest
from anymal_lib.rating import (
    KNOWN_FACTS,
    Session,
    Study,
    items_of_examples,
    items_of_rows,
    known_of_examples,
    known_of_rows,
    load_results,
    rate_by_facts,
)
from anymal_lib.rating.figures import win_tie_lose
from anymal_lib.rating.journal import Rating
from anymal_lib.rating.results import Agreement, Results, kappa, mean_kappa, preference
from anymal_lib.rating.study import Task
from anymal_lib.rating.tables import agreement_table, points_table, preference_table
from anymal_lib.runs import plain


def prefer(text):
    """A rater who takes the side whose answer begins so."""
    return lambda _, responses: "left" if responses[0].startswith(text) else "right"


def test_sides_are_mapped_back_to_systems(pairs):
    for rater in ("Ana", "Ben"):
        session = rate_all(Session(pairs, rater), prefer("good"))
        assert {rating.value for rating in session._ratings} == {"left", "right"}
    (found,) = load_results(pairs).preferences()
    assert (found.system, found.against, found.raters) == ("good", "bad", "2 people")
    assert (found.items, found.win.value, found.tie.value, found.lose.value) == (6, 1, 0, 0)


def test_a_rater_who_always_takes_the_left_gives_each_system_its_lefts(pairs):
    session = rate_all(Session(pairs, "Ana"), lambda *_: "left")
    (found,) = load_results(pairs).preferences()
    lefts = sum(task.shown[0] == "good" for task in session.tasks)
    assert found.win.value == pytest.approx(lefts / 6)
    assert found.lose.value == pytest.approx(1 - lefts / 6)


def test_changed_and_undone_answers_do_not_count(pairs):
    session = Session(pairs, "Ana")
    session.rate("preference", "left")
    session.back()
    session.rate("preference", "tie")
    session.next()
    session.rate("preference", "left")
    session.undo()
    (found,) = load_results(pairs).preferences()
    assert (found.items, found.tie.value) == (1, 1)


ratings = st.lists(
    st.tuples(
        st.sampled_from(["Ana", "Ben", "Cem"]),
        st.integers(0, 5),
        st.booleans(),
        st.sampled_from(["left", "tie", "right"]),
    ),
    min_size=1,
    max_size=30,
).map(
    lambda drawn: [
        Rating(rater, Task(str(k), ("b", "a") if turned else ("a", "b")), "preference", value)
        for rater, k, turned, value in drawn
    ]
)


@settings(max_examples=50)
@given(ratings=ratings, seed=st.integers(0, 5))
def test_wins_of_one_are_losses_of_the_other_and_rates_sum_to_one(ratings, seed):
    a, b = (preference(ratings, *two, "people", seed) for two in ("ab", "ba"))
    assert (a.win, a.tie, a.lose) == (b.lose, b.tie, b.win)  # intervals too
    assert a.win.value + a.tie.value + a.lose.value == pytest.approx(1)
    for part in (a.win, a.tie, a.lose):
        assert 0 <= part.low <= part.value + 1e-9 and part.value <= part.high + 1e-9 <= 1 + 2e-9


@given(ratings=ratings)
def test_turning_the_sides_changes_nothing(ratings):
    turn = {"left": "right", "right": "left", "tie": "tie"}
    turned = [
        Rating(r.rater, Task(r.task.item, r.task.shown[::-1]), r.question, turn[r.value])
        for r in ratings
    ]
    assert preference(turned, "a", "b", "x") == preference(ratings, "a", "b", "x")


def test_two_raters_of_an_item_are_one_observation(pairs):
    for rater in ("Ana", "Ben", "Cem"):
        rate_all(Session(pairs, rater), prefer("good"))
    one, (three,) = Session(pairs, "Ana"), load_results(pairs).preferences()
    assert three.items == len(one.tasks)
    rate_all(Session(pairs, "Dev"), prefer("bad"))
    (four,) = load_results(pairs).preferences()
    assert four.win.value == 0.75 == four.win.low == four.win.high  # all items alike


def test_points_are_shares_of_the_most(rubric):
    values = {"response accuracy": 2, "object recognition": 1, "integrity": 0}
    rate_all(Session(rubric, "Ana"), lambda question, _: values[question])
    found = {(p.system, p.question): p.share.value for p in load_results(rubric).points()}
    for system in ("good", "bad"):
        assert found[system, "response accuracy"] == 1
        assert found[system, "object recognition"] == 0.5
        assert found[system, "integrity"] == 0


def test_points_belong_to_their_system(rubric):
    rate_all(Session(rubric, "Ana"), lambda _, responses: 2 * responses[0].startswith("good"))
    found = {p.system: p.share.value for p in load_results(rubric).points()}
    assert found == {"good": 1, "bad": 0}


def _repeated(table):
    """Answers of two raters from how often each pair of answers occurred."""
    cells = [(i, j) for (i, j), n in np.ndenumerate(np.array(table)) for _ in range(n)]
    return tuple(zip(*cells, strict=True))


@pytest.mark.parametrize(
    ("table", "value"),
    [
        # Fleiss, Statistical Methods for Rates and Proportions: psychotic, neurotic, organic.
        ([[75, 1, 4], [5, 4, 1], [0, 0, 10]], 0.676),
        ([[20, 5], [10, 15]], 0.4),  # two readers of 50 proposals: (0.7 - 0.5) / (1 - 0.5)
        ([[5, 0], [0, 5]], 1.0),
        ([[0, 5], [5, 0]], -1.0),
        ([[4, 4], [4, 4]], 0.0),
    ],
)
def test_kappa_of_textbooks(table, value):
    assert kappa(*_repeated(table), weighted=False) == pytest.approx(value, abs=5e-4)


points = st.lists(st.tuples(*[st.sampled_from([0, 1, 2])] * 2), min_size=2, max_size=40)


@given(points=points)
def test_weighted_kappa_is_one_minus_observed_over_expected_distance(points):
    first, second = np.array(points).T
    expected = np.mean((first[:, None] - second[None, :]) ** 2)
    found = kappa(first.tolist(), second.tolist(), weighted=True)
    if len({*first, *second}) == 1:
        assert found is None
    else:
        assert found == pytest.approx(1 - np.mean((first - second) ** 2) / expected)


def test_agreement_does_not_depend_on_the_sides(pairs):
    rate_all(Session(pairs, "Ana"), prefer("good"))
    rate_all(Session(pairs, "Ben"), prefer("good"))
    rate_all(Session(pairs, "Cem"), prefer("bad"))
    same = {found.raters: found.same for found in load_results(pairs).agreement()}
    assert same == {("Ana", "Ben"): 1, ("Ana", "Cem"): 0, ("Ben", "Cem"): 0}


def test_agreement_counts_what_both_rated(pairs):
    rate_all(Session(pairs, "Ana"), prefer("good"))
    ben = Session(pairs, "Ben")
    assert load_results(pairs).agreement() == []
    ben.rate("preference", "tie")
    (found,) = load_results(pairs).agreement()
    assert (found.shared, found.same, found.kappa) == (1, 0, 0)


def test_mean_kappa_is_of_people():
    found = [
        Agreement("preference", ("Ana", "Ben"), 9, 0.5, 0.2),
        Agreement("preference", ("Ana", "Cem"), 9, 0.5, 0.6),
        Agreement("preference", ("Ben", "Cem"), 9, 1.0, None),
        Agreement("preference", ("Ana", KNOWN_FACTS), 9, 0.5, -1.0),
        Agreement("integrity", ("Ana", "Ben"), 9, 0.5, 1.0),
    ]
    assert mean_kappa(found, "preference") == pytest.approx(0.4)
    assert mean_kappa(found[3:4], "preference") is None


@pytest.fixture
def squares(image_card):
    """Held-out squares: their manifest, rows, and captions of three systems."""
    manifest = load_manifest(image_card)
    rows = manifest.split("test")
    other = {"left": "right", "right": "left"}
    answers = {
        "right": [f"{r.facts['colour']}, {r.facts['side']}" for r in rows],
        "half": [f"{r.facts['colour']}, {other[r.facts['side']]}" for r in rows],
        "wrong": ["nothing" for _ in rows],
    }
    return manifest, rows, answers


def test_the_rule_knows_the_facts(squares, tmp_path):
    manifest, rows, answers = squares
    items = items_of_rows(rows, "Describe it.", answers)
    known = known_of_rows(rows, manifest.fact_values)
    folder = Study.pairs(items).save(tmp_path)
    rate_by_facts(folder, known)
    found = {(p.system, p.against): p.win.value for p in load_results(folder).preferences()}
    assert found == {("right", "half"): 1, ("right", "wrong"): 1, ("half", "wrong"): 1}
    folder = Study.rubric(items).save(tmp_path)
    rate_by_facts(folder, known)
    points = {(p.system, p.question): p.share.value for p in load_results(folder).points()}
    assert points == {
        ("right", "response accuracy"): 1,
        ("right", "object recognition"): 1,
        ("half", "response accuracy"): 0,
        ("half", "object recognition"): 0.5,
        ("wrong", "response accuracy"): 0,
        ("wrong", "object recognition"): 0,
    }


def test_the_rule_writes_nothing_twice(squares, tmp_path):
    manifest, rows, answers = squares
    folder = Study.pairs(items_of_rows(rows, "?", answers)).save(tmp_path)
    known = known_of_rows(rows[:3], manifest.fact_values)
    session = rate_by_facts(folder, known)
    assert session.done == 9  # three pairings of the three items that something is known of
    (path,) = folder.glob("*.jsonl")
    before = path.read_bytes()
    rate_by_facts(folder, known)
    assert path.read_bytes() == before


def test_the_rule_knows_answers_to_questions(tmp_path):
    examples = [
        ask("Which colour?", Item("image", str(k)), answer="red", kind="colour", source="facts")
        for k in range(3)
    ]
    answers = {"one": ["Red.", "blue", "red"], "two": ["red", "red", "green"]}
    folder = Study.pairs(items_of_examples(examples, answers)).save(tmp_path)
    rate_by_facts(folder, known_of_examples(examples))
    (found,) = load_results(folder).preferences()
    thirds = (found.win.value, found.tie.value, found.lose.value)
    assert thirds == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def test_answers_must_be_as_many_as_items(squares):
    _, rows, answers = squares
    with pytest.raises(DataError, match="'half'"):
        items_of_rows(rows, "?", {**answers, "half": answers["half"][1:]})


def test_rules_are_never_counted_as_people(pairs):
    rate_by_facts(pairs, {f"image/{k}": lambda text: text.startswith("bad") for k in range(6)})
    rate_all(Session(pairs, "Ana"), prefer("good"))
    results = load_results(pairs)
    found = {p.raters: p.win.value for p in results.preferences()}
    assert found == {"1 person": 1, KNOWN_FACTS: 0}
    assert set(preference_table(results)["rated by"]) == {"1 person", KNOWN_FACTS}
    labels = win_tie_lose(results.preferences()).axes[0].get_yticklabels()
    assert ["1 person" in labels[0].get_text(), KNOWN_FACTS in labels[1].get_text()] == [True] * 2
    assert not any(found.of_people for found in results.agreement())
    assert list(results.summary()["rated_by"]) == ["1 person", KNOWN_FACTS]


def test_a_folder_without_ratings_has_empty_results(pairs):
    results = load_results(pairs)
    assert results.preferences() == [] and results.agreement() == [] and results.by_raters == {}
    assert preference_table(results).empty and agreement_table(results).empty
    assert len(win_tie_lose([]).axes) == 2


def test_a_copied_file_does_not_count_twice(pairs):
    rate_all(Session(pairs, "Ana"), prefer("good"))
    (pairs / "Ana copy.jsonl").write_bytes((pairs / "Ana.jsonl").read_bytes())
    with pytest.raises(DataError, match="Ana copy"):
        load_results(pairs)


def test_tables_and_summary_hold_the_results(rubric):
    for rater, points in (("Ana", 2), ("Ben", 0)):
        rate_all(Session(rubric, rater), lambda *_, points=points: points)
    results = load_results(rubric)
    frame = points_table(results)
    assert list(frame.columns) == [
        "items",
        "response accuracy",
        "object recognition",
        "integrity",
    ]
    ours = frame.loc[("good", "2 people")]
    assert ours["items"] == 3 and ours["integrity"] == "50.0 (50-50)"
    theirs = frame.xs("AnyMAL 70B", level="system").iloc[0]
    assert list(theirs) == ["", 56.0, 82.4, 99.3]
    agreed = agreement_table(results)
    assert list(agreed["same answer, %"][:3]) == [0, 0, 0]
    assert isinstance(agreed, pd.DataFrame) and "mean of people" in set(agreed["raters"])
    summary = plain(results.summary())
    assert summary["rated_by"] == {"2 people": 36} and len(summary["points"]) == 6


def test_bars_add_up(pairs):
    rate_all(Session(pairs, "Ana"), lambda *_: "tie")
    ours = win_tie_lose(load_results(pairs).preferences()).axes[0]
    assert sum(bar.get_width() for bar in ours.patches) == pytest.approx(100)
    assert isinstance(load_results(pairs), Results)


def test_two_studies_of_one_folder_stay_apart(tmp_path):
    first, second = (Study.pairs(items(), seed=seed).save(tmp_path) for seed in (0, 1))
    rate_all(Session(first, "Ana"), prefer("good"))
    assert load_results(second).preferences() == []
