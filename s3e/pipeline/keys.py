"""Freshness keys: a stage runs again when its code, its settings, its data or what it reads changed, and not else.

Code is compared as a syntax tree without comments and docstrings; settings are compared field by field; `explain`
tells which part changed.
"""

import ast
import hashlib
import json
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import s3e
from s3e.blur import TRANSFORMS
from s3e.config import Config
from s3e.data.readers import coco_kind, find_raw, gopro_found, walk
from s3e.pipeline import graph
from s3e.pipeline.contents import digests
from s3e.pipeline.graph import CAPTIONED, Instance, Selection, fields
from s3e.utils import NOTEBOOKS, S3EError

PACKAGE = Path(s3e.__file__).parent
LEFT_OUT = (
    "s3e",
    "s3e.config",
    "s3e.utils",
    "s3e.pipeline",
    "s3e.report",
)  # their values count, or they only draw
WEIGHTS = (
    "loss.vgg19_weights",
    "model.encoder_weights",
)  # settings that name a file: what it holds counts
DRAWS, EXPLORES = "08_figures_and_tables", "09_explore"


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


def _cells(path: Path) -> list[dict[str, Any]]:
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except FileNotFoundError:
        raise S3EError(f"{path} is missing: restore it from the repository.") from None
    except (ValueError, KeyError):
        raise S3EError(f"{path} is not a notebook: restore it from the repository.") from None
    return [cell for cell in cells if cell["cell_type"] == "code"]


def _source(cell: dict[str, Any]) -> str:
    lines = "".join(cell["source"]).splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


def _tagged(cell: dict[str, Any]) -> bool:
    return bool(
        {"parameters", "injected-parameters", "lesson"}
        & set(cell.get("metadata", {}).get("tags", []))
    )


@cache
def notebook_code(path: Path) -> str:
    """The code of a notebook's cells except its parameters, its lessons (they only show code) and line magics."""
    return "\n".join(_source(cell) for cell in _cells(path) if not _tagged(cell))


@cache
def notebook_parameters(path: Path) -> tuple[str, ...]:
    """The names that a notebook's parameters cell assigns."""
    sources = [
        _source(cell)
        for cell in _cells(path)
        if "parameters" in cell.get("metadata", {}).get("tags", [])
    ]
    names = []
    for node in ast.parse("\n".join(sources)).body:
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return tuple(names)


def _module_file(module: str) -> Path | None:
    base = PACKAGE.parent.joinpath(*module.split("."))
    return next(
        (path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None
    )


def _imports(source: str, module: str, package: bool) -> set[str]:
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
    return {name for name in found if name.split(".")[0] == "s3e" and _module_file(name)}


@cache
def _module(name: str) -> tuple[str, frozenset[str]]:
    path = _module_file(name)
    source = path.read_text(encoding="utf-8")
    return code_digest(source, str(path)), frozenset(
        _imports(source, name, path.name == "__init__.py")
    )


def _left_out(name: str, drawing: bool) -> bool:
    skip = [item for item in LEFT_OUT if not (drawing and item == "s3e.report")]
    return name == "s3e" or any(
        name == item or name.startswith(item + ".") for item in skip if item != "s3e"
    )


@cache
def code_parts(stage: str, notebooks: Path = NOTEBOOKS) -> dict[str, str]:
    """Hashes of the notebook and of every `s3e` module in its static import closure, by name."""
    path, drawing = notebooks / f"{stage}.ipynb", stage == DRAWS
    source = notebook_code(path)
    parts = {f"notebooks/{stage}.ipynb": code_digest(source, str(path))}
    waiting = _imports(source, "", False)
    while waiting:
        name = waiting.pop()
        if name not in parts and not _left_out(name, drawing):
            parts[name], more = _module(name)
            waiting |= more
    if drawing:
        styles = sorted(
            path
            for kind in ("mplstyle", "jinja")
            for path in (PACKAGE / "report").glob(f"*.{kind}")
        )
        parts |= {
            f"s3e/report/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
            for path in styles
        }
    return parts


def data_kind(source: str) -> str:
    """What a data source is, told by its file names alone: `s3e.data.readers.Kind`, or "scenes"."""
    if source == "scenes":
        return source
    root = Path(source)
    if captions := coco_kind(root):
        return captions
    return "gopro" if gopro_found(walk(root)) else "folder"


def data_fingerprint(source: str) -> str | None:
    """Hash of the names and contents of a data folder's files, alike for every copy; None for built-in scenes.

    Raises `S3EError` for a folder that cannot be read.
    """
    if source == "scenes":
        return None
    tree = walk(Path(source))
    return digest(
        digests(
            Path(source), (place / name for place, names in tree.files.items() for name in names)
        )
    )


def source_digest() -> str:
    """Hash of all files of the package and of the notebooks, byte by byte: machines that differ there must not mix."""
    files = [
        path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    found = {str(path.relative_to(PACKAGE)): path for path in files}
    found |= {f"notebooks/{path.name}": path for path in NOTEBOOKS.glob("*.ipynb")}
    return digest(
        {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()}
    )


def weights_digest() -> str:
    """Hash of the files of the demonstration weights, byte by byte."""
    files = [
        path
        for path in sorted((PACKAGE / "weights").glob("[!.]*"))
        if path.is_file() and path.suffix != ".md"
    ]
    return digest([[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in files])


def tools(stage: str) -> dict[str, str]:
    """What a stage uses beyond code and files: Java, the library of the blur's transforms, the weights."""
    if stage == EXPLORES:
        return {"tools": f"weights {weights_digest()[:12]}"}
    if stage == "01_data_blurring":
        return {"tools": f"transforms by {TRANSFORMS}"}
    if stage != "07_evaluation":
        return {}
    from s3e.evaluation.captions import find_java

    return {"tools": "Java" if find_java() else "no Java"}


def _held(name: str, value: Any) -> Any:
    """What stands for a setting in a key: of a file of weights its content, wherever it lies; of all others the value.

    A public name (`s3e.models.build.PUBLIC`) tells the content itself.
    """
    if name not in WEIGHTS or not value or not Path(value).is_file():
        return value
    path = Path(value)
    return f"SHA-256 {digests(path.parent, [path])[path.name]}"


class Keys:
    """The keys of all runs of one study, computed from sources alone (no run is read).

    `others`: the keys of other studies that this one reads, by `Instance.of`.
    """

    def __init__(self, config: Config, selection: Selection, notebooks: Path):
        self.config, self.selection, self.notebooks = config, selection, notebooks
        self.others: dict[str, Keys] = {}
        self.falsifier: Selection = ()
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
        """The runs that `run` reads."""
        return graph.upstream(run, self.selection, self.captioned, self.falsifier)

    def parts(self, run: Instance) -> dict[str, Any]:
        """What the key of `run` is made of: code, settings, data, and the keys of what it reads."""
        if run.of:
            return self.others[run.of].parts(run.own)
        if run not in self._parts:
            before = self.upstream(run)
            self._parts[run] = {
                "stage": str(run),
                "code": code_parts(run.stage, self.notebooks),
                "settings": {
                    name: _held(name, value) for name, value in fields(run, self.config).items()
                },
                "data": self._fingerprint if run.stage == "01_data_blurring" else None,
                "upstream": {str(other): self.key(other) for other in before},
            } | tools(run.stage)
        return self._parts[run]

    def key(self, run: Instance) -> str:
        """The key of a run: equal keys mean equal results."""
        return digest(self.parts(run))

    @cached_property
    def _fingerprint(self) -> str | None:
        source = self.config.data.source
        folders = [source]
        if self.kind == "gopro" and self.config.blur.average == "raw":
            folders.append(str(find_raw(Path(source))))
        if "captioned" in self.others:  # photos that the lender trains on are taken out
            folders.append(self.others["captioned"].config.data.source)
        prints = [data_fingerprint(name) for name in folders if name != "scenes"]
        return digest(prints) if len(prints) > 1 else data_fingerprint(source)

    def minutes_ahead(
        self, runs: list[Instance], minutes: dict[Instance, float]
    ) -> dict[Instance, float]:
        """Expected minutes from the start of each of `runs` (in order) to the end of the longest chain that waits."""
        after = {run: 0.0 for run in runs}
        for run in reversed(runs):
            for other in self.upstream(run):
                if other in after:
                    after[other] = max(after[other], minutes[run] + after[run])
        return {run: minutes[run] + after[run] for run in runs}


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
    return [
        name for name in sorted({*old, *new}) if old.get(name, missing) != new.get(name, missing)
    ]
