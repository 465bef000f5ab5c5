"""A headless browser, a JupyterLab server, and what is kept of a test: screenshots and logs.

Where there is no browser, everything here is skipped and says so.
"""

import shutil
import subprocess
from pathlib import Path

import pytest
from lab_page import LabPage
from lab_server import ROOT, jupyter_lab

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
KEPT = ROOT / "outputs" / "browser"
SIZE = {"width": 1300, "height": 1500}  # pixels: a page with several widgets at once


def installed_browser():
    """The path of a browser that starts, or why there is none."""
    for path in filter(None, map(shutil.which, BROWSERS)):
        asked = subprocess.run([path, "--version"], capture_output=True, timeout=60, check=False)
        if asked.returncode == 0:  # Ubuntu's chromium-browser may only name a package to install
            return path
    pytest.skip(f"no browser: none of {', '.join(BROWSERS)} (Debian: apt install chromium)")


@pytest.fixture(scope="session")
def browser():
    path = installed_browser()
    driver = pytest.importorskip("playwright.sync_api", reason="no playwright: make env")
    with driver.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path)  # sandboxes do not work as root
        yield opened
        opened.close()


@pytest.fixture
def page(browser, request):
    """A page of its own; its screenshot and console are kept, and shown where the test fails."""
    opened = browser.new_context(viewport=SIZE, accept_downloads=False).new_page()
    console = []
    opened.on("console", lambda message: console.append(f"{message.type}: {message.text}"))
    opened.on("pageerror", lambda error: console.append(f"error: {error}"))
    request.node.browser_console = console
    yield opened
    opened.context.close()


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A folder with copies of the kit's notebooks: what the tests' JupyterLab shows."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=_caches)
    return folder


_caches = shutil.ignore_patterns(".ipynb_checkpoints")


@pytest.fixture(scope="session")
def lab_server(browser, project, tmp_path_factory):
    """The URL of a JupyterLab on `project`."""
    with jupyter_lab(tmp_path_factory.mktemp("jupyter"), project) as (url, log):
        yield url, log


@pytest.fixture
def lab(lab_server, page, request):
    """A page on JupyterLab; its notebook's kernel ends with the test."""
    url, request.node.server_log = lab_server
    opened = LabPage(page, url)
    yield opened
    opened.close()


@pytest.fixture
def screenshot(page, request):
    """Function: keep what the page shows under outputs/browser, by the test's name and a word."""

    def keep(word, element=None):
        path = _kept(request.node, word)
        (element or page).screenshot(path=path)
        return path

    return keep


def _kept(node, word):
    KEPT.mkdir(parents=True, exist_ok=True)
    name = f"{Path(node.path).stem}-{node.name}-{word}"
    return KEPT / ("".join(c if c.isalnum() or c in "-_" else "-" for c in name) + ".png")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Where a test fails, keep what the page shows, and tell what console and server said."""
    report = (yield).get_result()
    if call.when != "call" or not report.failed or "page" not in getattr(item, "funcargs", {}):
        return
    shown = _kept(item, "failed")
    try:
        item.funcargs["page"].screenshot(path=shown)
        report.sections.append(("screenshot", str(shown)))
    except Exception as error:  # the page may be what failed
        report.sections.append(("screenshot", f"none: {error}"))
    report.sections.append(("browser console", "\n".join(item.browser_console[-40:])))
    if log := getattr(item, "server_log", None):
        report.sections.append(("server log", log.read_text()[-4000:]))
