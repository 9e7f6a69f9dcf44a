"""The run store, and what a notebook sees of it: `run = open_run(...)` in its first code cell, `run.finish(...)` last.

    runs/<profile>[@<data folder>][+<hash of overrides>]/<stage>/<variant>-s<seed> | s<seed> | all

`done.json` is written last, so a run that was killed never looks finished; the files that it left behind are kept for
the next attempt as long as its key is the same. With overrides, a run whose key is unchanged is read from the store
without overrides, so that only what depends on the override is computed.
"""

import contextlib
import json
import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from s3e import utils
from s3e.config import Config, Runtime, load_config
from s3e.pipeline import graph, keys
from s3e.pipeline.graph import DRAWS, Instance, Selection
from s3e.pipeline.keys import WEIGHTS, Keys
from s3e.utils import (
    FIGURES,
    NOTEBOOKS,
    ROOT,
    S3EError,
    atomic_write,
    file_digest,
    is_locked,
    lock_file,
    read_json,
    write_json,
)

FAILURE = "failed.json"  # beside the files of a run whose last attempt failed
KEPT = {".lock", ".worker.lock", "notebook.ipynb", "papermill.log"}  # not a run's own files
CARD = ("precision", "devices")  # rows of the run card where they are not the default
PACKAGES = (
    "torch", "numpy", "scipy", "scikit-image", "pandas", "matplotlib", "pillow", "pydantic",
    "papermill", "pycocoevalcap",
)  # fmt: skip
SEMANTICS = (
    "encoder", "encoder_widths", "node_width", "share_sub_relations", "word_width", "lstm_width", "attention_width",
)  # settings of `model` in which a tree and captioner must agree with the study that borrows them  # fmt: skip
_HELD: dict[
    Path, contextlib.ExitStack
] = {}  # locks of this process: a notebook may open its run twice


# ------------------------------------------------------------------------------------------------ folders and records


class Store:
    """The folders of one profile, data set and set of overrides."""

    def __init__(self, root: Path, base: Path | None = None):
        self.root, self.base = root, base

    @classmethod
    def of(
        cls, config: Config, overrides: dict[str, Any] | None = None, run_dir: str = ""
    ) -> "Store":
        """The store of a config; `run_dir` names another root folder for it."""
        if run_dir:
            return cls(Path(run_dir).expanduser().resolve())
        source = config.data.source
        name = config.profile + ("" if source == "scenes" else "@" + Path(source).name)
        base = utils.RUNS.resolve() / name
        if not overrides:
            return cls(base)
        return cls(base.with_name(f"{name}+{keys.digest(overrides)[:8]}"), base)

    def claim(self, source: str) -> None:
        """Note whose store this is; raises `S3EError` if it is that of another data folder of the same name."""
        mark = self.root / "data.txt"
        owner = mark.read_text(encoding="utf-8") if mark.is_file() else ""
        if source in ("scenes", owner):
            return
        if owner and Path(owner).is_dir():
            raise S3EError(
                f"{self.root} holds the runs of {owner}, not of {source}: rename one of the two, or set S3E_RUNS and "
                "S3E_FIGURES."
            )
        with atomic_write(mark) as path:
            path.write_text(source, encoding="utf-8")

    def folder(self, run: Instance) -> Path:
        """Where `run` writes."""
        return self.root / run.stage / run.folder

    def find(self, run: Instance, key: str) -> tuple[Path, dict[str, Any]] | None:
        """Folder and record of a complete run with this key: here, or in the store without overrides."""
        for root in filter(None, (self.root, self.base)):
            folder = root / run.stage / run.folder
            if record := complete(folder, key):
                return folder, record
        return None

    def state(self, run: Instance, parts: dict[str, Any]) -> tuple[str, str, float | None]:
        """(fresh | skipped | running | stale | failed | missing, why, last seconds) of a run whose key has these parts."""
        folder, key = self.folder(run), keys.digest(parts)
        if found := self.find(run, key):
            place, record = found
            elsewhere = "" if place == folder else f"from {place.parents[1].name}"
            state = "skipped" if record["skipped"] else "fresh"
            return state, record["skipped"] or elsewhere, record["seconds"]
        if is_locked(folder / ".lock"):
            return "running", "", None
        if record := _record(folder):
            why = keys.explain(record["parts"], parts)
            why += [f"{name} is lost or changed" for name in lost_files(folder, record)]
            return "stale", "; ".join(why), record["seconds"]
        if (failure := _record(folder, FAILURE)) and failure["key"] == key:
            return "failed", failure["why"], None
        if self.base and (record := _record(self.base / run.stage / run.folder)):
            return "missing", "; ".join(keys.explain(record["parts"], parts)), None
        if begun := _record(folder, "state.json"):
            same = "goes on where it stopped", "its code or settings changed since"
            return "missing", f"interrupted; {same[begun['key'] != key]}", None
        return "missing", "", None


def _record(folder: Path, name: str = "done.json") -> dict[str, Any] | None:
    return read_json(folder / name) if (folder / name).is_file() else None


def lost_files(folder: Path, record: dict[str, Any]) -> list[str]:
    """Names of a finished run's files that are gone or have another size."""
    sizes = {name: about["bytes"] for name, about in record["outputs"].items()}
    files = {name: folder / name for name in sizes}
    return [
        name
        for name, path in files.items()
        if not path.is_file() or path.stat().st_size != sizes[name]
    ]


def complete(folder: Path, key: str) -> dict[str, Any] | None:
    """The record of the finished run in `folder`, or None if it has another key or has lost files."""
    record = _record(folder)
    return record if record and record["key"] == key and not lost_files(folder, record) else None


def wait_for(folder: Path, key: str, seconds: float = 60.0) -> dict[str, Any] | None:
    """`complete`, once it is seen: a shared folder may show files later than on the machine that wrote them."""
    end = time.monotonic() + seconds
    while not (record := complete(folder, key)) and time.monotonic() < end:
        time.sleep(0.2)
        with contextlib.suppress(OSError):
            os.listdir(folder)  # a network file system then asks its server again
    return record


def note_failure(folder: Path, key: str, why: str) -> None:
    """Note for `--status` why the last attempt at a run failed; the next attempt removes it."""
    write_json(folder / FAILURE, {"key": key, "why": why})


def take_lock(path: Path, what: str) -> contextlib.ExitStack:
    """Hold an exclusive lock on `path` until it is closed or the process ends; says so while it waits."""
    busy = "{} is in use by process {}: waiting until that ends ..."
    return lock_file(path, lambda owner: print(busy.format(what, owner), flush=True))


# ------------------------------------------------------------------------------------- a study and others that it reads


def _in_full(text: str, found: Callable[[Path], bool]) -> str:
    candidates = [Path(text).expanduser(), ROOT / text]
    return str(next((path.resolve() for path in candidates if found(path)), text))


def data_folder(data: str) -> str:
    """A data folder as given from the working folder or from the repository's root; "scenes" stays."""
    return data if data == "scenes" else _in_full(data, Path.is_dir)


def settled(overrides: dict[str, Any] | None) -> dict[str, Any] | None:
    """The overrides with the store and the files that they name written in full."""
    if not isinstance(overrides, dict):
        return overrides
    kinds = {"semantics_from": Path.is_dir} | dict.fromkeys(WEIGHTS, Path.is_file)
    return {
        name: _in_full(value, kinds[name]) if name in kinds and isinstance(value, str) else value
        for name, value in overrides.items()
    }


def open_study(
    config: Config,
    overrides: dict[str, Any] | None,
    selection: Selection,
    notebooks: Path = NOTEBOOKS,
    run_dir: str = "",
) -> tuple[Keys, Store]:
    """Keys and store of a study; raises `S3EError` if `semantics_from` is given for data that have captions."""
    study = Keys(config, selection, notebooks)
    if config.semantics_from and study.captioned:
        raise S3EError(
            f"semantics_from = '{config.semantics_from}' is for data without captions, and "
            f"{config.data.source} has its own: leave it out."
        )
    study.foreign = lambda run: lent_runs(study, run) | control_runs(study, overrides or {}, run)
    return study, Store.of(config, overrides, run_dir)


def lent_runs(study: Keys, run: Instance) -> dict[str, Path]:
    """What `run` reads of the captioned study of `semantics_from`: {"semantics:<run>": folder}.

    Raises `S3EError` for data without captions if there is no such study or if it does not fit the settings.
    """
    if study.captioned or graph.why_skipped(run, study.kind):
        return {}
    needed, store = graph.borrowed(run), Path(study.config.semantics_from)
    if run.stage == "01_data_blurring" and study.config.semantics_from:
        needed = [run]  # images that the tree was trained on are taken out
    if needed and not study.config.semantics_from:
        profile = study.config.profile
        raise S3EError(
            f"{study.config.data.source} has no captions to train the tree of '{run.variant}': run a study that has "
            f"(python run_all.py --profile {profile}) and name its store (--semantics-from runs/{profile})."
        )
    for other in needed:
        _check_lent(study.config, store / other.stage / other.folder)
    return {f"semantics:{other}": store / other.stage / other.folder for other in needed}


def _check_lent(config: Config, folder: Path) -> None:
    record = _record(folder)
    if record is None or record["skipped"] or lost_files(folder, record):
        number, seed = folder.parent.name[:2], folder.name[1:]
        seeds = f" --seeds {seed}" if seed.isdecimal() else ""
        raise S3EError(
            f"semantics_from: {folder} is not a finished run of a study with captions: run that study "
            f"(python run_all.py --profile {config.profile}{seeds} --until {number}), or name another store."
        )
    theirs, ours = read_json(folder / "params.json")["config"], config.model_dump(mode="json")
    fields = [("data", "size"), *(("model", name) for name in SEMANTICS)]
    for section, name in fields:
        if theirs[section][name] != ours[section][name]:
            value = json.dumps(theirs[section][name])
            raise S3EError(
                f"semantics_from: {section}.{name} is {value} in {folder} and {ours[section][name]} here: "
                f"--set '{section}.{name}={value}'."
            )


def control_runs(study: Keys, overrides: dict[str, Any], run: Instance) -> dict[str, Path]:
    """The fresh runs of the texture control that 07 and 08 read: {"texture control:<run>": folder}; {} without one.

    The control is the same study on scenes with `data.texture=random`, in a store of its own.
    """
    data = study.config.data
    if run.stage not in ("07_evaluation", DRAWS) or (data.source, data.texture) != (
        "scenes",
        "category",
    ):
        return {}
    changed = {**overrides, "data.texture": "random"}
    config = load_config(study.config.profile, "scenes", 0, changed)
    store, control = Store.of(config, changed), Keys(config, study.selection, study.notebooks)
    if not store.root.is_dir():
        return {}
    runs = [graph.variant_run(*pair) for pair in study.selection]
    found = {f"texture control:{other}": store.find(other, control.key(other)) for other in runs}
    return {name: place[0] for name, place in found.items() if place}


# ----------------------------------------------------------------------------------------------- what a notebook sees


class Card(dict[str, str]):
    """A run card: rows of name and value, shown whole (a data frame would cut long paths)."""

    def __repr__(self) -> str:
        return "\n".join(f"{name:18}{value}" for name, value in self.items())


class Run:
    """One run of a stage: `config`, `path` (its folder), `stage`, `variant`, `seed`, `resumed`, `skipped`, ...

    `kind`: what the data are ("scenes", "coco", "karpathy", "gopro", "folder"); `captioned`: they have captions;
    `why_skipped`: why this notebook can do nothing on these data, or "".
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
        self.kind, self.captioned, self.selection = study.kind, study.captioned, study.selection
        self.why_skipped = graph.why_skipped(instance, study.kind)
        self.skipped: dict[str, str] = {}  # what upstream left out -> why
        self._foreign = study.foreign(instance)
        self._upstream: dict[Instance, Path] = {}
        for other in study.upstream(instance):
            found = store.find(other, study.key(other))
            if not found:
                state, why, _ = store.state(other, study.parts(other))
                why = f" ({why})" if why else ""
                raise S3EError(
                    f"{instance} needs {other}, which is {state}{why}: {self._remedy(other)}."
                )
            self._upstream[other] = found[0]
            if found[1]["skipped"]:
                self.skipped[str(other)] = found[1]["skipped"]

    def _remedy(self, other: Instance) -> str:
        command = ["python", "run_all.py", "--profile", self.config.profile]
        if self.config.data.source != "scenes":
            command += ["--data", self.config.data.source]
        for name, value in self._overrides.items():
            command += ["--set", f"{name}={json.dumps(value)}"]
        command += ["--seeds", str(other.seed)] if other.seed >= 0 else []
        command += ["--variants", other.variant] if other.variant else []
        command += ["--until", other.stage.split("_")[0]]
        return f"open notebooks/{other.stage}.ipynb, or: {shlex.join(command)}"

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
        name = self.config.figures
        manifest = FIGURES / name / "manifest.json"
        if name and manifest.is_file():
            about, source = read_json(manifest), Path(self.config.data.source).name
            taken = (about["profile"], about["data"]["source"]) != (self.config.profile, source)
        else:
            taken = not name
        return self.store_name if self._overrides or taken else name

    @property
    def outputs(self) -> tuple[str, ...]:
        """The files that this run must leave in its folder."""
        return graph.outputs(self.stage, self.kind, self.config.blur.severity)

    @property
    def borrowed(self) -> str:
        """That the data have no captions, and whose tree and captioner are used; "" where they have."""
        lender = Path(self.config.semantics_from).name
        whose = f": tree and captioner are those of {lender}" if lender else ""
        return "" if self.captioned else f"these data have no captions{whose}"

    @property
    def vocabulary(self) -> Path | None:
        """Folder of the run of 01 whose words and labels count: this study's, or that of `semantics_from`."""
        return self._semantics("01_data_blurring")

    @property
    def captioner(self) -> Path | None:
        """Folder of the run of 03 that tree and captioner start from; None where this run starts without."""
        return self._semantics("03_train_captioner")

    def _semantics(self, stage: str) -> Path | None:
        other = graph.instance(stage, seed=self.seed)
        own = self._upstream.get(other) if self.captioned else None
        return own or self._foreign.get(f"semantics:{other}")

    def texture_control(self) -> list[Path]:
        """Folders of the finished trainings of the texture control (variants on random textures); [] without one."""
        return [path for name, path in self._foreign.items() if name.startswith("texture control:")]

    def upstream(self, stage: str) -> Path:
        """Folder of the finished run of `stage` that belongs to this run (same seed)."""
        stage = graph.stage_named(stage).name
        matches = [run for run in self._upstream if run.stage == stage]
        if len(matches) != 1:
            raise S3EError(
                f"{self._instance} reads {len(matches)} runs of {stage}, not one: see run.upstream_runs."
            )
        if str(matches[0]) in self.skipped:
            raise S3EError(f"{matches[0]} was skipped: {self.skipped[str(matches[0])]}")
        return self._upstream[matches[0]]

    def upstream_runs(self, stage: str) -> list[Path]:
        """Folders of all finished runs of `stage` that this run reads, without skipped ones (those: `run.skipped`)."""
        stage = graph.stage_named(stage).name
        mine = {run: path for run, path in self._upstream.items() if run.stage == stage}
        return [path for run, path in mine.items() if str(run) not in self.skipped]

    def card(self) -> Card:
        """What runs, with what, for how long, and where its files go."""
        runtime, profile = self.config.runtime, self.config.profile
        minutes = graph.expected_minutes(self._instance, profile)
        rows = {
            "run": str(self._instance) + (" (resumed)" if self.resumed else ""),
            "profile": self.store_name,
            "what": graph.STAGES[self.stage].what,
            "device, threads": f"{runtime.device}, {runtime.threads}",
            "expected time": graph.spoken(minutes) if graph.minutes(profile) else "not measured",
            "files go to": _short(self.path),
            "source notebook": _short(self._study.notebooks / f"{self.stage}.ipynb"),
        }
        for name in CARD:
            if getattr(runtime, name) != Runtime.model_fields[name].default:
                rows[name] = str(getattr(runtime, name))
        if self.config.fallbacks():
            rows["fallback"] = "; ".join(self.config.fallbacks())
        if self.config.semantics_from:
            rows["semantics from"] = _short(Path(self.config.semantics_from))
        if profile == "smoke":
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
        seconds = time.monotonic() - self._clock
        print(f"{self._instance} finished after {seconds:.0f} s: {_short(self.path)}")

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
        settings = {"overrides": self._overrides, "config": self.config.model_dump(mode="json")}
        write_json(self.path / "metrics.json", metrics)
        write_json(self.path / "params.json", {**about, **settings})
        origin = {"key": self._key, "started": _stamp(self._started), "ended": _stamp(time.time())}
        write_json(self.path / "provenance.json", origin | provenance(self.config, self._parts))
        record = {"key": self._key, "parts": self._parts, "outputs": files, "skipped": skipped}
        seconds = round(time.monotonic() - self._clock, 1)
        write_json(self.path / "done.json", {**record, "seconds": seconds})
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
    return {"bytes": path.stat().st_size, "sha256": file_digest(path)}


def _portable(path: Path, folder: Path) -> str:
    """A file's name relative to its run's folder, also from outside it (figures)."""
    return os.path.relpath(path.resolve(), folder.resolve())


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _stamp(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def _clear(folder: Path) -> None:
    """Remove what a run with another key left behind: it must not be resumed from."""
    (folder / "state.json").unlink(
        missing_ok=True
    )  # first: a half-cleared folder must not be resumed
    for path in folder.iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


# -------------------------------------------------------------------------------------------------------- provenance


def provenance(config: Config, parts: dict[str, Any]) -> dict[str, Any]:
    """Everything one wants to know about a result later: source, packages, machine, memory, what it read."""
    runtime = config.runtime
    return {
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "code": parts["code"],
        "upstream": parts["upstream"],
        "data": {"source": config.data.source, "fingerprint": parts["data"]},
        "python": sys.version.split()[0],
        "executable": sys.executable,
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "device": runtime.device,
        "device_name": _device_name(runtime),
        "devices": runtime.devices,
        "precision": runtime.precision,
        "threads": runtime.threads,
        "seed": config.seed,
        "peak_memory_mib": _peak_memory(),
    }


def _git(*words: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(ROOT), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _device_name(runtime: Runtime) -> str:
    torch = sys.modules.get("torch")  # a stage that did not import it computed without a GPU
    if runtime.device == "cpu" or torch is None or not torch.cuda.is_available():
        return ""
    return torch.cuda.get_device_name(torch.device(runtime.device))


def _peak_memory() -> float | None:
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


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
    keys.forget()
    overrides = settled(overrides)
    config = load_config(profile, data_folder(data), seed, overrides)
    instance = graph.instance(graph.stage_named(stage).name, variant, seed)
    selection = graph.select(config, variants, seeds)
    study, store = open_study(config, overrides, selection, notebooks, run_dir)
    run = Run(instance, store, study, seed, overrides or {})
    run._begin(resume)
    trains = "runtime" in graph.STAGES[instance.stage].fields
    utils.set_threads(config.runtime.threads, torch=trains)
    return run
