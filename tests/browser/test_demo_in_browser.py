"""The demo, notebook 09: a file is chosen, a question typed, and the answer on the page is right.

Once in JupyterLab and once as a page of Voila's, where the notebook's code is not shown.
"""

import shutil
import subprocess
import sys

import pytest
from few_steps import write_copy
from lab_page import errors
from lab_server import ROOT, environment, voila
from PIL import Image
from train_captioner import known

from anymal_lib.metrics.facts import facts_right, words
from anymal_lib.saving import CONFIG
from anymal_lib.sources import profile_manifest

pytestmark = pytest.mark.browser
NOTEBOOK = "09_demo"
TRAINED = "02_align_image/adapter"  # where the captioner of pictures is, among results
HERE = [ROOT / "outputs" / "mini" / name for name in ("06_finetune_mmit/adapter", TRAINED)]
QUESTION = "Describe the image."
ANSWERED = 120_000  # milliseconds
ALIGNED = 3600  # seconds, until four adapters are
FINISHED = "answer after"  # stands in the line below an answer that is whole


@pytest.fixture(scope="session")
def adapter(tmp_path_factory):
    """A saved model that describes pictures: of a run here, or else of a short one."""
    for found in HERE:
        if (found / CONFIG).is_file():
            return found
    folder = tmp_path_factory.mktemp("models")
    command = [sys.executable, str(ROOT / "tests" / "browser" / "train_captioner.py"), str(folder)]
    environ = environment(folder)
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / TRAINED


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Two held-out pictures that differ in colour and shape, as a user's files: path, facts."""
    folder = tmp_path_factory.mktemp("pictures")
    manifest = profile_manifest("easy-vqa")
    test = known(manifest.split("test"))
    first = test[0]
    other = next(r for r in test if all(r.facts[name] != first.facts[name] for name in r.facts))
    copies = [folder / "one.png", folder / "two.png"]
    for row, copy in zip((first, other), copies, strict=True):
        shutil.copy(row.path, copy)
    return [(c, r.facts, manifest.fact_values) for c, r in zip(copies, (first, other), strict=True)]


@pytest.fixture
def notebook(project, adapter, tmp_path):
    """JupyterLab's copy of the demo, with that model."""
    target = project / "notebooks" / f"{NOTEBOOK}.ipynb"
    given = {"ADAPTER": str(adapter), "OUTPUT_DIR": str(tmp_path / "results")}
    write_copy(ROOT / "notebooks" / target.name, target, given)
    return target


class Demo:
    """The demo's page, as a user handles it."""

    def __init__(self, page):
        self.page = page

    def part(self, name):
        return self.page.locator(f".anymal-{name}")

    def choose(self, path):
        with self.page.expect_file_chooser() as chooser:
            self.part("upload").click()
        chooser.value.set_files(path)

    def choose_shown(self, path):
        """Choose a file and wait until it is on the page."""
        self.choose(path)
        self.part("items").get_by_text(path.name).wait_for(timeout=ANSWERED)

    def ask(self, question):
        """Type a question, click, and wait for the answer's end."""
        self.part("question").locator("input").fill(question)
        self.part("ask").click()
        self.part("status").get_by_text(FINISHED).wait_for(timeout=ANSWERED)
        return self.part("answer").inner_text()


def check_answers(demo, pictures, screenshot):
    """Both pictures, one after the other, and each time the answer states what is on it."""
    said = []
    for path, facts, values in pictures:
        demo.choose_shown(path)
        said.append(demo.ask(QUESTION))
        screenshot(path.stem)
        right = facts_right(said[-1], facts, values)
        assert all(right.values()), f"{said[-1]!r} of {facts}"
        assert words(demo.part("meter").inner_text())
        assert demo.part("error").inner_text() == ""
        demo.part("clear").click()
        demo.part("items").get_by_text(path.name).wait_for(state="detached")
    assert said[0] != said[1]


def check_broken_file(demo, folder, screenshot):
    """A damaged picture is told in plain words, and the page goes on."""
    broken = folder / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    demo.choose(broken)
    demo.part("error").get_by_text("broken.png").first.wait_for(timeout=ANSWERED)
    screenshot("broken")
    told = demo.part("error").inner_text()
    assert "Expected:" in told and "Traceback" not in told and str(folder) not in told
    assert demo.part("items").locator("img").count() == 0
    demo.part("ask").click(trial=True)  # waits until it can be clicked


def check_large_file(demo, pictures, folder):
    """A picture of more bytes than a server takes at once by itself, 10 MB."""
    path, facts, values = pictures[0]
    large = folder / "large.bmp"
    with Image.open(path) as small:
        small.convert("RGB").resize((2000, 2000)).save(large)
    assert large.stat().st_size > 11e6
    demo.choose_shown(large)
    assert all(facts_right(demo.ask(QUESTION), facts, values).values())


def test_answers_about_a_chosen_file_in_jupyterlab(
    lab, page, notebook, pictures, tmp_path, screenshot
):
    before = notebook.read_bytes()
    lab.open(f"notebooks/{notebook.name}")
    assert errors(lab.run_all(180)) == []
    demo = Demo(page)
    check_answers(demo, pictures, screenshot)
    check_broken_file(demo, tmp_path, screenshot)
    check_large_file(demo, pictures, tmp_path)
    lab.save()
    assert notebook.read_bytes() == before


@pytest.mark.slow
def test_a_right_answer_where_nothing_is_prepared(
    lab, page, project, pictures, tmp_path, screenshot
):
    """The demo as the first notebook of all, as it comes: it aligns all adapters, and answers."""
    target = project / "notebooks" / f"{NOTEBOOK}.ipynb"
    write_copy(ROOT / "notebooks" / target.name, target, {"OUTPUT_DIR": str(tmp_path)})
    lab.open(f"notebooks/{target.name}")
    assert errors(lab.run_all(ALIGNED)) == []
    check_answers(Demo(page), pictures, screenshot)


def test_answers_about_a_chosen_file_in_voila(
    page, notebook, pictures, tmp_path, screenshot, request
):
    with voila(tmp_path, notebook) as (url, log):
        request.node.server_log = log
        page.goto(url, timeout=180_000)
        demo = Demo(page)
        demo.part("ask").wait_for(timeout=180_000)
        assert page.get_by_text("open_session").count() == 0, "code is not shown"
        check_answers(demo, pictures, screenshot)
        check_broken_file(demo, tmp_path, screenshot)
