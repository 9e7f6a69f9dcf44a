"""Pairs of blurred and sharp photos: two trees whose paths agree but for the words of their side.

GoPro's `{train,test}/<sequence>/{blur,blur_gamma,sharp}/NNNNNN.png` is one case. Every name in a
path is taken apart into its side, its split and what is left, which partners share.
"""

import os
import re
from collections import Counter, defaultdict
from itertools import chain, combinations
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from pandas import DataFrame, Series

from s3e.data.photos import decode
from s3e.data.readers import LIKENESS, SPLITS, ImageIndex, Photo, counted, fingerprint
from s3e.utils import S3EError, stable_hash

WORDS = {  # what parts of names mean, in any case
    ("side", "blur"): "blur blurred blurry input inputs inp lr lq source degraded",
    ("side", "sharp"): "sharp gt groundtruth ground truth target tar hr hq clean clear original",
    ("split", "train"): "train training",
    ("split", "val"): "val valid validation",
    ("split", "test"): "test testing",
}
MEANINGS = {word: meaning for meaning, words in WORDS.items() for word in words.split()}
PIECES = r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^A-Za-z\d]+"  # of a name
FILMED = r"(.*\d.*?)[-_](\d{4,}(?:[-_]\d+)?)$"  # a file's name: sequence, frame and patch
PROBES = 8  # pairs that are decoded where no name tells
ALIKE = 0.93  # correlation of thumbnails from which on one may be the blurred other
SHARPER = 0.1  # log ratio of mean squared gradients from which on one photo is the sharper one
PLAIN = "--set data.kind=photos reads all of them as sharp photos"


class Name(NamedTuple):
    """The file or a folder in a path: "" for a side or a split that it does not tell."""

    left: str
    side: str
    split: str


Frames = dict[tuple[str, str], dict[str, list[Path]]]  # (split, what is left) -> view -> photos


def _name(text: str, meanings: dict[str, tuple[str, str]]) -> Name:
    pieces = re.findall(PIECES, text)
    said = dict(meanings[piece.lower()] for piece in pieces if piece.lower() in meanings)
    left = "".join(piece for piece in pieces if piece.lower() not in meanings).strip("-_ .")
    return Name(left, said.get("side", ""), said.get("split", ""))


def _tellers(paths: list[list[Name]], kind: str) -> list[int]:
    """Which name in each path tells its "side" or "split": the last one, or the file's (0), or -1.

    Only depths at which names tell different ones, if there are any.
    """
    said = defaultdict(set)
    for path in paths:
        for depth, name in enumerate(path):
            said[depth] |= {getattr(name, kind)} - {""}
    most = min(2, max(map(len, said.values()), default=0))
    telling = {depth for depth, told in said.items() if len(told) >= most}
    return [
        max((k for k, name in enumerate(path) if k in telling and getattr(name, kind)), default=-1)
        for path in paths
    ]


def _match(index: ImageIndex, sides: dict[str, str]) -> Frames:
    """Frames by what is left of their paths. `sides`: words of this folder beside `WORDS`.

    A view is "sharp", "blur" or, where the blurred folder has a word of its own, "blur_gamma".
    """
    meanings = MEANINGS | {word: ("side", side) for word, side in sides.items()}
    paths, frames, known = [], defaultdict(lambda: defaultdict(list)), {}
    for place in index.photos:
        *folders, stem = os.path.splitext(place)[0].split("/")
        file = _name(stem, meanings)._replace(split="")
        paths.append([file, *(_name(folder, meanings) for folder in folders)])
    sides, splits, listed = _tellers(paths, "side"), _tellers(paths, "split"), _listed(index)
    told = [*zip(index.photos, paths, sides, splits, strict=True)]
    shared = {path[at].left.lower() for _, path, at, _ in told if path[at].side == "sharp"}
    for place, path, at, inner in told:
        if at >= 0:
            (stem, *folders), own = (name.left for name in path), ""
            if at and path[at].side == "blur" and path[at].left.lower() not in shared:
                own = folders.pop(at - 1)
            key = "/".join(filter(None, [*folders, re.sub(FILMED, r"\1/\2", stem)]))
            split = listed.get(place, path[max(inner, 0)].split)
            view = f"{path[at].side}_{own}".lower().strip("_")
            frames[split, known.setdefault(key.lower(), key)][view].append(index.photos[place])
    return frames


def _listed(index: ImageIndex) -> dict[str, str]:
    """The splits of photos that RealBlur's lists name (`RealBlur_J_train_list.txt`)."""
    splits = {}
    for place, file in index.paths.items():
        if match := re.search(r"(train|val|test)_list\.txt$", place):
            above = PurePosixPath(place).parent
            for name in file.read_text(encoding="utf-8", errors="replace").split():
                splits[(above / name).as_posix()] = match[1]
    return splits


def _whole(frames: Frames) -> list[tuple[Path, Path]]:
    """A blurred and a sharp photo of each frame that has both."""
    views = (sorted(frame.items()) for frame in frames.values() if "sharp" in frame)
    return [(view[0][1][0], view[-1][1][0]) for view in views if len(view) > 1]


def find_pairs(index: ImageIndex) -> tuple[Frames, str]:
    """The frames of a folder, {} if it holds no pairs, and which of its sides had to be measured.

    Raises `S3EError` for two sides without a common name, and for equal trees that cannot be told
    apart.
    """
    frames, count = _match(index, {}), max(len(index.photos), 20)
    if 20 * len(_whole(frames)) >= count:
        return frames, ""
    if sides := _measure(index):
        frames = _match(index, sides)
        return frames, "sides as measured, as no name tells: {} is blurred, {} sharp"
    sides = defaultdict(list)
    for view, photos in chain(*(frame.items() for frame in frames.values())):
        sides[view == "sharp"] += photos
    blurred, named = sides[False], {file.stem: file for file in sides[True]}
    if not blurred:  # perhaps the photos of the same names, if they look the same
        others = {*index.photos.values()} - {*sides[True]}
        blurred = [file for file in sorted(others) if file.stem in named]
        if blurred and _compare(blurred[0], named[blurred[0].stem])[0] < LIKENESS:
            return {}, ""
    if 10 * min(len(sides[True]), len(blurred)) >= count:
        what = "seem to be halves of pairs, but the rest of their paths never agrees"
        raise S3EError(
            f"{blurred[0]} and {sides[True][0]} {what}; name partners alike, or {PLAIN}."
        )
    return {}, ""


def _measure(index: ImageIndex) -> dict[str, str]:
    """The sides of two words in folders' names that alone tell equal trees of like photos apart.

    {} where there are none; `S3EError` where neither of the two is clearly the blurred one.
    """
    count, words = len(index.photos), Counter()
    for place in index.photos:
        words.update({word.lower() for word in re.findall(PIECES, place.rpartition("/")[0])})
    named = [word for word, n in words.items() if word.isalnum() and count <= 8 * n <= 5 * count]
    for pair in combinations(sorted({*named} - {*MEANINGS}), 2):
        pairs = _whole(_match(index, dict(zip(pair, ("blur", "sharp"), strict=True))))
        if 8 * len(pairs) < max(count, 16):
            continue
        looks = [_compare(*both) for both in pairs[:: len(pairs) // PROBES + 1]]
        likeness, ratio = np.median(looks, 0)
        if likeness >= LIKENESS:
            if likeness >= ALIKE and abs(ratio) >= SHARPER:
                blurred, sharp = pair if ratio < 0 else pair[::-1]
                return {blurred: "blur", sharp: "sharp"}
            what = "show nearly the same, but neither is clearly the blurred other"
            remedy = f"call their folders blur and sharp, or {PLAIN}"
            raise S3EError("{} and {} {}; {}.".format(*pairs[0], what, remedy))
    return {}


def _compare(first: Path, second: Path) -> tuple[float, float]:
    """How alike two photos are, up to 1, and the log of how much sharper the first one is."""
    try:
        images = [decode(file)[0].convert("L") for file in (first, second)]
    except S3EError:
        return 0.0, 0.0
    one, other = (fingerprint(image)[1] for image in images)
    steps = [np.square(np.gradient(np.asarray(image, float))).mean() + 1e-6 for image in images]
    return one @ other, np.log(steps[0] / steps[1])


def read_pairs(index: ImageIndex, subset: str) -> tuple[DataFrame, str]:
    """All pairs of `subset`, no sequence in two splits (see `_divide`).

    Raises `S3EError` where the folder lacks the subset or a split.
    """
    frames, measured = find_pairs(index)
    views = sorted({*chain(*frames.values())} - {"sharp"})
    if subset == "blur" and len(views) == 1:
        (subset,) = views
    if subset not in views:
        choose = " or ".join(f"--set data.subset={view}" for view in views)
        raise S3EError(f"{index.root}: no blurred photos are called {subset}/; {choose}.")
    whole = {split for (split, _), frame in frames.items() if {"sharp", subset} <= {*frame}}
    rows = [row for row in _rows(frames) if row[1] in whole]
    first = {group: split for group, split, *_ in reversed(rows) if split}
    pairs, used = [], set()
    for group, split, _, stem, frame in rows:
        blurred, sharp = (frame.get(view, []) for view in (subset, "sharp"))
        files, fault = [*chain(*frame.values())], ""
        if not split and len(whole) > 1:
            fault = "is neither in train/ nor in test/; move it into one"
        elif stem and group.strip("0123456789") and split != first.get(group, split):
            fault = f"the sequence's name is that of one in {first[group]}/; rename one"
        elif len(blurred) == len(sharp) == 1:
            if split != first.get(group, split):  # numbered anew in each split
                group = f"{split}_{group}"
            number = re.sub(FILMED, r"\2", sharp[0].stem)
            number = int(number) if stem and number.isdecimal() else -1
            name = f"{group}/{stem}" if stem else group
            pairs.append(Photo(name, sharp[0], split, (), blurred[0], group * bool(stem), number))
        elif blurred or sharp:
            what = f"{len(blurred)} files in {subset}/ and {len(sharp)} in sharp/"
            fault = f"frame {stem or group} has {what}; keep one of each, or none"
        used.update(files)
        if fault and (problem := f"{files[0].parent}: {fault}.") not in index.problems:
            index.problems.append(problem)
    if alone := [place for place, file in index.photos.items() if file not in used]:
        index.notes.append(counted("photos without a partner, left alone", alone))
    pairs = DataFrame(pairs, columns=Photo._fields)
    if measured and len(pairs):
        index.notes.append(measured.format(*pairs.loc[0, ["blurred", "path"]]))
    divided = _divide(index.root, pairs)
    name = "GoPro" if pairs["sequence"].str.match(r"GOPR\d+_").any() else "pairs"
    return pairs, f"{name}, subset {subset}, {divided}"


def _rows(frames: Frames) -> list[tuple[str, str, int, str, dict[str, list[Path]]]]:
    """Sequence, split, length of its name, name and views of all frames, sorted.

    Folders make sequences, but for those that hold everything; where there are none, names do.
    Photos without a sequence have their name in its place, and none themselves.
    """
    idle = set.intersection(*({*key.split("/")[:-1]} for _, key in frames))
    rows = []
    for (split, key), frame in frames.items():
        *folders, stem = key.split("/")
        if sequence := "/".join(name for name in folders if name not in idle):
            rows.append((sequence, split, len(stem), stem, frame))
        else:
            rows.append((stem, split, 0, "", frame))
    return sorted(rows, key=lambda row: row[:-1])


def _divide(root: Path, pairs: DataFrame) -> str:
    """Give every pair a split, and say how: given splits stay; validation comes from train where
    it is not given, or is what is tested on; without any, whole sequences are drawn.

    Raises `S3EError` for one half of the pairs.
    """
    given, said = {*pairs["split"]}, []
    half = given - {""} or {root.resolve().name.lower()} & {*SPLITS}
    if half and not {"train"} < half:
        remedy = "give the folder that holds train/ and test/"
        raise S3EError(f"{root}: is one half of the pairs, {' and '.join(half)} only; {remedy}.")
    if "test" not in half and half:
        pairs["split"], said = pairs["split"].replace("val", "test"), ["tested on val"]
    units = pairs["sequence"].where(pairs["sequence"] != "", pairs["id"])
    what = "train " * bool(half) + ("pairs" if units.is_unique else "sequences")
    for split, name in (("test", "test"), ("val", "validation")):
        if split not in {*pairs["split"]}:
            free = units[pairs["split"].isin(["", "train"])]
            chosen = validation(free)
            pairs.loc[free.index[free.isin(chosen)], "split"] = split
            said.append(f"{name} = {len(chosen)} of {free.nunique()} {what}")
    pairs["split"] = pairs["split"].replace("", "train")
    return ", ".join(said) or "splits as given"


def validation(pairs: Series) -> set[str]:
    """The sequences (`pairs`: that of each pair) that are used for validation.

    Whole recordings: sequences of one name in several folders, and the clips GOPRxxxx_yy_zz of one
    xxxx stay together. Ranked by hashed name, those of fewer than 5 pairs last, as many as make
    10 % of all pairs and at least 2 pairs; one recording always stays.
    """
    names = pairs.str.replace(r"^.*/", "", regex=True)
    recordings = names.str.replace(r"^(GOPR\d+)_\d+_\d+$", r"\1", regex=True)
    sizes, chosen = recordings.value_counts(), []
    ranked = sorted(sizes.index, key=lambda key: (sizes[key] < 5, stable_hash("validation", key)))
    for key in ranked[:-1]:
        if sizes[chosen].sum() >= max(2, 0.1 * len(pairs)):
            break
        chosen.append(key)
    return {*pairs[recordings.isin(chosen)]}
