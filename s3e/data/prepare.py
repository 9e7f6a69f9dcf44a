"""Prepare data once: decode, look at, resize and blur every photo on all cores, write a corpus."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy import ndarray
from pandas import DataFrame
from tqdm.auto import tqdm

from s3e.blur import SEVERITIES, blur_batch
from s3e.captions.parser import parse_caption
from s3e.captions.tree import TreeVocabulary, Vocabulary
from s3e.config import Config, Data, load_config
from s3e.data import readers
from s3e.data.annotations import read_source
from s3e.data.corpus import Corpus, load_corpus
from s3e.data.photos import decode, load_photo, load_whole
from s3e.data.readers import PAIRED, SPLITS, Photo, Source, counted
from s3e.data.scenes import CATEGORIES, make_split
from s3e.utils import S3EError, cores, disk_errors, psnr, read_json, tell, write_file

CHUNK = 64  # photos that one thread takes at a time
DRAFT = 64  # for a look, JPEGs are decoded at a smaller scale, no side below this
# shorter side of a frame over the side of its central crop: 640x360 and 256 (specification 3.4)
MARGIN = 1.4


def in_threads(work: Callable, items: list, title: str) -> Iterator:
    """`work` of each item, in order, in a thread a core.

    Threads are enough: decoding, resizing and blurring leave the interpreter to others.
    """
    pool = ThreadPoolExecutor(cores())
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
    add_windows(source, config)
    severities_of(source, config)
    return source


def refuse(source: Source, config: Config) -> None:
    """Raise `S3EError` for the first problem, unless `data.skip_broken` leaves all of them out."""
    if source.problems and not config.data.skip_broken:
        raise S3EError(
            f"{source.problems[0][:-1]} (1 of {len(source.problems)} problems; `python -m s3e data"
            f" check {source.root}` lists them, --set data.skip_broken=true leaves them out)."
        )


def look(source: Source) -> None:
    """Decode every photo (of pairs the blurred one too); broken ones move to `problems`.

    Adds the columns `size` (width, height), `unusual`, `hash` and `thumb`. No file makes it stop.
    """
    images, names = source.images, ["fault", "size", "unusual", "hash", "thumb"]
    looks = in_threads(_look, [*images.itertuples()], "decoding")
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


def choose(config: Config) -> Source:
    """The photos that a study uses, looked at.

    Left out are broken photos, near-duplicates across splits, held-out photos like those that the
    study `semantics_from` trains on, and what is beyond `data.train`, `data.val` and `data.test`.
    Pairs get a column for each severity (`add_windows`). Raises `S3EError` for broken photos unless
    `data.skip_broken`, and where fewer than 2 photos of a split are left.
    """
    source, teacher = read(config), None
    if config.semantics_from and not source.captioned:
        study = read_json(Path(config.semantics_from) / "01_data_blurring" / "all" / "params.json")
        if (root := study["config"]["data"]["source"]) != "scenes":
            teacher = read_source(root)
    look(source)
    refuse(source, config)
    readers.keep_apart(source)
    if teacher:
        look(teacher)
        trained = teacher.images.query("split == 'train'")
        for split in ("val", "test"):
            readers.drop_alike(source, split, trained, teacher.root)
    add_windows(source, config)
    kept = []
    for split, part in source.images.groupby("split"):
        count = min(getattr(config.data, split) or len(part), len(part))
        step = len(part) if source.paired else count  # pairs are spread over the videos
        kept.append(part.iloc[np.arange(count) * step // count])
    source.images = pd.concat(kept)
    source.check_splits()
    return source


def add_windows(source: Source, config: Config) -> None:
    """Give pairs a column for each severity: the blurred frames whose mean a photo's view is.

    Severe: the `blur.frames` (odd) around it; None near the ends of a video.
    """
    if source.paired:
        images, reach = source.images, config.blur.frames // 2
        keys = [*zip(images["sequence"], images["frame"], strict=True)]
        known = dict(zip(keys, images["blurred"], strict=True))
        around = range(-reach, reach + 1)
        found = [tuple(known.get((video, at + step)) for step in around) for video, at in keys]
        images["severe"] = [window if all(window) else None for window in found]
        images["released"] = [(path,) for path in images["blurred"]]


def severities_of(source: Source, config: Config) -> dict[str, tuple[str, ...]]:
    """What each split is blurred with; short videos have no severe frames (`add_windows`)."""
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


def _write_arrays(
    images: DataFrame, split: str, severities: Sequence[str], config: Config, folder: Path
) -> None:
    """Write the views of a split, chunk by chunk: the bytes do not depend on threads.

    Not through memory maps, which a full disk would turn into a crash.
    """
    chunks = [images[k : k + CHUNK] for k in range(0, len(images), CHUNK)]
    make = functools.partial(_make_views, config, severities)
    for views in in_threads(make, chunks, f"preparing {split}"):
        for name, array in views.items():
            with open(folder / f"{split}_{name}.npy", "ab") as file:
                if not file.tell():
                    header = np.lib.format.header_data_from_array_1_0(array)
                    header["shape"] = len(images), *array.shape[1:]
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(array.tobytes())


def check_whole_frames(images: DataFrame, config: Config) -> None:
    """Raise `S3EError` where whole frames that are tested on differ in size."""
    if config.data.whole_frames and images["blurred"].any():
        tested = images.query("split == 'test'").set_index("size")["path"].to_dict()
        if len(tested) > 1:
            shown = " but ".join(f"{path} has {w} x {h} pixels" for (w, h), path in tested.items())
            raise S3EError(f"whole frames need one size, {shown}: --set data.whole_frames=false.")


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


# --- the corpus of a study ---


def prepare_corpus(config: Config, folder: Path) -> Corpus:
    """Draw or decode every photo, blur it, encode captions and trees, and write all to `folder`.

    Training photos have the configured severity, validation and test photos all of them. Raises
    `S3EError` for a data folder that cannot be used, for broken photos unless `data.skip_broken`,
    and if the disk is full.
    """
    source = _scenes(config.data) if config.data.source == "scenes" else choose(config)
    severities, images = severities_of(source, config), source.images
    check_whole_frames(images, config)
    if source.paired and "severe" in severities["test"]:
        short = [*images["id"][images["severe"].isna()]]
        source.notes.append(counted("no severe view, as the video ends near", short))
    about = {
        "captioned": source.captioned,
        "severities": severities["test"],
        "categories": CATEGORIES if source.kind == "scenes" else [],
        "protocol": protocol(source, config, severities["test"]),
        "left_out": source.problems,
        "notes": source.notes,
    }
    with disk_errors(folder, "choose another place by the variable S3E_RUNS"):
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.npy"):  # of a run that was stopped
            path.unlink()
        for split, part in images.groupby("split"):
            _write_arrays(part, split, severities[split], config, folder)
            record = {"ids": [*part["id"]], "captions": [*part["captions"]]}
            record["trees"] = [tree.nodes for tree in part["tree"]] if "tree" in part else None
            trees = [[parse_caption(text) for text in texts] for texts in record["captions"]]
            record["parses"] = [[tree and tree.nodes for tree in row] for row in trees]
            write_file(folder / f"{split}.json", record | {"severities": severities[split]})
            if split == "train" and any(trees):
                known = vocabulary(record["captions"], trees, config)
                write_file(folder / "vocabulary.json", known)
        write_file(folder / "corpus.json", about)
    return load_corpus(folder)


def _scenes(data: Data) -> Source:
    parts = []
    for split in SPLITS:
        scenes = make_split(split, getattr(data, split), data.size, data.texture, data.seed)
        parts.append(DataFrame(scenes).assign(split=split, blurred=None))
    return Source("scenes", Path("scenes"), pd.concat(parts), "generated scenes", [])


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


# --- the command `data check` ---


def check(root: Path, settings: Sequence[tuple[str, Any]] = ()) -> int:
    """Print what a data folder holds, and which of its files are broken; 1 if any is, else 0.

    `settings`: pairs of a name and its value. Raises `S3EError` for settings or a folder that
    cannot be used.
    """
    config = load_config("laptop", overrides=dict(settings))
    source = read_source(root, config.data.subset, config.data.kind)
    tell(f"folder    {source.root}")
    tell(f"protocol  {source.protocol}")
    look(source)
    for problem in source.problems:
        tell(f"problem   {problem}")
    for unusual, images in source.images.explode("unusual").groupby("unusual"):
        source.notes.append(counted(unusual, [*images["id"]]))
    readers.keep_apart(source)
    add_windows(source, config)
    try:
        severities_of(source, config)
    except S3EError as error:
        source.notes.append(str(error))
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
