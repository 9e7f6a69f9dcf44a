"""Prepare data once: look at every photo, decode, resize and blur it on all cores, and write the
corpus of a study.

    runs/cache/survey-<data folder>-<hash>.json      what each photo shows, and which are broken
    runs/cache/<data folder>-<hash>/{<split>_<view>.npy, <split>_<view>.json}

Views are `sharp` and the severities: arrays uint8 (N, H, W, 3), to be memory-mapped, and kernel
extents and input PSNR. The hash is of the settings, the files and the code that they depend on. A
cache is made in `<folder>.part`, where a view has its .json when it is whole, so that a preparation
that was killed goes on with the first that is missing.
"""

import contextlib
import errno
import functools
import hashlib
import inspect
import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from s3e import blur, utils
from s3e.blur import SEVERITIES, blur_batch, kernel_for
from s3e.captions.parser import parse_caption
from s3e.captions.tree import TreeVocabulary, Vocabulary
from s3e.config import Config, load_config, parse_setting
from s3e.data import photos as decoding
from s3e.data import readers
from s3e.data.corpus import Corpus, load_corpus, tree_of
from s3e.data.photos import Problem, decode, load_photo, load_whole
from s3e.data.readers import PAIRED, SPLITS, Photo, PhotoInfo, Source, Subset
from s3e.data.scenes import CATEGORIES, make_split
from s3e.utils import S3EError, atomic_write, psnr, read_json, write_array, write_json

Progress = Callable[..., Any]  # wraps an iterable, as tqdm does
CHUNK = 64  # photos that one process takes at a time
WORTH = 4  # chunks a process must have before starting it pays, where their number is left open
DRAFT = 64  # for a look, JPEGs are decoded at a smaller scale, no side below this
# shorter side of a frame over the side of its central crop: 640x360 and 256 (specification 3.4)
MARGIN = 1.4


def no_progress(items: Any, **options: Any) -> Any:
    """The items as they are, where nobody watches."""
    return items


@contextmanager
def workers(jobs: int, tasks: int) -> Iterator[Callable]:
    """A `map` over `jobs` processes (0: one a core where the work is worth it); with one, the work
    is done right here.
    """
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
            f"one of {jobs} processes was killed (for want of memory, or because a script began"
            " them outside of `if __name__ == '__main__'`): repeat with fewer (--jobs 1)."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """In each process: leave Ctrl-C to the one that began it, and end when that one is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process().sentinel
    threading.Thread(target=lambda: (wait([parent]), os._exit(1)), daemon=True).start()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _stamp(*paths: Path | None) -> list:
    """Names, sizes and dates of files; without those of files that are not there."""
    states = [(path.name, path.stat()) for path in paths if path and path.is_file()]
    return [[name, state.st_size, state.st_mtime_ns] for name, state in states]


# --- a look at every photo ---


@dataclass(frozen=True)
class Survey:
    """What the photos show that can be decoded, and what is wrong with the others, by photo id."""

    infos: dict[str, PhotoInfo]
    broken: dict[str, Problem]


def survey(source: Source, jobs: int = 0, progress: Progress = no_progress) -> Survey:
    """Decode every photo (of pairs the blurred one too) in `jobs` processes (0: one a core); no
    file makes it stop.

    The result is kept in `runs/cache` (where that can be written) and used again until a file
    changes.
    """
    photos = [photo for split in SPLITS for photo in source.splits[split]]
    stamps = [[photo.id, *_stamp(photo.path, photo.blurred)] for photo in photos]
    key = _digest([stamps, str(source.root.resolve()), _code(decoding, readers)])
    file = utils.RUNS / "cache" / f"survey-{source.root.resolve().name}-{key}.json"
    if file.is_file():
        looks = read_json(file)
    else:
        parts = [photos[k : k + CHUNK] for k in range(0, len(photos), CHUNK)]
        with workers(jobs, len(parts)) as run:
            bar = progress(run(_look_at, parts), total=len(parts), desc="decoding", leave=False)
            looks = [look for part in bar for look in part]
        with contextlib.suppress(OSError):
            write_json(file, looks)
    infos, broken = {}, {}
    for photo, (fine, *look) in zip(photos, looks, strict=True):
        if fine:
            size, notes, code, thumb = look
            infos[photo.id] = PhotoInfo(tuple(size), tuple(notes), code, bytes.fromhex(thumb))
        else:
            broken[photo.id] = Problem(*look)
    return Survey(infos, broken)


def _look_at(photos: Sequence[Photo]) -> list[list]:
    looks = []
    for photo in photos:
        try:
            image, size, notes = decode(photo.path, DRAFT)
            if photo.blurred and (other := decode(photo.blurred, DRAFT)[1]) != size:
                what = "blurred and sharp frame differ in size ({}x{} and {}x{})".format(
                    *other, *size
                )
                remedy = "replace or remove the pair"
                raise Problem(str(photo.blurred), what, remedy)
            code, thumb = readers.fingerprint(image)
            looks.append([True, size, notes, code, thumb.hex()])
        except Problem as error:
            looks.append([False, *error.args])
    return looks


def usable(source: Source, seen: Survey, skip_broken: bool = False) -> Source:
    """The source without its broken photos and with near-duplicates kept apart (see
    `readers.separate`).

    Raises `S3EError` if a photo is broken and `skip_broken` is off, or if a split is left with
    fewer than 2 photos.
    """
    if not skip_broken:
        readers.refuse(list(seen.broken.values()), source.root)
    splits = {
        name: [photo for photo in part if photo.id not in seen.broken]
        for name, part in source.splits.items()
    }
    problems = (*source.problems, *seen.broken.values())
    result = readers.separate(replace(source, splits=splits, problems=problems), seen.infos)
    remedy = "broken photos and near-duplicates do not count, add others"
    readers.check_splits(source.root, result.splits, problems, remedy)
    return result


def read_data(config: Config, jobs: int = 0, progress: Progress = no_progress) -> Source:
    """The data folder of a configuration, without photos that cannot be used and near-duplicates
    across splits.

    Validation and test photos that look like a training photo of the captioned study
    `semantics_from` are taken out as well. Raises `S3EError` as `open_source` does, and for broken
    photos unless `data.skip_broken`.
    """
    data = config.data
    source = readers.open_source(data.source, data.subset, data.skip_broken)
    seen = survey(source, jobs, progress)
    source = usable(source, seen, data.skip_broken)
    if source.captioned or not config.semantics_from:
        return source
    study = read_json(Path(config.semantics_from) / "01_data_blurring" / "all" / "params.json")
    if (root := study["config"]["data"]["source"]) == "scenes":
        return source
    other = readers.read_source(root)
    known = survey(other, jobs, progress).infos
    trained = [known[photo.id] for photo in other.splits["train"] if photo.id in known]
    splits, notes = dict(source.splits), list(source.notes)
    for name in ("val", "test"):
        splits[name] = readers.without(splits[name], seen.infos, trained, root, name, notes)
    remedy = f"photos that {root} trains on do not count, add others"
    readers.check_splits(source.root, splits, (), remedy)
    return replace(source, splits=splits, notes=tuple(notes))


# --- what is to be prepared ---


@dataclass(frozen=True)
class Part:
    """One split: its photos, the severities of their blurred views, and the shape (height, width,
    3) of one photo.

    Where pairs have a severe view, `windows` has for each the frames whose mean it is (None where
    the video has too few); `whole` means whole frames, not central crops.
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


def plan(source: Source, config: Config) -> dict[str, Part]:
    """What each split will hold under `data.train`, `data.val` and `data.test` (0: all; pairs:
    spread over the videos).

    Raises `S3EError` for a severity that does not fit, too few photos, or test frames of unequal
    sizes.
    """
    trained, root, chosen = config.blur.severity, source.root, {}
    known = PAIRED if source.paired else tuple(SEVERITIES)
    if trained not in known:
        what = "pairs of blurred and sharp frames" if source.paired else "sharp photos alone"
        choose = f"choose {' or '.join(known)} (--set blur.severity={known[-1]})"
        raise S3EError(f"blur.severity is '{trained}', but {root} holds {what}: {choose}.")
    for name in SPLITS:
        photos = source.splits[name]
        limit = min(getattr(config.data, name) or len(photos), len(photos))
        if limit < 2:
            what = f"fewer than 2 photos for the {name} split: set data.{name} to 0 (all) or more"
            raise S3EError(f"{root}: {what}.")
        spread = [photos[i * len(photos) // limit] for i in range(limit)]
        chosen[name] = spread if source.paired else photos[:limit]
    square = (config.data.size, config.data.size, 3)
    if not source.paired:
        severities = {"train": (trained,), "val": known, "test": known}
        return {name: Part(chosen[name], severities[name], square) for name in SPLITS}
    parts, frames = {}, config.blur.frames
    around = {name: windows(chosen[name], source.splits[name], frames) for name in SPLITS}
    needed = SPLITS if trained == "severe" else SPLITS[1:]
    few = [name for name in needed if len(around[name]) - around[name].count(None) < 2]
    if few and trained == "severe":
        raise S3EError(
            f"{root}: blur.severity=severe needs {frames} consecutive frames, which fewer than 2"
            f" pairs of the {few[0]} split have; --set blur.severity=released."
        )
    for name in SPLITS:
        severities = (trained,) if name == "train" else PAIRED[:1] if few else PAIRED
        whole = config.data.whole_frames and name == "test"
        shape = _frame_shape(chosen[name]) if whole else square
        severe = around[name] if "severe" in severities else []
        parts[name] = Part(chosen[name], severities, shape, severe, whole)
    return parts


def windows(
    photos: list[Photo], everything: list[Photo], frames: int
) -> list[tuple[Path, ...] | None]:
    """For each pair the `frames` (odd) consecutive blurred frames around it, or None where the
    video has too few.
    """
    known = {(photo.sequence, photo.frame): photo.blurred for photo in everything}
    reach, found = range(-(frames // 2), frames // 2 + 1), []
    for photo in photos:
        window = tuple(known.get((photo.sequence, photo.frame + step)) for step in reach)
        found.append(None if None in window else window)
    return found


def side(size: int) -> int:
    """The shorter side, in pixels, that a frame is resized to before its central crop of `size` is
    taken.
    """
    return round(MARGIN * size)


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


def _protocol(source: Source, config: Config, severities: Sequence[str]) -> str:
    """One sentence for tables, without a full stop: where splits, blurred frames and severe ones
    come from.
    """
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
    source: Source, config: Config, jobs: int = 0, progress: Progress = no_progress
) -> tuple[Path, dict[str, Part]]:
    """Make the views of a source, or find them made; returns their folder below `runs/cache`, and
    what it holds.

    `jobs` processes, 0 for all cores: the bytes do not depend on it. Raises `S3EError` if settings
    and source do not fit, or if the disk is too small (found before the work; whole views are
    kept).
    """
    parts = plan(source, config)
    name = f"{source.root.resolve().name}-{_digest(cache_key(source, config, parts))}"
    folder = utils.RUNS / "cache" / name
    building = folder.with_name(f"{name}.part")
    if not folder.exists():
        with _writing(folder), utils.lock_file(folder.with_name(f".{name}.lock"), lambda _: None):
            if not folder.exists():  # another process may have made it meanwhile
                building.mkdir(exist_ok=True)
                for left in building.glob(".*"):  # by a killed process
                    left.unlink()
                _fill(building, parts, config, jobs, progress)
                building.rename(folder)
    return folder, parts


def cache_key(source: Source, config: Config, parts: dict[str, Part]) -> list:
    """What the views depend on: settings, code, and ids, sizes and times of the files."""
    how, key = config.blur, [config.data.size]
    key.append(how.frames if source.paired else [how.seed, how.gamma, how.noise, blur.TRANSFORMS])
    for part in parts.values():
        paths = [(photo.path, photo.blurred) for photo in part.photos]
        paths += [window or () for window in part.windows]
        stamps = [_stamp(*some) for some in paths]
        key.append([part.severities, part.shape, [photo.id for photo in part.photos], stamps])
    return [*key, _code(sys.modules[__name__], decoding, blur, utils)]


def _code(*modules: ModuleType) -> list[str]:
    return [utils.code_digest(inspect.getsource(item), item.__name__) for item in modules]


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"{folder} cannot be written ({error.strerror or error}): choose"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = f"{folder}: the disk is full; make room and repeat, which goes on, or choose"
        raise S3EError(f"{what} another place by the variable S3E_RUNS.") from None


def _fill(
    building: Path, parts: dict[str, Part], config: Config, jobs: int, progress: Progress
) -> None:
    """Make the views that are not there yet."""
    views = [(name, view) for name, part in parts.items() for view in ("sharp", *part.severities)]
    todo = [key for key in views if not (building / "{}_{}.json".format(*key)).is_file()]
    needed = sum(len(parts[name].photos) * math.prod(parts[name].shape) for name, _ in todo)
    if needed > (free := shutil.disk_usage(building).free):
        needed, free = tqdm.format_sizeof(needed, "B"), tqdm.format_sizeof(free, "B")
        raise S3EError(
            f"{building} needs {needed}, but {free} are free: make room, take fewer photos"
            " (data.train) or another place (the variable S3E_RUNS)."
        )
    total = sum(len(parts[name].photos) for name, _ in todo)
    with workers(jobs, total // CHUNK) as run:
        made = (row for key in todo for row in _make_view(run, building, *key, parts, config))
        for _ in progress(made, total=total, desc="preparing photos", unit="", leave=False):
            pass


def _make_view(
    run: Callable, building: Path, name: str, view: str, parts: dict[str, Part], config: Config
) -> Iterator[int]:
    """Write one view of a split, not through a memory map, which a full disk would turn into a
    crash; yields its rows.
    """
    part, extents, scores = parts[name], [], []
    starts = range(0, len(part.photos), CHUNK)
    cuts = [slice(start, start + CHUNK) for start in starts]
    pieces = [replace(part, photos=part.photos[c], windows=part.windows[c]) for c in cuts]
    make = functools.partial(_make_rows, config, view, building / f"{name}_sharp.npy")
    with atomic_write(building / f"{name}_{view}.npy") as temporary, open(temporary, "wb") as file:
        shape = (len(part.photos), *part.shape)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for images, some_extents, some_scores in run(make, starts, pieces):
            file.write(images.tobytes())
            extents += some_extents
            scores += some_scores
            yield from range(len(images))
    write_json(building / f"{name}_{view}.json", {"extents": extents, "psnr": scores})


def _make_rows(
    config: Config, view: str, sharp_file: Path, start: int, part: Part
) -> tuple[np.ndarray, list[float | None], list[float | None]]:
    """One view of some photos: uint8 (N, H, W, 3), kernel extents in pixels and input PSNR in dB,
    None if unknown.
    """
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


# --- the corpus of a study ---


def prepare_corpus(config: Config, folder: Path, progress: Progress = no_progress) -> Corpus:
    """Draw or decode every photo, blur it, encode captions and trees, and write all of it to
    `folder`.

    Photos come from the cache of their folder, which is made first where it is not there. Training
    photos have the configured severity, validation and test photos all of them. Raises `S3EError`
    for a data folder that cannot be used, and for broken photos unless `data.skip_broken` leaves
    them out.
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
    cache, parts = prepare_arrays(source, config, progress=progress)
    records, notes = {}, list(source.notes)
    for split, part in parts.items():
        for view in ("sharp", *part.severities):
            _link(cache / f"{split}_{view}.npy", folder / f"{split}_{view}.npy")
        facts = {view: read_json(cache / f"{split}_{view}.json") for view in part.severities}
        records[split] = {
            "ids": [photo.id for photo in part.photos],
            "captions": [list(photo.captions) for photo in part.photos],
            "trees": None,
            "missing": part.missing,
            "extents": {view: facts[view]["extents"] for view in facts},
            "psnr": {view: facts[view]["psnr"] for view in facts},
        }
        for name, rows in part.missing.items():
            what = f"{len(rows)} have no {name} view (too few neighbours in their video)"
            notes.append(f"of {len(part.photos)} {split} pairs {what}")
    severities = list(parts["test"].severities)
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
    """Put a hard link to `source` at `target`: no second copy on the disk (a copy where links are
    not possible).
    """
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
    """Write `vocabulary.json`: words and tree labels of the training `record`. Raises `S3EError` if
    there are none.
    """
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


def summary(corpus: Corpus) -> dict[str, float]:
    """Numbers for `metrics.json`: photos, words, labels, and the mean input PSNR of validation."""
    metrics = {f"{name}_photos": len(split) for name, split in corpus.splits.items()}
    if corpus.captioned:
        metrics |= {"words": len(corpus.words), "entities": len(corpus.labels.entities) - 1}
        metrics["relations"] = len(corpus.labels.relations) - 1
    for severity in corpus.severities:
        metrics[f"val_{severity}_psnr_blurred"] = float(np.nanmean(corpus.val.psnr[severity]))
    return metrics


def severity_views(corpus: Corpus, config: Config) -> dict[str, np.ndarray]:
    """The first validation photos that come in every severity: ids, sharp, severities, kernels."""
    split = corpus.val
    rows = split.spread(split.rows(*corpus.severities))[: config.evaluation.samples]
    ids = [split.ids[row] for row in rows]
    views = {"ids": np.array(ids), "sharp": split.sharp[rows]}
    views |= {severity: split.blurred[severity][rows] for severity in corpus.severities}
    for severity in corpus.synthetic:
        size, seed = config.data.size, config.blur.seed
        kernels = [kernel_for(photo, severity, size, seed) for photo in ids]
        views[f"kernel_{severity}"] = np.stack(pad_kernels(kernels))
    return views


def pad_kernels(kernels: list[np.ndarray]) -> list[np.ndarray]:
    """Zero-pad centred kernels of odd sides to one common odd side."""
    side = max(max(kernel.shape) for kernel in kernels)
    return [np.pad(kernel, [((side - n) // 2,) * 2 for n in kernel.shape]) for kernel in kernels]


# --- the commands `data check` and `data prepare` ---


def check(root: Path, subset: Subset = "blur", jobs: int = 0, skip_broken: bool = False) -> int:
    """Print what a data folder holds, and which of its files are broken; 0 nothing is broken or may
    be, else 1.

    Raises `S3EError` for a folder that cannot be used.
    """

    def say(label: str, text: object) -> None:
        print(f"{label:<10}{text}", flush=True)

    source = readers.read_source(root, subset)
    say("folder", source.root)
    say("protocol", source.protocol)
    seen = survey(source, jobs, tqdm)
    sizes = sorted((info.size for info in seen.infos.values()), key=math.prod)
    if sizes:
        places = {"smallest": 0, "median": (len(sizes) - 1) // 2, "largest": -1}
        shown = ["{} {} x {}".format(name, *sizes[k]) for name, k in places.items()]
        say("sizes", ", ".join(shown))
    problems = [*source.problems, *seen.broken.values()]
    for problem in problems:
        say("problem", problem)
    kept, unusual = usable(source, seen, skip_broken=True), defaultdict(list)
    for name, info in seen.infos.items():
        for note in info.notes:
            unusual[note].append(name)
    for note in (*(readers.counted(*item) for item in sorted(unusual.items())), *kept.notes):
        say("note", note)
    for split, photos in kept.splits.items():
        captions = sum(len(photo.captions) for photo in photos)
        sequences = len({photo.sequence for photo in photos})
        more = f", {captions} captions" if source.captioned else ", without captions"
        more = f" in {sequences} sequences" if source.paired else more
        say(split, f"{len(photos)} {'pairs' if source.paired else 'photos'}{more}")
    if not problems:
        say("result", "nothing is broken")
        return 0
    remedy = "; mend them, or allow that with --skip-broken (data.skip_broken in a run)"
    count = f"{len(problems)} broken, left out of the splits above"
    say("result", count + ("" if skip_broken else remedy))
    return 0 if skip_broken else 1


def prepare(
    root: Path,
    profile: str | None = None,
    size: int | None = None,
    severity: str | None = None,
    subset: str | None = None,
    settings: Sequence[str] = (),
    jobs: int = 0,
    skip_broken: bool = False,
) -> int:
    """Make the cache of a data folder, or find it made; returns 0.

    With `profile` these are the arrays that the pipeline reads under it; without, all photos of the
    folder. `settings` are texts "section.name=value". Raises `S3EError` for a folder or settings
    that cannot be used.
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
    begin = time.monotonic()
    folder, parts = prepare_arrays(source, config, jobs, tqdm)
    print(f"cache: {folder} ({time.monotonic() - begin:.0f} s)")
    for name, part in parts.items():
        height, width, _ = part.shape
        views = ", ".join(("sharp", *part.severities))
        print(f"{name:>5}: {len(part.photos):,} photos of {width} x {height} pixels, {views}")
    return 0
