"""Did the networks see in training what they are tested on? Test photos beside training photos, and what is left.

Near-duplicates are kept apart before training (`s3e.data.readers`). This looks afterwards, in other ways, for what
that may have missed, and scores the arms again without the photos it suspects.
"""

import numpy as np
import pandas as pd

from s3e.captions.tree import SPECIAL, tokenize
from s3e.data.corpus import Corpus, Split
from s3e.evaluation.gains import differences

THUMB = 16  # side of the grey thumbnails that are compared
LIKENESS = 0.9  # correlation of thumbnails from which on a photo is suspected
SERIES = 1000  # photos whose numbers lie closer may be of one series, where numbers are given in the order of upload
SPARSE = 20  # times as far apart must training photos' numbers be at the median, or closeness says nothing (MSCOCO)
ONLY = "all others (on the suspected alone)"
PAIRS = (("full", "baseline"), ("full", "no_semantics_loss"))
SUSPECTS = {
    "alike": f"alike a training photo, mirrored or not (correlation of thumbnails of at least {LIKENESS:g})",
    "series": f"number within {SERIES} of a training photo's (may be of one series)",
    "said": "a caption stands word by word among those of training",
}


def suspects(corpus: Corpus) -> pd.DataFrame:
    """For every test photo: id, likeness to the most alike training photo, distance of their numbers, and `SUSPECTS`.

    `distance` is missing where ids are no numbers, or numbers that lie so close that it would tell nothing.
    """
    likeness = _likeness(corpus.test, corpus.train)
    distance = _distance(corpus.test.ids, corpus.train.ids)
    known = {_plain(text) for texts in corpus.train.captions for text in texts}
    said = [any(_plain(text) in known for text in texts) for texts in corpus.test.captions]
    found = pd.DataFrame({"id": corpus.test.ids, "likeness": likeness, "distance": distance})
    return found.assign(alike=likeness >= LIKENESS, series=distance <= SERIES, said=said)


def unknown_words(corpus: Corpus) -> list[str]:
    """Words of the vocabulary that no training caption has: there must be none."""
    known = {word for texts in corpus.train.captions for text in texts for word in tokenize(text)}
    return sorted(set(corpus.words.words) - known - set(SPECIAL))


def without(
    scores: pd.DataFrame, found: pd.DataFrame, severity: str, resamples: int = 2000
) -> pd.DataFrame:
    """`gains.differences` of `PAIRS` in test PSNR at one severity: of all photos, without suspects, on them alone.

    `scores`: per-image scores of the arms; `found`: `suspects`. Columns as there, and `left_out`, `photos`.
    """
    test = scores[(scores.split == "test") & (scores.severity == severity)]
    out = {"nothing": found.id.iloc[:0]} | {name: found.id[found[name]] for name in SUSPECTS}
    suspected = found[list(SUSPECTS)].any(axis=1)
    out |= {"any of these": found.id[suspected], ONLY: found.id[~suspected]}
    frames = []
    for name, ids in out.items():
        left = test[~test.id.isin(ids)]
        if left.id.nunique() > 1:
            frame = differences(left, resamples)
            asked = pd.Series(
                zip(frame.variant, frame.reference, strict=True), index=frame.index
            ).isin(PAIRS)
            frames.append(
                frame[asked & (frame.metric == "psnr")].assign(left_out=name, photos=len(ids))
            )
    return pd.concat(frames, ignore_index=True)


def _likeness(split: Split, others: Split) -> np.ndarray:
    """The highest correlation of each photo's thumbnail, or its mirror image, with those of the others: (N,)."""
    mine, theirs = thumbnails(split.sharp), thumbnails(others.sharp).reshape(len(others), -1).T
    views = (mine, mine[:, :, ::-1])
    return np.max([(view.reshape(len(split), -1) @ theirs).max(1) for view in views], axis=0)


def thumbnails(images: np.ndarray) -> np.ndarray:
    """uint8 N x S x S x 3 -> grey thumbnails without their mean and of length 1: float32 N x THUMB x THUMB."""
    side = images.shape[1] // THUMB
    grey = np.asarray(images).mean(-1, dtype=np.float32)
    small = grey.reshape(len(grey), THUMB, side, THUMB, side).mean((2, 4))
    small -= small.mean((1, 2), keepdims=True)
    return small / np.maximum(np.linalg.norm(small, axis=(1, 2), keepdims=True), 1e-6)


def _distance(ids: list[str], others: list[str]) -> np.ndarray:
    """How far each id is, as a number, from the nearest of the others; NaN where one is no number or all are close."""
    known = np.sort([int(name) if name.isdecimal() else 0 for name in others])
    if not all(map(str.isdecimal, (*ids, *others))) or np.median(np.diff(known)) < SPARSE * SERIES:
        return np.full(len(ids), np.nan)
    return np.array([float(np.abs(known - int(name)).min()) for name in ids])


def _plain(text: str) -> str:
    return " ".join(tokenize(text))
