"""A notebook in JupyterLab, worked as a user works it."""

import json
from contextlib import suppress

# JavaScript that runs in the page: `expose_app_in_browser` gives it JupyterLab's own object.
CURRENT = "window.jupyterapp?.shell.currentWidget"
KERNEL = f"{CURRENT}?.context?.sessionContext?.session?.kernel"
READY = f"path => {CURRENT}?.context?.path === path && {KERNEL}?.status === 'idle'"
RUN = """() => {
    window.anymalRan = null;
    window.jupyterapp.commands.execute('notebook:run-all-cells').then(
        done => { window.anymalRan = done }, () => { window.anymalRan = false });
}"""
ENDED = f"window.anymalRan !== null && {KERNEL}?.status === 'idle'"
CONTENT = f"JSON.stringify({CURRENT}.content.model.toJSON())"
SAVED = f"{CURRENT}.context.model.dirty === false"


class LabPage:
    """One browser page on a JupyterLab server."""

    def __init__(self, page, url, token="anymal"):
        self.page, self._url, self._token = page, url, token

    def open(self, path):
        """Open a notebook and wait for its kernel: what is run before that may get lost."""
        self.page.goto(f"{self._url}/lab/tree/{path}?token={self._token}&reset")
        self.page.wait_for_function(READY, arg=path, timeout=90_000)

    def run_all(self, seconds=120):
        """Run > Run All Cells, to the end; returns the notebook as it is then."""
        self.page.evaluate(RUN)
        self.page.wait_for_function(ENDED, timeout=1000 * seconds)
        return self.content()

    def content(self):
        """The notebook in the page, as nbformat's JSON."""
        return json.loads(self.page.evaluate(CONTENT))

    def save(self):
        """Press Ctrl+S and wait until it is saved."""
        self.page.keyboard.press("Control+s")
        self.page.wait_for_function(SAVED, timeout=30_000)

    def close(self):
        """Shut the notebook's kernel down."""
        with suppress(Exception):  # the page may hold no notebook, and the server ends its kernels
            self.page.evaluate(f"{CURRENT}.context.sessionContext.shutdown()")


def code_cells(content):
    """The code cells that are not empty."""
    return [
        c for c in content["cells"] if c["cell_type"] == "code" and "".join(c["source"]).strip()
    ]


def errors(content):
    """What went wrong, "name: message" each."""
    return [
        f"{output['ename']}: {output['evalue']}"
        for cell in code_cells(content)
        for output in cell["outputs"]
        if output["output_type"] == "error"
    ]
