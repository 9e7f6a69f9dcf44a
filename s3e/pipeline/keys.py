"""Freshness keys: a stage runs again when its code, its settings, its data or what it reads
changed, and not else.

Code is compared as a syntax tree without comments and docstrings, settings one by one, files by
their contents; `explain` says which part changed.
"""

import ast
import json
import re
from functools import cache
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path

import s3e
from s3e.data.readers import ImageIndex
from s3e.pipeline.graph import DRAWS, EXPLORES, notebook
from s3e.pipeline.store import Record
from s3e.utils import S3EError, code_digest, digest, file_digest

PACKAGE = Path(s3e.__file__).parent
LEFT_OUT = ("s3e.config.", "s3e.pipeline.")  # of these the values count; they compute nothing
DATA = "the data folder"  # stands beside the modules that a key names
READ_WHOLE = {".json", ".txt", ".csv", ".bmp", ".ppm", ".tif", ".tiff"}  # of a data folder
NOT_CODE = {"injected-parameters", "lesson"}  # tags of cells; lessons only show code


@cache
def _sources(stage: str) -> tuple[str, str]:
    """Of a notebook, without line magics: the parameters cell, and all code that counts."""
    path = notebook(stage)
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError):
        raise S3EError(
            f"{path} is missing or is not a notebook: run this in a clone of the repository (an"
            " installed package has no notebooks), or restore the file there."
        ) from None
    parameters, code = "", ""
    for cell in cells:
        source = re.sub(r"(?m)^\s*[%!].*", "", "".join(cell["source"])) + "\n"
        tags = {*cell["metadata"].get("tags", [])}
        if cell["cell_type"] != "code":
            continue
        if "parameters" in tags:
            parameters += source
        elif not tags & NOT_CODE:
            code += source
    return parameters, code


def notebook_parameters(stage: str) -> set[str]:
    """The names in the parameters cell of a stage's notebook, one annotated literal each."""
    body = ast.parse(_sources(stage)[0]).body
    return {item.target.id for item in body if isinstance(item, ast.AnnAssign)}


def _module_file(module: str) -> Path | None:
    base = PACKAGE.parent.joinpath(*module.split("."))
    files = (base / "__init__.py", base.with_suffix(".py"))
    return next((path for path in files if path.is_file()), None)


def _imports(source: str) -> set[str]:
    """The `s3e` modules that a source imports, wherever in the source, with their parents."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    found = {part for name in found for part in accumulate(name.split("."), "{}.{}".format)}
    return {name for name in found if name.startswith("s3e.") and _module_file(name)}


def _data_files(folder: Path, pattern: str = "[!.]*.*") -> dict[str, str]:
    """Hashes of the data files in a folder of the package; settings count by their values."""
    return {
        path.relative_to(PACKAGE.parent).as_posix(): file_digest(path)
        for path in folder.glob(pattern)
        if path.suffix not in (".py", ".md") and path.name not in ("profiles.yaml", "verbs.yaml")
    }


@cache
def _module(name: str) -> tuple[dict[str, str], set[str]]:
    """Hashes of a module and of the data files beside it, and the modules that it imports."""
    path = _module_file(name)
    source = path.read_text(encoding="utf-8")
    return {name: code_digest(source, path), **_data_files(path.parent)}, _imports(source)


@cache
def code_parts(stage: str) -> dict[str, str]:
    """Hashes of a notebook, of all modules in its import closure and of data files beside these.

    Of the notebook its parameters and its lessons do not count. Modules that draw count for the
    notebook of figures alone, demonstration weights for the notebook that explores.
    """
    source = _sources(stage)[1]
    parts = {f"notebooks/{stage}.ipynb": code_digest(source, notebook(stage))}
    parts |= _data_files(PACKAGE / "weights", "**/[!.]*.*") if stage == EXPLORES else {}
    skipped = LEFT_OUT if stage == DRAWS else (*LEFT_OUT, "s3e.report.")
    waiting = _imports(source)
    while waiting:
        name = waiting.pop()
        if name not in parts and not f"{name}.".startswith(skipped):
            found, more = _module(name)
            parts |= found
            waiting |= more
    if "s3e.captions.tagger" in parts:  # its model decides trees
        parts["HanTa"] = version("HanTa")
    return parts


def forget() -> None:
    """Read notebooks and modules again: somebody may have edited them."""
    for function in (_sources, _module, code_parts):
        function.cache_clear()


def data_fingerprint(source: str) -> str:
    """Hash of a data folder's files, alike for every copy: their names and sizes.

    Captions, and photos without compression, whose size no edit changes, count by their contents.
    """
    found = {}
    for place, path in ImageIndex(Path(source)).paths.items():
        whole = path.suffix.lower() in READ_WHOLE
        found[place] = file_digest(path) if whole else path.stat().st_size
    return digest(found)


def explain(old: Record, new: Record) -> list[str]:
    """Why two keys differ: changed modules and files, settings with both values, runs it reads."""
    texts = {"code": "{} changed", "settings": "{} {} -> {}", "upstream": "upstream {} changed"}
    reasons = []
    for part, text in texts.items():
        for name in sorted({*old[part], *new[part]}):
            before, now = (json.dumps(parts[part].get(name, "none")) for parts in (old, new))
            if before != now:
                reasons.append(text.format(name, before, now))
    return reasons
