"""A JupyterLab of its own for tests: copies of the notebooks, folders that are thrown away,
Debian's Chromium.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import nbformat
import numpy as np

from s3e.utils import NOTEBOOKS, ROOT

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
OFF = ("gpu", "quic", "background-networking", "component-update", "sync")
SWITCHES = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in OFF)]
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "apputils-extension/themes": {"adaptive-theme": True},
}
ENDED = """() => {
    const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")]
        .map(prompt => prompt.textContent);
    return /[0-9]/.test(prompts[0]) && !prompts.some(prompt => prompt.includes("*"));
}"""
READ = """pictures => Promise.all(pictures.map(picture => new Promise(async done => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.readAsDataURL(await (await fetch(picture.src)).blob());
})))"""
# JupyterLab asks every kernel for its widgets, before a cell could have imported ipywidgets
ASKED = "No such comm"


class Server(NamedTuple):
    """A running JupyterLab: its address, the token that opens it, and the folder that it shows."""

    address: str
    token: str
    folder: Path


@contextmanager
def serve(root: Path) -> Iterator[Server]:
    """Run JupyterLab on copies of all notebooks (profile `smoke`); every file that it or a run
    writes is in `root`.
    """
    folder = copy_notebooks(root / "notebooks")
    port, token = free_port(), secrets.token_hex(16)
    settings = {"root_dir": folder, "ip": "127.0.0.1", "port": port, "port_retries": 0}
    options = [f"--ServerApp.{name}={value}" for name, value in settings.items()]
    options += ["--no-browser", "--allow-root", f"--IdentityProvider.token={token}"]
    with open(root / "jupyterlab.log", "w") as log:
        command = [sys.executable, "-m", "jupyterlab", *options]
        process = subprocess.Popen(command, env=environment(root), cwd=root, stdout=log, stderr=log)
        try:
            server = Server(f"http://127.0.0.1:{port}", token, folder)
            wait_until_it_answers(server, process)
            yield server
        finally:
            process.terminate()  # its kernels end with it
            process.wait(30)


def copy_notebooks(folder: Path) -> Path:
    """Copy the notebooks to `folder`, each with the profile `smoke` in its parameters."""
    folder.mkdir()
    for path in NOTEBOOKS.glob("[0-9]*.ipynb"):
        book = nbformat.read(path, as_version=4)
        for cell in book.cells:
            if "parameters" in cell.metadata.get("tags", []):
                cell.source = cell.source.replace(': str = "laptop"', ': str = "smoke"')
        nbformat.write(book, folder / path.name)
    return folder


def environment(root: Path) -> dict[str, str]:
    """The environment of a server (and its kernels) that keeps settings, runs and figures below
    `root`.
    """
    for name, value in SETTINGS.items():
        path = root / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    folders = {name: name.lower() for name in names} | {
        "S3E_RUNS": "runs",
        "S3E_FIGURES": "figures",
    }
    folders |= {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
    places = {name: str(root / folder) for name, folder in folders.items()}
    return {**os.environ, "S3E_ROOT": str(ROOT), **places}


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until_it_answers(server: Server, process: subprocess.Popen, seconds: float = 300) -> None:
    """Return as soon as the server answers; RuntimeError where it ended or `seconds` went by."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{server.address}/api?token={server.token}", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"JupyterLab does not answer: see {server.folder.parent / 'jupyterlab.log'}")


class Notebook:
    """One notebook in a browser page, and everything that went wrong in it.

    `page` is a playwright page. `problems` collects, while they happen: errors and stderr text that
    the kernel sends (also those of widget callbacks, which JupyterLab shows only in its log),
    errors in the browser's console, and scripts that failed.
    """

    def __init__(self, page, server: Server, name: str):
        self.page, self.problems = page, []
        page.set_default_timeout(300_000)
        page.on("websocket", lambda socket: socket.on("framereceived", self._frame))
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.problems.append(f"page: {error}"))
        page.goto(
            f"{server.address}/lab/workspaces/{secrets.token_hex(4)}/tree/{name}?token={server.token}"
        )
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=300_000)
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=300_000)

    def _console(self, message) -> None:
        if message.type == "error":
            self.problems.append(f"console: {message.text} ({message.location['url']})")

    def _frame(self, payload: bytes | str) -> None:
        if isinstance(payload, bytes):
            header, content = kernel_message(payload)
            text = content.get("evalue") or content.get("text", "")
            written = content.get("name") == "stderr" and not text.startswith(ASKED)
            if header["msg_type"] == "error" or written:
                self.problems.append(f"kernel: {text}")

    def run_all(self, seconds: float) -> None:
        """Choose "Run All Cells" from the menu and wait until the last cell has ended, or one has
        failed.
        """
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        self.page.wait_for_function(ENDED, timeout=1000 * seconds)

    def wait_for(self, condition: Callable[[], bool], seconds: float = 300) -> bool:
        """Does `condition` come true within `seconds`?"""
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            self.page.wait_for_timeout(50)
        return condition()

    def cell(self, code: str):
        """The code cell that contains `code`, with its outputs: a playwright locator."""
        return self.page.locator(".jp-CodeCell").filter(
            has=self.page.locator(".cm-content", has_text=code)
        )

    def pictures(self, code: str) -> list[str]:
        """The bytes of every picture that the widget of a cell shows, as data URLs; "" for a hidden
        one.
        """
        return self.cell(code).locator(".jupyter-widgets img").evaluate_all(READ)

    def steer(self, code: str, name: str, key: str) -> None:
        """Focus the slider `name` in a cell's widget and press `key`."""
        slider = self.cell(code).locator(
            ".widget-slider", has=self.page.get_by_text(name, exact=True)
        )
        slider.locator(".noUi-handle").press(key)

    def shown(self, kind: str) -> int:
        """How many outputs have a MIME type that ends with `kind`: "png", or "stderr" (which errors
        have as well).
        """
        return self.page.locator(f".jp-OutputArea-output[data-mime-type$={kind}]").count()


def kernel_message(payload: bytes) -> tuple[dict, dict]:
    """Header and content of a frame in Jupyter's binary protocol `v1.kernel.websocket.jupyter.org`.

    A frame is a count n, n offsets (both as 64-bit little-endian integers), then between two
    offsets each: channel, header, parent's header, metadata, content, buffers.
    """
    count = int(np.frombuffer(payload, "<u8", 1)[0])
    offsets = np.frombuffer(payload, "<u8", count, offset=8).tolist()
    parts = [payload[start:end] for start, end in zip(offsets[:-1], offsets[1:], strict=True)]
    return json.loads(parts[1]), json.loads(parts[4])
