"""Pairs of blurred and sharp photos: two trees whose paths agree but for the words of their side.

GoPro's `{train,test}/<sequence>/{blur,blur_gamma,sharp}/NNNNNN.png` is one case. A tree may stand
at any depth, names may hold more than the words of side and split, and files may carry the side.
"""

import re
from collections import Counter, defaultdict
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from pandas import DataFrame, Series

from s3e.data.photos import decode
from s3e.data.readers import LIKENESS, ImageIndex, Photo, counted, fingerprint
from s3e.utils import S3EError, stable_hash

WORDS = {  # what parts of names mean, in any case
    "blur": "blur blurred blurry input inputs inp lr lq source degraded defocus defocused",
    "sharp": "sharp gt groundtruth ground truth target targets tar hr hq clean clear original",
    "train": "train training",
    "val": "val valid validation",
    "test": "test testing",
}
MEANINGS = {word: meaning for meaning, words in WORDS.items() for word in words.split()}
SIDES, PARTS = ("blur", "sharp"), ("train", "val", "test")
PIECES = r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^A-Za-z\d]+"  # of a name
FILMED = (
    r"(?<![^/])([^/]*\d[^/]*?)[-_](\d{4,}(?:[-_]\d+)?)$"  # a file's name: sequence, frame and patch
)
PROBES, MOST = 8, 0.75  # pairs that are decoded where names do not tell, and how many must agree
SHARPER = 1.1  # ratio of mean squared gradients from which on one photo is the sharper one
PLAIN = "--set data.kind=photos reads all of them as sharp photos"


class Half(NamedTuple):
    """A photo of one side. `keys` are what its partner shares: the path without words of side and
    split, the same without what `more` its side's folder is called, its name alone.
    """

    file: Path
    side: str
    split: str
    keys: tuple[str, str, str]
    more: str


Frames = dict[tuple[str, str], dict[str, list[Path]]]  # (split, key) -> view -> photos


@cache
def _strip(name: str, meanings: tuple[str, ...]) -> tuple[str, str]:
    """A name without the words of these meanings, and the last of the meanings found ("")."""
    pieces = [(piece, MEANINGS.get(piece.lower())) for piece in re.findall(PIECES, name)]
    if not (found := [meaning for _, meaning in pieces if meaning in meanings]):
        return name, ""
    left = "".join(piece for piece, meaning in pieces if meaning not in meanings)
    return re.sub(r"([-_ .])[-_ .]+", r"\1", left).strip("-_ ."), found[-1]


def _halves(index: ImageIndex, at: str, named: dict[str, str]) -> list[Half]:
    """The photos that have a side. It is said by the outer or inner folder or by the "file".

    `named`: names of folders whose side was measured, "" for all others.
    """
    listed, halves = _listed(index), []
    for place, file in index.photos.items():
        folders = [_strip(name, PARTS) for name in place.split("/")[:-1]]
        split = next((split for _, split in reversed(folders) if split), "")
        names = [("", named[n]) if n in named else _strip(n, SIDES) for n, _ in folders]
        stem, side = _strip(file.stem, SIDES)
        said = [k for k, (_, meaning) in enumerate(names) if meaning]
        chosen = (said[-1] if at == "inner" else said[0]) if said else len(names)
        if at != "file":
            side = names[chosen][1] if said else named.get("", "")
        bare = [*(name for name, _ in names), stem]
        keys = bare, bare[:chosen] + bare[chosen + 1 :] if said else bare, [stem]
        keys = tuple("/".join(filter(None, key)) for key in keys)
        if side:
            more = bare[chosen] if said else ""
            halves.append(Half(file, side, listed.get(place, split), keys, more))
    return halves


def _listed(index: ImageIndex) -> dict[str, str]:
    """The splits of photos that RealBlur's lists name (`RealBlur_J_train_list.txt`)."""
    splits = {}
    for place, file in index.paths.items():
        if match := re.search(r"(train|val|test)_list\.txt$", place):
            above = PurePosixPath(place).parent
            for name in file.read_text(encoding="utf-8", errors="replace").split():
                splits[(above / name).as_posix()] = match[1]
    return splits


def _match(halves: list[Half]) -> Frames:
    """Frames by what blurred and sharp photos share; those without a partner have one side."""
    frames, sharp = defaultdict(lambda: defaultdict(list)), defaultdict(list)
    for half in halves:
        for key in {*half.keys[:2]} if half.side == "sharp" else ():
            sharp[half.split, key].append(half.file)
    shared, used = {half.more for half in halves if half.side == "sharp"} | {""}, set()
    for half in halves:
        if half.side == "blur":
            view = "blur" if half.more in shared else f"blur_{half.more}".lower()
            own = half.split, half.keys[view != "blur"]
            wanted = [(split, key) for split in (half.split, "") for key in half.keys]
            key = next((key for key in wanted if key in sharp), own)
            frames[half.split, key[1]][view].append(half.file)
            frames[half.split, key[1]]["sharp"] = sharp.get(key, [])
            used.update(sharp.get(key, []))
    for half in halves:
        if half.side == "sharp" and half.file not in used:
            frames[half.split, half.keys[0]]["sharp"].append(half.file)
    return frames


def find_pairs(index: ImageIndex) -> tuple[Frames, str]:
    """The frames of a folder, {} if it holds no pairs, and which sides had to be measured.

    Raises `S3EError` for two sides without a common name, and for equal trees that cannot be told
    apart.
    """
    count, best = len(index.photos), {}
    for at in ("inner", "outer", "file"):
        best = max(best, _match(_halves(index, at, {})), key=_complete)
    if 20 * _complete(best) >= max(count, 20):
        return best, ""
    if named := _measure(index):
        sides = " and ".join(f"{name or 'the others'} as {side}" for name, side in named.items())
        measured = f"sides as measured, since the folders' names do not tell: {sides}"
        return _match(_halves(index, "inner", named)), measured
    places = [[half.file for half in _halves(index, "inner", {}) if half.side == s] for s in SIDES]
    if 10 * min(map(len, places)) >= max(count, 10):
        what = "lie in folders of blurred and sharp photos, but no two of them have a common name"
        raise S3EError(
            f"{places[0][0]} and {places[1][0]} {what}; name partners alike, or {PLAIN}."
        )
    return {}, ""


def _complete(frames: Frames) -> int:
    return sum(bool(views["sharp"]) and len(views) > 1 for views in frames.values())


# --- two equal trees whose sides no name tells ---


def _measure(index: ImageIndex) -> dict[str, str]:
    """The sides of two names of folders under which the same is shown under the same paths.

    {} where there are none; `S3EError` where neither of the two is clearly the blurred one.
    """
    photos, names = len(index.photos), Counter()
    for place in index.photos:
        names.update(_strip(name, PARTS)[0] for name in place.split("/")[:-1])
    common = [name for name, count in sorted(names.items()) if name and 8 * count >= photos]
    for pair in sorted(combinations(["", *common], 2), key=lambda pair: "" in pair):
        frames = _match(_halves(index, "inner", dict(zip(pair, SIDES, strict=True)))).values()
        files = [
            (views["blur"][0], views["sharp"][0])
            for views in frames
            if views["blur"] and views["sharp"]
        ]
        looks = [_compare(*both) for both in _probes(files)] if 8 * len(files) >= photos else []
        if len(looks) > 1 and np.mean([alike for alike, _ in looks]) >= MOST:
            ratios = np.array([ratio for _, ratio in looks])
            if np.mean(ratios >= SHARPER) >= MOST:
                return dict(zip(pair, ("sharp", "blur"), strict=True))
            if np.mean(ratios <= 1 / SHARPER) >= MOST:
                return dict(zip(pair, ("blur", "sharp"), strict=True))
            first, second = files[0]
            what = "show the same as many others, and neither side is clearly the blurred one"
            remedy = f"call their folders blur and sharp, or {PLAIN}"
            raise S3EError(f"{first} and {second} {what}; {remedy}.")
    return {}


def _probes(items: list) -> list:
    return items[:: len(items) // PROBES + 1]


def _compare(first: Path, second: Path) -> tuple[bool, float]:
    """Whether both photos show the same, and how much sharper the first one is (1: unknown)."""
    try:
        images = [decode(file)[0].convert("L") for file in (first, second)]
    except S3EError:
        return False, 1.0
    one, other = (fingerprint(image)[1] for image in images)
    if images[0].size != images[1].size:
        return bool(one @ other >= LIKENESS), 1.0
    steps = [np.gradient(np.asarray(image, np.float32)) for image in images]
    energies = [np.square(step).mean() + 1e-6 for step in steps]
    return bool(one @ other >= LIKENESS), energies[0] / energies[1]


# --- from frames to photos in splits ---


def read_pairs(index: ImageIndex, subset: str) -> tuple[DataFrame, str]:
    """All pairs of `subset`, no sequence in two splits (see `_divide`).

    Raises `S3EError` where the folder lacks the subset or a split.
    """
    frames, measured = find_pairs(index)
    subset = _subset(index, frames, subset)
    places, splits, known = _places(frames), defaultdict(set), {}
    whole = {split for (split, _), views in frames.items() if views["sharp"] and subset in views}
    for (split, _), (sequence, stem, _) in places.items():
        splits[sequence or stem].add(split)
    pairs, used = [], set()
    for (split, key), (sequence, stem, number) in places.items():
        used.update(*frames[split, key].values() if split in whole else ())
        blurred, sharp = (frames[split, key].get(view, []) for view in (subset, "sharp"))
        if split not in whole or not (blurred or sharp):
            continue
        at, fault = [*blurred, *sharp][0].parent, ""
        first = known.setdefault(sequence, (split, at))
        anew = split != "test" and len(splits[sequence or stem]) > 1  # numbered in each split
        if not split and len(whole) > 1:
            fault = "is neither in train/ nor in test/; move it into one"
        elif sequence.strip("0123456789") and first[0] != split:
            fault = f"the sequence's name is that of {first[1]}; remove or rename one"
        elif len(blurred) != 1 or len(sharp) != 1:
            what = f"{len(blurred)} files in {subset}/ and {len(sharp)} in sharp/"
            fault = f"frame {stem} has {what}; keep one of each, or none"
        elif sequence:
            sequence = f"{split}/{sequence}" if anew else sequence
            name = f"{sequence}/{stem}"
        else:
            name = f"{split}_{stem}" if anew else stem
        if not fault:
            pairs.append(Photo(name, sharp[0], split, (), blurred[0], sequence, number))
        elif (problem := f"{at}: {fault}.") not in index.problems:
            index.problems.append(problem)
    if alone := [place for place, file in index.photos.items() if file not in used]:
        index.notes.append(counted("photos without a partner, left alone", alone))
    if measured:
        index.notes.append(measured)
    pairs = DataFrame(pairs, columns=Photo._fields)
    divided = _divide(index.root, pairs)
    name = "GoPro" if pairs["sequence"].str.match(r"GOPR\d+_").any() else "pairs"
    return pairs, f"{name}, subset {subset}, {divided}"


def _subset(index: ImageIndex, frames: Frames, subset: str) -> str:
    """The view that `subset` asks for: the only one may have any name but GoPro's other one."""
    views = sorted({view for frame in frames.values() for view in frame} - {"sharp"})
    if subset not in views:
        if subset != "blur" or len(views) > 1 or views == ["blur_gamma"]:
            choose = " or ".join(f"--set data.subset={view}" for view in views)
            raise S3EError(f"{index.root}: no blurred photos are called {subset}/; {choose}.")
        (subset,) = views
    return subset


def _places(frames: Frames) -> dict[tuple[str, str], tuple[str, str, int]]:
    """Split and key -> sequence, name and number in it (-1: none), sorted, test photos first.

    Folders make sequences, but for those that hold everything; where there are none, names do.
    """
    paths = {at: re.sub(FILMED, r"\1/\2", at[1]).split("/") for at in frames}
    folders = set.intersection(*({*path[:-1]} for path in paths.values()))
    idle, places = {name for name in folders if not name.isdecimal()}, {}
    for at, (*above, stem) in paths.items():
        sequence = "/".join(name for name in above if name not in idle)
        sided = any(_strip(file.stem, SIDES)[1] for file in frames[at]["sharp"])
        numbered = sequence and stem.isdecimal() and not sided
        places[at] = sequence, stem, int(stem) if numbered else -1

    def rank(at: tuple[str, str]) -> tuple:
        sequence, stem, _ = places[at]
        return sequence, at[0] != "test", at[0], len(stem), stem

    return {at: places[at] for at in sorted(places, key=rank)}


def _divide(root: Path, pairs: DataFrame) -> str:
    """Give every pair a split, and say how: given splits stay; validation comes from train where
    it is not given, or is what is tested on; without any, whole sequences are drawn.

    Raises `S3EError` for one half of the pairs, and for one video without splits.
    """
    splits, given, said = pairs["split"].copy(), {*pairs["split"]}, []
    units = pairs["sequence"].where(pairs["sequence"] != "", pairs["id"])
    what = "pairs" if units.is_unique else "sequences"
    if given == {""}:
        if root.resolve().name.lower() in PARTS:
            whole = "give the folder that holds train/ and test/, or rename it if there is none"
            raise S3EError(f"{root}: is one half of the pairs, and itself in no splits; {whole}.")
        near = [_compare(*both)[0] for both in _probes([*pairwise(pairs["path"])])]
        if what == "pairs" and sum(near) > MOST * len(near):
            alike = "the pairs look like frames of one video, which no two splits may share"
            raise S3EError(f"{root}: {alike}; put them into train/ and test/, or a folder a video.")
    elif given and ("train" not in given or len(given) == 1):
        only = f"holds pairs in {', '.join(sorted(given))}/ only"
        raise S3EError(f"{root}: {only}; put train/ and test/ side by side into one folder.")
    elif "test" not in given:
        splits, said = splits.replace("val", "test"), ["tested on val"]
    for split in ["test", "val"] if given == {""} else ["val"] * (not splits.eq("val").any()):
        free = units[splits.isin(["", "train"])]
        splits[free.index[free.isin(chosen := validation(free))]] = split
        name = "validation" if split == "val" else split
        said.append(f"{name} = {len(chosen)} of {free.nunique()} {'train ' * any(given)}{what}")
    pairs["split"] = splits.replace("", "train")
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
