"""Sessions: blind, in an order of (seed, rater), and nothing that was clicked is ever lost."""

import json
import multiprocessing
import shutil
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rated import items, rate_all

from anymal_lib.errors import AnyMALError, ConfigError, DataError
from anymal_lib.paper.training import RUBRIC as STATED
from anymal_lib.rating import Session, Study, load_study, sample
from anymal_lib.rating.questions import RUBRIC


def test_the_rubric_has_the_points_that_the_paper_states():
    stated = {s.name: s.value for s in STATED if s.name.startswith("points")}
    assert {f"points for {q.name}": tuple(q.options) for q in RUBRIC} == stated


names = st.text("abc äß:/", min_size=1, max_size=8)


@given(seed=st.integers(0, 2**40), rater=names)
def test_order_and_sides_are_a_function_of_seed_and_rater(seed, rater):
    study = Study.pairs(items(5, ("a", "b", "c")), seed=seed)
    tasks = study.tasks(rater)
    assert tasks == Study.pairs(items(5, ("a", "b", "c")), seed=seed).tasks(rater)
    wanted = {(f"image/{k}", *two) for k in range(5) for two in ("ab", "ac", "bc")}
    assert {task.key for task in tasks} == wanted and len(tasks) == 15


def test_another_seed_or_rater_sees_another_order_and_other_sides():
    study = Study.pairs(items(40))
    ana, ben = study.tasks("Ana"), study.tasks("Ben")
    other = replace(study, seed=1).tasks("Ana")
    for tasks in (ben, other):
        assert [t.item for t in tasks] != [t.item for t in ana]
        sides = {t.item: t.shown for t in tasks}
        differ = sum(sides[t.item] != t.shown for t in ana)
        assert 8 <= differ <= 32  # of 40 coins
    assert 8 <= sum(t.shown[0] == "good" for t in ana) <= 32


def test_a_side_does_not_depend_on_the_other_items():
    few, many = (Study.pairs(items(count)).tasks("Ana") for count in (4, 12))
    sides = {task.item: task.shown for task in many}
    assert all(sides[task.item] == task.shown for task in few)


def test_pairings_are_all_or_those_against_one():
    three = items(2, ("a", "b", "human"))
    assert Study.pairs(three).shown == (("a", "b"), ("a", "human"), ("b", "human"))
    assert Study.pairs(three, against="human").shown == (("a", "human"), ("b", "human"))
    assert Study.rubric(three).shown == (("a",), ("b",), ("human",))


def test_a_study_is_read_as_it_was_written(pairs):
    study = load_study(pairs)
    assert study == Study.pairs(items()) and study.fingerprint[:8] in pairs.name


def test_the_same_study_finds_its_folder_and_another_one_gets_its_own(tmp_path):
    first = Study.pairs(items()).save(tmp_path)
    session = Session(first, "Ana")
    session.rate("preference", "tie")
    assert Study.pairs(items()).save(tmp_path) == first
    assert Session(first, "Ana").done == 1
    changed = [replace(item, responses={"good": "x", "bad": "y"}) for item in items()]
    assert Study.pairs(changed).save(tmp_path) != first
    assert Session(first, "Ana").done == 1


@pytest.mark.parametrize(
    "build",
    [
        lambda: Study.pairs([]),
        lambda: Study.rubric([]),
        lambda: Study.pairs(items(2, ("only",))),
        lambda: Study.pairs(items(2), against="nobody's"),
        lambda: Study.rubric(items(2) + items(1)),
        lambda: Study.rubric([*items(1), replace(items(2)[1], responses={"good": "x"})]),
    ],
)
def test_what_cannot_be_rated_is_refused(build):
    with pytest.raises(DataError):
        build()


def test_a_sample_is_drawn_by_the_seed():
    drawn = sample(items(30), 5, seed=3)
    assert drawn == sample(items(30), 5, seed=3) != sample(items(30), 5, seed=4)
    assert len({item.id for item in drawn}) == 5
    assert sorted(item.id for item in sample(items(3), 9)) == [f"image/{k}" for k in range(3)]


def test_the_answers_in_view_are_those_of_the_systems_on_their_sides(pairs):
    session = Session(pairs, "Ana")
    for task in session.tasks:
        number = task.item.removeprefix("image/")
        assert session.responses == tuple(f"{system} answer {number}" for system in task.shown)
        session.next()
    assert session.current is None and session.responses == ()


def test_a_rater_resumes_where_they_stopped(pairs):
    session = Session(pairs, "Ana")
    for choice in ("left", "tie", "right"):
        session.rate("preference", choice)
    again = Session(pairs, "Ana")
    assert (again.position, again.done, again.tasks) == (3, 3, session.tasks)
    again.back()
    assert again.said == {"preference": "right"}


def test_raters_of_one_folder_do_not_meet(pairs):
    ana, ben, odd = (Session(pairs, name) for name in ("Ana", "Ben", "a/../b: ü"))
    for session, count in ((ana, 3), (ben, 1), (odd, 2)):
        for _ in range(count):
            session.rate("preference", "tie")
    found = [Session(pairs, s.rater).done for s in (ana, ben, odd)]
    assert found == [3, 1, 2]
    assert len(list(pairs.glob("*.jsonl"))) == 3 and len(list(pairs.parent.iterdir())) == 1


def test_every_click_is_on_the_disk_at_once(rubric):
    session = Session(rubric, "Ana")
    session.rate("integrity", 2)
    again = Session(rubric, "Ana")
    assert again.said == {"integrity": 2} and (again.position, again.done) == (0, 0)
    again.rate("object recognition", 1)
    again.rate("response accuracy", 0)
    assert Session(rubric, "Ana").position == 1


def test_a_changed_answer_stays_in_view_and_the_last_one_counts(rubric):
    session = Session(rubric, "Ana")
    for question in RUBRIC:
        session.rate(question.name, 2)
    session.back()
    session.rate("object recognition", 1)
    assert session.position == 0 and session.done == 1
    assert Session(rubric, "Ana")._answers()[session.current.key]["object recognition"] == 1


def test_what_was_skipped_comes_back_at_the_end(pairs):
    session = Session(pairs, "Ana")
    session.next()
    for _ in range(5):
        session.rate("preference", "tie")
    assert session.position == 0 and session.done == 5
    session.rate("preference", "tie")
    assert session.current is None


def test_undo_returns_to_the_click_and_to_what_it_had_replaced(pairs):
    session = Session(pairs, "Ana")
    session.rate("preference", "left")
    session.back()
    session.rate("preference", "right")
    session.next()
    session.undo()
    assert (session.position, session.said) == (0, {"preference": "left"})
    session.undo()
    assert (session.position, session.said, session.can_undo) == (0, {}, False)
    session.undo()  # nothing left: nothing happens
    again = Session(pairs, "Ana")
    assert (again.position, again.done, again.can_undo) == (0, 0, False)


clicks = st.lists(st.sampled_from(["left", "tie", "right", "undo", "back", "next"]), max_size=25)


@given(clicks=clicks)
def test_a_session_that_is_opened_again_is_the_same(clicks, tmp_path_factory):
    folder = Study.pairs(items(3)).save(tmp_path_factory.mktemp("study"))
    session = Session(folder, "Ana")
    for click in clicks:
        if click in ("undo", "back", "next"):
            getattr(session, click)()
        elif session.current is not None:
            session.rate("preference", click)
    again = Session(folder, "Ana")
    assert again._answers() == session._answers() and again.done == session.done
    assert again.position in (*again._open(), len(again.tasks))


def test_wherever_a_crash_cuts_the_file_whole_lines_count_and_rating_goes_on(pairs):
    session = Session(pairs, "Änne")
    for choice in ("left", "tie", "right"):
        session.rate("preference", choice)
    session.undo()
    (path,) = pairs.glob("*.jsonl")
    whole = path.read_bytes()
    expected = [0, 0, 1, 2, 3, 2]  # rated after so many lines: header, three clicks, an undo
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        lines = whole[:size].count(b"\n")
        again = Session(pairs, "Änne")
        assert again.done == expected[lines]
        again.rate("preference", "left")
        assert Session(pairs, "Änne").done == expected[lines] + 1
        for line in path.read_text().splitlines():
            json.loads(line)


def _rate_for_ever(folder):
    session = Session(folder, "Ana")
    while True:
        session.position = (session.position + 1) % len(session.tasks)
        session.rate("preference", "tie")


def test_a_killed_process_leaves_a_file_that_goes_on(pairs):
    for _ in range(3):
        process = multiprocessing.get_context("fork").Process(target=_rate_for_ever, args=(pairs,))
        process.start()
        while not (Session(pairs, "Ana").done > 2 and process.is_alive()):
            time.sleep(0.01)
        process.kill()
        process.join()
    session = Session(pairs, "Ana")
    session.position = 0
    session.rate("preference", "left")
    session.position = 0
    assert session.said == {"preference": "left"}
    assert Session(pairs, "Ana")._answers() == session._answers()


def test_two_pages_of_one_rater_lose_nothing(pairs):
    first, second = Session(pairs, "Ana"), Session(pairs, "Ana")
    first.rate("preference", "left")
    second.next()
    second.rate("preference", "right")
    first.undo()
    again = Session(pairs, "Ana")
    assert again._answers() == {again.tasks[1].key: {"preference": "right"}}


@pytest.mark.parametrize(
    ("question", "value"),
    [("preference", "good"), ("preference", 1), ("integrity", 2), ("", "left")],
)
def test_an_answer_that_was_not_offered_is_refused(pairs, question, value):
    session = Session(pairs, "Ana")
    with pytest.raises(DataError, match="preference"):
        session.rate(question, value)
    assert list(pairs.glob("*.jsonl")) == []


@pytest.mark.parametrize("value", [1, True, 2.0, "2", None, 3])
def test_points_are_those_of_the_rubric(rubric, value):
    with pytest.raises(DataError):
        Session(rubric, "Ana").rate("integrity", value)


def test_after_the_last_task_nothing_is_asked(pairs):
    session = rate_all(Session(pairs, "Ana"), lambda *_: "tie")
    with pytest.raises(DataError):
        session.rate("preference", "tie")


def test_a_click_that_cannot_be_saved_is_refused_and_not_counted(pairs):
    session = Session(pairs, "Ana")
    shutil.rmtree(pairs)
    with pytest.raises(DataError, match="not saved"):
        session.rate("preference", "tie")
    assert (session.done, session.position, session.can_undo) == (0, 0, False)


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "ü" * 60])
def test_a_rater_needs_a_name(pairs, name):
    with pytest.raises(ConfigError, match="rater"):
        Session(pairs, name)


GOOD = {"item": "image/0", "shown": ["good", "bad"], "question": "preference", "value": "left"}


@pytest.mark.parametrize(
    "line",
    [
        "not JSON",
        "\x00\x00",
        "[]",
        "{}",
        "null",
        json.dumps({**GOOD, "item": "image/99"}),
        json.dumps({**GOOD, "item": ["image/0"]}),
        json.dumps({**GOOD, "shown": ["good"]}),
        json.dumps({**GOOD, "shown": ["good", "worse"]}),
        json.dumps({**GOOD, "shown": 3}),
        json.dumps({**GOOD, "question": "integrity", "value": 2}),
        json.dumps({**GOOD, "value": "good"}),
        json.dumps({**GOOD, "value": None}),
        json.dumps({k: v for k, v in GOOD.items() if k != "value"}),
        json.dumps({**GOOD, "undone": True}),
        json.dumps({**{k: v for k, v in GOOD.items() if k != "value"}, "undone": True}),
    ],
)
def test_a_damaged_line_is_named(pairs, line):
    Session(pairs, "Ana").rate("preference", "tie")
    (path,) = pairs.glob("*.jsonl")
    header = path.read_text().splitlines()[0]
    path.write_text("\n".join([header, line, json.dumps(GOOD), ""]))
    with pytest.raises(DataError, match=r"Ana\.jsonl', line 2"):
        Session(pairs, "Ana")


def test_ratings_of_another_study_or_rater_are_refused(pairs, tmp_path):
    other = Study.pairs(items(), seed=1).save(tmp_path)
    Session(pairs, "Ana").rate("preference", "tie")
    shutil.copy(pairs / "Ana.jsonl", other)
    with pytest.raises(DataError, match="line 1"):
        Session(other, "Ana")
    shutil.copy(pairs / "Ana.jsonl", pairs / "Ben.jsonl")
    with pytest.raises(DataError, match="line 1"):
        Session(pairs, "Ben")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"format": 1', '"format": 2'),
        lambda text: text.replace('"seed"', '"sand"'),
        lambda text: text.replace('"good"', '"God"', 1),
        lambda text: text.replace('"What is it?"', "7"),
        lambda text: text.replace('"modality"', '"mode"'),
    ],
)
def test_a_damaged_study_is_named(pairs, damage):
    path = pairs / "study.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(AnyMALError, match=r"study\.json"):
        load_study(pairs)
