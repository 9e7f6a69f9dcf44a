"""The whole study at smoke size, run once for all tests here, and what a user then does with it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
from safetensors.numpy import load_file

from s3e import utils
from s3e.__main__ import main
from s3e.inference.restorer import Restorer, export_weights
from s3e.utils import NOTEBOOKS, ROOT, S3EError
from tests.conftest import PHOTOS, environment_of, run_all
from tests.fixtures_data import write_gopro, write_karpathy, write_photos
from tests.test_pipeline import wait_for

PAIRS = PHOTOS.parent / "gopro_sample"
FULL = "05_co_training/full-s0"
BASELINE = "06_ablation/baseline-s0"
TRAINED = [FULL, BASELINE, "06_ablation/oracle_map-s0", "06_ablation/shuffled-s0"]


def test_every_stage_finished(smoke):
    records = list(smoke["runs"].glob("*/*/done.json"))
    assert len(records) == 14
    for path in records:
        provenance = json.loads((path.parent / "provenance.json").read_text())
        assert provenance["threads"] == 1 and provenance["packages"]["torch"].startswith("2.")


def test_variants_were_scored_on_the_same_blurred_images(smoke):
    tables = [pd.read_csv(smoke["runs"] / name / "scores.csv") for name in TRAINED]
    for table in tables:
        assert len(table) == 2 * 3 * 16
        assert table[["psnr", "ssim", "psnr_blurred"]].notna().all().all()
        assert table.groupby("severity")["psnr_blurred"].mean().idxmin() == "severe"
        assert table[["id", "psnr_blurred"]].equals(tables[0][["id", "psnr_blurred"]])


def test_executed_notebooks_show_images_and_no_errors(smoke):
    for path in smoke["runs"].glob("*/*/notebook.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        assert not [output for output in outputs if output.output_type == "error"], path
        assert any("image/png" in output.get("data", {}) for output in outputs), path
        texts = [str(output.get("data", {}).get("text/plain")) for output in outputs]
        assert not [text for text in texts if "<Figure" in text], f"{path}: a figure as text"


def test_every_figure_and_table_is_there_and_listed(smoke):
    manifest = json.loads((smoke["figures"] / "manifest.json").read_text())
    files = {path.name for path in smoke["figures"].iterdir()} - {"manifest.json"}
    assert files == set(manifest["files"])
    for number in (1, 2, 3, 4, 6, 7, 8, 9, 11, 14):
        drawn = {path.suffix for path in smoke["figures"].glob(f"fig{number}_*")}
        assert drawn == {".png", ".pdf"}, number
    for number in (1, 3, 4, 5, 6, 9, "A1"):
        assert {".csv", ".md"} <= {
            path.suffix for path in smoke["figures"].glob(f"table{number}_*")
        }


def test_tables_agree_with_the_scores(smoke):
    table = pd.read_csv(next(smoke["figures"].glob("table1_*.csv")))
    scores = pd.read_csv(smoke["runs"] / BASELINE / "scores.csv")
    chosen = "split == 'test' and severity == 'severe'"
    [shown] = table.query(f"{chosen} and variant == 'baseline' and metric == 'psnr'")["mean"]
    assert shown == pytest.approx(scores.query(chosen)["psnr"].mean(), abs=1e-3)


def run(smoke, capsys, monkeypatch, *words):
    """What `run_all.py` prints of the smoke study, here in this process."""
    monkeypatch.setattr(utils, "RUNS", smoke["runs"].parent)
    monkeypatch.setenv("S3E_NO_JAVA", "1")
    assert main(["run", "--profile", "smoke", *words]) == 0
    return capsys.readouterr().out


def test_a_second_run_finds_everything_fresh(smoke, capsys, monkeypatch):
    assert "all 14 runs are fresh" in run(smoke, capsys, monkeypatch)


def test_a_loss_weight_makes_only_its_dependents_run(smoke, capsys, monkeypatch):
    status = run(smoke, capsys, monkeypatch, "--status", "--set", "loss.caption=0.5")
    state = {line.split()[0]: line for line in status.splitlines() if "/" in line}
    for name in ("01_data_blurring/all", "02_train_s3_tree/s0", "04_train_deblurrer/s0", BASELINE):
        assert " fresh" in state[name], state[name]
    for name in ("03_train_captioner/s0", FULL, "07_evaluation/all"):
        assert " fresh" not in state[name], state[name]
    assert "loss.caption 0.1 -> 0.5" in state["03_train_captioner/s0"]


def test_redrawn_files_are_byte_identical(smoke, tmp_path):
    before = shutil.copytree(smoke["figures"], tmp_path / "before")
    assert run_all(smoke["env"], "--from", "08", "--until", "08", "--force").returncode == 0
    for path in before.iterdir():
        if path.name != "manifest.json":
            assert path.read_bytes() == (smoke["figures"] / path.name).read_bytes(), path.name


def test_papermill_by_hand_trains_one_variant(smoke, tmp_path):
    words = "-p profile smoke -p variant no_tree_loss --no-progress-bar".split()
    files = [str(NOTEBOOKS / "06_ablation.ipynb"), str(tmp_path / "out.ipynb")]
    command = [sys.executable, "-m", "papermill", *files, *words]
    done = subprocess.run(command, env=smoke["env"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = smoke["runs"] / "06_ablation" / "no_tree_loss-s0"
    terms = pd.read_csv(folder / "log_cotrain.csv").columns
    assert (folder / "done.json").exists() and "caption" in terms and "tree" not in terms


# ------------------------------------------------------------------- stores, whole and exported


def test_a_store_of_runs_restores_what_its_own_run_restored(smoke):
    mine = Restorer.load(smoke["runs"])
    assert "smoke" in mine.about and [*mine.readers] == ["full", "captioner"]
    blurred = np.load(smoke["runs"] / "01_data_blurring" / "all" / "test_severe.npy")
    runs = {"full": "05_co_training/full-s0", "baseline": "06_ablation/baseline-s0"}
    for variant, folder in runs.items():
        kept = np.load(smoke["runs"] / folder / "restored_test.npy")
        again = np.stack([mine.restore(photo, variant) for photo in blurred])
        assert np.abs(again.astype(int) - kept).max() <= 1


def test_an_exported_folder_is_the_store_in_small(smoke, tmp_path):
    assert export_weights(smoke["runs"], tmp_path / "a") == 0
    export_weights(tmp_path / "a", tmp_path / "b")
    store, folder = Restorer.load(smoke["runs"]), Restorer.load(tmp_path / "b")
    assert store.about == folder.about
    assert "| severe " in (tmp_path / "b" / "README.md").read_text(encoding="utf-8")
    photo = np.load(smoke["runs"] / "01_data_blurring" / "all" / "test_severe.npy")[0]
    assert (store.restore(photo) == folder.restore(photo)).all()
    for reader in folder.readers:
        assert store.read(photo, reader).caption == folder.read(photo, reader).caption
    with pytest.raises(S3EError, match="holds files already: name a new or empty"):
        export_weights(smoke["runs"], tmp_path / "a")


def test_a_store_without_captions_reads_with_the_store_that_it_names(smoke, tmp_path):
    runs, folder, lender = smoke["runs"], tmp_path / "smoke@photos", tmp_path / "lender"
    for run in ("01_data_blurring/all", "03_train_captioner/s0"):
        shutil.copytree(runs / run, lender / run)
    for run in ("05_co_training/full-s0", "06_ablation/baseline-s0"):
        shutil.copytree(runs / run, folder / run)
    params = folder / "05_co_training/full-s0/params.json"
    settings = json.loads(params.read_text())
    settings["config"]["semantics_from"] = str(lender)
    params.write_text(json.dumps(settings))
    export_weights(folder, tmp_path / "exported")
    photo = np.load(runs / "01_data_blurring" / "all" / "test_severe.npy")[0]
    wanted = Restorer.load(runs).read(photo, "captioner").caption
    assert Restorer.load(folder).read(photo, "captioner").caption == wanted
    shutil.rmtree(lender)
    assert Restorer.load(tmp_path / "exported").read(photo, "captioner").caption == wanted
    with pytest.raises(S3EError, match="vocabulary.json does not exist"):
        Restorer.load(folder)


# ---------------------------------------------------------------------------- data without captions


@pytest.fixture(scope="module")
def pairs(smoke, tmp_path_factory):
    """Generated pairs, trained and evaluated with tree and captioner of the smoke study: the folder
    of their runs.
    """
    size = (120, 72)  # 72 is no multiple of 16
    data = write_gopro(tmp_path_factory.mktemp("data") / "frames", subsets=("blur",), size=size)
    words = ["--variants", "baseline", "full", "--set", "data.whole_frames=true"]
    words += ["--from", "01", "--until", "07", "--semantics-from", str(smoke["runs"])]
    done = run_all(smoke["env"], "--data", str(data), *words)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    results = dict(re.findall(r"^(\S+/\S+) +(done|skipped|fresh) ", done.stdout, re.M))
    trains = ("02_train_s3_tree/s0", "03_train_captioner/s0", "06b_semantic_fidelity/all")
    assert {name for name, result in results.items() if result == "skipped"} == {*trains}
    return next(smoke["runs"].parent.glob("smoke@frames+*"))


def test_pairs_use_tree_and_captioner_of_the_named_study(smoke, pairs):
    lent = load_file(smoke["runs"] / "03_train_captioner/s0/tree_captioner.safetensors")
    used = load_file(pairs / FULL / "semantics.safetensors")
    assert lent.keys() == used.keys()
    assert all(np.array_equal(value, used[name]) for name, value in lent.items())  # frozen
    log = pd.read_csv(pairs / FULL / "log_cotrain.csv")
    assert not {"tree", "caption"} & set(log.columns)


def test_pairs_are_scored_as_released_and_severe(pairs):
    full, baseline = (pd.read_csv(pairs / name / "scores.csv") for name in (FULL, BASELINE))
    assert (full["id"] == baseline["id"]).all()
    counts = full.query("split == 'test'").severity.value_counts()
    assert counts.to_dict() == {"released": 6, "severe": 4}  # no window of three at both ends
    table = pd.read_csv(pairs / "07_evaluation/all/image_scores.csv")
    assert set(table.severity) == {"released", "severe"}


# ----------------------------------------------------------------------------- slow, with `-m slow`

TRAININGS = ["--variants", "full", "--until", "05"]


@pytest.mark.slow
def test_one_job_gives_the_same_numbers(smoke, tmp_path):
    assert run_all(environment_of(tmp_path), *TRAININGS, "--jobs", "1").returncode == 0
    again = tmp_path / "runs" / "smoke"
    for path in [*again.glob("*/*/metrics.json"), again / FULL / "generator.safetensors"]:
        assert path.read_bytes() == (smoke["runs"] / path.relative_to(again)).read_bytes(), path


LONG = [*TRAININGS, "--set", "train_c.steps=60"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    root = tmp_path_factory.mktemp("unbroken")
    assert run_all(environment_of(root), *LONG).returncode == 0
    return next(root.glob(f"runs/smoke*/{FULL}"))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["runner", "kernel"])
def test_killed_in_co_training_it_goes_on_to_the_same_numbers(tmp_path, unbroken, what):
    command = [sys.executable, str(ROOT / "run_all.py"), "--profile", "smoke", *LONG]
    process = subprocess.Popen(command, env=environment_of(tmp_path), stdout=subprocess.DEVNULL)
    place = f"runs/smoke*/{FULL}"
    try:
        wait_for(lambda: list(tmp_path.glob(f"{place}/cotrain.ckpt")))
        family = psutil.Process(process.pid).children(recursive=True)
        kernels = [item for item in family if "ipykernel_launcher" in " ".join(item.cmdline())]
        (process if what == "runner" else kernels[0]).kill()
        assert process.wait(300) != 0
    finally:
        process.kill()
    [folder] = tmp_path.glob(place)
    assert not (folder / "done.json").exists()
    assert run_all(environment_of(tmp_path), *LONG).returncode == 0
    assert "cotrain: resuming from step" in (folder / "notebook.ipynb").read_text()
    names = ("metrics.json", "scores.csv", "log_cotrain.csv")
    for name in (*names, "generator.safetensors", "semantics.safetensors"):
        assert (folder / name).read_bytes() == (unbroken / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize(("write", "captioned"), [(write_karpathy, True), (write_photos, False)])
def test_other_layouts_go_through_the_same_pipeline(smoke, tmp_path, write, captioned):
    data = write(tmp_path / write.__name__, **({} if captioned else {"count": 60}))
    words = ["--data", str(data), "--variants", "baseline", "full", "--from", "00"]
    words += [] if captioned else ["--semantics-from", str(smoke["runs"])]
    done = run_all({**smoke["env"], "S3E_NO_JAVA": ""}, *words)
    assert done.returncode == 0, done.stdout[-2000:]
    [figures] = smoke["figures"].parent.glob(f"smoke@{data.name}*")
    assert (figures / "table1_deblurring.md").exists()
    assert (figures / "table3_captioning.md").exists() is captioned


@pytest.mark.slow
@pytest.mark.skipif(not PAIRS.is_dir(), reason=f"no pairs at {PAIRS} (set S3E_PHOTOS)")
def test_real_pairs_go_through_the_same_pipeline(smoke):
    words = ["--data", str(PAIRS), "--semantics-from", str(smoke["runs"])]
    done = run_all(smoke["env"], *words, "--set", "blur.frames=5")
    assert done.returncode == 0, done.stdout[-2000:]
    table = next(smoke["figures"].parent.glob("smoke@gopro_sample+*/table2_gopro.md")).read_text()
    assert "mean of 5" in table and "crops" in table
    mixed = run_all(smoke["env"], *words, "--set", "data.whole_frames=true")
    assert mixed.returncode == 2 and "whole frames need one size" in mixed.stderr


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no captioned photos at {PHOTOS} (set S3E_PHOTOS)")
def test_photographs_go_through_the_same_pipeline(tmp_path):
    words = ["--data", str(PHOTOS), "--variants", "baseline", "full", "oracle_map", "--until", "06"]
    done = run_all(environment_of(tmp_path), *words)
    assert done.returncode == 0, done.stdout[-2000:]
    folder = Path(tmp_path, "runs", f"smoke@{PHOTOS.name}")
    record = json.loads((folder / "06_ablation/oracle_map-s0/done.json").read_text())
    assert "label maps" in record["skipped"]
    assert np.load(folder / BASELINE / "restored_test.npy").shape == (16, 64, 64, 3)
