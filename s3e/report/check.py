"""`python -m s3e report check [FOLDER ...]`: are the figures, tables and numbers those that the code made?

Exit codes: 0 yes, 1 a file was edited or is missing (with `--strict` also: was made by older code), 2 a folder cannot
be checked. Needs the folder and the sources alone, no `runs/`.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from s3e.config import PROFILES, load_config
from s3e.report import html, readme
from s3e.report.manifest import KINDS, NAME, code_of, file_digest, python, read_manifest, settings
from s3e.utils import FIGURES, ROOT, S3EError

SHOWN = 3  # changed modules or settings that one line names


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "folders",
        type=Path,
        nargs="*",
        metavar="FOLDER",
        help="folders of figures; default: those that are published",
    )
    parser.add_argument(
        "--strict", action="store_true", help="fail on what older code or settings made, too"
    )


def execute(arguments: Namespace) -> int:
    """Print what is wrong, a line a file; return 0 or 1. Raises `S3EError` for a folder without a manifest."""
    folders = arguments.folders or published()
    wrong = [line for folder in folders for line in broken(folder)]
    wrong += [] if arguments.folders else readme_problems()
    old = [line for folder in folders for line in older(folder)]
    for line in wrong + old:
        print(line)
    checked = ", ".join(map(str, folders))
    print(
        f"{checked}: {len(wrong)} edited or missing, {len(old)} made by older code"
        + OLD * bool(old)
    )
    return 1 if wrong or (arguments.strict and old) else 0


OLD = " (python run_all.py makes them again)"


def published() -> list[Path]:
    """The committed folders of figures; raises `S3EError` if there is none."""
    found = [FIGURES / name for name in readme.PUBLISHED if (FIGURES / name / NAME).is_file()]
    if not found:
        raise S3EError(
            f"{FIGURES} holds no published figures: name a folder, or run python run_all.py first."
        )
    return found


def broken(folder: Path) -> Iterator[str]:
    """Files that are not as they were made, are gone, or have no entry; a report that is not of this manifest."""
    files = read_manifest(folder)["files"]
    for name, facts in files.items():
        path = folder / name
        if not path.is_file():
            yield f"{path}: missing"
        elif file_digest(path) != facts["sha256"]:
            yield f"{path}: edited since {facts['maker']} made it"
    for path in sorted(folder.iterdir()):
        if path.suffix in KINDS and path.name[0] != "." and path.name not in files:
            yield f"{path}: not in {NAME}, so nobody knows what made it"
    yield from html.problems(folder)


def readme_problems() -> Iterator[str]:
    """Whether the README shows other results than those committed."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    if readme.filled(text) != text:
        yield f"README.md: its results are not those of {readme.source()} (python -m s3e.report.readme)"


def older(folder: Path) -> Iterator[str]:
    """Files that rest on code which has changed since, with the modules; settings of the profile that have changed."""
    manifest = read_manifest(folder)
    if "code" not in manifest:
        yield f"{folder / NAME}: older than this check, names no code"
        return
    if manifest["python"] != python():
        yield f"{folder / NAME}: code was hashed by Python {manifest['python']}, which {python()} cannot compare"
        return
    if changed := changed_settings(folder, manifest):
        yield f"{folder / NAME}: settings of the profile changed since: {_listed(changed)}"
    for name, facts in manifest["files"].items():
        now = code_of(facts["stages"])
        if changed := [
            module for module, digest in now.items() if manifest["code"].get(module) != digest
        ]:
            yield f"{folder / name}: made by older code ({_listed(changed)} changed since)"


def changed_settings(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Settings that the profile has changed since; none are known of a folder with overrides or data of its own."""
    profile = PROFILES.get(manifest["profile"])
    if profile is None or folder.resolve().name != (profile.get("figures") or manifest["profile"]):
        return []
    then = _flat(manifest["settings"])
    photos = (
        profile.get("data", {}).get("source") == ""
    )  # any folder: of the data only the name is known
    now = _flat(settings(load_config(manifest["profile"], str(ROOT) if photos else "scenes")))
    now |= {"data.source": then.get("data.source")} if photos else {}
    return [
        f"{name} {then.get(name)} -> {now.get(name)}"
        for name in {**then, **now}
        if then.get(name) != now.get(name)
    ]


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    """Settings by dotted name, without those of the machine."""
    parts = {
        key: value if isinstance(value, dict) else {"": value}
        for key, value in tree.items()
        if key != "runtime"
    }
    return {
        f"{key}.{field}".strip("."): value
        for key, section in parts.items()
        for field, value in section.items()
    }


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
