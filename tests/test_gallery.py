# ruff: noqa
"""Photos chosen by rule (figures 11 and 12) and words over the photo (figure 13)."""

import pytest

pytest.skip("follows the rewrite of s3e.report", allow_module_level=True)

import numpy as np
import pandas as pd
import pytest

from s3e.evaluation.images import score_batch
from s3e.report import gallery
from s3e.report.gallery import (
    error_maps,
    failures,
    ladder,
    most,
    read_gallery,
    word_attention,
    word_maps,
)
from s3e.report.style import save
from s3e.utils import S3EError

ARMS = {
    "full": 0.5,
    "baseline": 0.3,
    "oracle_map": 0.9,
}  # how far each made-up arm goes from blurred to sharp


@pytest.fixture(scope="module")
def arms(corpus, tmp_path_factory):
    """Folders of three made-up arms; `full` is better than the baseline on all test photos but the last."""
    root, test = tmp_path_factory.mktemp("arms"), corpus.test
    folders = {}
    for name, share in ARMS.items():
        shares = np.full(len(test), share)
        shares[-1] = 0.1 if name == "full" else share
        mixed = test.blurred["severe"] + shares[:, None, None, None] * (
            test.sharp.astype(float) - test.blurred["severe"]
        )
        images = np.rint(mixed).astype(np.uint8)
        folders[name] = root / name
        folders[name].mkdir()
        np.save(folders[name] / "restored_test.npy", images)
        rows = {
            "split": "test",
            "severity": "severe",
            "id": test.ids,
            "psnr": score_batch(images, test.sharp)["psnr"],
        }
        others = pd.DataFrame(rows | {"severity": "light", "psnr": 0.0})
        table = pd.concat(
            [pd.DataFrame(rows).iloc[::-1], others, others.assign(split="val", severity="severe")]
        )
        table.to_csv(folders[name] / "scores.csv", index=False)
    return folders


@pytest.fixture(scope="module")
def kept(corpus, arms):
    return read_gallery(corpus.folder, arms, "severe")


def shown(axes):
    return [np.asarray(image.get_array()) for image in axes.images]


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_photos_and_scores_belong_together(corpus, arms, kept):
    assert list(kept.restored) == list(kept.psnr.columns) == ["baseline", "full", "oracle_map"]
    for name, images in kept.restored.items():
        np.testing.assert_allclose(
            kept.psnr[name], score_batch(np.asarray(images), corpus.test.sharp)["psnr"]
        )
    np.testing.assert_allclose(kept.gain, kept.psnr["full"] - kept.psnr["baseline"])
    np.testing.assert_allclose(kept.spread, np.abs(kept.gain))  # the true label maps do not count


def test_without_both_arms_or_their_photos_there_is_no_gallery(corpus, arms, tmp_path):
    assert (
        read_gallery(
            corpus.folder, {"full": arms["full"], "oracle_map": arms["oracle_map"]}, "severe"
        )
        is None
    )
    assert read_gallery(corpus.folder, arms | {"baseline": tmp_path}, "severe") is None


def test_photos_of_another_study_are_refused(corpus, arms, tmp_path):
    np.save(tmp_path / "restored_test.npy", np.zeros((2, 32, 32, 3), np.uint8))
    (tmp_path / "scores.csv").write_bytes((arms["full"] / "scores.csv").read_bytes())
    with pytest.raises(S3EError, match="did not restore the test photos"):
        read_gallery(corpus.folder, arms | {"full": tmp_path}, "severe")
    with pytest.raises(S3EError, match="did not restore the test photos"):
        read_gallery(corpus.folder, arms, "moderate")


def test_rules():
    values = np.array([1.0, 3.0, -2.0, 3.0, 0.0])
    assert most(values, 3) == [1, 3, 0] and most(-values, 2) == [2, 4] and len(most(values, 9)) == 5
    assert most(np.arange(100) % 2, 3) == [1, 3, 5]
    assert (
        ladder(values, 3) == [1, 0, 2]
        and ladder(values, 5) == [1, 3, 0, 4, 2]
        and len(ladder(values, 9)) == 5
    )


def test_failures_are_the_worst_and_the_most_disputed(kept):
    figure = failures(kept, count=2)
    rows = [*most(-kept.gain, 2), *most(kept.spread, 2)]
    assert rows[0] == len(kept.sharp) - 1 and kept.gain[rows[0]] < 0
    grid = np.array(figure.axes, dtype=object).reshape(4, 5)  # blurred, three arms, sharp
    for row, line in zip(rows, grid, strict=True):
        assert np.array_equal(shown(line[0])[0], kept.blurred[row])
        assert np.array_equal(shown(line[2])[0], kept.restored["full"][row])
        assert np.array_equal(shown(line[-1])[0], kept.sharp[row])
    words = [text for text in texts(figure) if "gain" in text or "apart" in text]
    assert (
        words[0] == f"gain −{-kept.gain[rows[0]]:.1f} dB"
        and words[2] == f"{kept.spread[rows[2]]:.1f} dB apart"
    )


def test_error_maps_share_one_scale(kept):
    figure = error_maps(kept, count=3)
    *cells, bar = figure.axes
    grid = np.array(cells, dtype=object).reshape(3, 5)  # sharp, blurred, three arms
    rows = ladder(kept.gain, 3)
    limits = {axes.images[0].get_clim() for axes in grid[:, 1:].ravel()}
    assert (
        len(limits) == 1
        and bar.get_xlim()[0] == 0
        and bar.get_xlim()[1] == pytest.approx(limits.pop()[1])
    )
    for row, line in zip(rows, grid, strict=True):
        assert np.array_equal(shown(line[0])[0], kept.sharp[row])
        error = np.abs(kept.restored["full"][row].astype(float) - kept.sharp[row]).mean(-1)
        np.testing.assert_allclose(shown(line[3])[0], error)


def test_words_look_where_the_nodes_look_that_they_hear():
    nodes = np.zeros((1, 7, 2, 2))
    nodes[0, :6, 0, 0] = nodes[0, 6, 1, 1] = 1
    words = np.array([[[0.25, 0, 0, 0, 0, 0, 0.75], [1, 0, 0, 0, 0, 0, 0]]])
    np.testing.assert_allclose(
        word_maps(words, nodes), [[[[0.25, 0], [0, 0.75]], [[1, 0], [0, 0]]]]
    )
    grid = np.arange(18.0).reshape(1, 2, 9)
    assert np.array_equal(word_maps(grid), grid.reshape(1, 2, 3, 3))


def test_every_word_has_its_map_and_its_node():
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (3, 32, 32, 3), np.uint8)
    words = np.full((3, 30, 7), 0.05)
    words[..., 2], words[1, 0, 2], words[1, 0, 6] = 0.7, 0.05, 0.7
    maps = word_maps(words, generator.random((3, 7, 16, 16)))
    long = " ".join(f"w{i}" for i in range(30))
    figure = word_attention(pictures, maps, ["a red ball", "dog", long], words)
    said = texts(figure)
    assert said[:6] == ["a", "leaf 3, 70%", "red", "leaf 3, 70%", "ball", "leaf 3, 70%"]
    assert said[6:8] == ["dog", "root, 70%"] and said[-2] == "w15 …" and "w16" not in said
    assert len(figure.axes) == 3 + 3 + 1 + gallery.LINE * gallery.LINES
    assert apart(figure)
    plain = word_attention(pictures, maps, ["", "two words", "x"], count=2)
    assert texts(plain) == ["two", "words"] and apart(plain)


def apart(figure):
    """Are all squares inside the figure, and does none hide another?"""
    places = [axes.get_position().bounds for axes in figure.axes]
    inside = all(x >= 0 and y >= 0 and x + w <= 1 and y + h <= 1 for x, y, w, h in places)
    return inside and len({(round(x, 3), round(y, 3)) for x, y, *_ in places}) == len(places)


def test_a_redraw_gives_the_same_bytes(kept, tmp_path):
    first, second = (
        [path.read_bytes() for path in save(error_maps(kept), tmp_path / place, "f")]
        for place in ("a", "b")
    )
    assert first == second
