"""Progress: silent when quick, sparse in a log, one changing line where somebody watches."""

import ast
import logging
import queue
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel

from anymal_lib import progress
from anymal_lib.progress import Progress, spell, track

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets forward."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture
def lines(caplog):
    """Function: what was logged so far."""
    caplog.set_level(logging.INFO, logger="anymal_lib.progress")
    return lambda: [record.getMessage() for record in caplog.records]


def walk(clock, total, seconds_each, **more):
    with Progress("image alignment", total, "steps", **more) as told:
        for step in range(int(more.get("done", 0)) + 1, total + 1):
            clock.now += seconds_each
            told(step, note=f"loss {1 / step:.3f}")


def test_what_is_quick_says_nothing(clock, lines):
    walk(clock, 90, 0.1)
    assert lines() == []


def test_a_log_says_where_it_is_every_ten_seconds_and_how_long_it_took(clock, lines):
    walk(clock, 150, 0.3)
    assert lines() == [
        "image alignment: 34/150 steps, loss 0.029, 3.33 steps/s, 35 s left",
        "image alignment: 68/150 steps, loss 0.015, 3.33 steps/s, 25 s left",
        "image alignment: 102/150 steps, loss 0.010, 3.33 steps/s, 14 s left",
        "image alignment: 136/150 steps, loss 0.007, 3.33 steps/s, 4 s left",
        "image alignment: 150/150 steps, in 45 s",
    ]


@pytest.mark.parametrize(
    ("steps", "seconds_each", "least", "most"),
    [(450, 4, 9, 12), (100_000, 2, 600, 700), (3, 3600, 3, 3), (60, 9, 8, 12)],
)
def test_a_log_of_any_length_stays_readable(clock, lines, steps, seconds_each, least, most):
    """About ten lines, and in a run of many hours one in five minutes."""
    walk(clock, steps, seconds_each)
    assert least <= len(lines()) <= most
    assert lines()[-1].startswith(f"image alignment: {steps:,}/{steps:,} steps, in")


def test_a_run_that_goes_on_is_timed_from_where_it_goes_on(clock, lines):
    walk(clock, 150, 2.0, done=100)
    assert lines()[0] == "image alignment: 105/150 steps, loss 0.010, 2 s each, 90 s left"
    assert lines()[-1] == "image alignment: 150/150 steps, in 2 min"


def test_without_a_total_only_what_is_known_is_said(clock, lines):
    with Progress("file.bin", None, "MB") as told:
        for second in range(1, 100):
            clock.now += 1
            told(4.2 * second)
    assert lines() == [
        "file.bin: 42 MB, 4.2 MB/s",
        "file.bin: 84 MB, 4.2 MB/s",
        "file.bin: 168 MB, 4.2 MB/s",
        "file.bin: 336 MB, 4.2 MB/s",
    ]


def test_a_total_may_come_late(clock, lines):
    told = Progress("items asked")
    for done in range(33):
        told(done, 32)
        clock.now += 3
    assert lines()[0].startswith("items asked: 4/32 items, 3 s each")
    assert lines()[-1] == "items asked: 32/32 items, in 96 s"


def test_what_stops_short_does_not_claim_its_end(clock, lines):
    with pytest.raises(ZeroDivisionError), Progress("x", 10, "steps") as told:
        clock.now += 20
        told(1)
        raise ZeroDivisionError
    assert lines() == ["x: 1/10 steps, 20 s each, 3 min left"]


def test_track_hands_every_item_on_and_counts_what_it_holds(clock, lines):
    def batches():
        for size in (64, 64, 22):
            clock.now += 12
            yield list(range(size))

    seen = list(track(batches(), "answering", total=150, unit="prompts", count=len))
    assert [len(batch) for batch in seen] == [64, 64, 22]
    assert lines() == [
        "answering: 64/150 prompts, 5.33 prompts/s, 16 s left",
        "answering: 128/150 prompts, 5.33 prompts/s, 4 s left",
        "answering: 150/150 prompts, in 36 s",
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (99, "99 s"), (100, "2 min"), (3600, "60 min"), (12_000, "3 h 20 min")],
)
def test_durations_are_spelled(seconds, said):
    assert spell(seconds) == said


# In a real kernel ---------------------------------------------------------------------------------

CELL = """
import logging, sys
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
from anymal_lib import progress
class Clock:
    now = 0.0
    def monotonic(self):
        return self.now
progress.time = clock = Clock()
for step in progress.track(range(40), "<alignment>", total=40, unit="steps"):
    clock.now += 0.8
"""


@pytest.fixture(scope="module")
def kernel():
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(ROOT))
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def said_by(kernel, *, watched):
    """The kernel's messages (type, content) about one run of the cell."""
    asked = kernel.execute(CELL, allow_stdin=watched)
    found = []
    while True:
        try:
            message = kernel.get_iopub_msg(timeout=60)
        except queue.Empty:
            return found
        if message["parent_header"].get("msg_id") != asked:
            continue
        if message["content"].get("execution_state") == "idle":
            return found
        assert message["msg_type"] != "error", message["content"]["evalue"]
        found.append((message["msg_type"], message["content"]))


def test_somebody_who_watches_sees_one_line_change(kernel):
    found = [m for m in said_by(kernel, watched=True) if "display" in m[0]]
    kinds = [kind for kind, _ in found]
    assert kinds[0] == "display_data" and set(kinds[1:]) == {"update_display_data"}
    assert len(found) > 20
    assert len({content["transient"]["display_id"] for _, content in found}) == 1
    first, last = found[0][1]["data"], found[-1][1]["data"]
    assert first["text/plain"] == "<alignment>: 2/40 steps, 0.8 s each, 30 s left"
    assert last["text/plain"] == "<alignment>: 40/40 steps, in 32 s"
    assert last["text/html"].startswith('<progress value="1.000"></progress> &lt;alignment&gt;')


def test_a_headless_run_gets_a_few_lines(kernel):
    found = said_by(kernel, watched=False)
    assert not [kind for kind, _ in found if "display" in kind]
    text = "".join(content["text"] for kind, content in found if kind == "stream")
    assert text.splitlines() == [
        "<alignment>: 13/40 steps, 0.8 s each, 22 s left",
        "<alignment>: 26/40 steps, 0.8 s each, 11 s left",
        "<alignment>: 39/40 steps, 0.8 s each, 1 s left",
        "<alignment>: 40/40 steps, in 32 s",
    ]


def test_the_library_prints_nothing():
    """A module with a command line shows its results on standard output; no other does."""
    outputs = ("sys.stdout.write", "sys.stderr.write", "sys.stdout.writelines")
    for path in (ROOT / "anymal_lib").rglob("*.py"):
        text = path.read_text()
        command = 'if __name__ == "__main__":' in text
        for node in ast.walk(ast.parse(text)):
            called = isinstance(node, ast.Call) and ast.unparse(node.func)
            assert called not in ("print", "pprint"), f"{path.name}:{node.lineno}"
            assert called not in outputs or command, f"{path.name}:{node.lineno}"
