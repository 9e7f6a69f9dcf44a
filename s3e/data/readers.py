"""Data sources as they lie on disk: one frame of images, in fixed splits; plain photos.

`s3e.data.pairs` reads pairs, `s3e.data.annotations` captions; it chooses the reader of a folder.
"""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple
from urllib.parse import unquote

import numpy as np
from numpy import ndarray
from pandas import DataFrame
from PIL import Image

from s3e.data.photos import EXTENSIONS, FORMATS, UNREAD, sniff
from s3e.utils import S3EError, shown, stable_hash

SPLITS = ("train", "val", "test")
PAIRED = ("released", "severe")  # severities of pairs, mildest first
Kind = Literal["captions", "pairs", "photos", "scenes"]
LEFTOVERS = {"__macosx", "@eadir", "thumbs.db", "desktop.ini", "$recycle.bin"}
CAPTIONED = ("scenes", "captions")  # kinds of data that teach a tree and a captioner


class Photo(NamedTuple):
    """A row of `Source.images`. `id` is unique: splits, blur and tables are keyed by it."""

    id: str
    path: Path  # the sharp photo
    split: str
    captions: tuple[str, ...] = ()
    blurred: Path | None = None  # pairs: the released blurred frame
    sequence: str = ""  # pairs: the video it comes from
    frame: int = -1  # pairs: its number in the video


@dataclass
class Source:
    """A data set as it lies on disk, or generated scenes.

    `images`: a row a photo (see `Photo`). `protocol`: one sentence for tables. `problems`: what had
    to be left out, each a sentence with place and remedy; `notes`: what else is worth knowing.
    """

    kind: Kind
    root: Path
    images: DataFrame
    protocol: str
    problems: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def captioned(self) -> bool:
        return self.kind in CAPTIONED

    @property
    def paired(self) -> bool:
        return self.kind == "pairs"

    def check_splits(self) -> None:
        """Raise `S3EError` if a split has fewer than 2 photos; the first problem may be why."""
        for split in SPLITS:
            if (count := (self.images["split"] == split).sum()) < 2:
                remedy = f"add photos ({', '.join(FORMATS)})"
                if self.paired:
                    remedy = "give at least 2 train sequences and 1 test sequence, of 2 pairs each"
                if self.problems:
                    remedy += f" ({len(self.problems)} left out, first: {self.problems[0][:-1]})"
                what = f"the {split} split has fewer than 2 usable photos ({count})"
                raise S3EError(f"{self.root}: {what}; {remedy}.")


# --- files and folders ---


class ImageIndex:
    """The files of a data folder, links followed once, without hidden ones and `LEFTOVERS`.

    `paths`: relative path (with "/") -> file, sorted by folder; `photos`: those with a photo's
    extension, or with none and a photo's first bytes. What a name holds beyond UTF-8 stands there
    as `shown`. `problems` (at first what cannot be listed) and `notes` (at first what is ignored)
    gather what is found out.
    """

    def __init__(self, root: Path):
        self.root, self.paths, self.photos, self.problems, self.notes = root, {}, {}, [], []
        waiting, seen, ignored = [root], set(), []
        while waiting:
            folder = waiting.pop()
            if (real := os.path.realpath(folder)) in seen:
                continue
            seen.add(real)
            try:
                names = sorted(os.listdir(folder))
            except OSError as error:
                what = f"the folder cannot be listed ({error.strerror})"
                remedy = "give yourself permission (chmod u+rx), or shorten a path that is too long"
                self.problems.append(f"{folder}: {what}; {remedy}.")
                continue
            inner = []
            for name in names:
                file = folder / name
                if name[0] == "." or name.lower() in LEFTOVERS:
                    ignored.append(shown(name))
                elif os.path.isdir(file):
                    inner.append(file)
                elif not os.path.isfile(file):  # opening a pipe would wait for ever
                    why = "pipe, device, link to nothing, no permission"
                    problem = f"{file}: cannot be opened as a file ({why}); mend or remove it."
                    self.problems.append(problem)
                else:
                    place = shown(file.relative_to(root).as_posix())
                    while place in self.paths:  # another name that is shown like this one
                        place += "+"
                    self.paths[place] = file
            waiting += reversed(inner)
        for place, file in self.paths.items():
            if file.suffix.lower() in EXTENSIONS or (not file.suffix and sniff(file)):
                self.photos[place] = file
        if ignored:
            what = "hidden files and leftovers of archives and systems, ignored"
            self.notes.append(counted(what, sorted(ignored)))

    def left_alone(self) -> str:
        """The files that are not taken for photos, counted by extension; "" if there are none."""
        others = {*self.paths.values()} - {*self.photos.values()}
        kinds = Counter(file.suffix.lower() or "without extension" for file in others)
        found = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
        why = "; this installation cannot decode photos among them: convert them to JPEG"
        return found and f"left alone: {found}{why * bool(UNREAD & kinds.keys())}"

    @cached_property
    def normalised(self) -> dict[str, list[str]]:
        """Normalised file name (see `normal`) -> relative paths."""
        found = defaultdict(list)
        for place in self.paths:
            found[normal(place)[-1]].append(place)
        return found

    def find(self, name: str, folder: str) -> list[str]:
        """Relative paths of the photo `name`, a file name or a path: none, one, or those undecided.

        They have that file name once normalised. Of several, exactly that name goes before the
        same extension and this before others; then those in folders that agree with the path most,
        in such a `folder`, in `images`, in the fewest folders.
        """
        wanted, file = normal(name), PurePosixPath(name)

        def rank(place: str) -> tuple:
            above, _, last = f"/{place}".rpartition("/")
            shared = os.path.commonprefix([normal(place)[-2::-1], wanted[-2::-1]])
            differs = (last != file.name) + (not last.lower().endswith(file.suffix.lower()))
            where = folder not in above.lower(), "/images" not in above.lower(), place.count("/")
            return differs, -len(shared), *where

        places = self.normalised.get(wanted[-1], [])
        if len(places) > 1:
            ranks = [*map(rank, places)]
            places = [place for place, at in zip(places, ranks, strict=True) if at == min(ranks)]
        return places

    def nearest(self, name: str) -> str:
        """The relative path whose file name is most like `name`, or "": slow, for a few alone."""
        found = get_close_matches(normal(name)[-1], self.normalised, 1)
        return self.normalised[found[0]][0] if found else ""


def normal(name: str) -> list[str]:
    """The parts of a photo's path as every system, archive and data set would write them.

    Alike: "\\" and "/", Unicode forms, upper and lower case, %20 and its character; extensions of
    photos and prefixes such as COCO_val2014_ are left out of the last part.
    """
    path = unquote(name.split("?")[0] if "://" in name else name).replace("\\", "/")
    *folders, last = unicodedata.normalize("NFC", path.casefold()).split("/")
    stem, suffix = os.path.splitext(last.strip())
    stem = stem if suffix in EXTENSIONS else stem + suffix
    return [*folders, re.sub(r"^coco_[a-z]+\d{4}_", "", stem)]


# --- any folder of photos, without captions or blurred partners ---


def split_of(key: str) -> str:
    """Of a photo without a given split: train, val and test have 80, 10 and 10 % of all ids."""
    return (["train"] * 8 + ["val", "test"])[stable_hash("split", key) % 10]


def read_folder(index: ImageIndex, subset: str) -> tuple[list[Photo], str]:
    """A photo's id is its relative path, with the extension only where that is ambiguous."""
    stems = {place: os.path.splitext(place)[0] for place in index.photos}
    counts = Counter(stems.values())
    photos = []
    for place, file in index.photos.items():
        key = place if counts[stems[place]] > 1 else stems[place]
        photos.append(Photo(key, file, split_of(key)))
    if others := index.left_alone():
        index.notes.append(others)
    return photos, "photos without captions, split 80/10/10 by id"


# --- near-duplicates: what a model is tested on, it must not have been trained on ---

THUMB = 16  # side of the grey thumbnail
# Of 12.5 million pairs of 5,000 photos (Flickr8k), 12 are near by hash alone, and only the one true
# pair by both.
# Found of copies: all that are compressed, resized or grey, 97 % of brightened ones, 94 % of those
# cut by 5 %.
DISTANCE = 8  # differing bits of 64 up to which two difference hashes are near
LIKENESS = 0.8  # correlation of the thumbnails from which on two near photos count as duplicates
FLAT = 2.0  # grey levels of deviation below which a thumbnail shows nothing that could be compared


def fingerprint(image: Image.Image) -> tuple[np.uint64, ndarray]:
    """What near-duplicates share: the 64-bit difference hash, and a grey thumbnail (THUMB**2).

    The hash says of 8 x 8 places whether the next place to the right is brighter (N. Krawetz's
    dHash). The thumbnail has mean 0 and length 1; it is 0 where it shows nothing.
    """
    grey, lanczos = image.convert("L"), Image.Resampling.LANCZOS
    steps = np.asarray(grey.resize((9, 8), lanczos))
    bits = np.packbits(steps[:, 1:] > steps[:, :-1])
    thumb = np.asarray(grey.resize((THUMB, THUMB), lanczos), np.float32).ravel()
    thumb = thumb - thumb.mean()
    length = np.linalg.norm(thumb)
    return bits.view(np.uint64)[0], thumb / length if length >= FLAT * THUMB else 0 * thumb


def alike(images: DataFrame, others: DataFrame) -> ndarray:
    """Which of `images` (bool, n) are near-duplicates of any of `others`, by hash and thumbnail."""
    hashes, thumbs = others["hash"].to_numpy(np.uint64), np.array([*others["thumb"]])
    found = []
    for sign, thumb in zip(images["hash"].astype(np.uint64), images["thumb"], strict=True):
        near = np.bitwise_count(hashes ^ sign) <= DISTANCE
        found.append(near.any() and (thumbs[near] @ thumb >= LIKENESS).any())
    return np.array(found, bool)


def keep_apart(source: Source) -> None:
    """Near-duplicates never straddle splits: val photos alike a test photo, and training photos
    alike either are left out, and noted. Videos stay as they are: splits are whole recordings.
    """
    if not (source.paired and source.images["sequence"].any()):
        drop_alike(source, "val", source.images.query("split == 'test'"), "test")
        drop_alike(source, "train", source.images.query("split != 'train'"), "val or test")


def drop_alike(source: Source, split: str, others: DataFrame, where: object) -> None:
    """Leave out the photos of `split` that look like one of `others` (of `where`), with a note."""
    mine = source.images[source.images["split"] == split]
    if len(twins := mine[alike(mine, others)]):
        source.images = source.images.drop(twins.index)
        source.notes.append(
            counted(f"{split} photos left out, alike a photo of {where}", [*twins["id"]])
        )


def counted(what: str, where: Sequence[str]) -> str:
    """A note: what was met, how often, and where first."""
    return f"{what}: {len(where)} ({', '.join(where[:3])}{', ...' if len(where) > 3 else ''})"
