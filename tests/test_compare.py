"""Notebook 09's comparison, changed trees and own photo: what is computed, what widgets show, and how they complain."""

import io
from datetime import UTC, datetime

import ipywidgets
import numpy as np
import pytest
import torch
from PIL import Image

from s3e.blur import SEVERITIES, blur_batch
from s3e.data.scenes import make_split
from s3e.evaluation.images import psnr
from s3e.explore import ablate
from s3e.explore.ablate import WHOLE, Ablation, Change, outcome, switches
from s3e.explore.compare import BORDER, Compare, composed
from s3e.explore.examples import GAIN, Examples
from s3e.explore.ownphoto import OwnPhoto, beside, processed, received
from s3e.inference import Restorer
from s3e.inference.photos import read_photo
from s3e.report import photos as comparison
from s3e.report.style import show
from s3e.utils import S3EError

NOW = datetime(2020, 1, 1, tzinfo=UTC)
SCENES = {scene.id: scene.image for scene in make_split("test", 3)}
FIRST, SECOND, THIRD = SCENES


@pytest.fixture(scope="module")
def examples():
    torch.set_num_threads(1)
    return Examples(Restorer.load(), SCENES)


@pytest.fixture
def given(monkeypatch, examples):
    """The node maps of every later call of the generator."""
    seen, restore = [], examples.restorer.restore
    monkeypatch.setattr(
        examples.restorer,
        "restore",
        lambda *words, **more: seen.append(more.get("maps")) or restore(*words, **more),
    )
    return seen


def controls(widget):
    """Everything in a widget that can be changed by hand."""
    found = (
        [widget]
        if hasattr(widget, "description") and not isinstance(widget, ipywidgets.HTML)
        else []
    )
    return found + [item for child in getattr(widget, "children", ()) for item in controls(child)]


def decoded(place):
    return np.asarray(Image.open(io.BytesIO(place.value)).convert("RGB"))


# ------------------------------------------------------------------------------------------------------- examples


def test_an_example_is_blurred_as_in_the_study(examples):
    blur, images = examples.restorer.config.blur, np.stack(list(SCENES.values()))
    study, _ = blur_batch(images, list(SCENES), "severe", blur.seed, blur.gamma, blur.noise)
    for name, blurred in zip(SCENES, study, strict=True):
        assert (examples.blurred(name, "severe") == blurred).all()


def test_pictures_and_scores_are_those_of_the_restorer(examples):
    blurred, sharp = examples.blurred(FIRST, "severe"), SCENES[FIRST]
    for arm in ("baseline", "full"):
        restored = examples.restorer.restore(blurred, arm)
        assert (examples.picture(FIRST, "severe", arm) == restored).all()
        assert examples.scores(FIRST, "severe").psnr[arm] == psnr(restored, sharp)
    assert examples.restored(FIRST, "severe", "full") is examples.restored(FIRST, "severe", "full")
    wanted = np.clip(GAIN * np.abs(blurred.astype(int) - sharp), 0, 255)
    assert (examples.picture(FIRST, "severe", "error:blurred") == wanted).all()
    assert not examples.picture(FIRST, "severe", "error:sharp").any()
    table = examples.table()
    assert list(table.index) == [(name, severity) for name in SCENES for severity in SEVERITIES]
    assert table["psnr", "blurred input"][FIRST, "severe"] == psnr(blurred, sharp)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("nobody", "severe", "full"), "unknown example 'nobody'; choose one of test-0-000000"),
        ((FIRST, "hard", "full"), "unknown severity 'hard'; choose one of light"),
        ((FIRST, "severe", "frozen"), "no arm 'frozen'"),
    ],
)
def test_unknown_names_are_told(examples, asked, says):
    with pytest.raises(S3EError, match=says):
        examples.picture(*asked)


def test_no_example_at_all_is_told(examples):
    with pytest.raises(S3EError, match="at least one photo"):
        Examples(examples.restorer, {})


# ------------------------------------------------------------------------------------------------------ comparison


def test_the_border_parts_left_from_right():
    left, right = np.full((4, 20, 3), 10, np.uint8), np.full((4, 20, 3), 90, np.uint8)
    both = composed(left, right, 0.3)
    assert (both[:, : 6 - BORDER // 2] == 10).all() and (both[:, 6 + BORDER // 2 :] == 90).all()
    assert (both[:, 6 - BORDER // 2 : 6 + BORDER // 2] == 255).all()
    assert (composed(left, right, 0) == right).all() and (composed(left, right, 1) == left).all()
    assert (left == 10).all() and (right == 90).all()


def test_the_slider_and_the_choices_change_the_picture(examples):
    compare = Compare(examples)
    shown = [compare.picture.value]
    compare.position.value = 20
    shown.append(compare.picture.value)
    compare.severity.value = "light"
    shown.append(compare.picture.value)
    compare.left.value = "error:baseline"
    shown.append(compare.picture.value)
    assert len(set(shown)) == 4 and "error of baseline" in compare.told.value
    assert f"{examples.scores(FIRST, 'light').psnr['full']:.2f}" in compare.table.value
    compare.position.value, compare.right.value = 0, "sharp"
    assert (decoded(compare.picture)[::7, ::7] == SCENES[FIRST]).all()
    assert not compare.message.value


# --------------------------------------------------------------------------------------------------- changed trees


def test_no_change_changes_nothing(examples):
    found = outcome(examples, FIRST, "severe", Change())
    assert (found.changed == found.intact).all() and not found.difference.any() and found.gain == 0
    assert found.edited is found.reading


def test_the_generator_gets_zeros_for_what_is_off_and_the_rest_as_it_was(examples, given):
    own, other = (examples.reading(name, "severe").maps for name in (FIRST, SECOND))
    before = own.clone()
    outcome(examples, FIRST, "severe", Change(off=frozenset({1, 6})))
    outcome(examples, FIRST, "severe", Change(off=WHOLE))
    outcome(examples, FIRST, "severe", Change(tree_of=SECOND, off=frozenset({0})))
    some, none, borrowed = (maps for maps in given if maps is not None)
    assert not some[:, [1, 6]].any() and (some[:, [0, 2, 3, 4, 5]] == own[:, [0, 2, 3, 4, 5]]).all()
    assert not none.any()
    assert (
        not borrowed[:, 0].any() and (borrowed[:, 1:] == other[:, 1:]).all() and other[:, 0].any()
    )
    assert (own == before).all()


def test_an_edit_is_read_again_and_an_impossible_one_is_told(examples):
    leaf = next(
        i for i, name in enumerate(examples.reading(FIRST, "severe").nodes) if name != "null"
    )
    found = outcome(examples, FIRST, "severe", Change(leaf=leaf, label="horse"))
    assert found.edited.nodes[leaf] == "horse" != found.reading.nodes[leaf]
    with pytest.raises(S3EError, match="label 'unicorn' is unknown"):
        outcome(examples, FIRST, "severe", Change(label="unicorn"))


def test_the_switches_are_all_there_and_each_is_possible(examples):
    for name in SCENES:
        changes = switches(examples, name, "severe", "horse")
        assert [change.off for change in changes.values()][:7] == [
            frozenset({node}) for node in range(7)
        ]
        assert (
            changes["leaves off"].off | changes["relations off"].off
            == changes["all nodes off"].off
            == WHOLE
        )
        assert changes["tree of another"].tree_of in set(SCENES) - {name}
        assert examples.reading(name, "severe").nodes[changes["an entity → horse"].leaf] not in (
            "null",
            "horse",
        )
    assert not any(
        change.label for change in switches(examples, FIRST, "severe", "unicorn").values()
    )
    read = examples.reading(THIRD, "severe").nodes
    same = switches(examples, THIRD, "severe", read[0])[f"an entity → {read[0]}"]
    assert read[0] != "null" and read[same.leaf] not in ("null", read[0])
    table = ablate.table(examples, "severe", "horse")
    assert list(table.index) == list(changes)
    assert (table["min"] <= table["mean"]).all() and (table["mean"] <= table["max"]).all()
    gains = [outcome(examples, name, "severe", Change(off=WHOLE)).gain for name in SCENES]
    assert table["mean"]["all nodes off"] == pytest.approx(np.mean(gains))


def test_without_its_tree_a_scene_is_restored_worse(examples):
    assert (
        ablate.table(examples, "severe", "horse")["max"][["all nodes off", "tree of another"]]
        .lt(-0.2)
        .all()
    )


def test_the_panel_does_what_its_controls_say(examples, monkeypatch):
    panel = Ablation(examples)
    changed, difference = (
        panel.pictures["changed tree"],
        panel.pictures[f"difference x {ablate.GAIN}"],
    )
    whole = changed.value
    assert not decoded(difference).any()
    panel.nodes[6].value = False
    assert (
        changed.value != whole
        and decoded(difference).any()
        and panel.table.value.count(">no<") == 1
    )
    panel.nodes[6].value = True
    assert changed.value == whole
    panel.whole.value = False
    none = changed.value
    panel.whole.value = True
    for box in panel.nodes:
        box.value = False
    assert (
        changed.value == none and panel.change.off == WHOLE and panel.table.value.count(">no<") == 7
    )
    panel.tree_of.value = THIRD
    assert examples.reading(THIRD, "severe").caption in panel.told.value
    panel.label.value = "horse"
    assert "horse" in panel.table.value and not panel.message.value


def test_only_entities_whose_look_is_known_can_be_chosen():
    restorer = Restorer.load()
    restorer._prototypes[:, restorer.labels.entities.index("horse")] = np.nan
    blind = Examples(restorer, SCENES)
    assert (
        "horse" not in [label for _, label in Ablation(blind).label.options]
        and "horse" in restorer.labels.entities
    )
    assert not any(change.label for change in switches(blind, FIRST, "severe", "horse").values())
    with pytest.raises(S3EError, match="none of the first 1000 training photos shows 'horse'"):
        outcome(blind, FIRST, "severe", Change(label="horse"))


def test_a_mistake_is_shown_in_the_panel_and_goes_away(examples, monkeypatch):
    panel = Ablation(examples)

    def refuse(*_):
        raise S3EError("no training photo shows <'horse'>.")

    with monkeypatch.context() as patch:
        patch.setattr(examples.restorer, "relabel", refuse)
        panel.label.value = "horse"
    assert "no training photo shows &lt;" in panel.message.value
    panel.label.value = ""
    assert not panel.message.value


# ------------------------------------------------------------------------------------------------------- own photo


def file(picture, name, **options):
    """What `FileUpload` holds after a choice."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, name.rpartition(".")[2].upper(), **options)
    return upload(name, buffer.getvalue())


def upload(name, content):
    return {
        "name": name,
        "type": "image/png",
        "size": len(content),
        "content": memoryview(content),
        "last_modified": NOW,
    }


@pytest.fixture
def own(examples):
    return OwnPhoto(examples.restorer)


def test_an_upload_is_read_and_restored(examples, own):
    own.upload.value = (file(SCENES[FIRST], "scene.png"),)
    restored = examples.restorer.restore(SCENES[FIRST])
    assert (own.result.restored == restored).all() and not own.message.value
    assert (
        own.result.reading.caption in own.told.value
        and "<svg" in own.told.value
        and "64 x 64" in own.told.value
    )
    assert (
        own.titled["blurred"].layout.display == "none"
        and own.titled["restored"].layout.display == ""
    )
    assert own.bar.value == own.bar.max == 1
    before = own.places["restored"].value
    own.arm.value = "baseline"
    assert own.places["restored"].value != before
    own.severity.value = "severe"
    assert (
        "blurred" in own.told.value
        and "dB" in own.told.value
        and own.titled["blurred"].layout.display == ""
    )


def test_the_bar_follows_a_large_photo(own):
    seen = []
    own.bar.observe(lambda change: seen.append(change.new / own.bar.max), "value")
    own.upload.value = (file(np.tile(SCENES[FIRST], (1, 26, 1)), "long.png"),)
    assert len(seen) > 3 and sorted(seen) == seen and seen[-1] == 1 and not own.message.value


def test_any_size_upright_and_saved_with_what_the_file_said(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"  # turned, camera
    wide = np.tile(SCENES[FIRST], (1, 2, 1))[:50, :101]
    own.upload.value = (file(wide, "wide.jpeg", exif=exif),)
    assert own.result.restored.shape == (101, 50, 3) and own.target.value == "wide-restored.jpeg"
    own.save.click()
    saved = read_photo("wide-restored.jpeg")
    assert "Saved as" in own.saved.value and saved.pixels.shape == (101, 50, 3)
    assert Image.open("wide-restored.jpeg").getexif()[0x010F] == "maker"
    own.save.click()
    assert "there already" in own.message.value and not own.saved.value
    own.target.value = "x.txt"
    own.save.click()
    assert "not written as &#x27;.txt&#x27;" in own.message.value


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (upload("<cut>.png", b"\x89PNG\r\n"), "&lt;cut&gt;.png: not a photo"),
        (file(np.zeros((8, 40, 3), np.uint8), "tiny.png"), "tiny.png: 40 x 8 pixels"),
        (file(np.zeros((9000, 9000), bool), "huge.png"), "huge.png: larger than 80 megapixels"),
    ],
)
def test_a_bad_upload_is_one_line_and_the_next_good_one_clears_it(own, item, says):
    own.upload.value = (item,)
    assert says in own.message.value and "/tmp" not in own.message.value and own.result is None
    own.upload.value = (file(SCENES[FIRST], "scene.png"),)
    assert not own.message.value and own.result is not None


def test_a_path_is_read_and_a_wrong_one_is_told(own, tmp_path):
    Image.fromarray(SCENES[SECOND]).save(tmp_path / "a scene.png")
    own.path.value = f'"{tmp_path / "a scene.png"}" '
    assert (own.result.photo == SCENES[SECOND]).all()
    assert own.target.value == str(tmp_path / "a scene-restored.png")
    own.path.value = str(tmp_path / "none.png")
    assert "none.png: not there" in own.message.value
    own.path.value = str(tmp_path)
    assert "folder" in own.message.value


def test_names_of_results(tmp_path):
    assert [beside(tmp_path / name).name for name in ("a.jpg", "b.HEIC")] == [
        "a-restored.jpg",
        "b-restored.png",
    ]
    assert received(file(SCENES[FIRST], "a.png") | {"name": "../up/a.png"}).path.name == "a.png"


# --------------------------------------------------------------------------------------------------------- for all


def test_every_control_has_a_name(examples, own):
    for part in (Compare(examples), Ablation(examples), own):
        found = controls(part.widget)
        assert len(found) >= 5 and all(item.description for item in found)


def test_static_figures_hold_what_the_widgets_tell(examples):
    rows = {
        name: {arm: examples.picture(FIRST, name, arm) for arm in ("blurred", "full")}
        for name in SEVERITIES
    }
    outcomes = {
        k: outcome(examples, FIRST, "severe", v)
        for k, v in switches(examples, FIRST, "severe", "cat").items()
    }
    panels = {
        name: (found.changed, found.difference, found.gain) for name, found in outcomes.items()
    }
    tall = processed(examples.restorer, np.tile(SCENES[FIRST], (2, 1, 1)), severity="light")

    figures = (
        comparison.comparison(rows, SCENES[FIRST]),
        comparison.changed_trees(rows["severe"]["blurred"], rows["severe"]["full"], panels),
        comparison.own_photo(tall.pictures, tall.reading.nodes, tall.reading.caption),
    )
    wanted = [
        [f"{psnr(rows['light']['full'], SCENES[FIRST]):.2f} dB", "severe", "error of"],
        [f"{outcomes['root off'].gain:+.2f} dB", "an entity → cat", "tree of another"],
        ["as given", "blurred", "restored", "∅"],
    ]
    for figure, words in zip(figures, wanted, strict=True):
        said = "\n".join(
            text.get_text() for text in figure.findobj(lambda item: hasattr(item, "get_text"))
        )
        assert all(word in said for word in words), said
        assert np.ptp(np.asarray(Image.open(io.BytesIO(show(figure).data)))) == 255
