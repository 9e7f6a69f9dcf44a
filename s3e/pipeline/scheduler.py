"""What runs next: every run after those that it reads, the one with the most work behind it first."""

import time
from typing import NamedTuple

from s3e.pipeline import folders
from s3e.pipeline.graph import Instance
from s3e.pipeline.pools import Ended, Job, Pool
from s3e.pipeline.study import Study
from s3e.utils import FIGURES, RUNS

POLL = 0.1  # seconds
ATTEMPTS = 3  # at a run whose worker dies


class Result(NamedTuple):
    """What came of a run: done, skipped, failed or not run."""

    word: str
    seconds: float = 0.0


class Scheduler:
    """Keep a pool busy until nothing more can run."""

    def __init__(self, study: Study, waiting: list[Instance], pool: Pool):
        self.study, self.waiting, self.pool = study, list(waiting), pool
        self.minutes = {run: study.minutes(run) for run in waiting}
        self.ahead = study.keys.minutes_ahead(waiting, self.minutes)
        self.running: dict[Instance, float] = {}  # when it started
        self.attempts: dict[Instance, int] = {}
        self.results: dict[Instance, Result] = {}

    def run(self) -> dict[Instance, Result]:
        """Run everything; returns what came of each run."""
        try:
            while self.running or self.waiting:
                self._start_ready()
                time.sleep(POLL)
                for end in self.pool.ended():
                    self._judge(end, time.monotonic() - self.running.pop(end.run))
        finally:
            self.pool.close()
        return self.results

    def _start_ready(self) -> None:
        for run in sorted(self.waiting, key=self.ahead.get, reverse=True):
            before = self.study.keys.upstream(run)
            if any(
                other in self.results and self.results[other].word in ("failed", "not run")
                for other in before
            ):
                self.waiting.remove(run)
                self.results[run] = Result("not run")
            elif (
                not any(other in self.waiting or other in self.running for other in before)
                and self.pool.room()
            ):
                self.waiting.remove(run)
                self._start(run)

    def _start(self, run: Instance) -> None:
        self.study.store.folder(run).mkdir(parents=True, exist_ok=True)
        self.attempts[run] = self.attempts.get(run, 0) + 1
        self.running[run] = time.monotonic()
        place = self.pool.start(run, self.job(run))
        _say(f"start  {run}  (about {self.minutes[run]:.1f} min{f', on {place}' if place else ''})")

    def job(self, run: Instance) -> Job:
        """What a worker needs to run a notebook; after a worker's death it goes on where that one stopped."""
        study = self.study
        parameters = study.parameters(run) | (
            {"resume": True} if self.attempts.get(run, 0) > 1 else {}
        )
        keys = {other: study.keys.key(other) for other in study.keys.upstream(run)}
        found = {key: study.store.find(other, key) for other, key in keys.items()}
        return {
            "name": str(run),
            "stage": run.stage,
            "key": study.keys.key(run),
            "force": study.forced(run),
            "output": str(study.store.folder(run) / "notebook.ipynb"),
            "needs": {str(place[0]): key for key, place in found.items() if place},
            "parameters": parameters,
            "runtime": study.config.runtime.model_dump(),
            "runs": str(RUNS),
            "figures": str(FIGURES),
        }

    def _judge(self, end: Ended, seconds: float) -> None:
        run, folder, key = end.run, self.study.store.folder(end.run), self.study.keys.key(end.run)
        if end.printed.strip():
            print(end.printed.rstrip(), flush=True)
        if end.good and (record := folders.wait_for(folder, key)):
            self.results[run] = Result("skipped" if record["skipped"] else "done", seconds)
            return _say(f"{self.results[run].word:6} {run}  {seconds:.0f} s")
        if end.lost and self.attempts[run] < ATTEMPTS:
            self.waiting.append(run)
            return _say(f"LOST   {run}  {seconds:.0f} s: {end.why}; it goes on elsewhere")
        self.results[run] = Result("failed", seconds)
        if end.why:
            folders.note_failure(folder, key, end.why)
        _say(f"FAILED {run}  {seconds:.0f} s: {end.why or 'see above'}")
        print(
            f"  executed notebook: {folder / 'notebook.ipynb'}\n  log: {folder / 'papermill.log'}",
            flush=True,
        )


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)
