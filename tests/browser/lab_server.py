"""Real servers for the browser tests, JupyterLab and Voila, away from the user's own settings."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START = 90  # seconds
STOP = 15
QUIET = {  # JupyterLab asks at its first start whether to fetch news
    "@jupyterlab/apputils-extension/notification.jupyterlab-settings": (
        '{"fetchNews": "false", "checkForUpdates": false}'
    )
}


def environment(folder):
    """The caller's environment with Jupyter's folders below `folder`, and this checkout first."""
    own = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        **{name: str(folder / place) for name, place in own.items()},
        "PYTHONPATH": os.pathsep.join(paths),
        "JUPYTER_PREFER_ENV_PATH": "1",  # as the Makefile does
        "HF_HUB_OFFLINE": "1",
    }


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _die_with_parent():
    """Called in the server's process: should the tests be killed, it is asked to stop (Linux)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


@contextmanager
def running(command, folder, ready):
    """A server as a process; its log is `folder`/server.log. Always stopped, kernels with it.

    Both servers shut their kernels down on SIGTERM; a kernel whose server was killed ends itself.
    """
    log = folder / "server.log"
    with log.open("w") as sink:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
    try:
        _wait(process, ready, log)
        yield log
    finally:
        process.terminate()
        try:
            process.wait(STOP)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process, url, log):
    end = time.monotonic() + START
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError:
            return  # it answers
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"no server at {url}:\n{log.read_text()[-4000:]}")


@contextmanager
def jupyter_lab(folder, root, token="anymal"):
    """JupyterLab as `make lab` starts it, on the files below `root`; yields its URL and log."""
    for name, text in QUIET.items():
        place = folder / "settings" / name
        place.parent.mkdir(parents=True)
        place.write_text(text)
    port = free_port()
    command = [sys.executable, "-m", "anymal_lib.lab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.root_dir={root}", f"--IdentityProvider.token={token}"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    command += ["--ServerApp.port_retries=0", "--LabApp.expose_app_in_browser=True"]
    url = f"http://127.0.0.1:{port}"
    with running(command, folder, f"{url}/api/status?token={token}") as log:
        yield url, log


@contextmanager
def voila(folder, notebook):
    """A notebook as a page of Voila's; yields its URL and log."""
    port = free_port()
    command = [sys.executable, "-m", "voila", str(notebook), "--no-browser", f"--port={port}"]
    url = f"http://127.0.0.1:{port}"
    # Not the page itself, which would run the notebook for nobody.
    with running(command, folder, f"{url}/voila/static/nothing") as log:
        yield url, log
