"""The run store, and what a notebook sees of it: `run = open_run(...)` in its first code cell,
`run.finish(...)` last.

    runs/<profile>[@<data folder>][+<hash of overrides>]/<stage>/<variant>-s<seed> | s<seed> | all

`done.json` is written last, so a run that was killed never looks finished; the files that it left
behind are kept for the next attempt as long as its key is the same. With overrides, a run whose key
is unchanged is read from the store without overrides, so that only what depends on the override is
computed.
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
from importlib.metadata import version
from pathlib import Path
from typing import Any

from s3e import utils
from s3e.config import Config, load_config
from s3e.pipeline import graph, keys
from s3e.pipeline.graph import DRAWS, STAGES, Instance
from s3e.utils import FIGURES, NOTEBOOKS, ROOT, S3EError, file_digest, read_json, write_json

FAILURE = "failed.json"  # beside the files of a run whose last attempt failed
KEPT = {".lock", ".worker.lock", "notebook.ipynb", "papermill.log"}  # not a run's own files
PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "scikit-image",
    "pandas",
    "matplotlib",
    "pillow",
    "papermill",
)
AGREE = (
    "data.size",
    "model.encoder_widths",
    "model.node_width",
    "model.word_width",
    "model.lstm_width",
    "model.attention_width",
)  # settings that a study shares with the one whose tree and captioner it uses
_HELD: dict[
    Path, contextlib.ExitStack
] = {}  # locks of this process: a notebook may open its run twice


def record(folder: Path, name: str = "done.json") -> dict[str, Any] | None:
    """The record of a run in its folder, or None."""
    return read_json(folder / name) if (folder / name).is_file() else None


def lost_files(folder: Path, done: dict[str, Any]) -> list[str]:
    """Names of a finished run's files that are gone or have another size."""
    sizes = {name: about["bytes"] for name, about in done["outputs"].items()}
    files = {name: folder / name for name in sizes}
    there = {
        name
        for name, path in files.items()
        if path.is_file() and path.stat().st_size == sizes[name]
    }
    return sorted({*sizes} - there)


def complete(folder: Path, key: str, seconds: float = 0.0) -> dict[str, Any] | None:
    """The record of the finished run in `folder`, or None if it has another key or has lost files.

    `seconds`: how long to wait, for a shared folder may show files later than on the machine that
    wrote them.
    """
    end = time.monotonic() + seconds
    while True:
        done = record(folder)
        if done and done["key"] == key and not lost_files(folder, done):
            return done
        if time.monotonic() >= end:
            return None
        time.sleep(0.2)
        with contextlib.suppress(OSError):
            os.listdir(folder)  # a network file system then asks its server again


def in_full(text: str, found: Callable[[Path], bool] = Path.is_dir) -> str:
    """A folder (or file) as given from the working folder or from the repository's root; other
    words stay.
    """
    candidates = [Path(text).expanduser(), ROOT / text]
    return str(next((path.resolve() for path in candidates if found(path)), text))


class Study:
    """One profile with its data, overrides, variants and seeds: its runs, their keys, and where
    they lie.

    `kind`: what the data are ("scenes", "coco", "karpathy", "gopro", "folder"); `captioned`: they
    have captions. Raises `S3EError` for settings that cannot be used.
    """

    def __init__(
        self,
        profile: str,
        data: str = "scenes",
        overrides: dict[str, Any] | None = None,
        variants: Iterable[str] = (),
        seeds: Iterable[int] = (),
        *,
        seed: int = 0,
        run_dir: str = "",
        notebooks: Path = NOTEBOOKS,
    ):
        data = data if data == "scenes" else in_full(data)
        if isinstance(overrides, dict):  # notebooks run in another folder
            kinds = {"semantics_from": Path.is_dir} | dict.fromkeys(keys.WEIGHTS, Path.is_file)
            words = {name for name in kinds if isinstance(overrides.get(name), str)}
            overrides = overrides | {name: in_full(overrides[name], kinds[name]) for name in words}
        self.config = load_config(profile, data, seed, overrides)
        self.overrides, self.data, self.notebooks = overrides or {}, data, notebooks
        self.selection = graph.select(self.config, variants, seeds)
        self.kind = keys.data_kind(data)
        self.captioned = self.kind in graph.CAPTIONED
        if self.config.semantics_from and self.captioned:
            raise S3EError(
                f"semantics_from is for data without captions, and {data} has its own: leave it"
                " out."
            )
        name = profile + ("" if data == "scenes" else "@" + Path(data).name)
        self.root = self.base = utils.RUNS.resolve() / name
        if run_dir:
            self.root = self.base = Path(run_dir).expanduser().resolve()
        elif overrides:
            self.root = self.base.with_name(f"{name}+{keys.digest(overrides)[:8]}")
        self._parts: dict[Instance, dict[str, Any]] = {}

    def upstream(self, run: Instance) -> list[Instance]:
        """The runs of this study that `run` reads."""
        return graph.upstream(run, self.selection, self.captioned)

    def why_skipped(self, run: Instance) -> str:
        """Why the notebook of `run` will only report that it is skipped; "" if it works."""
        return graph.why_skipped(run, self.kind)

    def parts(self, run: Instance) -> dict[str, Any]:
        """What the key of `run` is made of: code, settings, data, tools, and the keys of what it
        reads.
        """
        if run not in self._parts:
            settings = graph.fields(run, self.config)
            before = {str(other): self.key(other) for other in self.upstream(run)}
            before |= {name: record(path)["key"] for name, path in self.foreign(run).items()}
            first = run.stage == "01_data_blurring"
            self._parts[run] = {
                "stage": str(run),
                "code": keys.code_parts(run.stage, self.notebooks),
                "settings": {name: keys.setting(name, value) for name, value in settings.items()},
                "data": keys.data_fingerprint(self.data) if first else None,
                "tools": keys.tools(run.stage),
                "upstream": before,
            }
        return self._parts[run]

    def key(self, run: Instance) -> str:
        """The key of a run: equal keys mean equal results."""
        return keys.digest(self.parts(run))

    def folder(self, run: Instance) -> Path:
        """Where `run` writes."""
        return self.root / run.stage / run.folder

    def find(self, run: Instance) -> Path | None:
        """Folder of the finished run with the present key: here, or in the store without
        overrides.
        """
        folders = [root / run.stage / run.folder for root in (self.root, self.base)]
        return next((folder for folder in folders if complete(folder, self.key(run))), None)

    def state(self, run: Instance) -> tuple[str, str, float | None]:
        """(fresh | skipped | running | stale | failed | missing, why, last seconds) of a run."""
        folder, parts, key = self.folder(run), self.parts(run), self.key(run)
        if place := self.find(run):
            done = record(place)
            elsewhere = "" if place == folder else f"from {place.parents[1].name}"
            return (
                "skipped" if done["skipped"] else "fresh",
                done["skipped"] or elsewhere,
                done["seconds"],
            )
        if utils.is_locked(folder / ".lock"):
            return "running", "", None
        if done := record(folder):
            lost = [f"{name} is lost or changed" for name in lost_files(folder, done)]
            return "stale", "; ".join(keys.explain(done["parts"], parts) + lost), done["seconds"]
        if (failure := record(folder, FAILURE)) and failure["key"] == key:
            return "failed", failure["why"], None
        if base := record(self.base / run.stage / run.folder):
            return "missing", "; ".join(keys.explain(base["parts"], parts)), None
        if begun := record(folder, "state.json"):
            changed = "its code or settings changed since"
            return (
                "missing",
                f"interrupted; {changed if begun['key'] != key else 'goes on where it stopped'}",
                None,
            )
        return "missing", "", None

    def claim(self) -> None:
        """Note whose store this is; raises `S3EError` if it is that of another data folder of the
        same name.
        """
        mark = self.root / "data.json"
        owner = read_json(mark) if mark.is_file() else self.data
        if owner != self.data and Path(owner).is_dir():
            raise S3EError(
                f"{self.root} holds the runs of {owner}, not of {self.data}: rename one of the two,"
                " or set S3E_RUNS and S3E_FIGURES."
            )
        write_json(mark, self.data)

    def foreign(self, run: Instance) -> dict[str, Path]:
        """Folders of the finished runs of other studies that `run` reads, by name.

        "semantics:<run>": vocabulary, tree and captioner of `semantics_from`, for data without
        captions; "texture control:<run>": this study with `data.texture=random`, for 07 and 08,
        where it is finished. Raises `S3EError` if the data lack captions and there is no study to
        take them from, or if it does not fit the settings.
        """
        if (
            run.stage in ("07_evaluation", DRAWS)
            and self.data == "scenes"
            and self.config.data.texture == "category"
        ):
            changed = {**self.overrides, "data.texture": "random"}
            control = Study(self.config.profile, overrides=changed, notebooks=self.notebooks)
            runs = (
                [graph.variant_run(*pair) for pair in self.selection]
                if control.root.is_dir()
                else []
            )
            found = {f"texture control:{other}": control.find(other) for other in runs}
            return {name: path for name, path in found.items() if path}
        if self.captioned or self.why_skipped(run):
            return {}
        store, profile, needed = (
            self.config.semantics_from,
            self.config.profile,
            graph.borrowed(run),
        )
        if needed and not store:
            raise S3EError(
                f"{self.data} has no captions to train the tree of '{run.variant}': run a study"
                f" that has (python run_all.py --profile {profile}) and name its store"
                f" (--semantics-from runs/{profile})."
            )
        if (
            store and run.stage == "01_data_blurring"
        ):  # images that the tree was trained on are taken out
            needed = [run]
        found = {f"semantics:{other}": Path(store) / other.stage / other.folder for other in needed}
        for folder in found.values():
            self._check_lent(folder)
        return found

    def _check_lent(self, folder: Path) -> None:
        done, profile, number = record(folder), self.config.profile, folder.parent.name[:2]
        if done is None or done["skipped"] or lost_files(folder, done):
            seeds = f" --seeds {folder.name[1:]}" if folder.name != "all" else ""
            raise S3EError(
                f"semantics_from: {folder} is not a finished run of a study with captions: run that"
                f" study (python run_all.py --profile {profile}{seeds} --until {number}), or name"
                " another store."
            )
        theirs, ours = (
            read_json(folder / "params.json")["config"],
            self.config.model_dump(mode="json"),
        )
        for section, name in (field.split(".") for field in AGREE):
            value, own = json.dumps(theirs[section][name]), json.dumps(ours[section][name])
            if value != own:
                raise S3EError(
                    f"semantics_from: {section}.{name} is {value} in {folder} and {own} here: "
                    f"--set '{section}.{name}={value}'."
                )

    def command(self, *words: str) -> str:
        """The command line that runs this study."""
        command = ["python", "run_all.py", "--profile", self.config.profile]
        command += [] if self.data == "scenes" else ["--data", self.data]
        for name, value in self.overrides.items():
            command += ["--set", f"{name}={json.dumps(value)}"]
        return shlex.join([*command, *words])


class Card(dict[str, str]):
    """A run card: rows of name and value, shown whole (a data frame would cut long paths)."""

    def __repr__(self) -> str:
        return "\n".join(f"{name:18}{value}" for name, value in self.items())


class Run:
    """One run of a stage: `config`, `path` (its folder), `stage`, `variant`, `seed`, `resumed`,
    `study`, ...

    `kind`, `captioned`: see `Study`; `why_skipped`: why this notebook can do nothing on these data,
    or ""; `skipped`: {upstream run: why it was skipped}.
    """

    def __init__(self, instance: Instance, study: Study, seed: int):
        self._instance, self.study, self.config, self.path = (
            instance,
            study,
            study.config,
            study.folder(instance),
        )
        self.stage, self.variant, self.seed = instance.stage, instance.variant, seed
        self.kind, self.captioned, self.selection = study.kind, study.captioned, study.selection
        self.why_skipped, self._foreign = study.why_skipped(instance), study.foreign(instance)
        self._upstream = {other: study.find(other) for other in study.upstream(instance)}
        for other, path in self._upstream.items():
            if path is None:
                state, why, _ = study.state(other)
                why = f" ({why})" if why else ""
                words = ["--until", other.stage.split("_")[0]]
                words += ["--seeds", str(other.seed)] if other.seed >= 0 else []
                words += ["--variants", other.variant] if other.variant else []
                raise S3EError(
                    f"{instance} needs {other}, which is {state}{why}: open"
                    f" notebooks/{other.stage}.ipynb, or: {study.command(*words)}."
                )
        self.skipped = {
            str(o): why for o, path in self._upstream.items() if (why := record(path)["skipped"])
        }

    def _hold(self) -> None:
        def busy(owner: str) -> None:
            print(
                f"{self._instance} is in use by process {owner}: waiting until that ends ...",
                flush=True,
            )

        if self.path not in _HELD:
            _HELD[self.path] = utils.lock_file(self.path / ".lock", busy)

    def begin(self, resume: bool) -> None:
        """Take the run's lock and withdraw an older result; files of an interrupted run with the
        same key stay.
        """
        self.study.claim()
        self._hold()
        self._parts, self._key = self.study.parts(self._instance), self.study.key(self._instance)
        for name in ("done.json", FAILURE):
            (self.path / name).unlink(missing_ok=True)
        begun = record(self.path, "state.json")
        self.resumed = bool(resume and begun and begun["key"] == self._key)
        (self.path / "state.json").unlink(
            missing_ok=True
        )  # first: a half-cleared folder must not be resumed
        for path in [path for path in self.path.iterdir() if path.name not in KEPT]:
            if path.is_dir() and not self.resumed:
                shutil.rmtree(path)
            elif not self.resumed or path.match(".*.*"):  # half-written files of a killed run
                path.unlink()
        write_json(self.path / "state.json", {"key": self._key})
        self._started = time.time()

    @property
    def figures_name(self) -> str:
        """Folder for this study's figures: a choice of variants or seeds that is not the profile's
        has its own.

        So have overrides, and a profile on other data than those that the folder named by the
        profile shows already.
        """
        config, store = self.config, self.study.root.name
        if self.selection != graph.select(config):
            return f"{store}+{keys.digest(self.selection)[:8]}"
        if self.study.overrides or not config.figures:
            return store
        about = record(FIGURES / config.figures, "manifest.json")
        shown = about and (about["profile"], about["data"]["source"])
        return (
            config.figures
            if shown in (None, (config.profile, Path(self.study.data).name))
            else store
        )

    @property
    def outputs(self) -> tuple[str, ...]:
        """The files that this run must leave in its folder."""
        return graph.outputs(self.stage, self.kind, self.config.blur.severity)

    @property
    def borrowed(self) -> str:
        """That the data have no captions, and whose tree and captioner are used; "" where they
        have.
        """
        lender = Path(self.config.semantics_from).name
        whose = f": tree and captioner are those of {lender}" if lender else ""
        return "" if self.captioned else f"these data have no captions{whose}"

    @property
    def vocabulary(self) -> Path | None:
        """Folder of the run of 01 whose words and labels count: this study's, or that of
        `semantics_from`.
        """
        return self._semantics(Instance("01_data_blurring"))

    @property
    def captioner(self) -> Path | None:
        """Folder of the run of 03 that tree and captioner start from; None where this run starts
        without.
        """
        return self._semantics(Instance("03_train_captioner", seed=self.seed))

    def _semantics(self, other: Instance) -> Path | None:
        return (
            self._upstream.get(other) if self.captioned else self._foreign.get(f"semantics:{other}")
        )

    def texture_control(self) -> list[Path]:
        """Folders of the finished trainings of the texture control (variants on random textures);
        [] without one.
        """
        return [path for name, path in self._foreign.items() if name.startswith("texture control:")]

    def upstream(self, stage: str) -> Path:
        """Folder of the finished run of `stage` that belongs to this run (same seed)."""
        name = graph.stage_named(stage).name
        runs = [other for other in self._upstream if other.stage == name]
        if len(runs) != 1:
            raise S3EError(
                f"{self._instance} reads {len(runs)} runs of {name}, not one: see"
                " run.upstream_runs."
            )
        if why := self.skipped.get(str(runs[0])):
            raise S3EError(f"{runs[0]} was skipped: {why}")
        return self._upstream[runs[0]]

    def upstream_runs(self, stage: str) -> list[Path]:
        """Folders of all finished runs of `stage` that this run reads, without skipped ones (those:
        `run.skipped`).
        """
        name = graph.stage_named(stage).name
        found = {other: path for other, path in self._upstream.items() if other.stage == name}
        return [path for other, path in found.items() if str(other) not in self.skipped]

    def card(self) -> Card:
        """What runs, with what, for how long, and where its files go."""
        runtime, profile = self.config.runtime, self.config.profile
        minutes = graph.spoken(graph.expected_minutes(self._instance, profile))
        rows = {
            "run": f"{self._instance}{' (resumed)' if self.resumed else ''}",
            "profile": self.study.root.name,
            "what": STAGES[self.stage].what,
            "device, threads": f"{runtime.device}, {runtime.threads}",
            "precision": "" if runtime.precision == "32" else runtime.precision,
            "devices": "" if runtime.devices == 1 else str(runtime.devices),
            "expected time": minutes if graph.minutes(profile) else "not measured",
            "files go to": _short(self.path),
            "source notebook": _short(self.study.notebooks / f"{self.stage}.ipynb"),
            "fallback": "; ".join(self.config.fallbacks()),
            "semantics from": self.config.semantics_from,
            "note": (
                "smoke shows that everything runs; its numbers mean nothing" * (profile == "smoke")
            ),
        }
        return Card({name: text for name, text in rows.items() if text})

    def skip(self, reason: str) -> None:
        """Finish without results because the data lack something: ends the notebook here and tells
        downstream why.
        """
        self._write({}, [], reason)
        print(f"{self._instance} skipped: {reason}")
        raise SystemExit(0)  # stops "run all" and papermill at this cell, without an error

    def finish(self, metrics: dict[str, float], outputs: Iterable[str | Path] = ()) -> None:
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
        metrics = {
            name: value if isinstance(value, int) else float(value)
            for name, value in metrics.items()
        }
        self._write(metrics, [*self.outputs, *outputs], "")
        print(
            f"{self._instance} finished after {time.time() - self._started:.0f} s:"
            f" {_short(self.path)}"
        )

    def _write(
        self, metrics: dict[str, float], outputs: Iterable[str | Path], skipped: str
    ) -> None:
        self._hold()  # again, if the last cell is run a second time
        files = {}
        for path in (self.path / name for name in outputs):
            if not path.is_file() or not path.stat().st_size:
                wrong = "empty" if path.is_file() else "missing"
                raise S3EError(
                    f"the declared output {path} is {wrong}: run the notebook from the top."
                )
            name = os.path.relpath(path.resolve(), self.path.resolve())
            files[name] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        about = {
            "stage": self.stage,
            "variant": self.variant,
            "seed": self.seed,
            "selection": self.selection,
        }
        settings = {
            "overrides": self.study.overrides,
            "config": self.config.model_dump(mode="json"),
        }
        write_json(self.path / "metrics.json", metrics)
        write_json(self.path / "params.json", about | settings)
        seconds = round(time.time() - self._started, 1)
        origin = provenance(self.config, self._parts, self._started)
        write_json(self.path / "provenance.json", {"key": self._key, **origin})
        done = {
            "key": self._key,
            "parts": self._parts,
            "outputs": files,
            "seconds": seconds,
            "skipped": skipped,
        }
        write_json(self.path / "done.json", done)
        _HELD.pop(self.path).close()


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def provenance(config: Config, parts: dict[str, Any], started: float) -> dict[str, Any]:
    """Everything one wants to know about a result later: source, packages, machine, times, memory,
    what it read.
    """
    git = [
        "git",
        "--no-optional-locks",
        "-C",
        str(ROOT),
        "describe",
        "--always",
        "--dirty",
        "--exclude=*",
        "--abbrev=40",
    ]
    commit, memory, runtime = "", None, config.runtime
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip()
    with contextlib.suppress(ImportError):  # on Windows
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        memory = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)
    torch = sys.modules.get("torch")  # a stage that did not import it computed without a GPU
    on_gpu = runtime.device != "cpu" and torch is not None and torch.cuda.is_available()
    return {
        "commit": commit.removesuffix("-dirty") or "unknown",
        "dirty": commit.endswith("-dirty"),
        "code": parts["code"],
        "upstream": parts["upstream"],
        "data": {"source": config.data.source, "fingerprint": parts["data"]},
        "python": platform.python_version(),
        "executable": sys.executable,
        "packages": {name: version(name) for name in PACKAGES},
        "platform": platform.platform(),
        **runtime.model_dump(include={"device", "devices", "precision", "threads"}),
        "device_name": torch.cuda.get_device_name(torch.device(runtime.device)) if on_gpu else "",
        "seed": config.seed,
        "peak_memory_mib": memory,
        "started": _moment(started),
        "ended": _moment(time.time()),
    }


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def open_run(
    stage: str,
    *,
    variant: str = "",
    seed: int = 0,
    resume: bool = True,
    profile: str = "laptop",
    **settings: Any,
) -> Run:
    """Begin (or go on with) the run of a notebook.

    Checks the config and that everything upstream is finished, takes the run's lock, withdraws an
    older result, keeps the files of an interrupted run only if nothing that it depends on has
    changed, and fixes the thread count. `settings`: those of `Study` (data, overrides, variants,
    seeds, run_dir). Raises `S3EError` with the remedy.
    """
    keys.forget()
    study = Study(profile, seed=seed, **settings)
    run = Run(graph.instance(graph.stage_named(stage).name, variant, seed), study, seed)
    run.begin(resume)
    trains = "runtime" in STAGES[run.stage].fields
    utils.set_threads(study.config.runtime.threads, torch=trains)
    return run
