"""The look at every photo of a data folder, near-duplicates that must not straddle splits, and
`data check`.
"""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from s3e.data import prepare, readers
from s3e.data.prepare import Survey, check, survey, usable
from s3e.data.readers import (
    SPLITS,
    Photo,
    PhotoInfo,
    Source,
    alike,
    fingerprint,
    read_source,
    separate,
)
from s3e.utils import ROOT, S3EError
from tests.conftest import PHOTOS
from tests.fixtures_data import cut, picture, save, write_coco, write_gopro, write_photos

PICTURES = [Image.fromarray(picture("survey", k)) for k in range(8)]
INFOS = [PhotoInfo((56, 40), (), *fingerprint(image)) for image in PICTURES]


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr("s3e.utils.RUNS", tmp_path / "runs")


@pytest.fixture
def coco(tmp_path):
    return read_source(write_coco(tmp_path / "photos"))


def source_of(kind="folder", **splits):
    """A source of made-up photos from `train=["id", ...]` and so on."""
    photos = {name: [Photo(key, f"{key}.jpg") for key in splits.get(name, ())] for name in SPLITS}
    return Source(kind, ROOT, photos, "as the test says")


def infos(**pictures):
    return {key: INFOS[k] for key, k in pictures.items()}


def ids(source):
    return {name: [photo.id for photo in part] for name, part in source.splits.items()}


# The survey


def test_every_photo_is_seen_whatever_the_number_of_processes(coco, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "CHUNK", 5)
    first, last = coco.splits["train"][3], coco.splits["test"][-1]
    for photo in (first, last):
        cut(photo.path)
    two = survey(coco, jobs=2)
    shutil.rmtree(tmp_path / "runs")
    assert str(survey(coco, jobs=1)) == str(two)
    assert list(two.broken) == [first.id, last.id] and len(two.infos) == 30
    assert [problem.args[0] for problem in two.broken.values()] == [str(first.path), str(last.path)]
    assert {info.size for info in two.infos.values()} == {(56, 40)}


def test_broken_photos_are_left_out_only_when_allowed(coco):
    broken = coco.splits["train"][3]
    cut(broken.path)
    seen = survey(coco, jobs=1)
    with pytest.raises(S3EError, match=f"{broken.path}.*--skip-broken"):
        usable(coco, seen)
    kept = usable(coco, seen, skip_broken=True)
    assert broken.id not in ids(kept)["train"] and len(kept.splits["train"]) == 19
    assert kept.problems == (*seen.broken.values(),) and ids(kept)["test"] == ids(coco)["test"]
    more = {photo.id: seen.broken[broken.id] for photo in coco.splits["val"][1:]}
    few = Survey(seen.infos, seen.broken | more)
    with pytest.raises(S3EError, match="the val split has fewer than 2"):
        usable(coco, few, skip_broken=True)


def test_the_blurred_frame_of_a_pair_is_decoded_too(tmp_path):
    source = read_source(write_gopro(tmp_path / "pairs", subsets=("blur",), size=(32, 18)))
    first, second, *_ = source.splits["train"]
    cut(first.blurred)
    save(second.path, picture("x", size=(18, 32)))
    broken = survey(source, jobs=1).broken
    assert [problem.args[0] for problem in broken.values()] == [
        str(first.blurred),
        str(second.blurred),
    ]
    assert "blurred and sharp frame differ in size (32x18 and 18x32)" in str(broken[second.id])


def test_results_are_kept_until_a_file_changes(coco, monkeypatch):
    photo, asked, real = coco.splits["train"][1], [], prepare._look_at
    cut(coco.splits["train"][0].path)
    monkeypatch.setattr(prepare, "_look_at", lambda part: asked.extend(part) or real(part))
    assert str(survey(coco, jobs=1)) == str(survey(coco, jobs=1)) and len(asked) == 32
    save(photo.path, picture("another", size=(48, 64)))
    assert survey(coco, jobs=1).infos[photo.id].size == (48, 64) and len(asked) == 64
    monkeypatch.setattr("s3e.utils.code_digest", lambda *_: "other code")
    assert survey(coco, jobs=1).broken and len(asked) == 96


def test_a_survey_that_cannot_be_kept_is_still_made(coco, tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    assert len(survey(coco, jobs=1).infos) == 32


# Near-duplicates


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.resize((112, 80), Image.Resampling.LANCZOS),
        lambda image: image.convert("L").convert("RGB"),
        lambda image: image.crop((1, 1, 55, 39)),
        lambda image: ImageEnhance.Contrast(image).enhance(0.8),
        lambda image: image.quantize(32).convert("RGB"),
    ],
)
def test_changed_copies_are_recognised_and_other_photos_are_not(change, monkeypatch):
    copies = [PhotoInfo((0, 0), (), *fingerprint(change(image))) for image in PICTURES]
    monkeypatch.setattr(readers, "BLOCK", 20)
    assert alike(INFOS, copies).tolist() == [[k, k] for k in range(len(PICTURES))]
    assert alike(INFOS, []).shape == (0, 2)


def test_photos_that_show_nothing_are_alike_only_if_equal():
    plain = [Image.new("RGB", (50, 50), colour) for colour in ("black", "white")]
    blank = [PhotoInfo((9, 9), (), *fingerprint(image)) for image in plain]
    assert alike(blank, blank).tolist() == [[0, 0], [1, 1]]


def test_alike_agrees_with_a_plain_reference():
    generator = np.random.default_rng(0)
    hashes = generator.choice(generator.integers(0, 2**63, 6, dtype=np.uint64), 40)
    hashes ^= np.uint64(1) << generator.integers(0, 40, 40, dtype=np.uint64)
    thumbs = generator.choice(generator.integers(0, 256, (9, 256), dtype=np.uint8), 40)
    photos = [
        PhotoInfo((9, 9), (), int(h), t.tobytes()) for h, t in zip(hashes, thumbs, strict=True)
    ]
    expected = [
        [i, j]
        for i in range(23)
        for j in range(17)
        if (photos[i].hash ^ photos[23 + j].hash).bit_count() <= 8
        and np.corrcoef(thumbs[i], thumbs[23 + j])[0, 1] >= 0.8
    ]
    assert len(expected) > 3 and alike(photos[:23], photos[23:]).tolist() == expected


def test_validation_and_training_photos_like_held_out_ones_are_left_out():
    source = source_of(train=["a", "b", "c", "d"], val=["e", "f"], test=["g", "h"])
    result = separate(source, infos(a=0, b=1, c=2, d=3, e=1, f=2, g=2, h=3))
    assert ids(result) == {"train": ["a"], "val": ["e"], "test": ["g", "h"]}
    assert "val photos left out, alike a photo of test: 1 (f)" in result.notes
    assert "train photos left out, alike a photo of val or test: 3 (b, c, d)" in result.notes


def test_videos_stay_as_they_are():
    video = source_of("gopro", train=["a"], val=["b"], test=["c"])
    assert separate(video, infos(a=0, b=0, c=0)) is video


@given(st.lists(st.tuples(st.sampled_from(SPLITS), st.integers(0, len(INFOS) - 1)), max_size=24))
@settings(max_examples=60, deadline=None)
def test_near_duplicates_never_straddle_splits(photos):
    names = {f"{37 * k % 101}": entry for k, entry in enumerate(photos)}
    splits = {split: [name for name, (at, _) in names.items() if at == split] for split in SPLITS}
    seen = infos(**{name: k for name, (_, k) in names.items()})
    result = separate(source_of(**splits), seen)
    shown = [{names[photo.id][1] for photo in part} for part in result.splits.values()]
    assert not shown[0] & shown[1] and not shown[1] & shown[2] and not shown[0] & shown[2]
    assert set.union(*shown) == {k for _, k in photos} and ids(result)["test"] == splits["test"]
    assert bool(result.notes) == (ids(result) != splits)


# The command


def test_check_reports_what_is_there(coco, capsys):
    val, train, test = (coco.splits[split][0] for split in ("val", "train", "test"))
    Image.open(val.path).convert("L").save(val.path)
    shutil.copy(test.path, train.path)
    assert check(coco.root, jobs=1) == 0
    printed = capsys.readouterr().out
    assert "train     19 photos, 95 captions" in printed
    assert "smallest 56 x 40, median 56 x 40, largest 56 x 40" in printed
    assert f"converted from L: 1 ({val.id})" in printed
    assert f"train photos left out, alike a photo of val or test: 1 ({train.id})" in printed
    assert "nothing is broken" in printed


def test_check_lists_every_broken_file(coco, capsys):
    files = [cut(photo.path) for photo in coco.splits["train"][:3]]
    assert check(coco.root) == 1 and check(coco.root, skip_broken=True) == 0
    printed = capsys.readouterr().out
    assert all(printed.count(f"problem   {file}: cut") == 2 for file in files)
    for photo in coco.splits["train"][3:]:
        cut(photo.path)
    with pytest.raises(S3EError, match="the train split has fewer than 2"):
        check(coco.root, skip_broken=True)
    assert capsys.readouterr().out.count(": cut") == 20, "what is broken is listed first"


def test_check_of_pairs_and_of_plain_photos(tmp_path, capsys):
    assert check(write_gopro(tmp_path / "pairs"), "blur_gamma") == 0
    assert check(write_photos(tmp_path / "photos", 40)) == 0
    printed = capsys.readouterr().out
    assert "subset blur_gamma" in printed and " pairs in 2 sequences" in printed
    assert "photos without captions" in printed


@pytest.mark.parametrize("name", ["captioned_photos_coco", "gopro_sample"])
def test_the_sample_data_have_no_problem(name, capsys):
    if not (PHOTOS.parent / name).is_dir():
        pytest.skip(f"{PHOTOS.parent / name} is not there (set S3E_PHOTOS)")
    assert check(PHOTOS.parent / name) == 0
    printed = capsys.readouterr().out
    assert "nothing is broken" in printed and "left out" not in printed
