"""Where notebooks run: each in a process of its own, on this machine or (`s3e.pipeline.cluster`) on many.

A job is what starts a notebook, as plain JSON. Its place on a machine, the `slot`, says which GPUs are its own.
"""

import json
import os
import subprocess
import sys
from typing import IO, Any, NamedTuple, Protocol

from s3e import utils
from s3e.config import Runtime
from s3e.pipeline import machine
from s3e.pipeline.graph import Instance
from s3e.utils import NOTEBOOKS, ROOT, S3EError

Job = dict[str, Any]  # see `Scheduler.job`


class Ended(NamedTuple):
    """A run whose process ended. `why`: it was killed, "" if it told its reason itself; `lost`: with its machine."""

    run: Instance
    good: bool
    why: str = ""
    printed: str = ""
    lost: bool = False


class Pool(Protocol):
    """Runs jobs, as many at a time as it has room for."""

    about: str  # e.g. "2 at a time"

    def room(self) -> bool:
        """True if a job can be started now."""

    def start(self, run: Instance, job: Job) -> str:
        """Start a job; returns the worker's name, "" for this machine."""

    def ended(self) -> list[Ended]:
        """The runs that ended since the last call."""

    def close(self) -> None:
        """Kill what still runs."""


def ended(run: Instance, code: int, printed: str = "") -> Ended:
    """The end of a process with this exit code."""
    return Ended(run, code == 0, f"killed by signal {-code}" if code < 0 else "", printed)


def launch(job: Job, slot: int, output: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    """Start the notebook of a job on this machine, in a process that dies with the thread that calls this.

    What the process prints goes to `output`, or to where this process prints.
    """
    spec = {**job, "runner": os.getpid(), "notebook": str(NOTEBOOKS / f"{job['stage']}.ipynb")}
    command = [sys.executable, "-m", "s3e.pipeline.worker", json.dumps(spec)]
    streams = {"stdout": output, "stderr": subprocess.STDOUT} if output else {}
    return subprocess.Popen(command, env=_environment(job, slot), start_new_session=True, **streams)


def _environment(job: Job, slot: int) -> dict[str, str]:
    runtime = Runtime.model_validate(job["runtime"])
    fixed = {
        "JUPYTER_PREFER_ENV_PATH": "1",  # a user-level kernelspec must not win
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        "S3E_RUNS": job["runs"],
        "S3E_FIGURES": job["figures"],
        "TQDM_DISABLE": "1",  # a saved bar would stand at 0 % in the executed notebook for ever; losses go to disk
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    threads = dict.fromkeys(utils.THREADS, str(runtime.threads))
    return {**os.environ, **threads, **fixed, **machine.gpus_of(runtime, slot)}


def local_jobs(runtime: Runtime, wanted: int) -> int:
    """How many notebooks run here at a time: `wanted`, or (0) as many as the cores or GPUs can feed.

    Raises `S3EError` if a notebook could not have GPUs of its own.
    """
    if runtime.device == "cpu":
        return wanted or max(1, utils.cores() // (runtime.threads * runtime.devices))
    have, each = len(machine.gpus()), runtime.devices
    if not have:
        raise S3EError(
            f"runtime.device is '{runtime.device}', but there is no GPU: --set runtime.device=cpu."
        )
    if runtime.device != "cuda":  # one GPU, which the settings name
        return wanted or 1
    jobs = wanted or max(1, have // each)
    if jobs * each > have:
        remedy = f"--jobs {have // each}" if have >= each else f"--set runtime.devices={have}"
        raise S3EError(
            f"{jobs} notebooks at a time, with runtime.devices = {each}, exceed the {have} GPUs: {remedy}."
        )
    return jobs


class LocalPool:
    """Processes of this machine, which die with this one."""

    def __init__(self, runtime: Runtime, jobs: int):
        self._free = set(range(local_jobs(runtime, jobs)))
        self._running: dict[Instance, tuple[subprocess.Popen[bytes], int]] = {}
        self.about = f"{len(self._free)} at a time"

    def room(self) -> bool:
        """True if a job can be started now."""
        return bool(self._free)

    def start(self, run: Instance, job: Job) -> str:
        """Start a job in the first free place."""
        slot = min(self._free)
        self._free.remove(slot)
        self._running[run] = launch(job, slot), slot
        return ""

    def ended(self) -> list[Ended]:
        """The runs that ended since the last call."""
        over = [run for run, (process, _) in self._running.items() if process.poll() is not None]
        results = []
        for run in over:
            process, slot = self._running.pop(run)
            self._free.add(slot)
            results.append(ended(run, process.returncode))
        return results

    def close(self) -> None:
        """Kill what still runs."""
        for process, _ in self._running.values():
            process.kill()
