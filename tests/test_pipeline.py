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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import psutil
import pytest
from filelock import Timeout

import s3e
from s3e import utils
from s3e.__main__ import main
from s3e.config import PROFILES, VARIANTS, Runtime, load_config
from s3e.pipeline import graph, keys, opened, runner, schedule, store
from s3e.pipeline import study as studies
from s3e.pipeline.graph import STAGES
from s3e.pipeline.opened import open_run
from s3e.pipeline.study import Study
from s3e.utils import S3EError, code_digest, is_locked, lock_file, read_json
from tests.fixtures_data import write_coco, write_gopro, write_photos

COMMON = """profile: str = "smoke"
data: str = "scenes"
seed: int = 0
run_dir: str = ""
overrides: dict = {}
resume: bool = True
"""
MANY = "variants: list = []\nseeds: list = []\n"
OWN = {"06_ablation": 'variant: str = "baseline"\n', "06b_semantic_fidelity": MANY}
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
FAKE = {
    "__init__.py": "",
    "losses.py": '"""Doc."""\nfrom s3e.fake import terms\n\nVALUE = terms.ONE\n',
    "terms.py": "ONE = 1.0  # one\n",
    "words.toml": "a = 1\n",
}
DATA, TREE, CAPTIONER, DEBLURRER = list(STAGES)[1:5]
FIRST, LAST = list(STAGES)[0], list(STAGES)[-1]


def notebook(stage):
    parameters = COMMON + OWN.get(stage, "")
    names = [line.split(":")[0] for line in parameters.splitlines()]
    code = [
        "from s3e.pipeline.opened import open_run\nfrom s3e.fake import losses",
        OPEN.format(stage=stage, names=", ".join(f"{name}={name}" for name in names)),
        WORK,
        'run.finish({"loss": losses.VALUE, "resumed": int(run.resumed)})',
    ]
    cells = [nbformat.v4.new_markdown_cell("what"), nbformat.v4.new_code_cell(parameters)]
    cells[1].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells += [nbformat.v4.new_code_cell(text) for text in code]
    return nbformat.v4.new_notebook(cells=cells, metadata=kernel)


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    """A copy of the suite, in a folder with braces in its name, with fake notebooks and a fake
    package of two modules and a data file.
    """
    root, source = tmp_path_factory.mktemp("repo") / "a {copy}", Path(s3e.__file__).parent
    shutil.copytree(source, root / "s3e", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(source.parent / "run_all.py", root)
    for folder in ("s3e/fake", "notebooks"):
        (root / folder).mkdir()
    for name, text in FAKE.items():
        (root / "s3e" / "fake" / name).write_text(text)
    for stage in STAGES:
        nbformat.write(notebook(stage), root / "notebooks" / f"{stage}.ipynb")
    return root


@pytest.fixture
def here(repo, tmp_path, monkeypatch):
    """The same copy seen from this process, with an empty store."""
    monkeypatch.setattr(keys, "PACKAGE", repo / "s3e")
    monkeypatch.setattr(utils, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(graph, "NOTEBOOKS", repo / "notebooks")
    keys.forget()
    yield repo
    keys.forget()
    for path in list(opened._HELD):
        opened._HELD.pop(path).close()


def begin(stage, **arguments):
    return open_run(stage, profile="smoke", **arguments)


def finish(*stages, **arguments):
    for stage in stages:
        run = begin(stage, **arguments)
        for name in run.outputs:
            (run.path / name).write_text(stage)
        run.finish({"loss": 1.0})
    return run.path


def states(capsys, *words):
    keys.forget()
    capsys.readouterr()
    command = ["run", "--profile", "smoke", "--variants", "baseline", "--status", *words]
    assert main(command) == 0
    return dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())


@pytest.fixture
def refused(capsys):
    """The one sentence by which `run` refuses a request before anything starts."""

    def request(*words):
        assert main(["run", "--profile", "smoke", *words]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        return error

    return request


@pytest.fixture
def edit():
    """Changes a text in a file; all files are put back afterwards."""
    before: dict[Path, str] = {}

    def change(path, old, new):
        text = path.read_text()
        assert old in text
        before.setdefault(path, text)
        path.write_text(text.replace(old, new))

    yield change
    for path, text in before.items():
        path.write_text(text)


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Pairs in GoPro's layout."""
    return write_gopro(tmp_path_factory.mktemp("data") / "frames", subsets=("blur",), size=(40, 24))


# ---------------------------------------------------------------------------------- runs and keys


def test_the_stage_table_knows_its_stages_and_settings():
    names, sections = list(STAGES), load_config("smoke").model_dump()
    for position, stage in enumerate(STAGES.values()):
        assert set(stage.reads) <= set(names[:position])
        for field in (*stage.settings, *stage.unread):
            section, _, name = field.partition(".")
            assert name in sections[section] if name else section in sections
    assert set(names) <= set(graph.minutes("laptop")) and not graph.minutes("paper")


def test_every_run_comes_after_what_it_reads(frames):
    lent = {"semantics_from": "runs/smoke"}
    for study in (Study("study"), Study("study", str(frames), lent)):
        runs = study.runs
        assert len(set(runs)) == len(runs) and {run.stage for run in runs} == set(STAGES)
        for run in runs:
            assert all(runs.index(other) < runs.index(run) for other in run.reads)


def trained(study, variant, seed=0):
    return study.run("05_co_training" if variant == "full" else "06_ablation", variant, seed)


def test_what_a_variant_reads(frames):
    def read(variant, data="scenes"):
        return [str(other) for other in trained(Study("smoke", data), variant, 1).reads]

    assert read("no_tree_loss") == [f"{DATA}/all", f"{DEBLURRER}/s1"]
    assert read("full") == [f"{DATA}/all", f"{TREE}/s1", f"{CAPTIONER}/s1", f"{DEBLURRER}/s1"]
    assert read("full", str(frames)) == read("baseline") == read("no_tree_loss")
    with pytest.raises(S3EError, match="05_co_training trains 'full'"):
        Study("smoke").run("06_ablation", "full")
    with pytest.raises(S3EError, match="setting 'variants' = 'baseline': .*list"):
        Study("smoke", variants="baseline")


def test_settings_follow_the_variant():
    study = Study("smoke")
    settings = {name: trained(study, name).settings for name in VARIANTS}
    assert "loss.caption" not in settings["baseline"] and "loss.caption" in settings["full"]
    assert "train_a1.steps" in settings["no_tree_loss"] and "train_a1.steps" not in settings["full"]
    assert "runtime.save_every" not in settings["full"]
    assert not any("loss" in name for name in study.run(DATA).settings)


def test_outputs_follow_the_data(frames):
    pairs, scenes = Study("smoke", str(frames)), Study("smoke")
    assert "vocabulary.json" in scenes.run(DATA).outputs
    assert "vocabulary.json" not in pairs.run(DATA).outputs
    outputs = trained(pairs, "full").outputs
    assert "scores.csv" in outputs and "captions.csv" not in outputs


def test_cards_tell_the_time_of_a_measured_profile(tmp_path):
    study, paper = Study("study"), Study("paper", str(write_coco(tmp_path / "a", size=(20, 20))))
    plain, own = (trained(study, name).expected_seconds for name in ("baseline", "no_tree_loss"))
    assert plain == f"{60 * graph.minutes('study')['06_ablation']:.0f} s" != own
    assert not trained(paper, "baseline").expected_seconds


def test_meaning_counts_not_layout():
    plain = code_digest('"""Doc."""\ndef f(x):\n    "doc"\n    return x + 1\n', "a")
    other = '"""Other."""\n\n\ndef f(x):  # say\n    "more"\n    return (x + 1)\n'
    assert plain == code_digest(other, "a")
    assert plain != code_digest(other.replace("1", "2"), "a")
    with pytest.raises(S3EError, match="line 1"):
        code_digest("def", "a")


@pytest.mark.parametrize(
    ("place", "old", "new", "why"),
    [
        ("s3e/fake/losses.py", "Doc.", "Another docstring.\n# and a comment\n", ""),
        ("s3e/fake/terms.py", "1.0", "2.0", "s3e.fake.terms changed"),
        ("s3e/fake/words.toml", "1", "2", "s3e/fake/words.toml changed"),
        ("notebooks/04_train_deblurrer.ipynb", "# a training of", "# a schooling of", ""),
        ("notebooks/04_train_deblurrer.ipynb", "range(", "range(0 + ", "deblurrer.ipynb changed"),
        ("s3e/report/s3e.mplstyle", "figure", "# figure", ""),  # of drawing
    ],
)
def test_status_says_why(here, edit, capsys, place, old, new, why):
    finish(DATA, DEBLURRER)
    assert states(capsys)[f"{DEBLURRER}/s0"].startswith("fresh")
    edit(here / place, old, new)
    state = states(capsys)[f"{DEBLURRER}/s0"]
    assert state.startswith("stale" if why else "fresh") and why in state


def test_a_lesson_does_not_count_and_another_cell_does(here, edit, capsys):
    path = here / "notebooks" / f"{DATA}.ipynb"
    edit(path, "what", "what")  # put back afterwards
    finish(DATA)
    book = nbformat.read(path, as_version=4)
    book.cells.insert(-1, nbformat.v4.new_code_cell("show_lines(1)", metadata={"tags": ["lesson"]}))
    nbformat.write(book, path)
    assert states(capsys)[f"{DATA}/all"].startswith("fresh")
    edit(path, '"lesson"', '"remark"')
    assert f"notebooks/{DATA}.ipynb changed" in states(capsys)[f"{DATA}/all"]


def test_exploring_needs_no_run_and_other_weights_are_explored_again(here, capsys):
    finish(LAST)
    seen = states(capsys)
    assert seen[f"{LAST}/all"].startswith("fresh") and seen[f"{DATA}/all"] == "missing"
    other = here / "s3e" / "weights" / "other.safetensors"
    other.write_text("1")
    assert "s3e/weights/other.safetensors changed" in states(capsys)[f"{LAST}/all"]
    other.unlink()
    (other.parent / ".DS_Store").write_text("1")
    assert states(capsys)[f"{LAST}/all"].startswith("fresh")


def test_overrides_recompute_only_what_depends(here, capsys):
    finish(DATA, TREE, DEBLURRER)
    seen = states(capsys, "--set", "loss.tree=0.25")
    state = seen[f"{DEBLURRER}/s0"]
    assert "fresh" in state and "from smoke" in state
    assert re.fullmatch(r"missing +\d+ s  loss.tree 0.1 -> 0.25", seen[f"{TREE}/s0"])
    run = begin("06_ablation", variant="baseline", overrides={"loss.tree": 0.25})
    assert run.upstream("04").parts[-3] == "smoke" and run.path.parts[-3].startswith("smoke+")
    with pytest.raises(S3EError, match="missing.*loss.tree 0.1 -> 0.25.*--until 02"):
        begin(CAPTIONER, overrides={"loss.tree": 0.25})


def test_a_changed_profile_value_is_stale_downstream(here, capsys, monkeypatch):
    finish(DATA, TREE, DEBLURRER)
    (finish(CAPTIONER).parents[1] / DEBLURRER / "s0" / "log_deblurrer.csv").unlink()
    monkeypatch.setitem(PROFILES["smoke"], "loss", {"tree": 0.5})
    seen = states(capsys)
    assert "loss.tree 0.1 -> 0.5" in seen[f"{TREE}/s0"]
    assert f"upstream {TREE}/s0" in seen[f"{CAPTIONER}/s0"]
    assert seen[f"{DATA}/all"].startswith("fresh")
    assert "log_deblurrer.csv is lost" in seen[f"{DEBLURRER}/s0"]


def test_the_data_count_by_what_they_hold(tmp_path):
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    photo, captions = data / "images" / "a.jpg", data / "captions.json"
    photo.write_text("x"), captions.write_text("1")
    first = keys.data_fingerprint(str(data))
    (data / ".hidden").write_text("x")
    os.utime(photo, (1, 1))
    assert keys.data_fingerprint(str(data)) == first
    assert keys.data_fingerprint(str(shutil.copytree(data, tmp_path / "copy"))) == first
    seen = {first}
    other, plain = photo.with_name("b.jpg"), photo.with_name("c.bmp")
    changes = (captions, "2"), (photo, "another"), (other, "x"), (plain, "x"), (plain, "y")
    for path, text in changes:  # without compression an edit keeps the size
        path.write_text(text)
        seen.add(keys.data_fingerprint(str(data)))
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("loss.vgg19_weights", {DEBLURRER, "05_co_training"}),
        ("model.pretrained", {DEBLURRER, "05_co_training", "07_evaluation"}),
    ],
)
def test_weights_count_by_content_and_are_found_from_any_folder(
    tmp_path, monkeypatch, name, stages
):
    def settings(path):
        runs = [run for run in Study("smoke", overrides={name: path}).runs if run.stage[:2] != "06"]
        assert {run.stage for run in runs if name in run.settings} == stages
        return next(run.settings for run in runs if run.stage == DEBLURRER)

    (tmp_path / "elsewhere").mkdir()
    mine, other = tmp_path / "mine.pth", tmp_path / "elsewhere" / "same.pth"
    mine.write_text("x"), other.write_text("x")
    first = settings(str(mine))
    monkeypatch.chdir(tmp_path)  # notebooks run in another folder
    assert settings(str(other)) == settings("mine.pth") == first
    other.write_text("y")
    assert settings(str(other)) != first
    assert settings("vgg19-dcbb9e9d.pth")[name] == "vgg19-dcbb9e9d.pth"


def test_kinds_of_data(frames, tmp_path):
    small = {"size": (20, 20)}
    folders = {"captions": write_coco(tmp_path / "a", **small), "pairs": frames}
    folders |= {"photos": write_photos(tmp_path / "c", **small)}
    for kind, folder in folders.items():
        assert Study("smoke", str(folder)).kind == kind
    alone = Study("smoke", str(folders["captions"]), {"data.kind": "photos"})
    assert alone.kind == "photos" and not alone.captioned


# ---------------------------------------------------------------------------------------- the store


def test_resume_only_with_the_same_key(here, edit, capsys):
    finish(DATA)
    run = begin(DEBLURRER)
    checkpoint, executed = run.path / "last.ckpt", run.path / "notebook.ipynb"
    checkpoint.write_text("x"), executed.write_text("kept")
    assert not run.resumed and begin(DEBLURRER).resumed and checkpoint.exists()
    opened._HELD.pop(run.path).close()
    assert "interrupted or failed; goes on where it stopped" in states(capsys)[f"{DEBLURRER}/s0"]
    edit(here / "s3e" / "fake" / "terms.py", "1.0", "3.0")
    with pytest.raises(S3EError, match=f"{DATA}/all, which is stale .s3e.fake.terms"):
        begin(DEBLURRER)
    assert "its code or settings changed since" in states(capsys)[f"{DEBLURRER}/s0"]
    finish(DATA)
    assert not begin(DEBLURRER).resumed
    assert not checkpoint.exists() and executed.exists()
    checkpoint.write_text("x")
    assert not begin(DEBLURRER, resume=False).resumed and not checkpoint.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.5", None])
def test_finish_refuses(here, value):
    run = begin(FIRST)
    with pytest.raises(S3EError, match="metric 'psnr'"):
        run.finish({"psnr": value})
    with pytest.raises(S3EError, match="x.csv is missing"):
        run.finish({}, ["x.csv"])
    (run.path / "x.csv").touch()
    with pytest.raises(S3EError, match="x.csv is empty"):
        run.finish({}, ["x.csv"])
    assert not (run.path / "done.json").exists()


def test_finishing_and_opening_again(here):
    run = begin(FIRST)
    run.finish({"psnr": 1})
    run.finish({"psnr": 2})  # the last cell run again
    assert read_json(run.path / "metrics.json") == {"psnr": 2}
    assert read_json(run.path / "provenance.json")["threads"] == 1
    assert not is_locked(run.path / ".lock")
    begin(FIRST)
    assert not (run.path / "done.json").exists()


def test_skipping_is_known_downstream(here, capsys):
    finish(DATA, TREE, CAPTIONER, DEBLURRER)
    finish("06_ablation", variant="baseline")
    with pytest.raises(SystemExit):
        begin("06_ablation", variant="oracle_map").skip("no label maps")
    finish("06b_semantic_fidelity", variants=["baseline", "oracle_map"])
    run = begin("07_evaluation", variants=["baseline", "oracle_map"])
    assert [path.name for path in run.upstream_runs("06")] == ["baseline-s0"]
    assert run.skipped == {"06_ablation/oracle_map-s0": "no label maps"}
    assert not run.upstream_runs("05") and run.upstream(DATA).name == "all"
    seen = states(capsys, "--variants", "oracle_map")
    assert seen["06_ablation/oracle_map-s0"].startswith("skipped")
    assert states(capsys)["07_evaluation/all"].startswith("running")


def test_the_card_names_what_is_not_usual(here, capsys):
    begin(FIRST).card()
    assert "perceptual" not in capsys.readouterr().out
    changed = {"runtime.precision": "bf16", "runtime.devices": 2, "loss.perceptual": 1.0}
    run = begin(FIRST, overrides=changed)
    run.card()
    shown = capsys.readouterr().out
    assert "2 x cpu, bf16 bits" in shown and "features of EfficientNet-Lite0" in shown
    run.finish({})
    about = read_json(run.path / "provenance.json")
    assert (about["device_name"], about["devices"], about["precision"]) == ("", 2, "bf16")
    assert about["packages"]["torch"][0].isdigit()


def test_a_store_belongs_to_one_data_folder_and_has_a_stable_name(tmp_path):
    mine, other = tmp_path / "a" / "photos", tmp_path / "b" / "photos"
    mine.mkdir(parents=True), other.mkdir(parents=True)

    def claim(folder):
        Study("smoke", str(folder), run_dir=str(tmp_path / "store")).claim()

    claim(mine), claim(mine)
    with pytest.raises(S3EError, match="store holds the runs of .*photos, not of .*photos"):
        claim(other)
    mine.rmdir()
    claim(other)
    assert read_json(tmp_path / "store" / "store.json") == {"data": str(other)}
    assert Study("laptop").root.name == "laptop"
    random = {"data.texture": "random"}
    assert Study("study", overrides=random, seeds=[0]).root.name == "study+a8406f70"


def test_figures_of_other_data_do_not_replace_those_that_are_there(tmp_path, monkeypatch):
    data = tmp_path / "mine"
    data.mkdir()
    study = Study("photos-cpu", str(data))
    monkeypatch.setattr(studies, "FIGURES", tmp_path)
    manifest = tmp_path / "photos" / "manifest.json"
    about = {"profile": "photos-cpu", "data": {"source": "mine"}}
    assert study.figures_name == "photos"
    utils.write_file(manifest, about)
    assert study.figures_name == "photos"
    for other in ({**about, "profile": "photos"}, {**about, "data": {"source": "yours"}}):
        utils.write_file(manifest, other)
        assert study.figures_name == "photos-cpu@mine"
    manifest.unlink()
    chosen = Study("photos-cpu", str(data), seeds=[0])
    assert chosen.figures_name.startswith("photos-cpu@mine+")


# ---------------------------------------------------------------------------- data without captions


def test_tree_and_captioner_come_from_the_named_study(here, frames, capsys, edit):
    finish(DATA, TREE, CAPTIONER, DEBLURRER)
    own = begin("05_co_training")
    assert all(own.semantics(stage) == own.upstream(stage) for stage in ("01", "03"))
    assert own.captioned and not own.borrowed
    lent = utils.RUNS / "smoke"
    given = {"data": str(frames), "overrides": {"semantics_from": str(lent)}}
    finish(DATA, DEBLURRER, **given)
    run = begin("05_co_training", **given)
    assert run.semantics("01") == lent / DATA / "all"
    assert run.semantics("03") == lent / CAPTIONER / "s0"
    assert run.upstream(DATA).parts[-3].startswith("smoke@frames+")
    assert (run.kind, run.captioned) == ("pairs", False) and "those of smoke" in run.borrowed
    for name in run.outputs:
        (run.path / name).write_text("x")
    run.finish({})
    words = ["--data", str(frames), "--variants", "full", "--semantics-from", str(lent)]
    name = "05_co_training/full-s0"
    assert states(capsys, *words)[name].startswith("fresh")
    record = lent / CAPTIONER / "s0" / "done.json"
    edit(record, read_json(record)["key"], "another key")
    assert f"upstream semantics:{CAPTIONER}/s0" in states(capsys, *words)[name]
    baseline = begin("06_ablation", variant="baseline", **given)
    assert baseline.semantics("01") is None and baseline.semantics("03") is None


def test_without_a_study_to_borrow_from_nothing_starts(here, frames, refused):
    data, lent = ("--data", str(frames)), ("--semantics-from", str(utils.RUNS / "smoke"))
    remedy = "run_all.py --profile smoke) and name its store (--semantics-from runs/smoke)"
    assert remedy in refused(*data)
    assert "is not a finished run of a study with captions" in refused(*data, *lent)
    assert "is for data without captions" in refused(*lent)
    finish(DATA, TREE, CAPTIONER)
    assert "with the same --seeds until 03" in refused(*data, *lent, "--seeds", "7")
    other = ("--set", "model.node_width=16")
    assert "--set 'model.node_width=32'" in refused(*data, *lent, *other)
    assert not (utils.RUNS / "smoke@frames").exists()


@pytest.mark.parametrize("kind", ["scenes", "coco", "pairs"])
def test_what_will_be_skipped_is_known_beforehand(kind, frames, tmp_path, capsys):
    coco = write_coco(tmp_path / "a", size=(20, 20))
    study = Study("smoke", {"scenes": "scenes", "pairs": str(frames), "coco": str(coco)}[kind])

    def skipped(variant):
        return trained(study, variant).why_skipped

    assert ("label maps" in skipped("oracle_map")) is (kind != "scenes")
    for variant in ("no_tree_loss", "oracle_caption"):
        assert ("no captions" in skipped(variant)) is (kind == "pairs")
    assert ("frozen already" in skipped("frozen")) is (kind == "pairs")
    assert not any(map(skipped, ("baseline", "full", "no_semantics_loss", "shuffled", "oracle")))
    for stage in (TREE, CAPTIONER):
        assert bool(study.run(stage).why_skipped) is (kind == "pairs")


def test_the_texture_control_is_read_where_it_exists(here, capsys):
    chosen = {"variants": ["baseline"], "seeds": [0]}
    finish(DATA, TREE, CAPTIONER, DEBLURRER)
    finish("06_ablation", variant="baseline")
    finish("06b_semantic_fidelity", **chosen)
    finish("07_evaluation", **chosen)
    words = ["--seeds", "0"]
    assert states(capsys, *words)["07_evaluation/all"].startswith("fresh")
    random = {"overrides": {"data.texture": "random"}}
    finish(DATA, DEBLURRER, **random)
    control = finish("06_ablation", variant="baseline", **random)
    why = states(capsys, *words)["07_evaluation/all"]
    assert "upstream texture:06_ablation/baseline-s0" in why
    assert begin("07_evaluation", **chosen).study.texture_control == [control]
    (control / "scores.csv").unlink()
    assert begin("07_evaluation", **chosen).study.texture_control == []


# ------------------------------------------------------------------------------------- bad requests


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--profile moon", "unknown profile 'moon'"),
        ("--variants fulll", "unknown variant 'fulll'"),
        ("--from 11", "unknown stage '11'"),
        ("--set loss.captoin=1", "captoin"),
        ("--set loss.caption", "section.name=value"),
        ("--set blur.severity=released", "blur.severity = 'released' does not fit scenes"),
        ("--set loss.perceptual=1 loss.vgg19_weights=/no/vgg19-dcbb9e9d.pth", "/no/vgg19"),
        ("--set model.pretrained=/no/latest_net_G.pth", "/no/latest_net_G.pth is no file"),
        ("--seeds -1", "'seeds.0' = -1"),
        ("--jobs -1", "give a number from 1 on"),
        ("--data /no/such/folder", "no such folder"),
        ("--from 06", "06_ablation/baseline-s0 needs 01_data_blurring/all, which is missing"),
        ("--data FRAMES --set blur.severity=light", "blur.severity is 'light'"),
        ("--data FRAMES --set data.subset=blur_gamma", "blur_gamma"),
        ("--data FRAMES --set data.val=1", "must be at least 2"),
        ("--data EMPTY", "fewer than 2 usable photos"),
    ],
)
def test_bad_requests_stop_before_any_kernel(here, frames, tmp_path, refused, words, says):
    (tmp_path / "empty").mkdir()
    words = words.replace("FRAMES", f"{frames} --variants baseline")
    assert says in refused(*words.replace("EMPTY", str(tmp_path / "empty")).split())
    assert not utils.RUNS.exists()


def test_bad_places_and_notebooks(here, tmp_path, refused, edit):
    (tmp_path / "runs").write_text("a file")
    assert "cannot be written" in refused("--until", "00")
    edit(here / "notebooks" / "06_ablation.ipynb", "variant: str", "arm: str")
    keys.forget()
    assert "06_ablation.ipynb has no parameter 'variant'" in refused()


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
        ({"device": "cuda"}, 0, "-1", "more than the 0 that there are: .*--set runtime.device=cpu"),
        ({"device": "cuda"}, 4, "0,1,2", "more than the 3 that there are: give fewer --jobs"),
        ({"device": "cuda", "devices": 4}, 0, "0,1,2", "runtime.devices = 4 GPUs, are more"),
    ],
)
def test_places_fit_the_machine(settings, wanted, gpus, places, monkeypatch):
    monkeypatch.setattr(utils, "cores", lambda: 12)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    if isinstance(places, str):
        with pytest.raises(S3EError, match=places):
            schedule.Local(Runtime(**settings), wanted)
    else:
        assert len(schedule.Local(Runtime(**settings), wanted).free) == places


class FakeRun:
    """A run that reads nothing, ready to be started."""

    reads, expected_minutes, key, path = (), 0.0, "", Path()


def test_every_notebook_has_gpus_of_its_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-ab,7,8,9")
    both, seen = threading.Barrier(2, timeout=60), []

    def run_notebook(job, stop):
        both.wait()
        seen.append(job["environment"]["CUDA_VISIBLE_DEVICES"])
        return ""

    monkeypatch.setattr(schedule, "run_notebook", run_notebook)
    monkeypatch.setattr(schedule, "complete", lambda *_, **__: {"skipped": ""})
    places, runs = schedule.Local(Runtime(device="cuda", devices=2), 0), [FakeRun() for _ in "four"]
    results = schedule.execute(runs, lambda run: {"environment": {}}, places)
    assert [word for word, _ in results.values()] == ["done"] * 4 and len(places.free) == 2
    places.close()
    assert sorted(seen) == ["4,GPU-ab", "4,GPU-ab", "7,8", "7,8"]


def test_a_job_is_plain_json_and_fixes_threads(here):
    folder, study = finish(DATA), Study("smoke")
    job = runner.job_of(study.run(DEBLURRER), force=False)
    assert json.loads(json.dumps(job)) == job and job["environment"]["OMP_NUM_THREADS"] == "1"
    assert store.complete(folder, study.run(DATA).key)["skipped"] == ""
    assert store.complete(folder, "another key") is None


def test_who_waits_for_a_lock_is_told_who_has_it(tmp_path):
    path, told = tmp_path / "lock", []
    first = lock_file(path, told.append)
    with ThreadPoolExecutor() as pool:
        stopped = pool.submit(lock_file, path, told.append, lambda: True)
        assert isinstance(stopped.exception(60), Timeout)
        waits = pool.submit(lock_file, path, told.append)
        wait_for(lambda: told == [f"{os.getpid()} on {platform.node()}"] * 2)
        first.close()
        waits.result(60).close()


class Command:
    """`run_all.py` of the copy as a person would start it."""

    def __init__(self, repo, runs):
        self.repo, self.log = repo, runs.parent / "log.txt"
        own = {"S3E_RUNS": str(runs), "PYTHONPATH": str(repo), "S3E_NO_JAVA": "1"}
        self.environment = {**os.environ, **own}

    def start(self, *words):
        command = [sys.executable, "run_all.py", "--profile", "smoke", "--variants", "baseline"]
        options = {"cwd": self.repo, "env": self.environment}
        with open(self.log, "a") as log:
            return subprocess.Popen([*command, *words], stdout=log, stderr=log, **options)

    def run(self, *words):
        return self.start(*words).wait(300), self.log.read_text()


def wait_for(what, seconds=300.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def hanging(runs):
    """The folder of the runs of 04, which will hang after their first step."""
    stage = runs / "smoke" / DEBLURRER
    stage.mkdir(parents=True)
    (stage / "hang").touch()
    return stage


ALONE = ("--from", "04", "--until", "04")


def begun(process, ticks, count):
    """Wait until a training has written so many ticks; returns the processes below `process`."""
    wait_for(lambda: ticks.exists() and len(ticks.read_text()) == count)
    return psutil.Process(process.pid).children(recursive=True)


def test_killed_kernel_and_killed_runner_go_on(here, tmp_path):
    finish(DATA)
    runs = tmp_path / "runs"
    command, stage = Command(here, runs), hanging(runs)
    folder = stage / "s0"
    process = command.start(*ALONE)
    family = begun(process, folder / "ticks.txt", 2)
    next(item for item in family if "ipykernel_launcher" in " ".join(item.cmdline())).kill()
    assert process.wait(300) == 1
    log = command.log.read_text()
    assert f"failed {DEBLURRER}/s0" in log and "Kernel died" in log and "notebook.ipynb" in log
    again = "python run_all.py --profile smoke --variants baseline --from 04 --until 04"
    assert f"go on with: {again}" in log
    assert not (folder / "done.json").exists()

    process = command.start(*ALONE)
    family = begun(process, folder / "ticks.txt", 3)  # it hangs again, and holds its lock
    assert len(family) >= 2
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not psutil.wait_procs(family, timeout=300)[1]
    assert not is_locked(folder / ".lock")

    (stage / "hang").unlink()
    both = [command.start(*ALONE) for _ in range(2)]  # two at once on one store
    assert [process.wait(300) for process in both] == [0, 0], command.log.read_text()
    assert (folder / "papermill.log").read_text().count("Input Notebook") == 3
    assert read_json(folder / "metrics.json") == {"loss": 1.0, "resumed": 1}


def test_an_interrupt_ends_everything_and_says_how_to_go_on(here, tmp_path):
    finish(DATA)
    command, stage = Command(here, tmp_path / "runs"), hanging(tmp_path / "runs")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell put us behind
    process = command.start(*ALONE)
    wait_for(lambda: is_locked(stage / "s0" / ".lock"))
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert process.wait(300) == 130
    assert not psutil.wait_procs(family, timeout=300)[1]
    log = command.log.read_text()
    assert "go on with: python run_all.py --profile smoke" in log and "Traceback" not in log


def test_a_failing_cell_is_shown_and_others_go_on(here, tmp_path, edit, capsys):
    edit(here / "notebooks" / f"{FIRST}.ipynb", "import time", "(1 / 0)  # too much")
    edit(here / "notebooks" / f"{DATA}.ipynb", "import time", "run.skip('no captions')")
    code, log = Command(here, tmp_path / "runs").run("--until", "01", "--jobs", "2")
    assert code == 1 and "ZeroDivisionError: division by zero" in log and "cell In[5]" in log
    assert f"skipped {DATA}/all" in log
    state = states(capsys)[f"{FIRST}/all"]
    assert re.search(r"^missing +interrupted or failed; goes on where it stopped", state)
    done = read_json(tmp_path / "runs" / "smoke" / DATA / "all" / "done.json")
    assert done["skipped"] == "no captions"
