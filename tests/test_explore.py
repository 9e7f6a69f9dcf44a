"""The laboratories of notebook 09: what is computed, what they show, and how they complain."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from s3e.blur import blur_batch, exposed, psf, trajectories
from s3e.data.scenes import make_split
from s3e.evaluation.images import psnr
from s3e.explore import widgets
from s3e.explore.widgets import RANGES, Examples, Laboratory, expose, preset
from s3e.inference import Restorer
from s3e.report import photos
from s3e.utils import S3EError, rng

SCENES = {scene.id: scene.image for scene in make_split("test", 3)}
FIRST, SECOND, THIRD = SCENES


@pytest.fixture(scope="module")
def examples():
    torch.set_num_threads(1)
    return Examples(Restorer.load(), SCENES)


def put(lab, **values):
    """Give controls new values; the page's HTML after that."""
    for name, value in values.items():
        lab.controls[name].value = value
    return lab.page.value


def drawings(html):
    """The drawings of a page, coded."""
    return re.findall(r'src="data:image/png;base64,(.*?)"', html)


def test_every_control_has_a_name_and_a_mistake_becomes_a_line(examples):
    labs = (
        widgets.blur_lab(SCENES[FIRST]),
        widgets.tree_lab(examples),
        widgets.compare(examples),
        widgets.own_photo(examples.restorer),
    )
    for lab in labs:
        assert all(control.description for control in lab.children[:-1])
        assert "alert" not in lab.page.value

    def make(a):
        if a == 3:
            raise S3EError("file <x> is broken: restore it.")
        return "1 < 2", photos.sheet({"a": [SCENES[FIRST]]})

    lab = Laboratory(make, a=(1, 3))
    assert "1 &lt; 2" in lab.page.value and len(drawings(lab.page.value)) == 1
    assert put(lab, a=3) == '<p role="alert">file &lt;x&gt; is broken: restore it.</p>'
    assert "alert" not in put(lab, a=1)


def test_examples_are_blurred_as_in_the_study_and_restored_by_the_restorer(examples):
    blur, sharp = examples.restorer.config.blur, np.stack(list(SCENES.values()))
    study = blur_batch(sharp, list(SCENES), "severe", blur.seed, blur.gamma, blur.noise)[0]
    table = examples.table()
    assert len(table) == 9
    for name, blurred in zip(SCENES, study, strict=True):
        assert (examples.image(name, "severe", "blurred") == blurred).all()
        assert (examples.image(name, "sharp", "blurred") == SCENES[name]).all()
    labels = {"baseline": "baseline (no semantics)", "full": "S3E-Deblur (full)"}
    for variant, label in labels.items():
        restored = examples.restorer.restore(study[0], variant)
        assert (examples.image(FIRST, "severe", variant) == restored).all()
        assert table["PSNR", label][FIRST, "severe"] == psnr(restored, SCENES[FIRST])


# The blur laboratory


def test_an_exposure_is_what_path_and_convolution_give():
    photo = SCENES[FIRST]
    found = expose(photo, length=0.7, exploration=0.005, exposure=0.5, seed=3)
    path = trajectories(1, 0.7 * 64, 0.005, rng("laboratory", 3))[0]
    assert np.array_equal(found.path, path) and found.seen == len(exposed(path, 0.5))
    np.testing.assert_array_equal(found.kernel, psf(path, 0.5))
    assert psnr(found.blurred, photo) < 30
    straight = expose(np.tile(photo, (1, 2, 1)), **preset("moderate") | {"exploration": 0.0}).path
    assert abs(straight[-1] - straight[0]) == pytest.approx(32), "length counts in shorter sides"


@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("shape", [(64, 100), (33, 48)])
def test_the_ends_of_all_ranges_work_at_any_shape(shape, end):
    photo = np.ascontiguousarray(np.resize(SCENES[FIRST], (*shape, 3)))
    ends = {name: bounds[end] for name, bounds in RANGES.items()}
    found = expose(photo, **ends)
    assert found.blurred.shape == photo.shape and found.kernel.sum() == pytest.approx(1)
    assert f"{psnr(found.blurred, photo):.2f} dB" in put(widgets.blur_lab(photo), **ends)


# Photos, sharp and blurred


@pytest.mark.parametrize(("severity", "reader"), [("sharp", "captioner"), ("severe", "full")])
def test_a_photo_shows_what_is_read_in_it(examples, monkeypatch, severity, reader):
    drawn, draw = [], photos.node_attention
    monkeypatch.setattr(
        photos, "node_attention", lambda *given: drawn.append(given) or draw(*given)
    )
    html = put(widgets.tree_lab(examples), photo=THIRD, severity=severity, read_by=reader)
    seen = examples.image(THIRD, severity, "blurred")
    reading = examples.restorer.read(seen, reader)
    assert f"Caption: {reading.caption}" in html and len(drawings(html)) == 2
    [image], [looks], [labels], _ = drawn[-1]
    assert (image == seen).all() and (looks == reading.attention).all()
    for ranking, text in zip(reading.rankings, labels, strict=True):
        assert text.split("\n")[0] == f"{ranking[0][0]} {ranking[0][1]:.0%}"


def test_the_border_parts_left_from_right(examples, monkeypatch):
    drawn, draw = [], photos.sheet
    monkeypatch.setattr(
        photos, "sheet", lambda columns, **more: drawn.append(columns) or draw(columns, **more)
    )
    lab = widgets.compare(examples)
    blurred, sharp = (examples.image(FIRST, "severe", view) for view in ("blurred", "sharp"))
    for border, column in ((0, 0), (50, 32), (100, 64)):
        html = put(lab, border=border)
        [both] = drawn[-1]["before and after"]
        assert (both[:, :column] == blurred[:, :column]).all()
        assert (both[:, column:] == sharp[:, column:]).all()
    assert f"Left: blurred input, {psnr(blurred, sharp):.2f} dB. Right: sharp" in html


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


def test_effects_are_means_over_the_examples(examples):
    table = widgets.effects(examples, "severe")
    gains = [widgets.changes(examples, name, "severe")["all nodes off"][1] for name in SCENES]
    assert table["mean"]["all nodes off"] == pytest.approx(np.mean(gains))
    assert (table["max"][["all nodes off", "tree of another"]] < -0.2).all()


# A photo of one's own


def test_a_path_is_read_restored_and_a_bad_one_is_a_line(examples, tmp_path):
    own = widgets.own_photo(examples.restorer)
    assert "No photo yet" in own.page.value
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    wide = np.tile(SCENES[FIRST], (1, 2, 1))[:50, :101]
    Image.fromarray(wide).save(tmp_path / "a scene.png", exif=exif)
    html = put(own, path=f'"{tmp_path / "a scene.png"}" ')
    assert examples.restorer.read(np.rot90(wide, -1)).caption in html
    assert "a scene.png: 50 x 101" in html and "turned by EXIF" in html
    assert len(drawings(html)) == 2
    assert drawings(put(own, blur_it_first="severe"))[0] != drawings(html)[0]
    (tmp_path / "<cut>.png").write_bytes(b"\x89PNG\r\n")
    for name, says in (("<cut>.png", "&lt;cut&gt;.png: not a photo"), ("none.png", "not there")):
        html = put(own, path=str(tmp_path / name))
        assert says in html and 'role="alert"' in html
