"""What a notebook sees of the pipeline: `run = open_run(...)` in its first code cell, `run.finish(...)` in its last."""

import json
import math
import os
import shlex
import shutil
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from s3e import utils
from s3e.config import Runtime, load_config
from s3e.pipeline import graph, keys, machine
from s3e.pipeline.folders import FAILURE, Store, take_lock
from s3e.pipeline.graph import Instance, Selection
from s3e.pipeline.keys import Keys
from s3e.pipeline.lending import data_folder, open_study, settled
from s3e.pipeline.minutes import spoken
from s3e.utils import FIGURES, NOTEBOOKS, ROOT, S3EError, read_json, write_json

KEPT = {".lock", ".worker.lock", "notebook.ipynb", "papermill.log"}  # not a run's own files
CARD = ("precision", "devices")  # rows of the run card where they are not the default
_HELD: dict[Path, ExitStack] = {}  # locks of this process: a notebook may open its run twice


class Card(dict[str, str]):
    """A run card: rows of name and value, shown whole (a data frame would cut long paths)."""

    def __repr__(self) -> str:
        return "\n".join(f"{name:18}{value}" for name, value in self.items())


class Run:
    """One run of a stage: `config`, `path` (its folder), `stage`, `variant`, `seed`, `resumed`, `skipped`, ...

    `kind`: what the data are ("scenes", "coco", "karpathy", "gopro", "folder"); `captioned`: they have captions.
    """

    def __init__(
        self, instance: Instance, store: Store, study: Keys, seed: int, overrides: dict[str, Any]
    ):
        self._instance, self._store, self._study, self._overrides = (
            instance,
            store,
            study,
            overrides,
        )
        self.config, self.path, self.store_name = (
            study.config,
            store.folder(instance),
            store.root.name,
        )
        self.stage, self.variant, self.seed = instance.stage, instance.variant, seed
        self.kind, self.captioned = study.kind, study.captioned
        self.selection: Selection = study.selection
        self.skipped: dict[str, str] = {}  # what upstream left out -> why
        self._upstream: dict[Instance, Path] = {}
        self._find_upstream()

    def _find_upstream(self) -> None:
        for other in self._study.upstream(self._instance):
            found = self._store.find(other, self._study.key(other))
            if not found:
                state, why, _ = self._store.state(other, self._study.parts(other))
                why = f" ({why})" if why else ""
                raise S3EError(
                    f"{self._instance} needs {other}, which is {state}{why}: {self._remedy(other)}."
                )
            self._upstream[other] = found[0]
            if found[1]["skipped"]:
                self.skipped[str(other)] = found[1]["skipped"]

    def _remedy(self, other: Instance) -> str:
        data = (
            ""
            if self.config.data.source == "scenes"
            else f" --data {shlex.quote(self.config.data.source)}"
        )
        changed = "".join(
            f" --set '{name}={json.dumps(value)}'" for name, value in self._overrides.items()
        )
        seeds = f" --seeds {other.seed}" if other.seed >= 0 else ""
        number = other.stage.split("_")[0]
        lent = f" with data = '{self.config.data.captioned}'" if other.of == "captioned" else ""
        return (
            f"open notebooks/{other.stage}.ipynb{lent}, or: python run_all.py --profile {self.config.profile}{data}"
            f"{changed}{seeds}{f' --variants {other.variant}' * bool(other.variant)} --until {number}"
        )

    def _hold(self) -> None:
        if self.path not in _HELD:
            _HELD[self.path] = take_lock(self.path / ".lock", str(self._instance))

    def _begin(self, resume: bool) -> None:
        self._store.claim(self.config.data.source)
        self._hold()
        self._parts = self._study.parts(self._instance)
        self._key, state = keys.digest(self._parts), self.path / "state.json"
        for name in ("done.json", FAILURE):
            (self.path / name).unlink(missing_ok=True)
        self.resumed = resume and state.is_file() and read_json(state)["key"] == self._key
        if not self.resumed:
            _clear(self.path)
        for path in set(self.path.glob(".*.*")) - {self.path / name for name in KEPT}:
            path.unlink()  # half-written files of a killed run
        write_json(state, {"key": self._key})
        self._started, self._clock = time.time(), time.monotonic()

    @property
    def figures_name(self) -> str:
        """Folder for this study's figures: a choice of variants or seeds that is not the profile's has its own.

        So have overrides, and a profile on other data than those that the folder named by the profile shows already.
        """
        if self.selection != graph.select(self.config):
            return f"{self.store_name}+{keys.digest(self.selection)[:8]}"
        return (
            self.store_name
            if self._overrides or self._taken(self.config.figures)
            else self.config.figures
        )

    def _taken(self, name: str) -> bool:
        """True if there is no such name, or if its folder of figures shows another profile or other data."""
        manifest = FIGURES / name / "manifest.json"
        if not name or not manifest.is_file():
            return not name
        about = read_json(manifest)
        own = (self.config.profile, Path(self.config.data.source).name)
        return (about["profile"], about["data"]["source"]) != own

    @property
    def outputs(self) -> tuple[str, ...]:
        """The files that this run must leave in its folder."""
        return graph.outputs(self.stage, self.kind, self.config.blur.severity)

    @property
    def borrowed(self) -> str:
        """Why no tree and no captioner are trained on these data, and whose are used; "" where they are."""
        lender = Path(self.config.data.captioned).name
        return (
            ""
            if self.captioned
            else f"these data have no captions: tree and captioner are those of {lender}"
        )

    def upstream(self, stage: str, captioned: bool = False) -> Path:
        """Folder of the finished run of `stage` that belongs to this run (same seed).

        `captioned`: of the study with captions, which is another one where these data have none.
        """
        stage, of = (
            graph.stage_named(stage).name,
            "captioned" if captioned and not self.captioned else "",
        )
        matches = [run for run in self._upstream if (run.stage, run.of) == (stage, of)]
        if len(matches) != 1:
            raise S3EError(
                f"{self._instance} reads {len(matches)} runs of {stage}, not one: see run.upstream_runs."
            )
        if str(matches[0]) in self.skipped:
            raise S3EError(f"{matches[0]} was skipped: {self.skipped[str(matches[0])]}")
        return self._upstream[matches[0]]

    def upstream_runs(self, stage: str, of: str = "") -> list[Path]:
        """Folders of all finished runs of `stage` that this run reads, without skipped ones (those: `run.skipped`).

        `of`: "random" for those of the falsifier.
        """
        stage = graph.stage_named(stage).name
        mine = {
            run: path for run, path in self._upstream.items() if (run.stage, run.of) == (stage, of)
        }
        return [path for run, path in mine.items() if str(run) not in self.skipped]

    def card(self) -> Card:
        """What runs, with what, for how long, and where its files go."""
        seconds = 60 * graph.expected_minutes(self._instance, self.config.profile)
        runtime = self.config.runtime
        rows = {
            "run": str(self._instance) + (" (resumed)" if self.resumed else ""),
            "profile": self.store_name,
            "what": graph.STAGES[self.stage].what,
            "device, threads": f"{runtime.device}, {runtime.threads}",
            "expected time": spoken(seconds)
            if self.config.profile in graph.MEASURED
            else "not measured",
            "files go to": _short(self.path),
            "source notebook": _short(self._study.notebooks / f"{self.stage}.ipynb"),
        }
        chosen = {name: getattr(runtime, name) for name in CARD}
        rows |= {
            name: str(value)
            for name, value in chosen.items()
            if value != Runtime.model_fields[name].default
        }
        if self.config.fallbacks():
            rows["fallback"] = "; ".join(self.config.fallbacks())
        if lender := self._store.others.get("captioned"):
            rows["captions from"] = _short(lender.root)
        if self.config.profile == "smoke":
            rows["note"] = "smoke shows that everything runs; its numbers mean nothing"
        return Card(rows)

    def skip(self, reason: str) -> None:
        """Finish without results because the data lack something: ends the notebook here and tells downstream why."""
        self._write({}, [], reason)
        print(f"{self._instance} skipped: {reason}")
        raise SystemExit(0)  # stops "run all" and papermill at this cell, without an error

    def finish(self, metrics: dict[str, float], outputs: Iterable[str | Path] = ()) -> None:
        """Check outputs and metrics, then mark the run finished.

        `outputs`: files beyond those that the stage table declares, relative to `run.path` or absolute.
        Raises `S3EError` for a missing or empty file and for a metric that is no finite number.
        """
        names = list(dict.fromkeys([*self.outputs, *map(str, outputs)]))
        self._write({name: _number(name, value) for name, value in metrics.items()}, names, "")
        print(
            f"{self._instance} finished after {time.monotonic() - self._clock:.0f} s: {_short(self.path)}"
        )

    def _write(self, metrics: dict[str, float], outputs: list[str], skipped: str) -> None:
        self._hold()  # again, if the last cell is run a second time
        files = {
            _portable(self.path / name, self.path): _described(self.path / name) for name in outputs
        }
        about = {
            "stage": self.stage,
            "variant": self.variant,
            "seed": self.seed,
            "selection": self.selection,
        }
        write_json(self.path / "metrics.json", metrics)
        settings = {"overrides": self._overrides, "config": self.config.model_dump(mode="json")}
        write_json(self.path / "params.json", {**about, **settings})
        origin = machine.provenance(self.config, self._parts, self._key, self._started)
        write_json(self.path / "provenance.json", origin)
        seconds = round(time.monotonic() - self._clock, 1)
        record = {
            "key": self._key,
            "parts": self._parts,
            "outputs": files,
            "seconds": seconds,
            "skipped": skipped,
        }
        write_json(self.path / "done.json", record)
        _HELD.pop(self.path).close()


def _number(name: str, value: Any) -> float:
    if not hasattr(value, "__float__") or not math.isfinite(float(value)):
        raise S3EError(
            f"metric '{name}' is {value!r}: a metric must be a finite number; look at the run's log."
        )
    return value if isinstance(value, int) else float(value)


def _described(path: Path) -> dict[str, Any]:
    if not path.is_file() or not path.stat().st_size:
        wrong = "empty" if path.is_file() else "missing"
        raise S3EError(f"the declared output {path} is {wrong}: run the notebook from the top.")
    return {"bytes": path.stat().st_size, "sha256": utils.file_digest(path)}


def _portable(path: Path, folder: Path) -> str:
    """A file's name relative to its run's folder, also from outside it (figures)."""
    return os.path.relpath(path.resolve(), folder.resolve())


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _clear(folder: Path) -> None:
    """Remove what a run with another key left behind: it must not be resumed from."""
    (folder / "state.json").unlink(
        missing_ok=True
    )  # first: what is left of a killed clearing must not be resumed
    for path in folder.iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def open_run(
    stage: str,
    *,
    profile: str = "laptop",
    data: str = "scenes",
    seed: int = 0,
    run_dir: str = "",
    overrides: dict[str, Any] | None = None,
    resume: bool = True,
    variant: str = "",
    variants: Iterable[str] = (),
    seeds: Iterable[int] = (),
    notebooks: Path = NOTEBOOKS,
) -> Run:
    """Begin (or go on with) the run of a notebook.

    Checks the config and that everything upstream is finished, takes the run's lock, withdraws an older result, keeps
    the files of an interrupted run only if nothing that it depends on has changed, and fixes the thread count.
    `run_dir`: root of the store, default `runs/<profile>...`. Raises `S3EError` with the remedy.
    """
    utils.die_with(os.environ.get("S3E_WORKER"))
    (
        keys.notebook_code.cache_clear(),
        keys.code_parts.cache_clear(),
    )  # the notebook may have been edited since
    overrides = settled(overrides)
    config = load_config(profile, data_folder(data), seed, overrides)
    instance = graph.instance(graph.stage_named(stage).name, variant, seed)
    study, books = open_study(
        config, overrides or {}, graph.select(config, variants, seeds), notebooks, run_dir
    )
    run = Run(instance, books, study, seed, dict(overrides or {}))
    run._begin(resume)
    utils.set_threads(
        config.runtime.threads, torch="runtime" in graph.STAGES[instance.stage].fields
    )
    return run
