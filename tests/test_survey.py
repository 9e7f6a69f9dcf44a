"""The look at every photo of a data folder, near-duplicates that must not straddle splits, and `data check`."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from s3e.data import prepare, readers
from s3e.data.prepare import Survey, check, survey, survey_folder, usable
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


def source_of(rule="given", **splits):
    """A source of made-up photos from `train=["id", ...]` and so on."""
    photos = {name: [Photo(key, f"{key}.jpg") for key in splits.get(name, ())] for name in SPLITS}
    return Source("folder", ROOT, photos, rule, "as the test says")


def infos(**pictures):
    return {key: INFOS[k] for key, k in pictures.items()}


def ids(source):
    return {name: [photo.id for photo in part] for name, part in source.splits.items()}


# The survey


def test_every_photo_is_seen_whatever_the_number_of_processes(coco, monkeypatch):
    monkeypatch.setattr(prepare, "CHUNK", 5)
    first, last = coco.splits["train"][3], coco.splits["test"][-1]
    for photo in (first, last):
        cut(photo.path)
    two = survey(coco, jobs=2)
    shutil.rmtree(survey_folder(coco.root))
    assert survey(coco, jobs=1) == two
    assert list(two.broken) == [first.id, last.id] and len(two.infos) == 30
    assert [problem.where for problem in two.problems] == [str(first.path), str(last.path)]
    assert {info.size for info in two.infos.values()} == {(56, 40)}


def test_broken_photos_are_left_out_only_when_allowed(coco):
    broken = coco.splits["train"][3]
    cut(broken.path)
    seen = survey(coco, jobs=1)
    with pytest.raises(S3EError, match=f"{broken.path}.*--skip-broken"):
        usable(coco, seen)
    kept = usable(coco, seen, skip_broken=True)
    assert broken.id not in ids(kept)["train"] and len(kept.splits["train"]) == 19
    assert kept.problems == seen.problems and ids(kept)["test"] == ids(coco)["test"]
    broken = {photo.id: seen.problems[0] for photo in coco.splits["val"][1:]}
    few = Survey(seen.infos, seen.broken | broken)
    with pytest.raises(S3EError, match="the val split has fewer than 2"):
        usable(coco, few, skip_broken=True)


def test_the_blurred_frame_of_a_pair_is_decoded_too(tmp_path):
    source = read_source(write_gopro(tmp_path / "pairs", subsets=("blur",)))
    pair = source.splits["train"][1]
    cut(pair.blurred)
    assert survey(source, jobs=1).broken[pair.id].where == str(pair.blurred)


def test_results_are_kept_for_files_that_did_not_change(coco, monkeypatch):
    photos, asked, real = coco.splits["train"], [], prepare._look_at
    cut(photos[0].path)
    first = survey(coco, jobs=1)
    save(photos[1].path, picture("another", size=(48, 64)))

    def look(part):
        asked.extend(photo.id for photo in part)
        return real(part)

    monkeypatch.setattr(prepare, "_look_at", look)
    again = survey(coco, jobs=1)
    assert asked == [photos[0].id, photos[1].id], "the broken and the changed photo, no other"
    assert again.infos[photos[1].id].size == (48, 64) and again.broken == first.broken
    monkeypatch.setattr("s3e.utils.code_digest", lambda *_: "other code")
    survey(coco, jobs=1)
    assert len(asked) == 2 + 32


def test_a_survey_that_was_stopped_goes_on(coco, monkeypatch):
    monkeypatch.setattr(prepare, "CHUNK", 4)

    def stop(parts, **_):
        for count, part in enumerate(parts):
            if count == 3:
                raise KeyboardInterrupt
            yield part

    with pytest.raises(KeyboardInterrupt):
        survey(coco, jobs=1, progress=stop)
    asked, real = [], prepare._look_at
    monkeypatch.setattr(prepare, "_look_at", lambda part: asked.extend(part) or real(part))
    survey(coco, jobs=1)
    assert len(asked) == 32 - 12


def test_a_survey_that_cannot_be_saved_is_an_error(coco):
    survey_folder(coco.root).parent.mkdir(parents=True)
    survey_folder(coco.root).write_text("a file where the folder should be")
    with pytest.raises(S3EError, match="survey.json: cannot be written"):
        survey(coco, jobs=1)


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
    photos = [PhotoInfo((9, 9), (), int(h), t.tobytes()) for h, t in zip(hashes, thumbs, strict=True)]  # fmt: skip
    expected = [
        [i, j]
        for i in range(23)
        for j in range(17)
        if (photos[i].hash ^ photos[23 + j].hash).bit_count() <= 8
        and np.corrcoef(thumbs[i], thumbs[23 + j])[0, 1] >= 0.8
    ]
    assert len(expected) > 3 and alike(photos[:23], photos[23:]).tolist() == expected


def test_halves_keep_groups_together_where_the_smallest_id_is():
    source = source_of("halved", train=["t1", "t2"], val=["a", "c", "e"], test=["b", "d", "f"])
    result = separate(source, infos(t1=6, t2=0, a=0, b=1, c=2, d=0, e=1, f=3))
    assert ids(result) == {"train": ["t1"], "val": ["a", "c", "d"], "test": ["b", "f", "e"]}
    assert "2 photos moved to the split of a near-duplicate: e, d" in result.notes
    assert "1 train photo left out, alike a photo of val or test: t2" in result.notes


def test_given_splits_never_change_the_test_photos():
    source = source_of("given", train=["a", "b", "c", "d"], val=["e", "f"], test=["g", "h"])
    result = separate(source, infos(a=0, b=1, c=2, d=3, e=1, f=2, g=2, h=3))
    assert ids(result) == {"train": ["a"], "val": ["e"], "test": ["g", "h"]}
    assert "1 val photo left out, alike a photo of test: f" in result.notes


def test_videos_stay_as_they_are():
    video = source_of("sequence", train=["a"], val=["b"], test=["c"])
    assert separate(video, infos(a=0, b=0, c=0)) is video


@given(
    st.sampled_from(["given", "halved", "hashed"]),
    st.lists(st.tuples(st.sampled_from(SPLITS), st.integers(0, len(INFOS) - 1)), max_size=24),
)
@settings(max_examples=60, deadline=None)
def test_near_duplicates_never_straddle_splits(rule, photos):
    names = {f"{37 * k % 101}": entry for k, entry in enumerate(photos)}
    splits = {split: [name for name, (at, _) in names.items() if at == split] for split in SPLITS}
    source, seen = source_of(rule, **splits), infos(**{name: k for name, (_, k) in names.items()})
    result = separate(source, seen)
    shown = [{names[photo.id][1] for photo in part} for part in result.splits.values()]
    assert not shown[0] & shown[1] and not shown[1] & shown[2] and not shown[0] & shown[2]
    kept = [photo.id for part in result.splits.values() for photo in part]
    assert len(kept) == len(set(kept)) and set(kept) <= set(names)
    assert rule != "given" or ids(result)["test"] == splits["test"]
    assert rule != "hashed" or set(kept) == set(names)
    assert bool(result.notes) == (ids(result) != splits)


# The command


def test_check_reports_what_is_there(coco, capsys):
    val, train, test = (coco.splits[split][0] for split in ("val", "train", "test"))
    Image.open(val.path).convert("L").save(val.path)
    shutil.copy(test.path, train.path)
    assert check(coco.root, jobs=1) == 0
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    assert ["train", "19", "95"] in lines and ["splits", "photos", "captions"] in lines
    assert "smallest 56 x 40, median 56 x 40, largest 56 x 40" in printed
    assert f"grey, converted when read: 1 ({val.id})" in printed
    assert f"1 train photo left out, alike a photo of val or test: {train.id}" in printed
    assert "nothing is broken" in printed and (survey_folder(coco.root) / "survey.json").is_file()


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
    assert "subset blur_gamma" in printed and "photos without captions" in printed
    assert ["splits", "pairs", "sequences"] in [line.split() for line in printed.splitlines()]


@pytest.mark.parametrize("name", ["captioned_photos_coco", "gopro_sample"])
def test_the_sample_data_have_no_problem(name, capsys):
    if not (PHOTOS.parent / name).is_dir():
        pytest.skip(f"{PHOTOS.parent / name} is not there (set S3E_PHOTOS)")
    assert check(PHOTOS.parent / name) == 0
    printed = capsys.readouterr().out
    assert "nothing is broken" in printed and "left out" not in printed and "moved" not in printed
