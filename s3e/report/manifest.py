"""Which maker drew each file from which runs: `manifest.json`, the provenance of a folder of figures."""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from s3e.config import Config
from s3e.paths import read_json, write_json
from s3e.report.style import save


def config_hash(config: Config) -> str:
    """Sixteen hex digits of the resolved settings; of data folders only the names count, so that machines agree."""
    settings = config.model_dump(mode="json")
    for section, name in (
        ("data", "source"),
        ("data", "captioned"),
        ("loss", "vgg19_weights"),
        ("model", "encoder_weights"),
    ):
        settings[section][name] = Path(settings[section][name]).name
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def context(config: Config) -> str:
    """One sentence for every table: profile, data, training length and which image losses were on."""
    source = "built-in scenes" if config.data.source == "scenes" else Path(config.data.source).name
    texture = ", textures drawn by lot" if config.data.texture == "random" else ""
    terms = [name for name in ("perceptual", "pixel") if getattr(config.loss.effective, name)]
    missing = "" if config.loss.effective.perceptual else " (no perceptual loss: it needs VGG19 weights)"
    missing += "".join(f"; {told}" for told in config.fallbacks() if "VGG19" not in told)
    return (
        f"Profile {config.profile}: {source} at {config.data.size} px{texture}, {config.blur.severity} training blur, "
        f"{config.train_b.updates} + "
        f"{config.train_c.updates} updates, {config.loss.gan.upper()} with {' and '.join(terms)} loss{missing}."
    )


class Manifest:
    """Collects the files of one figures folder; `evaluation` is the finished run of notebook 07 that they rest on."""

    def __init__(self, folder: Path | str, config: Config, evaluation: Path):
        origin = read_json(evaluation / "provenance.json")
        self.folder, self.files = Path(folder), {}
        self.about: dict[str, Any] = {
            "profile": config.profile,
            "config_hash": config_hash(config),
            "source_commit": origin["commit"],
            "source_dirty": origin["dirty"],
            "data": {**origin["data"], "source": Path(origin["data"]["source"]).name},
        }

    def draw(self, name: str, maker: Callable[..., Figure], runs: Iterable[Path], *inputs: Any, **settings: Any) -> Any:
        """Draw a figure, save it as `<name>.png` and `.pdf`, note it, and return it for display."""
        from IPython.display import Image

        paths = save(maker(*inputs, **settings), self.folder, name)
        self.add(paths, maker, runs)
        return Image(filename=str(paths[0]), width=770)

    def add(self, paths: Iterable[Path], maker: Any, runs: Iterable[Path]) -> None:
        """Note that `maker` (a function) made `paths` from `runs` (folders `<store>/<stage>/<run>`)."""
        runs = list(runs)
        facts = {
            "maker": f"{maker.__module__}.{maker.__name__}",
            "notebook": "notebooks/08_figures_and_tables.ipynb",
            "runs": [f"{run.parent.name}/{run.name}" for run in runs],
            "seeds": sorted({int(run.name.rpartition("s")[2]) for run in runs if run.name != "all"}),
        }
        for path in paths:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            self.files[path.name] = {**facts, "sha256": digest, "bytes": path.stat().st_size}

    def write(self) -> Path:
        """Write `manifest.json`; files of an older manifest that were not made this time are removed."""
        path = self.folder / "manifest.json"
        before = read_json(path)["files"] if path.exists() else {}
        for name in set(before) - set(self.files):
            (self.folder / name).unlink(missing_ok=True)
        write_json(path, {**self.about, "files": self.files})
        return path
