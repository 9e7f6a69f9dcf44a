"""Where figures come from: the manifest, the check of edited files, filled documents."""

import json
import re
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from PIL import Image

from s3e import __main__ as command_line
from s3e.config import load_config
from s3e.report import manifest as manifests
from s3e.report import style, tables
from s3e.report.manifest import Manifest
from s3e.utils import ROOT, S3EError, write_file

WANTED = ("findings", "headline", "tableA1_definitions")
RUNS = ("01_data_blurring/all", "06_ablation/baseline-s0", "05_co_training/full-s0")


@style.styled
def drawn(height: float) -> plt.Figure:
    """A figure for a test."""
    figure, axes = plt.subplots(figsize=(1, 1))
    axes.bar([0], [height])
    return figure


def tabled(value: float) -> tables.Table:
    """A table for a test."""
    frame = pd.DataFrame({"variant": ["full"], "PSNR": [f"{value:.2f}"]})
    return tables.Table("tableA1_definitions", "Made up.", frame, frame, ("A note.",))


def make(folder: Path, store: Path, value: float = 17.5) -> Path:
    """A folder of figures: figure 1 from the data alone, figure 4 from two variants, table 4 from
    07.
    """
    evaluation, paths = store / "07_evaluation" / "all", [store / run for run in RUNS]
    origin = {"commit": "abc", "dirty": False, "data": {"source": "scenes", "fingerprint": None}}
    write_file(evaluation / "provenance.json", origin)
    write_file(paths[0] / "provenance.json", origin)
    manifest = Manifest(folder, load_config("smoke"), evaluation, paths[0])
    manifest.draw("fig1_severities", drawn, paths[:1], value)
    manifest.draw("fig4_results", drawn, paths[1:], value)
    manifest.add(tables.write(tabled(value), folder), "Made up.", [evaluation])
    write_file(folder / "findings.json", [["levels", "It is high."], ["shuffled", "It is read."]])
    manifest.add([folder / "findings.json"], "What the study found.", [evaluation])
    manifest.write()
    plt.close("all")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    return make(root / "smoke", root / "store" / "smoke")


@pytest.fixture
def folder(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "smoke"))


def checked(capsys, *words: str) -> tuple[int, str]:
    code = command_line.main(["report", "check", *words])
    return code, capsys.readouterr().out


def test_manifest_ties_each_file_to_runs_and_data(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = manifest["files"]["fig4_results.png"]
    assert entry["runs"] == [f"smoke/{run}" for run in RUNS[1:]]
    assert entry["about"] == "A figure for a test."
    assert manifest["source_commit"] == "abc"
    assert manifest["data"] == {"source": "scenes", "fingerprint": None}
    assert manifest["settings"]["train_c"]["steps"] == 8


def test_drawn_again_every_byte_is_the_same(folder, made, tmp_path):
    again = make(folder, tmp_path / "smoke2" / "smoke")
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in made.iterdir()
    }


def test_untouched_files_pass(folder, capsys):
    code, said = checked(capsys, str(folder))
    assert code == 0 and "0 edited or missing" in said


def edit_pixel(path: Path) -> None:
    picture = Image.open(path)
    picture.putpixel((3, 3), (1, 2, 3, 255))
    picture.save(path)


def replace(old: str, new: str):
    return lambda path: path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("name", "edit", "word"),
    [
        ("fig4_results.png", edit_pixel, "edited"),
        ("tableA1_definitions.md", replace("17.50", "17.60"), "edited"),
        ("tableA1_definitions.csv", replace("17.50", "17.51"), "edited"),
        ("findings.json", replace("high", "low"), "edited"),
        ("fig1_severities.pdf", Path.unlink, "missing"),
        ("fig99_extra.png", lambda path: path.write_bytes(b"x"), "not in manifest.json"),
    ],
)
def test_an_edited_missing_or_unknown_file_is_named(folder, capsys, name, edit, word):
    edit(folder / name)
    code, said = checked(capsys, str(folder))
    assert code == 1 and f"{folder / name}: {word}" in said and said.count("\n") == 2


def test_documents_are_filled_and_checked(folder, capsys, monkeypatch, tmp_path):
    root = tmp_path / "root"
    monkeypatch.setattr(manifests, "FIGURES", root / "figures")
    monkeypatch.setattr(manifests, "ROOT", root)
    with pytest.raises(S3EError, match="holds no published figures"):
        manifests.check()
    shutil.copytree(folder, root / "figures" / "study")
    blocks = [f"<!-- results: study/{what} -->\nold\n<!-- end -->\n" for what in WANTED]
    (root / "README.md").write_text("\n".join(["# A title\n", *blocks]))
    code, said = checked(capsys)
    assert code == 1 and "README.md: its results are not those of figures/" in said
    assert manifests.fill() == 0 and checked(capsys)[0] == 0
    text = (root / "README.md").read_text()
    assert "17.50" in text and "origin" not in text and "old" not in text
    assert text.count("It is high.") == 2 and text.count("It is read.") == 1
    (root / "figures" / "study" / "tableA1_definitions.md").unlink()
    with pytest.raises(S3EError, match="tableA1_definitions.md is missing"):
        manifests.fill()


def test_committed_figures_are_as_they_were_made(capsys):
    assert checked(capsys)[0] == 0


def test_published_folders_are_those_that_git_does_not_ignore():
    kept = set(re.findall(r"^!/figures/(\w+)/$", (ROOT / ".gitignore").read_text(), re.M))
    assert set(manifests.PUBLISHED) <= kept
