"""Prepare data once: look at every photo, decode, resize and blur it on all cores, and write the
corpus of a study.

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
from contextlib import ExitStack
from inspect import getsource
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from s3e import blur, utils
from s3e.blur import SEVERITIES, blur_batch
from s3e.captions.parser import parse_caption
from s3e.captions.tree import CaptionTree, TreeVocabulary, Vocabulary
from s3e.config import Config, Data, Text, load_config
from s3e.data import photos as decoding
from s3e.data import readers
from s3e.data.corpus import Corpus, load_corpus
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
    write_file,
)

CHUNK = 64  # photos that one thread takes at a time
DRAFT = 64  # for a look, JPEGs are decoded at a smaller scale, no side below this
# shorter side of a frame over the side of its central crop: 640x360 and 256 (specification 3.4)
MARGIN = 1.4


def spread(work: Callable, items: list, jobs: int, title: str) -> Iterator:
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
        raise S3EError(
            f"{source.problems[0][:-1]} (1 of {len(source.problems)} problems; `python -m s3e data"
            f" check {source.root}` lists them, --set data.skip_broken=true leaves them out)."
        )


def look(source: Source, jobs: int = 0) -> None:
    """Decode every photo (of pairs the blurred one too); broken ones move to `problems`.

    Adds the columns `size` (width, height), `unusual`, `hash` and `thumb`. No file makes it stop.
    """
    images, names = source.images, ["fault", "size", "unusual", "hash", "thumb"]
    pairs = [*zip(images["path"], images["blurred"], strict=True)]
    looks = pd.DataFrame(spread(_look, pairs, jobs, "decoding"), images.index, names)
    broken = looks["fault"] != ""
    source.problems += [*looks["fault"][broken]]
    source.images = images.join(looks[~broken], how="inner")


def _look(pair: tuple[Path, Path | None]) -> list:
    path, blurred = pair
    try:
        image, size, unusual = decode(path, DRAFT)
        if blurred and (other := decode(blurred, DRAFT)[1]) != size:
            what = f"blurred and sharp frame differ in size ({other} and {size})"
            raise S3EError(f"{blurred}: {what}; replace or remove the pair.")
        return ["", size, unusual, *readers.fingerprint(image)]
    except S3EError as error:
        return [str(error), None, None, None, None]


def read_teacher(config: Config) -> Source | None:
    """The data of the captioned study `semantics_from`; None where there is none, or scenes."""
    if not config.semantics_from:
        return None
    study = read_json(Path(config.semantics_from) / "01_data_blurring" / "all" / "params.json")
    root = study["config"]["data"]["source"]
    return None if root == "scenes" else read_source(root)


def choose(source: Source, teacher: Source | None, config: Config, jobs: int = 0) -> None:
    """Leave out broken photos, near-duplicates across splits, held-out photos like those that
    `teacher` trains on, and what is beyond `data.train`, `data.val` and `data.test`.

    Pairs get the column `window` (see `windows`). Raises `S3EError` for broken photos unless
    `data.skip_broken`, and where fewer than 2 photos of a split are left.
    """
    look(source, jobs)
    refuse(source, config)
    readers.keep_apart(source)
    if teacher and not source.captioned:
        look(teacher, jobs)
        trained = teacher.images.query("split == 'train'")
        for split in ("val", "test"):
            readers.drop_alike(source, split, trained, teacher.root)
    if source.paired:
        source.images["window"] = windows(source.images, config.blur.frames)
    kept = []
    for split, part in source.images.groupby("split"):
        count = min(getattr(config.data, split) or len(part), len(part))
        step = len(part) if source.paired else count  # pairs are spread over the videos
        kept.append(part.iloc[[i * step // count for i in range(count)]])
    source.images = pd.concat(kept)
    source.check_splits()


def windows(images: pd.DataFrame, frames: int) -> pd.Series:
    """For each pair the `frames` (odd) consecutive blurred frames around it, or None where the
    video has too few.
    """
    places = [*zip(images["sequence"], images["frame"], strict=True)]
    known, reach = dict(zip(places, images["blurred"], strict=True)), frames // 2
    found = [
        tuple(known.get((sequence, number + step)) for step in range(-reach, reach + 1))
        for sequence, number in places
    ]
    return pd.Series([None if None in window else window for window in found], images.index, object)


def severities_of(source: Source, config: Config) -> dict[str, tuple[str, ...]]:
    """What each split is blurred with; short videos have no severe frames (see `windows`)."""
    trained, known = config.blur.severity, tuple(SEVERITIES)
    if source.paired:
        counts = source.images["window"].groupby(source.images["split"]).count()
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


def _write(source: Source, config: Config, folder: Path, jobs: int = 0) -> None:
    """Write arrays and records of a corpus: the bytes do not depend on `jobs`.

    Not through memory maps, which a full disk would turn into a crash.
    """
    severities, images = severities_of(source, config), source.images
    folder.mkdir(parents=True, exist_ok=True)
    check_room(images, severities, config, folder)
    if source.paired and "severe" in severities["test"]:
        short = images["id"][images["window"].isna()].tolist()
        source.notes.append(counted("no severe view, as the video ends near", short))
    for split, part in images.groupby("split"):
        chunks = [part[k : k + CHUNK] for k in range(0, len(part), CHUNK)]
        make = functools.partial(_make_views, config, severities[split])
        files = {}
        with ExitStack() as stack:
            for views in spread(make, chunks, jobs, f"preparing {split}"):
                for name, array in views.items():
                    if name not in files:
                        path = stack.enter_context(atomic_write(folder / f"{split}_{name}.npy"))
                        files[name] = stack.enter_context(open(path, "wb"))
                        shape = len(part), *array.shape[1:]
                        header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(files[name], header)
                    files[name].write(array.tobytes())
        record = {"ids": [*part["id"]], "captions": [*map(list, part["captions"])]}
        record["trees"] = [list(tree.nodes) for tree in part["tree"]] if "tree" in part else None
        write_file(folder / f"{split}.json", record | {"severities": severities[split]})
    about = {"captioned": source.captioned, "severities": severities["test"]}
    about |= {"categories": CATEGORIES if source.kind == "scenes" else []}
    about |= {"protocol": protocol(source, config, severities["test"])}
    about |= {"left_out": source.problems, "notes": source.notes}
    write_file(folder / "corpus.json", about)


def check_room(
    images: pd.DataFrame, severities: dict[str, tuple[str, ...]], config: Config, folder: Path
) -> None:
    """Raise `S3EError` where the disk lacks room for the arrays, or whole frames differ in size."""
    pixels = dict.fromkeys(SPLITS, config.data.size**2)
    if config.data.whole_frames and images["blurred"].any():
        tested = images[images["split"] == "test"].drop_duplicates("size")
        pixels["test"] = math.prod(tested["size"].iloc[0])
        if len(tested) > 1:
            sizes = zip(tested["path"], tested["size"], strict=True)
            shown = " but ".join(
                "{} has {} x {} pixels".format(path, *size) for path, size in sizes
            )
            raise S3EError(f"whole frames need one size, {shown}: --set data.whole_frames=false.")
    needed = sum(3 * pixels[split] * (1 + len(severities[split])) for split in images["split"])
    if needed > (free := shutil.disk_usage(folder).free):
        what = f"{folder} needs {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free"
        raise S3EError(f"{what}: make room, or choose another place by the variable S3E_RUNS.")


def _make_views(
    config: Config, severities: Sequence[str], images: pd.DataFrame
) -> dict[str, np.ndarray]:
    """All views of N photos of one split, uint8 (N, H, W, 3).

    `extent_<severity>` (N): kernel extents in pixels, `psnr_<severity>` (N) dB; NaN where unknown.
    """
    size, how, paired = config.data.size, config.blur, images["blurred"].notna().any()
    whole = paired and config.data.whole_frames and images["split"].iloc[0] == "test"

    @functools.cache
    def load(path: Path) -> np.ndarray:
        return load_whole(path) if whole else load_photo(path, size, side(size) if paired else None)

    if "image" in images:  # scenes
        sharp = np.stack([*images["image"]])
        views = {"sharp": sharp, "labels": np.stack([*images["label_map"]])}
    else:
        sharp = np.stack([*map(load, images["path"])])
        views = {"sharp": sharp}
    for severity in severities:
        extents, absent = np.full(len(images), np.nan), []
        if not paired:
            draws = [*images["id"]], severity, how.seed, how.gamma, how.noise
            blurred, extents, _ = blur_batch(sharp, *draws)
        elif severity == "released":
            blurred = np.stack([*map(load, images["blurred"])])
        else:  # the mean of several released frames, as they are coded (4.3, variant B)
            blurred, absent = np.zeros_like(sharp), images["window"].isna()
            for row in np.flatnonzero(~absent):
                frames = [load(path) for path in images["window"].iloc[row]]
                blurred[row] = np.rint(np.mean(frames, axis=0, dtype=np.float64))
        scores = np.array([psnr(*pair) for pair in zip(blurred, sharp, strict=True)])
        scores[absent] = np.nan
        views |= {severity: blurred, f"psnr_{severity}": scores}
        views[f"extent_{severity}"] = np.round(extents, 3)
    return views


def prepare_photos(config: Config, jobs: int = 0) -> Path:
    """Make the cache of the data folder in `jobs` threads (0: one a core), or find it made.

    Raises `S3EError` if settings and folder do not fit, or if the disk is full.
    """
    source, teacher = read(config), read_teacher(config)
    name = f"{source.root.resolve().name}-{digest(cache_key(config, source, teacher))[:16]}"
    folder = utils.RUNS / "cache" / name
    building = folder.with_name(f"{name}.part")
    if folder.exists():
        return folder
    with disk_errors(folder, "choose another place by the variable S3E_RUNS"):
        with lock_file(folder.with_name(f".{name}.lock"), lambda _: None):
            if not folder.exists():  # another process may have made it meanwhile
                shutil.rmtree(building, ignore_errors=True)  # of a killed process
                choose(source, teacher, config, jobs)
                _write(source, config, building, jobs)
                building.rename(folder)
    return folder


def cache_key(config: Config, source: Source, teacher: Source | None) -> list:
    """What a cache depends on: settings, code, and rows, sizes and times of the files."""
    modules = sys.modules[__name__], readers, decoding, blur, utils
    key = [code_digest(getsource(module), module.__name__) for module in modules]
    key += [config.data.model_dump(), config.blur.model_dump(), source.problems, source.notes]
    images = pd.concat(some.images for some in (source, teacher) if some)
    files = [*images["path"], *images["blurred"].dropna()]
    states = [path.stat() for path in files if path.exists()]
    key += [(state.st_size, state.st_mtime_ns) for state in states]
    return key + images.astype(str).to_numpy().tolist()


# --- the corpus of a study ---


def prepare_corpus(config: Config, folder: Path) -> Corpus:
    """Draw or decode every photo, blur it, encode captions and trees, and write all to `folder`.

    Photos come from the cache of their folder, which is made first where it is not there. Training
    photos have the configured severity, validation and test photos all of them. Raises `S3EError`
    for a data folder that cannot be used, and for broken photos unless `data.skip_broken`.
    """
    if config.data.source == "scenes":
        _write(_scenes(config.data), config, folder)
    else:
        for file in prepare_photos(config).iterdir():
            _link(file, folder / file.name)
    for split in SPLITS:
        record = read_json(folder / f"{split}.json")
        trees = [[parse_caption(text) for text in texts] for texts in record["captions"]]
        record["parses"] = [[tree and list(tree.nodes) for tree in row] for row in trees]
        write_file(folder / f"{split}.json", record)
        if split == "train" and any(trees):
            write_vocabulary(config.text, sum(record["captions"], []), sum(trees, []), folder)
    return load_corpus(folder)


def _scenes(data: Data) -> Source:
    parts = []
    for split in SPLITS:
        scenes = make_split(split, getattr(data, split), data.size, data.texture, data.seed)
        parts.append(pd.DataFrame(scenes).assign(split=split, blurred=None))
    return Source("scenes", Path("scenes"), pd.concat(parts), "generated scenes", [])


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


def write_vocabulary(
    rules: Text, captions: list[str], trees: list[CaptionTree | None], folder: Path
) -> None:
    """Write `vocabulary.json`: words and tree labels of the training captions."""
    trees = [tree for tree in trees if tree]
    if not trees:
        what = "no training caption names anything that can be seen"
        raise S3EError(f"{what}: are the captions English sentences?")
    words = Vocabulary.build(captions, min_count=rules.min_count)
    limits = rules.entities, rules.relations, rules.label_min_count
    labels = TreeVocabulary.build(trees, *limits)
    content = {"words": words.words, "max_words": rules.max_words}
    content["labels"] = {"entities": labels.entities, "relations": labels.relations}
    write_file(folder / "vocabulary.json", content)


def summary(corpus: Corpus) -> dict[str, float]:
    """Numbers for `metrics.json`: photos, words, labels, and the mean input PSNR of validation."""
    metrics = {f"{name}_photos": len(split) for name, split in corpus.splits.items()}
    if corpus.captioned:
        metrics |= {"words": len(corpus.words), "entities": len(corpus.labels.entities) - 1}
        metrics["relations"] = len(corpus.labels.relations) - 1
    for severity in corpus.severities:
        metrics[f"val_{severity}_psnr_blurred"] = float(np.nanmean(corpus.val.psnr[severity]))
    return metrics


# --- the commands `data check` and `data prepare` ---


def check(root: Path, subset: Subset = "blur", jobs: int = 0) -> int:
    """Print what a data folder holds, and which of its files are broken; 1 if any is, else 0.

    Raises `S3EError` for a folder that cannot be used.
    """
    source = read_source(root, subset)
    print(f"folder    {source.root}\nprotocol  {source.protocol}", flush=True)
    look(source, jobs)
    for problem in source.problems:
        print(f"problem   {problem}")
    for unusual, images in source.images.explode("unusual").groupby("unusual"):
        source.notes.append(counted(unusual, [*images["id"]]))
    readers.keep_apart(source)
    for note in source.notes:
        print(f"note      {note}")
    source.check_splits()
    sizes = sorted(source.images["size"], key=math.prod)
    print("sizes     {} x {} to {} x {}".format(*sizes[0], *sizes[-1]))
    for split in SPLITS:
        images = source.images[source.images["split"] == split]
        more = f"{images['captions'].map(len).sum()} captions"
        if source.paired:
            more = f"blurred partners in {images['sequence'].nunique()} sequences"
        print(f"{split:<10}{len(images)} photos, {more}")
    broken = len(source.problems)
    remedy = "left out of the splits above; mend them, or allow it with data.skip_broken in a run"
    print(f"result    {f'{broken} broken, {remedy}' if broken else 'nothing is broken'}")
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
        print(line)
    print(f"cache: {folder} ({time.monotonic() - begin:.0f} s)")
    return 0
