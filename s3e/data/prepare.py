"""Prepare data once: look at every photo, decode, resize and blur it on all cores, and write the
corpus of a study.

Prepared photos are kept in `runs/cache/<data folder>-<hash>/`, in the layout that `corpus` reads
but without vocabulary and parses; the hash is of the settings, the files and the code that they
depend on. A cache is made in `<folder>.part`: a preparation that was killed begins again.
"""

import functools
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
from contextlib import ExitStack
from inspect import getsource
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from s3e import blur, utils
from s3e.blur import SEVERITIES, blur_batch
from s3e.captions.parser import parse_caption
from s3e.captions.tree import CaptionTree, TreeVocabulary, Vocabulary
from s3e.config import Config, load_config, parse_setting
from s3e.data import photos as decoding
from s3e.data import readers
from s3e.data.photos import decode, load_photo, load_whole
from s3e.data.readers import PAIRED, SPLITS, Source, Subset, counted, read_source
from s3e.data.scenes import CATEGORIES, make_split
from s3e.utils import (
    S3EError,
    atomic_write,
    code_digest,
    digest,
    disk_errors,
    lock_file,
    psnr,
    read_json,
    write_array,
    write_json,
)

if TYPE_CHECKING:
    from s3e.data.corpus import Corpus

CHUNK = 64  # photos that one process takes at a time
WORTH = 4  # chunks a process must have before starting it pays, where their number is left open
DRAFT = 64  # for a look, JPEGs are decoded at a smaller scale, no side below this
# shorter side of a frame over the side of its central crop: 640x360 and 256 (specification 3.4)
MARGIN = 1.4


def spread(work: Callable, chunks: list, jobs: int, title: str) -> Iterator:
    """`work` of each chunk in order, by `jobs` processes (0: one a core where that is worth it).

    With one process, the work is done right here.
    """
    if jobs < 0:
        raise S3EError(f"--jobs {jobs}: give a number of processes, or 0 for one a core.")
    jobs = min(jobs, len(chunks)) if jobs else min(utils.cores(), len(chunks) // WORTH)
    bar = functools.partial(tqdm, total=len(chunks), desc=title, leave=False)
    if jobs <= 1:
        yield from bar(map(work, chunks))
        return
    context = multiprocessing.get_context("spawn")  # a notebook has threads: it must not be forked
    pool = ProcessPoolExecutor(jobs, context, _begin_worker)
    try:
        yield from bar(pool.map(work, chunks))
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


def _chunks(images: pd.DataFrame) -> list[pd.DataFrame]:
    """Rows of one split each, at most `CHUNK`."""
    parts = [images[images["split"] == split] for split in SPLITS]
    return [part[k : k + CHUNK] for part in parts for k in range(0, len(part), CHUNK)]


# --- which photos can be used ---


def read(config: Config) -> Source:
    """The data folder of a configuration as it lies there, before any photo is decoded.

    Raises `S3EError` if it cannot be used, does not fit `blur.severity`, or has broken records
    (unless `data.skip_broken`).
    """
    source, severity = read_source(config.data.source, config.data.subset), config.blur.severity
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
        more = f"... and {len(source.problems) - 1} more; " if len(source.problems) > 1 else ""
        raise S3EError(
            f"{source.problems[0][:-1]} ({more}`python -m s3e data check {source.root}` lists them;"
            " --skip-broken, or --set data.skip_broken=true for run_all.py, leaves them out)."
        )


def look(source: Source, jobs: int = 0) -> None:
    """Decode every photo (of pairs the blurred one too); broken ones move to `problems`.

    Adds the columns `size` (width, height), `unusual`, `hash` and `thumb`. No file makes it stop.
    """
    looks = pd.concat(spread(_look, _chunks(source.images), jobs, "decoding"))
    source.problems += [fault for fault in looks["fault"] if fault]
    source.images = source.images.join(looks[looks["fault"] == ""], how="inner")


def _look(images: pd.DataFrame) -> pd.DataFrame:
    looks = []
    for path, blurred in zip(images["path"], images["blurred"], strict=True):
        try:
            image, size, unusual = decode(path, DRAFT)
            if blurred and (other := decode(blurred, DRAFT)[1]) != size:
                sizes = "{}x{} and {}x{}".format(*other, *size)
                what = f"blurred and sharp frame differ in size ({sizes})"
                raise S3EError(f"{blurred}: {what}; replace or remove the pair.")
            looks.append(["", size, unusual, *readers.fingerprint(image)])
        except S3EError as error:
            looks.append([str(error), None, (), 0, None])
    names = ["fault", "size", "unusual", "hash", "thumb"]
    return pd.DataFrame(looks, columns=names, index=images.index)


def _teacher(config: Config, source: Source) -> Source | None:
    """The photos of the captioned study `semantics_from`; None where there is none, or scenes."""
    if source.captioned or not config.semantics_from:
        return None
    study = read_json(Path(config.semantics_from) / "01_data_blurring" / "all" / "params.json")
    root = study["config"]["data"]["source"]
    return None if root == "scenes" else read_source(root)


def choose(source: Source, teacher: Source | None, config: Config, jobs: int = 0) -> None:
    """Leave out broken photos, near-duplicates across splits, what the captioner was trained on,
    and what is beyond `data.train`, `data.val` and `data.test` (pairs: spread over the videos).

    Adds the column `window`: of pairs the `blur.frames` blurred frames around each, or None. Raises
    `S3EError` for broken photos unless `data.skip_broken`, and where fewer than 2 photos are left.
    """
    look(source, jobs)
    refuse(source, config)
    readers.keep_apart(source)
    if teacher:
        look(teacher, jobs)
        trained = teacher.images.query("split == 'train'")
        for split in ("val", "test"):
            readers.drop_alike(source, split, trained, teacher.root)
    images, kept = source.images.assign(window=windows(source.images, config.blur.frames)), []
    for split in SPLITS:
        part = images[images["split"] == split]
        count = min(getattr(config.data, split) or len(part), len(part))
        places = range(count)
        if source.paired:
            places = [i * len(part) // count for i in places]
        kept.append(part.iloc[places])
    source.images = pd.concat(kept)
    source.check_splits()


def windows(images: pd.DataFrame, frames: int) -> pd.Series:
    """For each pair the `frames` (odd) consecutive blurred frames around it, or None where the
    video has too few.
    """
    places = [*zip(images["sequence"], images["frame"], strict=True)]
    known, found = dict(zip(places, images["blurred"], strict=True)), []
    for sequence, number in places:
        reach = range(number - frames // 2, number + frames // 2 + 1)
        window = tuple(known.get((sequence, frame)) for frame in reach)
        found.append(None if None in window else window)
    return pd.Series(found, images.index, object)


def severities_of(source: Source, config: Config) -> dict[str, tuple[str, ...]]:
    """What each split is blurred with; short videos have no severe frames (see `windows`)."""
    trained, known = config.blur.severity, tuple(SEVERITIES)
    if source.paired:
        counts = source.images["window"].notna().groupby(source.images["split"]).sum()
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


# --- arrays on disk ---


def side(size: int) -> int:
    """The shorter side in pixels of a frame whose central crop of `size` is taken."""
    return round(MARGIN * size)


def write_views(
    images: pd.DataFrame,
    severities: dict[str, tuple[str, ...]],
    config: Config,
    folder: Path,
    jobs: int = 0,
) -> None:
    """Write `<split>_<view>.npy` and `<split>.json`: the bytes do not depend on `jobs`.

    Not through memory maps, which a full disk would turn into a crash.
    """
    chunks, opened, records = _chunks(images), {}, {}
    make = functools.partial(_make_views, config, severities)
    with ExitStack() as stack:
        for chunk, (views, facts) in zip(
            chunks, spread(make, chunks, jobs, "preparing"), strict=True
        ):
            split = chunk["split"].iloc[0]
            for view, array in views.items():
                if (split, view) not in opened:
                    path = stack.enter_context(atomic_write(folder / f"{split}_{view}.npy"))
                    opened[split, view] = stack.enter_context(open(path, "wb"))
                    shape = (int((images["split"] == split).sum()), *array.shape[1:])
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(opened[split, view], header)
                opened[split, view].write(array.tobytes())
            record = records.setdefault(split, defaultdict(lambda: defaultdict(list)))
            for name, view, values in facts:
                record[name][view] += values
    for split, part in images.groupby("split"):
        columns = {"ids": [*part["id"]], "captions": [*map(list, part["captions"])]}
        columns["trees"] = [*part["tree"]] if "tree" in part else None
        write_json(folder / f"{split}.json", columns | records[split])


def _make_views(
    config: Config, severities: dict[str, tuple[str, ...]], images: pd.DataFrame
) -> tuple[dict[str, np.ndarray], list[tuple[str, str, list]]]:
    """All views of photos of one split: uint8 (N, H, W, 3), and (fact, view, values) of each.

    Facts are kernel extents in pixels and input PSNR in dB, None where unknown.
    """
    split, size, how = images["split"].iloc[0], config.data.size, config.blur
    paired = images["blurred"].notna().any()

    @functools.cache
    def load(path: Path) -> np.ndarray:
        if paired and config.data.whole_frames and split == "test":
            return load_whole(path)
        return load_photo(path, size, side(size) if paired else None)

    sharp = np.stack([*(images["image"] if "image" in images else map(load, images["path"]))])
    views, facts = {"sharp": sharp}, []
    for view in severities[split]:
        extents, absent = [None] * len(images), np.zeros(len(images), bool)
        if not paired:
            blurred, drawn = blur_batch(
                sharp, [*images["id"]], view, how.seed, how.gamma, how.noise
            )
            extents = [round(float(value), 3) for value in drawn]
        elif view == "released":
            blurred = np.stack([*map(load, images["blurred"])])
        else:  # the mean of several released frames, as they are coded (4.3, variant B)
            blurred, absent = np.zeros_like(sharp), images["window"].isna().to_numpy()
            for row in np.flatnonzero(~absent):
                frames = [load(path) for path in images["window"].iloc[row]]
                blurred[row] = np.rint(np.mean(frames, axis=0, dtype=np.float64))
        pairs = zip(blurred, sharp, absent, strict=True)
        scores = [None if unknown else psnr(*pair) for *pair, unknown in pairs]
        facts += [("extents", view, extents), ("psnr", view, scores)]
        views[view] = blurred
    return views, facts


def prepare_photos(config: Config, jobs: int = 0) -> Path:
    """Make the cache of the data folder in `jobs` processes (0: all cores), or find it made.

    Raises `S3EError` if settings and folder do not fit, or if the disk is full.
    """
    source = read(config)
    teacher = _teacher(config, source)
    name = f"{source.root.resolve().name}-{digest(cache_key(config, source, teacher))[:16]}"
    folder = utils.RUNS / "cache" / name
    building = folder.with_name(f"{name}.part")
    if folder.exists():
        return folder
    with disk_errors(folder, "choose another place by the variable S3E_RUNS"):
        with lock_file(folder.with_name(f".{name}.lock"), lambda _: None):
            if not folder.exists():  # another process may have made it meanwhile
                shutil.rmtree(building, ignore_errors=True)  # of a killed process
                building.mkdir()
                _prepare(source, teacher, config, building, jobs)
                building.rename(folder)
    return folder


def cache_key(config: Config, source: Source, teacher: Source | None) -> list:
    """What a cache depends on: settings, code, and rows, sizes and times of the files."""
    key = [config.data.model_dump(), config.blur.model_dump(), source.problems, source.notes]
    for images in (source.images, *([teacher.images] if teacher else [])):
        files = [*images["path"], *images["blurred"].dropna()]
        states = [path.stat() for path in files if path.exists()]
        times = [(state.st_size, state.st_mtime_ns) for state in states]
        key.append([images.astype(str).to_numpy().tolist(), times])
    modules = sys.modules[__name__], readers, decoding, blur, utils
    return [*key, [code_digest(getsource(module), module.__name__) for module in modules]]


def _prepare(
    source: Source, teacher: Source | None, config: Config, folder: Path, jobs: int
) -> None:
    choose(source, teacher, config, jobs)
    severities, images = severities_of(source, config), source.images
    tested = images[images["split"] == "test"].drop_duplicates("size")
    if source.paired and config.data.whole_frames and len(tested) > 1:
        sizes = zip(tested["path"], tested["size"], strict=True)
        shown = " but ".join("{} has {} x {} pixels".format(path, *size) for path, size in sizes)
        raise S3EError(f"whole frames need one size, {shown}: --set data.whole_frames=false.")
    write_views(images, severities, config, folder, jobs)
    for split, part in images.groupby("split", sort=False):
        if source.paired and "severe" in severities[split] and (few := part["window"].isna().sum()):
            what = f"{few} have no severe view (too few neighbours in their video)"
            source.notes.append(f"of {len(part)} {split} pairs {what}")
    about = {"severities": severities["test"], "captioned": source.captioned, "categories": []}
    about["protocol"] = protocol(source, config, severities["test"])
    write_json(folder / "corpus.json", about | {"left_out": source.problems, "notes": source.notes})


# --- the corpus of a study ---


def prepare_corpus(config: Config, folder: Path) -> "Corpus":
    """Draw or decode every photo, blur it, encode captions and trees, and write all to `folder`.

    Photos come from the cache of their folder, which is made first where it is not there. Training
    photos have the configured severity, validation and test photos all of them. Raises `S3EError`
    for a data folder that cannot be used, and for broken photos unless `data.skip_broken`.
    """
    if config.data.source == "scenes":
        _prepare_scenes(config, folder)
    else:
        for file in prepare_photos(config).iterdir():
            _link(file, folder / file.name)
    records = {split: read_json(folder / f"{split}.json") for split in SPLITS}
    for split, record in records.items():
        trees = [[parse_caption(text) for text in texts] for texts in record["captions"]]
        record["parses"] = [[tree and list(tree.nodes) for tree in row] for row in trees]
        write_json(folder / f"{split}.json", record)
    if any(records["train"]["captions"]):
        write_vocabulary(config, records["train"], folder)
    from s3e.data.corpus import load_corpus  # imports PyTorch, which the workers do not need

    return load_corpus(folder)


def _prepare_scenes(config: Config, folder: Path) -> None:
    data, parts = config.data, []
    for split in SPLITS:
        scenes = make_split(split, getattr(data, split), data.size, data.texture, data.seed)
        write_array(folder / f"{split}_labels.npy", np.stack([item.label_map for item in scenes]))
        rows = [(s.id, s.image, s.captions, list(s.tree.nodes), split, None) for s in scenes]
        names = ["id", "image", "captions", "tree", "split", "blurred"]
        parts.append(pd.DataFrame(rows, columns=names))
    known = tuple(SEVERITIES)
    severities = {"train": (config.blur.severity,), "val": known, "test": known}
    write_views(pd.concat(parts), severities, config, folder)
    about = {"severities": known, "captioned": True, "categories": list(CATEGORIES)}
    about |= {"protocol": "generated scenes", "left_out": [], "notes": []}
    write_json(folder / "corpus.json", about)


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


def write_vocabulary(config: Config, record: dict, folder: Path) -> None:
    """Write `vocabulary.json`: words and tree labels of the training `record`. Raises `S3EError` if
    there are none.
    """
    captions = [text for texts in record["captions"] for text in texts]
    parses = [nodes for row in record["parses"] for nodes in row if nodes]
    trees = [CaptionTree(tuple(nodes[:4]), tuple(nodes[4:])) for nodes in parses]
    if not trees:
        what = "no training caption names anything that can be seen"
        raise S3EError(f"{what}: are the captions English sentences?")
    text = config.text
    words = Vocabulary.build(captions, min_count=text.min_count)
    limits = text.entities, text.relations, text.label_min_count
    labels = TreeVocabulary.build(trees, *limits)
    content = {"words": words.words, "max_words": text.max_words}
    content["labels"] = {"entities": labels.entities, "relations": labels.relations}
    write_json(folder / "vocabulary.json", content)


def summary(corpus: "Corpus") -> dict[str, float]:
    """Numbers for `metrics.json`: photos, words, labels, and the mean input PSNR of validation."""
    metrics = {f"{name}_photos": len(split) for name, split in corpus.splits.items()}
    if corpus.captioned:
        metrics |= {"words": len(corpus.words), "entities": len(corpus.labels.entities) - 1}
        metrics["relations"] = len(corpus.labels.relations) - 1
    for severity in corpus.severities:
        metrics[f"val_{severity}_psnr_blurred"] = float(np.nanmean(corpus.val.psnr[severity]))
    return metrics


# --- the commands `data check` and `data prepare` ---


def check(root: Path, subset: Subset = "blur", jobs: int = 0, skip_broken: bool = False) -> int:
    """Print what a data folder holds, and which of its files are broken; 0 nothing is broken or may
    be, else 1.

    Raises `S3EError` for a folder that cannot be used.
    """

    def say(label: str, *lines: object) -> None:
        for line in lines:
            print(f"{label:<10}{line}", flush=True)

    source = read_source(root, subset)
    say("folder", source.root)
    say("protocol", source.protocol)
    look(source, jobs)
    if sizes := sorted(source.images["size"], key=math.prod):
        places = {"smallest": 0, "median": (len(sizes) - 1) // 2, "largest": -1}
        shown = ["{} {} x {}".format(name, *sizes[k]) for name, k in places.items()]
        say("sizes", ", ".join(shown))
    say("problem", *source.problems)
    for note, images in source.images.explode("unusual").groupby("unusual"):
        say("note", counted(note, [*images["id"]]))
    readers.keep_apart(source)
    say("note", *source.notes)
    source.check_splits()
    for split in SPLITS:
        images = source.images[source.images["split"] == split]
        more = ", without captions"
        if source.captioned:
            more = f", {images['captions'].map(len).sum()} captions"
        if source.paired:
            more = f" in {images['sequence'].nunique()} sequences"
        say(split, f"{len(images)} {'pairs' if source.paired else 'photos'}{more}")
    if not source.problems:
        say("result", "nothing is broken")
        return 0
    remedy = "; mend them, or allow that with --skip-broken (data.skip_broken in a run)"
    count = f"{len(source.problems)} broken, left out of the splits above"
    say("result", count + ("" if skip_broken else remedy))
    return 0 if skip_broken else 1


def prepare(
    root: Path,
    profile: str | None = None,
    settings: Sequence[str] = (),
    jobs: int = 0,
    skip_broken: bool = False,
) -> int:
    """Make the cache of a data folder, or find it made; returns 0.

    With `profile` these are the arrays that the pipeline reads under it; without, all photos of the
    folder. `settings` are texts "section.name=value". Raises `S3EError` for a folder or settings
    that cannot be used.
    """
    overrides: dict[str, Any] = {} if profile else {f"data.{split}": 0 for split in SPLITS}
    overrides |= {"data.skip_broken": True} if skip_broken else {}
    overrides |= dict(parse_setting(text) for text in settings)
    begin = time.monotonic()
    config = load_config(profile or "laptop", str(root), overrides=overrides)
    folder = prepare_photos(config, jobs)
    about = read_json(folder / "corpus.json")
    for label in ("left_out", "notes"):
        for line in about[label]:
            print(f"{label.replace('_', ' ')}: {line}")
    print(f"cache: {folder} ({time.monotonic() - begin:.0f} s)")
    for split in SPLITS:
        for file in sorted(folder.glob(f"{split}_*.npy")):
            count, height, width, _ = np.load(file, mmap_mode="r").shape
            print(f"{file.stem}: {count:,} photos of {width} x {height} pixels")
    return 0
