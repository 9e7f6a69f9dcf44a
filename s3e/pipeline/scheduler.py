"""Several notebooks at a time, each in a process of its own that dies with this one."""

import json
import os
import subprocess
import sys
import time

from s3e.config import Config
from s3e.paths import FIGURES, NOTEBOOKS, ROOT, RUNS
from s3e.pipeline import graph, machine
from s3e.pipeline.graph import Instance
from s3e.pipeline.study import Study

POLL = 0.1  # seconds


class Scheduler:
    """Keep `jobs` notebooks running, the one with the most work behind it first, until nothing more can run."""

    def __init__(self, study: Study, waiting: list[Instance], jobs: int):
        self.study, self.waiting, self.jobs = study, list(waiting), jobs
        minutes = {run: graph.expected_minutes(run, study.config.profile) for run in waiting}
        self.ahead = {run: study.keys.minutes_ahead(run, waiting, minutes) for run in waiting}
        self.minutes = minutes
        self.running: dict[Instance, tuple[subprocess.Popen[bytes], float]] = {}
        self.results: dict[Instance, tuple[str, float]] = {}

    def run(self) -> dict[Instance, tuple[str, float]]:
        """Run everything; returns {run: (done | skipped | failed | not run, seconds)}."""
        try:
            while self.running or self.waiting:
                self._start_ready()
                time.sleep(POLL)
                self._collect()
        finally:
            for process, _ in self.running.values():
                process.kill()
        return self.results

    def _start_ready(self) -> None:
        for run in sorted(self.waiting, key=self.ahead.get, reverse=True):
            before = [self.results.get(other, ("done", 0))[0] for other in self._before(run)]
            if "failed" in before or "not run" in before:
                self.waiting.remove(run)
                self.results[run] = ("not run", 0.0)
            elif len(self.running) < self.jobs and not any(self._unfinished(other) for other in self._before(run)):
                self.waiting.remove(run)
                self._start(run)

    def _before(self, run: Instance) -> list[Instance]:
        return self.study.keys.upstream(run)

    def _unfinished(self, run: Instance) -> bool:
        return run in self.waiting or run in self.running

    def _start(self, run: Instance) -> None:
        folder = self.study.store.folder(run)
        folder.mkdir(parents=True, exist_ok=True)
        spec = {
            "name": str(run),
            "key": self.study.keys.key(run),
            "force": self.study.forced(run),
            "runner": os.getpid(),
            "notebook": str(NOTEBOOKS / f"{run.stage}.ipynb"),
            "output": str(folder / "notebook.ipynb"),
            "parameters": self.study.parameters(run),
        }
        _say(f"start  {run}  (about {self.minutes[run]:.1f} min)")
        command = [sys.executable, "-m", "s3e.pipeline.worker", json.dumps(spec)]
        process = subprocess.Popen(command, env=_environment(self.study.config), start_new_session=True)
        self.running[run] = (process, time.monotonic())

    def _collect(self) -> None:
        for run, (process, start) in list(self.running.items()):
            if process.poll() is not None:
                del self.running[run]
                self._judge(run, process.returncode, time.monotonic() - start)

    def _judge(self, run: Instance, code: int, seconds: float) -> None:
        found = self.study.store.find(run, self.study.keys.key(run))
        if code == 0 and found:
            self.results[run] = ("skipped" if found[1]["skipped"] else "done", seconds)
            _say(f"{self.results[run][0]:6} {run}  {seconds:.0f} s")
            return
        self.results[run] = ("failed", seconds)
        folder = self.study.store.folder(run)
        why = {0: "its notebook ended without run.finish, or its code or data changed meanwhile"}.get(code, "see above")
        _say(f"FAILED {run}  {seconds:.0f} s: {why if code >= 0 else f'killed by signal {-code}'}")
        print(f"  executed notebook: {folder / 'notebook.ipynb'}\n  log: {folder / 'papermill.log'}", flush=True)


def _environment(config: Config) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    fixed = {
        "JUPYTER_PREFER_ENV_PATH": "1",  # a user-level kernelspec must not win
        "PYTHONPATH": path,
        "S3E_RUNS": str(RUNS),
        "S3E_FIGURES": str(FIGURES),
        "TQDM_DISABLE": "1",  # a saved bar would stand at 0 % in the executed notebook for ever; losses go to disk
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    return {**os.environ, **dict.fromkeys(machine.THREADS, str(config.runtime.threads)), **fixed}


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)
