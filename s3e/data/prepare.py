"""Decode, resize and blur a data folder once; write the corpus of a study."""

import base64
import errno
import hashlib
import json
import math
import multiprocessing
import os
import shutil
import signal
import threading
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from s3e import blur, utils
from s3e.blur import MIX, SEVERITIES, blur_batch, blur_image, extent, kernel_for, psf, trajectories
from s3e.captions.parser import parse_caption
from s3e.captions.tree import NULL, TreeVocabulary, Vocabulary
from s3e.config import PROFILES, Blur, Config, Data, load_config, parse_setting
from s3e.data import photos as photo_code
from s3e.data import readers
from s3e.data.corpus import Corpus, load_corpus, severity_table, synthetic, tree_of
from s3e.data.photos import (
    PHOTOS,
    BrokenPhoto,
    Problem,
    central_crop,
    decode,
    load_photo,
    load_whole,
    photograph,
)
from s3e.data.readers import (
    PAIRED,
    SPLITS,
    Look,
    Photo,
    Source,
    Subset,
    Survey,
    check_splits,
    find_raw,
    fingerprint,
    open_source,
    raw_shift,
    raw_window,
    refuse,
    separate,
    windows,
    without_lent,
)
from s3e.data.scenes import CATEGORIES, make_split
from s3e.utils import (
    RUNS,
    S3EError,
    atomic_write,
    code_digest,
    cores,
    psnr,
    read_json,
    stable_hash,
    write_array,
    write_json,
)
from s3e.utils import rng as rng

WORTH = 4  # tasks a process must have before starting it pays, where the number of processes is left open


def in_processes(
    function: Callable[[Any], Any], tasks: Sequence[Any], jobs: int = 0
) -> Iterator[Any]:
    """The results of `function` over `tasks`, in the order in which they are ready.

    `jobs` processes, 0 for one a core where the work is worth it; with one, the work is done right here. What the
    function raises is raised here, and tasks that have not begun are dropped.
    """
    if jobs < 0:
        raise S3EError(f"--jobs {jobs}: give a number of processes, or 0 for one a core.")
    jobs = min(jobs, len(tasks)) if jobs else min(cores(), len(tasks) // WORTH)
    if jobs <= 1:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context(
        "spawn"
    )  # a notebook's kernel has threads: it must not be forked
    with ProcessPoolExecutor(jobs, context, _begin_worker) as pool:
        try:
            for future in as_completed([pool.submit(function, task) for task in tasks]):
                yield future.result()
        except BrokenProcessPool:
            raise S3EError(
                f"one of {jobs} processes was killed (for want of memory, or because a script began them outside of "
                "`if __name__ == '__main__'`): repeat with fewer (--jobs 1)."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """In each process: leave Ctrl-C to the one that began it, compute on one core, and end when that one is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


Window = (
    tuple[Path, ...] | None
)  # the frames whose mean is a pair's severe view; None where the video has too few
MARGIN = 1.4  # shorter side of a frame over the side of its central crop: 640x360 and 256 (specification 3.4)


@dataclass(frozen=True)
class Part:
    """One split: its photos, their blurred views, and the shape (height, width, 3) of one photo.

    Where pairs have a severe view, `windows` has one entry for each; `whole` means whole frames, not central crops.
    """

    photos: list[Photo]
    severities: tuple[str, ...]
    shape: tuple[int, int, int]
    windows: list[Window] = field(default_factory=list)
    whole: bool = False

    @property
    def missing(self) -> dict[str, list[int]]:
        """Rows without a severity: pairs with too few neighbours for a severe view."""
        return (
            {"severe": rows}
            if (rows := [i for i, window in enumerate(self.windows) if window is None])
            else {}
        )


def read_data(
    config: Config, jobs: int = 0, progress: Callable = lambda items, **_: items
) -> Source:
    """The data folder of a configuration, with photos that cannot be used and near-duplicates across splits taken out.

    Every photo is looked at once; what was seen is kept beside the caches. Validation and test photos that the borrowed
    tree was trained on (`data.captioned`) are taken out as well. Raises `S3EError` as `open_source` does,
    for broken photos unless `data.skip_broken`, and for a severity that the data do not have.
    """
    data = config.data
    source = open_source(data.source, data.subset, data.skip_broken)
    check_severity(source, config)
    seen = survey(source, survey_folder(source.root), jobs, progress)
    source = usable(source, seen, data.skip_broken)
    if source.captioned or data.captioned == "scenes":
        return source
    lender = open_source(data.captioned, data.subset, data.skip_broken)
    lent = survey(lender, survey_folder(lender.root), jobs, progress)
    return unlent(source, seen, usable(lender, lent, data.skip_broken), lent)


def check_severity(source: Source, config: Config) -> None:
    """Raise `S3EError` if `blur.severity` does not exist for this kind of data."""
    known = PAIRED if source.paired else tuple(SEVERITIES)
    what = "pairs of blurred and sharp frames" if source.paired else "sharp photos alone"
    if config.blur.severity not in known:
        raise S3EError(
            f"blur.severity is '{config.blur.severity}', but {source.root} holds {what}: choose {' or '.join(known)} "
            f"(--set blur.severity={known[-1]})."
        )


def plan(source: Source, config: Config) -> dict[str, Part]:
    """What each split will hold under `data.train`, `data.val` and `data.test` (0: all; pairs: spread over the videos).

    Raises `S3EError` for a severity that does not fit, too few photos, or test frames of unequal sizes.
    """
    check_severity(source, config)
    chosen = {name: _choose(source, config, name) for name in SPLITS}
    if source.paired:
        return _pairs(source, config, chosen)
    shape, trained = (config.data.size, config.data.size, 3), (config.blur.severity,)
    return {
        name: Part(chosen[name], trained if name == "train" else tuple(SEVERITIES), shape)
        for name in SPLITS
    }


def protocol(source: Source, config: Config, severities: Sequence[str]) -> str:
    """One sentence for tables, without a full stop: where splits, blurred frames and severe ones come from."""
    if not source.paired:
        return source.protocol
    crops = f"central {config.data.size}-px crops"
    variant = {"released": "B, released frames", "raw": "A, raw frames in linear light"}[
        config.blur.average
    ]
    severe = (
        [f"severe = mean of {config.blur.frames} windows (variant {variant})"]
        if "severe" in severities
        else []
    )
    trained = f"trained on crops of frames with a shorter side of {side(config.data.size)} px"
    test = (
        f"{trained}, tested on whole frames of full size"
        if config.data.whole_frames
        else f"tested on {crops}"
    )
    return ", ".join([source.protocol, *severe, test])


def side(size: int) -> int:
    """The shorter side, in pixels, that a frame is resized to before its central crop of `size` is taken."""
    return round(MARGIN * size)


def _choose(source: Source, config: Config, name: str) -> list[Photo]:
    """The first photos of a split; pairs at equal distances."""
    photos = source.splits[name]
    limit = min(getattr(config.data, name) or len(photos), len(photos))
    if limit < 2:
        raise S3EError(
            f"{source.root}: fewer than 2 photos for the {name} split: set data.{name} to 0 (all) or more."
        )
    return (
        [photos[i * len(photos) // limit] for i in range(limit)]
        if source.paired
        else photos[:limit]
    )


def _pairs(source: Source, config: Config, chosen: dict[str, list[Photo]]) -> dict[str, Part]:
    trained, frames = config.blur.severity, config.blur.frames
    windows = {name: _windows(source, config, name, chosen[name]) for name in SPLITS}
    needed = SPLITS if trained == "severe" else SPLITS[1:]
    short = next(
        (name for name in needed if len(chosen[name]) - windows[name].count(None) < 2), None
    )
    if short and trained == "severe":
        raise S3EError(
            f"{source.root}: blur.severity=severe needs {frames} consecutive frames, which fewer than 2 pairs of the "
            f"{short} split have; --set blur.severity=released."
        )
    parts = {}
    for name, photos in chosen.items():
        severities = (trained,) if name == "train" else PAIRED[:1] if short else PAIRED
        whole = config.data.whole_frames and name == "test"
        shape = _frame_shape(photos) if whole else (config.data.size, config.data.size, 3)
        parts[name] = Part(
            photos, severities, shape, windows[name] if "severe" in severities else [], whole
        )
    return parts


def _windows(source: Source, config: Config, name: str, photos: list[Photo]) -> list[Window]:
    """The frames that each pair's severe view is the mean of: of the whole split, also where few pairs are chosen."""
    if config.blur.average == "raw":
        root, videos = find_raw(source.root), dict.fromkeys(photo.sequence for photo in photos)
        shift = {
            name: raw_shift([photo for photo in photos if photo.sequence == name], root)
            for name in videos
        }
        found = [
            raw_window(photo, config.blur.frames, root, shift[photo.sequence]) for photo in photos
        ]
        return [None if window is None else tuple(window) for window in found]
    everything = source.splits[name]
    around = dict(
        zip(
            [photo.id for photo in everything], windows(everything, config.blur.frames), strict=True
        )
    )
    found = [around[photo.id] for photo in photos]
    return [
        None if window is None else tuple(photo.blurred for photo in window) for window in found
    ]


def _frame_shape(photos: list[Photo]) -> tuple[int, int, int]:
    """Height, width and 3 of frames that must have one size (told from their headers)."""
    sizes: dict[tuple[int, int], Path] = {}
    for photo in photos:
        with Image.open(photo.path) as image:
            sizes.setdefault(image.size, photo.path)
    if len(sizes) > 1:
        shown = " but ".join(
            f"{path} has {width} x {height} pixels" for (width, height), path in sizes.items()
        )
        raise S3EError(f"whole frames need one size, {shown}: --set data.whole_frames=false.")
    width, height = next(iter(sizes))
    return height, width, 3


GAMMA = 2.2  # raw frames are averaged in linear light, x^2.2
LINEAR = ((np.arange(256) / 255) ** GAMMA).astype(np.float32)


class View(NamedTuple):
    """Photos at one severity: uint8 (N, H, W, 3); per photo the kernel extent in pixels and the input PSNR in dB.

    `extents` is None where no kernel was drawn, `psnr` where the photo does not have this severity.
    """

    images: np.ndarray
    extents: list[float | None]
    psnr: list[float | None]


def blurred_views(sharp: np.ndarray, ids: Sequence[str], severity: str, blur: Blur) -> View:
    """Blur sharp photos, uint8 (N, S, S, 3), each with the kernel of its id."""
    images, extents = blur_batch(sharp, ids, severity, blur.seed, blur.gamma, blur.noise)
    return View(images, [round(float(value), 3) for value in extents], _against(sharp, images))


def make_views(part: Part, config: Config) -> tuple[np.ndarray, dict[str, View]]:
    """The sharp photos of a part, uint8 (N, H, W, 3), and their views by severity.

    Raises `S3EError` for a broken file or for frames of unequal sizes.
    """
    if part.photos[0].blurred:
        return _pair_views(part, config.data.size, config.blur)
    sharp = np.stack([load_photo(photo.path, config.data.size) for photo in part.photos])
    ids = [photo.id for photo in part.photos]
    return sharp, {name: blurred_views(sharp, ids, name, config.blur) for name in part.severities}


def _pair_views(part: Part, size: int, blur: Blur) -> tuple[np.ndarray, dict[str, View]]:
    load = cache(load_whole if part.whole else lambda path: load_photo(path, size, side(size)))
    sharp = _stack([load(photo.path) for photo in part.photos], part)
    unknown: list[float | None] = [None] * len(sharp)
    views = {}
    if "released" in part.severities:
        images = _stack([load(photo.blurred) for photo in part.photos], part)
        views["released"] = View(images, unknown, _against(sharp, images))
    if "severe" in part.severities:
        mean = (
            _raw_mean(blur.frames, None if part.whole else size)
            if blur.average == "raw"
            else _released_mean(load)
        )
        blank = np.zeros_like(sharp[0])
        images = _stack(
            [blank if window is None else mean(window) for window in part.windows], part
        )
        scores = zip(_against(sharp, images), part.windows, strict=True)
        views["severe"] = View(
            images, unknown, [None if window is None else score for score, window in scores]
        )
    return sharp, views


def _stack(images: list[np.ndarray], part: Part) -> np.ndarray:
    for image, photo in zip(images, part.photos, strict=True):
        if image.shape != part.shape:
            raise S3EError(
                f"{photo.path}: this frame, its blurred partner or its raw frames have {image.shape[1]} x "
                f"{image.shape[0]} pixels, not {part.shape[1]} x {part.shape[0]}: replace the file or remove the pair."
            )
    return np.stack(images)


def _against(sharp: np.ndarray, images: np.ndarray) -> list[float]:
    return [psnr(*pair) for pair in zip(images, sharp, strict=True)]


def _released_mean(load: Callable[[Path], np.ndarray]) -> Callable[[tuple[Path, ...]], np.ndarray]:
    """Variant B: the mean of released blurred frames, as they are coded."""
    return lambda window: np.rint(
        np.mean([load(path) for path in window], axis=0, dtype=np.float64)
    ).astype(np.uint8)


def _raw_mean(frames: int, size: int | None) -> Callable[[tuple[Path, ...]], np.ndarray]:
    """Variant A: the mean of raw frames in linear light at full size, then cropped as released frames are."""

    @lru_cache(frames)  # neighbouring windows share all but one part
    def light(part: tuple[Path, ...]) -> np.ndarray:
        return sum(LINEAR[load_whole(path)] for path in part)

    def mean(window: tuple[Path, ...]) -> np.ndarray:
        step = len(window) // frames
        parts = [light(window[i : i + step]) for i in range(0, len(window), step)]
        image = np.rint(255 * (sum(parts) / len(window)) ** (1 / GAMMA)).astype(np.uint8)
        return image if size is None else central_crop(Image.fromarray(image), size, side(size))

    return mean


VERSION = code_digest(readers, photo_code)  # of survey.json: looks by other code are not used
DRAFT = 64  # JPEGs are decoded at a smaller scale, no side below this
LOOK_CHUNK = 64  # photos that one process decodes at a time
SAVE_EVERY = 64  # chunks


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
    parts = [waiting[k : k + LOOK_CHUNK] for k in range(0, len(waiting), LOOK_CHUNK)]
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


CHUNK = {False: 64, True: 8}  # photos that are made at once; pairs are large and slow to decode
MAKERS = (
    blur,
    photo_code,
    utils,
    readers,
)  # the code that pixels and input PSNR depend on
Progress = Callable[..., Any]


def prepare_arrays(
    source: Source,
    config: Config,
    folder: Path | None = None,
    jobs: int = 0,
    progress: Progress = lambda items, **_: items,
) -> Path:
    """Make the arrays of a source, or find them made; returns their folder (by default one below `runs/cache`).

    `jobs` processes, 0 for all cores: the bytes do not depend on it. Raises `S3EError` if settings and source do not
    fit, if the disk is too small (told before the work; what was done is kept), or if `folder` holds something else.
    """
    parts = plan(source, config)
    key = cache_key(source, config, parts)
    default = utils.RUNS / "cache" / f"{source.root.resolve().name}-{_digest(key)[:8]}"
    folder = (folder or default).resolve()
    building = folder.with_name(f"{folder.name}.part")
    if is_made(folder, key):
        return folder
    with _writing(folder), _locked(folder.with_name(f".{folder.name}.lock")):
        if not is_made(folder, key):  # another process may have made it meanwhile
            _begin(building, key)
            _reserve(building, parts)
            _fill(building, parts, config, jobs, progress)
            _finish(building, folder, parts, key)
    return folder


def cache_key(source: Source, config: Config, parts: dict[str, Part]) -> dict[str, Any]:
    """What the arrays depend on: settings, code, and ids, sizes and times of the files."""
    names = ("frames", "average") if source.paired else ("seed", "gamma", "noise")
    settings = {name: getattr(config.blur, name) for name in names}
    settings |= {"transforms": blur.TRANSFORMS} if not source.paired else {}
    settings |= {"size": config.data.size, "chunk": CHUNK[source.paired]}
    files = {}
    for name, part in parts.items():
        settings[name] = {"severities": part.severities, "shape": part.shape}
        files[name] = [
            (photo.id, _file_stamp(photo.path), _file_stamp(photo.blurred)) for photo in part.photos
        ]
        files[f"{name} windows"] = [
            window and [_file_stamp(path) for path in window] for window in part.windows
        ]
    return json.loads(
        json.dumps(
            {"settings": settings, "code": utils.code_digest(*MAKERS), "files": _digest(files)}
        )
    )


def is_made(folder: Path, key: dict[str, Any]) -> bool:
    """Whether `folder` is the whole cache with this key; raises `S3EError` if something else is there."""
    if not folder.exists() or folder.is_dir() and not any(folder.iterdir()):
        return False
    record = read_json(folder / "cache.json") if (folder / "cache.json").is_file() else {}
    sizes = {
        name: (folder / name).stat().st_size
        for name in record.get("files", ())
        if (folder / name).is_file()
    }
    if record.get("key") != key or sizes != record["files"]:
        raise S3EError(
            f"{folder} is not, or no longer, the cache of these photos and settings: delete it or give another --out."
        )
    return True


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _file_stamp(path: Path | None) -> tuple[str, int, int] | None:
    if path is None:
        return None
    try:
        stat = path.stat()
    except OSError as error:
        raise S3EError(
            f"{path} cannot be read ({error.strerror}): restore it or remove its entry."
        ) from None
    return path.name, stat.st_size, stat.st_mtime_ns


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise S3EError(
                f"{folder}: the disk is full; make room and repeat, which goes on where it stopped, or choose another "
                "place (--out, or the variable S3E_RUNS)."
            ) from None
        raise S3EError(
            f"{folder} cannot be written ({error.strerror or error}): choose another place (--out, or the variable "
            "S3E_RUNS)."
        ) from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process makes this cache; the lock ends with the process that holds it."""
    with utils.lock_file(path, lambda owner: None):
        yield


def _begin(building: Path, key: dict[str, Any]) -> None:
    """Empty the folder, unless it holds what an interrupted preparation of the same cache left."""
    building.mkdir(exist_ok=True)
    plan_file = building / "plan.json"
    if not plan_file.is_file() or read_json(plan_file) != key:
        for path in building.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_json(plan_file, key)


def _reserve(building: Path, parts: dict[str, Part]) -> None:
    """Make sure of the disk space for all arrays before the work begins."""
    arrays = {f"{name}_{view}.npy": (len(part.photos), *part.shape)
              for name, part in parts.items() for view in ("sharp", *part.severities)}  # fmt: skip
    taken = sum(path.stat().st_blocks * 512 for path in building.glob("*.npy"))
    needed, free = sum(map(math.prod, arrays.values())) - taken, shutil.disk_usage(building).free
    if needed > free:
        raise S3EError(
            f"{building} needs {tqdm.format_sizeof(needed, 'B')}, but {tqdm.format_sizeof(free, 'B')} are free: make "
            "room, take fewer photos (data.train) or another place (--out, or the variable S3E_RUNS)."
        )
    for name, shape in arrays.items():
        if _shape(building / name) != shape:
            shutil.rmtree(
                building / "chunks", ignore_errors=True
            )  # what it says is no longer there
            np.lib.format.open_memmap(building / name, "w+", np.uint8, shape)
        if hasattr(os, "posix_fallocate"):
            with open(building / name, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)


def _shape(path: Path) -> tuple[int, ...] | None:
    try:
        return np.load(path, mmap_mode="r").shape
    except (OSError, ValueError, EOFError):
        return None


@dataclass(frozen=True)
class _Chunk:
    """Some rows of a split, from `start` on."""

    name: str
    start: int
    part: Part

    @property
    def record(self) -> str:
        """The file that says that these rows are done."""
        return f"chunks/{self.name}-{self.start:07}.json"


def _chunks(parts: dict[str, Part]) -> list[_Chunk]:
    chunks = []
    for name, part in parts.items():
        step = CHUNK[bool(part.photos[0].blurred)]
        for i in range(0, len(part.photos), step):
            rows = replace(
                part, photos=part.photos[i : i + step], windows=part.windows[i : i + step]
            )
            chunks.append(_Chunk(name, i, rows))
    return chunks


def _fill(
    building: Path, parts: dict[str, Part], config: Config, jobs: int, progress: Progress
) -> None:
    chunks = _chunks(parts)
    waiting = [chunk for chunk in chunks if not (building / chunk.record).is_file()]
    total, left = (sum(len(chunk.part.photos) for chunk in some) for some in (chunks, waiting))
    made = (
        row
        for count in in_processes(partial(_make, building, config), waiting, jobs)
        for row in range(count)
    )
    for _ in progress(
        made, total=total, initial=total - left, desc="preparing photos", unit="", leave=False
    ):
        pass


def _make(building: Path, config: Config, chunk: _Chunk) -> int:
    """Make the views of a chunk, write them into the arrays, then the record that says so; returns the photos made."""
    sharp, blurred = make_views(chunk.part, config)
    for view, images in {
        "sharp": sharp,
        **{name: view.images for name, view in blurred.items()},
    }.items():
        _write_rows(building / f"{chunk.name}_{view}.npy", chunk.start, images)
    record = {
        field: {name: getattr(view, field) for name, view in blurred.items()}
        for field in ("extents", "psnr")
    }
    write_json(building / chunk.record, record)
    return len(sharp)


def _write_rows(path: Path, start: int, images: np.ndarray) -> None:
    """Write rows into an array's file; not through a memory map, which a full disk would turn into a crash."""
    offset = np.load(path, mmap_mode="r").offset
    with open(path, "r+b") as file:
        file.seek(offset + start * images[0].nbytes)
        file.write(images.tobytes())
        file.flush()
        os.fsync(file.fileno())


def _finish(building: Path, folder: Path, parts: dict[str, Part], key: dict[str, Any]) -> None:
    """Join the records of all chunks, and give the folder its name."""
    for name, part in parts.items():
        records = [read_json(path) for path in sorted((building / "chunks").glob(f"{name}-*.json"))]
        joined = {field: {severity: [value for record in records for value in record[field][severity]]
                          for severity in part.severities} for field in ("extents", "psnr")}  # fmt: skip
        ids = [photo.id for photo in part.photos]
        write_json(building / f"{name}.json", {"ids": ids, "missing": part.missing, **joined})
    shapes = {name: (len(part.photos), *part.shape) for name, part in parts.items()}
    made = [*building.glob("*.npy"), *(building / f"{name}.json" for name in parts)]
    files = {path.name: path.stat().st_size for path in made}
    write_json(building / "cache.json", {"key": key, "files": files, "shapes": shapes})
    building.rename(folder)
    shutil.rmtree(folder / "chunks")
    (folder / "plan.json").unlink()


EVERYTHING = {f"data.{split}": 0 for split in SPLITS}


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("root", type=Path, metavar="ROOT", help="the data folder")
    add(
        "--profile",
        choices=list(PROFILES),
        help="prepare what the pipeline reads under this profile (default: all)",
    )
    add(
        "--size",
        type=int,
        choices=get_args(Data.model_fields["size"].annotation),
        help="side of the photos in pixels",
    )
    severities = get_args(Blur.model_fields["severity"].annotation)
    add(
        "--severity",
        choices=severities,
        help="of the training photos (validation and test come in all)",
    )
    add("--subset", choices=get_args(Subset), help="GoPro: which blurred frames")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="e.g. blur.gamma=2.2",
    )
    add("--jobs", type=int, default=0, metavar="N", help="processes; 0, the default: one a core")
    add("--skip-broken", action="store_true", help="report broken files and leave them out")
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where the cache goes (default: a folder of its own in runs/cache)",
    )


def execute(arguments: Namespace) -> int:
    """Make the cache, or say that it is there. Raises `S3EError` for a folder or settings that cannot be used."""
    config = settings(arguments)
    source = read_data(config, arguments.jobs, tqdm)
    for label, lines in {"left out": source.problems, "note": source.notes}.items():
        for line in lines:
            print(f"{label}: {line}")
    made = False

    def bar(chunks: Any, **options: Any) -> Any:
        nonlocal made
        made = True
        return tqdm(chunks, **options)

    begin = time.monotonic()
    folder = prepare_arrays(source, config, arguments.out, arguments.jobs, bar)
    report(folder, f"made in {time.monotonic() - begin:.0f} s" if made else "already there")
    return 0


def settings(arguments: Namespace) -> Config:
    """The configuration that the arguments ask for."""
    chosen = {
        "data.size": arguments.size,
        "data.subset": arguments.subset,
        "data.skip_broken": arguments.skip_broken or None,
        "blur.severity": arguments.severity,
    }
    overrides = {} if arguments.profile else dict(EVERYTHING)
    overrides |= {name: value for name, value in chosen.items() if value is not None}
    overrides |= dict(parse_setting(text) for text in arguments.set)
    return load_config(arguments.profile or "laptop", str(arguments.root), overrides=overrides)


def report(folder: Path, how: str) -> None:
    """Say where the cache is, what it holds and how large it is."""
    record = read_json(folder / "cache.json")
    print(f"cache: {folder} ({how}, {sum(record['files'].values()) / 1e6:,.0f} MB)")
    for name in SPLITS:
        (count, height, width, _), about = (
            record["shapes"][name],
            read_json(folder / f"{name}.json"),
        )
        views = [
            f"{view} ({count - len(about['missing'].get(view, ())):,})" for view in about["psnr"]
        ]
        print(
            f"{name:>5}: {count:,} photos of {width} x {height} pixels, sharp, {', '.join(views)}"
        )


TWO = (0.003, 0.005)


@dataclass(frozen=True)
class ExtentRow:
    """Trajectory length and explorations; mean extent, first-half extent and RMS radius of specification 3.8."""

    length: float
    explorations: tuple[float, ...]
    extent: float
    half: float
    radius: float


EXTENTS = (
    ExtentRow(60, MIX, 17.0, 12.7, 5.6),
    ExtentRow(60, (0.003,), 24.5, 16.5, 8.4),
    ExtentRow(60, (0.01,), 13.3, 10.6, 4.4),
    ExtentRow(96, MIX, 22.2, 18.1, 7.3),
    ExtentRow(128, MIX, 28.7, 23.4, 9.4),
    ExtentRow(128, (0.005,), 32.2, 26.5, 10.6),
    ExtentRow(128, (0.003,), 41.6, 31.8, 13.6),
    ExtentRow(192, (0.003,), 55.0, 42.4, 18.3),
)


def extent_table(
    rows: Sequence[ExtentRow] = EXTENTS, count: int = 600, seed: int = 0
) -> pd.DataFrame:
    """Extents in pixels of `count` trajectories a row: mean, p10, p90, mean of the first half, mean RMS radius.

    Beside them the specification's means; `deviation` is the mean's, as a share of the specification's.
    """
    return pd.DataFrame([_extent_row(row, count, seed) for row in rows])


def _paths(row: "ExtentRow | PsnrRow", count: int, *key: object) -> np.ndarray:
    """Trajectories in which every exploration has its share."""
    shares = [len(part) for part in np.array_split(range(count), len(row.explorations))]
    generators = [rng(*key, row.length, exploration) for exploration in row.explorations]
    drawn = zip(shares, row.explorations, generators, strict=True)
    return np.concatenate(
        [trajectories(share, row.length, e, generator) for share, e, generator in drawn]
    )


def _extent_row(row: ExtentRow, count: int, seed: int) -> dict[str, float | str]:
    paths = _paths(row, count, "extent table", seed)
    extents = np.array([extent(path) for path in paths])
    half = np.mean([extent(path[: len(path) // 2]) for path in paths])
    return {
        "L": row.length,
        "e": _name(row.explorations),
        "extent": extents.mean(),
        "p10": np.percentile(extents, 10),
        "p90": np.percentile(extents, 90),
        "half": half,
        "RMS radius": paths.std(axis=1).mean(),
        "specified extent": row.extent,
        "specified half": row.half,
        "specified RMS radius": row.radius,
        "deviation": extents.mean() / row.extent - 1,
    }


def _name(explorations: tuple[float, ...]) -> str:
    return "mix" if explorations == MIX else ", ".join(f"{value:g}" for value in explorations)


@dataclass(frozen=True)
class PsnrRow:
    """Image side, trajectory length, explorations, exposure fractions, and the mean input PSNR of specification 3.8."""

    size: int
    length: float
    explorations: tuple[float, ...]
    fractions: tuple[float, ...]
    psnr: float


LIGHT, FULL = (0.1, 0.5, 1.0), (1.0,)
PSNRS = (
    PsnrRow(256, 60, MIX, LIGHT, 25.1),
    PsnrRow(256, 60, MIX, FULL, 22.6),
    PsnrRow(256, 96, MIX, FULL, 21.7),
    PsnrRow(256, 96, TWO, FULL, 20.4),
    PsnrRow(256, 128, TWO, FULL, 19.9),
    PsnrRow(256, 160, TWO, FULL, 19.5),
    PsnrRow(128, 30, MIX, LIGHT, 26.8),
    PsnrRow(128, 64, TWO, FULL, 19.5),
    PsnrRow(64, 15, MIX, LIGHT, 28.9),
    PsnrRow(64, 24, TWO, FULL, 20.3),
    PsnrRow(64, 32, TWO, FULL, 19.6),
    PsnrRow(64, 48, TWO, FULL, 18.9),
)


def input_psnr_table(
    rows: Sequence[PsnrRow] = PSNRS,
    count: int = 120,
    seed: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
) -> pd.DataFrame:
    """PSNR in dB of scikit-image's photographs `PHOTOS`, each blurred with the same `count` kernels a row.

    Every exploration and every fraction has its share of the kernels. `deviation` is from the specification, in dB.
    """
    return pd.DataFrame([_psnr_row(row, count, seed) for row in progress(rows)])


def _psnr_row(row: PsnrRow, count: int, seed: int) -> dict[str, float | str]:
    photos = [photograph(name, row.size) for name in PHOTOS]
    paths = _paths(row, count, "psnr table", seed, row.size)
    kernels = [psf(path, row.fractions[i % len(row.fractions)]) for i, path in enumerate(paths)]
    errors = [
        [np.mean((blur_image(photo, kernel) - photo) ** 2) for photo in photos]
        for kernel in kernels
    ]
    values = -10 * np.log10(np.array(errors, float))
    return {
        "size": row.size,
        "L": row.length,
        "e": _name(row.explorations),
        "fractions": ", ".join(f"{value:g}" for value in row.fractions),
        "kernel side": np.mean([len(kernel) for kernel in kernels]),
        "PSNR": values.mean(),
        "sd": values.std(),
        "specified PSNR": row.psnr,
        "deviation": values.mean() - row.psnr,
    }


def parse_all(captions: list[list[str]]) -> list[list[list[str] | None]]:
    """The tree labels of every caption of every photo."""
    trees = [[parse_caption(text) for text in texts] for texts in captions]
    return [[tree and list(tree.nodes) for tree in row] for row in trees]


def write_vocabulary(config: Config, record: dict, folder: Path) -> None:
    """Write `vocabulary.json`: words and tree labels of the training `record`. Raises `S3EError` if there are none."""
    flat = [text for texts in record["captions"] for text in texts]
    trees = [tree_of(nodes) for row in record["parses"] for nodes in row if nodes]
    if not trees:
        raise S3EError(
            "no training caption names anything that can be seen: are the captions English sentences?"
        )
    text = config.text
    words = Vocabulary.build(flat, min_count=text.min_count)
    labels = TreeVocabulary.build(
        trees,
        max_entities=text.entities,
        max_relations=text.relations,
        min_count=text.label_min_count,
    )
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
        if severity in synthetic(corpus):
            kernels = [
                kernel_for(photo, severity, config.data.size, config.blur.seed) for photo in ids
            ]
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
    return [
        np.pad(kernel, [((side - n) // 2, (side - n) // 2) for n in kernel.shape])
        for kernel in kernels
    ]


def prepare_corpus(
    config: Config, folder: Path, progress: Callable = lambda items, **_: items
) -> Corpus:
    """Draw or decode every photo, blur it, encode captions and trees, and write all of it to `folder`.

    Photos come from the cache of their folder, which is made first where it is not there. `progress` wraps an iterable
    (tqdm). Training photos have the configured severity, validation and test photos all of them. Raises `S3EError` for
    a data folder that cannot be used, and for broken photos unless `data.skip_broken` leaves them out.
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


def _prepare_scenes(
    config: Config, folder: Path, progress: Callable
) -> tuple[dict, dict[str, dict]]:
    data, blur, records = config.data, config.blur, {}
    for split in progress(SPLITS, desc="splits"):
        scenes = make_split(
            split, getattr(data, split), size=data.size, texture=data.texture, seed=data.seed
        )
        sharp, ids = np.stack([scene.image for scene in scenes]), [scene.id for scene in scenes]
        views = {}
        for severity in (blur.severity,) if split == "train" else tuple(SEVERITIES):
            views[severity] = blurred_views(sharp, ids, severity, blur)
            write_array(folder / f"{split}_{severity}.npy", views[severity].images)
        write_array(folder / f"{split}_sharp.npy", sharp)
        write_array(folder / f"{split}_labels.npy", np.stack([scene.label_map for scene in scenes]))
        records[split] = {
            "ids": ids,
            "captions": [list(scene.captions) for scene in scenes],
            "trees": [list(scene.tree.nodes) for scene in scenes],
            "extents": {name: view.extents for name, view in views.items()},
            "psnr": {name: view.psnr for name, view in views.items()},
            "missing": {},
        }
    about = {
        "severities": list(SEVERITIES),
        "protocol": "generated scenes",
        "categories": list(CATEGORIES),
    }
    return {**about, "captioned": True, "left_out": [], "notes": []}, records


def _prepare_photos(
    config: Config, folder: Path, progress: Callable
) -> tuple[dict, dict[str, dict]]:
    source = read_data(config, progress=progress)
    cache = prepare_arrays(source, config, progress=progress)
    captions = {
        photo.id: list(photo.captions) for photos in source.splits.values() for photo in photos
    }
    records = {}
    for split in SPLITS:
        record = read_json(cache / f"{split}.json")
        for view in ("sharp", *record["psnr"]):
            _link(cache / f"{split}_{view}.npy", folder / f"{split}_{view}.npy")
        records[split] = {
            **record,
            "captions": [captions[photo] for photo in record["ids"]],
            "trees": None,
        }
    severities = list(records["test"]["psnr"])  # by name, which is mildest first
    about = {
        "severities": severities,
        "protocol": protocol(source, config, severities),
        "categories": [],
    }
    notes = [
        *source.notes,
        *(_told_missing(split, record) for split, record in records.items() if record["missing"]),
    ]
    told = {"left_out": [str(problem) for problem in source.problems], "notes": notes}
    return {**about, **told, "captioned": source.captioned}, records


def _told_missing(split: str, record: dict) -> str:
    counts = ", ".join(
        f"{len(rows)} have no {name} view" for name, rows in record["missing"].items()
    )
    return f"of {len(record['ids'])} {split} pairs {counts} (too few neighbours in their video)"


def _link(source: Path, target: Path) -> None:
    """Put a hard link to `source` at `target`: no second copy on the disk (a copy where links are not possible)."""
    with atomic_write(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
