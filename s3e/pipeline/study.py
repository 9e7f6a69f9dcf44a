"""One study: a profile with its data, overrides, variants and seeds; which of its runs are due."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from s3e.config import Config
from s3e.data.prepare import plan
from s3e.data.readers import open_source
from s3e.pipeline import graph, keys
from s3e.pipeline.folders import Store
from s3e.pipeline.graph import Instance
from s3e.pipeline.keys import Keys
from s3e.pipeline.lending import OVERRIDES
from s3e.utils import FIGURES, NOTEBOOKS, S3EError, atomic_write

COMMON = (
    "profile",
    "data",
    "seed",
    "run_dir",
    "overrides",
    "resume",
)  # parameters of every notebook


@dataclasses.dataclass
class Study:
    """One profile with its data, overrides, variants and seeds; what is to run, and where."""

    arguments: argparse.Namespace
    overrides: dict[str, Any]
    config: Config
    keys: Keys
    store: Store
    runs: list[Instance]

    def state(self, run: Instance) -> tuple[str, str, float | None]:
        """(state, why, last seconds) of a run; see `Store.state`."""
        return self.store.state(run, self.keys.parts(run))

    def done(self, run: Instance) -> bool:
        """True if the run is finished with its present key."""
        return self.store.find(run, self.keys.key(run)) is not None

    def forced(self, run: Instance) -> bool:
        """True if the run is to start from scratch; those of another study are left alone."""
        return self.arguments.force and not run.of

    def skipped(self, run: Instance) -> str:
        """Why the notebook of `run` will only say that it is skipped; "" if it works."""
        return graph.why_skipped(run, self.keys.kind)

    def minutes(self, run: Instance) -> float:
        """Expected minutes of a run; see `graph.expected_minutes`."""
        return graph.expected_minutes(
            Instance("00_start_here") if self.skipped(run) else run, self.config.profile
        )

    def folders(self, waiting: list[Instance]) -> list[Path]:
        """The folders that these runs write into."""
        others = [
            self.store.others[name].root
            for name in dict.fromkeys(run.of for run in waiting if run.of)
        ]
        draws = any(run.stage == keys.DRAWS for run in waiting)
        return [self.store.root, *others, *([FIGURES] if draws else [])]

    def inputs(self) -> list[Path]:
        """Folders of data and files of weights that the notebooks read from outside the store."""
        configs = [self.keys.config, *(item.config for item in self.keys.others.values())]
        sources = [Path(config.data.source) for config in configs if config.data.source != "scenes"]
        return sources + [path for config in configs for path in weight_files(config)]

    def parameters(self, run: Instance) -> dict[str, Any]:
        """Papermill parameters of a run's notebook; refuses names that the notebook does not declare."""
        arguments, data, overrides = self.arguments, self.arguments.data, self.overrides
        if run.of:
            data = self.config.data.captioned if run.of == "captioned" else data
            overrides = OVERRIDES[run.of](overrides)
        values = (arguments.profile, data, max(run.seed, 0), "", overrides, not self.forced(run))
        own: dict[str, Any] = {"variant": run.variant} if run.stage == "06_ablation" else {}
        if "06a" < run.stage < keys.EXPLORES:  # those that read many arms
            own = {"variants": arguments.variants, "seeds": arguments.seeds}
        chosen = dict(zip(COMMON, values, strict=True)) | own
        known = keys.notebook_parameters(NOTEBOOKS / f"{run.stage}.ipynb")
        unknown = [name for name in chosen if name not in known]
        if unknown:
            raise S3EError(
                f"notebooks/{run.stage}.ipynb has no parameter '{unknown[0]}': add it to its parameters cell."
            )
        return chosen


def due(study: Study) -> list[Instance]:
    """The chosen runs that are not fresh; raises `S3EError` if one needs something that is neither fresh nor chosen."""
    waiting = [run for run in study.runs if study.forced(run) or not study.done(run)]
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


def check_writable(study: Study, waiting: list[Instance]) -> None:
    """Raise `S3EError` if results or figures cannot be written."""
    study.store.claim(study.config.data.source)
    for folder in study.folders(waiting):
        try:
            with atomic_write(folder / ".writable") as path:
                path.write_text("x")
            (folder / ".writable").unlink(missing_ok=True)
        except OSError as error:
            raise S3EError(
                f"{folder} cannot be written ({error.strerror}): free it, or set S3E_RUNS and S3E_FIGURES."
            ) from None
