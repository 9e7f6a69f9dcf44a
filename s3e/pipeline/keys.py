"""Freshness keys: a stage runs again when its code, its settings, its data or what it reads
changed, and not else.

Code is compared as a syntax tree without comments and docstrings, settings field by field, files by
their contents; `explain` says which part changed.
"""

import ast
import hashlib
import json
from functools import cache
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

import s3e
from s3e.blur import TRANSFORMS
from s3e.data.readers import layout, walk
from s3e.pipeline.graph import DRAWS, EXPLORES
from s3e.utils import NOTEBOOKS, S3EError, file_digest

PACKAGE = Path(s3e.__file__).parent
LEFT_OUT = ("s3e.config", "s3e.pipeline")  # of these the values count; they compute nothing
WEIGHTS = ("loss.vgg19_weights",)  # settings that name a file


def digest(value: Any) -> str:
    """SHA-256 of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def code_digest(source: str, name: str) -> str:
    """Hash of Python source by its meaning: comments, layout and docstrings do not count."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise S3EError(f"{name}, line {error.lineno}: {error.msg}; mend it first.") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


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


def notebook_parameters(path: Path) -> set[str]:
    """The names that a notebook's parameters cell assigns."""
    source = "\n".join(source for source, tags in _cells(path) if "parameters" in tags)
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)]
    return {node.id for node in nodes if isinstance(node.ctx, ast.Store)}


def _module_file(module: str) -> Path | None:
    base = PACKAGE.parent.joinpath(*module.split("."))
    files = (base / "__init__.py", base.with_suffix(".py"))
    return next((path for path in files if path.is_file()), None)


def _imports(source: str, package: str = "") -> set[str]:
    """Names of `s3e` modules that a source imports, wherever in the source, with their parent
    packages.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    found = {".".join(name.split(".")[:n]) for name in found for n in range(2, name.count(".") + 2)}
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
    return parts, _imports(source, name if path.name == "__init__.py" else name.rpartition(".")[0])


@cache
def code_parts(stage: str, notebooks: Path = NOTEBOOKS) -> dict[str, str]:
    """Hashes of the notebook, of every `s3e` module in its import closure and of the data files
    beside these, by name.

    Of the notebook its parameters and its lessons (they only show code) do not count. Modules that
    draw count for the notebook of figures alone.
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
    """What a data source is, by its file names alone: "scenes", "coco", "karpathy", "gopro" or
    "folder".
    """
    return source if source == "scenes" else layout(source)


def data_fingerprint(source: str) -> str | None:
    """Hash of a data folder's files, alike for every copy: names and sizes, of captions also what
    they hold.

    None for built-in scenes. Raises `S3EError` for a folder that cannot be read.
    """
    if source == "scenes":
        return None
    found, root = {}, Path(source)
    for place, names in walk(root).files.items():
        for path in (place / name for name in names):
            text = path.suffix == ".json" and path.is_file()
            size = path.stat().st_size if path.exists() else None  # a link to nothing
            found[path.relative_to(root).as_posix()] = file_digest(path) if text else size
    return digest(found)


def tools(stage: str) -> str:
    """What a stage uses beyond code and data: Java, the library of the blur's transforms,
    demonstration weights.
    """
    if stage == EXPLORES:
        weights = [path for path in (PACKAGE / "weights").rglob("[!.]*.*") if path.suffix != ".md"]
        found = {path.relative_to(PACKAGE).as_posix(): file_digest(path) for path in weights}
        return f"weights {digest(found)[:12]}"
    if stage == "01_data_blurring":
        return f"transforms by {TRANSFORMS}"
    if stage != "07_evaluation":
        return ""
    from s3e.evaluation.captions import find_java

    return "Java" if find_java() else "no Java"


def setting(name: str, value: Any) -> Any:
    """A setting as it stands in a key: of a file of weights its content, wherever it lies."""
    is_file = name in WEIGHTS and value and Path(value).is_file()
    return f"SHA-256 {file_digest(value)}" if is_file else value


def explain(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Why two keys differ: changed modules, settings with both values, upstream runs, data,
    tools.
    """
    texts = {"code": "code of {} changed", "settings": "{} {} -> {}", "upstream": "upstream {}"}
    reasons = []
    for part, text in texts.items():
        for name in sorted({*old[part], *new[part]}):
            before, now = (json.dumps(parts[part].get(name, "none")) for parts in (old, new))
            if before != now:
                reasons.append(text.format(name, before, now))
    if old["data"] != new["data"]:
        reasons.append("the data folder changed")
    if old["tools"] != new["tools"]:
        reasons.append(f"there was {old['tools']}, now there is {new['tools']}")
    return reasons
