"""The whole study at smoke size, run once for all tests here, and what a user then does with it."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
from safetensors.numpy import load_file

from s3e.utils import NOTEBOOKS, ROOT
from tests.conftest import PHOTOS
from tests.fixtures_data import write_gopro, write_karpathy, write_photos

PAIRS = PHOTOS.parent / "gopro_sample"

ARMS = [
    "05_co_training/full-s0",
    "06_ablation/baseline-s0",
    "06_ablation/oracle_map-s0",
    "06_ablation/shuffled-s0",
]


def run_all(environment, *arguments, profile="smoke"):
    command = [sys.executable, str(ROOT / "run_all.py"), "--profile", profile, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def test_every_stage_finished(smoke):
    records = list(smoke["runs"].glob("*/*/done.json"))
    assert len(records) == 14
    for path in records:
        provenance = json.loads((path.parent / "provenance.json").read_text())
        assert provenance["threads"] == 1 and provenance["packages"]["torch"].startswith("2.")


@pytest.mark.parametrize("arm", ARMS)
def test_arm_left_its_scores(smoke, arm):
    scores = pd.read_csv(smoke["runs"] / arm / "scores.csv")
    assert (
        len(scores) == 2 * 3 * 16 and scores[["psnr", "ssim", "psnr_blurred"]].notna().all().all()
    )
    assert scores.groupby("severity")["psnr_blurred"].mean().idxmin() == "severe"


def test_arms_were_scored_on_the_same_blurred_photos(smoke):
    tables = [pd.read_csv(smoke["runs"] / arm / "scores.csv") for arm in ARMS]
    for table in tables[1:]:
        assert (table["id"] == tables[0]["id"]).all() and (
            table["psnr_blurred"] == tables[0]["psnr_blurred"]
        ).all()


def test_executed_notebooks_show_pictures_and_no_errors(smoke):
    for path in smoke["runs"].glob("*/*/notebook.ipynb"):
        cells = [
            cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"
        ]
        outputs = [output for cell in cells for output in cell.outputs]
        assert not [output for output in outputs if output.output_type == "error"], path
        assert any("image/png" in output.get("data", {}) for output in outputs), path
        stray = [
            output
            for output in outputs
            if "<Figure" in str(output.get("data", {}).get("text/plain"))
        ]
        assert not stray, f"{path}: a figure is printed as text"


def test_links_of_executed_notebooks_lead_somewhere(smoke):
    for path in smoke["runs"].glob("*/*/notebook.ipynb"):
        targets = re.findall(r"\]\(([^)\s]+\.(?:ipynb|md))\)", path.read_text(encoding="utf-8"))
        assert targets and all((path.parent / target).resolve().is_file() for target in targets), (
            path
        )


def test_every_figure_and_table_is_there_and_listed(smoke):
    manifest = json.loads((smoke["figures"] / "manifest.json").read_text())
    files = {path.name for path in smoke["figures"].iterdir()} - {"manifest.json", "report.html"}
    assert files == set(manifest["files"])
    for number in (1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14, 15):
        assert {f".{kind}" for kind in ("png", "pdf")} == {
            p.suffix for p in smoke["figures"].glob(f"fig{number}_*")
        }
    for number in (1, 3, 4, 5, 6, 9, "A1"):
        assert {".csv", ".tex", ".md"} == {
            p.suffix for p in smoke["figures"].glob(f"table{number}_*")
        }
    assert {"numbers.csv", "numbers.md", "numbers.tex"} <= files


def test_tables_agree_with_the_scores(smoke):
    table = pd.read_csv(next(smoke["figures"].glob("table1_*.csv")))
    text = table.to_csv()
    scores = pd.read_csv(smoke["runs"] / ARMS[1] / "scores.csv").query(
        "split == 'test' and severity == 'severe'"
    )
    assert f"{scores['psnr'].mean():.2f}" in text


def test_deblur_first_then_caption_was_scored(smoke):
    scores = pd.read_csv(smoke["runs"] / "07_evaluation" / "all" / "caption_scores.csv")
    assert {"baseline -> tree", "full -> tree", "oracle_map -> tree"} <= set(scores["system"])


def test_a_second_run_finds_everything_fresh(smoke):
    again = run_all(smoke["env"])
    assert again.returncode == 0 and "start" not in again.stdout


def test_a_loss_weight_makes_only_its_dependents_run(smoke):
    status = run_all(smoke["env"], "--status", "--set", "loss.caption=0.5").stdout
    state = {line.split()[0]: line for line in status.splitlines() if "/" in line}
    for fresh in (
        "01_data_blurring/all",
        "02_train_s3_tree/s0",
        "04_train_deblurrer/s0",
        "06_ablation/baseline-s0",
    ):
        assert " fresh" in state[fresh], state[fresh]
    for stale in ("03_train_captioner/s0", "05_co_training/full-s0", "07_evaluation/all"):
        assert " fresh" not in state[stale], state[stale]
    assert "loss.caption 0.1 -> 0.5" in state["03_train_captioner/s0"]


def test_redrawn_files_are_byte_identical(smoke, tmp_path):
    shutil.copytree(smoke["figures"], tmp_path / "before")
    assert run_all(smoke["env"], "--only", "08", "--force").returncode == 0
    for path in (tmp_path / "before").iterdir():
        if path.name != "manifest.json":
            assert path.read_bytes() == (smoke["figures"] / path.name).read_bytes(), path.name


def test_papermill_by_hand_trains_one_arm(smoke, tmp_path):
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(NOTEBOOKS / "06_ablation.ipynb"),
        str(tmp_path / "out.ipynb"),
    ]
    command += [
        "-p",
        "profile",
        "smoke",
        "-p",
        "variant",
        "no_tree_loss",
        "-p",
        "seed",
        "0",
        "--no-progress-bar",
    ]
    done = subprocess.run(
        command, env=smoke["env"], capture_output=True, text=True, timeout=300, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    folder = smoke["runs"] / "06_ablation" / "no_tree_loss-s0"
    terms = pd.read_csv(folder / "log_cotrain.csv").columns
    assert (folder / "done.json").exists() and "caption" in terms and "tree" not in terms


def test_papermill_by_hand_names_a_missing_upstream(smoke, tmp_path):
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(NOTEBOOKS / "06_ablation.ipynb"),
        str(tmp_path / "out.ipynb"),
    ]
    command += [
        "-p",
        "profile",
        "smoke",
        "-p",
        "variant",
        "no_tree_loss",
        "-p",
        "seed",
        "7",
        "--no-progress-bar",
    ]
    done = subprocess.run(
        command, env=smoke["env"], capture_output=True, text=True, timeout=300, cwd=ROOT
    )
    assert (
        done.returncode != 0
        and "python run_all.py --profile smoke --seeds 7 --until 04" in done.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants", "fulll"], "unknown variant 'fulll'"),
        (["--set", "loss.captoin=1"], "unknown setting 'loss.captoin'"),
        (["--data", "no_such_folder"], "no_such_folder"),
        (["--only", "77"], "unknown stage '77'"),
        (
            ["--set", "loss.perceptual=100", "loss.vgg19_weights=vgg19-dcbb9e9d.pth"],
            "weights download vgg19-dcbb9e9d.pth",
        ),
    ],
)
def test_bad_input_is_one_sentence_before_any_kernel(smoke, arguments, message):
    done = run_all(smoke["env"], *arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and "start" not in done.stdout


def test_unwritable_store_is_said_at_once(tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    done = run_all({**os.environ, "S3E_RUNS": str(tmp_path / "runs")})
    assert done.returncode == 2 and "Traceback" not in done.stderr and "start" not in done.stdout


@pytest.fixture(scope="module")
def pairs(smoke, tmp_path_factory):
    """The pipeline on generated pairs, with tree and captioner of the smoke study: its folders and its output."""
    data = write_gopro(
        tmp_path_factory.mktemp("data") / "frames", subsets=("blur",), size=(120, 72)
    )  # 72 is no multiple of 16
    variants = ("baseline", "full", "oracle_map")
    done = run_all(
        smoke["env"],
        "--data",
        str(data),
        "--variants",
        *variants,
        "--set",
        "data.whole_frames=true",
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    runs, figures = (
        next(smoke[kind].parent.glob("smoke@frames+*")) for kind in ("runs", "figures")
    )
    return {"runs": runs, "figures": figures, "output": done.stdout}


def test_pairs_borrow_tree_and_captioner_from_the_finished_study(smoke, pairs):
    assert (
        "start  captioned:" not in pairs["output"]
        and f"come from {smoke['runs']}" in pairs["output"]
    )
    results = dict(re.findall(r"^(\S+/\S+) +(done|skipped|fresh) ", pairs["output"], re.M))
    skipped = {name for name, result in results.items() if result == "skipped"}
    taught = {"02_train_s3_tree/s0", "03_train_captioner/s0", "06b_semantic_fidelity/all"}
    assert skipped == taught | {"06_ablation/oracle_map-s0"}
    weights = [
        load_file(path)
        for path in (
            smoke["runs"] / "03_train_captioner/s0/tree_captioner.safetensors",
            pairs["runs"] / "05_co_training/full-s0/semantics.safetensors",
        )
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(
        np.array_equal(value, weights[1][name]) for name, value in weights[0].items()
    )  # frozen


def test_pairs_are_scored_as_released_and_severe(pairs):
    tables = [
        pd.read_csv(pairs["runs"] / arm / "scores.csv")
        for arm in ("05_co_training/full-s0", ARMS[1])
    ]
    assert (tables[0]["id"] == tables[1]["id"]).all()
    counts = tables[0].query("split == 'test'").severity.value_counts()
    assert counts.to_dict() == {
        "released": 6,
        "severe": 4,
    }  # the first and the last frame have no window of three
    log = pd.read_csv(pairs["runs"] / "05_co_training/full-s0/log_cotrain.csv")
    assert not {"tree", "caption"} & set(log.columns)


def test_pairs_have_table_2_and_figure_5(pairs):
    drawn = {path.stem for path in pairs["figures"].iterdir()} - {"manifest", "numbers", "report"}
    names = {
        "fig1_severities",
        "fig5_gopro",
        "fig8_gain_by_severity",
        "fig9_training",
        "fig14_seeds",
        "fig15_cost",
        "table2_gopro",
        "table4_ablation",
        "table9_gains",
        "tableA1_definitions",
    }
    assert drawn == names
    caption = (pairs["figures"] / "table2_gopro.md").read_text().splitlines()[0]
    assert all(
        words in caption
        for words in ("subset blur", "mean of 3", "variant B", "whole frames", "those of scenes")
    )


def metrics_of(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.glob("*/*/metrics.json"))
    }


@pytest.mark.slow
def test_one_job_and_two_jobs_give_the_same_numbers(smoke, tmp_path):
    environment = {
        **os.environ,
        "S3E_RUNS": str(tmp_path / "runs"),
        "S3E_FIGURES": str(tmp_path / "figures"),
    }
    assert run_all(environment, "--jobs", "1").returncode == 0
    again = metrics_of(tmp_path / "runs" / "smoke")
    assert again == {
        name: value for name, value in metrics_of(smoke["runs"]).items() if name in again
    }
    weights = [
        root / "05_co_training/full-s0/generator.safetensors"
        for root in (tmp_path / "runs/smoke", smoke["runs"])
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def kill_runner(process):
    process.kill()


def kill_kernel(process):
    family = psutil.Process(process.pid).children(recursive=True)
    next(
        child for child in family if any("ipykernel_launcher" in word for word in child.cmdline())
    ).kill()


@pytest.mark.slow
@pytest.mark.parametrize("kill", [kill_runner, kill_kernel])
def test_killed_in_co_training_it_goes_on_to_the_same_numbers(tmp_path, kill):
    environment = {
        **os.environ,
        "S3E_RUNS": str(tmp_path / "runs"),
        "S3E_FIGURES": str(tmp_path / "figures"),
    }
    long = ["--set", "train_c.steps=60", "--variants", "full", "--until", "05"]
    folder = tmp_path / "runs"
    command = [sys.executable, str(ROOT / "run_all.py"), "--profile", "smoke", *long]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: list(folder.glob("smoke*/05_co_training/full-s0/cotrain.ckpt")))
        kill(process)
        assert process.wait(60) != 0
    finally:
        process.kill()
    assert not list(folder.glob("smoke*/05_co_training/full-s0/done.json"))
    assert run_all(environment, *long).returncode == 0
    notebook = next(folder.glob("smoke*/05_co_training/full-s0/notebook.ipynb")).read_text()
    assert "cotrain: going on from update" in notebook
    unbroken = {**environment, "S3E_RUNS": str(tmp_path / "unbroken")}
    assert run_all(unbroken, *long).returncode == 0
    for name in (
        "metrics.json",
        "scores.csv",
        "log_cotrain.csv",
        "generator.safetensors",
        "semantics.safetensors",
    ):
        pair = [
            next(root.glob(f"smoke*/05_co_training/full-s0/{name}"))
            for root in (folder, tmp_path / "unbroken")
        ]
        assert pair[0].read_bytes() == pair[1].read_bytes(), name


def wait_for(condition, seconds=240):
    for _ in range(seconds * 20):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def write_plain(folder):
    return write_photos(folder, count=60)


@pytest.mark.slow
@pytest.mark.parametrize("write, captioned", [(write_karpathy, True), (write_plain, False)])
def test_other_layouts_go_through_the_same_pipeline(smoke, tmp_path, write, captioned):
    data = write(tmp_path / write.__name__)
    done = run_all(smoke["env"], "--data", str(data), "--variants", "baseline", "full")
    assert done.returncode == 0, done.stdout[-2000:]
    folder = smoke["runs"].with_name(f"smoke@{data.name}")
    assert (folder / "05_co_training/full-s0/captions.json").exists() is captioned
    figures = next(smoke["figures"].parent.glob(f"smoke@{data.name}+*"))
    assert (figures / "table1_deblurring.md").exists() and (
        figures / "table3_captioning.md"
    ).exists() is captioned


@pytest.mark.slow
@pytest.mark.skipif(not PAIRS.is_dir(), reason=f"no pairs at {PAIRS} (set S3E_PHOTOS)")
def test_real_pairs_go_through_the_same_pipeline(smoke):
    done = run_all(smoke["env"], "--data", str(PAIRS), "--set", "blur.frames=5")
    assert done.returncode == 0, done.stdout[-2000:]
    table = next(smoke["figures"].parent.glob("smoke@gopro_sample+*/table2_gopro.md")).read_text()
    assert "mean of 5" in table and "crops" in table
    mixed = run_all(smoke["env"], "--data", str(PAIRS), "--set", "data.whole_frames=true")
    assert mixed.returncode == 2 and "whole frames need one size" in mixed.stderr


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no captioned photos at {PHOTOS} (set S3E_PHOTOS)")
def test_photographs_go_through_the_same_pipeline(tmp_path):
    environment = {
        **os.environ,
        "S3E_RUNS": str(tmp_path / "runs"),
        "S3E_FIGURES": str(tmp_path / "figures"),
    }
    done = run_all(environment, "--data", str(PHOTOS))
    assert done.returncode == 0, done.stdout[-2000:]
    folder = tmp_path / "runs" / f"smoke@{PHOTOS.name}"
    assert (
        "label maps"
        in json.loads((folder / "06_ablation/oracle_map-s0/done.json").read_text())["skipped"]
    )
    assert np.load(folder / "06_ablation/baseline-s0/restored_test.npy").shape == (16, 64, 64, 3)
