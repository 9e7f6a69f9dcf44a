"""Runs notebooks, each after all that it reads.

A notebook is executed by papermill in a process of its own (`python -m s3e.pipeline.schedule`), for
which a thread waits. Papermill's own word is no evidence of success (a dead kernel leaves cells
that say "completed"): what counts is `done.json`.
"""

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from graphlib import TopologicalSorter
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

from s3e import utils
from s3e.pipeline.store import Record, complete
from s3e.utils import ROOT, S3EError, is_locked, lock_file, read_json

if TYPE_CHECKING:  # the process of a notebook needs neither
    from s3e.config import Runtime
    from s3e.pipeline.study import Run

Job = Record  # what starts a notebook, as plain JSON: see `job_of`
POLL = 0.1  # seconds between looks at a process
LAST_LINES = 12  # of a failing cell's error


# ------------------------------------------------------------------------------------- one notebook


def main(job: Job) -> None:
    """The process of a notebook: execute it into its run's folder; ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it stops it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    sys.modules["rfc3987_syntax"] = None  # optional checks of jsonschema that take 1-2 s to import
    import papermill

    # Braces in paths are format fields
    paths = [job[name].replace("{", "{{").replace("}", "}}") for name in ("notebook", "output")]
    papermill.execute_notebook(
        *paths,
        parameters=job["parameters"],
        kernel_name="python3",
        cwd=str(Path(job["notebook"]).parent),
        progress_bar=False,
        log_output=True,
        start_timeout=120,
    )


def _end_with_parent() -> None:
    # of a pipe that closes with the parent; the kernel sees that its own parent is gone
    sys.stdin.read()
    os._exit(1)


def run_notebook(job: Job, stop: Callable[[], bool]) -> str:
    """Wait for a run's turn and execute its notebook; returns why it is not finished, or "".

    Kills the process once `stop()` is true.
    """
    name, key, output = job["name"], job["key"], Path(job["output"])
    folder = output.parent

    def busy(owner: str) -> None:
        print(f"{name} is in use ({owner}): waiting until that ends ...", flush=True)

    with lock_file(folder / ".worker.lock", busy, stop):
        if complete(folder, key):
            return ""  # another runner finished it in the meantime
        if is_locked(folder / ".lock"):
            busy("an open notebook")
        output.unlink(missing_ok=True)
        code = _execute(job, stop)
        if complete(folder, key):
            return ""
        return _why_failed(output, code)


def _execute(job: Job, stop: Callable[[], bool]) -> int:
    """Execute the notebook of a job in a process of its own; returns the exit code."""
    fixed = {
        "JUPYTER_PREFER_ENV_PATH": "1",  # a user-level kernelspec must not win
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        "TQDM_DISABLE": "1",  # a saved bar would stand at 0 % in the executed notebook for ever
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    command = [sys.executable, "-m", "s3e.pipeline.schedule", json.dumps(job)]
    environment = {**os.environ, **fixed, **job["environment"]}
    with open(Path(job["output"]).with_name("papermill.log"), "ab") as log:
        options = {"stdin": subprocess.PIPE, "stdout": log, "stderr": log, "env": environment}
        with subprocess.Popen(command, **options) as process:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(POLL)
                if stop():
                    process.kill()


def _why_failed(output: Path, code: int) -> str:
    """The last lines of the failing cell, or of the log where no cell raised."""
    for cell in read_json(output)["cells"] if output.is_file() else []:
        for item in cell.get("outputs", []):
            if item["output_type"] == "error" and item["ename"] != "SystemExit":
                lines = _lines("\n".join(item["traceback"]))[-LAST_LINES:] or [item["ename"]]
                return "\n    ".join([f"  cell In[{cell['execution_count']}]:", *lines])
    if code < 0:
        return f"  killed by signal {-code}"
    log = output.with_name("papermill.log").read_text(encoding="utf-8", errors="replace")
    ended = "its notebook ended without run.finish, or its code or data changed meanwhile"
    return f"  {_lines(log)[-1] if code else ended}"


def _lines(text: str) -> list[str]:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return [line for line in plain.splitlines() if line.strip()]


# --------------------------------------------------------------------------- places on this machine


def gpus() -> list[str]:
    """The GPUs that this process may use, each as CUDA_VISIBLE_DEVICES names it."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


class Local:
    """Places on this machine: `jobs`, or (0) as many as the cores or GPUs can feed.

    `free`: the environments of free places; with GPUs, each place has its own. Raises `S3EError` if
    there are not enough GPUs.
    """

    def __init__(self, runtime: "Runtime", jobs: int):
        each, found = runtime.devices, [{}]  # a device such as "cuda:1" is that of all notebooks
        if runtime.device == "cpu":
            found = [{}] * max(1, utils.cores() // (runtime.threads * each))
        elif runtime.device == "cuda":
            names = gpus()
            firsts = range(0, len(names) - each + 1, each)
            found = [{"CUDA_VISIBLE_DEVICES": ",".join(names[n : n + each])} for n in firsts]
            if len(found) < max(jobs, 1):
                raise S3EError(
                    f"{jobs or 1} notebook(s) at a time, each on runtime.devices = {each} GPUs, are"
                    f" more than the {len(names)} that there are: give fewer --jobs, or --set"
                    " runtime.device=cpu."
                )
        self.free = [*islice(cycle(found), jobs or len(found))]
        self._stopped = threading.Event()
        self._threads = ThreadPoolExecutor(len(self.free))

    def submit(self, job: Job) -> Future[str]:
        """Start a job; its result is that of `run_notebook`."""
        return self._threads.submit(run_notebook, job, self._stopped.is_set)

    def close(self) -> None:
        """Kill what still runs."""
        self._stopped.set()
        self._threads.shutdown()


# ------------------------------------------------------------------------------------- the schedule


FAILED = ("failed", "not run")


def execute(
    waiting: list["Run"], job_of: Callable[["Run"], Job], places: Local
) -> dict["Run", tuple[str, float]]:
    """Keep the places busy until nothing more can run; returns what came of each run.

    That is "done", "skipped", "failed" or "not run", and after how many seconds. `job_of` says how
    to start one of the runs that are `waiting`.
    """
    results = dict.fromkeys(waiting, ("not run", 0.0))
    order = TopologicalSorter({run: {*run.reads} & {*waiting} for run in waiting})
    order.prepare()
    ready, running = [], {}
    while True:
        ready = sorted([*ready, *order.get_ready()], key=waiting.index)
        while places.free and ready:
            run, own = ready.pop(0), places.free.pop(0)
            job = job_of(run)
            job["environment"] |= own
            running[places.submit(job)] = run, own, time.monotonic()
            _say(f"start  {run}")
        if not running:
            return results
        done, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)  # Ctrl-C on Windows
        for future in done:
            run, own, since = running.pop(future)
            word, seconds = _result(run, future), time.monotonic() - since
            _say(f"{word:6} {run}  {seconds:.0f} s")
            results[run] = word, seconds
            if word not in FAILED:
                order.done(run)
            places.free.append(own)


def _result(run: "Run", future: Future[str]) -> str:
    why = future.result()
    if not why and (done := complete(run.path, run.key)):
        return "skipped" if done["skipped"] else "done"
    print(f"{why}\n  executed notebook: {run.path / 'notebook.ipynb'}")
    print(f"  log: {run.path / 'papermill.log'}")
    return "failed"


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
