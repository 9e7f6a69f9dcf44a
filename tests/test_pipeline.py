"""The pipeline on tiny notebooks: freshness and its reasons, locks, refusals, death and going on."""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest

import s3e
from s3e import utils
from s3e.config import VARIANTS, Runtime, load_config
from s3e.pipeline import (
    contents,
    folders,
    graph,
    keys,
    lending,
    machine,
    pools,
    runner,
    scheduler,
    store,
)
from s3e.pipeline.graph import STAGES, Instance
from s3e.utils import S3EError, read_json
from tests.fixtures_data import write_coco, write_gopro, write_karpathy, write_photos

COMMON = (
    'profile = "smoke"\ndata = "scenes"\nseed = 0\nrun_dir = ""\noverrides = {}\nresume = True\n'
)
MANY = "variants = []\nseeds = []\n"
OWN = {
    "06_ablation": 'variant = "baseline"\n',
    "06b_semantic_fidelity": MANY,
    "07_evaluation": MANY,
}
OWN |= {"07b_metric_definitions": MANY}
OWN["08_figures_and_tables"] = OWN["07_evaluation"]
OPEN = "run = open_run({stage!r}, {names})\nrun.card()"
WORK = """# a training of three steps with a checkpoint each, that can be told to hang
import time
ticks = run.path / "ticks.txt"
for step in range(len(ticks.read_text()) if ticks.exists() else 0, 3):
    ticks.write_text("." * (step + 1))
    while step == 1 and (run.path.parent / "hang").exists():
        time.sleep(0.05)
for name in run.outputs:
    (run.path / name).write_text(run.stage)
"""


def notebook(stage: str) -> nbformat.NotebookNode:
    names = [line.split(" =")[0] for line in (COMMON + OWN.get(stage, "")).splitlines()]
    code = [
        "from s3e.pipeline import open_run\nfrom s3e.fake import losses",
        OPEN.format(stage=stage, names=", ".join(f"{name}={name}" for name in names)),
        WORK,
        'run.finish({"loss": losses.VALUE, "resumed": int(run.resumed)})',
    ]
    cells = [
        nbformat.v4.new_markdown_cell("what"),
        nbformat.v4.new_code_cell(COMMON + OWN.get(stage, "")),
    ]
    cells[1].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return nbformat.v4.new_notebook(
        cells=cells + [nbformat.v4.new_code_cell(text) for text in code], metadata=kernel
    )


def copy_suite(root: Path) -> Path:
    """A copy of the library with fake notebooks and a fake module."""
    shutil.copytree(
        Path(s3e.__file__).parent, root / "s3e", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(Path(s3e.__file__).parents[1] / "run_all.py", root)
    (root / "s3e" / "fake").mkdir()
    (root / "s3e" / "fake" / "__init__.py").touch()
    (root / "s3e" / "fake" / "losses.py").write_text(
        '"""Doc."""\nfrom . import terms\n\nVALUE = terms.ONE\n'
    )
    (root / "s3e" / "fake" / "terms.py").write_text("ONE = 1.0  # one\n")
    (root / "notebooks").mkdir()
    for stage in STAGES:
        nbformat.write(notebook(stage), root / "notebooks" / f"{stage}.ipynb")
    return root


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the suite in a folder with braces in its name."""
    return copy_suite(tmp_path_factory.mktemp("repo") / "a {copy}")


@pytest.fixture
def here(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same copy seen from this process, with an empty store."""
    monkeypatch.setattr(keys, "PACKAGE", repo / "s3e")
    monkeypatch.setattr(folders, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(utils, "RUNS", tmp_path / "runs")
    monkeypatch.setattr("s3e.pipeline.study.NOTEBOOKS", repo / "notebooks")
    monkeypatch.setattr(lending.open_study, "__defaults__", (repo / "notebooks", ""))
    forget()
    yield repo
    forget()


def forget() -> None:
    for function in (keys.code_parts, keys.notebook_code, keys.notebook_parameters, keys._module):
        function.cache_clear()


def fake_run(repo: Path, stage: str, **arguments: object) -> store.Run:
    return store.open_run(stage, profile="smoke", notebooks=repo / "notebooks", **arguments)


def finish(repo: Path, stage: str, **arguments: object) -> Path:
    run = fake_run(repo, stage, **arguments)
    for name in run.outputs:
        (run.path / name).write_text(stage)
    run.finish({"loss": 1.0})
    return run.path


def states(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, str]:
    forget()
    capsys.readouterr()
    assert runner.main(["--profile", "smoke", "--variants", "baseline", "--status", *words]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    return {name: rest for name, rest in lines}


def edit(path: Path, old: str, new: str) -> str:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return text


def test_graph_order_and_upstream() -> None:
    config = load_config("study")
    selection = graph.select(config)
    runs = graph.plan(selection)
    for run in runs:
        assert all(runs.index(other) < runs.index(run) for other in graph.upstream(run, selection))
    assert len(set(runs)) == len(runs)
    own = graph.upstream(graph.arm("no_tree_loss", 1), selection)
    assert [run.stage[:2] for run in own] == ["01", "04"]
    assert [run.stage[:2] for run in graph.upstream(graph.arm("shuffled", 1), selection)] == [
        "01",
        "02",
        "03",
        "04",
    ]
    assert graph.arm("full", 2) == Instance("05_co_training", "full", 2)
    with pytest.raises(S3EError, match="must be lists"):
        graph.select(config, "baseline")
    with pytest.raises(S3EError, match="05_co_training"):
        graph.instance("06_ablation", "full")


def test_fields_follow_the_variant() -> None:
    config = load_config("smoke")
    assert "loss.caption" not in graph.fields(graph.arm("baseline", 0), config)
    assert "train_a1.steps" in graph.fields(graph.arm("no_tree_loss", 0), config)
    full = graph.fields(graph.arm("full", 0), config)
    assert "loss.caption" in full and "train_a1.steps" not in full
    assert not {"runtime.save_every", "runtime.explosion"} & set(full) and "runtime.devices" in full
    assert not {
        name
        for name in graph.fields(Instance("01_data_blurring"), config)
        if name.startswith("loss")
    }


def test_meaning_counts_not_layout() -> None:
    plain = keys.code_digest('"""Doc."""\ndef f(x):\n    "doc"\n    return x + 1\n', "a")
    assert plain == keys.code_digest(
        '"""Other."""\n\n\ndef f(x):  # say\n    "more"\n    return (x + 1)\n', "a"
    )
    assert plain != keys.code_digest('"""Doc."""\ndef f(x):\n    "doc"\n    return x + 2\n', "a")
    with pytest.raises(S3EError, match="line 1"):
        keys.code_digest("def", "a")


def test_status_says_why(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert states(capsys)["01_data_blurring/all"] == "missing"
    for stage in ("01_data_blurring", "04_train_deblurrer"):
        finish(here, stage)
    assert states(capsys)["04_train_deblurrer/s0"].startswith("fresh")
    losses, terms = here / "s3e" / "fake" / "losses.py", here / "s3e" / "fake" / "terms.py"
    before = (
        edit(losses, "Doc.", "Another docstring.\n# and a comment\n"),
        edit(terms, "# one", "# a comment"),
    )
    assert states(capsys)["04_train_deblurrer/s0"].startswith("fresh")
    edit(terms, "1.0", "2.0")
    assert "code of s3e.fake.terms changed" in states(capsys)["04_train_deblurrer/s0"]
    losses.write_text(before[0])
    terms.write_text(before[1])
    path = here / "notebooks" / "04_train_deblurrer.ipynb"
    text = edit(path, "# a training of three", "# a schooling of three")
    assert states(capsys)["04_train_deblurrer/s0"].startswith("fresh")
    edit(path, "range(", "range(0 + ")
    assert (
        "code of notebooks/04_train_deblurrer.ipynb changed"
        in states(capsys)["04_train_deblurrer/s0"]
    )
    path.write_text(text)
    (folders.RUNS / "smoke" / "04_train_deblurrer" / "s0" / "log_deblurrer.csv").unlink()
    assert "log_deblurrer.csv is lost" in states(capsys)["04_train_deblurrer/s0"]


def test_a_lesson_does_not_count_and_another_cell_does(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(here, "01_data_blurring")
    path = here / "notebooks" / "01_data_blurring.ipynb"
    text, book = path.read_text(), nbformat.read(path, as_version=4)
    book.cells.insert(-1, nbformat.v4.new_code_cell("show_lines(1)", metadata={"tags": ["lesson"]}))
    nbformat.write(book, path)
    assert states(capsys)["01_data_blurring/all"].startswith("fresh")
    edit(path, "show_lines(1)", "show_lines(2)")
    assert states(capsys)["01_data_blurring/all"].startswith("fresh")
    edit(path, '"lesson"', '"remark"')
    assert (
        "code of notebooks/01_data_blurring.ipynb changed" in states(capsys)["01_data_blurring/all"]
    )
    path.write_text(text)


def test_exploring_needs_no_run_and_other_weights_are_explored_again(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(here, "09_explore")
    seen = states(capsys)
    assert list(seen)[-1] == "09_explore/all" and seen["09_explore/all"].startswith("fresh")
    assert seen["01_data_blurring/all"] == "missing"
    (here / "s3e" / "weights").mkdir(exist_ok=True)
    other = here / "s3e" / "weights" / "other.safetensors"
    other.write_text("1")
    assert re.search(
        r"there was weights \w+, now there is weights", states(capsys)["09_explore/all"]
    )
    other.unlink()
    (other.parent / "__pycache__").mkdir()
    (other.parent / ".DS_Store").write_text("1")
    assert states(capsys)["09_explore/all"].startswith("fresh")


def test_overrides_recompute_only_what_depends(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for stage in ("01_data_blurring", "02_train_s3_tree", "04_train_deblurrer"):
        finish(here, stage)
    seen = states(capsys, "--set", "loss.tree=0.25")
    assert (
        "fresh" in seen["04_train_deblurrer/s0"] and "from smoke" in seen["04_train_deblurrer/s0"]
    )
    assert seen["02_train_s3_tree/s0"] == "missing            loss.tree 0.1 -> 0.25"
    run = fake_run(here, "06_ablation", variant="baseline", overrides={"loss.tree": 0.25})
    assert run.upstream("04").parts[-3] == "smoke" and run.path.parts[-3].startswith("smoke+")
    with pytest.raises(S3EError, match="missing.*loss.tree 0.1 -> 0.25.*--until 02"):
        fake_run(here, "03_train_captioner", overrides={"loss.tree": 0.25})
    store._HELD.pop(run.path).close()


def test_changed_profile_value_is_stale_downstream(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage in (
        "01_data_blurring",
        "02_train_s3_tree",
        "04_train_deblurrer",
        "03_train_captioner",
    ):
        finish(here, stage)
    monkeypatch.setitem(runner.PROFILES["smoke"], "loss", {"tree": 0.5})
    seen = states(capsys)
    assert "loss.tree 0.1 -> 0.5" in seen["02_train_s3_tree/s0"]
    assert "upstream 02_train_s3_tree/s0" in seen["03_train_captioner/s0"]
    assert seen["01_data_blurring/all"].startswith("fresh") and seen[
        "04_train_deblurrer/s0"
    ].startswith("fresh")


def test_resume_only_with_the_same_key(here: Path) -> None:
    finish(here, "01_data_blurring")
    run = fake_run(here, "04_train_deblurrer")
    (run.path / "last.ckpt").write_text("x")
    (run.path / "notebook.ipynb").write_text("kept")
    assert not run.resumed and fake_run(here, "04_train_deblurrer").resumed
    assert (run.path / "last.ckpt").exists()
    edit(here / "s3e" / "fake" / "terms.py", "1.0", "3.0")
    forget()
    with pytest.raises(
        S3EError, match="01_data_blurring/all, which is stale .code of s3e.fake.terms"
    ):
        fake_run(here, "04_train_deblurrer")
    finish(here, "01_data_blurring")
    assert not fake_run(here, "04_train_deblurrer").resumed
    assert not (run.path / "last.ckpt").exists() and (run.path / "notebook.ipynb").exists()
    (run.path / "last.ckpt").write_text("x")
    assert (
        not fake_run(here, "04_train_deblurrer", resume=False).resumed
        and not (run.path / "last.ckpt").exists()
    )
    edit(here / "s3e" / "fake" / "terms.py", "3.0", "1.0")
    store._HELD.pop(run.path).close()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.5", None])
def test_finish_refuses(here: Path, value: object) -> None:
    run = fake_run(here, "00_start_here")
    with pytest.raises(S3EError, match="metric 'psnr'"):
        run.finish({"psnr": value})
    with pytest.raises(S3EError, match="x.csv is missing"):
        run.finish({}, ["x.csv"])
    (run.path / "x.csv").touch()
    with pytest.raises(S3EError, match="x.csv is empty"):
        run.finish({}, ["x.csv"])
    assert not (run.path / "done.json").exists()
    (run.path / "x.csv").write_text("1")
    run.finish({"psnr": 1}, ["x.csv"])
    run.finish({"psnr": 2}, ["x.csv"])  # the last cell run again
    assert read_json(run.path / "metrics.json") == {"psnr": 2}
    assert read_json(run.path / "provenance.json")["threads"] == 1
    assert not folders.is_locked(run.path / ".lock")
    fake_run(here, "00_start_here")
    assert not (run.path / "done.json").exists()
    store._HELD.pop(run.path).close()


def test_skip_is_told_downstream(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in (
        "01_data_blurring",
        "02_train_s3_tree",
        "03_train_captioner",
        "04_train_deblurrer",
    ):
        finish(here, stage)
    finish(here, "06_ablation", variant="baseline")
    with pytest.raises(SystemExit):
        fake_run(here, "06_ablation", variant="oracle_map").skip("no label maps")
    finish(here, "06b_semantic_fidelity", variants=["baseline", "oracle_map"])
    run = fake_run(here, "07_evaluation", variants=["baseline", "oracle_map"])
    assert [path.name for path in run.upstream_runs("06")] == ["baseline-s0"]
    assert run.skipped == {"06_ablation/oracle_map-s0": "no label maps"} and not run.upstream_runs(
        "05"
    )
    assert run.upstream("01_data_blurring").name == "all" and "smoke" in str(run.card())
    assert states(capsys, "--variants", "oracle_map")["06_ablation/oracle_map-s0"].startswith(
        "skipped"
    )
    assert states(capsys)["07_evaluation/all"].startswith("running")
    store._HELD.pop(run.path).close()


@pytest.mark.parametrize(
    "words, says",
    [
        (["--profile", "moon"], "unknown profile 'moon'"),
        (["--variants", "fulll"], "unknown variant 'fulll'"),
        (["--only", "11"], "unknown stage '11'"),
        (["--set", "loss.captoin=1"], "captoin"),
        (["--set", "loss.caption=much"], "loss.caption"),
        (["--set", "loss.caption"], "section.name=value"),
        (["--seeds", "-1.5,x"], "seeds are whole numbers"),
        (["--data", "/no/such/folder"], "no such folder"),
        (["--only", "06"], "06_ablation/baseline-s0 needs 01_data_blurring/all, which is missing"),
    ],
)
def test_bad_requests_stop_before_any_kernel(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    words = [f"{words[0]}={words[1]}"] if words[0] == "--seeds" else words
    assert runner.main(["--profile", "smoke", *words]) == 2
    assert says in capsys.readouterr().err
    assert not folders.RUNS.exists()


def test_bad_places_and_notebooks(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    assert runner.main(["--profile", "smoke", "--data", str(tmp_path / "photos")]) == 2
    assert "holds no photos" in capsys.readouterr().err
    (tmp_path / "runs").write_text("a file")
    assert runner.main(["--profile", "smoke", "--only", "00"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    path = here / "notebooks" / "06_ablation.ipynb"
    text = edit(path, "variant = ", "arm = ")
    forget()
    assert runner.main(["--profile", "smoke"]) == 2
    assert "06_ablation.ipynb has no parameter 'variant'" in capsys.readouterr().err
    path.write_text(text)


def test_data_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils, "RUNS", tmp_path / "runs")
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    photo = data / "images" / "a.jpg"
    photo.write_text("x")
    (data / "captions.json").write_text("{}")
    first = keys.data_fingerprint(str(data))
    (data / ".hidden").write_text("x")
    (data / "gone.jpg").symlink_to(data / "nothing")
    os.utime(photo, (1, 1))
    assert keys.data_fingerprint(str(data)) == first
    assert (
        keys.data_fingerprint(str(shutil.copytree(data, tmp_path / "copy", symlinks=True))) == first
    )
    photo.write_text("y")  # another photo of the same size
    second = keys.data_fingerprint(str(data))
    assert second != first
    photo.write_text("x")  # within the same tick, perhaps: files that young are read again
    assert keys.data_fingerprint(str(data)) == first
    (data / "images" / "b.jpg").write_text("x")
    assert keys.data_fingerprint(str(data)) not in (first, second)
    assert keys.data_fingerprint("scenes") is None


def test_weights_count_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils, "RUNS", tmp_path / "runs")
    mine, other = tmp_path / "mine.pth", tmp_path / "elsewhere" / "same.pth"
    other.parent.mkdir()
    mine.write_text("x"), other.write_text("x")

    def settings(path: Path) -> dict[str, object]:
        config = load_config(
            "smoke", overrides={"loss.perceptual": 1.0, "loss.vgg19_weights": str(path)}
        )
        found = keys.Keys(config, graph.select(config), keys.NOTEBOOKS)
        return found.parts(Instance("04_train_deblurrer", seed=0))["settings"]

    first = settings(mine)
    assert settings(other) == first
    other.write_text("y")
    assert settings(other) != first
    missing = tmp_path / "none.pth"
    assert settings(missing)["loss.vgg19_weights"] == str(missing)


def test_data_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils, "RUNS", tmp_path / "runs")
    data, read = tmp_path / "data", []
    monkeypatch.setattr(contents, "digest", lambda path: read.append(path.name) or path.read_text())
    data.mkdir()
    for name in "abc":
        (data / f"{name}.jpg").write_text(name)
        os.utime(data / f"{name}.jpg", (1, 1))
    first = keys.data_fingerprint(str(data))
    assert keys.data_fingerprint(str(data)) == first and sorted(read) == ["a.jpg", "b.jpg", "c.jpg"]
    os.utime(data / "b.jpg", (2, 2))
    assert keys.data_fingerprint(str(data)) == first and sorted(read) == [
        "a.jpg",
        "b.jpg",
        "b.jpg",
        "c.jpg",
    ]
    record = next((tmp_path / "runs" / "cache").glob("files-data-*.json"))
    record.write_text("{")  # damaged: only time is lost
    assert keys.data_fingerprint(str(data)) == first and len(read) == 7


# ------------------------------------------------------------------------------------------- data without captions


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs in GoPro's layout."""
    return write_gopro(tmp_path_factory.mktemp("data") / "frames", subsets=("blur",), size=(40, 24))


def test_kinds_of_data(frames: Path, tmp_path: Path) -> None:
    small = {"size": (20, 20)}
    folders = {
        "coco": write_coco(tmp_path / "a", **small),
        "karpathy": write_karpathy(tmp_path / "b", **small),
    }
    folders |= {"folder": write_photos(tmp_path / "c", **small), "gopro": frames}
    assert {kind: keys.data_kind(str(folder)) for kind, folder in folders.items()} == {
        kind: kind for kind in folders
    }
    assert keys.data_kind("scenes") == "scenes"


def test_graph_without_captions() -> None:
    selection = graph.select(
        load_config("smoke"), ["baseline", "full", "no_semantics_loss"], [0, 1]
    )
    runs = graph.plan(selection, captioned=False)
    for run in runs:
        assert all(
            runs.index(other) < runs.index(run) for other in graph.upstream(run, selection, False)
        )
    assert sorted({run.stage[:2] for run in runs if run.of}) == ["01", "02", "03"]
    assert {run.stage[:2] for run in runs if not run.of} == {f"{number:02}" for number in range(10)}
    read = [str(run) for run in graph.upstream(graph.arm("full", 1), selection, captioned=False)]
    assert read == [
        "01_data_blurring/all", "captioned:01_data_blurring/all", "captioned:03_train_captioner/s1",
        "04_train_deblurrer/s1",
    ]  # fmt: skip
    scratch = graph.upstream(graph.arm("no_semantics_loss", 0), selection, captioned=False)
    assert [run.stage[:2] for run in scratch if run.of] == ["01"]
    assert not any(run.of for run in graph.plan(selection))


def test_falsifier_is_trained_beside_the_study(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("smoke", overrides={"falsifier": ["baseline", "full"], "seeds": [3, 4]})
    selection = graph.select(config)
    lots = graph.falsifier(config, selection)
    assert lots == (("baseline", 3), ("full", 3))
    assert graph.falsifier(config, selection[:1]) == ()  # a choice of one's own goes without
    assert (
        graph.falsifier(load_config("smoke", overrides={"data.texture": "random"}), selection) == ()
    )
    runs = graph.plan(selection, True, lots)
    for run in runs:
        assert all(
            runs.index(other) < runs.index(run)
            for other in graph.upstream(run, selection, True, lots)
        )
    assert {str(run) for run in runs if run.of and run.stage > "05"} == {
        "random:05_co_training/full-s3", "random:06_ablation/baseline-s3",
    }  # fmt: skip
    for stage in ("07_evaluation", "08_figures_and_tables"):
        assert [
            run.of for run in graph.upstream(graph.instance(stage), selection, True, lots)
        ].count("random") == 2


def test_falsifier_runs_as_the_study_with_random_textures(here: Path) -> None:
    words = ["--profile", "smoke", "--set", 'falsifier=["baseline"]', "--set", "data.train=24"]
    study = runner.study_of(runner.parser().parse_args(words))
    lots = next(run for run in study.runs if run.of and run.variant)
    assert study.parameters(lots)["overrides"]["data.texture"] == "random"
    assert study.parameters(lots)["overrides"]["data.train"] == 24
    arguments = {
        key: value
        for key, value in study.parameters(lots).items()
        if key not in ("run_dir", "resume")
    }
    assert study.keys.key(lots) != study.keys.key(lots.own)
    other = runner.study_of(runner.parser().parse_args([*words, "--set", "data.texture=random"]))
    assert other.keys.parts(lots.own)["settings"] == study.keys.parts(lots)["settings"]
    assert arguments["variant"] == "baseline" and not other.keys.falsifier
    assert study.store.others["random"].root in study.folders(study.runs)


def test_outputs_follow_the_data() -> None:
    pairs, scenes = (
        set(graph.outputs("01_data_blurring", kind, "severe")) for kind in ("gopro", "scenes")
    )
    assert pairs - scenes == {"val_released.npy", "test_released.npy"} and "val_severe.npy" in pairs
    released = graph.outputs("01_data_blurring", "gopro", "released")
    assert (
        "train_released.npy" in released and "val_severe.npy" not in released
    )  # short videos have no severe frames
    assert {"vocabulary.json", "val_light.npy", "test_moderate.npy"} <= scenes - pairs
    trained = graph.outputs("05_co_training", "folder", "severe")
    assert "scores.csv" in trained and not {
        "captions.json",
        "nodes.csv",
        "restored_test.npy",
    } & set(trained)
    assert "caption_scores.csv" in graph.outputs("07_evaluation", "coco", "severe")
    assert "caption_scores.csv" not in graph.outputs("07_evaluation", "gopro", "severe")


def test_what_describes_the_borrowing_data_stays_with_them() -> None:
    given = {
        "data.size": 32,
        "data.train": 8,
        "data.whole_frames": True,
        "blur.frames": 5,
        "loss.caption": 0.5,
    }
    assert lending.lent_overrides(given) == {"data.size": 32, "loss.caption": 0.5}
    assert lending.lent_overrides({"blur.severity": "released"}) == {}
    assert lending.lent_overrides({"blur.severity": "light"}) == {"blur.severity": "light"}


def finish_captioned(here: Path) -> None:
    for stage in ("01_data_blurring", "02_train_s3_tree", "03_train_captioner"):
        finish(here, stage)


def test_tree_and_captioner_are_borrowed_from_the_captioned_study(
    here: Path, frames: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = str(frames)
    for stage in ("01_data_blurring", "04_train_deblurrer"):
        finish(here, stage, data=data)
    with pytest.raises(
        S3EError,
        match="needs captioned:01_data_blurring/all, which is missing.*with data = 'scenes'",
    ):
        fake_run(here, "05_co_training", data=data)
    finish_captioned(here)
    run = fake_run(here, "05_co_training", data=data)
    places = {
        run.upstream(stage, captioned=True).parts[-3]
        for stage in ("01_data_blurring", "03_train_captioner")
    }
    assert places == {"smoke"} and run.upstream("01_data_blurring").parts[-3] == "smoke@frames"
    assert (run.kind, run.captioned) == ("gopro", False) and "those of scenes" in run.borrowed
    assert run.card()["captions from"].endswith("smoke") and not run.upstream_runs(
        "03_train_captioner"
    )
    for name in run.outputs:
        (run.path / name).write_text("x")
    run.finish({})
    words = ["--data", data, "--variants", "full"]
    assert states(capsys, *words)["05_co_training/full-s0"].startswith("fresh")
    monkeypatch.setitem(runner.PROFILES["smoke"], "loss", {"tree": 0.5})
    seen = states(capsys, *words)
    assert "loss.tree 0.1 -> 0.5" in seen["captioned:02_train_s3_tree/s0"]
    assert "upstream captioned:03_train_captioner/s0" in seen["05_co_training/full-s0"]
    assert seen["04_train_deblurrer/s0"].startswith("fresh")
    own = fake_run(here, "00_start_here")
    assert own.captioned and not own.borrowed and "captions from" not in own.card()
    store._HELD.pop(own.path).close()


def test_lent_runs_are_started_as_their_own_study_would(here: Path, frames: Path) -> None:
    words = ["--profile", "smoke", "--data", str(frames), "--force"]
    words += ["--set", "blur.severity=released", "data.train=8", "model.node_width=16"]
    study = runner.study_of(runner.parser().parse_args(words))
    lent = next(run for run in study.runs if run.of and run.stage == "03_train_captioner")
    given = study.parameters(lent)
    assert (given["data"], given["overrides"], given["resume"]) == (
        "scenes",
        {"model.node_width": 16},
        True,
    )
    assert (
        study.parameters(lent.own)["overrides"]["data.train"] == 8
        and not study.parameters(lent.own)["resume"]
    )
    run = fake_run(
        here, "01_data_blurring", **{name: given[name] for name in ("data", "overrides", "resume")}
    )
    assert run.path == study.store.folder(Instance("01_data_blurring", of="captioned"))
    assert run._key == study.keys.key(Instance("01_data_blurring", of="captioned"))
    store._HELD.pop(run.path).close()


def test_force_leaves_the_lender_alone(here: Path, frames: Path) -> None:
    finish_captioned(here)
    arguments = runner.parser().parse_args(["--profile", "smoke", "--data", str(frames), "--force"])
    assert not any(run.of for run in runner.due(runner.study_of(arguments)))


def test_a_folder_of_captions_can_lend(here: Path, frames: Path, tmp_path: Path) -> None:
    photos = write_coco(tmp_path / "captions", size=(20, 20))
    words = [
        "--profile",
        "smoke",
        "--data",
        str(frames),
        "--set",
        f"data.captioned={photos}/../captions",
    ]
    study = runner.study_of(runner.parser().parse_args(words))
    assert (
        study.keys.others["captioned"].kind == "coco"
        and study.store.others["captioned"].root.name == "smoke@captions"
    )
    assert study.overrides == {"data.captioned": str(photos)}


def test_files_of_weights_are_written_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # notebooks run in another folder
    (tmp_path / "mine.pth").touch()
    given = {
        "loss.vgg19_weights": "mine.pth",
        "model.encoder_weights": "vgg19-dcbb9e9d.pth",
        "loss.tree": 1,
    }
    assert lending.settled(given) == {**given, "loss.vgg19_weights": str(tmp_path / "mine.pth")}


@pytest.mark.parametrize(
    "settings, says",
    [
        (["data.captioned=/no/such"], "data.captioned = '/no/such' is no folder"),
        (["data.captioned={frames}"], "holds no captions (found: gopro)"),
        (["blur.severity=light"], "blur.severity = 'light' does not fit"),
        (["data.subset=blur_gamma"], "blur_gamma"),
        (["blur.average=raw"], "GOPRO_Large_all"),
        (["data.val=1"], "fewer than 2 photos for the val split"),
        (["data.texture=cubes"], "data.texture"),
    ],
)
def test_data_that_do_not_fit_stop_before_any_kernel(
    here: Path, frames: Path, capsys: pytest.CaptureFixture[str], settings: list[str], says: str
) -> None:
    settings = [text.format(frames=frames) for text in settings]
    assert runner.main(["--profile", "smoke", "--data", str(frames), "--set", *settings]) == 2
    error = capsys.readouterr().err
    assert says in error and len(error.splitlines()) == 1 and not folders.RUNS.exists()


def test_other_data_that_do_not_fit(
    here: Path, frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runner.main(["--profile", "smoke", "--set", "blur.severity=released"]) == 2
    assert "blur.severity = 'released' does not fit scenes" in capsys.readouterr().err
    assert runner.main(["--profile", "paper", "--data", str(frames)]) == 2
    assert "'scenes' lends none" in capsys.readouterr().err
    broken = shutil.copytree(frames, tmp_path / "broken")
    lost = next(broken.glob("train/*/sharp/*.png"))
    lost.unlink()
    assert runner.main(["--profile", "smoke", "--data", str(broken)]) == 2
    assert lost.name in capsys.readouterr().err
    assert (
        runner.main(
            [
                "--profile",
                "smoke",
                "--data",
                str(broken),
                "--set",
                "data.skip_broken=true",
                "--list",
            ]
        )
        == 0
    )


@pytest.mark.parametrize("kind", ["scenes", "coco", "karpathy", "gopro", "folder"])
def test_what_will_only_say_that_it_is_skipped_is_known_beforehand(kind: str) -> None:
    from s3e.training import stages

    corpus = SimpleNamespace(categories=[1] * (kind == "scenes"), captioned=kind in graph.CAPTIONED)
    for variant in VARIANTS:
        told = graph.why_skipped(graph.arm(variant, 0), kind)
        assert bool(told) is bool(stages.why_skipped(variant, corpus)), variant
    for stage in ("02_train_s3_tree", "03_train_captioner"):
        assert bool(graph.why_skipped(Instance(stage, seed=0), kind)) is not corpus.captioned
        assert not graph.why_skipped(Instance(stage, seed=0, of="captioned"), kind)


def test_lists_tell_what_will_be_skipped(
    here: Path, frames: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--profile",
        "smoke",
        "--data",
        str(frames),
        "--variants",
        "baseline",
        "full",
        "no_tree_loss",
    ]
    assert runner.main([*words, "--list"]) == runner.main([*words, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"04_train_deblurrer +1 x .* alone\n", told)
    assert re.search(r"06_ablation +1 x .*\(1 skipped: these data have no captions\)", told)
    assert "would skip 06_ablation/no_tree_loss-s0: these data have no captions" in told
    assert (
        "would run captioned:03_train_captioner/s0" in told
        and "would skip 03_train_captioner/s0" in told
    )


# --------------------------------------------------------------------------------------- places, GPUs and lost workers


@pytest.mark.parametrize(
    "settings, wanted, gpus, jobs",
    [
        ({}, 0, "", 12),
        ({"threads": 2, "devices": 3}, 0, "", 2),
        ({"threads": 64}, 0, "", 1),
        ({"threads": 2}, 5, "", 5),
        ({"device": "cuda"}, 0, "0,1,2", 3),
        ({"device": "cuda"}, 2, "0,1,2", 2),
        ({"device": "cuda", "devices": 2}, 0, "0,1,2", 1),
        ({"device": "cuda:1"}, 0, "0,1,2", 1),
        ({"device": "cuda"}, 0, "-1", "there is no GPU: --set runtime.device=cpu"),
        ({"device": "cuda"}, 4, "0,1,2", "exceed the 3 GPUs: --jobs 3"),
        (
            {"device": "cuda", "devices": 4},
            0,
            "0,1,2",
            "exceed the 3 GPUs: --set runtime.devices=3",
        ),
    ],
)
def test_jobs_fit_the_machine(
    settings: dict, wanted: int, gpus: str, jobs: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 12)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    if isinstance(jobs, str):
        with pytest.raises(S3EError, match=jobs):
            pools.local_jobs(Runtime(**settings), wanted)
    else:
        assert pools.local_jobs(Runtime(**settings), wanted) == jobs


def test_every_notebook_has_gpus_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\nfor i in 0 1 2 3 4; do echo \"GPU $i: of a kind\"; echo '  MIG part'; done\n"
    )
    tool.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert machine.gpus() == ["0", "1", "2", "3", "4"]
    monkeypatch.setenv("PATH", "")
    assert machine.gpus() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-ab,7,8,9")
    seen, runs = [], [Instance("04_train_deblurrer", seed=seed) for seed in range(3)]
    job = {
        "runtime": Runtime(device="cuda", devices=2, threads=3).model_dump(),
        "runs": "r",
        "figures": "f",
    }

    def launch(job: dict, slot: int) -> SimpleNamespace:
        seen.append(pools._environment(job, slot))
        return SimpleNamespace(poll=lambda: 0, returncode=0)

    monkeypatch.setattr(pools, "launch", launch)
    pool = pools.LocalPool(Runtime(device="cuda", devices=2), 0)
    pool.start(runs[0], job), pool.start(runs[1], job)
    assert not pool.room() and [end.good for end in pool.ended()] == [True, True]
    pool.start(runs[2], job)
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in seen] == [
        "4,GPU-ab",
        "7,8",
        "4,GPU-ab",
    ]
    assert {environment["OMP_NUM_THREADS"] for environment in seen} == {"3"}
    assert machine.gpus_of(Runtime(device="cuda:1"), 1) == machine.gpus_of(Runtime(), 1) == {}


class FakePool:
    """A pool whose runs end as told."""

    about = "one at a time"

    def __init__(self, answers: list[dict], work: object = None):
        self.answers, self.jobs, self.running, self.work = answers, [], [], work

    def room(self) -> bool:
        return not self.running

    def start(self, run: Instance, job: dict) -> str:
        self.jobs.append(job)
        self.running.append(run)
        return "a worker"

    def ended(self) -> list[pools.Ended]:
        ends = [pools.Ended(run, **self.answers.pop(0)) for run in self.running]
        if ends and ends[0].good:
            self.work()
        self.running.clear()
        return ends

    def close(self) -> None:
        assert not self.running


def test_a_lost_run_goes_on_elsewhere_three_times_at_most(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = {"good": False, "why": "worker x is gone", "lost": True}
    words = ["--profile", "smoke", "--variants", "baseline", "--only", "00", "01", "--force"]
    pool = FakePool(
        [lost, lost, {"good": True}, lost, lost, lost], lambda: finish(here, "01_data_blurring")
    )
    monkeypatch.setattr(runner, "open_pool", lambda study, waiting: pool)
    assert runner.main(words) == 1
    told = capsys.readouterr().out
    assert [job["parameters"]["resume"] for job in pool.jobs] == [False, True, True] * 2
    assert [job["stage"][:2] for job in pool.jobs] == ["01"] * 3 + ["00"] * 3
    assert told.count("LOST ") == 4 and "FAILED 00_start_here/all" in told and "on a worker" in told
    assert states(capsys)["00_start_here/all"] == "failed             worker x is gone"
    finish(here, "00_start_here")
    assert states(capsys)["00_start_here/all"].startswith("fresh")


def test_a_failure_is_forgotten_at_the_next_attempt_or_change(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(here, "01_data_blurring")
    run = fake_run(here, "04_train_deblurrer")
    folders.note_failure(run.path, run._key, "no memory")
    store._HELD.pop(run.path).close()
    assert "failed" in (seen := states(capsys)["04_train_deblurrer/s0"]) and "no memory" in seen
    again = fake_run(here, "04_train_deblurrer")
    store._HELD.pop(again.path).close()
    assert again.resumed and "goes on where it stopped" in states(capsys)["04_train_deblurrer/s0"]
    folders.note_failure(run.path, run._key, "no memory")
    monkeypatch.setitem(runner.PROFILES["smoke"], "train_b", {"steps": 3, "batch": 8})
    assert "settings changed since" in states(capsys)["04_train_deblurrer/s0"]


def test_a_job_names_what_it_needs(here: Path) -> None:
    folder = finish(here, "01_data_blurring")
    study = runner.study_of(
        runner.parser().parse_args(["--profile", "smoke", "--variants", "baseline"])
    )
    run = Instance("04_train_deblurrer", seed=0)
    job = scheduler.Scheduler(study, [run], FakePool([])).job(run)
    assert job["needs"] == {
        str(folder): study.keys.key(Instance("01_data_blurring"))
    } and json.dumps(job)
    assert folders.wait_for(folder, job["needs"][str(folder)], 0)["skipped"] == ""
    assert folders.wait_for(folder, "another key", 0) is None
    appear = threading.Timer(0.3, lambda: (folder / "val.json").write_text("01_data_blurring"))
    (folder / "val.json").unlink()  # as a shared folder shows files late
    appear.start()
    assert folders.wait_for(folder, job["needs"][str(folder)], 20)


def test_who_waits_for_a_lock_is_told_who_has_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = folders.take_lock(tmp_path / "lock", "the run")
    second = threading.Thread(
        target=lambda: folders.take_lock(tmp_path / "lock", "the run").close()
    )
    second.start()
    told = f"the run is in use by process {os.getpid()} on {platform.node()}: waiting"
    seen = []
    wait_for(lambda: seen.append(capsys.readouterr().out) or told in "".join(seen))
    first.close()
    second.join(10)
    assert not second.is_alive()


def test_the_card_names_what_is_not_usual(here: Path) -> None:
    plain = fake_run(here, "00_start_here")
    assert not {"precision", "devices", "fallback"} & set(plain.card())
    changed = {"runtime.precision": "bf16", "runtime.devices": 2, "loss.perceptual": 1.0}
    run = fake_run(here, "00_start_here", overrides=changed)
    assert (run.card()["precision"], run.card()["devices"]) == ("bf16", "2")
    assert "no VGG19 weights" in run.card()["fallback"]
    run.finish({})
    about = read_json(run.path / "provenance.json")
    assert (about["device_name"], about["devices"], about["precision"]) == ("", 2, "bf16")
    assert about["packages"]["lightning-fabric"][0].isdigit()
    store._HELD.pop(plain.path).close()


@pytest.mark.parametrize(
    "settings",
    [
        ["loss.perceptual=1", "loss.vgg19_weights=/no/such/vgg19-dcbb9e9d.pth"],
        ["model.encoder=resnet50", "model.encoder_weights=/no/such/resnet50-0676ba61.pth"],
    ],
)
def test_weights_that_are_named_must_be_there(
    here: Path, capsys: pytest.CaptureFixture[str], settings: list[str]
) -> None:
    pytest.importorskip("s3e.models.build")
    assert runner.main(["--profile", "smoke", "--status", "--set", *settings]) == 2
    assert "/no/such/" in capsys.readouterr().err
    if "perceptual" in settings[0]:  # no perceptual loss, no VGG19
        assert runner.main(["--profile", "smoke", "--status", "--set", settings[1]]) == 0


class Command:
    """`run_all.py` of the copy as a person would start it."""

    def __init__(self, repo: Path, runs: Path):
        self.repo, self.log = repo, runs.parent / "log.txt"
        self.environment = {
            **os.environ,
            "S3E_RUNS": str(runs),
            "PYTHONPATH": str(repo),
            "S3E_NO_JAVA": "1",
        }

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "run_all.py",
            "--profile",
            "smoke",
            "--variants",
            "baseline",
            *words,
        ]
        with open(self.log, "a") as log:
            return subprocess.Popen(
                command, cwd=self.repo, env=self.environment, stdout=log, stderr=log
            )

    def run(self, *words: str) -> tuple[int, str]:
        return self.start(*words).wait(120), self.log.read_text()


def wait_for(what: object, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_killed_kernel_and_killed_runner_go_on(here: Path, tmp_path: Path) -> None:
    finish(here, "01_data_blurring")
    runs = tmp_path / "runs"
    command, stage = Command(here, runs), runs / "smoke" / "04_train_deblurrer"
    stage.mkdir(parents=True)
    (stage / "hang").touch()
    ticks = stage / "s0" / "ticks.txt"

    process = command.start("--only", "01", "04")
    wait_for(lambda: ticks.exists() and len(ticks.read_text()) == 2)
    family = psutil.Process(process.pid).children(recursive=True)
    kernel = next(child for child in family if "ipykernel_launcher" in " ".join(child.cmdline()))
    kernel.kill()
    assert process.wait(60) == 1
    log = command.log.read_text()
    assert (
        "FAILED 04_train_deblurrer/s0" in log
        and "go on with: python run_all.py --profile smoke" in log
    )
    assert not (stage / "s0" / "done.json").exists() and "notebook.ipynb" in log

    command.log.unlink()
    process = command.start("--only", "01", "04")
    wait_for(lambda: folders.is_locked(stage / "s0" / ".lock"))
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive and not folders.is_locked(stage / "s0" / ".lock")

    (stage / "hang").unlink()
    both = [command.start("--only", "01", "04") for _ in range(2)]  # two at once on one store
    assert [process.wait(60) for process in both] == [0, 0], command.log.read_text()
    assert (stage / "s0" / "papermill.log").read_text().count("Input Notebook") == 3
    assert read_json(stage / "s0" / "metrics.json") == {"loss": 1.0, "resumed": 1}
    code, log = command.run("--only", "01", "04")
    assert code == 0 and "all 2 runs are fresh" in log


def test_failing_cell_is_shown_and_others_go_on(repo: Path, tmp_path: Path) -> None:
    path = repo / "notebooks" / "00_start_here.ipynb"
    other = repo / "notebooks" / "01_data_blurring.ipynb"
    texts = (
        edit(path, "import time", "(1 / 0)  # too much"),
        edit(other, "import time", "run.skip('no captions')"),
    )
    code, log = Command(repo, tmp_path / "runs").run("--until", "01", "--jobs", "2")
    _, status = Command(repo, tmp_path / "runs").run("--until", "01", "--status")
    path.write_text(texts[0])
    other.write_text(texts[1])
    assert code == 1
    assert re.search(r"00_start_here/all +failed +ZeroDivisionError: division by zero", status)
    assert (
        "ZeroDivisionError: division by zero" in log
        and "cell In[5]" in log
        and "skipped 01_data_blurring/all" in log
    )
    assert (
        read_json(tmp_path / "runs" / "smoke" / "01_data_blurring" / "all" / "done.json")["skipped"]
        == "no captions"
    )


def test_papermill_by_hand(here: Path, tmp_path: Path) -> None:
    finish(here, "01_data_blurring")
    finish(here, "04_train_deblurrer", seed=1)
    words = "notebooks/06_ablation.ipynb out.ipynb -p profile smoke -p variant no_tree_loss -p seed 1".split()
    environment = Command(here, tmp_path / "runs").environment
    subprocess.run(
        [sys.executable, "-m", "papermill", *words], cwd=here, env=environment, check=True
    )
    done = read_json(tmp_path / "runs" / "smoke" / "06_ablation" / "no_tree_loss-s1" / "done.json")
    assert sorted(done["parts"]["upstream"]) == ["01_data_blurring/all", "04_train_deblurrer/s1"]


def test_a_store_belongs_to_one_data_folder(tmp_path: Path) -> None:
    mine, other = tmp_path / "a" / "photos", tmp_path / "b" / "photos"
    mine.mkdir(parents=True), other.mkdir(parents=True)
    runs = folders.Store(tmp_path / "runs" / "smoke@photos")
    runs.claim(str(mine)), runs.claim(str(mine)), runs.claim("scenes")
    with pytest.raises(
        S3EError, match="smoke@photos holds the runs of .*a/photos, not of .*b/photos"
    ):
        runs.claim(str(other))
    mine.rmdir()
    runs.claim(str(other))
    assert (runs.root / "data.txt").read_text() == str(other)
