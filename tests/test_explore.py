"""The laboratories of notebook 09: what is computed, what they show, and how they complain."""

import base64
import io
import re
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from PIL import Image

from s3e.blur import SEVERITIES, blur_batch, exposed, extent, psf, trajectories
from s3e.data.scenes import make_split
from s3e.evaluation.images import psnr
from s3e.explore import widgets
from s3e.explore.widgets import RANGES, Change, Examples, expose, outcome, preset
from s3e.inference import Restorer, read_photo
from s3e.report import style
from s3e.utils import S3EError, rng

SCENES = {scene.id: scene.image for scene in make_split("test", 3)}
FIRST, SECOND, THIRD = SCENES
EVERY = frozenset(range(7))


@pytest.fixture(scope="module")
def examples():
    torch.set_num_threads(1)
    return Examples(Restorer.load(), SCENES)


def put(lab, **values):
    """Give controls new values, by their labels; the page's HTML after that."""
    controls = {control.description: control for control in lab.children[:-1]}
    for name, value in values.items():
        controls[name.replace("_", " ") if name not in controls else name].value = value
    return lab.result.data


def images(html):
    """The images of a page by title."""
    found = re.findall(r'alt="(.*?)" src="data:image/png;base64,(.*?)"', html)
    opened = {title: Image.open(io.BytesIO(base64.b64decode(data))) for title, data in found}
    return {title: np.asarray(image.convert("RGB")) for title, image in opened.items()}


def test_every_control_has_a_name_and_a_mistake_becomes_a_line(examples):
    labs = (
        widgets.blur_lab(SCENES[FIRST]).children[1],
        widgets.caption_lab([]),
        widgets.tree_lab(examples),
        widgets.compare(examples),
        widgets.ablation(examples),
        widgets.own_photo(examples.restorer),
    )
    for lab in labs:
        assert all(control.description for control in lab.children[:-1])

    def make(a):
        if a == 3:
            raise S3EError("file <x> is broken: restore it.")
        return widgets.page({"a <b>": np.zeros((4, 8, 3), np.uint8)}, "1 < 2", 64, "<hr>")

    lab = widgets.Laboratory(make, a=(1, 3))
    assert images(lab.result.data)["a &lt;b&gt;"].shape == (32, 64, 3)
    assert "1 &lt; 2" in lab.result.data and "<hr>" in lab.result.data
    assert put(lab, a=3) == '<div role="alert">file &lt;x&gt; is broken: restore it.</div>'
    assert "alert" not in put(lab, a=1)


# Examples


def test_examples_are_blurred_as_in_the_study_and_restored_by_the_restorer(examples):
    blur, sharp = examples.restorer.config.blur, np.stack(list(SCENES.values()))
    study = blur_batch(sharp, list(SCENES), "severe", blur.seed, blur.gamma, blur.noise)[0]
    table = examples.table()
    assert list(table.index) == [(name, severity) for name in SCENES for severity in SEVERITIES]
    for name, blurred in zip(SCENES, study, strict=True):
        assert (examples.image(name, "severe", "blurred") == blurred).all()
    labels = {"baseline": "baseline (no semantics)", "full": "S3E-Deblur (full)"}
    for variant, label in labels.items():
        restored = examples.restorer.restore(study[0], variant)
        assert (examples.image(FIRST, "severe", variant) == restored).all()
        assert table["PSNR", label][FIRST, "severe"] == psnr(restored, SCENES[FIRST])
    wanted = np.clip(widgets.GAIN * np.abs(study[0].astype(int) - SCENES[FIRST]), 0, 255)
    assert (examples.image(FIRST, "severe", "error: blurred") == wanted).all()
    assert not examples.image(FIRST, "severe", "error: sharp").any()


# The blur laboratory


def test_an_exposure_is_what_path_and_convolution_give():
    photo = SCENES[FIRST]
    found = expose(photo, length=0.7, exploration=0.005, exposure=0.5, seed=3)
    path = trajectories(1, 0.7 * 64, 0.005, rng("laboratory", 3))[0]
    seen = exposed(path, 0.5)
    np.testing.assert_allclose(found.path, path - seen.mean())
    np.testing.assert_array_equal(found.kernel, psf(path, 0.5))
    assert (found.seen, found.extent) == (len(seen), extent(seen))
    assert found.psnr == psnr(found.blurred, photo) < 30
    straight = expose(np.tile(photo, (1, 2, 1)), length=0.5, exploration=0.0).path
    assert abs(straight[-1] - straight[0]) == pytest.approx(32), "length counts in shorter sides"


@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("shape", [(64, 100), (33, 48)])
def test_the_ends_of_all_ranges_work_at_any_shape(shape, end):
    photo = np.ascontiguousarray(np.resize(SCENES[FIRST], (*shape, 3)))
    ends = {name: bounds[end] for name, bounds in RANGES.items()}
    found = expose(photo, **ends)
    assert found.blurred.shape == photo.shape and found.kernel.sum() == pytest.approx(1)
    assert f"{found.psnr:.2f} dB" in put(widgets.blur_lab(photo).children[1], **ends)


def test_sliders_change_what_depends_on_them_and_severities_set_them():
    start, lab = widgets.blur_lab(SCENES[FIRST]).children
    before, after = images(lab.result.data), images(put(lab, noise=0.05))
    changed = [title for title in before if (before[title] != after[title]).any()]
    assert changed == ["log spectrum", "blurred photo"]
    start.value = "severe"
    controls = {control.description: control.value for control in lab.children[:3]}
    assert controls == pytest.approx(preset("severe"), abs=1e-3)
    assert controls["length"] == SEVERITIES["severe"].length_ratio
    assert all((images(lab.result.data)[title] != after[title]).any() for title in after)


# Captions and trees


def test_a_typed_caption_shows_its_entities_and_its_tree():
    lab = widgets.caption_lab(["a dog chases a cat", "a cup"])
    html = put(lab, caption="a man rides a horse next to a fire hydrant")
    for part in ("a man → man", "fire hydrant", "ride", "next to"):
        assert part in html
    other = put(lab, caption="a cup")
    assert "Tree: cup, ∅" in other and other.split("alt=")[1] != html.split("alt=")[1]


@pytest.mark.parametrize(
    ("caption", "answer"),
    [
        ("", "No words yet"),
        ("🙂", "No words yet"),
        ("and and of", "none, so that it has no tree"),
        ("<script>alert(1)</script>", "Entities"),
        ("a\x00b", "Entities"),
        ("x" * 10_000, ""),
        ("a dog, a cat, " * 700, "more, for which the tree has no room"),
    ],
)
def test_any_caption_is_answered(caption, answer):
    html = put(widgets.caption_lab([]), caption=caption)
    assert answer in html and 'role="alert"' not in html and "<script" not in html


@pytest.mark.parametrize(("severity", "reader"), [("sharp", "captioner"), ("severe", "full")])
def test_a_photo_shows_what_is_read_in_it(examples, severity, reader):
    lab = widgets.tree_lab(examples)
    html = put(lab, photo=THIRD, severity=severity, read_by=reader)
    seen = examples.image(THIRD, severity, "blurred")
    assert (seen == SCENES[THIRD]).all() == (severity == "sharp")
    assert (images(html)["what is read"] == style.enlarged(seen, widgets.SMALL)).all()
    reading = examples.restorer.read(seen, reader)
    for node in range(7):
        for label, share in reading.rankings[node][:3]:
            assert f"{widgets._name(label)} {share:.0%}" in html
    for word in (1, 2, 24):
        spoken = reading.words[min(word, len(reading.words)) - 1]
        html = put(lab, word=word)
        assert f"[{spoken}]" in html and f"where “{spoken}” looks" in images(html)


# Before and after


def test_the_border_parts_left_from_right(examples):
    lab = widgets.compare(examples)
    blurred = examples.image(FIRST, "severe", "blurred")

    def at(border):
        return images(put(lab, right="sharp", border=border))["before and after"]

    assert (at(0)[::7, ::7] == SCENES[FIRST]).all() and (at(100)[::7, ::7] == blurred).all()
    half = at(50)
    assert (half[:, 223:225] == 255).all()
    assert (half[::7, :217:7] == blurred[:, :31]).all()
    assert (half[::7, 231::7] == SCENES[FIRST][:, 33:]).all()
    html = put(lab, left="error: baseline", severity="light")
    score = examples.scores(FIRST, "light").PSNR["S3E-Deblur (full)"]
    assert "Left: error: baseline" in html and f"{score:.2f}" in html


# Changed trees


def test_the_generator_gets_zeros_for_what_is_off_and_the_rest_as_it_was(examples, monkeypatch):
    given, restore = [], examples.restorer.restore
    keep = lambda *words, **more: given.append(more.get("maps")) or restore(*words, **more)  # noqa: E731
    own, other = (examples.reading(name, "severe").tree.maps for name in (FIRST, SECOND))
    before, intact = own.clone(), examples.image(FIRST, "severe", "full")
    monkeypatch.setattr(examples.restorer, "restore", keep)
    changed, _, gain = outcome(examples, FIRST, "severe", Change())
    assert (changed == intact).all() and gain == 0
    outcome(examples, FIRST, "severe", Change(off=frozenset({1, 6})))
    outcome(examples, FIRST, "severe", Change(off=EVERY))
    outcome(examples, FIRST, "severe", Change(tree_of=SECOND, off=frozenset({0})))
    _, some, none, borrowed = given
    assert not some[:, [1, 6]].any() and (some[:, [0, 2, 3, 4, 5]] == own[:, [0, 2, 3, 4, 5]]).all()
    assert not none.any() and not borrowed[:, 0].any()
    assert (borrowed[:, 1:] == other[:, 1:]).all() and (own == before).all()


def test_the_changes_are_all_there_and_their_effects_are_means(examples):
    found = widgets.changes(examples, FIRST, "severe")
    assert [found[words].off for words in list(found)[:7]] == [frozenset({n}) for n in range(7)]
    assert found["leaves off"].off | found["relations off"].off == found["all nodes off"].off
    assert found["tree of another"].tree_of == SECOND
    read = examples.reading(FIRST, "severe").nodes
    first, second = (read[leaf] for leaf in found["labels swapped"].leaves)
    assert first != second and "null" not in (first, second)
    table = widgets.effects(examples, "severe")
    assert list(table.index) == list(found)
    gains = [outcome(examples, name, "severe", Change(off=EVERY))[2] for name in SCENES]
    assert table["mean"]["all nodes off"] == pytest.approx(np.mean(gains))
    assert (table["max"][["all nodes off", "tree of another"]] < -0.2).all()


def test_the_panel_does_what_its_controls_say(examples):
    lab = widgets.ablation(examples)
    whole, difference = lab.result.data, f"difference x {2 * widgets.GAIN}"
    assert not images(whole)[difference].any() and "<td>no</td>" not in whole
    html = put(lab, root=False)
    assert images(html)[difference].any() and html.count("<td>no</td>") == 1
    assert put(lab, root=True) == whole
    assert examples.reading(THIRD, "severe").caption in put(lab, tree_of=THIRD)
    html = put(lab, tree_of="", swap="places", leaf=1, other=3)
    assert images(html)[difference].any() and "alert" not in html


# A photo of one's own


def upload(name, content):
    """What `FileUpload` holds after a choice."""
    about = {"size": len(content), "last_modified": datetime(2020, 1, 1, tzinfo=UTC)}
    return ({"name": name, "type": "image/png", "content": memoryview(content), **about},)


def file(image, name, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, name.rpartition(".")[2].upper(), **options)
    return upload(name, buffer.getvalue())


@pytest.fixture
def own(examples):
    return widgets.own_photo(examples.restorer)


def test_an_upload_is_read_restored_and_saved(examples, own, tmp_path):
    assert "No photo yet" in own.result.data
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"  # turned, camera
    wide = np.tile(SCENES[FIRST], (1, 2, 1))[:50, :101]
    html = put(own, upload=file(wide, "wide.png", exif=exif))
    upright = np.rot90(wide, -1)
    restored = examples.restorer.restore(upright)
    assert (images(html)["restored"] == style.enlarged(restored, 272)).all()
    assert examples.restorer.read(upright).caption in html
    assert "50 x 101" in html and "turned by EXIF" in html and "blurred" not in images(html)
    target = tmp_path / "new.jpg"
    assert f"Saved as {target}" in put(own, save_as=str(target))
    assert read_photo(target).pixels.shape == (101, 50, 3)
    assert Image.open(target).getexif()[0x010F] == "maker"
    again = put(own, variant="baseline")
    assert "new.jpg is there already" in again
    assert (images(again)["restored"] != images(html)["restored"]).any()
    assert "not written as &#x27;.txt&#x27;" in put(own, save_as="x.txt")
    html = put(own, save_as="", blur_it_first="severe")
    assert "restored" in html and "dB" in html and "blurred" in images(html)


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (upload("<cut>.png", b"\x89PNG\r\n"), "&lt;cut&gt;.png: not a photo"),
        (file(np.zeros((8, 40, 3), np.uint8), "tiny.png"), "tiny.png: 40 x 8 pixels"),
        (file(np.zeros((9000, 9000), bool), "huge.png"), "huge.png: larger than 80 megapixels"),
    ],
)
def test_a_bad_photo_is_one_line_and_the_next_good_one_clears_it(own, item, says, tmp_path):
    html = put(own, upload=item)
    assert says in html and "/tmp" not in html and 'role="alert"' in html
    Image.fromarray(SCENES[SECOND]).save(tmp_path / "a scene.png")
    html = put(own, path=f'"{tmp_path / "a scene.png"}" ')
    assert "a scene.png: 64 x 64" in html and "alert" not in html
    assert "none.png: not there" in put(own, path=str(tmp_path / "none.png"))
