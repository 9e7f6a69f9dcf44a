"""Every photo of a source decoded once: which files are broken, how large the photos are, what they look like."""

import base64
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from s3e.data import duplicates, photos
from s3e.data.duplicates import fingerprint, separate, without_lent
from s3e.data.photos import BrokenPhoto, decode
from s3e.data.sources import SPLITS, Photo, Problem, Source, check_splits, refuse
from s3e.data.workers import in_processes
from s3e.utils import RUNS, S3EError, atomic_write, code_digest, read_json, stable_hash

VERSION = code_digest(duplicates, photos)  # of survey.json: looks by other code are not used
DRAFT = 64  # JPEGs are decoded at a smaller scale, no side below this
CHUNK = 64  # photos that one process decodes at a time
SAVE_EVERY = 64  # chunks


class Look(NamedTuple):
    """What one photo shows: upright size (width, height), notes, and its `duplicates.fingerprint`."""

    size: tuple[int, int]
    notes: tuple[str, ...]
    hash: int
    thumb: bytes


@dataclass(frozen=True)
class Survey:
    """The looks of the photos that can be decoded, and what is wrong with the others, by photo id."""

    looks: dict[str, Look]
    broken: dict[str, Problem]

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(self.broken.values())


def survey(
    source: Source,
    folder: Path | None = None,
    jobs: int = 0,
    progress: Callable = lambda items, **_: items,
) -> Survey:
    """Decode every photo (of pairs the blurred one too) in `jobs` processes (0: one a core); no file makes it stop.

    With `folder`, results are kept in `folder/survey.json` and used again for files of unchanged size and date; they
    are saved as it goes, so that a killed survey goes on where it was.
    """
    everything = [photo for split in SPLITS for photo in source.splits[split]]
    stamps = {photo.id: _stamp(photo, source.root) for photo in everything}
    looks, broken = _known(folder, stamps), {}
    waiting = [photo for photo in everything if photo.id not in looks]
    parts = [waiting[k : k + CHUNK] for k in range(0, len(waiting), CHUNK)]
    bar = {
        "total": len(parts),
        "desc": "decoding",
        "unit": "chunk",
        "leave": False,
        "disable": not parts,
    }
    results = progress(in_processes(_look_at, parts, jobs), **bar)
    try:
        for done, part in enumerate(results, start=1):
            looks |= {name: seen for name, seen in part if isinstance(seen, Look)}
            broken |= {name: seen for name, seen in part if isinstance(seen, Problem)}
            if done % SAVE_EVERY == 0:
                _save(folder, looks, stamps)
    finally:
        if waiting:
            _save(folder, looks, stamps)
    in_order = (
        {photo.id: found[photo.id] for photo in everything if photo.id in found}
        for found in (looks, broken)
    )
    return Survey(*in_order)


def survey_folder(root: Path | str) -> Path:
    """Where the survey of the data in `root` is kept: a folder of its own in `runs/cache`."""
    root = Path(root).resolve()
    return RUNS / "cache" / f"survey-{root.name}-{stable_hash(str(root)) % 2**32:08x}"


def usable(source: Source, seen: Survey, skip_broken: bool = False) -> Source:
    """The source without its broken photos and with near-duplicates kept apart (see `duplicates.separate`).

    Raises `S3EError` if a photo is broken and `skip_broken` is off, or if a split is left with fewer than 2 photos.
    """
    if not skip_broken:
        refuse(seen.problems, source.root)
    splits = {
        name: [photo for photo in part if photo.id not in seen.broken]
        for name, part in source.splits.items()
    }
    result = separate(
        replace(source, splits=splits, problems=source.problems + seen.problems), seen
    )
    remedy = "broken photos and near-duplicates do not count, add others"
    check_splits(source.root, result.splits, result.problems, remedy)
    return result


def unlent(source: Source, seen: Survey, lender: Source, lent: Survey) -> Source:
    """The source without validation and test photos that look like a training photo of the captioned `lender`.

    The tree that is borrowed from the lender knows its training photos. Raises `S3EError` if too few are left.
    """
    splits, notes = without_lent(source.splits, seen, lender.splits["train"], lent)
    result = replace(source, splits=splits, notes=(*source.notes, *notes))
    check_splits(
        source.root,
        splits,
        (),
        f"photos that {lender.root} trains on do not count, borrow from other data",
    )
    return result


def look(photo: Photo) -> Look | Problem:
    """Decode one photo: what it looks like, or what is wrong with it."""
    try:
        image, size, notes = decode(photo.path, DRAFT)
        if photo.blurred:
            decode(photo.blurred, DRAFT)
    except BrokenPhoto as error:
        return error.problem
    return Look(size, notes, *fingerprint(image))


def _look_at(photos: Sequence[Photo]) -> list[tuple[str, Look | Problem]]:
    return [(photo.id, look(photo)) for photo in photos]


def _stamp(photo: Photo, root: Path) -> list[list[str | int]] | None:
    """Path below `root`, size and date of the photo's files; None if one cannot be found."""
    files = [photo.path, photo.blurred] if photo.blurred else [photo.path]
    try:
        states = [(os.path.relpath(file, root), file.stat()) for file in files]
    except OSError:
        return None
    return [[file, state.st_size, state.st_mtime_ns] for file, state in states]


def _known(folder: Path | None, stamps: dict[str, list | None]) -> dict[str, Look]:
    """Looks from an earlier survey, for the photos whose files have not changed since."""
    if not folder or not (folder / "survey.json").is_file():
        return {}
    content = read_json(folder / "survey.json")
    saved = content["photos"] if content["version"] == VERSION else {}
    return {
        name: Look(tuple(size), tuple(notes), code, base64.b64decode(thumb))
        for name, (stamp, size, notes, code, thumb) in saved.items()
        if stamp and stamp == stamps.get(name)
    }


def _save(folder: Path | None, looks: dict[str, Look], stamps: dict[str, list | None]) -> None:
    if not folder:
        return
    records = {
        name: [
            stamps[name],
            seen.size,
            seen.notes,
            seen.hash,
            base64.b64encode(seen.thumb).decode(),
        ]
        for name, seen in looks.items()
    }
    try:
        with atomic_write(folder / "survey.json") as temporary:
            temporary.write_text(
                json.dumps({"version": VERSION, "photos": records}), encoding="utf-8"
            )
    except OSError as error:
        raise S3EError(
            f"{folder}/survey.json: cannot be written ({error.strerror}); free or allow space there."
        ) from None
