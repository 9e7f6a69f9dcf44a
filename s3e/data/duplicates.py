"""Near-duplicate photos never straddle splits: what a model is tested on, it must not have been trained on."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from s3e.data.sources import SPLITS, Photo, Source

if TYPE_CHECKING:
    from s3e.data.survey import Survey

THUMB = 16  # side of the grey thumbnail
# Of 12.5 million pairs of 5,000 photos (Flickr8k), 12 are near by hash alone, and only the one true pair by both.
# Found of copies: all that are compressed, resized or grey, 97 % of brightened ones, 94 % of those cut by 5 %.
DISTANCE = 8  # differing bits of 64 up to which two difference hashes are near
LIKENESS = 0.8  # correlation of the thumbnails from which on two near photos count as duplicates
FLAT = 2.0  # grey levels of deviation below which a thumbnail shows nothing that could be compared
BLOCK = 4_000_000  # comparisons at a time


@dataclass(frozen=True)
class Signatures:
    """Of N photos: hashes uint64 (N,), thumbnails without mean and of length 1, float32 (N, THUMB^2).

    Thumbnails that show nothing have length 0; they are alike only if equal, which `exact` (N,) numbers.
    """

    hashes: np.ndarray
    thumbs: np.ndarray
    exact: np.ndarray


def separate(source: Source, survey: Survey) -> Source:
    """Keep near-duplicates in one split; every photo moved or left out is said in `notes`.

    Splits made by id ("halved": val and test, "hashed": all three): a group goes where its smallest id is. "given"
    splits: validation photos that look like a test photo are left out. In both: training photos that look like a
    validation or test photo are left out. Videos ("sequence") stay as they are.
    """
    if source.rule == "sequence":
        return source
    splits, notes = dict(source.splits), list(source.notes)
    if source.rule == "given":
        splits["val"] = _without(splits, "val", ("test",), survey, notes)
    else:
        names = SPLITS if source.rule == "hashed" else ("val", "test")
        splits |= _gathered({name: splits[name] for name in names}, survey, notes)
    splits["train"] = _without(splits, "train", ("val", "test"), survey, notes)
    return replace(source, splits=splits, notes=tuple(notes))


def fingerprint(image: Image.Image) -> tuple[int, bytes]:
    """What near-duplicates share: the 64-bit difference hash, and a grey thumbnail of THUMB x THUMB bytes.

    The hash says of 8 x 8 places whether the next place to the right is brighter (N. Krawetz's dHash).
    """
    grey = image.convert("L")
    steps = np.asarray(grey.resize((9, 8), Image.Resampling.LANCZOS))
    bits = np.packbits(steps[:, 1:] > steps[:, :-1])
    thumb = grey.resize((THUMB, THUMB), Image.Resampling.LANCZOS)
    return int.from_bytes(bits.tobytes(), "big"), thumb.tobytes()


def alike(a: Signatures, b: Signatures) -> np.ndarray:
    """Index pairs (n, 2) of near-duplicates: photo i of `a` and photo j of `b`."""
    found, rows = [np.empty((0, 2), dtype=np.int64)], max(1, BLOCK // max(1, len(b.hashes)))
    for start in range(0, len(a.hashes), rows):
        near = np.bitwise_count(a.hashes[start : start + rows, None] ^ b.hashes) <= DISTANCE
        i, j = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
        same = (a.thumbs[start + i] @ b.thumbs[j].T >= LIKENESS) | (
            a.exact[start + i, None] == b.exact[j]
        )
        same &= near[np.ix_(i, j)]
        row, column = np.nonzero(same)
        found.append(np.stack([start + i[row], j[column]], axis=1))
    return np.concatenate(found)


def signatures(photos: list[Photo], survey: Survey) -> Signatures:
    """The surveyed photos' hashes and thumbnails as arrays."""
    looks = [survey.looks[photo.id] for photo in photos]
    bytes_ = np.frombuffer(b"".join(seen.thumb for seen in looks), dtype=np.uint8)
    thumbs = bytes_.reshape(len(looks), THUMB**2).astype(np.float32)
    thumbs -= thumbs.mean(1, keepdims=True)
    length = np.sqrt((thumbs**2).sum(1, keepdims=True))
    flat = length < FLAT * THUMB
    hashes = np.array([seen.hash for seen in looks], dtype=np.uint64)
    exact = np.array([zlib.crc32(seen.thumb) for seen in looks], dtype=np.int64)
    return Signatures(hashes, np.where(flat, 0, thumbs / np.where(flat, 1, length)), exact)


def _without(
    splits: dict, name: str, others: tuple[str, ...], survey: Survey, notes: list[str]
) -> list[Photo]:
    """The photos of one split that look like none of the `others`."""
    kept = [photo for other in others for photo in splits[other]]
    twins = set(alike(signatures(splits[name], survey), signatures(kept, survey))[:, 0].tolist())
    if twins:
        ids = [splits[name][k].id for k in sorted(twins)]
        notes.append(
            f"{_count(ids, name)} left out, alike a photo of {' or '.join(others)}: {_few(ids)}"
        )
    return [photo for k, photo in enumerate(splits[name]) if k not in twins]


def without_lent(
    splits: dict[str, list[Photo]], survey: Survey, known: list[Photo], lent: Survey
) -> tuple[dict[str, list[Photo]], list[str]]:
    """The splits without the validation and test photos that look like a `known` one, and what to say about it."""
    result, notes, theirs = dict(splits), [], signatures(known, lent)
    for name in ("val", "test"):
        twins = set(alike(signatures(splits[name], survey), theirs)[:, 0].tolist())
        result[name] = [photo for k, photo in enumerate(splits[name]) if k not in twins]
        if ids := [splits[name][k].id for k in sorted(twins)]:
            notes.append(
                f"{_count(ids, name)} left out, the borrowed tree was trained on alike ones: {_few(ids)}"
            )
    return result, notes


def _gathered(
    splits: dict[str, list[Photo]], survey: Survey, notes: list[str]
) -> dict[str, list[Photo]]:
    """The splits with each group of near-duplicates where its smallest id is; movers come last."""
    photos = [photo for part in splits.values() for photo in part]
    home = [name for name, part in splits.items() for _ in part]
    signs = signatures(photos, survey)
    i, j = alike(signs, signs).T
    _, group = connected_components(
        coo_array((np.ones(len(i)), (i, j)), shape=(len(photos),) * 2), directed=False
    )
    first: dict[int, int] = {}
    for k in sorted(range(len(photos)), key=lambda k: photos[k].id):
        first.setdefault(group[k], k)
    goal = [home[first[group[k]]] for k in range(len(photos))]
    moved = [k for k in range(len(photos)) if goal[k] != home[k]]
    if moved:
        ids = [photos[k].id for k in moved]
        notes.append(f"{_count(ids)} moved to the split of a near-duplicate: {_few(ids)}")
    stay = {
        name: [p for k, p in enumerate(photos) if goal[k] == home[k] == name] for name in splits
    }
    return {
        name: part + [photos[k] for k in moved if goal[k] == name] for name, part in stay.items()
    }


def _count(ids: list[str], name: str = "") -> str:
    return " ".join(filter(None, (str(len(ids)), name, "photo" if len(ids) == 1 else "photos")))


def _few(ids: list[str]) -> str:
    return ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
