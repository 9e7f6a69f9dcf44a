"""The blur laboratory and the tree browser: what they compute, what their widgets show, and their static figures."""

import io
import re
from dataclasses import replace
from html import unescape
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from s3e.blur import SEVERITIES, blur_image, exposed, extent, psf, trajectories
from s3e.data.scenes import make_split
from s3e.evaluation.images import psnr
from s3e.explore import markup, pictures
from s3e.explore.blurlab import OWN, PRESET, RANGES, BlurLab, Settings, expose, preset
from s3e.explore.treebrowser import READERS, TreeBrowser, parsed, spoken
from s3e.inference import Restorer
from s3e.report import photos as laboratory
from s3e.report.diagram import NODE_NAMES
from s3e.report.style import save
from s3e.utils import S3EError, rng

LABELS = ("man", "null", "fire_hydrant", "<b>&", "null", "next_to", "ride")


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def words(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", " ", html))


@pytest.fixture(scope="module")
def scenes():
    return make_split("test", 3, size=64)


@pytest.fixture(scope="module")
def photo(scenes):
    return scenes[0].image


@pytest.fixture(scope="module")
def restorer():
    return Restorer.load()


@pytest.fixture
def lab(photo):
    return BlurLab(photo)


@pytest.fixture
def browser(restorer, scenes):
    return TreeBrowser(
        restorer, {s.id: s.image for s in scenes}, {s.id: s.captions for s in scenes}
    )


# markup


def test_a_tree_is_valid_svg_with_every_label_and_probability():
    shares = [0.9, 0.5, 1.0, 0.123, 0.3, 0.4, 0.55]
    root = ElementTree.fromstring(markup.tree(LABELS, shares))
    said = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    for label in ("man", "∅", "fire hydrant", "<b>&", "next to", "ride", *NODE_NAMES):
        assert label in said
    assert [text for text in said if "%" in text] == [
        "90 %",
        "50 %",
        "100 %",
        "12 %",
        "30 %",
        "40 %",
        "55 %",
    ]
    assert root.get("aria-label").startswith("leaf 1: man 90 %; leaf 2: ∅ 50 %")
    assert not [text for text in words(markup.tree(LABELS)).split() if "%" in text]


def test_empty_slots_of_a_tree_are_faint_and_long_labels_are_cut_but_kept_whole_in_the_tooltip():
    long = "pneumonoultramicroscopic"
    svg = markup.tree((long, *["null"] * 6))
    assert svg.count("fill-opacity:0.22") == 1 and svg.count("fill-opacity:0.55") == 6
    assert "pneumonoultr…" in svg and f"<title>leaf 1: {long}</title>" in svg


def test_html_escapes_what_it_is_given_and_follows_the_theme():
    nasty = '<img src=x onerror="a">&'
    bars, table = markup.bars([nasty], [0.5]), markup.table(("a", nasty), [(nasty, 1.5)])
    for html in (
        markup.chips([nasty], [nasty]),
        bars,
        table,
        markup.line(nasty),
        markup.fault(nasty),
    ):
        assert "<img" not in html and nasty in words(html)
        assert "color:var(--jp-ui-font-color1" in html or "color:var(--jp-error-color1" in html
        ElementTree.fromstring(html)


def test_long_captions_show_their_first_words_and_how_many_follow():
    html = markup.tagged(["dog"] * 100, ["NOUN"] * 100)
    assert html.count(">dog<") == markup.WORDS and f"and {100 - markup.WORDS} more words" in html


def test_mistakes_are_shown_and_faults_of_the_code_are_shown_and_raised():
    place = SimpleNamespace(value="")
    with markup.reported(place):
        raise S3EError("file <x> is broken: restore it.")
    assert "file &lt;x&gt; is broken" in place.value and 'role="alert"' in place.value
    with pytest.raises(KeyError), markup.reported(place):
        raise KeyError("lost")
    assert "KeyError" in place.value
    with markup.reported(place):
        pass
    assert place.value == ""


# pictures


def test_png_keeps_every_pixel_and_the_order_of_colours(photo):
    np.testing.assert_array_equal(decoded(pictures.png(photo)), photo)
    np.testing.assert_array_equal(decoded(pictures.png(photo[..., 0])), photo[..., 0])


def test_small_pictures_show_their_pixels_and_large_ones_are_averaged(photo):
    np.testing.assert_array_equal(pictures.enlarged(photo, 256), photo.repeat(4, 0).repeat(4, 1))
    assert pictures.enlarged(photo[:32], 256).shape == (128, 256, 3)
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[::2] = 200
    assert (pictures.enlarged(stripes, 256) == 100).all()


@pytest.mark.parametrize("shape", [(64, 64), (40, 90), (600, 300)])
def test_a_photo_is_lit_where_the_node_looks_and_outlined_there(shape):
    grey = np.full((*shape, 3), 100, np.uint8)
    attention = np.full((4, 8), 0.001)
    attention[1, 6] = 1 - 0.031
    found = pictures.lit(grey, attention, 160)
    height, width = found.shape[:2]
    assert max(height, width) == 160
    assert found[int(height * 0.375), int(width * 0.8125)].tolist() == [100, 100, 100]
    assert found[-1, 0].tolist() == [40, 40, 40]
    rows, columns = np.nonzero((found == pictures.RIM).all(-1))
    assert abs(rows.mean() / height - 0.375) < 0.03 and abs(columns.mean() / width - 0.8125) < 0.03


def test_path_and_kernel_are_drawn_at_one_scale_around_one_centre():
    along = np.linspace(-20, 20, 2000) + 0j  # level, to the right
    window = pictures.window_for(along, 256)
    assert window == 65
    drawn = pictures.trajectory(along, 1000, window, 256)
    coloured = np.flatnonzero((drawn == pictures.PATH).all(-1).any(0))
    left, right = (128 + 256 * end / window for end in (-20, 20))
    assert 0 <= coloured.min() - left < 9  # behind the dot at the start
    assert abs(coloured.max() - 128) < 3  # half of the path
    hidden = np.flatnonzero(
        ((np.ptp(drawn, -1) == 0) & (drawn[..., 0] < 250)).any(0)
    )  # thin, so smoothed
    assert abs(hidden.max() - right) < 3
    shown = np.flatnonzero(pictures.kernel(psf(along), window, 256).sum(-1).max(0) > 200)
    assert abs(shown.min() - left) < 5 and abs(shown.max() - right) < 5


@pytest.mark.parametrize("reach,window", [(3, 17), (6.6, 33), (15, 65), (100, 257), (300, 513)])
def test_the_window_is_the_smallest_that_holds_the_path(reach, window):
    assert pictures.window_for(np.array([0, reach * 1j]), 256) == window


def test_spectra_share_the_scale_of_the_sharp_photo(photo):
    top = pictures.top(photo)
    blurred = expose(photo, preset("severe")).blurred
    sharp, soft = pictures.spectrum(photo, top), pictures.spectrum(blurred, top)
    assert sharp.max() > 240 and soft.mean() < sharp.mean() - 20
    assert pictures.spectrum(photo, top + 1).mean() < sharp.mean() - 20


# the blur laboratory


def test_an_exposure_is_what_camera_and_convolution_give(photo):
    settings = Settings(0.7, 0.005, 0.5, 0.02, 3)
    found = expose(photo, settings)
    path = trajectories(1, 0.7 * 64, 0.005, rng("laboratory", 3))[0]
    seen = exposed(path, 0.5)
    np.testing.assert_allclose(found.path, path - seen.mean())
    np.testing.assert_array_equal(found.kernel, psf(path, 0.5))
    blurred = blur_image(
        photo / np.float32(255), psf(path, 0.5), 1.0, 0.02, rng("laboratory noise", 3)
    )
    np.testing.assert_array_equal(found.blurred, np.rint(255 * blurred).astype(np.uint8))
    assert (found.seen, found.extent, found.psnr) == (
        1000,
        extent(seen),
        psnr(found.blurred, photo),
    )
    np.testing.assert_array_equal(expose(photo, settings).blurred, found.blurred)


def test_without_exploration_the_path_is_straight_and_as_long_as_asked(photo):
    for picture in (photo, np.tile(photo, (1, 2, 1))):  # length counts in shorter sides
        path = expose(picture, Settings(0.5, 0.0)).path
        assert abs(path[-1] - path[0]) == pytest.approx(32)


@pytest.mark.parametrize("shape", [(64, 64), (64, 100), (33, 48)])
@pytest.mark.parametrize("end", [0, 1])
def test_the_ends_of_all_ranges_work_at_any_shape(photo, shape, end):
    picture = np.ascontiguousarray(np.resize(photo, (*shape, 3)))
    found = expose(picture, Settings(**{name: RANGES[name][end] for name in RANGES}))
    assert found.blurred.shape == picture.shape and found.kernel.sum() == pytest.approx(1)
    lab = BlurLab(picture)
    for name, control in lab.controls.items():
        control.value = RANGES[name][end]
    assert lab.message.value == "" and f"{found.psnr:.2f} dB" in lab.text.value


def test_each_setting_does_what_its_name_says(photo):
    def score(**changed):
        return expose(photo, replace(preset("moderate"), **changed))

    assert score(length=0.9).psnr < score(length=0.2).psnr
    assert score(exposure=0.1).extent < score(exposure=1.0).extent
    assert score(noise=0.1).psnr < score(noise=0.0).psnr
    assert score(seed=1).extent != score(seed=2).extent


@pytest.mark.parametrize(
    "name,value", [("length", 0), ("exploration", -1), ("exposure", 0), ("noise", 2)]
)
def test_settings_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(S3EError, match=f"blur's {name} is {value}: choose a value from"):
        Settings(**{name: value})


@pytest.mark.parametrize(
    "wrong", [np.zeros((64, 64, 3)), np.zeros((64, 64), np.uint8), np.zeros((9, 9, 4), np.uint8)]
)
def test_a_wrong_photo_is_refused_when_the_laboratory_is_made(wrong):
    with pytest.raises(S3EError, match="give uint8"):
        BlurLab(wrong)


@pytest.mark.parametrize("name", SEVERITIES)
def test_a_preset_is_the_middle_of_its_severity(name, lab):
    found, severity = preset(name), SEVERITIES[name]
    assert found.length == severity.length_ratio
    assert found.exposure == {"light": 0.5}.get(name, 1.0)
    assert min(severity.explorations) <= found.exploration <= max(severity.explorations)
    lab.severity.value, chosen = OWN, []
    lab.severity.observe(lambda change: chosen.append(change.new), "value")
    lab.severity.value = name
    assert chosen == [name]  # it stays while the sliders move one after the other
    assert [lab.controls[n].value for n in PRESET] == [getattr(found, n) for n in PRESET]
    assert lab.severity.value == name and f"{lab.compute(found).psnr:.2f} dB" in lab.text.value


def test_sliders_change_what_depends_on_them_and_leave_the_preset(lab):
    before = {name: view.value for name, view in lab.views.items()}
    lab.controls["noise"].value = 0.05
    after = {name: view.value for name, view in lab.views.items()}
    assert [name for name in before if before[name] != after[name]] == ["spectrum", "photo"]
    assert lab.severity.value == "moderate"  # a severity says nothing about noise
    lab.controls["exploration"].value += 1e-9  # a browser sends a value back that it has rounded
    assert lab.severity.value == "moderate"
    lab.controls["length"].value = 0.9
    assert all(lab.views[name].value != after[name] for name in after) and lab.severity.value == OWN


def test_the_photo_that_is_shown_is_the_blurred_one(lab, photo):
    lab.controls["seed"].value = 5
    settings = Settings(**{name: control.value for name, control in lab.controls.items()})
    blurred = lab.compute(settings).blurred
    np.testing.assert_array_equal(
        decoded(lab.views["photo"].value), blurred.repeat(4, 0).repeat(4, 1)
    )
    assert all(control.description == name for name, control in lab.controls.items())


# the tree browser


def test_a_typed_caption_shows_its_parts_of_speech_and_its_tree(browser):
    browser.caption.value = "a man rides a horse next to a fire hydrant"
    said = words(browser.parse.value)
    for part in (
        "verb",
        "preposition",
        "article",
        "a man → man",
        "fire hydrant",
        "ride",
        "next to",
        "root",
    ):
        assert part in said
    before = browser.parse.value
    browser.caption.value = "a dog chases a cat"
    assert browser.parse.value != before and "chase" in words(browser.parse.value)


def test_a_picked_caption_is_the_one_that_is_parsed(browser, scenes):
    browser.picker.value = scenes[1].captions[2]
    assert browser.caption.value == scenes[1].captions[2]
    assert browser.parse.value == parsed(scenes[1].captions[2])


@pytest.mark.parametrize(
    "caption",
    ["", "   ", "🙂🙂", "xqzt", "and and of", "<script>alert(1)</script>", "a\x00b", "x" * 10_000],
)
def test_any_caption_is_answered_by_a_line_or_a_tree(browser, caption):
    browser.caption.value = caption
    assert browser.parse_message.value == "" and len(words(browser.parse.value)) > 10
    assert "<script" not in browser.parse.value


def test_ten_thousand_characters_are_cut_and_say_how_many_entities_have_no_room(browser):
    browser.caption.value = "a dog chases a cat " * 526
    said = words(browser.parse.value)
    assert re.search(r"\d{3,} more, for which the tree has no room", said) and "more words" in said
    assert said.count("→") == 4 and len(browser.parse.value) < 40_000


@pytest.mark.parametrize("severity", ["sharp", "light", "severe"])
@pytest.mark.parametrize("reader", READERS)
def test_a_photo_shows_what_the_restorer_reads_in_it(browser, restorer, scenes, severity, reader):
    browser.photo.value, browser.severity.value, browser.reader.value = (
        scenes[2].id,
        severity,
        reader,
    )
    seen = browser.view(scenes[2].id, severity)
    assert (seen == scenes[2].image).all() == (severity == "sharp")
    reading = restorer.read(seen, reader)
    np.testing.assert_array_equal(decoded(browser.seen.value), pictures.enlarged(seen))
    assert browser.tree.value == markup.tree(reading.nodes, reading.confidence)
    assert browser.words.value == spoken(reading, browser.word.value - 1)
    for node, (picture, guess) in enumerate(zip(browser.maps, browser.guesses, strict=True)):
        np.testing.assert_array_equal(
            decoded(picture.value), pictures.lit(seen, reading.attention[node], 160)
        )
        assert markup.percent(reading.confidence[node]) in guess.value
    assert browser.message.value == "" and browser.word.max == len(reading.words)


def test_the_word_slider_walks_through_the_caption(browser, scenes):
    reading = browser.reading(browser.photo.value, browser.severity.value)
    shown = set()
    for place in range(1, browser.word.max + 1):
        browser.word.value = place
        share = reading.word_attention[place - 1]
        assert browser.heard.value == markup.bars(NODE_NAMES, share)
        looked = np.einsum("k,khw->hw", share, reading.attention)
        seen = browser.view(browser.photo.value, browser.severity.value)
        apart = decoded(browser.listening.value).astype(int) - pictures.lit(seen, looked)
        assert np.abs(apart).max() <= 1 or (apart != 0).mean() < 0.01
        shown.add(browser.listening.value)
    assert len(shown) > 1


def test_a_reader_that_says_nothing_and_a_broken_one_are_told_in_a_line(
    browser, restorer, scenes, monkeypatch
):
    silent = replace(
        restorer.read(scenes[1].image), words=[], word_attention=np.zeros((0, 7), np.float32)
    )
    monkeypatch.setattr(Restorer, "read", lambda *_: silent)
    browser.photo.value = scenes[1].id
    assert (
        "says nothing" in browser.words.value
        and browser.heard.value == ""
        and browser.word.disabled
    )
    assert browser.listening.value == browser.seen.value and browser.message.value == ""

    def broken(*_):
        raise S3EError("weights.safetensors is damaged: restore it.")

    monkeypatch.setattr(Restorer, "read", broken)
    browser.photo.value = scenes[2].id
    assert "weights.safetensors is damaged" in browser.message.value


def test_a_browser_needs_no_captions_and_takes_photos_of_any_shape(restorer, photo):
    found = TreeBrowser(restorer, {"wide": np.tile(photo, (1, 3, 1))}, {})
    assert found.message.value == "" and "type a caption" in found.parse.value
    assert decoded(found.maps[0].value).shape == (53, 160, 3)


# static figures


def texts(figure):
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    return found + [axes.get_title(where) for axes in figure.axes for where in ("left", "center")]


def test_the_laboratory_s_figure_says_all_that_the_widget_says(photo, tmp_path):
    results = [expose(photo, preset(name)) for name in SEVERITIES]
    figure = laboratory.blur_laboratory(results)
    said = " | ".join(texts(figure))
    for result in results:
        for part in (
            result.settings,
            f"{result.window} px wide",
            f"{result.extent:.1f} px",
            f"{result.psnr:.2f} dB",
        ):
            assert str(part) in said
    np.testing.assert_array_equal(figure.axes[3].images[0].get_array(), results[0].blurred)
    assert len(figure.axes) == 12 and all(
        path.stat().st_size for path in save(figure, tmp_path, "laboratory")
    )
