"""Caption metrics as pycocoevalcap defines them (specification 4.4): BLEU-1..4, METEOR, ROUGE-L, CIDEr.

All systems share one call of the tokeniser and one of METEOR (`s3e.evaluation.java`); the other metrics are counted in
`s3e.evaluation.ngrams`. What cannot run is None with a reason, never 0. "CIDEr" is the package's CIDEr-D with document
frequencies of the scored images, so values on sets of different size do not compare, unless `background` names one set
of references for all of them. Captions of one image count once: images are resampled, never captions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from scipy import stats

from s3e.captions.tree import tokenize
from s3e.evaluation import java, ngrams
from s3e.evaluation.java import find_java
from s3e.evaluation.statistics import Interval
from s3e.utils import S3EError

__all__ = ["METRICS", "find_java", "intervals", "per_image_cider", "score_captions", "statistics"]

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
NO_METEOR = "METEOR not run: {}"
PLAIN = "{}; tokens by s3e.captions.tree.tokenize instead of the PTB tokeniser"
NO_JAVA = PLAIN.format(NO_METEOR.format("no Java"))
NO_CIDER = "CIDEr not run: the document frequencies tell no images apart; give references of more images as background"
SPICE_NOT_RUN = (
    "SPICE not run: it needs a download of 384 MB without checksum and a Java between 8 and 13."
)
CHUNK_CELLS = 2_000_000  # resampling counts held in memory at once
# The package's list as it is: being upper-case, its brackets never match the lower-case tokens, so "-lrb-" stays.
_PUNCTUATION = frozenset("'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split())

References = Mapping[str, Sequence[str]]
Captions = Mapping[str, str]


class Resampled(Protocol):
    """Anything that is measured again on resampled images: `counts` (resamples, images) -> metric -> (resamples,)."""

    ids: list[str]

    def resample(self, counts: np.ndarray) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class Statistics:
    """What the metrics need to know of a caption set, one row an image: `ids` are sorted.

    meteor: float (images, 23), None if METEOR could not run; `trouble` says why, and which tokens were taken.
    """

    ids: list[str]
    ngrams: ngrams.Statistics
    meteor: np.ndarray | None
    trouble: str

    @property
    def images(self) -> int:
        return len(self.ids)

    @cached_property
    def reason(self) -> str:
        """Why a metric is missing; "" if all were run."""
        missing = [NO_CIDER] * bool(np.isnan(self.ngrams.table).any())
        return "; ".join([self.trouble] * bool(self.trouble) + missing)

    def resample(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """The metrics of resampled sets, each (resamples,), NaN if not run; counts (resamples, images)."""
        found = self.ngrams.resample(counts)
        found["METEOR"] = (
            np.full(len(counts), np.nan)
            if self.meteor is None
            else java.meteor(counts @ self.meteor)
        )
        return {name: found[name] for name in METRICS}

    def scores(self) -> dict[str, float | None]:
        """The metrics of the whole set: fractions, CIDEr in 0..10, None if not run."""
        values = {
            name: float(value[0])
            for name, value in self.resample(np.ones((1, self.images))).items()
        }
        return {name: None if math.isnan(value) else value for name, value in values.items()}


def score_captions(
    references: References, systems: Mapping[str, Captions], background: References | None = None
) -> dict[str, dict]:
    """Score every system on the ids that it captions: {name: {metric: float | None, "images": int, "reason": str}}.

    `references` maps an id to its human captions, a system maps ids to one caption each. To score systems against
    different references (validation and test, or one human against the other four) in one call, use distinct ids.
    `background`: references whose document frequencies CIDEr takes, instead of those of the images that a system
    captions. What could not run is None, and `reason` says why. Raises `S3EError` on ids that do not fit.
    """
    found = statistics(references, systems, background)
    return {
        name: {**item.scores(), "images": item.images, "reason": item.reason}
        for name, item in found.items()
    }


def statistics(
    references: References, systems: Mapping[str, Captions], background: References | None = None
) -> dict[str, Statistics]:
    """As `score_captions`, but what resampling needs (`intervals`)."""
    _check(references, systems)
    tokens, program, trouble = _tokenise([*systems.values()], [references, background or {}])
    ids = {name: sorted(captions, key=str) for name, captions in systems.items()}
    said = {name: [tokens[systems[name][i]] for i in ids[name]] for name in systems}
    wanted = {
        name: [[tokens[text] for text in references[i]] for i in ids[name]] for name in systems
    }
    meteor = dict.fromkeys(systems)
    if program:
        try:
            meteor = _meteor(program, wanted, said)
        except java.JavaError as error:
            trouble = NO_METEOR.format(error)
    frozen = background and [[tokens[text] for text in background[i]] for i in background]
    counted = {name: ngrams.Statistics.of(wanted[name], said[name], frozen) for name in systems}
    return {name: Statistics(ids[name], counted[name], meteor[name], trouble) for name in systems}


def per_image_cider(references: References, captions: Captions) -> dict[str, float]:
    """CIDEr-D of each captioned image, with document frequencies frozen on *all* references."""
    found = statistics(references, {"captions": captions}, references)["captions"]
    return dict(zip(found.ids, found.ngrams.table[:, -1].tolist(), strict=True))


def intervals(
    seeds: Sequence[Resampled], minus: Sequence[Resampled] = (), resamples: int = 2000, seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval | None]:  # fmt: skip
    """The mean over training seeds of each metric of a set, and its interval; None for a metric that was not run.

    `seeds`: one caption set a seed, all of the same images. `minus`: those of another system, seed by seed, or one for
    all; then the metrics are differences. The interval is the wider of the bootstrap over images and seeds (of n, n - 1
    are drawn, as in `s3e.evaluation.statistics`) and, with several seeds, a t interval over their values. One image
    says nothing about others: NaN.
    """
    others = list(minus) * (len(seeds) if len(minus) == 1 else 1)
    if any(item.ids != seeds[0].ids for item in (*seeds, *others)) or len(others) not in (
        0,
        len(seeds),
    ):
        raise S3EError(
            "caption sets to compare must be of the same images and seeds: run their notebooks again."
        )
    images, generator = len(seeds[0].ids), np.random.default_rng([seed, len(seeds[0].ids)])
    values = _measured(seeds, others, np.ones((1, images)))
    step = max(1, CHUNK_CELLS // images)
    drawn = [min(step, resamples - start) for start in range(0, resamples, step)]
    parts = [_measured(seeds, others, _draws(generator, count, images)) for count in drawn]
    weights = _draws(generator, resamples, len(seeds)) / max(1, len(seeds) - 1)
    found = {}
    for name, value in values.items():
        means = np.sum(np.concatenate([part[name] for part in parts], 1) * weights.T, 0)
        found[name] = (
            None if np.isnan(value).any() else _interval(value[:, 0], means, level, images)
        )
    return found


def _interval(values: np.ndarray, means: np.ndarray, level: float, images: int) -> Interval:
    """The wider of percentiles of bootstrap `means` and a t interval over the `values` of seeds."""
    mean = float(values.mean())
    low, high = (
        np.quantile(means, [(1 - level) / 2, (1 + level) / 2]) if images > 1 else (np.nan, np.nan)
    )
    if len(values) > 1:
        half = stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values)
        low, high = min(low, mean - half), max(high, mean + half)
    return Interval(mean, float(low), float(high))


def _measured(
    seeds: Sequence[Resampled], others: Sequence[Resampled], counts: np.ndarray
) -> dict[str, np.ndarray]:
    """Metric -> values or differences (seeds, resamples)."""
    own = [item.resample(counts) for item in seeds]
    theirs = [item.resample(counts) for item in others]
    names = [name for name in own[0] if not theirs or name in theirs[0]]
    return {
        name: np.stack([item[name] for item in own])
        - (np.stack([item[name] for item in theirs]) if theirs else 0)
        for name in names
    }


def _draws(generator: np.random.Generator, resamples: int, units: int) -> np.ndarray:
    """How often each unit is drawn when n - 1 of n are: float (resamples, units); a single one is drawn once."""
    lots = generator.integers(units, size=(resamples, max(1, units - 1)))
    lots += np.arange(resamples)[:, None] * units
    return (
        np.bincount(lots.ravel(), minlength=resamples * units)
        .reshape(resamples, units)
        .astype(float)
    )


def _check(references: References, systems: Mapping[str, Captions]) -> None:
    for key, texts in references.items():
        if isinstance(texts, str) or not texts:
            raise S3EError(f"References of image {key!r} must be a non-empty list of captions.")
    for name, captions in systems.items():
        unknown = sorted(set(captions) - set(references), key=str)
        if unknown or not captions:
            what = (
                f"captions image {unknown[0]!r}, which has no references"
                if unknown
                else "has no captions"
            )
            raise S3EError(f"System {name!r} {what}: score it on images of the reference set.")


def clean(text: str) -> str:
    """One line: every newline-like or other white space becomes a blank; METEOR's field separator is removed."""
    return " ".join(text.replace("|||", " ").split())


def _tokenise(
    systems: Sequence[Captions], references: Sequence[References]
) -> tuple[dict[str, str], str | None, str]:
    """Every distinct text -> its lower-case tokens without punctuation; the Java that still works; what is wrong."""
    texts = {text for captions in systems for text in captions.values()}
    texts |= {text for part in references for group in part.values() for text in group}
    ordered = sorted(texts)
    lines = [clean(text) for text in ordered]
    program, trouble = find_java(), ""
    try:
        if program is None:
            raise java.JavaError("no Java")
        found = [line.rstrip().split(" ") for line in java.tokenise(program, lines)]
    except (
        java.JavaError
    ) as error:  # then for all systems alike: tokens of two kinds would not compare
        program, trouble = None, PLAIN.format(NO_METEOR.format(error))
        found = [tokenize(line) for line in lines]
    tokens = [" ".join(word for word in words if word not in _PUNCTUATION) for words in found]
    return dict(zip(ordered, tokens, strict=True)), program, trouble


def _meteor(
    program: str, wanted: Mapping[str, list[list[str]]], said: Mapping[str, list[str]]
) -> dict[str, np.ndarray]:
    """METEOR's statistics of every system, in one call."""
    references = [group for name in said for group in wanted[name]]
    captions = [text for name in said for text in said[name]]
    found = java.meteor_statistics(program, references, captions)
    return dict(
        zip(
            said,
            np.split(found, np.cumsum([len(texts) for texts in said.values()])[:-1]),
            strict=True,
        )
    )
