"""Freshness keys: a stage runs again when its code, its settings, its data or what it reads changed, and not else.

Code is compared as a syntax tree without comments and docstrings, settings field by field, files by their contents;
`explain` says which part changed.
"""

import ast
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import s3e
from s3e import utils
from s3e.blur import TRANSFORMS
from s3e.config import Config
from s3e.data.readers import layout, walk
from s3e.pipeline import graph
from s3e.pipeline.graph import CAPTIONED, DRAWS, EXPLORES, Instance, Selection
from s3e.utils import NOTEBOOKS, S3EError, file_digest, read_json, write_json

PACKAGE = Path(s3e.__file__).parent
LEFT_OUT = ("s3e.config", "s3e.utils", "s3e.pipeline")  # their values count; they compute nothing
WEIGHTS = ("loss.vgg19_weights", "model.encoder_weights")  # settings that name a file
LARGE = 2**30  # bytes to read from which the user is informed
SETTLED = 2 * 10**9  # ns: a file younger than this may yet change within one tick of a coarse clock


def digest(value: Any) -> str:
    """SHA-256 of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class _Strip(ast.NodeTransformer):
    """Drop docstrings and other bare strings: they compute nothing."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        bare = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return ast.copy_location(ast.Pass(), node) if bare else node


def code_digest(source: str, name: str) -> str:
    """Hash of Python source by its meaning: comments, layout and docstrings do not count."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise S3EError(f"{name}, line {error.lineno}: {error.msg}; mend it first.") from None
    return hashlib.sha256(ast.unparse(_Strip().visit(tree)).encode()).hexdigest()


@cache
def _cells(path: Path) -> list[tuple[str, set[str]]]:
    """Source without line magics, and tags, of a notebook's code cells."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError):
        raise S3EError(
            f"{path} is missing or is not a notebook: restore it from the repository."
        ) from None
    found = []
    for cell in cells:
        if cell["cell_type"] == "code":
            lines = "".join(cell["source"]).splitlines()
            source = "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))
            found.append((source, set(cell.get("metadata", {}).get("tags", []))))
    return found


def notebook_parameters(path: Path) -> tuple[str, ...]:
    """The names that a notebook's parameters cell assigns."""
    source = "\n".join(source for source, tags in _cells(path) if "parameters" in tags)
    names = []
    for node in ast.parse(source).body:
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return tuple(names)


def _module_file(module: str) -> Path | None:
    base = PACKAGE.parent.joinpath(*module.split("."))
    files = (base / "__init__.py", base.with_suffix(".py"))
    return next((path for path in files if path.is_file()), None)


def _imports(source: str, module: str = "", package: bool = False) -> set[str]:
    """Names of `s3e` modules that a source imports, wherever in the source, with their parent packages."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            above = parts[: len(parts) - node.level + package] if node.level else []
            base = ".".join([*above, node.module] if node.module else above)
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    found = {".".join(name.split(".")[:n]) for name in found for n in range(1, name.count(".") + 2)}
    return {name for name in found if name.startswith("s3e.") and _module_file(name)}


@cache
def _module(name: str) -> tuple[dict[str, str], set[str]]:
    """Hashes of a module and of the data files beside it, and the modules that it imports."""
    path = _module_file(name)
    source = path.read_text(encoding="utf-8")
    parts = {name: code_digest(source, str(path))}
    if path.parent != PACKAGE:  # those at the top are profiles, whose values count
        beside = [item for item in path.parent.glob("[!.]*.*") if item.suffix not in (".py", ".md")]
        parts |= {item.relative_to(PACKAGE.parent).as_posix(): file_digest(item) for item in beside}
    return parts, _imports(source, name, path.name == "__init__.py")


@cache
def code_parts(stage: str, notebooks: Path = NOTEBOOKS) -> dict[str, str]:
    """Hashes of the notebook, of every `s3e` module in its import closure and of the data files beside these, by name.

    Of the notebook its parameters and its lessons (they only show code) do not count. Modules that draw count for the
    notebook of figures alone.
    """
    path = notebooks / f"{stage}.ipynb"
    cells = [
        text
        for text, tags in _cells(path)
        if not tags & {"parameters", "injected-parameters", "lesson"}
    ]
    source = "\n".join(cells)
    parts = {f"notebooks/{stage}.ipynb": code_digest(source, str(path))}
    skipped = LEFT_OUT if stage == DRAWS else (*LEFT_OUT, "s3e.report")
    waiting = _imports(source)
    while waiting:
        name = waiting.pop()
        if name not in parts and not any(f"{name}.".startswith(f"{item}.") for item in skipped):
            found, more = _module(name)
            parts |= found
            waiting |= more
    return parts


def forget() -> None:
    """Read notebooks and modules again: somebody may have edited them."""
    for function in (_cells, _module, code_parts):
        function.cache_clear()


def data_kind(source: str) -> str:
    """What a data source is, by its file names alone: "scenes", "coco", "karpathy", "gopro" or "folder"."""
    if source == "scenes":
        return source
    root = Path(source)
    return layout(root)


def data_fingerprint(source: str) -> str | None:
    """Hash of the names and contents of a data folder's files, alike for every copy; None for built-in scenes.

    Raises `S3EError` for a folder that cannot be read.
    """
    if source == "scenes":
        return None
    root = Path(source)
    files = (place / name for place, names in walk(root).files.items() for name in names)
    return digest(file_digests(root, files))


def file_digests(root: Path, files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of each file, by its path below `root`; links to nothing are left out, unreadable files are "".

    What was read is remembered by size and date in `runs/cache/files-<folder>-<hash>.json`, which may be deleted.
    """
    name = digest(str(root.resolve()))[:8]
    record = utils.RUNS / "cache" / f"files-{root.resolve().name}-{name}.json"
    try:
        known = read_json(record)
    except (S3EError, OSError):
        known = {}
    stamps = {os.path.relpath(path, root): _stamp(path) for path in files if path.exists()}
    new = [name for name, stamp in stamps.items() if known.get(name, [])[:2] != stamp]
    total = sum(stamps[name][0] for name in new)
    if total >= LARGE:
        print(
            f"reading {len(new):,} files of {root} once ({total / 2**30:.1f} GiB) for their hashes"
        )
    begun = time.time_ns()
    with ThreadPoolExecutor(utils.cores()) as pool:
        contents = pool.map(_content, (root / name for name in new))
    known |= {name: [*stamps[name], content] for name, content in zip(new, contents, strict=True)}
    if new:
        kept = {name: row for name, row in known.items() if row[2] and row[1] < begun - SETTLED}
        try:
            write_json(record, kept)
        except OSError:  # a folder that cannot be written: read again next time
            pass
    return {name: known[name][2] for name in stamps}


def _stamp(path: Path) -> list[int]:
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


def _content(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError:  # the readers name it if they need it
        return ""


def _contents(root: Path, files: Iterable[Path]) -> str:
    """Hash of files, byte by byte, and of their places below `root`."""
    found = {path.relative_to(root).as_posix(): file_digest(path) for path in files}
    return digest(found)


def source_digest() -> str:
    """Hash of the package and the notebooks, byte by byte: machines that differ there must not mix."""
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return digest([_contents(PACKAGE, files), _contents(NOTEBOOKS, NOTEBOOKS.glob("*.ipynb"))])


def tools(stage: str) -> dict[str, str]:
    """What a stage uses beyond code and data: Java, the library of the blur's transforms, demonstration weights."""
    if stage == EXPLORES:
        folder = PACKAGE / "weights"
        weights = [path for path in folder.glob("[!.]*.*") if path.suffix != ".md"]
        return {"tools": f"weights {_contents(folder, weights)[:12]}"}
    if stage == "01_data_blurring":
        return {"tools": f"transforms by {TRANSFORMS}"}
    if stage != "07_evaluation":
        return {}
    from s3e.evaluation.captions import find_java

    return {"tools": "Java" if find_java() else "no Java"}


def _setting(name: str, value: Any) -> Any:
    """A setting as it stands in a key: of a file of weights its content, wherever it lies."""
    if name not in WEIGHTS or not value or not Path(value).is_file():
        return value
    path = Path(value)
    return f"SHA-256 {file_digests(path.parent, [path])[path.name]}"


class Keys:
    """The keys of all runs of one study, computed from sources alone.

    `foreign`: gives the folders of what a run reads from other studies, by name (see `s3e.pipeline.store.foreign`).
    """

    def __init__(self, config: Config, selection: Selection, notebooks: Path = NOTEBOOKS):
        self.config, self.selection, self.notebooks = config, selection, notebooks
        self.foreign: Callable[[Instance], dict[str, Path]] = lambda run: {}
        self._parts: dict[Instance, dict[str, Any]] = {}

    @cached_property
    def kind(self) -> str:
        """What the data are: "scenes", "coco", "karpathy", "gopro" or "folder"."""
        return data_kind(self.config.data.source)

    @property
    def captioned(self) -> bool:
        """Whether the data can teach a tree and a captioner."""
        return self.kind in CAPTIONED

    def upstream(self, run: Instance) -> list[Instance]:
        """The runs of this study that `run` reads."""
        return graph.upstream(run, self.selection, self.captioned)

    def parts(self, run: Instance) -> dict[str, Any]:
        """What the key of `run` is made of: code, settings, data, and the keys of what it reads."""
        if run not in self._parts:
            settings = graph.fields(run, self.config)
            before = {str(other): self.key(other) for other in self.upstream(run)}
            before |= {
                name: read_json(path / "done.json")["key"]
                for name, path in self.foreign(run).items()
            }
            self._parts[run] = {
                "stage": str(run),
                "code": code_parts(run.stage, self.notebooks),
                "settings": {name: _setting(name, value) for name, value in settings.items()},
                "data": self._fingerprint if run.stage == "01_data_blurring" else None,
                "upstream": before,
            } | tools(run.stage)
        return self._parts[run]

    def key(self, run: Instance) -> str:
        """The key of a run: equal keys mean equal results."""
        return digest(self.parts(run))

    @cached_property
    def _fingerprint(self) -> str | None:
        return data_fingerprint(self.config.data.source)


def explain(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Why two keys differ: changed modules, settings with both values, data, upstream runs."""
    reasons = [f"code of {name} changed" for name in _changed(old["code"], new["code"])]
    for name in _changed(old["settings"], new["settings"]):
        before, now = (json.dumps(parts["settings"].get(name, "none")) for parts in (old, new))
        reasons.append(f"{name} {before} -> {now}")
    if old["data"] != new["data"]:
        reasons.append("the data folder changed")
    if old.get("tools") != new.get("tools"):
        reasons.append(f"there was {old.get('tools')}, now there is {new.get('tools')}")
    return reasons + [f"upstream {name}" for name in _changed(old["upstream"], new["upstream"])]


def _changed(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    missing = object()
    names = sorted({*old, *new})
    return [name for name in names if old.get(name, missing) != new.get(name, missing)]
