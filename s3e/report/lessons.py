"""What makes the notebooks a course: lines of the library shown where they are taught, a map of the course, its state.

Notebooks call `code` in cells tagged `lesson`, which only show and therefore do not count for freshness keys.
"""

import ast
import json
import os
import platform
import re
import shutil
from html import escape
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from pygments.style import Style
from pygments.token import Comment, Keyword, Name, Number, Operator, String

from s3e import utils
from s3e.config import Config, load_config
from s3e.pipeline import graph, machine, minutes
from s3e.pipeline.lending import data_folder, open_study, settled
from s3e.utils import NOTEBOOKS, ROOT, RUNS, S3EError

PACKAGE = Path(__file__).parents[1]
BOX = (
    "border:1px solid var(--jp-border-color2,#ddd);border-left:3px solid #0072B2;"
    "background:var(--jp-cell-editor-background,#f7f7f7);color:var(--jp-content-font-color1,#222);"
    "max-width:100%;box-sizing:border-box;overflow-x:auto;padding:0.3em 0.8em;margin:0 0 0.4em 0"
)
PLACE = "font-size:85%;color:var(--jp-ui-font-color2,#666);font-family:var(--jp-ui-font-family,sans-serif)"
LINES = (
    "margin:0.3em 0 0 0;padding:0;background:transparent;color:inherit;white-space:pre;line-height:1.35;"
    "font-size:var(--jp-code-font-size,13px);font-family:var(--jp-code-font-family,monospace)"
)


class Theme(Style):
    """JupyterLab's own colours of code, light or dark; outside of it those of a light page."""

    styles = {
        Keyword: "bold var(--jp-mirror-editor-keyword-color,#008000)",
        Operator.Word: "bold var(--jp-mirror-editor-keyword-color,#008000)",
        Name.Builtin: "var(--jp-mirror-editor-builtin-color,#008000)",
        Name.Function: "var(--jp-mirror-editor-def-color,#0000ff)",
        Name.Class: "var(--jp-mirror-editor-def-color,#0000ff)",
        Name.Decorator: "var(--jp-mirror-editor-meta-color,#7a3e9d)",
        Number: "var(--jp-mirror-editor-number-color,#006644)",
        String: "var(--jp-mirror-editor-string-color,#a31515)",
        Comment: "italic var(--jp-mirror-editor-comment-color,#3c6e6e)",
    }


class Lines:
    """Pieces of files, each a (place, text); a notebook shows them highlighted, all else as plain text."""

    def __init__(self, *pieces: tuple[str, str]):
        self.pieces = pieces

    def __repr__(self) -> str:
        return "\n\n".join(f"{place}\n\n{text}" for place, text in self.pieces)

    def _repr_html_(self) -> str:
        return "".join(_box(place, text) for place, text in self.pieces)


def _box(place: str, text: str) -> str:
    lines = highlight(text, PythonLexer(), HtmlFormatter(style=Theme, noclasses=True, nowrap=True))
    head = f'<div style="{PLACE}">{escape(place)}</div>'
    return f'<div style="{BOX}">{head}<pre style="{LINES}">{lines}</pre></div>'


def code(*names: str, start: str = "", stop: str = "") -> Lines:
    """The source of functions, methods, classes or constants of the library as it stands in their files.

    `names`: dotted, e.g. "s3e.models.tree.S3Tree.forward"; functions inside functions have names too. `start`, `stop`:
    only from the first line that contains `start` to the next one that contains `stop`. Nothing is imported. Raises
    `S3EError` for a name or a line that is not there.
    """
    return Lines(*(_piece(name, start, stop) for name in names))


def _piece(name: str, start: str, stop: str) -> tuple[str, str]:
    path, words = _module(name)
    source = path.read_text(encoding="utf-8")
    node: ast.AST = ast.parse(source)
    for word in words:
        node = _child(node, word, name, path)
    first, last = (
        min([node.lineno, *(item.lineno for item in getattr(node, "decorator_list", []))]),
        node.end_lineno,
    )
    lines = source.splitlines()
    first = _line(lines, start, first, last, name)
    last = _line(lines, stop, first, last, name) if stop else last
    numbers = f"line {first}" if first == last else f"lines {first}-{last}"
    return f"{path.relative_to(PACKAGE.parent)}, {numbers}", dedent(
        "\n".join(lines[first - 1 : last])
    )


def _module(name: str) -> tuple[Path, list[str]]:
    """The file of the longest module in a dotted name, and the words that name something inside it."""
    words = name.split(".")
    for length in range(len(words) - 1, 1, -1):
        path = PACKAGE.parent.joinpath(*words[:length]).with_suffix(".py")
        if words[0] == PACKAGE.name and path.is_file():
            return path, words[length:]
    raise S3EError(
        f"'{name}' names nothing in a module of s3e: write it like 's3e.models.tree.S3Tree.forward'."
    )


def _child(node: ast.AST, word: str, name: str, path: Path) -> ast.AST:
    found = {label: child for child in getattr(node, "body", []) for label in _labels(child)}
    if word not in found:
        raise S3EError(
            f"'{name}': {path.name} has no '{word}' there; it has {', '.join(found) or 'no names'}."
        )
    return found[word]


def _labels(node: ast.AST) -> list[str]:
    """The names that a statement defines."""
    targets = [*getattr(node, "targets", []), getattr(node, "target", None)]
    names = [item.id for item in targets if isinstance(item, ast.Name)]
    return [node.name] if hasattr(node, "name") else names


def _line(lines: list[str], text: str, first: int, last: int, name: str) -> int:
    found = next((number for number in range(first, last + 1) if text in lines[number - 1]), None)
    if found is None:
        raise S3EError(
            f"'{name}' has no line with '{text}' between lines {first} and {last}: mend the lesson."
        )
    return found


def table(frame: pd.DataFrame) -> Styler:
    """A frame of words as a notebook should show it: nothing is cut, all is aligned to the left."""
    left = [
        {
            "selector": "th, td",
            "props": "text-align: left; vertical-align: top; white-space: normal",
        }
    ]
    return frame.style.set_table_styles(left)


def course() -> pd.DataFrame:
    """The notebooks in order, each with the question of its first cell and its measured time by profile."""
    rows = {}
    for stage in graph.STAGES:
        question = re.search(r"^\*([^*\n]+)\*", _first_cell(stage), re.M)
        times = {profile: _time(stage, profile) for profile in minutes.PROFILES}
        rows[stage] = {"question": question[1] if question else "", **times}
    return pd.DataFrame.from_dict(rows, orient="index")


def _first_cell(stage: str) -> str:
    book = json.loads((NOTEBOOKS / f"{stage}.ipynb").read_text(encoding="utf-8"))
    return "".join(book["cells"][0]["source"])


def _time(stage: str, profile: str) -> str:
    times = minutes.seconds(profile)
    return minutes.spoken(times[stage]) if stage in times else minutes.NOT_MEASURED


def state(
    profile: str, data: str = "scenes", overrides: dict[str, Any] | None = None
) -> pd.DataFrame:
    """What is finished of a study: a row a notebook with how many `runs` it has, their `state`, and `why`.

    Nothing is run and no result is read but the runs' records. Raises `S3EError` for settings that cannot be used.
    """
    overrides = settled(overrides) or {}
    config = load_config(profile, data_folder(data), 0, overrides)
    selection = graph.select(config)
    keys, store = open_study(config, overrides, selection)
    runs = graph.plan(selection, keys.captioned, keys.falsifier)
    found = pd.DataFrame([(run.stage, *store.state(run, keys.parts(run))[:2]) for run in runs])
    rows = {stage: _summary(part[1], part[2]) for stage, part in found.groupby(0)}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["runs", "state", "why"])


def _summary(states: pd.Series, reasons: pd.Series) -> tuple[int, str, str]:
    """Number of runs, their state in words, and the first reason (with how many more there are)."""
    counts = states.value_counts()
    told = (
        counts.index[0]
        if len(counts) == 1
        else ", ".join(f"{count} {word}" for word, count in counts.items())
    )
    first, *more = next((reason for reason in reasons if reason), "").split("; ")
    return len(states), told, first + f" (and {len(more)} more)" * bool(more)


def results(name: str = "") -> str:
    """What a committed study found, in the sentences of its report; one line where it is not committed.

    `name`: its folder below `figures/`; "" for the study on scenes.
    """
    from s3e.report import manifest, readme, summary

    folder = ROOT / "figures" / name if name else ROOT / readme.source()
    if not (folder / manifest.NAME).is_file():
        return f"{folder} is not there: run the study, then notebook 08 draws it."
    return "\n".join(f"- {sentence}" for sentence in summary.findings(folder))


def environment(config: Config) -> pd.DataFrame:
    """What the suite finds on this machine, and what that means for a study with these settings."""
    from s3e.evaluation.captions import find_java

    runtime, store = config.runtime, next(path for path in (RUNS, *RUNS.parents) if path.is_dir())
    jobs = max(1, utils.cores() // (runtime.threads * runtime.devices))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    rows = {
        "Python": (platform.python_version(), "3.11 or newer is needed"),
        "PyTorch": (
            version("torch"),
            f"a notebook computes on {runtime.device} with {runtime.threads} thread(s)",
        ),
        "cores": (
            f"{utils.cores()}",
            f"without a GPU, run_all.py runs {jobs} notebook(s) at a time",
        ),
        "memory": (f"{memory / 2**30:.1f} GiB", "4 GiB are enough for smoke, laptop and study"),
        "free disk": (
            f"{shutil.disk_usage(store).free / 1e9:.0f} GB",
            "laptop takes 0.3 GB of it, study 2 GB",
        ),
        "GPUs": (f"{len(machine.gpus())}", "none is needed"),
        "Java": ("found" if find_java() else "none", "for METEOR alone, which else says 'not run'"),
        "ipywidgets": (
            "found" if find_spec("ipywidgets") else "none",
            "for the moving parts of notebook 09",
        ),
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["here", "what it means"])
