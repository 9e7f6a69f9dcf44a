# ruff: noqa
"""A training as the notebooks show it: live curves, samples as they improve, what each loss term does."""

import pytest

pytest.skip("follows the rewrite of s3e.report", allow_module_level=True)

import time

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient

from s3e.report import curves, live
from s3e.utils import S3EError

CELL = """
import pandas as pd
from s3e.report import live
with live.follow({folder!r}, "toy", every={every}) as watch:
    print("going on")
    for step in {steps}:
        pd.DataFrame({{"step": range(1, step + 1), "pixel": 1.0}}).to_csv({folder!r} + "/log_toy.csv", index=False)
        watch(step)
"""


def write_log(folder, *rows):
    pd.DataFrame(rows, columns=["step", "pixel", "critic"]).to_csv(
        folder / "log_toy.csv", index=False
    )


def test_a_notebook_keeps_one_picture_of_the_whole_log(tmp_path):
    cells = [
        CELL.format(folder=str(tmp_path), every=0.0, steps=[2, 3, 4]),
        CELL.format(folder=str(tmp_path), every=0.0, steps=[]),
    ]  # finished: it is only loaded
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(book, timeout=60, kernel_name="python3").execute()
    for cell in book.cells:
        told, *pictures = cell.outputs
        assert told.text == "going on\n" and len(pictures) == 1
    running, loaded = (cell.outputs[1].data["image/png"] for cell in book.cells)
    assert running == loaded, "the last picture shows all of the log"


@pytest.mark.parametrize(("takes", "drawn"), [(0.0, 20), (0.5, 4)])
def test_drawing_is_seldom_enough(tmp_path, monkeypatch, takes, drawn):
    clock, count = [0.0], []

    def draw(self):
        clock[0] += takes
        count.append(1)

    monkeypatch.setattr(live._Live, "draw", draw)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    with live.follow(tmp_path, "toy", every=5.0) as watch:
        for step in range(100):
            clock[0] += 1.0
            watch(step)
        assert len(count) == drawn and takes * len(count) <= 0.02 * clock[0] + takes
    assert len(count) == drawn + 1


def test_outside_notebooks_nothing_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "losses", lambda *_: pytest.fail("drawn"))
    write_log(tmp_path, (1, 2.0, 3.0))
    with live.follow(tmp_path, "toy", every=0.0) as watch:
        watch(1)


def test_a_failing_training_shows_its_own_error(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "_in_notebook", lambda: True)  # and there is no log yet
    with pytest.raises(S3EError, match="diverged"), live.follow(tmp_path, "toy"):
        raise S3EError("diverged.")


def test_log_carries_the_validation_score(tmp_path):
    write_log(tmp_path, (10, 3.0, 1.0), (20, 2.0, 1.0), (30, 1.0, 1.0))
    assert list(live.read_log(tmp_path, "toy").columns) == ["step", "pixel", "critic"]
    pd.DataFrame({"step": [15, 30], "score": [21.0, 22.0]}).to_csv(
        tmp_path / "validation_toy.csv", index=False
    )
    figure = curves.losses(live.read_log(tmp_path, "toy"))
    lines = {
        axes.get_title(loc="left"): axes.lines[0].get_xydata().tolist() for axes in figure.axes
    }
    assert lines["validation"] == [[15, 21], [30, 22]]
    assert lines["pixel"] == [[10, 3], [20, 2], [30, 1]]
    assert [axes.get_ylabel() for axes in figure.axes] == ["weighted loss", "", "PSNR (dB)"]
    semantic = curves.losses(live.read_log(tmp_path, "toy").rename(columns={"pixel": "caption"}))
    assert semantic.axes[-1].get_ylabel() == "− sum of losses"


def test_titles_of_six_losses_are_not_cut():
    terms = ("pixel", "adversarial", "tree", "caption", "critic", "validation score")
    figure = curves.losses(pd.DataFrame({"step": [20, 600], **dict.fromkeys(terms, [0.1, 10.0])}))
    figure.draw_without_rendering()
    assert max(axes.get_tightbbox().x1 for axes in figure.axes) <= figure.bbox.x1


def test_snapshots_are_those_of_one_training_in_order(tmp_path):
    (tmp_path / "progress").mkdir()
    for name, step in (("toy", 30), ("toy", 0), ("toy_a2", 5)):
        np.savez(
            tmp_path / "progress" / f"{name}_{step:07d}.npz",
            restored=np.full((2, 8, 8, 3), step, np.uint8),
        )
    found = live.snapshots(tmp_path, "toy")
    assert list(found) == [0, 30] and found[30]["restored"].max() == 30
    with pytest.raises(S3EError, match="no samples of the training 'other'"):
        live.snapshots(tmp_path, "other")


def test_pictures_of_progress_name_their_updates():
    generator = np.random.default_rng(0)
    images = {
        name: generator.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
        for name in ("blurred", "sharp")
    }
    moments = {step: {**images, "restored": images["sharp"] // 2} for step in (0, 8, 80)}
    titles = [axes.get_title() for axes in curves.restorations(moments).axes[:5]]
    assert titles == ["blurred input", "update 0", "update 8", "update 80", "sharp"]
    maps = {step: generator.dirichlet(np.ones(64), 7).reshape(7, 8, 8) for step in (0, 8)}
    names = [["dog"] * 7, ["cat"] * 7]
    figure = curves.readings(images["sharp"][0], maps, names, ["cat"] * 7)
    texts = [axes.texts[0].get_text() for axes in figure.axes]
    assert texts == ["update 0", *["✗ dog\n(cat)"] * 7, "update 8", *["cat"] * 7]


def test_direction_is_scaled_around_grey():
    wish = np.zeros((1, 4, 4, 3))
    wish[0, 0, 0] = [3e-6, -3e-6, 0]
    image = np.zeros((1, 4, 4, 3), np.uint8)
    middle = curves.directions(image, {"pixel": wish}, image).axes[1]
    assert middle.get_title() == "pixel loss"
    assert middle.images[0].get_array()[0, 0].tolist() == pytest.approx([1, 0, 0.5])
    assert middle.images[0].get_array()[1, 1].tolist() == pytest.approx([0.5, 0.5, 0.5])
