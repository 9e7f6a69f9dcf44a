"""Runs notebooks, each after all that it reads.

A notebook is executed by papermill in a process of its own (`python -m s3e.pipeline.schedule`). A
thread waits for it: one of this process, or one of a Dask worker that sees the same folders
(`--scheduler`). Papermill's own word is no evidence of success (a dead kernel leaves cells that say
"completed"): what counts is `done.json`.
"""

import contextlib
import importlib
import json
import logging
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from s3e import utils
from s3e.pipeline.graph import STAGES, notebook
from s3e.pipeline.store import FAILURE, complete
from s3e.utils import (
    FIGURES,
    ROOT,
    S3EError,
    is_locked,
    lock_file,
    read_json,
    write_json,
)

if TYPE_CHECKING:  # the process of a notebook needs neither
    from s3e.config import Runtime
    from s3e.pipeline.study import Run

Job = dict[str, Any]  # what starts a notebook, as plain JSON: see `job_of`
POLL = 0.1  # seconds between looks at a process
LOOK = 1.0  # seconds between looks at the workers of a cluster
PATIENCE = 10  # seconds until an address counts as unreachable
LAST_LINES = 12  # of a failing cell's error


# ------------------------------------------------------------------------------------- one notebook


def main(job: Job) -> None:
    """The process of a notebook: execute it into its run's folder; ends when the process that
    started it ends.
    """
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
    """Wait for the run's turn and execute its notebook; returns why the run is not finished, "" if
    it is.

    Kills the process once `stop()` is true.
    """
    name, key, output = job["name"], job["key"], Path(job["output"])
    folder = output.parent

    def busy(owner: str) -> None:
        print(f"{name} is in use by process {owner}: waiting until that ends ...", flush=True)

    with lock_file(folder / ".worker.lock", busy, stop):
        if complete(folder, key):
            return ""  # another runner finished it in the meantime
        for place, other in job["needs"].items():
            complete(Path(place), other, seconds=60)
        if is_locked(folder / ".lock"):
            busy("of another notebook")
        output.unlink(missing_ok=True)
        code = _execute(job, stop)
        if complete(folder, key):
            return ""
        why = _why_failed(output, code)
        write_json(folder / FAILURE, {"key": key, "why": why.splitlines()[-1].strip()})
        return why


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
    """Places on this machine: `jobs`, or (0) as many as the cores or GPUs can feed; with GPUs, each
    has its own.

    Raises `S3EError` if there are not enough GPUs.
    """

    def __init__(self, runtime: "Runtime", jobs: int):
        each, own = runtime.devices, runtime.device == "cuda"  # "cuda:1" is that of all notebooks
        found = [] if runtime.device == "cpu" else gpus()
        fed = utils.cores() // (runtime.threads * each) if runtime.device == "cpu" else 1
        self.places = jobs or max(1, len(found) // each if own else fed)
        needed = 0 if runtime.device == "cpu" else each * (self.places if own else 1)
        if len(found) < needed:
            raise S3EError(
                f"{self.places} notebooks at a time on '{runtime.device}', with runtime.devices ="
                f" {each}, need {needed} GPUs, and there are {len(found)}: give fewer --jobs, or"
                " --set runtime.device=cpu."
            )
        self._gpus: SimpleQueue[dict[str, str]] = SimpleQueue()
        for first in range(0, self.places * each, each):
            names = ",".join(found[first : first + each])
            self._gpus.put({"CUDA_VISIBLE_DEVICES": names} if own else {})
        self.about = f"{self.places} at a time"
        self._stopped = threading.Event()
        self._threads = ThreadPoolExecutor(self.places)

    def submit(self, job: Job) -> Future[str]:
        """Start a job; its result is that of `run_notebook`."""
        return self._threads.submit(self._run, job)

    def _run(self, job: Job) -> str:
        own = self._gpus.get()
        try:
            job = job | {"environment": job["environment"] | own}
            return run_notebook(job, self._stopped.is_set)
        finally:
            self._gpus.put(own)

    def close(self) -> None:
        """Kill what still runs."""
        self._stopped.set()
        self._threads.shutdown()


# ------------------------------------------------------------------------------ places on a cluster


def facts() -> dict[str, str]:
    """What must be the same on all machines, so that a run is the same wherever it runs."""
    from s3e.pipeline.keys import code_parts

    known = {name: version(name).partition("+")[0] for name in ("torch", "numpy")}
    known["Python"] = platform.python_version().rpartition(".")[0]
    code = [code_parts(stage) for stage in STAGES]
    return known | {"the source of the suite": utils.digest(code)[:12]}


def check_worker(expected: dict[str, str], root: str) -> None:
    """On a worker: raise `S3EError` if it has other versions or another source, or does not see the
    folder of runs.
    """
    for name, there in facts().items():
        if there != expected[name]:
            raise S3EError(
                f"a worker cannot take part: {name} is {there} there and {expected[name]} here;"
                " start it with the same environment and source."
            )
    if not Path(root).is_dir():
        raise S3EError(
            f"a worker cannot take part: it does not see {root}; share that folder between all"
            " machines, under the same path."
        )


def nurse(job: Job, expected: dict[str, str]) -> str:
    """On a worker: `run_notebook` until its client is gone or the worker closes."""
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def stop() -> bool:
        task = worker.state.tasks.get(key)
        closing = worker.status.name in ("closing", "closed")
        return task is None or task.state == "cancelled" or closing

    check_worker(expected, str(Path(job["output"]).parents[2]))  # it may have joined later
    return run_notebook(job, stop)


class Cluster:
    """The workers of a Dask cluster, which may come and go; Dask gives what a dead worker ran to
    another.

    A worker takes as many notebooks as its threads feed; one with GPUs (`CUDA_VISIBLE_DEVICES`,
    `--nthreads 1`) takes one. Raises `S3EError` for an address where nobody answers and for a
    worker that cannot take part.
    """

    def __init__(self, address: str, runtime: "Runtime", jobs: int, root: Path):
        from distributed import Client, LocalCluster

        self._address, self._runtime, self._jobs, self._facts = address, runtime, jobs, facts()
        kind, _, count = address.partition(":")
        local = {"threads_per_worker": runtime.threads * runtime.devices, "memory_limit": 0}
        if kind == "local" and not (count.isdecimal() and int(count) and runtime.device == "cpu"):
            raise S3EError(
                f"--scheduler {address}: write local:N, N from 1 on; for GPUs of this machine give"
                " --jobs."
            )
        try:
            with contextlib.ExitStack() as held:
                if kind == "local":
                    cluster = LocalCluster(n_workers=int(count), dashboard_address=None, **local)
                    address = held.enter_context(cluster).scheduler_address
                self._client = held.enter_context(Client(address, timeout=PATIENCE))
                self._client.run(check_worker, self._facts, str(root))
                self._executor = self._client.get_executor(pure=False)
                self._held = held.pop_all()
        except (OSError, ValueError) as error:
            raise S3EError(
                f"--scheduler {self._address}: {error}; give the address that `dask scheduler`"
                " prints."
            ) from None
        self.about = f"{self.places} at a time on {self._address}"

    @property
    def places(self) -> int:
        """How many notebooks run at a time; raises `S3EError` if the scheduler is gone."""
        each = self._runtime.threads * self._runtime.devices
        try:
            threads = self._client.nthreads().values()
            if self._client.status != "running":
                raise OSError
        except OSError:
            raise S3EError(
                f"the scheduler at {self._address} is gone: start it and its workers again, and"
                " give the same command."
            ) from None
        on_cpu = self._runtime.device == "cpu"
        count = sum(max(1, number // each) for number in threads) if on_cpu else len(threads)
        return min(count, self._jobs or count)

    def submit(self, job: Job) -> Future[str]:
        """Start a job on a worker; its result is that of `run_notebook`."""
        return self._executor.submit(
            lambda *task: importlib.import_module("s3e.pipeline.schedule").nurse(*task),
            job,
            self._facts,
        )  # by a lambda: a scheduler need not know s3e

    def close(self) -> None:
        """Leave the cluster, whose workers then kill what still runs."""
        self._executor.shutdown(wait=False)
        self._held.close()


# ------------------------------------------------------------------------------------- the schedule


class Result(NamedTuple):
    """What came of a run: done, skipped, failed or not run."""

    word: str
    seconds: float = 0.0


def job_of(run: "Run", parameters: dict[str, Any]) -> Job:
    """What a worker needs to run a notebook, as plain JSON."""
    needs = {other.result(): other.key for other in run.reads}
    threads = dict.fromkeys(utils.THREADS, str(run.config.runtime.threads))
    return {
        "name": str(run),
        "key": run.key,
        "notebook": str(notebook(run.stage)),
        "output": str(run.path / "notebook.ipynb"),
        "needs": {str(folder): key for folder, key in needs.items() if folder},
        "parameters": parameters,
        "environment": threads | {"S3E_RUNS": str(utils.RUNS), "S3E_FIGURES": str(FIGURES)},
    }


def execute(
    waiting: list["Run"], start: Callable[["Run"], Future[str]], places: Local | Cluster
) -> dict["Run", Result]:
    """Keep the places busy until nothing more can run; returns what came of each run.

    `waiting`: the runs, each after all that it reads; `start` submits one.
    """
    left, running, results = list(waiting), {}, {}
    while left or running:
        count = places.places
        for run in list(left):
            came = {results[other].word for other in run.reads if other in results}
            busy = {*left, *(other for other, _ in running.values())}
            if came & {"failed", "not run"}:
                left.remove(run)
                results[run] = Result("not run")
            elif len(running) < count and not busy & {*run.reads}:
                left.remove(run)
                running[start(run)] = run, time.monotonic()
                _say(f"start  {run}  (about {run.expected_minutes:.1f} min)")
        done, _ = wait(running, timeout=LOOK, return_when=FIRST_COMPLETED)
        time.sleep(0 if running else POLL)
        while done:  # no reference stays, or a cluster computes a lost result again
            future = done.pop()
            run, since = running.pop(future)
            results[run] = _result(run, future, time.monotonic() - since)
    return results


def _result(run: "Run", future: Future[str], seconds: float) -> Result:
    try:
        why = future.result()
    except Exception as error:  # of a worker
        why = f"  {type(error).__name__}: {error}"
        write_json(run.path / FAILURE, {"key": run.key, "why": why.strip()})
    if not why and (done := complete(run.path, run.key, seconds=60)):
        word = "skipped" if done["skipped"] else "done"
        _say(f"{word:6} {run}  {seconds:.0f} s")
        return Result(word, seconds)
    print(why)
    _say(f"FAILED {run}  {seconds:.0f} s")
    print(f"  executed notebook: {run.path / 'notebook.ipynb'}")
    print(f"  log: {run.path / 'papermill.log'}", flush=True)
    return Result("failed", seconds)


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
