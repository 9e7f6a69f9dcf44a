"""`python -m s3e report build [FOLDER]`: a folder of figures as one HTML file that needs nothing from elsewhere.

It is put together from the folder's files alone, so a clone without `runs/` can build it; where the executed notebooks
are there, it links to them.
"""

import base64
import hashlib
import io
import os
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import mistune
from markupsafe import Markup
from PIL import Image

from s3e.pipeline.graph import STAGES
from s3e.report import readme
from s3e.report.manifest import NAME, file_digest, read_manifest, without_origin
from s3e.report.summary import findings
from s3e.utils import NOTEBOOKS, ROOT, RUNS, S3EError, atomic_write

REPORT = "report.html"
LIMIT = 10_000_000  # bytes of the whole file
PICTURES = (
    7_000_000  # bytes of all pictures before they are written as text, which takes a third more
)
SEAL = "<!-- sha256 {} -->\n"  # last line: hash of all above it


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        metavar="FOLDER",
        help="folder of figures; default: the one the README shows",
    )


def execute(arguments: Namespace) -> int:
    """Write the report and say where it is. Raises `S3EError` for a folder without a manifest."""
    path = build(arguments.folder or ROOT / readme.source())
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


def build(folder: Path | str) -> Path:
    """Write `report.html` into a folder of figures; raises `S3EError` if a file is missing or the report too large."""
    folder = Path(folder)
    text = render(folder)
    sealed = text + SEAL.format(hashlib.sha256(text.encode()).hexdigest())
    if len(sealed.encode()) > LIMIT:
        raise S3EError(
            f"{folder / REPORT} would be larger than {LIMIT / 1e6:.0f} MB: draw fewer or smaller figures."
        )
    with atomic_write(folder / REPORT) as temporary:
        temporary.write_text(sealed, encoding="utf-8")
    return folder / REPORT


def problems(folder: Path) -> Iterator[str]:
    """What is wrong with the folder's report, if it has one: edited, or made from another manifest."""
    path = folder / REPORT
    if not path.is_file():
        return
    text, mark, seal = path.read_text(encoding="utf-8").rpartition(SEAL[:12])
    if mark + seal != SEAL.format(hashlib.sha256(text.encode()).hexdigest()):
        yield f"{path}: edited since it was built (python -m s3e report build {folder})"
    elif f'<meta name="manifest" content="{file_digest(folder / NAME)}">' not in text:
        yield f"{path}: built from another {NAME} (python -m s3e report build {folder})"


def render(folder: Path) -> str:
    """The report's HTML, without its seal."""
    manifest = read_manifest(folder)
    files = {
        name: {"file": name, "name": Path(name).stem, **facts}
        for name, facts in manifest["files"].items()
    }
    notes: dict[str, int] = {}
    parts = {
        "manifest": manifest,
        "digest": file_digest(folder / NAME),
        "findings": findings(folder),
        "tables": [_table(folder, files[name], notes) for name in _named(files, r"table.*\.md")],
        "figures": _figures(folder, [files[name] for name in _named(files, r"fig.*\.png")]),
        "notes": [Markup(note) for note in notes],
        "notebooks": _notebooks(folder, manifest),
        "facts": _facts(manifest),
    }
    templates = jinja2.Environment(loader=jinja2.PackageLoader("s3e.report", "."), autoescape=True)
    return templates.get_template(f"{REPORT}.jinja").render(parts)


def _named(files: dict[str, Any], pattern: str) -> list[str]:
    """The file names that match, by their numbers: figure 2 before figure 10, the appendix last."""
    found = [name for name in files if re.fullmatch(pattern, name)]
    return sorted(
        found, key=lambda name: (int(re.findall(r"\d+", name)[0]) if name[5:6] != "A" else 99, name)
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise S3EError(
            f"{path} is missing: restore it, or draw the folder again with notebook 08."
        ) from None


def _table(folder: Path, facts: dict[str, Any], notes: dict[str, int]) -> dict[str, Any]:
    """A Markdown table of `s3e.report.tables` in parts; its notes are added to `notes`, each once, with a number."""
    text = without_origin(_read(folder / facts["file"]).decode())
    to_html = mistune.create_markdown(plugins=["table"])
    caption, body, *below = [to_html(part).strip() for part in re.split(r"\n\n+", text.strip())]
    plain = [re.sub(r"^<p>|</p>$", "", note) for note in below]
    found = sorted({notes.setdefault(note, len(notes) + 1) for note in plain})
    about = re.sub(r"</?(?:p|strong)>", "", caption)
    return {
        **facts,
        "title": _title(facts["name"]),
        "caption": Markup(about),
        "body": Markup(body),
        "notes": found,
    }


def _title(name: str) -> str:
    """ "table4_ablation" as "Table 4: ablation"."""
    kind, number, words = re.fullmatch(r"(table|fig)(\w*?)_(.*)", name).groups()
    return f"{'Table' if kind == 'table' else 'Figure'} {number}: {words.replace('_', ' ')}"


def _figures(folder: Path, files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    limit = PICTURES // max(1, len(files))
    figures = []
    for facts in files:
        about = facts.get("about", _title(facts["name"])).replace("`", "")
        figures.append(
            {**facts, "about": about, "source": picture(_read(folder / facts["file"]), limit)}
        )
    return figures


def picture(data: bytes, limit: int) -> str:
    """A PNG file's bytes as a data URI; one of more than `limit` bytes is written as JPEG, smaller until it fits."""
    kind, image = "png", None
    while len(data) > limit:
        image = image.reduce(2) if image else Image.open(io.BytesIO(data)).convert("RGB")
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=88)
        kind, data = "jpeg", buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _notebooks(folder: Path, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Every notebook with what it does, and links to its source and to its executed copies as far as they are there."""
    runs = sorted({run for facts in manifest["files"].values() for run in facts["runs"]})
    store = manifest.get("store", manifest["profile"])
    own = {
        run: run if run.count("/") == 1 else run.partition("/")[2] for run in runs
    }  # without another store's name
    copies = {
        run: RUNS / (f"{store}/{run}" if own[run] == run else run) / "notebook.ipynb"
        for run in runs
    }
    links = {run: _link(path, folder) for run, path in copies.items()}
    return [
        {
            "name": name,
            "what": stage.what,
            "link": _link(NOTEBOOKS / f"{name}.ipynb", folder),
            "runs": [
                {"name": run.removeprefix(f"{name}/"), "link": link}
                for run, link in links.items()
                if link and own[run].startswith(name + "/")
            ],
        }
        for name, stage in STAGES.items()
    ]


def _link(path: Path, folder: Path) -> str:
    """`path` as seen from `folder`; "" if it is not there or if one of them lies outside the repository."""
    inside = path.is_file() and path.is_relative_to(ROOT) and folder.resolve().is_relative_to(ROOT)
    return os.path.relpath(path, folder.resolve()) if inside else ""


def _facts(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    dirty = " (with changes that were not committed)" if manifest["source_dirty"] else ""
    return [
        ("commit", manifest["source_commit"] + dirty),
        ("settings", manifest["config_hash"]),
        (
            "data",
            f"{manifest['data']['source']}, fingerprint {manifest['data']['fingerprint'] or 'none (drawn by code)'}",
        ),
        ("files", str(len(manifest["files"]))),
    ]
