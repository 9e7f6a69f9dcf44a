"""The laboratories of notebook 09: what is computed, what panels show, and how they complain."""

import io
from datetime import UTC, datetime

import ipywidgets
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
from s3e.utils import S3EError, rng

SCENES = {scene.id: scene.image for scene in make_split("test", 3)}
FIRST, SECOND, THIRD = SCENES


@pytest.fixture(scope="module")
def examples():
    torch.set_num_threads(1)
    return Examples(Restorer.load(), SCENES)


def shown(panel, title):
    """An image of a panel, as the browser gets it."""
    return np.asarray(Image.open(io.BytesIO(panel.images[title].value)).convert("RGB"))


def upload(name, content):
    """What `FileUpload` holds after a choice."""
    about = {
        "type": "image/png",
        "size": len(content),
        "last_modified": datetime(2020, 1, 1, tzinfo=UTC),
    }
    return ({"name": name, "content": memoryview(content), **about},)


def file(image, name, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, name.rpartition(".")[2].upper(), **options)
    return upload(name, buffer.getvalue())


# Panels


def test_a_panel_draws_once_for_several_values_and_shows_mistakes():
    calls = []

    def show(a, b):
        calls.append((a, b))
        if a == 3:
            raise S3EError("file <x> is broken: restore it.")
        return {"one": np.zeros((4, 8, 3), np.uint8)} if b else {1 / a: None}, f"{a} and {b}"

    controls = {name: ipywidgets.IntSlider(1, 0, 9, description=name) for name in "ab"}
    panel = widgets.Panel(show, {"one": 64, "two": 64}, controls)
    panel.set(a=2, b=5)
    assert calls == [(1, 1), (2, 5)] and panel.text.value == "2 and 5"
    assert shown(panel, "one").shape == (32, 64, 3) and panel.cells["two"].layout.display == "none"
    controls["a"].value = 3
    assert (
        "file &lt;x&gt; is broken" in panel.message.value and 'role="alert"' in panel.message.value
    )
    controls["a"].value = 4
    assert not panel.message.value
    controls["b"].value = 0
    with pytest.raises(ZeroDivisionError):
        controls["a"].value = 0
    assert "ZeroDivisionError" in panel.message.value


def test_every_control_has_a_name(examples):
    panels = (
        widgets.blur_lab(SCENES[FIRST]), widgets.caption_lab([]), widgets.tree_lab(examples),
        widgets.compare(examples), widgets.ablation(examples), widgets.own_photo(examples.restorer),
    )  # fmt: skip
    for panel in panels:
        assert len(panel.controls) >= 2 and not panel.message.value
        assert all(control.description for control in panel.controls.values())


# Examples


def test_an_example_is_blurred_as_in_the_study(examples):
    blur, images = examples.restorer.config.blur, np.stack(list(SCENES.values()))
    study = blur_batch(images, list(SCENES), "severe", blur.seed, blur.gamma, blur.noise)[0]
    for name, blurred in zip(SCENES, study, strict=True):
        assert (examples.blurred(name, "severe") == blurred).all()


def test_images_and_scores_are_those_of_the_restorer(examples):
    blurred, sharp = examples.blurred(FIRST, "severe"), SCENES[FIRST]
    table = examples.table()
    for variant, label in (("baseline", "baseline (no semantics)"), ("full", "S3E-Deblur (full)")):
        restored = examples.restorer.restore(blurred, variant)
        assert (examples.image(FIRST, "severe", variant) == restored).all()
        assert table["PSNR", label][FIRST, "severe"] == psnr(restored, sharp)
    wanted = np.clip(widgets.GAIN * np.abs(blurred.astype(int) - sharp), 0, 255)
    assert (examples.image(FIRST, "severe", "error: blurred") == wanted).all()
    assert not examples.image(FIRST, "severe", "error: sharp").any()
    assert list(table.index) == [(name, severity) for name in SCENES for severity in SEVERITIES]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("nobody", "severe", "full"), "unknown example 'nobody'; choose one of test-0-000000"),
        ((FIRST, "hard", "full"), "unknown severity 'hard'; choose one of light"),
        ((FIRST, "severe", "frozen"), "no variant 'frozen'"),
    ],
)
def test_unknown_names_are_told(examples, asked, says):
    with pytest.raises(S3EError, match=says):
        examples.image(*asked)
    with pytest.raises(S3EError, match="at least one photo"):
        Examples(examples.restorer, {})


# The blur laboratory


def test_an_exposure_is_what_path_and_convolution_give():
    photo = SCENES[FIRST]
    settings = {"length": 0.7, "exploration": 0.005, "exposure": 0.5, "noise": 0.0, "seed": 3}
    found = expose(photo, **settings)
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
    lab = widgets.blur_lab(photo)
    lab.set(**ends)
    assert not lab.message.value and f"{found.psnr:.2f} dB" in lab.text.value


@pytest.mark.parametrize(
    ("photo", "settings", "says"),
    [
        (SCENES[FIRST], {"length": 0}, "blur's length is 0: choose a value from"),
        (SCENES[FIRST], {"noise": 2}, "blur's noise is 2: choose a value from"),
        (np.zeros((64, 64, 3)), {}, "give uint8"),
        (np.zeros((64, 64), np.uint8), {}, "give uint8"),
    ],
)
def test_settings_out_of_range_and_wrong_photos_are_refused(photo, settings, says):
    with pytest.raises(S3EError, match=says):
        expose(photo, **settings)


def test_sliders_change_what_depends_on_them_and_buttons_set_severities():
    lab = widgets.blur_lab(SCENES[FIRST])
    before = {title: image.value for title, image in lab.images.items()}
    lab.controls["noise"].value = 0.05
    after = {title: image.value for title, image in lab.images.items()}
    assert [t for t in before if before[t] != after[t]] == ["log spectrum", "blurred photo"]
    buttons = {button.description: button for button in lab.widget.children[0].children}
    assert list(buttons) == list(SEVERITIES)
    buttons["severe"].click()
    chosen = {name: lab.controls[name].value for name in preset("severe")}
    assert chosen == preset("severe") and chosen["length"] == SEVERITIES["severe"].length_ratio
    assert all(lab.images[title].value != after[title] for title in after)


# The tree browser


def test_a_typed_caption_shows_its_entities_and_its_tree():
    lab = widgets.caption_lab(["a dog chases a cat", "a cup"])
    lab.controls["caption"].value = "a man rides a horse next to a fire hydrant"
    for part in ("a man → man", "fire hydrant", "ride", "next to"):
        assert part in lab.text.value
    before = lab.images["tree"].value
    lab.controls["pick"].value = "a cup"
    assert lab.controls["caption"].value == "a cup" and lab.images["tree"].value != before
    assert "Tree: cup, ∅" in lab.text.value


@pytest.mark.parametrize(
    ("caption", "answer"),
    [
        ("", "No words yet"),
        ("   ", "No words yet"),
        ("and and of", "none, so that it has no tree"),
        ("<script>alert(1)</script>", "Entities"),
        ("a\x00b", "Entities"),
        ("x" * 10_000, "No words yet"),
        ("a dog chases a cat " * 526, "more, for which the tree has no room"),
    ],
)
def test_any_caption_is_answered(caption, answer):
    lab = widgets.caption_lab([])
    lab.controls["caption"].value = caption
    assert answer in lab.text.value and not lab.message.value and "<script" not in lab.text.value


@pytest.mark.parametrize("severity", ["sharp", "severe"])
@pytest.mark.parametrize("reader", ["full", "captioner"])
def test_a_photo_shows_what_is_read_in_it(examples, severity, reader):
    lab = widgets.tree_lab(examples)
    lab.set(photo=THIRD, severity=severity, read_by=reader)
    seen = examples.image(THIRD, severity, "blurred")
    assert (seen == SCENES[THIRD]).all() == (severity == "sharp")
    reading = examples.restorer.read(seen, reader)
    assert lab.controls["word"].max == len(reading.words)
    for node in range(7):
        for label, share in reading.ranking(node):
            assert f"{widgets._name(label)} {share:.0%}" in lab.text.value
    pictures = set()
    for word in range(len(reading.words)):
        lab.controls["word"].value = word + 1
        assert f"[{reading.words[word]}]" in lab.text.value
        pictures.add(lab.images["where the word looks"].value)
    assert len(pictures) > 1 and not lab.message.value


# Before and after


def test_the_border_parts_left_from_right(examples):
    panel = widgets.compare(examples)
    blurred = examples.blurred(FIRST, "severe")
    panel.set(right="sharp", border=0)
    assert (shown(panel, "before and after")[::7, ::7] == SCENES[FIRST]).all()
    panel.set(border=100)
    assert (shown(panel, "before and after")[::7, ::7] == blurred).all()
    panel.set(border=50)
    half = shown(panel, "before and after")
    assert (half[:, 223:225] == 255).all()
    assert (half[::7, :217:7] == blurred[:, :31]).all()
    assert (half[::7, 231::7] == SCENES[FIRST][:, 33:]).all()
    panel.set(left="error: baseline", severity="light")
    score = examples.scores(FIRST, "light").PSNR["S3E-Deblur (full)"]
    assert "Left: error of baseline" in panel.text.value and f"{score:.2f}" in panel.text.value


# Changed trees


@pytest.fixture
def given(monkeypatch, examples):
    """The node maps of every later call of the generator."""
    seen, restore = [], examples.restorer.restore
    keep = lambda *words, **more: seen.append(more.get("maps")) or restore(*words, **more)  # noqa: E731
    monkeypatch.setattr(examples.restorer, "restore", keep)
    return seen


def test_the_generator_gets_zeros_for_what_is_off_and_the_rest_as_it_was(examples, given):
    own, other = (examples.reading(name, "severe").maps for name in (FIRST, SECOND))
    before, every = own.clone(), frozenset(range(7))
    outcome(examples, FIRST, "severe", Change(off=frozenset({1, 6})))
    outcome(examples, FIRST, "severe", Change(off=every))
    outcome(examples, FIRST, "severe", Change(tree_of=SECOND, off=frozenset({0})))
    some, none, borrowed = (maps for maps in given if maps is not None)
    assert not some[:, [1, 6]].any() and (some[:, [0, 2, 3, 4, 5]] == own[:, [0, 2, 3, 4, 5]]).all()
    assert not none.any() and not borrowed[:, 0].any()
    assert (borrowed[:, 1:] == other[:, 1:]).all() and (own == before).all()


def test_no_change_changes_nothing(examples):
    found = outcome(examples, FIRST, "severe", Change())
    assert (found.changed == examples.restored(FIRST, "severe", "full")).all() and found.gain == 0


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
    gains = [outcome(examples, n, "severe", Change(off=frozenset(range(7)))).gain for n in SCENES]
    assert table["mean"]["all nodes off"] == pytest.approx(np.mean(gains))
    assert (table["max"][["all nodes off", "tree of another"]] < -0.2).all()


def test_the_panel_does_what_its_controls_say(examples):
    panel = widgets.ablation(examples)
    image, difference = panel.images["changed tree"], f"difference x {2 * widgets.GAIN}"
    whole = image.value
    assert not shown(panel, difference).any()
    panel.controls["root"].value = False
    assert image.value != whole and shown(panel, difference).any()
    assert panel.text.value.count("<td>no</td>") == 1
    on, off = panel.widget.children[0].children
    off.click()
    assert panel.text.value.count("<td>no</td>") == 7
    on.click()
    assert image.value == whole
    panel.set(tree_of=THIRD)
    assert examples.reading(THIRD, "severe").caption in panel.text.value
    panel.set(tree_of="", swap="places", leaf=0, other=2)
    assert image.value != whole and not panel.message.value


# A photo of one's own


@pytest.fixture
def own(examples):
    return widgets.own_photo(examples.restorer)


def test_an_upload_is_read_and_restored(examples, own):
    own.controls["upload"].value = file(SCENES[FIRST], "scene.png")
    restored = examples.restorer.restore(SCENES[FIRST])
    assert (shown(own, "restored") == widgets.style.enlarged(restored, 272)).all()
    assert examples.restorer.read(SCENES[FIRST]).caption in own.text.value
    assert "64 x 64" in own.text.value and own.cells["blurred"].layout.display == "none"
    before = own.images["restored"].value
    own.set(variant="baseline")
    assert own.images["restored"].value != before
    own.set(severity="severe")
    assert "dB" in own.text.value and own.cells["blurred"].layout.display == ""


def test_it_is_saved_upright_with_what_the_file_said(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"  # turned, camera
    wide = np.tile(SCENES[FIRST], (1, 2, 1))[:50, :101]
    own.controls["upload"].value = file(wide, "wide.jpeg", exif=exif)
    target, save = own.widget.children[-2].children
    saved = own.widget.children[-1]
    assert target.value == "wide-restored.jpeg"
    save.click()
    assert "Saved as" in saved.value and read_photo("wide-restored.jpeg").pixels.shape == (
        101,
        50,
        3,
    )
    assert Image.open("wide-restored.jpeg").getexif()[0x010F] == "maker"
    save.click()
    assert "there already" in saved.value
    target.value = "x.txt"
    save.click()
    assert "not written as &#x27;.txt&#x27;" in saved.value


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (upload("<cut>.png", b"\x89PNG\r\n"), "&lt;cut&gt;.png: not a photo"),
        (file(np.zeros((8, 40, 3), np.uint8), "tiny.png"), "tiny.png: 40 x 8 pixels"),
        (file(np.zeros((9000, 9000), bool), "huge.png"), "huge.png: larger than 80 megapixels"),
    ],
)
def test_a_bad_upload_is_one_line_and_the_next_good_one_clears_it(own, item, says, tmp_path):
    own.controls["upload"].value = item
    assert says in own.message.value and "/tmp" not in own.message.value
    Image.fromarray(SCENES[SECOND]).save(tmp_path / "a scene.png")
    own.controls["path"].value = f'"{tmp_path / "a scene.png"}" '
    assert not own.message.value and "a scene.png: 64 x 64" in own.text.value
    own.controls["path"].value = str(tmp_path / "none.png")
    assert "none.png: not there" in own.message.value


def test_the_bar_follows_a_large_photo(own):
    bar, seen = own.widget.children[-3], []
    bar.observe(lambda change: seen.append(change.new / bar.max), "value")
    own.controls["upload"].value = file(np.tile(SCENES[FIRST], (1, 26, 1)), "long.png")
    assert seen and seen == sorted(seen) and seen[-1] == 1 and not own.message.value
