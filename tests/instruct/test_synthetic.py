"""Synthetic pairs: a real tiny LLM and a real server write; runs that are killed go on."""

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anymal_lib.errors import AssetError, ConfigError, DataError, InputError
from anymal_lib.instruct import synthetic, verdicts
from anymal_lib.instruct.examples import Item
from anymal_lib.instruct.parse import parse
from anymal_lib.instruct.synthetic import describe, prompt_for, synthesize
from anymal_lib.instruct.tables import yield_counts, yield_pairs
from anymal_lib.instruct.verdicts import fact_asked, reason_against
from anymal_lib.instruct.writers import EndpointWriter, LocalWriter
from anymal_lib.rows import Row

VALUES = {"colour": ["blue", "gray", "red"], "shape": ["circle", "triangle"]}


def row(number, colour="red", shape="circle", **more):
    return Row(
        id=f"row-{number}",
        split="train",
        modality="image",
        path=Path(f"/{number}.png"),
        text=(f"a {colour} {shape}",),
        facts={"colour": colour, "shape": shape},
        **more,
    )


ROWS = [row(0), row(1, "blue"), row(2, "gray", "triangle"), row(3), row(4, "red", "triangle")]


@dataclass
class SayingWriter:
    """Says given texts by the caption that a prompt holds; remembers what it was asked."""

    says: Mapping[str, str]
    name: str = "saying"
    batch: int = 2
    settings: Mapping[str, float] = field(default_factory=dict)
    asked: list = field(default_factory=list)

    def write(self, prompts, seed):
        self.asked.append((len(prompts), seed))
        captions = [prompt.splitlines()[1].removeprefix("- ") for prompt in prompts]
        return [self.says.get(caption, "") for caption in captions]


# What a writer is told ---------------------------------------------------------------------------


def test_a_description_tells_captions_objects_and_boxes():
    told = describe(
        row(0, objects=("cat", {"name": "hat", "x": 3}), boxes=([0, 0.123456, 2, 3], "a\nb"))
    )
    assert told.splitlines() == [
        "Captions:", "- a red circle",
        "Objects:", "- cat", "- name hat, x 3",
        "Boxes:", "- (0, 0.1235, 2, 3)", "- a b",
    ]  # fmt: skip
    assert describe(row(0)) == "Captions:\n- a red circle"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(text=st.lists(st.text(min_size=1)), objects=st.lists(JSON), boxes=st.lists(JSON))
def test_any_row_can_be_told_and_sent(text, objects, boxes):
    told = describe(replace(row(0), text=tuple(text), objects=tuple(objects), boxes=tuple(boxes)))
    told.encode()  # no half characters
    assert "\0" not in told
    assert bool(told) == bool(text or objects or boxes)


def test_long_rows_are_cut():
    told = describe(replace(row(0), text=("word " * 5000,) * 500))
    assert len(told) < 20 * 610


def test_a_prompt_says_the_item_and_the_count():
    prompt = prompt_for(row(0), 7)
    assert "Write 7 " in prompt and "- a red circle" in prompt and "looking at" in prompt
    assert "depth" in prompt_for(replace(row(0), modality="depth"), 1)
    with pytest.raises(InputError, match="row-0"):
        prompt_for(replace(row(0), text=()), 1)


# Reading what was written ------------------------------------------------------------------------

PAIRS = [("What colour is it?", "red"), ("What is it?", "a circle")]


@pytest.mark.parametrize(
    "text",
    [
        "Q: What colour is it?\nA: red\n\nQ: What is it?\nA: a circle",
        "Question: What colour is it? Answer: red\nQuestion: What is it? Answer: a circle",
        "Sure! Here they are:\n1. What colour is it?\n   A: red\n2. What is it?\n   A: a circle",
        "1. **Question 1:** What colour is it?\n**Answer 1:** red\n"
        "2. **Q2:** What is it?\nA2: a circle",
        "1. What colour is it? red\n2) What is it? - a circle",
        "What colour is it?\nred\nWhat is it?\n- a circle",
        "- Q: What colour is it?\n- A: red\n- Q: What is it?\n- A: a circle\nThat is all.",
        "Q1. What colour is it?\nA1. red\nQ2. What is it?\nA2. a circle",
        "Question 1\nWhat colour is it?\nAnswer 1\nred\n"
        "Question 2\nWhat is it?\nAnswer 2\na circle",
        "Q: What colour\nis it?\nA: red\nQ: Question: What is it?\nA:\na circle\nQ: And who?",
        '[{"question": "What colour is it?", "answer": "red"},'
        ' {"question": "What is it?", "answer": "a circle"}]',
        '```json\n{"pairs": [{"Q": "What colour is it?", "A": "red"},'
        ' {"Q": "What is it?", "A": "a circle"}]}\n```',
        '{"question": "What colour is it?", "answer": "red"}\n'
        '{"question": "What is it?", "answer": "a circle"}\n{"question": "Who',
    ],
)  # fmt: skip
def test_many_forms_are_read(text):
    assert parse(text) == PAIRS


@pytest.mark.parametrize("text", ["", "A red circle.", "Q: What?", "A: red", "{}", '{"answer": 1}'])
def test_no_pair_where_there_is_none(text):
    assert parse(text) == []


def test_json_answers_need_not_be_text():
    text = '[{"question": "How many?", "answer": 3}, {"question": "Red?", "answer": true}]'
    assert parse(text) == [("How many?", "3"), ("Red?", "yes")]


SCRAPS = st.sampled_from(
    ["Q:", "A:", "?", "\n", "1.", "-", "**", "{", '"question":', '"', "[", "a"]
)


@settings(max_examples=300)
@given(st.text() | st.lists(SCRAPS | st.text(max_size=3)).map(" ".join))
def test_any_text_can_be_read(text):
    for question, answer in parse(text):
        assert question.strip() and answer.strip()


def test_deep_json_can_be_read():
    deep = '{"a":' * 5_000
    assert parse(deep) == []
    assert parse(deep + '{"question": "Who?", "answer": "me"}') == [("Who?", "me")]


PLAIN = st.lists(st.from_regex(r"[b-p]{2,8}", fullmatch=True), min_size=1, max_size=6).map(" ".join)


@given(st.lists(st.tuples(PLAIN, PLAIN), min_size=1, max_size=4), st.integers(0, 3))
def test_what_is_written_in_a_form_comes_back(pairs, form):
    pairs = [(f"{question}?", answer) for question, answer in pairs]
    texts = [
        "\n".join(f"Q: {q}\nA: {a}" for q, a in pairs),
        "\n".join(f"{k}. {q} {a}" for k, (q, a) in enumerate(pairs, start=1)),
        " ".join(f"Question: {q} Answer: {a}" for q, a in pairs),
        json.dumps([{"question": q, "answer": a} for q, a in pairs]),
    ]
    assert parse(texts[form]) == pairs


# Which pairs are kept ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "question, answer, reason",
    [
        ("What colour is it?", "red", None),
        ("What color is it?", "Red.", None),
        ("What is it?", "a red circle", None),
        ("Is it red or blue?", "red", None),
        ("Is it a circle?", "yes", None),
        ("Is it a triangle?", "No", None),
        ("How many are there?", "one", None),
        ("What colour is it", "red", verdicts.MALFORMED),
        ("What colour is it?", "--", verdicts.MALFORMED),
        ("What is it?", "This is it.", verdicts.MALFORMED),
        ("?", "red", verdicts.MALFORMED),
        ("What colour is it?", "red " * 11, verdicts.TOO_LONG),
        ("What is " + "very " * 40 + "red?", "a circle", verdicts.TOO_LONG),
        ("What is a red circle?", "The picture shows a red circle.", verdicts.GIVEN_AWAY),
        ("What colour is it?", "blue", verdicts.CONTRADICTS),
        ("What color is it?", "grey", verdicts.CONTRADICTS),
        ("What is it?", "a red triangle", verdicts.CONTRADICTS),
        ("Is it red or blue?", "blue", verdicts.CONTRADICTS),
        ("Is it a triangle?", "yes", verdicts.CONTRADICTS),
        ("Who is beside the triangle?", "a man", verdicts.CONTRADICTS),
    ],
)
def test_reasons_against_a_pair_about_a_red_circle(question, answer, reason):
    assert reason_against(question, answer, row(0).facts, VALUES) == reason


def test_only_facts_asked_about_can_be_contradicted():
    facts, values = (
        {"notes": "four", "tempo": "slow"},
        {"notes": ["four"], "tempo": ["fast", "slow"]},
    )
    assert reason_against("Which notes are there?", "fast ones", facts, values) is None
    assert reason_against("How is it?", "fast", facts, values) == verdicts.CONTRADICTS
    assert reason_against("How is it?", "fast", {}, values) is None


def test_the_kind_is_the_fact_asked_about():
    facts = row(0).facts
    assert fact_asked("What color is it?", facts) == "colour"
    assert (
        fact_asked("What is it?", facts) == fact_asked("What shape and colour?", facts) == "other"
    )


SAID = {
    "a red circle": "Q: What colour is it?\nA: red\nQ: What color is it?\nA: dark red\n"
    "Q: What shape is it?\nA: triangle",
    "a blue circle": "Nothing comes to my mind.",
    "a gray triangle": "Q: What is it?\nA: a grey triangle",
}


def test_a_yield_counts_everything_and_keeps_what_is_right(tmp_path):
    found = synthesize(ROWS[:3], SayingWriter(SAID), seed=0, file=tmp_path / "deep" / "texts.jsonl")
    assert (found.writer, found.asked, found.kept) == ("saying", 3, 2)
    assert found.dropped == {verdicts.DUPLICATE: 1, verdicts.CONTRADICTS: 1}
    assert found.without_pair == ((Item("image", "row-1"), "Nothing comes to my mind."),)
    first, second = found.examples
    assert (first.question, first.answer, first.kind) == ("What colour is it?", "red", "colour")
    assert (second.question, second.answer, second.kind) == (
        "What is it?",
        "a grey triangle",
        "other",
    )
    assert first.items == (Item("image", "row-0"),) and first.source == "synthetic"
    counts = yield_counts({"squares": found})["squares"]
    assert counts["pairs written"] == 4 and counts["pairs kept"] == 2
    assert counts["kept of written"] == "50%" and counts["dropped: duplicate"] == 1
    pairs = yield_pairs(found, each=1)
    assert list(pairs["verdict"]) == [
        "kept", "dropped: duplicate", "dropped: contradicts a known fact", "no pair in this text",
    ]  # fmt: skip


def test_all_values_of_a_fact_count_where_they_are_given(tmp_path):
    writer = SayingWriter({"a red circle": "Q: What colour is it?\nA: blue"})
    alone = synthesize(ROWS[:1], writer, seed=0, file=tmp_path / "a.jsonl")
    known = synthesize(ROWS[:1], writer, seed=0, file=tmp_path / "a.jsonl", fact_values=VALUES)
    assert (alone.kept, known.kept) == (1, 0)
    assert len(writer.asked) == 1, "the second run judged the texts of the first"


# A language model on this machine ----------------------------------------------------------------


@pytest.fixture(scope="module")
def local(tiny_llm):
    return LocalWriter(tiny_llm(32), batch=2, max_new_tokens=12)


def test_a_seed_decides_the_texts_and_nothing_else_does(local):
    prompts = ["Hello", "What is on the long table in the large hall?"]
    state = torch.get_rng_state()
    texts = local.write(prompts, 5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(123)
    assert local.write(prompts, 5) == texts
    assert local.write(prompts, 6) != texts
    assert len(texts) == 2 and all(texts)


def test_padding_does_not_change_what_is_read(tiny_llm):
    """At top_p near 0 the likeliest token is taken, and a prompt answers alone as in a batch."""
    writer = LocalWriter(tiny_llm(32), top_p=1e-6, max_new_tokens=8)
    prompts = ["Hi", "What is on the long table in the large hall of this old house?"]
    assert writer.write(prompts, 0) == [writer.write([prompt], 1)[0] for prompt in prompts]


def test_the_llm_stays_as_it_is(local):
    llm = local.llm
    before = llm.fingerprint(), llm.model.generation_config.to_dict(), llm.model.training
    local.write(["Hello"], 0)
    assert (llm.fingerprint(), llm.model.generation_config.to_dict(), llm.model.training) == before


def test_the_name_tells_models_apart(local, other_folder):
    from anymal_lib.llm import load_llm

    other = LocalWriter(load_llm(other_folder, bits=32))
    assert local.name != other.name and local.name.endswith("fp32")


@pytest.mark.parametrize(
    "change", [{"batch": 0}, {"temperature": 0.0}, {"top_p": 1.5}, {"max_new_tokens": 0}]
)
def test_settings_out_of_range_are_refused(local, change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        replace(local, **change)


# Runs that are killed ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(local, tmp_path_factory):
    """The file of a run that nothing disturbed, and what came of it."""
    file = tmp_path_factory.mktemp("whole") / "texts.jsonl"
    found = synthesize(ROWS, local, seed=1, file=file)
    return file.read_bytes(), found


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_killed_run_ends_with_the_same_bytes(data, whole, local, tmp_path):
    content, found = whole
    file = tmp_path / "texts.jsonl"
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    assert synthesize(ROWS, local, seed=1, file=file) == found
    assert file.read_bytes() == content


def test_what_is_there_is_not_asked_again(tmp_path):
    file, writer = tmp_path / "texts.jsonl", SayingWriter(SAID)
    progress = []
    synthesize(ROWS, writer, seed=0, file=file, on_progress=lambda *done: progress.append(done))
    assert [count for count, _ in writer.asked] == [2, 2, 1]
    assert len({seed for _, seed in writer.asked}) == 3
    assert progress == [(0, 5), (2, 5), (4, 5), (5, 5)]
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]) + lines[3][:20])
    again = SayingWriter(SAID)
    synthesize(ROWS, again, seed=0, file=file)
    assert again.asked == writer.asked[1:]
    assert file.read_bytes() == b"".join(lines)


def test_a_record_holds_all_that_it_came_from(whole, local):
    record = json.loads(whole[0].splitlines()[0])
    assert record["prompt"] == prompt_for(ROWS[0], 3) and record["seed"] == 1
    assert record["writer"] == local.name and record["settings"] == local.settings
    assert (record["modality"], record["id"]) == ("image", "row-0")
    assert [tuple(pair) for pair in record["pairs"]] == parse(record["text"])


def test_a_file_of_other_settings_is_refused_and_kept(tmp_path, monkeypatch):
    file = tmp_path / "texts.jsonl"
    writer = SayingWriter(SAID)
    synthesize(ROWS, writer, seed=0, file=file)
    content = file.read_bytes()

    def refused(match, rows=ROWS, writer=writer, seed=0, per_item=3):
        with pytest.raises(DataError, match=match):
            synthesize(rows, writer, seed=seed, file=file, per_item=per_item)
        assert file.read_bytes() == content

    refused("seed '0' where this run has '1'", seed=1)
    refused("seed", seed=1, rows=[row(99)])
    refused("writer", writer=replace(writer, name="another"))
    refused("settings", writer=replace(writer, settings={"temperature": 0.1}))
    refused("prompt", per_item=4)
    refused("prompt", rows=[row(0, "blue")])
    monkeypatch.setattr(synthetic, "PROMPT_VERSION", -1)
    refused("prompt_version")


@pytest.mark.parametrize(
    "content", [b"notes", b"notes\n", b"{}\n", b"[]\n", b'{"a": 1}', b"\xff\n", b"\n", b"1\n"]
)
def test_a_file_of_something_else_is_refused_and_kept(tmp_path, content):
    file = tmp_path / "notes.txt"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"notes\.txt"):
        synthesize(ROWS, SayingWriter(SAID), seed=0, file=file)
    assert file.read_bytes() == content
    with pytest.raises(DataError):
        synthesize(ROWS, SayingWriter(SAID), seed=0, file=tmp_path)


def test_bad_rows_and_counts_are_refused_before_anything_is_asked(tmp_path):
    writer, file = SayingWriter(SAID), tmp_path / "texts.jsonl"
    with pytest.raises(InputError, match="row-9"):
        synthesize([*ROWS, replace(row(9), text=())], writer, seed=0, file=file)
    with pytest.raises(ConfigError, match="per_item"):
        synthesize(ROWS, writer, seed=0, file=file, per_item=0)
    assert not writer.asked and not file.exists()


# An endpoint -------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append((self.path, self.headers["Authorization"], body))
            status, reply = self.server.replies.pop(0) if self.server.replies else (200, None)
        if reply is None:
            said = f"{body['messages'][0]['content']} at {body['seed']}"
            reply = json.dumps({"choices": [{"message": {"content": said}}]})
        self.send_response(status)
        self.send_header("Content-Length", str(len(reply.encode())))
        self.end_headers()
        self.wfile.write(reply.encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """A real server; it gives `replies` first, then says prompts back."""
    waits = []
    monkeypatch.setattr("anymal_lib.instruct.writers.time.sleep", waits.append)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.asked, running.replies, running.waits = [], [], waits
        running.lock = threading.Lock()
        running.url = f"http://127.0.0.1:{running.server_address[1]}/v1"
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_an_endpoint_is_asked_for_a_chat_completion(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-1")
    writer = EndpointWriter(f"{server.url}/", "big", "MY_KEY", temperature=0.5)
    assert writer.write(["one", "two", "one"], 7) == ["one at 7", "two at 8", "one at 9"]
    assert {(path, key) for path, key, _ in server.asked} == {
        ("/v1/chat/completions", "Bearer secret-1")
    }
    body = server.asked[0][2]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("big", 0.5, 400)
    assert writer.name == "big"


def test_no_key_is_sent_where_none_is_named(server):
    EndpointWriter(server.url, "big").write(["one"], 0)
    assert server.asked[0][1] is None


def test_busy_and_broken_answers_are_tried_again(server):
    server.replies = [(429, "slow down"), (503, "not yet")]
    assert EndpointWriter(server.url, "big").write(["one"], 0) == ["one at 0"]
    assert len(server.asked) == 3 and server.waits == [1.0, 2.0]


def test_an_endpoint_that_stays_busy_is_an_error(server):
    server.replies = [(429, "slow down")] * 4
    with pytest.raises(AssetError, match=r"429.*slow down.*4 times"):
        EndpointWriter(server.url, "big").write(["one"], 0)
    assert len(server.asked) == 4


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_named_and_never_shown(server, monkeypatch, status):
    monkeypatch.setenv("MY_KEY", "secret-1")
    server.replies = [(status, "wrong key secret-1")]
    with pytest.raises(ConfigError, match="MY_KEY") as caught:
        EndpointWriter(server.url, "big", "MY_KEY").write(["one"], 0)
    assert "secret-1" not in str(caught.value) and len(server.asked) == 1


@pytest.mark.parametrize("key", [None, "", "two words", "ключ", "a\nb"])
def test_what_is_no_key_is_refused_without_showing_it(server, monkeypatch, key):
    monkeypatch.delenv("MY_KEY", raising=False)
    if key is not None:
        monkeypatch.setitem(os.environ, "MY_KEY", key)
    with pytest.raises(ConfigError, match="MY_KEY") as caught:
        EndpointWriter(server.url, "big", "MY_KEY").write(["one"], 0)
    assert not key or key not in str(caught.value)
    assert not server.asked


def test_an_unknown_model_is_an_error_with_the_servers_words(server):
    server.replies = [(404, "no model big")]
    with pytest.raises(ConfigError, match="no model big"):
        EndpointWriter(server.url, "big").write(["one"], 0)


@pytest.mark.parametrize(
    "body",
    ["<html>", "[]", "{}", '{"choices": []}', '{"choices": [{"message": {"content": 3}}]}', "null"],
)
def test_an_unexpected_body_is_an_error(server, body):
    server.replies = [(200, body)]
    with pytest.raises(DataError, match="choices"):
        EndpointWriter(server.url, "big").write(["one"], 0)


def test_a_model_may_say_nothing(server):
    server.replies = [(200, '{"choices": [{"message": {"content": null}}]}')]
    assert EndpointWriter(server.url, "big").write(["one"], 0) == [""]


def test_no_connection_is_an_error(server):
    server.server_close()
    with pytest.raises(AssetError, match="no answer"):
        EndpointWriter(server.url, "big").write(["one"], 0)
    assert len(server.waits) == 3


@pytest.mark.parametrize("url", ["localhost", "ftp://host", "http://host:port/v1"])
def test_what_is_no_address_is_an_error(url):
    with pytest.raises(ConfigError, match="http://host:port/v1"):
        EndpointWriter(url, "big").write(["one"], 0)


def test_an_endpoint_writes_into_the_file_as_any_writer_does(server, tmp_path):
    file = tmp_path / "texts.jsonl"
    writer = EndpointWriter(server.url, "big", batch=2)
    text = json.dumps("Q: Is it there?\nA: yes")
    server.replies = [(200, f'{{"choices": [{{"message": {{"content": {text}}}}}]}}')] * 5
    found = synthesize(ROWS, writer, seed=0, file=file)
    assert (found.asked, found.kept) == (5, 5)
    assert synthesize(ROWS, writer, seed=0, file=file) == found
    assert len(server.asked) == 5
