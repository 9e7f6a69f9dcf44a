"""Where each file of a folder of figures comes from (`manifest.json`), the check of it, its report,
and the lessons.

`python -m s3e report check|build|fill` and the notebooks call these.
"""

import inspect
import json
import platform
import pydoc
import re
import shutil
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from typing import Any

import nbformat
import pandas as pd
from matplotlib.figure import Figure

from s3e.config import PROFILES, Config, load_config
from s3e.pipeline import graph, keys
from s3e.pipeline.study import Study
from s3e.report import tables
from s3e.report.style import save
from s3e.utils import (
    FIGURES,
    NOTEBOOKS,
    ROOT,
    RUNS,
    S3EError,
    atomic_write,
    cores,
    digest,
    file_digest,
    read_json,
    write_json,
)

NAME, REPORT = "manifest.json", "report.html"
PUBLISHED = ("study", "photos")  # folders of figures that are committed (see .gitignore)
COMMENTS = {
    ".md": "<!-- origin: {} -->",
    ".tex": "% origin: {}",
}  # CSV has none: there the manifest must do
KINDS = (".png", ".pdf", ".csv", *COMMENTS)  # what a folder of figures holds
PUBLIC = (
    "The data must not be published, so images are of scikit-image's public-domain photographs"
    " (astronaut, chelsea, coffee, rocket), which are in no split; captions of the data's photos"
    " are left out."
)
BLOCK = re.compile(r"(<!-- results: (\S+)/(\S+) -->\n).*?(<!-- end -->)", re.S)
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>S3E-Deblur: {title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ margin: 0 auto; padding: 1rem; max-width: 68rem; font: 1rem/1.5 system-ui, sans-serif }}
img {{ max-width: min(100%, 48rem); background: #fff }}
table {{ display: block; overflow-x: auto; border-collapse: collapse; font-size: .875rem }}
th, td {{ padding: .3rem .7rem; border-bottom: 1px solid #8886; vertical-align: top }}
.anchor-link {{ display: none }}
</style>
{body}
</html>
"""


# --------------------------------------------------------------------------------------- provenance


def settings(config: Config) -> dict[str, Any]:
    """The resolved settings; of data folders and weights only the names, so that machines agree."""
    found = config.model_dump(mode="json")
    for section, name in (("data", "source"), ("loss", "vgg19_weights")):
        found[section][name] = Path(found[section][name]).name
    return found


def context(config: Config) -> str:
    """One sentence for every table: profile, data, training length and which image losses were
    on.
    """
    source = "built-in scenes" if config.data.source == "scenes" else Path(config.data.source).name
    texture = ", random textures" if config.data.texture == "random" else ""
    loss, names = config.loss.effective, ("perceptual", "pixel")
    terms = [f"{name} ({getattr(loss, name):g})" for name in names if getattr(loss, name)]
    missing = "" if loss.perceptual else " (no perceptual loss: it needs VGG19 weights)"
    missing += "".join(f"; {text}" for text in config.fallbacks() if "VGG19" not in text)
    before = sum(part.steps for part in (config.train_tree, config.train_a1, config.train_a2))
    return (
        f"Profile {config.profile}: {source} at {config.data.size} px{texture},"
        f" {config.blur.severity} training blur, {config.train_b.steps} + {config.train_c.steps}"
        f" steps of the deblurrer (tree and captioner, where they are trained, {before:,} before),"
        f" {loss.gan.upper()} ({loss.adversarial:g}) with {' and '.join(terms)} loss{missing};"
        f" weights in brackets; dropout {config.model.dropout:g}."
    )


def python() -> str:
    """The Python whose syntax trees the code's hashes are of, such as "3.11"."""
    return platform.python_version().rpartition(".")[0]


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of figures; raises `S3EError` where there is none."""
    if not (folder / NAME).is_file():
        raise S3EError(
            f"{folder} has no {NAME}: name a folder that notebook 08 wrote, or run python"
            " run_all.py first."
        )
    return read_json(folder / NAME)


def code_of(stages: Iterable[str]) -> dict[str, str]:
    """Hashes of every module and notebook behind these stages as they are now, by name
    (`s3e.pipeline.keys`).
    """
    known = [stage for stage in stages if stage in graph.STAGES]
    return {name: value for stage in known for name, value in keys.code_parts(stage).items()}


class Manifest:
    """Collects the files of one figures folder; `evaluation` is the finished run of notebook 07
    that they rest on.

    `corpus`: the run of 01, which knows the fingerprint of a data folder. A notebook can only open
    runs that are fresh, so the code as it is now is the code that made them.
    """

    def __init__(self, folder: Path | str, config: Config, evaluation: Path, corpus: Path):
        origin = read_json(evaluation / "provenance.json")
        data = read_json(corpus / "provenance.json")["data"]
        self.folder, self.files, self.runs = Path(folder), {}, {evaluation}
        self.store = evaluation.parents[1].name
        self.about: dict[str, Any] = {
            "profile": config.profile,
            "config_hash": digest(settings(config))[:16],
            "source_commit": origin["commit"],
            "source_dirty": origin["dirty"],
            "data": {**data, "source": Path(data["source"]).name},
        }
        self.more = {
            "context": context(config),
            "settings": settings(config),
            "store": self.store,
            "pictures": PUBLIC if config.pictures == "public" else "",
        }

    def draw(
        self, name: str, maker: Callable[..., Figure], runs: Iterable[Path], *inputs, **settings
    ) -> Any:
        """Draw a figure, save it as `<name>.png` and `.pdf`, note it, and return it for display."""
        from IPython.display import Image

        runs = list(runs)
        figure, facts = maker(*inputs, **settings), self._facts(maker, runs)
        paths = save(figure, self.folder, name, self._origin(facts))
        self.add(paths, maker, runs)
        return Image(filename=str(paths[0]), width=770)

    def add(self, paths: Iterable[Path], maker: Any, runs: Iterable[Path]) -> None:
        """Note that `maker` (a function) made `paths` from `runs` (folders
        `<store>/<stage>/<run>`).

        Markdown and LaTeX get the note as their last line.
        """
        runs = list(runs)
        self.runs.update(runs)
        facts = self._facts(maker, runs)
        for path in paths:
            if path.suffix in COMMENTS:
                line = COMMENTS[path.suffix].format(self._origin(facts))
                _write(path, f"{path.read_text(encoding='utf-8')}\n{line}\n")
            size = path.stat().st_size
            self.files[path.name] = {**facts, "sha256": file_digest(path), "bytes": size}

    def _facts(self, maker: Any, runs: list[Path]) -> dict[str, Any]:
        names = [f"{run.parent.name}/{run.name}" for run in runs]
        other = [run.parents[1].name for run in runs]  # than this store, for the texture control
        stages = list(graph.STAGES)
        last = max(stages.index(run.parent.name) for run in runs)
        return {
            "maker": f"{maker.__module__}.{maker.__name__}",
            "about": (inspect.getdoc(maker) or maker.__name__).splitlines()[0],
            "notebook": f"notebooks/{graph.DRAWS}.ipynb",
            "runs": [
                run if store == self.store else f"{store}/{run}"
                for run, store in zip(names, other, strict=True)
            ],
            "seeds": sorted({int(run.rpartition("s")[2]) for run in names if run[-4:] != "/all"}),
            "stages": [*stages[1 : last + 1], graph.DRAWS],
        }

    def _origin(self, facts: dict[str, Any]) -> str:
        """What a file notes about itself: one line of JSON; `code` is one hash of all that its
        stages rest on.
        """
        own = {name: facts[name] for name in ("maker", "notebook", "runs", "seeds")}
        code = digest(code_of(facts["stages"]))[:16]
        return json.dumps({**self.about, **own, "code": code}, sort_keys=True)

    def write(self) -> Path:
        """Write `manifest.json`; files of an older manifest that were not made this time are
        removed.
        """
        path = self.folder / NAME
        before = read_json(path)["files"] if path.exists() else {}
        for name in set(before) - set(self.files):
            (self.folder / name).unlink(missing_ok=True)
        code = code_of({stage for facts in self.files.values() for stage in facts["stages"]})
        made = {"spent": spent(self.runs), "python": python(), "code": code, "files": self.files}
        write_json(path, {**self.about, **self.more, **made})
        return path


def spent(runs: Iterable[Path]) -> dict[str, Any]:
    """What these runs cost: finished `notebooks`, `hours` (their sum), `devices` and `threads`."""
    done = [run for run in runs if (run / "done.json").is_file()]
    seconds = sum(read_json(run / "done.json")["seconds"] for run in done)
    origins = [read_json(run / "provenance.json") for run in done]
    return {
        "notebooks": len(done),
        "hours": round(seconds / 3600, 1),
        "devices": sorted({origin["device_name"] or origin["device"] for origin in origins}),
        "threads": max((origin["threads"] for origin in origins), default=0),
    }


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


# -------------------------------------------------------------------------------------------- check


def check(folders: Iterable[Path] = (), strict: bool = False) -> int:
    """Print what is wrong with folders of figures (default: the published ones and the documents
    that show them).

    Returns 0; 1 if a file was edited or is missing (`strict`: also if older code or settings made
    it). Needs the folders and the sources alone, no `runs/`. Raises `S3EError` for a folder without
    a manifest.
    """
    chosen = list(folders) or [
        FIGURES / name for name in PUBLISHED if (FIGURES / name / NAME).is_file()
    ]
    if not chosen:
        raise S3EError(
            f"{FIGURES} holds no published figures: name a folder, or run python run_all.py first."
        )
    wrong = [line for folder in chosen for line in broken(folder)]
    if not folders:
        for path, text in filled().items():
            wrong += [
                f"{path}: its results are not those of figures/ (python -m s3e report fill)"
            ] * (text != path.read_text(encoding="utf-8"))
    old = [line for folder in chosen for line in older(folder)]
    print(*wrong, *old, sep="\n")
    names, again = ", ".join(map(str, chosen)), " (python run_all.py makes them again)" * bool(old)
    print(f"{names}: {len(wrong)} edited or missing, {len(old)} made by older code{again}")
    return int(bool(wrong or (strict and old)))


def configure(parser: Any) -> None:
    """Arguments of `check`."""
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--strict", action="store_true")


def execute(arguments: Any) -> int:
    """Run `check`."""
    return check(arguments.folders, arguments.strict)


def broken(folder: Path) -> Iterator[str]:
    """Files that are not as they were made, are gone, or have no entry."""
    files = read_manifest(folder)["files"]
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            yield f"{path}: missing"
        elif file_digest(path) != entry["sha256"]:
            yield f"{path}: edited since {entry['maker']} made it"
    for path in sorted(folder.iterdir()):
        if path.suffix in KINDS and path.name[0] != "." and path.name not in files:
            yield f"{path}: not in {NAME}, so nobody knows what made it"


def older(folder: Path) -> Iterator[str]:
    """Files that rest on code which has changed since, with the modules; settings of the profile
    that have changed.
    """
    manifest = read_manifest(folder)
    if manifest["python"] != python():
        yield (
            f"{folder / NAME}: code was hashed by Python {manifest['python']}, which {python()}"
            " cannot compare"
        )
        return
    if changed := _changed_settings(folder, manifest):
        yield f"{folder / NAME}: settings of the profile changed since: {_listed(changed)}"
    for name, entry in manifest["files"].items():
        now, then = code_of(entry["stages"]), manifest["code"]
        if changed := [module for module in now if then.get(module) != now[module]]:
            yield f"{folder / name}: made by older code ({_listed(changed)} changed since)"


def _changed_settings(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Settings that the profile has changed since; none are known of a folder with overrides or
    data of its own.
    """
    profile = PROFILES.get(manifest["profile"], {})
    if folder.resolve().name != (profile.get("figures") or manifest["profile"]) or not profile:
        return []
    photos = (
        profile.get("data", {}).get("source") == ""
    )  # any folder: of the data only the name is known
    now = settings(load_config(manifest["profile"], str(ROOT) if photos else "scenes"))
    both = [pd.json_normalize(found).iloc[0].to_dict() for found in (manifest["settings"], now)]
    skip = "data.source" if photos else ""
    return [
        f"{name} {both[0].get(name)} -> {both[1].get(name)}"
        for name in both[0] | both[1]
        if not name.startswith("runtime.")
        and name != skip
        and both[0].get(name) != both[1].get(name)
    ]


def _listed(names: list[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


# ----------------------------------------------------------------------- results in other documents


def results(name: str, what: str) -> str:
    """Markdown of what a committed study found; one line where it is not committed.

    `name`: its folder below `figures/`; `what`: "findings", "headline" (at most four of them),
    "setting" (data, training and cost) or a table's name.
    """
    folder = ROOT / "figures" / name
    if not (folder / NAME).is_file():
        return f"figures/{name} is not there: run the study, then notebook 08 draws it."
    if what in ("findings", "headline"):
        return "\n".join(f"- {text}" for text in tables.findings(folder, what == "headline"))
    if what == "setting":
        manifest = read_manifest(folder)
        cost = manifest["spent"]
        return (
            f"{manifest['context']} Hardware: {' and '.join(cost['devices'])}, {cost['threads']}"
            f" thread(s) a notebook; the {cost['notebooks']} notebooks behind the figures took"
            f" {cost['hours']} hours, one after the other (of what was interrupted, the last"
            " attempt)."
        )
    return _table(folder / f"{what}.md")


def _table(path: Path) -> str:
    """A table's Markdown without the line that says where it comes from."""
    if not path.is_file():
        raise S3EError(f"{path} is missing: restore it, or draw the folder again with notebook 08.")
    return re.sub(r"\n+<!-- origin: .*\n*\Z", "", path.read_text(encoding="utf-8"))


def filled() -> dict[Path, str]:
    """README.md and docs/*.md with their blocks `<!-- results: FOLDER/WHAT -->...<!-- end -->`
    renewed from figures/.
    """
    texts = {}
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text(encoding="utf-8")
        texts[path] = BLOCK.sub(lambda m: f"{m[1]}\n{results(m[2], m[3])}\n\n{m[4]}", text)
    return texts


def fill() -> int:
    """Write `filled` documents; returns 0."""
    for path, text in filled().items():
        _write(path, text)
        print(f"{path}: {len(BLOCK.findall(text))} block(s)")
    return 0


def build(folder: Path | str) -> Path:
    """Write `report.html` into a folder of figures: findings, tables and figures in one file that
    needs nothing else.

    Made from the folder's files alone by nbconvert's `basic` template. Raises `S3EError` for a file
    that is missing.
    """
    from nbconvert import HTMLExporter

    folder = Path(folder)
    manifest = read_manifest(folder)
    found = "\n".join(f"- {text}" for text in tables.findings(folder))
    title = f"the study “{manifest['profile']}”"
    cells = [f"# S3E-Deblur: {title}\n\n{manifest['context']}\n\n## What was found\n\n{found}"]
    files = sorted(manifest["files"], key=lambda name: (len(name.partition("_")[0]), name))
    cells += ["## Tables", *(_table(folder / name) for name in files if name.endswith(".md"))]
    cells.append(f"## Figures\n\n{manifest.get('pictures', '')}")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text) for text in cells])
    for name in (name for name in files if name.endswith(".png")):
        entry, path = manifest["files"][name], folder / name
        if not path.is_file():
            raise S3EError(
                f"{path} is missing: restore it, or draw the folder again with notebook 08."
            )
        text = f"![{entry['about']}](attachment:{name})\n\n`{name}`: {entry['about']}"
        cell = nbformat.v4.new_markdown_cell(text)
        cell.attachments = {name: {"image/png": b64encode(path.read_bytes()).decode()}}
        book.cells.append(cell)
    about = ("source_commit", "config_hash", "data")
    facts = "\n".join(f"- {name}: `{manifest[name]}`" for name in about)
    origin = f"## Where it comes from\n\n{facts}\n- every file's maker, runs and hash: `{NAME}`"
    book.cells.append(nbformat.v4.new_markdown_cell(origin))
    for number, cell in enumerate(book.cells):
        cell.id = f"cell{number}"
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(book)
    _write(folder / REPORT, PAGE.format(title=title, body=body))
    return folder / REPORT


# ------------------------------------------------------------------------------------------ lessons


def show_source(*names: str) -> Any:
    """The source of functions, methods or classes of the library, as Markdown that a notebook
    shows.

    `names`: dotted, e.g. "s3e.models.tree.S3Tree.forward". Raises `S3EError` for a name that is not
    there.
    """
    from IPython.display import Markdown

    parts = []
    for name in names:
        found = pydoc.locate(name)
        if not callable(found):
            raise S3EError(
                f"'{name}' is no function or class: write it like 's3e.models.tree.S3Tree.forward'."
            )
        found = inspect.unwrap(found)
        lines, first = inspect.getsourcelines(found)
        place = Path(inspect.getsourcefile(found)).relative_to(ROOT)
        where = f"`{place.as_posix()}`, lines {first}-{first + len(lines) - 1}"
        parts.append(f"{where}\n\n```python\n{dedent(''.join(lines))}```")
    return Markdown("\n\n".join(parts))


def course() -> pd.DataFrame:
    """The notebooks in order, each with the question of its first cell and its measured minutes by
    profile.
    """
    rows = {}
    for stage in graph.STAGES:
        first = read_json(NOTEBOOKS / f"{stage}.ipynb")["cells"][0]["source"]
        question = re.search(r"^\*([^*\n]+)\*", "".join(first), re.M)
        known = {name: times for name in PROFILES if (times := graph.minutes(name))}
        times = {name: graph.spoken(times[stage]) for name, times in known.items()}
        rows[stage] = {"question": question[1] if question else "", **times}
    return pd.DataFrame.from_dict(rows, orient="index")


def state(
    profile: str, data: str = "scenes", overrides: dict[str, Any] | None = None
) -> pd.DataFrame:
    """What is finished of a study: a row a notebook with how many `runs` it has, their `state`, and
    the first `why`.

    Nothing is run and no result is read but the runs' records. Raises `S3EError` for settings that
    cannot be used.
    """
    study = Study(profile, data, overrides)
    rows: dict[str, list] = {}
    for run in study.runs:
        rows.setdefault(run.stage, []).append(run.state()[:2])
    found = {}
    for stage, states in rows.items():
        counts = pd.Series([name for name, _ in states]).value_counts()
        names = [f"{count} {name}" for name, count in counts.items()]
        why = next((reason for _, reason in states if reason), "")
        found[stage] = {"runs": len(states), "state": ", ".join(names), "why": why}
    return pd.DataFrame.from_dict(found, orient="index")


def environment(config: Config) -> pd.DataFrame:
    """What the suite finds on this machine, and what that means for a study with these settings."""
    from s3e.evaluation.captions import find_java

    runtime, store = config.runtime, next(path for path in (RUNS, *RUNS.parents) if path.is_dir())
    jobs = max(1, cores() // (runtime.threads * runtime.devices))
    free = shutil.disk_usage(store).free / 1e9
    java, widgets = ("found" if here else "none" for here in (find_java(), find_spec("ipywidgets")))
    computes = f"a notebook computes on {runtime.device} with {runtime.threads} thread(s)"
    rows = {
        "Python": (platform.python_version(), "3.11 or newer is needed"),
        "PyTorch": (version("torch"), computes),
        "cores": (f"{cores()}", f"without a GPU, run_all.py runs {jobs} notebook(s) at a time"),
        "free disk": (f"{free:.0f} GB", "laptop takes 0.3 GB of it, study 2 GB"),
        "Java": (java, "for METEOR alone, which else is “not run”"),
        "ipywidgets": (widgets, "for the moving parts of notebook 09"),
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["here", "what it means"])
