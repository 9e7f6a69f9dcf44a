"""Runs notebooks, each after all that it reads, the one with the most work behind it first.

A notebook is executed by papermill in a process of its own (`python -m s3e.pipeline.schedule`). A thread waits for it:
one of this process, or one of a Dask worker that sees the same folders (`--scheduler`). Papermill's own word is no
evidence of success (a dead kernel leaves cells that say "completed"): what counts is `done.json`.
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
import uuid
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from s3e import utils
from s3e.utils import (
    FIGURES,
    NOTEBOOKS,
    ROOT,
    THREADS,
    S3EError,
    atomic_write,
    is_locked,
    lock_file,
    read_json,
)

if TYPE_CHECKING:  # the process of a notebook needs none of these
    from s3e.config import Runtime
    from s3e.pipeline.graph import Instance
    from s3e.pipeline.runner import Study

Job = dict[str, Any]  # what starts a notebook, as plain JSON: see `Schedule.job`
POLL = 0.1  # seconds between looks at a process
LOOK = 1.0  # seconds between looks at the workers of a cluster
PATIENCE = 10  # seconds until an address counts as unreachable
LAST_LINES = 12  # of a failing cell's error


# ------------------------------------------------------------------------------------------------------ one notebook


def main(job: Job) -> None:
    """The process of a notebook: execute it into its run's folder; ends when the process that started it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it stops it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    sys.modules["rfc3987_syntax"] = None  # optional checks of jsonschema that take 1-2 s to import
    import papermill

    notebook, output = (
        job[name].replace("{", "{{").replace("}", "}}") for name in ("notebook", "output")
    )
    papermill.execute_notebook(
        notebook,  # braces are format fields
        output,
        parameters=job["parameters"],
        kernel_name="python3",
        cwd=str(Path(job["notebook"]).parent),
        progress_bar=False,
        log_output=True,
        start_timeout=120,
    )


def _end_with_parent() -> None:
    sys.stdin.read()  # of a pipe that closes with the parent; the kernel sees that its own parent is gone
    os._exit(1)


def run_notebook(job: Job, stop: Callable[[], bool]) -> str:
    """Wait for the run's turn and execute its notebook; returns why the run is not finished, "" if it is.

    Kills the process once `stop()` is true.
    """
    from s3e.pipeline.store import complete, note_failure, wait_for

    output, key = Path(job["output"]), job["key"]
    folder = output.parent
    lock = _turn(folder / ".worker.lock", job["name"], stop)
    with lock:
        if not job["force"] and complete(folder, key):
            return ""  # another runner finished it in the meantime
        for place, other in job["needs"].items():
            wait_for(Path(place), other)
        if is_locked(folder / ".lock"):
            print(
                f"{job['name']} is open in another notebook: waiting until that ends ...",
                flush=True,
            )
        output.unlink(missing_ok=True)
        code = _execute(job, stop)
        if code == 0:
            _mend_links(output, Path(job["notebook"]).parent)
        if complete(folder, key):
            return ""
        why = _why_failed(output, code)
        note_failure(folder, key, why.splitlines()[-1].strip())
        return why


def _turn(path: Path, name: str, stop: Callable[[], bool]) -> contextlib.ExitStack:
    """Hold the lock of a run once it is free."""

    def busy(owner: str) -> None:
        raise LookupError(owner)

    informed = False
    while not stop():
        try:
            return lock_file(path, busy)
        except LookupError as error:
            if not informed:
                print(
                    f"{name} is in use by process {error.args[0]}: waiting until that ends ...",
                    flush=True,
                )
            informed = True
            time.sleep(POLL)
    raise S3EError(f"{name} was stopped while it waited.")


def _execute(job: Job, stop: Callable[[], bool]) -> int:
    """Execute the notebook of a job in a process of its own; returns the exit code."""
    command = [sys.executable, "-m", "s3e.pipeline.schedule", json.dumps(job)]
    with open(Path(job["output"]).with_name("papermill.log"), "ab") as log:
        process = subprocess.Popen(
            command, env=_environment(job), stdin=subprocess.PIPE, stdout=log, stderr=log
        )
        with process:
            while True:
                try:
                    return process.wait(POLL)
                except subprocess.TimeoutExpired:
                    if stop():
                        process.kill()


def _environment(job: Job) -> dict[str, str]:
    fixed = {
        "JUPYTER_PREFER_ENV_PATH": "1",  # a user-level kernelspec must not win
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        "S3E_RUNS": job["runs"],
        "S3E_FIGURES": job["figures"],
        "TQDM_DISABLE": "1",  # a saved bar would stand at 0 % in the executed notebook for ever
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    threads = dict.fromkeys(THREADS, str(job["threads"]))
    return {**os.environ, **threads, **fixed, **job.get("environment", {})}


def _mend_links(output: Path, notebooks: Path) -> None:
    """Let the links of an executed copy lead to the notebooks beside its source, not beside itself."""
    base = Path(os.path.relpath(notebooks, output.parent)).as_posix()
    link = r"\]\(((?:\.\./)?[\w/.-]+\.(?:ipynb|md))\)"
    text = re.sub(link, rf"]({base}/\1)", output.read_text(encoding="utf-8"))
    with atomic_write(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _why_failed(output: Path, code: int) -> str:
    """The last lines of the failing cell, or of the log where no cell raised."""
    cells = read_json(output)["cells"] if output.is_file() else []
    for cell in cells:
        for item in cell.get("outputs", []):
            if item["output_type"] == "error" and item["ename"] != "SystemExit":
                lines = [line for block in item["traceback"] for line in _lines(block)]
                lines = lines[-LAST_LINES:] or [f"{item['ename']}: {item['evalue']}"]
                return "\n".join(
                    [f"  cell In[{cell['execution_count']}]:", *(f"    {line}" for line in lines)]
                )
    if code < 0:
        return f"  killed by signal {-code}"
    if code:
        log = output.with_name("papermill.log").read_text(encoding="utf-8", errors="replace")
        return f"  {(_lines(log) or ['it ended'])[-1]}"
    return "  its notebook ended without run.finish, or its code or data changed meanwhile"


def _lines(text: str) -> list[str]:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return [line for line in plain.splitlines() if line.strip()]


# ------------------------------------------------------------------------------------------- places on this machine


def gpus() -> list[str]:
    """The GPUs that this process may use, each as CUDA_VISIBLE_DEVICES names it."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    return [str(number) for number in range(count)]


def local_places(runtime: "Runtime", jobs: int) -> int:
    """How many notebooks run here at a time: `jobs`, or (0) as many as the cores or GPUs can feed.

    Raises `S3EError` if a notebook could not have GPUs of its own.
    """
    if runtime.device == "cpu":
        return jobs or max(1, utils.cores() // (runtime.threads * runtime.devices))
    have, each = len(gpus()), runtime.devices
    if not have:
        raise S3EError(
            f"runtime.device is '{runtime.device}', but there is no GPU: --set runtime.device=cpu."
        )
    if runtime.device != "cuda":  # one GPU, which the settings name
        return jobs or 1
    jobs = jobs or max(1, have // each)
    if jobs * each > have:
        remedy = f"--jobs {have // each}" if have >= each else f"--set runtime.devices={have}"
        raise S3EError(
            f"{jobs} notebooks at a time, with runtime.devices = {each}, exceed the {have} GPUs: {remedy}."
        )
    return jobs


class Local:
    """Places on this machine; with GPUs, each has its own."""

    def __init__(self, runtime: "Runtime", jobs: int):
        self.places = local_places(runtime, jobs)
        self.about = f"{self.places} at a time"
        self._environments: SimpleQueue[dict[str, str]] = SimpleQueue()
        for place in range(self.places):
            self._environments.put(_gpus_of(runtime, place))
        self._stopped = threading.Event()
        self._threads = ThreadPoolExecutor(self.places)

    def submit(self, job: Job) -> Future[str]:
        """Start a job; its result is that of `run_notebook`."""
        return self._threads.submit(self._run, job)

    def _run(self, job: Job) -> str:
        environment = self._environments.get()
        try:
            return run_notebook({**job, "environment": environment}, self._stopped.is_set)
        finally:
            self._environments.put(environment)

    def look(self) -> None:
        """Nothing joins and nothing leaves here."""

    def close(self) -> None:
        """Kill what still runs."""
        self._stopped.set()
        self._threads.shutdown()


def _gpus_of(runtime: "Runtime", place: int) -> dict[str, str]:
    if runtime.device != "cuda":  # on the CPU, or on the one GPU that the settings name
        return {}
    first = place * runtime.devices
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus()[first : first + runtime.devices])}


# --------------------------------------------------------------------------------------------- places on a cluster


def facts() -> dict[str, str]:
    """What must be the same on all machines, so that a run is the same wherever it runs."""
    from s3e.pipeline import keys

    python = ".".join(platform.python_version_tuple()[:2])
    packages = {name: version(name).partition("+")[0] for name in ("torch", "numpy")}
    stages = ("01_data_blurring", "07_evaluation")
    tools = {f"what {stage} uses": keys.tools(stage)["tools"] for stage in stages}
    return {
        "Python": python,
        **packages,
        "the source of the suite": keys.source_digest()[:12],
        **tools,
    }


def examine(request: dict[str, Any]) -> str:
    """On a worker: why it cannot take part, with the remedy; "" if it can."""
    mine, devices = facts(), request["gpus"]
    for name, here in request["facts"].items():
        if mine[name] != here:
            return f"{name} is {mine[name]} there and {here} here: start it with the same environment and source"
    for path in request["inputs"]:
        if not Path(path).exists():
            return f"it does not see {path}: share that between all machines, under the same path"
    for path in map(Path, request["locks"]):
        if not path.is_file():
            return f"it sees another {path.parent}: share that folder between all machines, under the same path"
        if not is_locked(path):
            return f"file locks in {path.parent} do not reach it: mount that folder with locks on all machines"
    if devices and len(gpus()) < devices:
        return f"it has {len(gpus())} GPUs: check its CUDA_VISIBLE_DEVICES and runtime.devices"
    return ""


def nurse(job: Job) -> str:
    """On a worker: `run_notebook` until its client is gone or the worker closes."""
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def stop() -> bool:
        task = worker.state.tasks.get(key)
        closing = worker.status.name in ("closing", "closed")
        return task is None or task.state == "cancelled" or closing

    return run_notebook(job, stop)


class Cluster:
    """The workers of a Dask cluster, which may come and go; Dask gives what a dead worker ran to another.

    A worker takes as many notebooks as its threads feed; one with GPUs (`CUDA_VISIBLE_DEVICES`, `--nthreads 1`) takes
    one. Raises `S3EError` for an address where nobody answers and for a worker that cannot take part; one that joins
    later and cannot is left out, with a message. `folders`: those that the runs write into.
    """

    def __init__(self, study: "Study", folders: list[Path], jobs: int):
        self.address, self._runtime = study.arguments.scheduler, study.config.runtime
        self._jobs, self._looked = jobs, 0.0
        self._known: dict[str, bool] = {}  # by worker: can it take part?
        self._held = contextlib.ExitStack()
        self._client = self._connect()
        paths = [folder / f".cluster-{uuid.uuid4().hex}.lock" for folder in folders]
        for path in paths:
            self._held.callback(path.unlink, missing_ok=True)
            self._held.enter_context(lock_file(path, lambda owner: None))
        self._executor = self._client.get_executor(pure=False, allow_other_workers=True)
        self._request = {
            "facts": facts(),
            "locks": [str(path) for path in paths],
            "inputs": [str(path) for path in study.inputs()],
            "gpus": 0 if self._runtime.device == "cpu" else self._runtime.devices,
        }
        try:
            for worker, why in self._newcomers().items():
                raise S3EError(f"worker {worker} cannot take part: {why}.")
        except S3EError:
            self.close()
            raise
        self.about = f"{self.places} at a time on {len(self._workers())} workers of {self.address}"

    def _connect(self) -> Any:
        from distributed import Client, LocalCluster

        kind, _, count = self.address.partition(":")
        if kind == "local":
            if not count.isdecimal() or not int(count) or self._runtime.device != "cpu":
                raise S3EError(
                    f"--scheduler {self.address}: write local:N, N from 1 on; for GPUs of this machine give --jobs."
                )
            threads = self._runtime.threads * self._runtime.devices
            options = {"threads_per_worker": threads, "dashboard_address": None, "memory_limit": 0}
            cluster = self._held.enter_context(LocalCluster(n_workers=int(count), **options))
            return self._held.enter_context(Client(cluster))
        try:
            return self._held.enter_context(Client(self.address, timeout=PATIENCE))
        except (OSError, ValueError) as error:
            raise S3EError(
                f"--scheduler {self.address}: {error}; give the address that `dask scheduler` prints."
            ) from None

    def _workers(self) -> list[str]:
        return [name for name, fits in self._known.items() if fits]

    @property
    def places(self) -> int:
        """How many notebooks run at a time."""
        threads = self._runtime.threads * self._runtime.devices
        single = self._runtime.device != "cpu"
        free = [1 if single else max(1, self._threads[name] // threads) for name in self._workers()]
        return min(sum(free), self._jobs or sum(free))

    def _newcomers(self) -> dict[str, str]:
        """Note which workers there are; returns {new worker: why it cannot take part}."""
        self._looked = time.monotonic()
        try:
            workers = self._client.scheduler_info(n_workers=-1)["workers"]
            new = [name for name in workers if name not in self._known]
            found = (
                self._client.run(examine, self._request, workers=new, on_error="return")
                if new
                else {}
            )
        except (OSError, KeyError):  # without a connection no workers are listed
            found, workers = {}, {}
        if self._client.status != "running":
            raise S3EError(
                f"the scheduler at {self.address} is gone: start it and its workers again, and give the same command."
            )
        for name in set(self._known) - set(workers):
            print(f"worker {name} is gone: what it ran goes on elsewhere", flush=True)
        self._threads = {name: about["nthreads"] for name, about in workers.items()}
        self._known = {name: self._known.get(name, found.get(name) == "") for name in workers}
        return {name: str(why) for name, why in found.items() if why != ""}

    def submit(self, job: Job) -> Future[str]:
        """Start a job on a worker; its result is that of `run_notebook`."""
        return self._executor.submit(
            lambda job: importlib.import_module("s3e.pipeline.schedule").nurse(
                job
            ),  # the scheduler need not know s3e
            job,
            workers=self._workers(),
        )

    def look(self) -> None:
        """Say who left or does not fit; raises `S3EError` if the scheduler is gone."""
        if time.monotonic() - self._looked < LOOK and self._client.status == "running":
            return
        before = self._workers()
        for worker, why in self._newcomers().items():
            print(f"worker {worker} is left out: {why}.", flush=True)
        if before and not self._workers():
            print(f"no worker is left at {self.address}: waiting for one to join ...", flush=True)

    def close(self) -> None:
        """Leave the cluster, whose workers then kill what still runs."""
        self._executor.shutdown(wait=False)
        self._held.close()


# ------------------------------------------------------------------------------------------------------- the schedule


class Result(NamedTuple):
    """What came of a run: done, skipped, failed or not run."""

    word: str
    seconds: float = 0.0


class Schedule:
    """Keep the places busy until nothing more can run."""

    def __init__(self, study: "Study", waiting: list["Instance"], places: Local | Cluster):
        self.study, self.places, self.waiting = study, places, list(waiting)
        self.ahead = minutes_ahead(study, waiting)
        self.running: dict[Future[str], tuple[Instance, float]] = {}
        self.results: dict[Instance, Result] = {}

    def run(self) -> dict["Instance", Result]:
        """Run everything; returns what came of each run."""
        try:
            while self.running or self.waiting:
                self._start_ready()
                done, _ = wait(self.running, timeout=LOOK, return_when=FIRST_COMPLETED)
                self.places.look()
                while done:  # no reference stays, or a cluster computes a lost result again
                    self._finish(done.pop())
                if not self.running:
                    time.sleep(POLL)
        finally:
            self.places.close()
        return self.results

    def _start_ready(self) -> None:
        busy = {*self.waiting, *(run for run, _ in self.running.values())}
        for run in sorted(self.waiting, key=self.ahead.get, reverse=True):
            before = self.study.keys.upstream(run)
            words = {self.results[other].word for other in before if other in self.results}
            if words & {"failed", "not run"}:
                self.waiting.remove(run)
                self.results[run] = Result("not run")
            elif not busy & set(before) and len(self.running) < self.places.places:
                self.waiting.remove(run)
                self.study.store.folder(run).mkdir(parents=True, exist_ok=True)
                self.running[self.places.submit(self.job(run))] = run, time.monotonic()
                _say(f"start  {run}  (about {self.study.minutes(run):.1f} min)")

    def job(self, run: "Instance") -> Job:
        """What a worker needs to run a notebook, as plain JSON."""
        study = self.study
        keys = {other: study.keys.key(other) for other in study.keys.upstream(run)}
        found = {key: study.store.find(other, key) for other, key in keys.items()}
        return {
            "name": str(run),
            "key": study.keys.key(run),
            "force": study.arguments.force,
            "notebook": str(NOTEBOOKS / f"{run.stage}.ipynb"),
            "output": str(study.store.folder(run) / "notebook.ipynb"),
            "needs": {str(place[0]): key for key, place in found.items() if place},
            "parameters": study.parameters(run),
            "threads": study.config.runtime.threads,
            "runs": str(utils.RUNS),
            "figures": str(FIGURES),
        }

    def _finish(self, future: Future[str]) -> None:
        from s3e.pipeline.store import note_failure, wait_for

        run, started = self.running.pop(future)
        seconds = time.monotonic() - started
        folder, key = self.study.store.folder(run), self.study.keys.key(run)
        try:
            why = future.result()
        except Exception as error:  # of a worker
            why = f"  {type(error).__name__}: {error}"
            note_failure(folder, key, why.strip())
        if not why and (record := wait_for(folder, key)):
            self.results[run] = Result("skipped" if record["skipped"] else "done", seconds)
            return _say(f"{self.results[run].word:6} {run}  {seconds:.0f} s")
        self.results[run] = Result("failed", seconds)
        print(why, flush=True)
        _say(f"FAILED {run}  {seconds:.0f} s")
        print(
            f"  executed notebook: {folder / 'notebook.ipynb'}\n  log: {folder / 'papermill.log'}",
            flush=True,
        )


def minutes_ahead(study: "Study", runs: list["Instance"]) -> dict["Instance", float]:
    """Expected minutes from the start of each of `runs` (in order) to the end of the longest chain that waits."""
    ahead = {run: study.minutes(run) for run in runs}
    for run in reversed(runs):
        for other in set(study.keys.upstream(run)) & set(ahead):
            ahead[other] = max(ahead[other], study.minutes(other) + ahead[run])
    return ahead


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
