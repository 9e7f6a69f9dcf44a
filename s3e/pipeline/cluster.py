"""Notebooks on the workers of a Dask cluster that see the same folders: `run_all.py --scheduler ADDRESS`.

A worker takes as many notebooks as its threads feed (`dask worker --nthreads`), or as its GPUs (`--resources "GPU=n"`).
It runs each in a process of its own, as a pool on one machine does; Dask carries jobs there and exit codes back, and
nothing else. A worker that ends takes its own notebooks with it; the pool reports them as lost.
"""

import importlib
import platform
import tempfile
import time
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from distributed import Client, Future, LocalCluster, Status, Worker, get_worker

from s3e.config import Runtime
from s3e.pipeline import keys, machine
from s3e.pipeline.folders import is_locked, take_lock
from s3e.pipeline.graph import Instance
from s3e.pipeline.pools import Ended, Job, ended, launch
from s3e.pipeline.study import Study
from s3e.utils import S3EError

PATIENCE = 10  # seconds until an address counts as unreachable
LOOK = 1.0  # seconds between looks at who is there
POLL = 0.1  # seconds between a worker's looks at its process


def nurse(job: Job) -> tuple[int, str]:
    """On a worker: run a notebook to its end; returns its exit code and what it printed.

    Its process is killed when its client is gone or the worker closes, and dies with the worker.
    """
    worker = get_worker()
    with tempfile.TemporaryFile() as printed:
        process = launch(job, job["slot"], printed)
        while process.poll() is None:
            task = worker.state.tasks.get(job["task"])
            if (
                task is None
                or task.state == "cancelled"
                or worker.status in (Status.closing, Status.closed)
            ):
                process.kill()
            time.sleep(POLL)
        printed.seek(0)
        return process.returncode, printed.read().decode(errors="replace")


def facts() -> dict[str, str]:
    """What must be the same on all machines, so that a run is the same wherever it runs."""
    python = ".".join(platform.python_version_tuple()[:2])
    packages = {name: version(name).partition("+")[0] for name in ("torch", "numpy")}
    source = {"the source of the suite": keys.source_digest()[:12]}
    stages = ("01_data_blurring", "07_evaluation")
    tools = {f"what {stage} uses": keys.tools(stage)["tools"] for stage in stages}
    return {"Python": python, **packages, **source, **tools}


def examine(request: dict[str, Any], dask_worker: Worker) -> str:
    """On a worker: why it cannot take part, with the remedy; "" if it can."""
    mine, gpus = facts(), request["gpus"]
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
    if gpus and len(machine.gpus()) < max(gpus, dask_worker.state.total_resources.get("GPU", 0)):
        return f"it has {len(machine.gpus())} GPUs: check its CUDA_VISIBLE_DEVICES and --resources, and runtime.devices"
    return ""


def slots(worker: dict[str, Any], runtime: Runtime) -> int:
    """How many notebooks a worker (as the Dask scheduler describes it) takes at a time."""
    if runtime.device == "cpu":
        return max(1, worker["nthreads"] // (runtime.threads * runtime.devices))
    declared = int(worker["resources"].get("GPU", runtime.devices))
    return min(worker["nthreads"], declared // runtime.devices)


def connect(address: str, runtime: Runtime) -> tuple[Client, LocalCluster | None]:
    """A client of the cluster at `address`; "local:N" starts one of N worker processes. `S3EError` if none answers."""
    kind, _, count = address.partition(":")
    if kind == "local":
        if not count.isdecimal() or not int(count) or runtime.device != "cpu":
            raise S3EError(
                f"--scheduler {address}: write local:N, N from 1 on; for GPUs of this machine give --jobs."
            )
        threads = runtime.threads * runtime.devices
        cluster = LocalCluster(
            n_workers=int(count), threads_per_worker=threads, dashboard_address=None, memory_limit=0
        )
        return Client(cluster), cluster
    try:
        return Client(address, timeout=PATIENCE), None
    except (OSError, ValueError) as error:
        raise S3EError(
            f"--scheduler {address}: {error}; give the address that `dask scheduler` prints."
        ) from None


class _Task(NamedTuple):
    future: Future
    worker: str
    slot: int


class DaskPool:
    """Free places on the workers of a cluster, which may come and go.

    Raises `S3EError` for an address where nobody answers and for a worker that cannot take part; one that joins later
    and cannot is left out, with a message. `folders`: those that the runs write into.
    """

    def __init__(self, study: Study, folders: list[Path], jobs: int):
        self.address, self.runtime, self.jobs = (
            study.arguments.scheduler,
            study.config.runtime,
            jobs,
        )
        self._free: dict[str, set[int]] = {}  # by worker
        self._known: set[str] = set()
        self._running: dict[Instance, _Task] = {}
        self._client, self._cluster = connect(self.address, self.runtime)
        paths = [folder / f".cluster-{uuid.uuid4().hex}.lock" for folder in folders]
        self._locks = {path: take_lock(path, self.address) for path in paths}
        self._request = {
            "facts": facts(),
            "locks": [str(path) for path in paths],
            "inputs": [str(path) for path in study.inputs()],
            "gpus": 0 if self.runtime.device == "cpu" else self.runtime.devices,
        }
        self._begin()

    def _begin(self) -> None:
        try:
            for worker, why in self._look().items():
                raise S3EError(f"worker {worker} cannot take part: {why}.")
        except S3EError:
            self.close()
            raise

    @property
    def about(self) -> str:
        """How many places there are, on how many workers."""
        places = sum(map(len, self._free.values()))
        return f"{min(places, self.jobs or places)} at a time on {len(self._free)} workers of {self.address}"

    def _look(self) -> dict[str, str]:
        """Note which workers there are; returns {new worker: why it cannot take part}."""
        self._looked = time.monotonic()
        again = "start it and its workers again, and give the same command"
        gone = S3EError(f"the scheduler at {self.address} is gone: {again}.")
        try:
            workers = self._client.scheduler_info(n_workers=-1)["workers"]
            new = [name for name in workers if name not in self._known]
            told = (
                self._client.run(examine, self._request, workers=new, on_error="return")
                if new
                else {}
            )
        except (OSError, KeyError):  # without a connection no workers are listed
            raise gone from None
        if self._client.status != "running":
            raise gone
        self._known = {*workers}
        self._free = {name: self._free[name] for name in self._free if name in workers}
        self._free |= {
            name: set(range(slots(workers[name], self.runtime)))
            for name, why in told.items()
            if why == ""
        }
        return {
            name: why if isinstance(why, str) else f"{why!r}"
            for name, why in told.items()
            if why != ""
        }

    def room(self) -> bool:
        """True if a worker has a free place."""
        return any(self._free.values()) and (not self.jobs or len(self._running) < self.jobs)

    def start(self, run: Instance, job: Job) -> str:
        """Start a job on the worker with the most free places; returns its address."""
        worker = max(self._free, key=lambda name: len(self._free[name]))
        slot, task = min(self._free[worker]), f"{run}-{uuid.uuid4().hex}"
        self._free[worker].remove(slot)
        future = self._client.submit(
            lambda job: importlib.import_module("s3e.pipeline.cluster").nurse(
                job
            ),  # the scheduler need not know s3e
            job | {"slot": slot, "task": task},
            key=task,
            workers=[worker],
            pure=False,
        )
        self._running[run] = _Task(future, worker, slot)
        return worker

    def ended(self) -> list[Ended]:
        """The runs that ended, or lost their worker, since the last call."""
        if time.monotonic() - self._looked > LOOK or self._client.status != "running":
            before = len(self._free)
            for worker, why in self._look().items():
                print(f"worker {worker} is left out: {why}.", flush=True)
            if before and not self._free:
                print(
                    f"no worker is left at {self.address}: waiting for one to join ...", flush=True
                )
        results = []
        for run, (future, worker, slot) in list(self._running.items()):
            if future.done() or worker not in self._free:
                del self._running[run]
                self._free.get(worker, set()).add(slot)
                results.append(self._judge(run, future, worker))
        return results

    def _judge(self, run: Instance, future: Future, worker: str) -> Ended:
        if future.status == "finished":
            return ended(run, *future.result())
        if future.status == "error":
            return Ended(run, False, f"worker {worker}: {future.exception()!r}")
        future.release()
        return Ended(run, False, f"worker {worker} is gone", lost=True)

    def close(self) -> None:
        """Leave the cluster, whose workers then kill what still runs."""
        self._client.close()
        if self._cluster:
            self._cluster.close()
        for path, handle in self._locks.items():
            path.unlink(missing_ok=True)
            handle.close()
