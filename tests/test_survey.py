"""The look at every photo, near-duplicates that must not straddle splits, and `data check`."""

import shutil

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from s3e.data import prepare
from s3e.data.annotations import read_source
from s3e.data.prepare import check, look
from s3e.data.readers import SPLITS, Source, alike, fingerprint, keep_apart
from s3e.utils import ROOT, S3EError
from tests.conftest import PHOTOS
from tests.fixtures_data import cut, picture, save, write_coco, write_gopro, write_photos

PICTURES = [Image.fromarray(picture("survey", k)) for k in range(8)]
SIGNS = [fingerprint(image) for image in PICTURES]


@pytest.fixture
def coco(tmp_path):
    return read_source(write_coco(tmp_path / "photos"))


def signs(images):
    return pd.DataFrame([fingerprint(image) for image in images], columns=["hash", "thumb"])


def source_of(*rows, kind="photos"):
    """A source of made-up photos: (split, id, number of its picture)."""
    rows = [(split, key, *SIGNS[k]) for split, key, k in rows]
    images = pd.DataFrame(rows, columns=["split", "id", "hash", "thumb"])
    return Source(kind, ROOT, images, "as the test says", [])


def ids(source):
    images = source.images
    return {split: images["id"][images["split"] == split].tolist() for split in SPLITS}


def test_every_photo_is_seen_whatever_the_number_of_threads(coco, monkeypatch):
    first, last = coco.images["path"].iloc[[3, -1]]
    for path in (first, last):
        cut(path)
    again = read_source(coco.root)
    look(coco)
    monkeypatch.setattr(prepare, "cores", lambda: 1)
    look(again)
    pd.testing.assert_frame_equal(coco.images, again.images)
    assert len(coco.images) == 30 and {*coco.images["size"]} == {(56, 40)}
    assert {problem.split(": ")[0] for problem in coco.problems} == {str(first), str(last)}


def test_the_blurred_frame_of_a_pair_is_decoded_too(tmp_path):
    source = read_source(write_gopro(tmp_path / "pairs", subsets=("blur",), size=(32, 18)))
    first, second, third = source.images["blurred"].iloc[:3]
    cut(first)
    shutil.copy(source.images["path"].iloc[2], third)
    save(second, picture("x", size=(18, 32)))
    look(source)
    one, two, three = source.problems
    assert three == f"{third}: blurred and sharp frame are the same; replace or remove the pair."
    assert one.startswith(f"{first}: ")
    assert two.startswith(f"{second}: blurred and sharp frame differ in size ((18, 32) and (32, ")


# Near-duplicates

CHANGES = [
    lambda image: image.resize((112, 80), Image.Resampling.LANCZOS),
    lambda image: image.convert("L").convert("RGB"),
    lambda image: image.crop((1, 1, 55, 39)),
    lambda image: ImageEnhance.Contrast(image).enhance(0.8),
    lambda image: image.quantize(32).convert("RGB"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_recognised_and_other_photos_are_not(change):
    copies, mine = signs(map(change, PICTURES)), signs(PICTURES)
    assert alike(mine, copies).all() and not alike(mine[:4], copies[4:]).any()
    assert not alike(mine, copies[:0]).any() and alike(mine[:0], copies).shape == (0,)


def test_val_and_training_photos_like_held_out_ones_are_left_out():
    rows = [("train", "a", 0), ("train", "b", 1), ("train", "c", 2), ("train", "d", 3)]
    rows += [("val", "e", 1), ("val", "f", 2), ("test", "g", 2), ("test", "h", 3)]
    source, video = source_of(*rows), source_of(*rows, kind="pairs")
    pairs = source_of(*rows, kind="pairs")
    video.images["sequence"], pairs.images["sequence"] = "a", ""
    keep_apart(source)
    assert ids(source) == {"train": ["a"], "val": ["e"], "test": ["g", "h"]}
    assert "val photos left out, alike a photo of test: 1 (f)" in source.notes
    assert "train photos left out, alike a photo of val or test: 3 (b, c, d)" in source.notes
    keep_apart(pairs)
    assert ids(pairs) == ids(source)
    keep_apart(video)
    assert len(video.images) == len(rows)  # the splits of videos are whole recordings


@given(st.lists(st.tuples(st.sampled_from(SPLITS), st.integers(0, len(SIGNS) - 1)), max_size=24))
@settings(max_examples=60, deadline=None)
def test_near_duplicates_never_straddle_splits(photos):
    shows = {f"{37 * k % 101}": number for k, (_, number) in enumerate(photos)}
    rows = [(split, key, shows[key]) for (split, _), key in zip(photos, shows, strict=True)]
    source = source_of(*rows)
    before = ids(source)
    keep_apart(source)
    shown = [{shows[key] for key in part} for part in ids(source).values()]
    assert not shown[0] & shown[1] and not shown[1] & shown[2] and not shown[0] & shown[2]
    assert set.union(*shown) == {*shows.values()} and ids(source)["test"] == before["test"]
    assert bool(source.notes) == (ids(source) != before)


# The command


def test_check_reports_what_is_there(coco, capsys):
    train, val, test = (coco.images[coco.images["split"] == split].iloc[0] for split in SPLITS)
    Image.open(val["path"]).convert("L").save(val["path"])
    shutil.copy(test["path"], train["path"])
    assert check(coco.root) == 0
    printed, twin = capsys.readouterr().out, f"alike a photo of val or test: 1 ({train['id']})"
    for text in ("train     19 photos, 95 captions", "56 x 40 to 56 x 40", "nothing is broken"):
        assert text in printed
    assert f"converted from L: 1 ({val['id']})" in printed and f"left out, {twin}" in printed


def test_check_lists_every_broken_file(coco, capsys):
    paths = coco.images["path"][coco.images["split"] == "train"]
    files = [cut(path) for path in paths[:3]]
    assert check(coco.root) == 1
    printed = capsys.readouterr().out
    assert all(printed.count(f"problem   {file}: cut") == 1 for file in files)
    for path in paths[3:]:
        cut(path)
    with pytest.raises(S3EError, match="the train split has fewer than 2"):
        check(coco.root)
    assert capsys.readouterr().out.count(": cut") == 20, "what is broken is listed first"


def test_check_of_pairs_and_of_plain_photos(tmp_path, capsys):
    assert check(write_gopro(tmp_path / "pairs"), [("data.subset", "blur_gamma")]) == 0
    assert check(write_photos(tmp_path / "photos", 40)) == 0
    printed = capsys.readouterr().out
    assert "subset blur_gamma" in printed and " partners in 2 sequences" in printed
    assert "photos without captions" in printed


@pytest.mark.parametrize(
    "name, protocol", [("captioned_photos_coco", "COCO captions"), ("gopro_sample", "GoPro, ")]
)
def test_the_sample_data_have_no_problem(name, protocol, capsys):
    if not (PHOTOS.parent / name).is_dir():
        pytest.skip(f"{PHOTOS.parent / name} is not there (set S3E_PHOTOS)")
    assert check(PHOTOS.parent / name) == 0
    printed = capsys.readouterr().out
    assert f"protocol  {protocol}" in printed
    assert "nothing is broken" in printed and "left out" not in printed
