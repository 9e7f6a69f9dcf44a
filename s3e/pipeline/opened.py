"""What a notebook does with its run: `run = open_run(...)` in its first cell, `run.finish(...)` in
its last, and between them reads what other runs left.
"""

import math
import shutil
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from s3e import utils
from s3e.pipeline import keys
from s3e.pipeline.graph import stage_named
from s3e.pipeline.store import KEPT, describe_files, provenance, record
from s3e.pipeline.study import Run, Study
from s3e.utils import S3EError, write_file

_HELD: dict[Path, ExitStack] = {}  # this process's locks: a notebook may open twice


class OpenRun(Run):
    """The run of an open notebook; `resumed`: it goes on with the files of an interrupted one."""

    # --------------------------------------------------------------------- what its notebook reads

    @property
    def skipped(self) -> dict[str, str]:
        """The runs that it reads which were skipped, and why."""
        found = {str(other): other.result()["skipped"] for other in self.reads}
        return {name: why for name, why in found.items() if why}

    def upstream_runs(self, stage: str) -> list[Path]:
        """Folders of the finished runs of `stage` that it reads, without skipped ones."""
        found = [run.result() for run in self.reads if run.stage == stage_named(stage)]
        return [done["folder"] for done in found if not done["skipped"]]

    def upstream(self, stage: str) -> Path:
        """Folder of the one finished run of `stage` that it reads (same seed)."""
        paths = self.upstream_runs(stage)
        if len(paths) != 1:
            raise S3EError(
                f"{self} reads {len(paths)} finished runs of {stage}, not one: see"
                " run.upstream_runs and run.skipped."
            )
        return paths[0]

    def semantics(self, stage: str) -> Path | None:
        """Folder of the run of 01 (words, labels) or 03 (weights) that it uses, or None.

        Where the data have no captions, it lies in `semantics_from`.
        """
        own = self.upstream_runs(stage) if self.captioned else [self.lent.get(stage_named(stage))]
        return own[0] if own else None

    @property
    def borrowed(self) -> str:
        """That the data have no captions, and whose tree is used; "" where they have."""
        lender = Path(self.config.semantics_from).name
        whose = f": tree and captioner are those of {lender}" if lender else ""
        return "" if self.captioned else f"these data have no captions{whose}"

    # --------------------------------------------------------------------- what its notebook does

    def card(self) -> None:
        """Print what runs, with what, for how long, and where its files go."""
        runtime, profile = self.config.runtime, self.config.profile
        rows = {
            "run": f"{self}{' (resumed)' if self.resumed else ''}",
            "profile": self.study.root.name,
            "what": self.stage_row.what,
            "computes on": f"{runtime.devices} x {runtime.device}, {runtime.precision} bits,"
            f" {runtime.threads} thread(s)",
            "expected time": self.expected_seconds,
            "files go to": self.path,
            "weights": "; ".join(self.config.about_weights()),
            "semantics from": self.config.semantics_from,
            "note": "its numbers mean nothing: it shows that all runs" * (profile == "smoke"),
        }
        print(*(f"{name:18}{text}" for name, text in rows.items() if text), sep="\n")

    def begin(self, resume: bool) -> None:
        """Take its lock and withdraw an older result; with the same key, files stay."""
        self.require()
        self.study.claim()
        self._hold()
        (self.path / "done.json").unlink(missing_ok=True)
        begun = record(self.path, "state.json")
        self.resumed = bool(resume and begun and begun["key"] == self.key)
        # First: a half-cleared folder must not be resumed
        (self.path / "state.json").unlink(missing_ok=True)
        if not self.resumed:
            for path in [path for path in self.path.iterdir() if path.name not in KEPT]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_file(self.path / "state.json", {"key": self.key})
        self._started = time.time()

    def _hold(self) -> None:
        def busy(owner: str) -> None:
            print(f"{self} is in use by process {owner}: waiting until that ends ...", flush=True)

        if self.path not in _HELD:
            _HELD[self.path] = utils.lock_file(self.path / ".lock", busy)

    def skip(self, reason: str) -> None:
        """End the notebook here without results, and tell downstream why."""
        self.finish({}, skipped=reason)
        raise SystemExit(0)  # stops "run all" and papermill at this cell, without an error

    def finish(
        self, metrics: dict[str, float], outputs: Iterable[str | Path] = (), skipped: str = ""
    ) -> None:
        """Check outputs and metrics, then mark the run finished.

        `outputs`: files beyond those that the stage table declares, relative to `run.path` or
        absolute. Raises `S3EError` for a missing or empty file and for a metric that is no finite
        number.
        """
        for name, value in metrics.items():
            if not hasattr(value, "__float__") or not math.isfinite(float(value)):
                raise S3EError(
                    f"metric '{name}' is {value!r}: a metric must be a finite number; look at the"
                    " run's log."
                )
        self._hold()  # again, if the last cell is run a second time
        config, seconds = self.config, round(time.time() - self._started, 1)
        data = {"source": config.data.source, "fingerprint": self.parts["code"].get(keys.DATA)}
        records = {
            "metrics": {n: x if isinstance(x, int) else float(x) for n, x in metrics.items()},
            "params": {
                "stage": self.stage,
                "variant": self.variant,
                "seed": config.seed,
                "selection": self.study.selection,
                "overrides": self.study.overrides,
                "config": config.model_dump(mode="json"),
            },
            "provenance": {"data": data, **provenance(config.runtime)},
            "done": {
                "key": self.key,
                "parts": self.parts,
                "outputs": describe_files(self.path, () if skipped else [*self.outputs, *outputs]),
                "seconds": seconds,
                "skipped": skipped,
            },
        }
        for name, values in records.items():  # done.json comes last
            write_file(self.path / f"{name}.json", values)
        _HELD.pop(self.path).close()
        print(f"{self} {f'skipped: {skipped}' if skipped else f'finished after {seconds:.0f} s'}")


def open_run(
    stage: str,
    *,
    variant: str = "",
    seed: int = 0,
    resume: bool = True,
    profile: str = "laptop",
    **settings: Any,
) -> OpenRun:
    """Begin (or go on with) the run of a notebook.

    Checks the config and that everything upstream is finished, takes the run's lock, withdraws an
    older result, keeps the files of an interrupted run only if nothing that it depends on has
    changed, and fixes the thread count. `settings`: those of `Study` (data, overrides, variants,
    seeds, run_dir). Raises `S3EError` with the remedy.
    """
    if resume not in (True, False):
        raise S3EError(f"the parameter resume is {resume!r}: give True or False.")
    keys.forget()
    study = Study(profile, seed=seed, **settings)
    place = study.run(stage_named(stage), variant, seed)
    run = OpenRun(study, place.stage, place.variant, place.seed)
    runtime, trains = study.config.runtime, "runtime" in run.stage_row.settings
    if trains and runtime.device != "cpu":
        from s3e.training.parallel import check_device

        check_device(runtime)
    run.begin(resume)
    utils.set_threads(runtime.threads, torch=trains)
    return run
