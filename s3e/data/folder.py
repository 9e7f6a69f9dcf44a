"""Any folder of photos, without captions or blurred partners: split 80 / 10 / 10 by hashed name."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from s3e.data.sources import SPLITS, Photo, Problem, Source, check_splits
from s3e.utils import S3EError, stable_hash

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}


@dataclass
class Tree:
    """All that lies under a folder: names of files and sub-folders by folder, sorted; hidden ones are left out."""

    files: dict[Path, list[str]] = field(default_factory=dict)
    folders: dict[Path, list[str]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def is_photo(name: str) -> bool:
    """Whether the file name has a photo's extension."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def walk(root: Path) -> Tree:
    """List `root` recursively, links followed once; what cannot be listed or named in UTF-8 becomes a problem."""
    tree, seen = Tree(), set()

    def unreadable(error: OSError) -> None:
        tree.problems.append(denied(Path(error.filename), error))

    for place, folders, files in os.walk(root, onerror=unreadable, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if _visible(tree, place, name))
        tree.folders[Path(place)] = list(folders)
        tree.files[Path(place)] = sorted(name for name in files if _visible(tree, place, name))
    return tree


def denied(folder: Path, error: OSError) -> Problem:
    """The problem that a folder cannot be listed."""
    reason = error.strerror or str(error)
    return Problem(
        str(folder),
        f"the folder cannot be listed ({reason})",
        "give yourself permission with chmod u+rx",
    )


def _visible(tree: Tree, place: str, name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.path.join(place, name).encode(errors="replace").decode()
        tree.problems.append(Problem(shown, "the name is not valid UTF-8", "rename it"))
        return False
    return not name.startswith(".")


def read(root: Path, tree: Tree) -> Source:
    """All photos below `root`; a photo's id is its relative path, with the extension only where that is ambiguous."""
    names = [
        (folder / name).relative_to(root) for folder, files in tree.files.items() for name in files
    ]
    paths = [name for name in names if is_photo(name.name)]
    if not paths:
        listed = ", ".join(sorted(EXTENSIONS))
        raise S3EError(f"{root}: holds no photos; give a folder with files that end in {listed}.")
    stems = Counter(path.with_suffix("") for path in paths)
    splits: dict[str, list[Photo]] = {name: [] for name in SPLITS}
    for path in paths:
        stem = path.with_suffix("")
        photo = Photo((path if stems[stem] > 1 else stem).as_posix(), root / path)
        splits[_split(photo.id)].append(photo)
    check_splits(
        root,
        splits,
        tree.problems,
        f"{len(paths)} photos are too few, add some (100 are surely enough)",
    )
    others = Counter(name.suffix.lower() or name.name for name in names if not is_photo(name.name))
    notes = (
        [f"other files, left alone: {sum(others.values())} ({', '.join(sorted(others)[:8])})"]
        if others
        else []
    )
    if (root / "annotations").is_dir():
        notes.append(
            "annotations/ holds no captions_*.json, so the photos are read without captions"
        )
    protocol = "photos without captions, split 80/10/10 by id"
    return Source("folder", root, splits, "hashed", protocol, tuple(tree.problems), tuple(notes))


def _split(identity: str) -> str:
    part = stable_hash("split", identity) % 10
    return "train" if part < 8 else "val" if part == 8 else "test"
