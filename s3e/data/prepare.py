"""Prepare data once: look at every photo, decode, resize and blur it in all cores, and write the corpus of a study.

    runs/cache/survey-<data folder>-<hash>/survey.json      what each photo shows, and which are broken
    runs/cache/<data folder>-<hash>/{<split>_sharp.npy, <split>_<severity>.npy, <split>.json, cache.json}

Arrays are uint8 (N, H, W, 3), to be memory-mapped; `<split>.json` holds ids, kernel extents and input PSNR; the hash is
of the settings, the files and the code that the arrays depend on. A cache is made in `<folder>.part`, where an array
gets its name when it is whole, so that a preparation that was killed goes on with the first that is missing; the folder
gets its name when all are there.
"""

import base64
import errno
import functools
import hashlib
import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from s3e import blur, utils
from s3e.blur import MIX, SEVERITIES, blur_batch, blur_image, extent, kernel_for, psf, trajectories
from s3e.captions.parser import parse_caption
from s3e.captions.tree import NULL, TreeVocabulary, Vocabulary
from s3e.config import Config, load_config, parse_setting
from s3e.data import photos as decoding
from s3e.data import readers
from s3e.data.corpus import Corpus, load_corpus, severity_table, tree_of
from s3e.data.photos import (
    PHOTOS,
    BrokenPhoto,
    Problem,
    decode,
    load_photo,
    load_whole,
    photograph,
)
from s3e.data.readers import (
    PAIRED,
    SPLITS,
    Photo,
    PhotoInfo,
    Source,
    Subset,
    check_splits,
    fingerprint,
    open_source,
    read_source,
    refuse,
    separate,
    without,
)
from s3e.data.scenes import CATEGORIES, make_split
from s3e.utils import S3EError, atomic_write, psnr, read_json, write_array, write_json

Progress = Callable[..., Any]  # wraps an iterable, as tqdm does
CHUNK = 64  # photos that one process takes at a time
WORTH = 4  # chunks a process must have before starting it pays, where their number is left open
DRAFT = 64  # for a look, JPEGs are decoded at a smaller scale, no side below this
SAVE_EVERY = 64  # chunks after which a survey is saved
MARGIN = 1.4  # shorter side of a frame over the side of its central crop: 640x360 and 256 (specification 3.4)
HOLDS = {
    "coco": "photos with captions, in MSCOCO's layout",
    "karpathy": "photos with captions, split by Karpathy's file",
    "gopro": "pairs of blurred and sharp frames, in GoPro's layout",
    "folder": "photos without captions",
}


def no_progress(items: Any, **options: Any) -> Any:
    """The items as they are, where nobody watches."""
    return items


# --- processes ---


@contextmanager
def workers(jobs: int, tasks: int) -> Iterator[Callable]:
    """A `map` over `jobs` processes (0: one a core where the work is worth it); with one, the work is done right here."""
    if jobs < 0:
        raise S3EError(f"--jobs {jobs}: give a number of processes, or 0 for one a core.")
    jobs = min(jobs, tasks) if jobs else min(utils.cores(), tasks // WORTH)
    if jobs <= 1:
        yield map
        return
    context = multiprocessing.get_context("spawn")  # a notebook has threads: it must not be forked
    pool = ProcessPoolExecutor(jobs, context, _begin_worker)
    try:
        yield pool.map
    except BrokenProcessPool:
        raise S3EError(
            f"one of {jobs} processes was killed (for want of memory, or because a script began them outside of "
            "`if __name__ == '__main__'`): repeat with fewer (--jobs 1)."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """In each process: leave Ctrl-C to the one that began it, and end when that one is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process().sentinel
    threading.Thread(target=lambda: (wait([parent]), os._exit(1)), daemon=True).start()


# --- a look at every photo ---


@dataclass(frozen=True)
class Survey:
    """What the photos show that can be decoded, and what is wrong with the others, by photo id."""

    infos: dict[str, PhotoInfo]
    broken: dict[str, Problem]

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(self.broken.values())


def survey(source: Source, jobs: int = 0, progress: Progress = no_progress) -> Survey:
    """Decode every photo (of pairs the blurred one too) in `jobs` processes (0: one a core); no file makes it stop.

    Results are kept in `survey_folder` and used again for files of unchanged size and date; they are saved as it goes,
    so that a killed survey goes on where it was.
    """
    everything = [photo for split in SPLITS for photo in source.splits[split]]
    stamps = {photo.id: _stamps(photo) for photo in everything}
    file, version = survey_folder(source.root) / "survey.json", utils.code_digest(decoding, readers)
    infos, broken = _known(file, version, stamps), {}
    waiting = [photo for photo in everything if photo.id not in infos]
    parts = [waiting[k : k + CHUNK] for k in range(0, len(waiting), CHUNK)]
    options = {"total": len(parts), "desc": "decoding", "unit": "chunk", "disable": not parts}
    try:
        with workers(jobs, len(parts)) as run:
            looks = progress(run(_look_at, parts), leave=False, **options)
            for done, (part, found) in enumerate(zip(parts, looks, strict=True), start=1):
                for photo, look in zip(part, found, strict=True):
                    (broken if isinstance(look, Problem) else infos)[photo.id] = look
                if done % SAVE_EVERY == 0:
                    _save(file, version, infos, stamps)
    finally:
        if waiting:
            _save(file, version, infos, stamps)
    order = [photo.id for photo in everything]
    return Survey(*({key: of[key] for key in order if key in of} for of in (infos, broken)))


def survey_folder(root: Path | str) -> Path:
    """Where the survey of the data in `root` is kept: a folder of its own in `runs/cache`."""
    root = Path(root).resolve()
    digest = utils.stable_hash(str(root)) % 2**32
    return utils.RUNS / "cache" / f"survey-{root.name}-{digest:08x}"


def usable(source: Source, seen: Survey, skip_broken: bool = False) -> Source:
    """The source without its broken photos and with near-duplicates kept apart (see `readers.separate`).

    Raises `S3EError` if a photo is broken and `skip_broken` is off, or if a split is left with fewer than 2 photos.
    """
    if not skip_broken:
        refuse(seen.problems, source.root)
    splits = {
        name: [photo for photo in part if photo.id not in seen.broken]
        for name, part in source.splits.items()
    }
    problems = source.problems + seen.problems
    result = separate(replace(source, splits=splits, problems=problems), seen.infos)
    remedy = "broken photos and near-duplicates do not count, add others"
    check_splits(source.root, result.splits, problems, remedy)
    return result


def _look_at(photos: Sequence[Photo]) -> list[PhotoInfo | Problem]:
    looks: list[PhotoInfo | Problem] = []
    for photo in photos:
        try:
            image, size, notes = decode(photo.path, DRAFT)
            if photo.blurred:
                decode(photo.blurred, DRAFT)
            looks.append(PhotoInfo(size, notes, *fingerprint(image)))
        except BrokenPhoto as error:
            looks.append(error.problem)
    return looks


def _stamps(photo: Photo) -> list[list[str | int]] | None:
    """Path, size and date of the photo's files; None if one cannot be found."""
    try:
        return [_stamp(path) for path in (photo.path, photo.blurred) if path]
    except S3EError:
        return None


def _stamp(path: Path) -> list[str | int]:
    try:
        state = path.stat()
    except OSError as error:
        what = f"cannot be read ({error.strerror}): restore it or remove its entry"
        raise S3EError(f"{path} {what}.") from None
    return [path.name, state.st_size, state.st_mtime_ns]


def _known(file: Path, version: str, stamps: dict[str, list | None]) -> dict[str, PhotoInfo]:
    """What an earlier survey saw of the photos whose files have not changed since."""
    content = read_json(file) if file.is_file() else {"version": "", "photos": {}}
    saved = content["photos"] if content["version"] == version else {}
    return {
        name: PhotoInfo(tuple(size), tuple(notes), code, base64.b64decode(thumb))
        for name, (stamp, size, notes, code, thumb) in saved.items()
        if stamp and stamp == stamps.get(name)
    }


def _save(file: Path, version: str, infos: dict[str, PhotoInfo], stamps: dict) -> None:
    photos = {
        name: [
            stamps[name],
            info.size,
            info.notes,
            info.hash,
            base64.b64encode(info.thumb).decode(),
        ]
        for name, info in infos.items()
    }
    try:
        with atomic_write(file) as temporary:
            text = json.dumps({"version": version, "photos": photos})
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        what = f"cannot be written ({error.strerror}); free or allow space there"
        raise S3EError(f"{file}: {what}.") from None


# --- what is to be prepared ---


@dataclass(frozen=True)
class Part:
    """One split: its photos, the severities of their blurred views, and the shape (height, width, 3) of one photo.

    Where pairs have a severe view, `windows` has for each the frames whose mean it is (None where the video has too
    few); `whole` means whole frames, not central crops.
    """

    photos: list[Photo]
    severities: tuple[str, ...]
    shape: tuple[int, int, int]
    windows: list[tuple[Path, ...] | None] = field(default_factory=list)
    whole: bool = False

    @property
    def missing(self) -> dict[str, list[int]]:
        """Rows without a severity: pairs with too few neighbours for a severe view."""
        rows = [i for i, window in enumerate(self.windows) if window is None]
        return {"severe": rows} if rows else {}

    def rows(self, start: int, stop: int) -> "Part":
        """The same of some photos."""
        photos, windows = self.photos[start:stop], self.windows[start:stop]
        return replace(self, photos=photos, windows=windows)


def read_data(config: Config, jobs: int = 0, progress: Progress = no_progress) -> Source:
    """The data folder of a configuration, without photos that cannot be used and near-duplicates across splits.

    Validation and test photos that look like a training photo of the captioned study `semantics_from` are taken out as
    well. Raises `S3EError` as `open_source` does, for broken photos unless `data.skip_broken`, and for a severity that
    the data do not have.
    """
    data = config.data
    source = open_source(data.source, data.subset, data.skip_broken)
    _check_severity(source, config)
    seen = survey(source, jobs, progress)
    source = usable(source, seen, data.skip_broken)
    if source.captioned or not config.semantics_from:
        return source
    study = read_json(Path(config.semantics_from) / "01_data_blurring" / "all" / "params.json")
    if (root := study["config"]["data"]["source"]) == "scenes":
        return source
    other = read_source(root)
    known = survey(other, jobs, progress).infos
    trained = [photo for photo in other.splits["train"] if photo.id in known]
    splits, notes, where = dict(source.splits), list(source.notes), f"{root}, which captions know"
    for name in ("val", "test"):
        splits[name] = without(splits[name], trained, seen.infos, notes, name, where, known)
    check_splits(source.root, splits, (), f"photos that {root} trains on do not count, add others")
    return replace(source, splits=splits, notes=tuple(notes))


def plan(source: Source, config: Config) -> dict[str, Part]:
    """What each split will hold under `data.train`, `data.val` and `data.test` (0: all; pairs: spread over the videos).

    Raises `S3EError` for a severity that does not fit, too few photos, or test frames of unequal sizes.
    """
    _check_severity(source, config)
    chosen, trained = {}, (config.blur.severity,)
    for name in SPLITS:
        photos = source.splits[name]
        limit = min(getattr(config.data, name) or len(photos), len(photos))
        if limit < 2:
            what = f"fewer than 2 photos for the {name} split: set data.{name} to 0 (all) or more"
            raise S3EError(f"{source.root}: {what}.")
        spread = [photos[i * len(photos) // limit] for i in range(limit)]
        chosen[name] = spread if source.paired else photos[:limit]
    if source.paired:
        return _plan_pairs(source, config, chosen)
    shape, severities = (config.data.size, config.data.size, 3), tuple(SEVERITIES)
    return {
        name: Part(photos, trained if name == "train" else severities, shape)
        for name, photos in chosen.items()
    }


def windows(photos: list[Photo], frames: int) -> list[tuple[Path, ...] | None]:
    """For each pair the `frames` (odd) consecutive blurred frames around it, or None where the video has too few."""
    known = {(photo.sequence, photo.frame): photo.blurred for photo in photos}
    reach, found = range(-(frames // 2), frames // 2 + 1), []
    for photo in photos:
        window = tuple(known.get((photo.sequence, photo.frame + step)) for step in reach)
        found.append(None if None in window else window)
    return found


def side(size: int) -> int:
    """The shorter side, in pixels, that a frame is resized to before its central crop of `size` is taken."""
    return round(MARGIN * size)


def _plan_pairs(source: Source, config: Config, chosen: dict[str, list[Photo]]) -> dict[str, Part]:
    trained, frames, around = config.blur.severity, config.blur.frames, {}
    for name, photos in chosen.items():
        everything = source.splits[name]
        known = dict(zip(map(id, everything), windows(everything, frames), strict=True))
        around[name] = [known[id(photo)] for photo in photos]
    needed = SPLITS if trained == "severe" else SPLITS[1:]
    few = [name for name in needed if len(chosen[name]) - around[name].count(None) < 2]
    if few and trained == "severe":
        raise S3EError(
            f"{source.root}: blur.severity=severe needs {frames} consecutive frames, which fewer than 2 pairs of the "
            f"{few[0]} split have; --set blur.severity=released."
        )
    parts = {}
    for name, photos in chosen.items():
        severities = (trained,) if name == "train" else PAIRED[:1] if few else PAIRED
        whole = config.data.whole_frames and name == "test"
        shape = _frame_shape(photos) if whole else (config.data.size, config.data.size, 3)
        severe = around[name] if "severe" in severities else []
        parts[name] = Part(photos, severities, shape, severe, whole)
    return parts


def _frame_shape(photos: list[Photo]) -> tuple[int, int, int]:
    """Height, width and 3 of frames that must have one size (found in their headers)."""
    sizes: dict[tuple[int, int], Path] = {}
    for photo in photos:
        with Image.open(photo.path) as image:
            sizes.setdefault(image.size, photo.path)
    if len(sizes) > 1:
        shown = [f"{path} has {width} x {height} pixels" for (width, height), path in sizes.items()]
        what = f"whole frames need one size, {' but '.join(shown)}"
        raise S3EError(f"{what}: --set data.whole_frames=false.")
    width, height = next(iter(sizes))
    return height, width, 3


def _check_severity(source: Source, config: Config) -> None:
    known = PAIRED if source.paired else tuple(SEVERITIES)
    what = "pairs of blurred and sharp frames" if source.paired else "sharp photos alone"
    if config.blur.severity not in known:
        raise S3EError(
            f"blur.severity is '{config.blur.severity}', but {source.root} holds {what}: choose {' or '.join(known)} "
            f"(--set blur.severity={known[-1]})."
        )


def _protocol(source: Source, config: Config, severities: Sequence[str]) -> str:
    """One sentence for tables, without a full stop: where splits, blurred frames and severe ones come from."""
    if not source.paired:
        return source.protocol
    size = config.data.size
    severe = f"severe = mean of {config.blur.frames} windows (variant B, released frames)"
    test = f"tested on central {size}-px crops"
    if config.data.whole_frames:
        trained = f"trained on crops of frames with a shorter side of {side(size)} px"
        test = f"{trained}, tested on whole frames of full size"
    return ", ".join([source.protocol, *([severe] if "severe" in severities else []), test])


# --- the cache ---


def prepare_arrays(
    source: Source,
    config: Config,
    folder: Path | None = None,
    jobs: int = 0,
    progress: Progress = no_progress,
) -> Path:
    """Make the arrays of a source, or find them made; returns their folder (by default one below `runs/cache`).

    `jobs` processes, 0 for all cores: the bytes do not depend on it. Raises `S3EError` if settings and source do not
    fit, if the disk is too small (found before the work; what was done is kept), or if `folder` holds something else.
    """
    parts = plan(source, config)
    key = cache_key(source, config, parts)
    default = utils.RUNS / "cache" / f"{source.root.resolve().name}-{_digest(key)[:8]}"
    folder = (folder or default).resolve()
    building = folder.with_name(f"{folder.name}.part")
    if _is_made(folder, key):
        return folder
    lock = folder.with_name(f".{folder.name}.lock")
    with _writing(folder), utils.lock_file(lock, lambda owner: None):
        if not _is_made(folder, key):  # another process may have made it meanwhile
            _begin(building, key)
            _fill(building, parts, config, jobs, progress)
            _finish(building, folder, parts, key)
    return folder


def cache_key(source: Source, config: Config, parts: dict[str, Part]) -> dict[str, Any]:
    """What the arrays depend on: settings, code, and ids, sizes and times of the files."""
    used = ("frames",) if source.paired else ("seed", "gamma", "noise")
    settings = {name: getattr(config.blur, name) for name in used}
    settings |= {"size": config.data.size, "transforms": "" if source.paired else blur.TRANSFORMS}
    files = {}
    for name, part in parts.items():
        settings[name] = [*part.severities, *part.shape]
        paths = [(photo.path, photo.blurred) for photo in part.photos] + part.windows
        stamps = [[_stamp(path) for path in group or () if path] for group in paths]
        files[name] = [[photo.id for photo in part.photos], stamps]
    code = utils.code_digest(sys.modules[__name__], decoding, blur, utils)
    return {"settings": settings, "code": code, "files": _digest(files)}


def _is_made(folder: Path, key: dict[str, Any]) -> bool:
    if not folder.exists() or folder.is_dir() and not any(folder.iterdir()):
        return False
    record = read_json(folder / "cache.json") if (folder / "cache.json").is_file() else {}
    there = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    same = record.get("files", {}).items() <= there.items()
    if record.get("key") != key or not same:
        what = "is not, or no longer, the cache of these photos and settings"
        raise S3EError(f"{folder} {what}: delete it or give another --out.")
    return True


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = "(--out, or the variable S3E_RUNS)"
        what = f"cannot be written ({error.strerror or error}): choose another place {place}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            again = "make room and repeat, which goes on where it stopped"
            raise S3EError(
                f"{folder}: the disk is full; {again}, or choose another place {place}."
            ) from None
        raise S3EError(f"{folder} {what}.") from None


def _begin(building: Path, key: dict[str, Any]) -> None:
    """Empty the folder, unless it holds what an interrupted preparation of the same cache left."""
    building.mkdir(exist_ok=True)
    plan_file = building / "plan.json"
    ours = plan_file.is_file() and read_json(plan_file) == key
    for path in building.iterdir():
        if not ours or path.name.startswith("."):  # temporary files of a killed process
            path.unlink()
    write_json(plan_file, key)


def _fill(
    building: Path, parts: dict[str, Part], config: Config, jobs: int, progress: Progress
) -> None:
    """Make the views that are not there yet."""
    views = [(name, view) for name, part in parts.items() for view in ("sharp", *part.severities)]
    files = {(name, view): building / f"{name}_{view}.npy" for name, view in views}
    todo = [key for key in views if not (files[key].is_file() and _facts(files[key]).is_file())]
    needed = sum(math.prod((len(parts[name].photos), *parts[name].shape)) for name, _ in todo)
    if needed > (free := shutil.disk_usage(building).free):
        needed, free = tqdm.format_sizeof(needed, "B"), tqdm.format_sizeof(free, "B")
        raise S3EError(
            f"{building} needs {needed}, but {free} are free: make room, take fewer photos (data.train) or another "
            "place (--out, or the variable S3E_RUNS)."
        )
    total = sum(len(parts[name].photos) for name, _ in todo)
    with workers(jobs, total // CHUNK) as run:
        made = (
            row
            for name, view in todo
            for row in _make_view(run, files[name, view], files[name, "sharp"], parts[name], view, config)
        )  # fmt: skip
        for _ in progress(made, total=total, desc="preparing photos", unit="", leave=False):
            pass


def _facts(array: Path) -> Path:
    return array.with_suffix(".json")


def _make_view(
    run: Callable, target: Path, sharp: Path, part: Part, view: str, config: Config
) -> Iterator[int]:
    """Write one view of a split, not through a memory map, which a full disk would turn into a crash; yields its rows."""
    starts = range(0, len(part.photos), CHUNK)
    pieces = [part.rows(start, start + CHUNK) for start in starts]
    make = functools.partial(_make_rows, config, view, sharp)
    extents, scores, shape = [], [], (len(part.photos), *part.shape)
    with atomic_write(target) as temporary, open(temporary, "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for images, some_extents, some_scores in run(make, starts, pieces):
            file.write(images.tobytes())
            extents += some_extents
            scores += some_scores
            yield from range(len(images))
    write_json(_facts(target), {"extents": extents, "psnr": scores})


def _make_rows(
    config: Config, view: str, sharp_file: Path, start: int, part: Part
) -> tuple[np.ndarray, list[float | None], list[float | None]]:
    """One view of some photos: uint8 (N, H, W, 3), kernel extents in pixels and input PSNR in dB, None if unknown."""
    size, paired, unknown = (
        config.data.size,
        bool(part.photos[0].blurred),
        [None] * len(part.photos),
    )

    @functools.cache
    def load(path: Path) -> np.ndarray:
        image = load_whole(path) if part.whole else load_photo(path, size, paired and side(size))
        if image.shape != part.shape:
            shapes = [f"{shape[1]} x {shape[0]}" for shape in (image.shape, part.shape)]
            what = f"this frame has {shapes[0]} pixels, not {shapes[1]}"
            raise S3EError(f"{path}: {what}: replace the file or remove the pair.")
        return image

    if view == "sharp":
        return np.stack([load(photo.path) for photo in part.photos]), unknown, unknown
    sharp = np.array(np.load(sharp_file, mmap_mode="r")[start : start + len(part.photos)])
    extents = unknown
    if not paired:
        ids, how = [photo.id for photo in part.photos], config.blur
        images, drawn = blur_batch(sharp, ids, view, how.seed, how.gamma, how.noise)
        extents = [round(float(value), 3) for value in drawn]
    elif view == "released":
        images = np.stack([load(photo.blurred) for photo in part.photos])
    else:  # the mean of several released frames, as they are coded (specification 4.3, variant B)
        images = np.zeros_like(sharp)
        for i, window in enumerate(part.windows):
            if window:
                mean = np.mean([load(path) for path in window], axis=0, dtype=np.float64)
                images[i] = np.rint(mean)
    scores = [psnr(*pair) for pair in zip(images, sharp, strict=True)]
    absent = part.missing.get(view, ())
    return images, extents, [None if i in absent else score for i, score in enumerate(scores)]


def _finish(building: Path, folder: Path, parts: dict[str, Part], key: dict[str, Any]) -> None:
    """Join the facts of all views, and give the folder its name."""
    files = {}
    for name, part in parts.items():
        facts = {view: read_json(building / f"{name}_{view}.json") for view in part.severities}
        columns = {
            field: {view: facts[view][field] for view in facts} for field in ("extents", "psnr")
        }
        ids = [photo.id for photo in part.photos]
        write_json(building / f"{name}.json", {"ids": ids, "missing": part.missing, **columns})
        views = [f"{name}_{view}.npy" for view in ("sharp", *part.severities)]
        files |= {file: (building / file).stat().st_size for file in (f"{name}.json", *views)}
    shapes = {name: (len(part.photos), *part.shape) for name, part in parts.items()}
    write_json(building / "cache.json", {"key": key, "files": files, "shapes": shapes})
    building.rename(folder)
    for path in (folder / "plan.json", *folder.glob("*_*.json")):
        path.unlink()


# --- the corpus of a study ---


def prepare_corpus(config: Config, folder: Path, progress: Progress = no_progress) -> Corpus:
    """Draw or decode every photo, blur it, encode captions and trees, and write all of it to `folder`.

    Photos come from the cache of their folder, which is made first where it is not there. Training photos have the
    configured severity, validation and test photos all of them. Raises `S3EError` for a data folder that cannot be
    used, and for broken photos unless `data.skip_broken` leaves them out.
    """
    prepare = _prepare_scenes if config.data.source == "scenes" else _prepare_photos
    about, records = prepare(config, folder, progress)
    for split, record in records.items():
        record["parses"] = parse_all(record["captions"])
        write_json(folder / f"{split}.json", record)
    if about["captioned"]:
        write_vocabulary(config, records["train"], folder)
    write_json(folder / "corpus.json", about)
    return load_corpus(folder)


def _prepare_scenes(config: Config, folder: Path, progress: Progress) -> tuple[dict, dict]:
    data, how, records = config.data, config.blur, {}
    for split in progress(SPLITS, desc="splits"):
        scenes = make_split(split, getattr(data, split), data.size, data.texture, data.seed)
        sharp, ids = np.stack([scene.image for scene in scenes]), [scene.id for scene in scenes]
        arrays = {"sharp": sharp, "labels": np.stack([scene.label_map for scene in scenes])}
        extents, scores = {}, {}
        for severity in (how.severity,) if split == "train" else SEVERITIES:
            images, drawn = blur_batch(sharp, ids, severity, how.seed, how.gamma, how.noise)
            arrays[severity] = images
            extents[severity] = [round(float(value), 3) for value in drawn]
            scores[severity] = [psnr(*pair) for pair in zip(images, sharp, strict=True)]
        for name, array in arrays.items():
            write_array(folder / f"{split}_{name}.npy", array)
        captions = [list(scene.captions) for scene in scenes]
        trees = [list(scene.tree.nodes) for scene in scenes]
        facts = {"extents": extents, "psnr": scores, "missing": {}}
        records[split] = {"ids": ids, "captions": captions, "trees": trees, **facts}
    about = {"severities": list(SEVERITIES), "categories": list(CATEGORIES), "captioned": True}
    return {**about, "protocol": "generated scenes", "left_out": [], "notes": []}, records


def _prepare_photos(config: Config, folder: Path, progress: Progress) -> tuple[dict, dict]:
    source = read_data(config, progress=progress)
    cache = prepare_arrays(source, config, progress=progress)
    photos = [photo for part in source.splits.values() for photo in part]
    captions = {photo.id: list(photo.captions) for photo in photos}
    records, notes = {}, list(source.notes)
    for split in SPLITS:
        record = read_json(cache / f"{split}.json")
        for view in ("sharp", *record["psnr"]):
            _link(cache / f"{split}_{view}.npy", folder / f"{split}_{view}.npy")
        record |= {"captions": [captions[photo] for photo in record["ids"]], "trees": None}
        records[split] = record
        for name, rows in record["missing"].items():
            what = f"{len(rows)} have no {name} view (too few neighbours in their video)"
            notes.append(f"of {len(record['ids'])} {split} pairs {what}")
    severities = list(records["test"]["psnr"])  # by name, which is mildest first
    about = {
        "severities": severities,
        "protocol": _protocol(source, config, severities),
        "categories": [],
        "captioned": source.captioned,
        "left_out": [str(problem) for problem in source.problems],
        "notes": notes,
    }
    return about, records


def _link(source: Path, target: Path) -> None:
    """Put a hard link to `source` at `target`: no second copy on the disk (a copy where links are not possible)."""
    with atomic_write(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def parse_all(captions: list[list[str]]) -> list[list[list[str] | None]]:
    """The seven labels of every caption of every photo; None where a caption names nothing."""
    trees = [[parse_caption(text) for text in texts] for texts in captions]
    return [[tree and list(tree.nodes) for tree in row] for row in trees]


def write_vocabulary(config: Config, record: dict, folder: Path) -> None:
    """Write `vocabulary.json`: words and tree labels of the training `record`. Raises `S3EError` if there are none."""
    captions = [text for texts in record["captions"] for text in texts]
    trees = [tree_of(nodes) for row in record["parses"] for nodes in row if nodes]
    if not trees:
        what = "no training caption names anything that can be seen"
        raise S3EError(f"{what}: are the captions English sentences?")
    text = config.text
    words = Vocabulary.build(captions, min_count=text.min_count)
    limits = text.entities, text.relations, text.label_min_count
    labels = TreeVocabulary.build(trees, *limits)
    content = {"words": words.to_dict(), "labels": labels.to_dict(), "max_words": text.max_words}
    write_json(folder / "vocabulary.json", content)


def write_summary(corpus: Corpus, config: Config, folder: Path) -> dict[str, float]:
    """Write `references.json`, `severity.csv`, `samples.npz` and `samples.json`; returns numbers for `metrics.json`."""
    references = {
        split.name: dict(zip(split.ids, split.captions, strict=True))
        for split in (corpus.val, corpus.test)
    }
    write_json(folder / "references.json", references if corpus.captioned else {})
    table = severity_table(corpus)
    with atomic_write(folder / "severity.csv") as temporary:
        table.to_csv(temporary, index=False)
    _write_samples(corpus, config, folder)
    means = table.query("split == 'val'").groupby("severity")["psnr_blurred"].mean()
    metrics = {f"{name}_photos": len(split) for name, split in corpus.splits.items()}
    if corpus.captioned:
        metrics |= {"words": len(corpus.words), "entities": len(corpus.labels.entities) - 1}
        metrics["relations"] = len(corpus.labels.relations) - 1
    return metrics | {f"val_{name}_psnr_blurred": float(value) for name, value in means.items()}


def _write_samples(corpus: Corpus, config: Config, folder: Path) -> None:
    """The first validation photos that come in every severity, with their kernels where they are known."""
    split = corpus.val
    rows = split.spread(split.rows(*corpus.severities))[: config.evaluation.samples]
    ids = [split.ids[i] for i in rows]
    arrays = {"ids": np.array(ids), "sharp": split.sharp[rows]}
    for severity in corpus.severities:
        arrays[severity] = split.blurred[severity][rows]
        if severity in corpus.synthetic:
            size, seed = config.data.size, config.blur.seed
            kernels = [kernel_for(photo, severity, size, seed) for photo in ids]
            arrays[f"kernel_{severity}"] = np.stack(pad_kernels(kernels))
    records = []
    for i in rows:
        nodes = [list(tree.nodes) if tree else [NULL] * 7 for tree in split.parses[i]]
        records.append({"id": split.ids[i], "captions": split.captions[i], "trees": nodes})
    with atomic_write(folder / "samples.npz") as temporary:
        np.savez_compressed(temporary, **arrays)
    write_json(folder / "samples.json", records)


def pad_kernels(kernels: list[np.ndarray]) -> list[np.ndarray]:
    """Zero-pad centred kernels of odd sides to one common odd side."""
    side = max(max(kernel.shape) for kernel in kernels)
    return [np.pad(kernel, [((side - n) // 2,) * 2 for n in kernel.shape]) for kernel in kernels]


# --- how strong the blur is: the two tables of specification 3.8, measured again beside its own figures ---

TWO, LIGHT, FULL = (0.003, 0.005), (0.1, 0.5, 1.0), (1.0,)
EXTENTS = (  # path length, explorations; specified mean extent, first-half extent and RMS radius
    (60, MIX, 17.0, 12.7, 5.6),
    (60, (0.003,), 24.5, 16.5, 8.4),
    (60, (0.01,), 13.3, 10.6, 4.4),
    (96, MIX, 22.2, 18.1, 7.3),
    (128, MIX, 28.7, 23.4, 9.4),
    (128, (0.005,), 32.2, 26.5, 10.6),
    (128, (0.003,), 41.6, 31.8, 13.6),
    (192, (0.003,), 55.0, 42.4, 18.3),
)
PSNRS = (  # image side, path length, explorations, exposure fractions; specified mean input PSNR
    (256, 60, MIX, LIGHT, 25.1),
    (256, 60, MIX, FULL, 22.6),
    (256, 96, MIX, FULL, 21.7),
    (256, 96, TWO, FULL, 20.4),
    (256, 128, TWO, FULL, 19.9),
    (256, 160, TWO, FULL, 19.5),
    (128, 30, MIX, LIGHT, 26.8),
    (128, 64, TWO, FULL, 19.5),
    (64, 15, MIX, LIGHT, 28.9),
    (64, 24, TWO, FULL, 20.3),
    (64, 32, TWO, FULL, 19.6),
    (64, 48, TWO, FULL, 18.9),
)


def extent_table(count: int = 600, seed: int = 0) -> pd.DataFrame:
    """Extents in pixels of `count` trajectories a row: mean, p10, p90, mean of the first half, mean RMS radius.

    Beside them the specification's means; `deviation` is the mean's, as a share of the specification's.
    """
    rows = []
    for length, explorations, *specified in EXTENTS:
        paths = _paths(length, explorations, count, "extent table", seed)
        extents = np.array([extent(path) for path in paths])
        halves = [extent(path[: len(path) // 2]) for path in paths]
        row = {"L": float(length), "e": _name(explorations), "extent": extents.mean()}
        row |= {f"p{share}": np.percentile(extents, share) for share in (10, 90)}
        row |= {"half": np.mean(halves), "RMS radius": paths.std(axis=1).mean()}
        names = ("specified extent", "specified half", "specified RMS radius")
        rows.append(row | dict(zip(names, specified, strict=True)))
    table = pd.DataFrame(rows)
    return table.assign(deviation=table["extent"] / table["specified extent"] - 1)


def input_psnr_table(count: int = 120, seed: int = 0) -> pd.DataFrame:
    """PSNR in dB of scikit-image's photographs `PHOTOS`, each blurred with the same `count` kernels a row.

    Every exploration and every fraction has its share of the kernels. `deviation` is from the specification, in dB.
    """
    rows = []
    for size, length, explorations, fractions, specified in PSNRS:
        paths = _paths(length, explorations, count, "psnr table", seed, size)
        kernels = [psf(path, fractions[i % len(fractions)]) for i, path in enumerate(paths)]
        views = [photograph(name, size) for name in PHOTOS]
        errors = [[np.mean((blur_image(v, kernel) - v) ** 2) for v in views] for kernel in kernels]
        values = -10 * np.log10(np.array(errors, float))
        setting = {"size": size, "L": float(length), "e": _name(explorations)}
        setting["fractions"] = ", ".join(f"{value:g}" for value in fractions)
        measured = {"kernel side": np.mean([len(kernel) for kernel in kernels])}
        measured |= {"PSNR": values.mean(), "sd": values.std(), "specified PSNR": specified}
        rows.append(setting | measured)
    table = pd.DataFrame(rows)
    return table.assign(deviation=table["PSNR"] - table["specified PSNR"])


def _paths(length: int, explorations: Sequence[float], count: int, *key: object) -> np.ndarray:
    """Trajectories in which every exploration has its share."""
    shares = [len(part) for part in np.array_split(range(count), len(explorations))]
    drawn = []
    for share, exploration in zip(shares, explorations, strict=True):
        generator = utils.rng(*key, length, exploration)
        drawn.append(trajectories(share, length, exploration, generator))
    return np.concatenate(drawn)


def _name(explorations: tuple[float, ...]) -> str:
    return "mix" if explorations == MIX else ", ".join(f"{value:g}" for value in explorations)


# --- the commands `data check` and `data prepare` ---


def check(root: Path, subset: Subset = "blur", jobs: int = 0, skip_broken: bool = False) -> int:
    """Print what a data folder holds, and which of its files are broken; 0 nothing is broken or may be, else 1.

    Raises `S3EError` for a folder that cannot be used.
    """
    source = read_source(root, subset)
    _say("folder", source.root)
    _say("holds", HOLDS[source.kind])
    _say("protocol", source.protocol)
    seen = survey(source, jobs, tqdm)
    sizes = sorted((info.size for info in seen.infos.values()), key=lambda size: math.prod(size))
    places = {"smallest": 0, "median": (len(sizes) - 1) // 2, "largest": -1} if sizes else {}
    shown = [f"{name} {sizes[k][0]} x {sizes[k][1]}" for name, k in places.items()]
    _say("sizes", ", ".join(shown) or "no photo can be read")
    problems = source.problems + seen.problems
    for problem in problems:
        _say("problem", problem)
    kept = usable(source, seen, skip_broken=True)
    unusual: dict[str, list[str]] = {}
    for name, info in seen.infos.items():
        for note in info.notes:
            unusual.setdefault(note, []).append(name)
    for note, ids in sorted(unusual.items()):
        few = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
        _say("note", f"{note}, converted when read: {len(ids)} ({few})")
    for note in kept.notes:
        _say("note", note)
    for label, line in zip_longest(["splits"], _split_table(kept), fillvalue=""):
        _say(label, line)
    if not problems:
        _say("result", "nothing is broken")
        return 0
    remedy = "; mend them, or allow that with --skip-broken (data.skip_broken in a run)"
    count = f"{len(problems)} broken, left out of the splits above"
    _say("result", count + ("" if skip_broken else remedy))
    return 0 if skip_broken else 1


def _say(label: str, text: object) -> None:
    print(f"{label:<10}{text}", flush=True)


def _split_table(source: Source) -> list[str]:
    """Photos of each split, with their captions or sequences, in columns."""
    columns: dict[str, Callable] = {"pairs" if source.paired else "photos": len}
    if source.captioned:
        columns["captions"] = lambda photos: sum(len(photo.captions) for photo in photos)
    if source.paired:
        columns["sequences"] = lambda photos: len({photo.sequence for photo in photos})
    lines = ["     " + "".join(f"{name:>11}" for name in columns)]
    for split, photos in source.splits.items():
        counts = "".join(f"{count(photos):>11}" for count in columns.values())
        lines.append(f"{split:<5}{counts}")
    return lines


def prepare(
    root: Path,
    profile: str | None = None,
    size: int | None = None,
    severity: str | None = None,
    subset: str | None = None,
    settings: Sequence[str] = (),
    jobs: int = 0,
    skip_broken: bool = False,
    out: Path | None = None,
) -> int:
    """Make the cache of a data folder, or say that it is there; returns 0.

    With `profile` these are the arrays that the pipeline reads under it; without, all photos of the folder. `settings`
    are texts "section.name=value". Raises `S3EError` for a folder or settings that cannot be used.
    """
    overrides = {} if profile else {f"data.{split}": 0 for split in SPLITS}
    chosen = {"data.size": size, "data.subset": subset, "blur.severity": severity}
    overrides |= {name: value for name, value in chosen.items() if value is not None}
    overrides |= {"data.skip_broken": True} if skip_broken else {}
    overrides |= dict(parse_setting(text) for text in settings)
    config = load_config(profile or "laptop", str(root), overrides=overrides)
    source = read_data(config, jobs, tqdm)
    for label, lines in {"left out": source.problems, "note": source.notes}.items():
        for line in lines:
            print(f"{label}: {line}")
    begin, made = time.monotonic(), []

    def bar(rows: Any, **options: Any) -> Any:
        made.append(True)
        return tqdm(rows, **options)

    folder = prepare_arrays(source, config, out, jobs, bar)
    how = f"made in {time.monotonic() - begin:.0f} s" if made else "already there"
    record = read_json(folder / "cache.json")
    print(f"cache: {folder} ({how}, {sum(record['files'].values()) / 1e6:,.0f} MB)")
    for name in SPLITS:
        count, height, width, _ = record["shapes"][name]
        about = read_json(folder / f"{name}.json")
        there = {view: count - len(about["missing"].get(view, ())) for view in about["psnr"]}
        views = ", ".join(f"{view} ({number:,})" for view, number in there.items())
        print(f"{name:>5}: {count:,} photos of {width} x {height} pixels, sharp, {views}")
    return 0
