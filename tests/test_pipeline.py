"""The pipeline on tiny notebooks: freshness and its reasons, locks, refusals, borrowed semantics,
death and going on.
"""

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

import nbformat
import psutil
import pytest

import s3e
from s3e import utils
from s3e.config import PROFILES, VARIANTS, Runtime, load_config
from s3e.pipeline import graph, keys, runner, schedule, store
from s3e.pipeline.graph import STAGES, Instance
from s3e.utils import S3EError, is_locked, lock_file, read_json
from tests.fixtures_data import write_coco, write_gopro, write_karpathy, write_photos

COMMON = (
    'profile = "smoke"\ndata = "scenes"\nseed = 0\nrun_dir = ""\noverrides = {}\nresume = True\n'
)
MANY = "variants = []\nseeds = []\n"
OWN = {"06_ablation": 'variant = "baseline"\n', "06b_semantic_fidelity": MANY}
OWN |= dict.fromkeys(("07_evaluation", "07b_metric_definitions", "08_figures_and_tables"), MANY)
OPEN = "run = open_run({stage!r}, {names})\nrun.card()"
WORK = """# a training of three steps with a checkpoint each, that can be made to hang
import time
ticks = run.path / "ticks.txt"
for step in range(len(ticks.read_text()) if ticks.exists() else 0, 3):
    ticks.write_text("." * (step + 1))
    while step >= 1 and (run.path.parent / "hang").exists():
        time.sleep(0.05)
for name in run.outputs:
    (run.path / name).write_text(run.stage)
"""
DATA, TREE, CAPTIONER, DEBLURRER = list(STAGES)[1:5]
FIRST, LAST = Instance("00_start_here"), Instance("09_explore")


def notebook(stage: str) -> nbformat.NotebookNode:
    parameters = COMMON + OWN.get(stage, "")
    names = [line.split(" =")[0] for line in parameters.splitlines()]
    code = [
        "from s3e.pipeline import open_run\nfrom s3e.fake import losses",
        OPEN.format(stage=stage, names=", ".join(f"{name}={name}" for name in names)),
        WORK,
        'run.finish({"loss": losses.VALUE, "resumed": int(run.resumed)})',
    ]
    cells = [nbformat.v4.new_markdown_cell("what"), nbformat.v4.new_code_cell(parameters)]
    cells[1].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells += [nbformat.v4.new_code_cell(text) for text in code]
    return nbformat.v4.new_notebook(cells=cells, metadata=kernel)


def copy_suite(root: Path) -> Path:
    """A copy of the library with fake notebooks and a fake package of two modules and a data
    file.
    """
    source = Path(s3e.__file__).parent
    shutil.copytree(source, root / "s3e", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(source.parent / "run_all.py", root)
    fake = root / "s3e" / "fake"
    fake.mkdir()
    (fake / "__init__.py").touch()
    (fake / "losses.py").write_text('"""Doc."""\nfrom . import terms\n\nVALUE = terms.ONE\n')
    (fake / "terms.py").write_text("ONE = 1.0  # one\n")
    (fake / "words.toml").write_text("a = 1\n")
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
    monkeypatch.setattr(utils, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(runner, "NOTEBOOKS", repo / "notebooks")
    monkeypatch.setitem(store.Study.__init__.__kwdefaults__, "notebooks", repo / "notebooks")
    keys.forget()
    yield repo
    keys.forget()
    for path in list(store._HELD):
        store._HELD.pop(path).close()


def fake_run(repo: Path, stage: str, **arguments: object) -> store.Run:
    return store.open_run(stage, profile="smoke", notebooks=repo / "notebooks", **arguments)


def finish(repo: Path, *stages: str, **arguments: object) -> Path:
    for stage in stages:
        run = fake_run(repo, stage, **arguments)
        for name in run.outputs:
            (run.path / name).write_text(stage)
        run.finish({"loss": 1.0})
    return run.path


def states(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, str]:
    keys.forget()
    capsys.readouterr()
    assert runner.main(["--profile", "smoke", "--variants", "baseline", "--status", *words]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    return {name: rest for name, rest in lines}


@pytest.fixture
def edit() -> object:
    """Changes a text in a file; all files are put back afterwards."""
    before: dict[Path, str] = {}

    def change(path: Path, old: str, new: str) -> None:
        text = path.read_text()
        assert old in text
        before.setdefault(path, text)
        path.write_text(text.replace(old, new))

    yield change
    for path, text in before.items():
        path.write_text(text)


# ----------------------------------------------------------------------------------- graph and keys


@pytest.mark.parametrize("captioned", [True, False])
def test_every_run_comes_after_what_it_reads(captioned: bool) -> None:
    selection = graph.select(load_config("study"))
    runs = graph.all_runs(selection)
    assert len(set(runs)) == len(runs) and {run.stage for run in runs} == set(STAGES)
    for run in runs:
        before = graph.upstream(run, selection, captioned)
        assert all(runs.index(other) < runs.index(run) for other in before)


def test_upstream_of_a_variant() -> None:
    def read(variant: str, captioned: bool = True) -> list[str]:
        run = graph.variant_run(variant, 1)
        return [str(other) for other in graph.upstream(run, (), captioned)]

    assert read("no_tree_loss") == [f"{DATA}/all", f"{DEBLURRER}/s1"]
    assert read("full") == [f"{DATA}/all", f"{TREE}/s1", f"{CAPTIONER}/s1", f"{DEBLURRER}/s1"]
    assert read("full", captioned=False) == read("baseline") == read("no_tree_loss")
    lent = {name: graph.borrowed(graph.variant_run(name, 1)) for name in VARIANTS}
    assert lent["full"] == [Instance(DATA), Instance(CAPTIONER, seed=1)]
    assert lent["no_semantics_loss"] == [Instance(DATA)] and not lent["baseline"]


def test_a_selection_is_checked() -> None:
    config = load_config("study")
    with pytest.raises(S3EError, match="must be lists"):
        graph.select(config, "baseline")
    with pytest.raises(S3EError, match="05_co_training"):
        graph.instance("06_ablation", "full")
    assert graph.variant_run("full", 2) == Instance("05_co_training", "full", 2)


def test_fields_follow_the_variant() -> None:
    config = load_config("smoke")
    fields = {name: graph.fields(graph.variant_run(name, 0), config) for name in VARIANTS}
    assert "loss.caption" not in fields["baseline"] and "loss.caption" in fields["full"]
    assert "train_a1.steps" in fields["no_tree_loss"] and "train_a1.steps" not in fields["full"]
    assert not {"runtime.save_every", "runtime.explosion"} & set(fields["full"])
    assert not any("loss" in name for name in graph.fields(Instance(DATA), config))


def test_outputs_follow_the_data() -> None:
    kinds = ("gopro", "scenes")
    pairs, scenes = (set(graph.outputs(DATA, kind, "severe")) for kind in kinds)
    assert pairs - scenes == {"val_released.npy", "test_released.npy"}
    assert {"vocabulary.json", "val_light.npy", "test_moderate.npy"} <= scenes - pairs
    assert "val_severe.npy" not in graph.outputs(DATA, "gopro", "released")  # short videos
    trained = graph.outputs("05_co_training", "folder", "severe")
    assert "scores.csv" in trained and "captions.json" not in trained
    assert "caption_scores.csv" in graph.outputs("07_evaluation", "coco", "severe")
    assert "caption_scores.csv" not in graph.outputs("07_evaluation", "gopro", "severe")


def test_minutes_of_an_unmeasured_profile_are_those_of_another() -> None:
    plain, own = graph.variant_run("baseline", 0), graph.variant_run("no_tree_loss", 0)
    minutes = graph.minutes("laptop")
    assert graph.expected_minutes(plain, "paper") == minutes["06_ablation"]
    assert graph.expected_minutes(own, "study") > graph.expected_minutes(plain, "study")
    assert not graph.minutes("paper") and set(STAGES) <= set(minutes)
    assert [graph.spoken(value) for value in (0.001, 1.27, 1.5)] == ["1 s", "76 s", "1.5 minutes"]


def test_meaning_counts_not_layout() -> None:
    plain = keys.code_digest('"""Doc."""\ndef f(x):\n    "doc"\n    return x + 1\n', "a")
    other = '"""Other."""\n\n\ndef f(x):  # say\n    "more"\n    return (x + 1)\n'
    assert plain == keys.code_digest(other, "a")
    assert plain != keys.code_digest(other.replace("1", "2"), "a")
    with pytest.raises(S3EError, match="line 1"):
        keys.code_digest("def", "a")


@pytest.mark.parametrize(
    ("place", "old", "new", "why"),
    [
        ("s3e/fake/losses.py", "Doc.", "Another docstring.\n# and a comment\n", ""),
        ("s3e/fake/terms.py", "# one", "# a comment", ""),
        ("s3e/fake/terms.py", "1.0", "2.0", "code of s3e.fake.terms changed"),
        ("s3e/fake/words.toml", "1", "2", "code of s3e/fake/words.toml changed"),
        ("notebooks/04_train_deblurrer.ipynb", "# a training of", "# a schooling of", ""),
        ("notebooks/04_train_deblurrer.ipynb", "range(", "range(0 + ", "code of notebooks/04"),
        ("s3e/report/s3e.mplstyle", "figure", "# figure", ""),  # of drawing
    ],
)
def test_status_says_why(
    here: Path,
    edit: object,
    capsys: pytest.CaptureFixture[str],
    place: str,
    old: str,
    new: str,
    why: str,
) -> None:
    assert states(capsys)[f"{DATA}/all"] == "missing"
    finish(here, DATA, DEBLURRER)
    assert states(capsys)[f"{DEBLURRER}/s0"].startswith("fresh")
    edit(here / place, old, new)
    state = states(capsys)[f"{DEBLURRER}/s0"]
    assert state.startswith("stale" if why else "fresh") and why in state


def test_a_lost_output_is_seen(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (finish(here, DATA, DEBLURRER) / "log_deblurrer.csv").unlink()
    assert "log_deblurrer.csv is lost" in states(capsys)[f"{DEBLURRER}/s0"]


def test_a_lesson_does_not_count_and_another_cell_does(
    here: Path, edit: object, capsys: pytest.CaptureFixture[str]
) -> None:
    path = here / "notebooks" / f"{DATA}.ipynb"
    edit(path, "what", "what")  # put back afterwards
    finish(here, DATA)
    book = nbformat.read(path, as_version=4)
    book.cells.insert(-1, nbformat.v4.new_code_cell("show_lines(1)", metadata={"tags": ["lesson"]}))
    nbformat.write(book, path)
    assert states(capsys)[f"{DATA}/all"].startswith("fresh")
    edit(path, '"lesson"', '"remark"')
    assert f"code of notebooks/{DATA}.ipynb changed" in states(capsys)[f"{DATA}/all"]


def test_exploring_needs_no_run_and_other_weights_are_explored_again(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(here, LAST.stage)
    seen = states(capsys)
    assert seen[str(LAST)].startswith("fresh") and seen[f"{DATA}/all"] == "missing"
    other = here / "s3e" / "weights" / "other.safetensors"
    other.write_text("1")
    assert re.search(r"there was weights \w+, now there is weights", states(capsys)[str(LAST)])
    other.unlink()
    (other.parent / ".DS_Store").write_text("1")
    assert states(capsys)[str(LAST)].startswith("fresh")


def test_overrides_recompute_only_what_depends(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(here, DATA, TREE, DEBLURRER)
    seen = states(capsys, "--set", "loss.tree=0.25")
    state = seen[f"{DEBLURRER}/s0"]
    assert "fresh" in state and "from smoke" in state
    assert seen[f"{TREE}/s0"] == "missing            loss.tree 0.1 -> 0.25"
    run = fake_run(here, "06_ablation", variant="baseline", overrides={"loss.tree": 0.25})
    assert run.upstream("04").parts[-3] == "smoke" and run.path.parts[-3].startswith("smoke+")
    with pytest.raises(S3EError, match="missing.*loss.tree 0.1 -> 0.25.*--until 02"):
        fake_run(here, CAPTIONER, overrides={"loss.tree": 0.25})


def test_a_changed_profile_value_is_stale_downstream(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(here, DATA, TREE, DEBLURRER, CAPTIONER)
    monkeypatch.setitem(PROFILES["smoke"], "loss", {"tree": 0.5})
    seen = states(capsys)
    assert "loss.tree 0.1 -> 0.5" in seen[f"{TREE}/s0"]
    assert f"upstream {TREE}/s0" in seen[f"{CAPTIONER}/s0"]
    assert seen[f"{DATA}/all"].startswith("fresh") and seen[f"{DEBLURRER}/s0"].startswith("fresh")


def test_the_data_count_by_what_they_hold(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    photo, captions = data / "images" / "a.jpg", data / "captions.json"
    photo.write_text("x"), captions.write_text("1")
    first = keys.data_fingerprint(str(data))
    (data / ".hidden").write_text("x")
    os.utime(photo, (1, 1))
    assert keys.data_fingerprint(str(data)) == first
    assert keys.data_fingerprint(str(shutil.copytree(data, tmp_path / "copy"))) == first
    seen = {first, keys.data_fingerprint("scenes")}
    for path, text in ((captions, "2"), (photo, "another"), (data / "images" / "b.jpg", "x")):
        path.write_text(text)
        seen.add(keys.data_fingerprint(str(data)))
    assert len(seen) == 5


def test_weights_count_by_content(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine.pth", tmp_path / "elsewhere" / "same.pth"
    other.parent.mkdir()
    mine.write_text("x"), other.write_text("x")

    def settings(path: Path) -> dict[str, object]:
        overrides = {"loss.perceptual": 1.0, "loss.vgg19_weights": str(path)}
        study = store.Study("smoke", overrides=overrides)
        return study.parts(Instance(DEBLURRER, seed=0))["settings"]

    first = settings(mine)
    assert settings(other) == first
    other.write_text("y")
    assert settings(other) != first
    missing = tmp_path / "none.pth"
    assert settings(missing)["loss.vgg19_weights"] == str(missing)


def test_kinds_of_data(frames: Path, tmp_path: Path) -> None:
    small = {"size": (20, 20)}
    folders = {"coco": write_coco(tmp_path / "a", **small), "gopro": frames}
    folders |= {"karpathy": write_karpathy(tmp_path / "b", **small)}
    folders |= {"folder": write_photos(tmp_path / "c", **small)}
    for kind, folder in folders.items():
        assert keys.data_kind(str(folder)) == kind
    assert keys.data_kind("scenes") == "scenes"


# ---------------------------------------------------------------------------------------- the store


def test_resume_only_with_the_same_key(here: Path, edit: object) -> None:
    finish(here, DATA)
    run = fake_run(here, DEBLURRER)
    checkpoint, executed = run.path / "last.ckpt", run.path / "notebook.ipynb"
    checkpoint.write_text("x"), executed.write_text("kept")
    assert not run.resumed and fake_run(here, DEBLURRER).resumed and checkpoint.exists()
    edit(here / "s3e" / "fake" / "terms.py", "1.0", "3.0")
    with pytest.raises(S3EError, match=f"{DATA}/all, which is stale .code of s3e.fake.terms"):
        fake_run(here, DEBLURRER)
    finish(here, DATA)
    assert not fake_run(here, DEBLURRER).resumed
    assert not checkpoint.exists() and executed.exists()
    checkpoint.write_text("x")
    assert not fake_run(here, DEBLURRER, resume=False).resumed and not checkpoint.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.5", None])
def test_finish_refuses(here: Path, value: object) -> None:
    run = fake_run(here, FIRST.stage)
    with pytest.raises(S3EError, match="metric 'psnr'"):
        run.finish({"psnr": value})
    with pytest.raises(S3EError, match="x.csv is missing"):
        run.finish({}, ["x.csv"])
    (run.path / "x.csv").touch()
    with pytest.raises(S3EError, match="x.csv is empty"):
        run.finish({}, ["x.csv"])
    assert not (run.path / "done.json").exists()


def test_finishing_and_opening_again(here: Path) -> None:
    run = fake_run(here, FIRST.stage)
    run.finish({"psnr": 1})
    run.finish({"psnr": 2})  # the last cell run again
    assert read_json(run.path / "metrics.json") == {"psnr": 2}
    assert read_json(run.path / "provenance.json")["threads"] == 1
    assert not is_locked(run.path / ".lock")
    fake_run(here, FIRST.stage)
    assert not (run.path / "done.json").exists()


def test_skipping_is_known_downstream(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(here, DATA, TREE, CAPTIONER, DEBLURRER)
    finish(here, "06_ablation", variant="baseline")
    with pytest.raises(SystemExit):
        fake_run(here, "06_ablation", variant="oracle_map").skip("no label maps")
    finish(here, "06b_semantic_fidelity", variants=["baseline", "oracle_map"])
    run = fake_run(here, "07_evaluation", variants=["baseline", "oracle_map"])
    assert [path.name for path in run.upstream_runs("06")] == ["baseline-s0"]
    assert run.skipped == {"06_ablation/oracle_map-s0": "no label maps"}
    assert not run.upstream_runs("05") and run.upstream(DATA).name == "all"
    seen = states(capsys, "--variants", "oracle_map")
    assert seen["06_ablation/oracle_map-s0"].startswith("skipped")
    assert states(capsys)["07_evaluation/all"].startswith("running")


def test_a_failure_is_forgotten_at_the_next_attempt_or_change(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(here, DATA)
    name = f"{DEBLURRER}/s0"
    run = fake_run(here, DEBLURRER)
    utils.write_json(run.path / store.FAILURE, {"key": run._key, "why": "no memory"})
    store._HELD.pop(run.path).close()
    assert "failed" in (seen := states(capsys)[name]) and "no memory" in seen
    again = fake_run(here, DEBLURRER)
    store._HELD.pop(again.path).close()
    assert again.resumed and "goes on where it stopped" in states(capsys)[name]
    utils.write_json(run.path / store.FAILURE, {"key": run._key, "why": "no memory"})
    monkeypatch.setitem(PROFILES["smoke"], "train_b", {"steps": 3, "batch": 8})
    assert "settings changed since" in states(capsys)[name]


def test_the_card_names_what_is_not_usual(here: Path) -> None:
    assert not {"precision", "devices", "fallback"} & set(fake_run(here, FIRST.stage).card())
    changed = {"runtime.precision": "bf16", "runtime.devices": 2, "loss.perceptual": 1.0}
    run = fake_run(here, FIRST.stage, overrides=changed)
    assert (run.card()["precision"], run.card()["devices"]) == ("bf16", "2")
    assert "no VGG19 weights" in run.card()["fallback"]
    run.finish({})
    about = read_json(run.path / "provenance.json")
    assert (about["device_name"], about["devices"], about["precision"]) == ("", 2, "bf16")
    assert about["packages"]["torch"][0].isdigit()


def test_a_store_belongs_to_one_data_folder(tmp_path: Path) -> None:
    mine, other = tmp_path / "a" / "photos", tmp_path / "b" / "photos"
    mine.mkdir(parents=True), other.mkdir(parents=True)

    def claim(folder: Path) -> None:
        store.Study("smoke", str(folder), run_dir=str(tmp_path / "store")).claim()

    claim(mine), claim(mine)
    with pytest.raises(S3EError, match="store holds the runs of .*photos, not of .*photos"):
        claim(other)
    mine.rmdir()
    claim(other)
    assert read_json(tmp_path / "store" / "data.json") == str(other)


def test_stores_have_stable_names(tmp_path: Path) -> None:
    def name(profile: str, **overrides: object) -> str:
        given = {key.replace("__", "."): value for key, value in overrides.items()}
        return store.Study(profile, overrides=given).root.name

    assert [name(profile) for profile in ("smoke", "laptop")] == ["smoke", "laptop"]
    assert name("study", data__texture="random") == "study+a8406f70"


def test_figures_of_other_data_do_not_replace_those_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "mine"
    data.mkdir()
    run = object.__new__(store.Run)
    run.study = store.Study("photos-cpu", str(data))
    run.config, run.selection = run.study.config, run.study.selection
    monkeypatch.setattr(store, "FIGURES", tmp_path)
    manifest = tmp_path / "photos" / "manifest.json"
    about = {"profile": "photos-cpu", "data": {"source": "mine"}}
    assert run.figures_name == "photos"
    utils.write_json(manifest, about)
    assert run.figures_name == "photos"
    for other in ({**about, "profile": "photos"}, {**about, "data": {"source": "yours"}}):
        utils.write_json(manifest, other)
        assert run.figures_name == "photos-cpu@mine"
    manifest.unlink()
    run.selection = run.selection[:2]
    assert run.figures_name.startswith("photos-cpu@mine+")


# ---------------------------------------------------------------------------- data without captions


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs in GoPro's layout."""
    return write_gopro(tmp_path_factory.mktemp("data") / "frames", subsets=("blur",), size=(40, 24))


def semantics(runs: Path) -> dict[str, object]:
    return {"semantics_from": str(runs / "smoke")}


def test_tree_and_captioner_come_from_the_named_study(
    here: Path, frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], edit: object
) -> None:
    finish(here, DATA, TREE, CAPTIONER)
    given = {"data": str(frames), "overrides": semantics(utils.RUNS)}
    finish(here, DATA, DEBLURRER, **given)
    run = fake_run(here, "05_co_training", **given)
    lent = utils.RUNS / "smoke"
    assert (run.vocabulary, run.captioner) == (lent / DATA / "all", lent / CAPTIONER / "s0")
    assert run.upstream(DATA).parts[-3].startswith("smoke@frames+")
    assert (run.kind, run.captioned) == ("gopro", False) and "those of smoke" in run.borrowed
    assert run.card()["semantics from"].endswith("smoke") and not run.upstream_runs(CAPTIONER)
    for name in run.outputs:
        (run.path / name).write_text("x")
    run.finish({})
    words = ["--data", str(frames), "--variants", "full", "--semantics-from", str(lent)]
    name = "05_co_training/full-s0"
    assert states(capsys, *words)[name].startswith("fresh")
    assert states(capsys)[f"{CAPTIONER}/s0"].startswith("fresh")
    record = lent / CAPTIONER / "s0" / "done.json"
    edit(record, read_json(record)["key"], "another key")
    assert f"upstream semantics:{CAPTIONER}/s0" in states(capsys, *words)[name]
    baseline = fake_run(here, "06_ablation", variant="baseline", **given)
    assert baseline.vocabulary is None and baseline.captioner is None


def test_a_captioned_study_uses_its_own(here: Path) -> None:
    finish(here, DATA, TREE, CAPTIONER, DEBLURRER)
    run = fake_run(here, "05_co_training")
    assert run.captioner == run.upstream("03") and run.vocabulary == run.upstream("01")
    assert run.captioned and not run.borrowed and "semantics from" not in run.card()


def test_without_a_study_to_borrow_from_nothing_starts(
    here: Path, frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str) -> str:
        assert runner.main(["--profile", "smoke", *words]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        return error

    data, lent = ("--data", str(frames)), ("--semantics-from", str(utils.RUNS / "smoke"))
    remedy = (
        r"python run_all.py --profile smoke\) and name its store \(--semantics-from runs/smoke\)"
    )
    assert re.search(remedy, refused(*data))
    assert "is not a finished run of a study with captions" in refused(*data, *lent)
    assert "is for data without captions" in refused(*lent)
    finish(here, DATA, TREE, CAPTIONER)
    assert "--seeds 7 --until 03" in refused(*data, *lent, "--seeds", "7")
    other = ("--set", "model.node_width=16")
    assert "--set 'model.node_width=32'" in refused(*data, *lent, *other)
    assert not (utils.RUNS / "smoke@frames").exists()
    assert runner.main(["--profile", "smoke", *data, "--variants", "baseline", "--list"]) == 0


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("blur.severity=light", "blur.severity = 'light' does not fit"),
        ("data.subset=blur_gamma", "blur_gamma"),
        ("data.val=1", "fewer than 2 photos for the val split"),
        ("data.texture=cubes", "data.texture"),
    ],
)
def test_data_that_do_not_fit_stop_before_any_kernel(
    here: Path, frames: Path, capsys: pytest.CaptureFixture[str], settings: str, says: str
) -> None:
    words = ["--profile", "smoke", "--data", str(frames), "--variants", "baseline"]
    assert runner.main([*words, "--set", settings]) == 2
    error = capsys.readouterr().err
    assert says in error and len(error.splitlines()) == 1 and not utils.RUNS.exists()


@pytest.mark.parametrize("kind", ["scenes", "coco", "gopro"])
def test_what_will_be_skipped_is_known_beforehand(kind: str) -> None:
    def skipped(variant: str) -> str:
        return graph.why_skipped(graph.variant_run(variant, 0), kind)

    assert ("label maps" in skipped("oracle_map")) is (kind != "scenes")
    assert ("no captions" in skipped("no_tree_loss")) is (kind == "gopro")
    assert ("frozen already" in skipped("frozen")) is (kind == "gopro")
    assert not any(map(skipped, ("baseline", "full", "no_semantics_loss", "shuffled", "oracle")))
    for stage in (TREE, CAPTIONER):
        assert bool(graph.why_skipped(Instance(stage, seed=0), kind)) is (kind == "gopro")


def test_a_dry_run_says_what_will_be_skipped(
    here: Path, frames: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--profile", "smoke", "--data", str(frames), "--variants", "baseline", "no_tree_loss"]
    assert runner.main([*words, "--list"]) == runner.main([*words, "--dry-run"]) == 0
    seen = capsys.readouterr().out
    assert re.search(r"04_train_deblurrer +1 x .* alone\n", seen)
    assert re.search(r"06_ablation/no_tree_loss-s0 +to skip +these data have no captions", seen)
    assert re.search(rf"{DEBLURRER}/s0 +missing", seen)


def test_the_texture_control_is_read_where_it_exists(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = {"variants": ["baseline"], "seeds": [0]}
    finish(here, DATA, TREE, CAPTIONER, DEBLURRER)
    finish(here, "06_ablation", variant="baseline")
    finish(here, "06b_semantic_fidelity", **chosen)
    finish(here, "07_evaluation", **chosen)
    words = ["--seeds", "0"]
    assert states(capsys, *words)["07_evaluation/all"].startswith("fresh")
    random = {"overrides": {"data.texture": "random"}}
    finish(here, DATA, DEBLURRER, **random)
    control = finish(here, "06_ablation", variant="baseline", **random)
    why = states(capsys, *words)["07_evaluation/all"]
    assert "upstream texture control:06_ablation/baseline-s0" in why
    assert fake_run(here, "07_evaluation", **chosen).texture_control() == [control]
    (control / "scores.csv").unlink()
    assert fake_run(here, "07_evaluation", **chosen).texture_control() == []


def test_files_in_overrides_are_written_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # notebooks run in another folder
    (tmp_path / "mine.pth").touch()
    study = store.Study("smoke", overrides={"loss.vgg19_weights": "mine.pth"})
    assert study.overrides == {"loss.vgg19_weights": str(tmp_path / "mine.pth")}


# ------------------------------------------------------------------------------------- bad requests


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--profile moon", "unknown profile 'moon'"),
        ("--variants fulll", "unknown variant 'fulll'"),
        ("--only 11", "unknown stage '11'"),
        ("--set loss.captoin=1", "captoin"),
        ("--set loss.caption=much", "loss.caption"),
        ("--set loss.caption", "section.name=value"),
        ("--set blur.severity=released", "blur.severity = 'released' does not fit scenes"),
        ("--set loss.perceptual=1 loss.vgg19_weights=/no/vgg19-dcbb9e9d.pth", "/no/vgg19"),
        ("--seeds=-1.5,x", "seeds are whole numbers"),
        ("--jobs -1", "give a number from 1 on"),
        ("--data /no/such/folder", "no such folder"),
        ("--only 06", "06_ablation/baseline-s0 needs 01_data_blurring/all, which is missing"),
    ],
)
def test_bad_requests_stop_before_any_kernel(
    here: Path, capsys: pytest.CaptureFixture[str], words: str, says: str
) -> None:
    assert runner.main(["--profile", "smoke", *words.split()]) == 2
    error = capsys.readouterr().err
    assert says in error and len(error.splitlines()) == 1 and not utils.RUNS.exists()


def test_bad_places_and_notebooks(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], edit: object
) -> None:
    (tmp_path / "photos").mkdir()
    assert runner.main(["--profile", "smoke", "--data", str(tmp_path / "photos")]) == 2
    assert "holds no photos" in capsys.readouterr().err
    (tmp_path / "runs").write_text("a file")
    assert runner.main(["--profile", "smoke", "--only", "00"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    edit(here / "notebooks" / "06_ablation.ipynb", "variant = ", "arm = ")
    keys.forget()
    assert runner.main(["--profile", "smoke"]) == 2
    assert "06_ablation.ipynb has no parameter 'variant'" in capsys.readouterr().err


# ------------------------------------------------------------------------------- places and workers


@pytest.mark.parametrize(
    ("settings", "wanted", "gpus", "places"),
    [
        ({}, 0, "", 12),
        ({"threads": 2, "devices": 3}, 0, "", 2),
        ({"threads": 64}, 0, "", 1),
        ({"threads": 2}, 5, "", 5),
        ({"device": "cuda"}, 0, "0,1,2", 3),
        ({"device": "cuda"}, 2, "0,1,2", 2),
        ({"device": "cuda", "devices": 2}, 0, "0,1,2", 1),
        ({"device": "cuda:1"}, 0, "0,1,2", 1),
        ({"device": "cuda"}, 0, "-1", "there are 0: .*--set runtime.device=cpu"),
        ({"device": "cuda"}, 4, "0,1,2", "need 4 GPUs, and there are 3: give fewer --jobs"),
        ({"device": "cuda", "devices": 4}, 0, "0,1,2", "need 4 GPUs, and there are 3"),
    ],
)
def test_places_fit_the_machine(
    settings: dict, wanted: int, gpus: str, places: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utils, "cores", lambda: 12)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    if isinstance(places, str):
        with pytest.raises(S3EError, match=places):
            schedule.Local(Runtime(**settings), wanted)
    else:
        assert schedule.Local(Runtime(**settings), wanted).places == places


def test_every_notebook_has_gpus_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-ab,7,8,9")
    both, seen = threading.Barrier(2, timeout=60), []

    def run_notebook(job: dict, stop: object) -> str:
        both.wait()
        seen.append(job["environment"]["CUDA_VISIBLE_DEVICES"])
        return ""

    monkeypatch.setattr(schedule, "run_notebook", run_notebook)
    places = schedule.Local(Runtime(device="cuda", devices=2), 0)
    futures = [places.submit({"environment": {}}) for _ in range(2)]
    assert [future.result(60) for future in futures] == ["", ""] and places.places == 2
    places.close()
    assert sorted(seen) == ["4,GPU-ab", "7,8"]


def test_a_job_names_what_it_needs(here: Path) -> None:
    folder, study = finish(here, DATA), store.Study("smoke")
    job = schedule.job_of(study, Instance(DEBLURRER, seed=0), {"seed": 0})
    assert job["needs"] == {str(folder): study.key(Instance(DATA))} and json.dumps(job)
    assert job["environment"]["OMP_NUM_THREADS"] == "1"
    assert store.complete(folder, "another key") is None
    (folder / "val.json").unlink()  # as a shared folder shows files late
    appear = threading.Timer(0.3, lambda: (folder / "val.json").write_text(DATA))
    appear.start()
    assert store.complete(folder, job["needs"][str(folder)], seconds=60)["skipped"] == ""


def test_who_waits_for_a_lock_is_told_who_has_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "lock"
    first = lock_file(path, lambda owner: None)
    taker = threading.Thread(target=lambda: schedule._turn(path, "the run", lambda: False).close())
    taker.start()
    message = f"the run is in use by process {os.getpid()} on {platform.node()}: waiting"
    seen = []
    wait_for(lambda: seen.append(capsys.readouterr().out) or message in "".join(seen))
    first.close()
    taker.join(60)
    assert not taker.is_alive()
    with lock_file(path, lambda owner: None), pytest.raises(S3EError, match="was stopped"):
        schedule._turn(path, "the run", lambda: True)


class Command:
    """`run_all.py` of the copy as a person would start it."""

    def __init__(self, repo: Path, runs: Path):
        self.repo, self.log = repo, runs.parent / "log.txt"
        own = {"S3E_RUNS": str(runs), "PYTHONPATH": str(repo), "S3E_NO_JAVA": "1"}
        self.environment = {**os.environ, **own}

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "run_all.py", "--profile", "smoke", "--variants", "baseline"]
        options = {"cwd": self.repo, "env": self.environment}
        with open(self.log, "a") as log:
            return subprocess.Popen([*command, *words], stdout=log, stderr=log, **options)

    def run(self, *words: str) -> tuple[int, str]:
        return self.start(*words).wait(300), self.log.read_text()


def wait_for(what: object, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def hanging(runs: Path) -> Path:
    """The folder of the runs of 04, which will hang after their first step."""
    stage = runs / "smoke" / DEBLURRER
    stage.mkdir(parents=True)
    (stage / "hang").touch()
    return stage


def test_killed_kernel_and_killed_runner_go_on(here: Path, tmp_path: Path) -> None:
    finish(here, DATA)
    runs = tmp_path / "runs"
    command, stage = Command(here, runs), hanging(runs)
    ticks = stage / "s0" / "ticks.txt"

    process = command.start("--only", "01", "04")
    wait_for(lambda: ticks.exists() and len(ticks.read_text()) == 2)
    family = psutil.Process(process.pid).children(recursive=True)
    kernel = next(child for child in family if "ipykernel_launcher" in " ".join(child.cmdline()))
    kernel.kill()
    assert process.wait(300) == 1
    log = command.log.read_text()
    assert f"FAILED {DEBLURRER}/s0" in log and "Kernel died" in log and "notebook.ipynb" in log
    assert "go on with: python run_all.py --profile smoke" in log
    assert not (stage / "s0" / "done.json").exists()

    command.log.unlink()
    process = command.start("--only", "01", "04")
    wait_for(lambda: len(ticks.read_text()) == 3)  # it hangs again, and holds its lock
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not psutil.wait_procs(family, timeout=300)[1]
    assert not is_locked(stage / "s0" / ".lock")

    (stage / "hang").unlink()
    both = [command.start("--only", "01", "04") for _ in range(2)]  # two at once on one store
    assert [process.wait(300) for process in both] == [0, 0], command.log.read_text()
    assert (stage / "s0" / "papermill.log").read_text().count("Input Notebook") == 3
    assert read_json(stage / "s0" / "metrics.json") == {"loss": 1.0, "resumed": 1}
    code, log = command.run("--only", "01", "04")
    assert code == 0 and "all 2 runs are fresh" in log


def test_an_interrupt_ends_everything_and_says_how_to_go_on(here: Path, tmp_path: Path) -> None:
    finish(here, DATA)
    command, stage = Command(here, tmp_path / "runs"), hanging(tmp_path / "runs")
    process = command.start("--only", "01", "04")
    wait_for(lambda: is_locked(stage / "s0" / ".lock"))
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert process.wait(300) == 130
    assert not psutil.wait_procs(family, timeout=300)[1]
    log = command.log.read_text()
    assert "go on with: python run_all.py --profile smoke" in log and "Traceback" not in log


def test_a_failing_cell_is_shown_and_others_go_on(here: Path, tmp_path: Path, edit: object) -> None:
    edit(here / "notebooks" / f"{FIRST.stage}.ipynb", "import time", "(1 / 0)  # too much")
    edit(here / "notebooks" / f"{DATA}.ipynb", "import time", "run.skip('no captions')")
    command = Command(here, tmp_path / "runs")
    code, log = command.run("--until", "01", "--jobs", "2")
    assert code == 1 and "ZeroDivisionError: division by zero" in log and "cell In[5]" in log
    assert f"skipped {DATA}/all" in log
    _, log = command.run("--until", "01", "--status")
    assert re.search(r"00_start_here/all +failed +ZeroDivisionError: division by zero", log)
    done = read_json(tmp_path / "runs" / "smoke" / DATA / "all" / "done.json")
    assert done["skipped"] == "no captions"


def test_papermill_by_hand(here: Path, tmp_path: Path) -> None:
    finish(here, DATA)
    finish(here, DEBLURRER, seed=1)
    words = (
        "notebooks/06_ablation.ipynb out.ipynb -p profile smoke -p variant no_tree_loss -p seed 1"
    )
    command = [sys.executable, "-m", "papermill", *words.split()]
    environment = Command(here, tmp_path / "runs").environment
    subprocess.run(command, cwd=here, env=environment, check=True)
    done = read_json(tmp_path / "runs" / "smoke" / "06_ablation" / "no_tree_loss-s1" / "done.json")
    assert sorted(done["parts"]["upstream"]) == [f"{DATA}/all", f"{DEBLURRER}/s1"]
