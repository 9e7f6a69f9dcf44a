"""Where each file of a folder of figures comes from: `manifest.json`, and the same in the file's own metadata."""

import hashlib
import inspect
import json
import platform
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from s3e.config import Config
from s3e.evaluation.collect import describe
from s3e.pipeline import graph, keys, minutes
from s3e.report.style import save
from s3e.utils import S3EError, atomic_write, read_json, write_json

NAME = "manifest.json"
KINDS = (".png", ".pdf", ".csv", ".md", ".tex")  # what a folder of figures holds
COMMENTS = {
    ".md": "<!-- origin: {} -->",
    ".tex": "% origin: {}",
}  # CSV has no comments: there the manifest must do
PUBLIC = (
    "The data must not be published, so pictures are of scikit-image's public-domain photographs (astronaut, chelsea, "
    "coffee, rocket), which are in no split; what people or a captioner say of the data's photos is left out."
)
PAIR = (("baseline", 0), ("full", 0))  # arms that between them rest on every training stage


def settings(config: Config) -> dict[str, Any]:
    """The resolved settings; of data folders and weights only the names, so that machines agree."""
    found = config.model_dump(mode="json")
    for section, name in (
        ("data", "source"),
        ("data", "captioned"),
        ("loss", "vgg19_weights"),
        ("model", "encoder_weights"),
    ):
        found[section][name] = Path(found[section][name]).name
    return found


def config_hash(config: Config) -> str:
    """Sixteen hex digits of the resolved settings."""
    return keys.digest(settings(config))[:16]


def context(config: Config) -> str:
    """One sentence for every table: profile, data, training length and which image losses were on."""
    source = "built-in scenes" if config.data.source == "scenes" else Path(config.data.source).name
    texture = ", textures drawn by lot" if config.data.texture == "random" else ""
    loss = config.loss.effective
    terms = [
        f"{name} ({getattr(loss, name):g})"
        for name in ("perceptual", "pixel")
        if getattr(loss, name)
    ]
    missing = "" if loss.perceptual else " (no perceptual loss: it needs VGG19 weights)"
    missing += "".join(f"; {told}" for told in config.fallbacks() if "VGG19" not in told)
    taught = sum(part.steps for part in (config.train_tree, config.train_a1, config.train_a2))
    return (
        f"Profile {config.profile}: {source} at {config.data.size} px{texture}, {config.blur.severity} training blur, "
        f"{config.train_b.steps} + {config.train_c.steps} steps of the deblurrer (tree and captioner, where they "
        f"are taught, {taught:,} before), {loss.gan.upper()} ({loss.adversarial:g}) with {' and '.join(terms)} "
        f"loss{missing}; weights in brackets; dropout {config.model.dropout:g}."
    )


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def python() -> str:
    """The Python whose syntax trees the code's hashes are of, such as "3.11"."""
    return ".".join(platform.python_version_tuple()[:2])


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of figures; raises `S3EError` where there is none."""
    if not (folder / NAME).is_file():
        raise S3EError(
            f"{folder} has no {NAME}: name a folder that notebook 08 wrote, or run python run_all.py first."
        )
    return read_json(folder / NAME)


def stages_behind(runs: Iterable[Path]) -> list[str]:
    """The stages whose code made these runs (`<store>/<stage>/<run>`) and all that they read, and the one that draws.

    A run of 06b to 08 counts as resting on every training stage.
    """
    waiting, seen = [_instance(run) for run in runs], set()
    while waiting:
        run = waiting.pop()
        if run not in seen:
            seen.add(run)
            waiting += graph.upstream(run.own, PAIR)
    return sorted({keys.DRAWS, *(run.stage for run in seen)})


def _instance(run: Path) -> graph.Instance:
    if run.name == "all":
        return graph.Instance(run.parent.name)
    known = describe(run)
    return graph.Instance(known.stage, known.variant, known.seed)


def code_of(stages: Iterable[str]) -> dict[str, str]:
    """Hashes of every module and notebook behind these stages as they are now, by name (`s3e.pipeline.keys`)."""
    return {name: value for stage in stages for name, value in keys.code_parts(stage).items()}


class Manifest:
    """Collects the files of one figures folder; `evaluation` is the finished run of notebook 07 that they rest on.

    `corpus`: the run of 01, which knows the fingerprint of a data folder.

    A notebook can only open runs that are fresh, so the code as it is now is the code that made them.
    """

    def __init__(
        self, folder: Path | str, config: Config, evaluation: Path, corpus: Path | None = None
    ):
        origin = read_json(evaluation / "provenance.json")
        data = read_json((corpus or evaluation) / "provenance.json")["data"]
        self.folder, self.files = Path(folder), {}
        self.runs, self.store = {evaluation}, evaluation.parents[1]
        self.about: dict[str, Any] = {
            "profile": config.profile,
            "config_hash": config_hash(config),
            "source_commit": origin["commit"],
            "source_dirty": origin["dirty"],
            "data": {**data, "source": Path(data["source"]).name},
        }
        self.told = {
            "context": context(config),
            "settings": settings(config),
            "store": evaluation.parents[1].name,
        }
        self.told |= {"pictures": PUBLIC} if config.pictures == "public" else {}

    def draw(
        self,
        name: str,
        maker: Callable[..., Figure],
        runs: Iterable[Path],
        *inputs: Any,
        **settings: Any,
    ) -> Any:
        """Draw a figure, save it as `<name>.png` and `.pdf`, note it, and return it for display."""
        from IPython.display import Image

        runs = list(runs)
        paths = save(
            maker(*inputs, **settings), self.folder, name, self._origin(self._facts(maker, runs))
        )
        self.add(paths, maker, runs)
        return Image(filename=str(paths[0]), width=770)

    def add(self, paths: Iterable[Path], maker: Any, runs: Iterable[Path]) -> None:
        """Note that `maker` (a function) made `paths` from `runs` (folders `<store>/<stage>/<run>`).

        Markdown and LaTeX get the note as their last line.
        """
        runs = list(runs)
        self.runs.update(runs)
        facts = self._facts(maker, runs)
        for path in paths:
            if path.suffix in COMMENTS:
                _stamp(path, COMMENTS[path.suffix].format(self._origin(facts)))
            self.files[path.name] = {
                **facts,
                "sha256": file_digest(path),
                "bytes": path.stat().st_size,
            }

    def _facts(self, maker: Any, runs: list[Path]) -> dict[str, Any]:
        return {
            "maker": f"{maker.__module__}.{maker.__name__}",
            "about": (inspect.getdoc(maker) or maker.__name__).splitlines()[0],
            "notebook": f"notebooks/{keys.DRAWS}.ipynb",
            "runs": [self._named(run) for run in runs],
            "seeds": sorted(
                {int(run.name.rpartition("s")[2]) for run in runs if run.name != "all"}
            ),
            "stages": stages_behind(runs),
        }

    def _named(self, run: Path) -> str:
        """Stage and run; in front its store, where that is another one than the study's (that of the falsifier)."""
        store, name = run.parents[1].name, f"{run.parent.name}/{run.name}"
        return name if store == self.told["store"] else f"{store}/{name}"

    def _origin(self, facts: dict[str, Any]) -> str:
        """What a file tells about itself: one line of JSON; `code` is one hash of all that its stages rest on."""
        own = {name: facts[name] for name in ("maker", "notebook", "runs", "seeds")}
        return json.dumps(
            {**self.about, **own, "code": keys.digest(code_of(facts["stages"]))[:16]},
            sort_keys=True,
        )

    def write(self) -> Path:
        """Write `manifest.json`; files of an older manifest that were not made this time are removed."""
        path = self.folder / NAME
        before = read_json(path)["files"] if path.exists() else {}
        for name in set(before) - set(self.files):
            (self.folder / name).unlink(missing_ok=True)
        code = code_of(
            sorted({stage for facts in self.files.values() for stage in facts["stages"]})
        )
        told = {**self.about, **self.told, "spent": spent(self.runs, minutes.at_a_time(self.store))}
        write_json(path, {**told, "python": python(), "code": code, "files": self.files})
        return path


def spent(runs: Iterable[Path], at_a_time: int) -> dict[str, Any]:
    """What these runs cost: finished `notebooks`, `hours` (their sum), `devices`, `threads`, and how many at a time."""
    done = [run for run in runs if (run / "done.json").is_file()]
    seconds = [read_json(run / "done.json")["seconds"] for run in done]
    origins = [read_json(run / "provenance.json") for run in done]
    devices = sorted({origin["device_name"] or origin["device"] for origin in origins})
    threads = max((origin["threads"] for origin in origins), default=0)
    hours = round(sum(seconds) / 3600, 1)
    return {
        "notebooks": len(done),
        "hours": hours,
        "devices": devices,
        "threads": threads,
        "at_a_time": at_a_time,
    }


def _stamp(path: Path, line: str) -> None:
    """Make `line` the last line of a text file, in place of an older one of its kind."""
    text = without_origin(path.read_text(encoding="utf-8"))
    with atomic_write(path) as temporary:
        temporary.write_text(f"{text}\n{line}\n", encoding="utf-8")


def without_origin(text: str) -> str:
    """A Markdown or LaTeX file's text without the line that says where it comes from."""
    return re.sub(r"\n+(?:<!--|%) origin: .*\n*\Z", "\n", text)
