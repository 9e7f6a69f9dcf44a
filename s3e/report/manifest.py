"""Where each figure and table comes from (`manifest.json`), the check of it, and lessons.

`python -m s3e report check|fill` and the notebooks call these.
"""

import inspect
import pydoc
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

from matplotlib.figure import Figure

from s3e.config import Config
from s3e.pipeline import graph, keys
from s3e.report.style import save
from s3e.report.tables import WORDS
from s3e.utils import FIGURES, ROOT, S3EError, file_digest, read_json, write_file

NAME, FINDINGS = "manifest.json", "findings.json"
PUBLISHED = ("study", "photos")  # folders of figures that are committed (see .gitignore)
PUBLIC = (
    "The data must not be published, so images are of scikit-image's public-domain photographs"
    " (astronaut, chelsea, coffee, rocket), which are in no split; captions of the data's photos"
    " are left out."
)
BLOCK = re.compile(r"(<!-- results: (\S+)/(\S+) -->\n).*?(<!-- end -->)", re.S)


def context(config: Config) -> str:
    """One sentence for every table: profile, data, training length and image losses."""
    source = "built-in scenes" if config.data.source == "scenes" else Path(config.data.source).name
    texture = ", random textures" * (config.data.texture == "random")
    loss = config.loss
    terms = [f"{name} ({getattr(loss, name):g})" for name in ("perceptual", "pixel")]
    before = sum(part.steps for part in (config.train_tree, config.train_a1, config.train_a2))
    return (
        f"Profile {config.profile}: {source} at {config.data.size} px{texture},"
        f" {config.blur.severity} training blur, {config.train_b.steps} + {config.train_c.steps}"
        f" steps of the deblurrer (tree and captioner, where they are trained, {before:,} before),"
        f" {loss.gan.upper()} ({loss.adversarial:g}) with {' and '.join(terms)} loss, weights in"
        f" brackets; {''.join(f'{text}; ' for text in config.about_weights())}dropout"
        f" {config.model.dropout:g}."
    )


# ----------------------------------------------------------------------------------------- manifest


class Manifest:
    """Collects the files of one folder of figures.

    `evaluation`: the run of notebook 07 that they rest on; `corpus`: the run of 01, which knows the
    fingerprint of a data folder.
    """

    def __init__(self, folder: Path | str, config: Config, evaluation: Path, corpus: Path):
        origin = read_json(evaluation / "provenance.json")
        data = read_json(corpus / "provenance.json")["data"]
        self.folder, self.files = Path(folder), {}
        self.about = {
            "profile": config.profile,
            "context": context(config),
            "settings": config.model_dump(
                mode="json",
                exclude={"data": {"source"}, "loss": {"vgg19_weights"}, "model": {"pretrained"}},
            ),
            "pictures": PUBLIC if config.pictures == "public" else "",
            "source_commit": origin["commit"],
            "source_dirty": origin["dirty"],
            "data": {**data, "source": Path(data["source"]).name},
        }

    def draw(
        self, name: str, maker: Callable[..., Figure], runs: Iterable[Path], *inputs, **settings
    ) -> Any:
        """Draw a figure, save it as `<name>.png` and `.pdf`, note it, and return it for display."""
        from IPython.display import Image

        paths = save(maker(*inputs, **settings), self.folder, name)
        self.add(paths, inspect.getdoc(maker).splitlines()[0], runs)
        return Image(filename=str(paths[0]), width=770)

    def add(self, paths: Iterable[Path], about: str, runs: Iterable[Path]) -> None:
        """Note what `paths` show and the runs (folders `<store>/<stage>/<run>`) they come from."""
        names = ["/".join(run.parts[-3:]) for run in runs]
        for path in paths:
            self.files[path.name] = {"about": about, "runs": names, "sha256": file_digest(path)}

    def write(self) -> Path:
        """Write `manifest.json`; files of an older one that were not made this time are removed."""
        path = self.folder / NAME
        before = read_json(path)["files"] if path.exists() else {}
        for name in set(before) - set(self.files):
            (self.folder / name).unlink(missing_ok=True)
        write_file(path, {**self.about, "files": self.files})
        return path


# -------------------------------------------------------------------------------------------- check


def check(folders: Iterable[Path] = ()) -> int:
    """Print what is wrong with folders of figures; returns 1 if a file was edited or is missing.

    Default: the published folders and the documents that show them. Needs no `runs/`. Raises
    `S3EError` for a folder without a manifest.
    """
    published = [FIGURES / name for name in PUBLISHED]
    chosen = list(folders) or [folder for folder in published if (folder / NAME).is_file()]
    if not chosen:
        raise S3EError(
            f"{FIGURES} holds no published figures: name a folder, or run python run_all.py first."
        )
    wrong = [line for folder in chosen for line in compare(folder)]
    for path, text in {} if folders else filled():
        if text != path.read_text(encoding="utf-8"):
            remedy = "python -m s3e report fill"
            wrong.append(f"{path}: its results are not those of figures/ ({remedy})")
    print(*wrong, f"{', '.join(map(str, chosen))}: {len(wrong)} edited or missing", sep="\n")
    return int(bool(wrong))


def compare(folder: Path) -> list[str]:
    """What is wrong with a folder: files that were edited, are gone or that nobody knows."""
    if not (folder / NAME).is_file():
        raise S3EError(
            f"{folder} has no {NAME}: name a folder that notebook 08 wrote, or run python"
            " run_all.py first."
        )
    wrong, entries = [], read_json(folder / NAME)["files"]
    for name, entry in entries.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{path}: missing")
        elif file_digest(path) != entry["sha256"]:
            wrong.append(f"{path}: edited since it was made")
    for path in sorted(folder.glob("[!.]*")):
        if path.name not in (NAME, FINDINGS, *entries):
            wrong.append(f"{path}: not in {NAME}, so nobody knows what made it")
    return wrong


# ---------------------------------------------------------------------------- results in documents


def results(name: Path | str, what: str) -> str:
    """Markdown of what a study found; one line where it is not there.

    `name`: its folder below `figures/`, or a path; `what`: "findings", "headline" (a few of them)
    or a table's name.
    """
    folder = ROOT / "figures" / name
    if not (folder / NAME).is_file():
        return f"figures/{name} is not there: run the study, then notebook 08 draws it."
    if what in ("findings", "headline"):
        first = [item["topic"] for item in WORDS["findings"] if "headline" in item]
        found = read_json(folder / FINDINGS)
        return "\n".join(f"- {text}" for name, text in found if what != "headline" or name in first)
    path = folder / f"{what}.md"
    if not path.is_file():
        raise S3EError(f"{path} is missing: restore it, or draw the folder again with notebook 08.")
    table = path.read_text(encoding="utf-8")
    return table.partition("\n\n<!-- origin")[0]  # how tables from before December 2026 end


def filled() -> Iterator[tuple[Path, str]]:
    """README.md and docs/*.md with the text of their `<!-- results: FOLDER/WHAT -->` renewed.

    Raises `S3EError` outside a clone of the repository.
    """
    keys.notebook_parameters(graph.DRAWS)  # raises outside the repository
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text(encoding="utf-8")
        yield path, BLOCK.sub(lambda m: f"{m[1]}\n{results(m[2], m[3])}\n\n{m[4]}", text)


def fill() -> int:
    """Write `filled` documents; returns 0."""
    for path, text in filled():
        write_file(path, text)
        print(f"{path}: {len(BLOCK.findall(text))} block(s)")
    return 0


# ------------------------------------------------------------------------------------------ lessons


def show_source(*names: str) -> Any:
    """The source of functions, methods or classes of the library, for a notebook to show.

    `names`: dotted, e.g. "s3e.models.tree.S3Tree.forward".
    """
    from IPython.display import Markdown

    parts = []
    for name in names:
        found = inspect.unwrap(pydoc.locate(name))
        lines, first = inspect.getsourcelines(found)
        where = f"`{found.__module__}`, lines {first}-{first + len(lines) - 1}"
        parts.append(f"{where}\n\n```python\n{dedent(''.join(lines))}```")
    return Markdown("\n\n".join(parts))
