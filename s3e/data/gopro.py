"""GoPro's layout: pairs of frames, `{train,test}/<sequence>/{blur,blur_gamma,sharp}/NNNNNN.png`."""

import re
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from s3e.data.folder import Tree, is_photo
from s3e.data.photos import load_whole
from s3e.data.sources import Photo, Problem, Source, check_splits
from s3e.utils import S3EError, stable_hash

VIEWS = {"sharp", "blur", "blur_gamma"}
RAW = "GOPRO_Large_all"
_SEQUENCE = re.compile(
    r"GOPR\d+_(\d+)_\d+"
)  # GOPRxxxx_yy_zz: yy frames of 240 a second are averaged


def found(tree: Tree) -> bool:
    """Whether there is any sequence: sub-folders `sharp` and `blur` or `blur_gamma` beside each other."""
    return any("sharp" in inner and len(VIEWS & {*inner}) > 1 for inner in tree.folders.values())


def read(root: Path, tree: Tree, subset: str) -> Source:
    """All pairs of `subset`, sequences kept together; validation sequences are taken from train (see `validation`)."""
    problems = list(tree.problems)
    parts: dict[str, dict[str, list[Photo]]] = {"train": {}, "test": {}}
    for split, folder in _sequences(root, tree, subset, problems):
        if pairs := _pairs(folder, tree, subset, problems):
            parts[split][folder.name] = pairs
    chosen = validation({name: len(pairs) for name, pairs in parts["train"].items()})
    splits = {
        "train": [
            pair for name, pairs in parts["train"].items() if name not in chosen for pair in pairs
        ],
        "val": [pair for name in sorted(chosen) for pair in parts["train"][name]],
        "test": [pair for pairs in parts["test"].values() for pair in pairs],
    }
    check_splits(
        root, splits, problems, "give at least 2 train sequences and 1 test sequence of 2 pairs"
    )
    protocol = f"GoPro, subset {subset}, validation = {len(chosen)} of {len(parts['train'])} train sequences"
    return Source("gopro", root, splits, "sequence", protocol, tuple(problems))


def _sequences(
    root: Path, tree: Tree, subset: str, problems: list[Problem]
) -> list[tuple[str, Path]]:
    """(split, folder) of each usable sequence, by name."""
    folders = sorted(
        (place for place, inner in tree.folders.items() if VIEWS & {*inner}),
        key=lambda p: (p.name, p),
    )
    if not any(subset in tree.folders[place] for place in folders):
        other = "blur" if subset == "blur_gamma" else "blur_gamma"
        raise S3EError(
            f"{root}: no sequence has the folder {subset}/; --set data.subset={other} (--subset {other})."
        )
    result: dict[str, tuple[str, Path]] = {}
    for place in folders:
        split = next(
            (
                part
                for part in reversed(place.relative_to(root).parts[:-1])
                if part in ("train", "test")
            ),
            None,
        )
        if split is None and root.name in ("train", "test"):
            raise S3EError(
                f"{root}: is one half of GoPro; give the folder that holds train/ and test/."
            )
        if split is None:
            problems.append(
                Problem(
                    str(place), "the sequence is neither in train/ nor in test/", "move it into one"
                )
            )
        elif missing := next(
            (view for view in (subset, "sharp") if view not in tree.folders[place]), None
        ):
            problems.append(
                Problem(
                    str(place), f"the sequence has no folder {missing}/", "restore or remove it"
                )
            )
        elif place.name in result:
            other = result[place.name][1]
            problems.append(
                Problem(
                    str(place), f"the sequence's name is that of {other}", "remove or rename one"
                )
            )
        else:
            result[place.name] = (split, place)
    return list(result.values())


def _pairs(folder: Path, tree: Tree, subset: str, problems: list[Problem]) -> list[Photo]:
    """The pairs of a sequence in the order of their numbers; incomplete and unequal ones are problems."""
    blurred, sharp = (_frames(folder / view, tree, problems) for view in (subset, "sharp"))
    pairs = []
    for number in sorted(blurred.keys() | sharp.keys()):
        if number not in blurred or number not in sharp:
            there, missing = (sharp, subset) if number in sharp else (blurred, "sharp")
            what = f"has no partner in {missing}/"
            problems.append(
                Problem(str(there[number]), what, "restore the partner or remove this file")
            )
        elif problem := _unequal(blurred[number], sharp[number]):
            problems.append(problem)
        else:
            name = f"{folder.name}/{sharp[number].stem}"
            pairs.append(Photo(name, sharp[number], (), blurred[number], folder.name, number))
    return pairs


def _frames(folder: Path, tree: Tree, problems: list[Problem]) -> dict[int, Path]:
    frames: dict[int, Path] = {}
    for path in (folder / name for name in tree.files.get(folder, ()) if is_photo(name)):
        if re.fullmatch("[0-9]+", path.stem) and int(path.stem) not in frames:
            frames[int(path.stem)] = path
        else:
            what = "the name is not a frame number of its own"
            problems.append(Problem(str(path), what, "name it like 000001.png or remove it"))
    return frames


def _unequal(blurred: Path, sharp: Path) -> Problem | None:
    sizes = []
    for path in (blurred, sharp):
        try:
            with Image.open(path) as image:
                sizes.append(image.size)
        except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            return Problem(
                str(path),
                f"cannot be read as a photo ({error})",
                "replace the file or remove the pair",
            )
    if sizes[0] == sizes[1]:
        return None
    shown = " and ".join(f"{width}x{height}" for width, height in sizes)
    return Problem(
        str(blurred),
        f"blurred and sharp frame differ in size ({shown})",
        "replace or remove the pair",
    )


def validation(pairs: dict[str, int]) -> set[str]:
    """The train sequences (name -> number of pairs) that are used for validation.

    Whole recordings: the clips GOPRxxxx_yy_zz of one xxxx stay together. Ranked by hashed name, those of fewer than 5
    pairs last, as many as make 10 % of all pairs and at least 2 pairs; one recording always stays in train.
    """
    recordings: dict[str, list[str]] = {}
    for name in pairs:
        recordings.setdefault(name.split("_")[0] if _SEQUENCE.fullmatch(name) else name, []).append(
            name
        )
    sizes = {key: sum(pairs[name] for name in names) for key, names in recordings.items()}
    ranked = sorted(sizes, key=lambda key: (sizes[key] < 5, stable_hash("validation", key)))
    chosen: list[str] = []
    for key in ranked[:-1]:
        if sum(pairs[name] for name in chosen) >= max(2, 0.1 * sum(pairs.values())):
            break
        chosen += recordings[key]
    return set(chosen)


def windows(photos: list[Photo], frames: int) -> list[list[Photo] | None]:
    """For each pair the `frames` (odd) consecutive released pairs around it, or None where the sequence has too few."""
    known = {(photo.sequence, photo.frame): photo for photo in photos}
    reach = range(-(frames // 2), frames // 2 + 1)
    around = [
        [known.get((photo.sequence, photo.frame + step)) for step in reach] for photo in photos
    ]
    return [None if None in window else window for window in around]


def find_raw(root: Path) -> Path:
    """The folder of the raw video frames, in `root` or beside it; raises `S3EError` if there is none."""
    for folder in (root / RAW, root.resolve().parent / RAW):
        if folder.is_dir():
            return folder
    raise S3EError(
        f"{root}: blur.average=raw needs the raw frames {RAW}/ in this folder or beside it; fetch them or "
        "--set blur.average=released."
    )


def raw_shift(pairs: list[Photo], all_root: Path) -> int:
    """By how many frames the raw numbers of a sequence differ from what `raw_window` expects, told by a sharp frame.

    `pairs`: some of one sequence. A sharp frame is the middle raw frame of its window up to coding (less than a grey
    level); users report clips whose numbers are off (SeungjunNah/DeepDeblur_release issue 66). Raises `S3EError` if it
    is found nowhere near.
    """
    average, folder = _raw_sequence(pairs[0], all_root)
    probe = pairs[len(pairs) // 2]
    sharp, middle = load_whole(probe.path), (probe.frame - 1) * average + average // 2 + 1
    for shift in sorted(range(-average, average + 1), key=abs):
        path = folder / f"{middle + shift:06}.png"
        if not path.is_file():
            continue
        image = load_whole(path)
        if image.shape != sharp.shape:
            return 0  # whoever stacks the frames names the odd one
        if np.abs(image.astype(np.int16) - sharp).mean() < 1:
            return 0 if average % 2 == 0 and abs(shift) <= 1 else shift
    raise S3EError(
        f"{probe.path}: is not among the raw frames of {folder} around number {middle}; fetch both again or "
        "--set blur.average=released."
    )


def _raw_sequence(photo: Photo, all_root: Path) -> tuple[int, Path]:
    """How many raw frames a released one is the mean of, and the folder of the sequence's raw frames."""
    name = _SEQUENCE.fullmatch(photo.sequence)
    if not name or not (average := int(name[1])):
        raise S3EError(
            f"{photo.sequence}: blur.average=raw needs sequences that are named GOPRxxxx_yy_zz, yy frames averaged; "
            "--set blur.average=released."
        )
    places = (all_root / part / photo.sequence for part in ("train", "test", "."))
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise S3EError(
            f"{all_root}: has no sequence {photo.sequence}; fetch it or --set blur.average=released."
        )
    return average, folder


def raw_window(photo: Photo, frames: int, all_root: Path, shift: int = 0) -> list[Path] | None:
    """The `frames`·yy raw frames around a pair of sequence GOPRxxxx_yy_zz; None where the video is too short.

    Released frame n is the mean of the raw frames (n-1)·yy+1 ... n·yy (specification 4.2), plus `shift` where a clip's
    numbers are off. Raises `S3EError` if the name gives no yy, or if raw frames are missing.
    """
    average, folder = _raw_sequence(photo, all_root)
    before, after = photo.frame - 1 - frames // 2, photo.frame + frames // 2
    first = before * average + 1 + shift
    paths = [folder / f"{number:06}.png" for number in range(first, after * average + 1 + shift)]
    there = [path.is_file() for path in paths]
    if first < 1 or not there[-1]:
        return None
    if not all(there):
        raise S3EError(
            f"{paths[there.index(False)]}: the raw frame is missing; fetch the sequence again."
        )
    return paths
