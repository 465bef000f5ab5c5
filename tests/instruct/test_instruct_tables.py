"""What notebook 06 shows of hand-made results: tables, metrics, figures."""

import json

import matplotlib.pyplot as plt
import pytest

from anymal_lib.instruct import figures, stages, tables
from anymal_lib.instruct.answers import AnswerReport
from anymal_lib.instruct.examples import Example, Item, Turn, ask, text_item
from anymal_lib.instruct.filter import REASONS, Judged
from anymal_lib.instruct.sets import InstructionSet
from anymal_lib.instruct.stages import Scores, Tuned
from anymal_lib.instruct.synthetic import Pair, Yield
from anymal_lib.instruct.words import Worded
from anymal_lib.metrics.intervals import Interval
from anymal_lib.train import StepReport

PICTURE, MOTION = Item("image", "square-0"), Item("imu", "motion-0")


def asked(*given, items=(PICTURE,)):
    return [ask(q, *items, answer=a, kind=kind, source="facts") for q, a, kind in given]


def report_of(examples, right, blind=0.5, **controls):
    share = sum(right) / len(right)
    scores = {"clean": share, **controls}
    intervals = {name: Interval(value, 0.0, 1.0) for name, value in scores.items()}
    said = [e.answer if ok else "wrong" for e, ok in zip(examples, right, strict=True)]
    return AnswerReport(examples, said, right, intervals, blind)


COLOURS = asked(
    ("What colour?", "red", "colour"), ("Is it red?", "yes", "yes/no"), ("Hm?", "red", "colour")
)
MOTIONS = asked(("Which motion?", "shaking", "motion"), items=(MOTION,))
PAIRS = asked(("Which is red?", "first", "which colour"), items=(PICTURE, MOTION))


def scores_of(colours, perplexity=20.0):
    return Scores(
        "image",
        report_of(COLOURS, colours, 0.6, blank=0.25),
        {"imu": report_of(MOTIONS, [True], 0.4)},
        report_of(PAIRS, [False], 0.5),
        {"image": 0.12345},
        perplexity,
    )


@pytest.fixture
def found():
    """Scores of the three stages."""
    return {
        "aligned": scores_of([False, False, False]),
        "projection": scores_of([True, False, False]),
        "lora": scores_of([True, True, False], 21.5),
    }


def judgement(reason, example=COLOURS[0]):
    return Judged(example, 0.51234, 0.1, 0.2, reason)  # blind, then others


YIELD = Yield(
    "a writer", 3, ((PICTURE, "no pair" * 60),),
    (
        Pair(PICTURE, "What colour?", "red", "colour", None),
        Pair(PICTURE, "Red?", "red", "colour", "answer in the question"),
        Pair(MOTION, "What?", "shaking", "motion", None),
    ),
)  # fmt: skip


def test_yields_are_counted_and_shown():
    counted = tables.yield_counts({"imu": YIELD})["imu"]
    assert (counted["writer"], counted["items asked"], counted["pairs written"]) == (
        "a writer",
        3,
        3,
    )
    assert (counted["pairs kept"], counted["kept of written"]) == (2, "67%")
    assert counted["dropped: answer in the question"] == 1 and counted["dropped: malformed"] == 0
    nothing = tables.yield_counts({"imu": Yield("a writer", 3, (), ())})["imu"]
    assert nothing["kept of written"] == "0%"
    lines = tables.yield_pairs(YIELD, each=1)
    assert list(lines["verdict"]) == [
        "kept", "dropped: answer in the question", "no pair in this text",
    ]  # fmt: skip
    assert len(lines["question"].iloc[-1]) == 200


def test_parts_are_counted_with_what_is_held_out():
    train = {"image": COLOURS, "imu": [], "pairs": PAIRS * 2}
    data = InstructionSet({}, train, {"image": COLOURS[:1], "imu": MOTIONS}, PAIRS, None, None)
    table = tables.set_counts(data)
    assert {name: tuple(row) for name, row in table.iterrows()} == {
        "image": (3, 1), "imu": (0, 1), "pairs": (2, 1),
    }  # fmt: skip
    assert list(table.columns) == ["train", "test"]


def test_an_example_of_each_kind_is_shown_with_places_for_items():
    turns = (Turn(("See ", PICTURE, " and ", MOTION), "yes"), Turn(("Sure?",), "no"))
    lines = tables.example_lines([*COLOURS, Example(turns, "dialogue", "dialogues")])
    assert lines.values.tolist() == [
        ["colour", "What colour? <image>", "red"],
        ["yes/no", "Is it red? <image>", "yes"],
        ["dialogue", "See <image> and <imu> | Sure?", "yes | no"],
    ]
    assert len(tables.example_lines(COLOURS, each=2)) == 3
    words = ask("Is it red?", text_item(" red blue"), answer="yes", kind="c", source="comparisons")
    assert tables.example_lines([words])["the user says"].item() == "Is it red? red blue"


def test_scores_stand_beside_each_other(found):
    table = tables.stage_scores(found)
    assert list(table.columns) == ["aligned", "projection", "lora"]
    assert table["lora"].to_dict() == {
        "questions about image": 0.667, "... colour": 0.5, "... yes/no": 1.0,
        "questions about imu": 1.0, "pairs that agree or conflict": 0.0,
        "captions of image": 0.123, "perplexity of plain text": 21.5,
    }  # fmt: skip
    kinds = tables.kind_scores({"image": found["lora"].vqa})
    assert kinds.values.tolist() == [["image", "colour", 2, 0.5], ["image", "yes/no", 1, 1.0]]
    controls = tables.control_scores({"image": found["lora"].vqa})
    assert controls.loc["image"].to_dict() == {
        "clean": 0.667, "blank": 0.25, "best blind answer": 0.6,
    }  # fmt: skip


def test_what_became_of_tokens_is_shown_fact_by_fact():
    table = tables.word_scores({"imu": Worded({"arm": 0.12345, "motion": 0.1}, {"motion": 0.9}, 3)})
    assert table.values.tolist() == [["imu", "motion", 0.1, 0.9]]


def test_the_filter_is_counted_and_shown():
    judged = [judgement(reason) for reason in (None, *REASONS, REASONS[0])]
    counted = tables.filter_counts({"written": judged, "none": []})
    assert counted["written"].to_dict() == {
        "before": 7, "dropped: duplicate": 2, "dropped: contradicts a fact": 1,
        "dropped: answered without the item": 1, "dropped: unlikely with the item": 1,
        "dropped: item does not help": 1, "after": 1,
    }  # fmt: skip
    assert not counted["none"].any()
    lines = tables.filter_lines(judged, each=1)
    assert list(lines["verdict"]) == [*REASONS, "kept"]
    assert lines.iloc[0].tolist()[:5] == ["What colour?", "red", 0.512, 0.2, 0.1]


def test_metrics_gather_every_part_and_are_json(found):
    judged = {
        "synthetic": [judgement(None), judgement(REASONS[3])],
        "planted: text answers": [judgement(REASONS[2])] * 3 + [judgement(None)],
        "planted: grounded": [judgement(None)] * 4,
    }
    curve = [StepReport(k + 1, float(20 - k), 1e-3, 8, 0.1) for k in range(20)]
    tuned = {"projection": Tuned(curve, 2.0), "lora": Tuned(curve[:5], 3.0)}
    orders = {"item first": report_of(COLOURS, [True, False, False])}
    fits = {"imu": Worded({"motion": 0.1}, {"motion": 0.9}, 3.0)}
    compared = {"image": report_of(COLOURS[1:2], [True])}
    metrics = stages.finetuning_metrics(
        found, judged, {"imu": YIELD}, tuned, orders, fits, compared
    )
    assert metrics["words"]["imu"]["after"] == {"motion": 0.9}
    assert metrics["after_comparisons"] == {"image": {"yes/no": 1.0}}
    assert metrics["by_stage"] == pytest.approx({"aligned": 0, "projection": 1 / 3, "lora": 2 / 3})
    every = metrics["questions_by_stage"]
    assert {name: found["image"] for name, found in every.items()} == metrics["by_stage"]
    assert every["lora"].keys() == {"image", "imu", "two items"} and every["lora"]["imu"] == 1.0
    assert metrics["vqa_accuracy"] == pytest.approx(2 / 3) and metrics["blind"] == 0.6
    assert metrics["vqa_kinds"] == {"colour": 0.5, "yes/no": 1.0}
    assert metrics["questions"] == {"imu": 1.0}
    assert metrics["interleaved"]["orders"] == pytest.approx({"item first": 1 / 3})
    part = metrics["filter"]
    assert (part["before"], part["after"]) == (2, 1), "without a written set"
    assert part["planted_text_answerable_dropped"] == 0.75
    assert part["planted_grounded_dropped"] == 0.0
    assert part["sets"]["planted: text answers"]["dropped: answered without the item"] == 3
    assert metrics["synthetic"] == {"imu": {"asked": 3, "written": 3, "kept": 2}}
    assert metrics["text_perplexity"] == {"before": 20.0, "after": 21.5}
    assert metrics["final_loss"] == {"projection": 1.5, "lora": 16.0}, "mean of a tenth, or one"
    assert metrics["train_seconds"] == {"projection": 2.0, "lora": 3.0}
    json.dumps(metrics, default=vars)


def test_bars_hold_every_set_of_questions_and_its_blind_answer(found, tmp_path):
    scores, blind = stages.bars(found)
    assert blind == {"image": 0.6, "imu": 0.4, "two items": 0.5}
    assert scores["lora"] == pytest.approx({"image": 2 / 3, "imu": 1.0, "two items": 0.0})
    figure = figures.stage_bars(scores, blind)
    (axis,) = figure.axes
    heights = [bar.get_height() for bar in axis.patches]
    assert heights == pytest.approx([v for stage in scores.values() for v in stage.values()])
    saved(figure, tmp_path)


def test_answers_are_drawn_with_their_items_wrong_ones_first(media_of, asked_cards, tmp_path):
    colours = [
        *asked(("What colour?", "red", "colour")),
        *asked(("Which colour now?", "green", "colour"), items=(Item("image", "square-1"),)),
    ]
    report = report_of([*colours, *PAIRS], [True, False, True])
    figure = figures.answered(report, media_of().rows, ["colour", "which colour"])
    titles = [part.get_suptitle().replace("\n", " ") for part in figure.subfigs]
    assert titles[:2] == ["Which colour now? wrong (truth: green)", "Which is red? first"]
    assert [len(part.axes) for part in figure.subfigs[:2]] == [1, 2]
    saved(figure, tmp_path)


def saved(figure, folder):
    figure.savefig(folder / "figure.png")
    assert plt.imread(folder / "figure.png").std() > 0.01, "something is drawn"
    plt.close(figure)
