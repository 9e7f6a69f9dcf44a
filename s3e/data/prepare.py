"""Prepare data once: look at every photo, decode, resize and blur it on all cores, write a corpus.

Prepared photos are kept in `runs/cache/<data folder>-<hash>/`, in the layout that `corpus` reads
but without vocabulary and parses; the hash is of the settings, the files and the code that they
depend on. A cache is made in `<folder>.part`: a preparation that was killed begins again.
"""

import functools
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from inspect import getsource
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy import ndarray
from pandas import DataFrame
from tqdm.auto import tqdm

from s3e import blur, utils
from s3e.blur import SEVERITIES, blur_batch
from s3e.captions.parser import parse_caption
from s3e.captions.tree import TreeVocabulary, Vocabulary
from s3e.config import Config, Data, load_config
from s3e.data import annotations, pairs, readers
from s3e.data import photos as decoding
from s3e.data.annotations import read_source
from s3e.data.corpus import Corpus, load_corpus
from s3e.data.photos import decode, load_photo, load_whole
from s3e.data.readers import PAIRED, SPLITS, Photo, Source, counted
from s3e.data.scenes import CATEGORIES, make_split
from s3e.utils import (
    S3EError,
    code_digest,
    digest,
    disk_errors,
    lock_file,
    psnr,
    read_json,
    tell,
    write_file,
)

CHUNK = 64  # photos that one thread takes at a time
DRAFT = 64  # for a look, JPEGs are decoded at a smaller scale, no side below this
# shorter side of a frame over the side of its central crop: 640x360 and 256 (specification 3.4)
MARGIN = 1.4


def in_threads(work: Callable, items: list, jobs: int, title: str) -> Iterator:
    """`work` of each item, in order, in `jobs` threads (0: one a core).

    Threads are enough: decoding, resizing and blurring leave the interpreter to others.
    """
    pool = ThreadPoolExecutor(jobs or utils.cores())
    try:
        yield from tqdm(pool.map(work, items), desc=title, total=len(items), leave=False)
    finally:
        pool.shutdown(cancel_futures=True)


# --- which photos can be used ---


def read(config: Config) -> Source:
    """The data folder of a configuration as it lies there, before any photo is decoded.

    Raises `S3EError` if it cannot be used, does not fit `blur.severity`, or has broken records
    (unless `data.skip_broken`).
    """
    data, severity = config.data, config.blur.severity
    source = read_source(data.source, data.subset, data.kind)
    known = PAIRED if source.paired else tuple(SEVERITIES)
    if severity not in known:
        what = "pairs of blurred and sharp frames" if source.paired else "sharp photos alone"
        choose = f"choose {' or '.join(known)} (--set blur.severity={known[-1]})"
        raise S3EError(f"blur.severity is '{severity}', but {source.root} holds {what}: {choose}.")
    refuse(source, config)
    return source


def refuse(source: Source, config: Config) -> None:
    """Raise `S3EError` for the first problem, unless `data.skip_broken` leaves all of them out."""
    if source.problems and not config.data.skip_broken:
        raise S3EError(
            f"{source.problems[0][:-1]} (1 of {len(source.problems)} problems; `python -m s3e data"
            f" check {source.root}` lists them, --set data.skip_broken=true leaves them out)."
        )


def look(source: Source, jobs: int) -> None:
    """Decode every photo (of pairs the blurred one too); broken ones move to `problems`.

    Adds the columns `size` (width, height), `unusual`, `hash` and `thumb`. No file makes it stop.
    """
    images, names = source.images, ["fault", "size", "unusual", "hash", "thumb"]
    looks = in_threads(_look, [*images.itertuples()], jobs, "decoding")
    looks = DataFrame(looks, images.index, names)
    broken = looks["fault"] != ""
    source.problems += [*looks["fault"][broken]]
    source.images = images.join(looks[~broken], how="inner")


def _look(photo: Photo) -> list:
    try:
        image, size, unusual = decode(photo.path, DRAFT)
        if photo.blurred:
            other, its_size, _ = decode(photo.blurred, DRAFT)
            what = f"blurred and sharp frame differ in size ({its_size} and {size})"
            if its_size == size:
                what = "blurred and sharp frame are the same" * (other.tobytes() == image.tobytes())
            if what:
                raise S3EError(f"{photo.blurred}: {what}; replace or remove the pair.")
        return ["", size, unusual, *readers.fingerprint(image)]
    except S3EError as error:
        return [str(error), None, None, None, None]


def choose(source: Source, teacher: Source | None, config: Config, jobs: int) -> None:
    """Leave out broken photos, near-duplicates across splits, held-out photos like those that
    `teacher` trains on, and what is beyond `data.train`, `data.val` and `data.test`.

    Pairs get a column of `windows` for each severity. Raises `S3EError` for broken photos unless
    `data.skip_broken`, and where fewer than 2 photos of a split are left.
    """
    look(source, jobs)
    refuse(source, config)
    readers.keep_apart(source)
    if teacher:
        look(teacher, jobs)
        trained = teacher.images.query("split == 'train'")
        for split in ("val", "test"):
            readers.drop_alike(source, split, trained, teacher.root)
    if source.paired:
        source.images["released"] = [(path,) for path in source.images["blurred"]]
        source.images["severe"] = windows(source.images, config.blur.frames)
    kept = []
    for split, part in source.images.groupby("split"):
        count = min(getattr(config.data, split) or len(part), len(part))
        step = len(part) if source.paired else count  # pairs are spread over the videos
        kept.append(part.iloc[np.arange(count) * step // count])
    source.images = pd.concat(kept)
    source.check_splits()


def windows(images: DataFrame, frames: int) -> list[tuple[Path, ...] | None]:
    """For each pair the `frames` (odd) blurred frames around it; None near the ends of a video."""
    known = {(pair.sequence, pair.frame): pair.blurred for pair in images.itertuples()}
    steps = range(-(frames // 2), frames // 2 + 1)
    places = zip(images["sequence"], images["frame"], strict=True)
    found = [tuple(known.get((video, number + step)) for step in steps) for video, number in places]
    return [window if all(window) else None for window in found]


def severities_of(source: Source, config: Config) -> dict[str, tuple[str, ...]]:
    """What each split is blurred with; short videos have no severe frames (see `windows`)."""
    trained, known = config.blur.severity, tuple(SEVERITIES)
    if source.paired:
        counts = source.images.groupby("split")["severe"].count()
        needed = SPLITS if trained == "severe" else SPLITS[1:]
        few = [split for split in needed if counts[split] < 2]
        known = PAIRED[:1] if few else PAIRED
        if few and trained == "severe":
            raise S3EError(
                f"{source.root}: blur.severity=severe needs {config.blur.frames} consecutive"
                f" frames, which fewer than 2 pairs of the {few[0]} split have; --set"
                " blur.severity=released."
            )
    return {"train": (trained,), "val": known, "test": known}


def protocol(source: Source, config: Config, severities: Sequence[str]) -> str:
    """For tables, without a full stop: where splits, blurred frames and severe ones come from."""
    if not source.paired:
        return source.protocol
    severe = f"severe = mean of {config.blur.frames} windows (variant B, released frames)"
    test = f"tested on central {config.data.size}-px crops"
    if config.data.whole_frames:
        trained = f"trained on crops of frames with a shorter side of {frame_side(config)} px"
        test = f"{trained}, tested on whole frames of full size"
    return ", ".join([source.protocol, *([severe] if "severe" in severities else []), test])


# --- arrays on disk ---


def frame_side(config: Config) -> int:
    """The shorter side in pixels of a frame whose central crop is taken."""
    return round(MARGIN * config.data.size)


def _write(source: Source, config: Config, folder: Path, jobs: int = 0) -> None:
    """Write arrays and records of a corpus: the bytes do not depend on `jobs`.

    Not through memory maps, which a full disk would turn into a crash.
    """
    severities, images = severities_of(source, config), source.images
    check_room(images, severities, config, folder)
    for path in folder.glob("*.npy"):  # perhaps a link to a cache
        path.unlink()
    if source.paired and "severe" in severities["test"]:
        short = [*images["id"][images["severe"].isna()]]
        source.notes.append(counted("no severe view, as the video ends near", short))
    for split, part in images.groupby("split"):
        chunks = [part[k : k + CHUNK] for k in range(0, len(part), CHUNK)]
        make = functools.partial(_make_views, config, severities[split])
        for views in in_threads(make, chunks, jobs, f"preparing {split}"):
            for name, array in views.items():
                with open(folder / f"{split}_{name}.npy", "ab") as file:
                    if not file.tell():
                        header = np.lib.format.header_data_from_array_1_0(array)
                        header["shape"] = len(part), *array.shape[1:]
                        np.lib.format.write_array_header_1_0(file, header)
                    file.write(array.tobytes())
        record = {"ids": [*part["id"]], "captions": [*part["captions"]]}
        record["trees"] = [tree.nodes for tree in part["tree"]] if "tree" in part else None
        write_file(folder / f"{split}.json", record | {"severities": severities[split]})
    about = {
        "captioned": source.captioned,
        "severities": severities["test"],
        "categories": CATEGORIES if source.kind == "scenes" else [],
        "protocol": protocol(source, config, severities["test"]),
        "left_out": source.problems,
        "notes": source.notes,
    }
    write_file(folder / "corpus.json", about)


def check_room(
    images: DataFrame, severities: dict[str, tuple[str, ...]], config: Config, folder: Path
) -> None:
    """Raise `S3EError` where the disk lacks room for the arrays, or whole frames differ in size."""
    pixels = dict.fromkeys(SPLITS, config.data.size**2)
    if config.data.whole_frames and images["blurred"].any():
        tested = images.query("split == 'test'").set_index("size")["path"].to_dict()
        pixels["test"], *others = map(math.prod, tested)
        if others:
            shown = " but ".join(f"{path} has {w} x {h} pixels" for (w, h), path in tested.items())
            raise S3EError(f"whole frames need one size, {shown}: --set data.whole_frames=false.")
    needed = sum(3 * pixels[split] * (1 + len(severities[split])) for split in images["split"])
    if needed > (free := shutil.disk_usage(folder).free):
        what = f"{folder} needs {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free"
        raise S3EError(f"{what}: make room, or choose another place by the variable S3E_RUNS.")


def _make_views(config: Config, severities: Sequence[str], images: DataFrame) -> dict[str, ndarray]:
    """All views of N photos of one split, uint8 (N, H, W, 3).

    `extent_<severity>` (N): kernel extents in pixels, `psnr_<severity>` (N) dB; NaN where unknown.
    """
    size, how, paired = config.data.size, config.blur, images["blurred"].notna().any()
    load = functools.partial(load_photo, size=size, side=frame_side(config) if paired else None)
    if paired and config.data.whole_frames and images["split"].iloc[0] == "test":
        load = load_whole
    load = functools.cache(load)
    if "image" in images:  # scenes
        sharp = np.stack([*images["image"]])
        views = {"sharp": sharp, "labels": np.stack([*images["label_map"]])}
    else:
        sharp = np.stack([*map(load, images["path"])])
        views = {"sharp": sharp}
    for severity in severities:
        if paired:  # the mean of released frames, as they are coded (4.3, variant B)
            blurred, extents = np.zeros_like(sharp), np.full(len(images), np.nan)
            for row, window in enumerate(images[severity]):
                if window:
                    blurred[row] = np.rint(np.mean([*map(load, window)], axis=0))
        else:
            draws = [*images["id"]], severity, how.seed, how.gamma, how.noise
            blurred, extents, _ = blur_batch(sharp, *draws)
        scores = np.array([psnr(*pair) for pair in zip(blurred, sharp, strict=True)])
        if paired:
            scores[images[severity].isna()] = np.nan
        views |= {severity: blurred, f"psnr_{severity}": scores}
        views[f"extent_{severity}"] = np.round(extents, 3)
    return views


def prepare_photos(config: Config, jobs: int = 0) -> Path:
    """Make the cache of the data folder in `jobs` threads (0: one a core), or find it made.

    Raises `S3EError` if settings and folder do not fit, or if the disk is full.
    """
    source, teacher = read(config), None
    if config.semantics_from and not source.captioned:
        study = read_json(Path(config.semantics_from) / "01_data_blurring" / "all" / "params.json")
        if (root := study["config"]["data"]["source"]) != "scenes":
            teacher = read_source(root)
    name = f"{source.root.resolve().name[:40]}-{cache_key(config, source, teacher)}"
    folder = utils.RUNS / "cache" / name
    building = folder.with_name(f"{name}.part")
    if folder.exists():  # also where it may not be written, or locked
        return folder
    with disk_errors(folder, "choose another place by the variable S3E_RUNS"):
        with lock_file(folder.with_name(f".{name}.lock"), lambda _: None):
            if not folder.exists():
                choose(source, teacher, config, jobs)
                shutil.rmtree(building, ignore_errors=True)  # of a killed process
                building.mkdir()
                _write(source, config, building, jobs)
                building.rename(folder)
    return folder


def cache_key(config: Config, source: Source, teacher: Source | None) -> str:
    """Hash of what a cache depends on: settings, code, and rows, sizes and times of the files."""
    modules = sys.modules[__name__], annotations, pairs, readers, decoding, blur, utils
    key = [code_digest(getsource(module), module.__name__) for module in modules]
    images = pd.concat(some.images for some in (source, teacher) if some)
    for path in [*images["path"], *images["blurred"].dropna()]:
        if path.exists():
            state = path.stat()
            key.append((state.st_size, state.st_mtime_ns))
    key += [config.data, config.blur, source.problems, source.notes, images.to_csv()]
    return digest(key)[:16]


# --- the corpus of a study ---


def prepare_corpus(config: Config, folder: Path) -> Corpus:
    """Draw or decode every photo, blur it, encode captions and trees, and write all to `folder`.

    Photos come from the cache of their folder, which is made first where it is not there. Training
    photos have the configured severity, validation and test photos all of them. Raises `S3EError`
    for a data folder that cannot be used, and for broken photos unless `data.skip_broken`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if config.data.source == "scenes":
        _write(_scenes(config.data), config, folder)
    else:
        for file in prepare_photos(config).iterdir():
            _link(file, folder / file.name)
    for split in SPLITS:
        record = read_json(folder / f"{split}.json")
        trees = [[parse_caption(text) for text in texts] for texts in record["captions"]]
        record["parses"] = [[tree and tree.nodes for tree in row] for row in trees]
        write_file(folder / f"{split}.json", record)
        if split == "train" and any(trees):
            known = vocabulary(record["captions"], trees, config)
            write_file(folder / "vocabulary.json", known)
    return load_corpus(folder)


def _scenes(data: Data) -> Source:
    parts = []
    for split in SPLITS:
        scenes = make_split(split, getattr(data, split), data.size, data.texture, data.seed)
        parts.append(DataFrame(scenes).assign(split=split, blurred=None))
    return Source("scenes", Path("scenes"), pd.concat(parts), "generated scenes", [])


def _link(source: Path, target: Path) -> None:
    """Put a hard link to `source` at `target`, or a copy where links are not possible."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def vocabulary(captions: list[list], trees: list[list], config: Config) -> dict[str, Any]:
    """The words and tree labels of all training captions, for `vocabulary.json`."""
    text, trees = config.text, [*chain(*trees)]
    if not any(trees):
        what = "no training caption names anything that can be seen"
        raise S3EError(f"{what}: are the captions English sentences?")
    words = Vocabulary.build(chain(*captions), text.min_count).words
    labels = TreeVocabulary.build(trees, text.entities, text.relations, text.label_min_count)
    labels = {"entities": labels.entities, "relations": labels.relations}
    return {"words": words, "max_words": text.max_words, "labels": labels}


def summary(corpus: Corpus) -> dict[str, float]:
    """Numbers for `metrics.json`: photos, words, labels, and the mean input PSNR of validation."""
    metrics = {f"{name}_photos": len(split) for name, split in corpus.splits.items()}
    if corpus.captioned:
        words, entities, relations, _ = corpus.sizes
        metrics |= {"words": words, "entities": entities - 1, "relations": relations - 1}
    for severity in corpus.severities:
        metrics[f"val_{severity}_psnr_blurred"] = float(np.nanmean(corpus.val.psnr[severity]))
    return metrics


# --- the commands `data check` and `data prepare` ---


def check(root: Path, settings: Sequence[tuple[str, Any]] = (), jobs: int = 0) -> int:
    """Print what a data folder holds, and which of its files are broken; 1 if any is, else 0.

    `settings`: pairs of a name and its value. Raises `S3EError` for settings or a folder that
    cannot be used.
    """
    data = load_config("laptop", overrides=dict(settings)).data
    source = read_source(root, data.subset, data.kind)
    tell(f"folder    {source.root}")
    tell(f"protocol  {source.protocol}")
    look(source, jobs)
    for problem in source.problems:
        tell(f"problem   {problem}")
    for unusual, images in source.images.explode("unusual").groupby("unusual"):
        source.notes.append(counted(unusual, [*images["id"]]))
    readers.keep_apart(source)
    for note in source.notes:
        tell(f"note      {note}")
    source.check_splits()
    sizes = sorted(source.images["size"], key=math.prod)
    tell("sizes     {} x {} to {} x {}".format(*sizes[0], *sizes[-1]))
    for split in SPLITS:
        images = source.images[source.images["split"] == split]
        more = f"{images['captions'].map(len).sum()} captions"
        if source.paired:
            count = images["sequence"].replace("", np.nan).nunique()
            more = "blurred partners" + f" in {count} sequences" * bool(count)
        tell(f"{split:<10}{len(images)} photos, {more}")
    broken = len(source.problems)
    remedy = "left out of the splits above; mend them, or allow it with data.skip_broken in a run"
    tell(f"result    {f'{broken} broken, {remedy}' if broken else 'nothing is broken'}")
    return int(broken > 0)


def prepare(
    root: Path, profile: str, settings: Sequence[tuple[str, Any]] = (), jobs: int = 0
) -> int:
    """Make the cache of a data folder that the pipeline reads under a profile; returns 0.

    `settings`: pairs of a name and its value. Raises `S3EError` for a folder or settings that
    cannot be used.
    """
    begin = time.monotonic()
    folder = prepare_photos(load_config(profile, str(root), overrides=dict(settings)), jobs)
    about = read_json(folder / "corpus.json")
    for line in [*(f"left out: {problem}" for problem in about["left_out"]), *about["notes"]]:
        tell(line)
    tell(f"cache: {folder} ({time.monotonic() - begin:.0f} s)")
    return 0
