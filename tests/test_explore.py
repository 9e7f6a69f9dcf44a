"""The laboratories of notebook 09: what is computed, what they show, and how they complain."""

import re

import numpy as np
import pytest
import torch

from s3e.blur import blur_batch, expose, exposed, psf, trajectories
from s3e.data.scenes import make_split
from s3e.evaluation.images import psnr
from s3e.explore import widgets
from s3e.explore.widgets import Examples, laboratory
from s3e.inference.restorer import Restorer
from s3e.report import sheets
from s3e.report.style import lit
from s3e.utils import S3EError, rng

SCENES = {scene.id: scene.image for scene in make_split("test", 3)}
FIRST, SECOND, THIRD = SCENES


@pytest.fixture(scope="module")
def examples():
    torch.set_num_threads(1)
    return Examples(Restorer.load(), SCENES)


def drawings(html):
    """The drawings of a page, coded."""
    return re.findall(r'src="data:image/png;base64,(.*?)"', html)


def test_a_laboratory_redraws_and_a_mistake_becomes_a_line():
    def draw(path_length, word):
        if path_length == 3:
            raise S3EError("file <x> is broken: restore it.")
        return f"{word} < 2", sheets.sheet({"a": [SCENES[FIRST]]})

    length, word, page = laboratory(draw, path_length=(1, 3), word=["1", "0"]).children
    assert (length.description, word.description) == ("path length", "word")
    assert "1 &lt; 2" in page.value and len(drawings(page.value)) == 1
    length.value = 3
    assert page.value == '<p role="alert">file &lt;x&gt; is broken: restore it.</p>'
    length.value, word.value = 1, "0"
    assert "0 &lt; 2" in page.value


def test_examples_are_blurred_as_in_the_study_and_restored_by_the_restorer(examples):
    blur, sharp = examples.restorer.config.blur, np.stack(list(SCENES.values()))
    study = blur_batch(sharp, list(SCENES), "severe", blur.seed, blur.gamma, blur.noise)[0]
    for name, blurred in zip(SCENES, study, strict=True):
        assert (examples.image(name, "severe", "blurred") == blurred).all()
        assert (examples.image(name, "sharp", "blurred") == SCENES[name]).all()
    for variant in ("baseline", "full"):
        restored = examples.restorer.restore(study[0], variant)
        assert (examples.image(FIRST, "severe", variant) == restored).all()


# The blur laboratory


def test_an_exposure_is_what_path_and_convolution_give():
    photo = SCENES[FIRST]
    found, seen, kernel, blurred = expose(photo, 0.7, exploration=0.005, exposure=0.5, seed=3)
    path = trajectories(1, 0.7 * 64, 0.005, rng("laboratory", 3))[0]
    assert np.array_equal(found, path) and seen == len(exposed(path, 0.5))
    np.testing.assert_array_equal(kernel, psf(path, 0.5))
    assert psnr(blurred, photo) < 30
    straight = expose(np.tile(photo, (1, 2, 1)), 0.5, exploration=0.0, exposure=1.0)[0]
    assert abs(straight[-1] - straight[0]) == pytest.approx(32), "length counts in shorter sides"


@pytest.mark.parametrize("ends", [(0.05, 0.0, 0.01, 0.0, 0), (1.0, 0.02, 1.0, 0.1, 99)])
@pytest.mark.parametrize("shape", [(64, 100), (33, 48)])
def test_the_ends_of_all_sliders_work_at_any_shape(shape, ends):
    photo = np.ascontiguousarray(np.resize(SCENES[FIRST], (*shape, 3)))
    settings = dict(zip(("length", "exploration", "exposure", "noise", "seed"), ends, strict=True))
    _, _, kernel, blurred = expose(photo, **settings)
    assert blurred.shape == photo.shape and kernel.sum() == pytest.approx(1)
    text, _ = widgets.shake(photo, **settings)
    assert f"{psnr(blurred, photo):.2f} dB" in text


# Photos, sharp and blurred


@pytest.fixture
def drawn(monkeypatch):
    """The columns of all sheets that are drawn."""
    columns, draw = [], sheets.sheet
    keep = lambda cells, *more, **named: columns.append(cells) or draw(cells, *more, **named)  # noqa: E731
    monkeypatch.setattr(sheets, "sheet", keep)
    return columns


@pytest.mark.parametrize(("severity", "reader"), [("sharp", "captioner"), ("severe", "full")])
def test_a_photo_shows_what_is_read_in_it(examples, drawn, severity, reader):
    text, *figures = examples.trees(THIRD, severity, reader)
    seen = examples.image(THIRD, severity, "blurred")
    reading = examples.restorer.read(seen, reader)
    assert text == f"Caption: {reading.caption}" and len(figures) == 2
    (image,), *nodes = drawn[0].values()
    assert (image == seen).all()
    for [(image, words)], ranking, looks in zip(
        nodes, reading.rankings, reading.attention, strict=True
    ):
        assert (image == lit(seen, looks)).all()
        label = ranking[0][0].replace("_", " ").replace("null", "∅")
        assert words.split("\n")[0] == f"{label} {ranking[0][1]:.0%}"


# Changed trees


def test_the_generator_gets_zeros_for_what_is_off_and_the_rest_as_it_was(examples, monkeypatch):
    given, restore = [], examples.restorer.restore
    keep = lambda photo, **more: given.append(more["maps"]) or restore(photo, **more)  # noqa: E731
    own, other = (examples.reading(name, "severe").tree.maps for name in (FIRST, SECOND))
    before, whole = own.clone(), examples.image(FIRST, "severe", "full")
    monkeypatch.setattr(examples.restorer, "restore", keep)
    found = widgets.changes(examples, FIRST, "severe")
    maps = dict(zip(found, given, strict=True))
    for words, off in {"leaf 2": [1], "leaves": range(4), "all nodes": range(7)}.items():
        kept = [node for node in range(7) if node not in off]
        assert not maps[f"{words} off"][:, list(off)].any()
        assert (maps[f"{words} off"][:, kept] == own[:, kept]).all()
    assert (maps["tree of another"] == other).all() and (own == before).all()
    for words, (image, gain) in found.items():
        assert (
            image == restore(examples.image(FIRST, "severe", "blurred"), maps=maps[words])
        ).all()
        assert gain == psnr(image, SCENES[FIRST]) - psnr(whole, SCENES[FIRST])


# A photo of one's own


def test_a_photo_is_restored_as_it_is_or_blurred_first(examples):
    photo = np.tile(SCENES[FIRST], (1, 2, 1))[:50, :101]
    own = Examples(examples.restorer, {"own photo": photo})
    text, restored, _ = own.restored("own photo", "no")
    assert text == f"Caption: {examples.restorer.read(photo).caption}" and len(restored.axes) == 3
    assert len(own.restored("own photo", "severe")[1].axes) == 4, "and the sharp one"
