"""The survey of a data folder, near-duplicates that must not straddle splits, and `python -m s3e data check`."""

import argparse
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from s3e.data import check
from s3e.data import prepare as module
from s3e.data import readers as duplicates
from s3e.data.prepare import survey, survey_folder, usable
from s3e.data.readers import (
    SPLITS,
    Look,
    Photo,
    Signatures,
    Source,
    Survey,
    alike,
    fingerprint,
    read_source,
    separate,
    signatures,
)
from s3e.utils import ROOT, S3EError
from tests.conftest import PHOTOS
from tests.fixtures_data import picture, save, write_coco, write_gopro, write_photos

PICTURES = [Image.fromarray(picture("survey", k)) for k in range(8)]
LOOKS = [Look((56, 40), (), *fingerprint(image)) for image in PICTURES]


@pytest.fixture
def coco(tmp_path):
    return read_source(write_coco(tmp_path / "photos"))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RUNS", tmp_path / "runs")


def source_of(rule="given", **splits):
    """A source of made-up photos from `train=["id", ...]` and so on."""
    photos = {
        name: [Photo(identity, f"{identity}.jpg") for identity in splits.get(name, ())]
        for name in SPLITS
    }
    return Source("folder", ROOT, photos, rule, "as the test says")


def ids(source):
    return {name: [photo.id for photo in part] for name, part in source.splits.items()}


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


# The survey


def test_every_photo_is_seen_whatever_the_number_of_processes(coco, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 5)
    one, two = survey(coco, jobs=1), survey(coco, jobs=2)
    assert one == two and not one.problems
    assert list(two.looks) == [photo.id for part in coco.splits.values() for photo in part]
    assert {look.size for look in one.looks.values()} == {(56, 40)}


def test_a_broken_photo_is_named_and_the_others_are_seen(coco):
    first, last = coco.splits["train"][3], coco.splits["test"][-1]
    for photo in (first, last):
        cut(photo.path)
    seen = survey(coco, jobs=1)
    assert list(seen.broken) == [first.id, last.id] and len(seen.looks) == 30
    assert [problem.where for problem in seen.problems] == [str(first.path), str(last.path)]


def test_broken_photos_are_left_out_only_when_allowed(coco):
    broken = coco.splits["train"][3]
    cut(broken.path)
    seen = survey(coco, jobs=1)
    with pytest.raises(S3EError, match=f"{broken.path}.*--skip-broken"):
        usable(coco, seen)
    kept = usable(coco, seen, skip_broken=True)
    assert broken.id not in ids(kept)["train"] and len(kept.splits["train"]) == 19
    assert kept.problems == seen.problems and ids(kept)["test"] == ids(coco)["test"]


def test_a_split_left_with_one_photo_is_refused(coco):
    for photo in coco.splits["val"][1:]:
        cut(photo.path)
    with pytest.raises(S3EError, match="the val split has fewer than 2"):
        usable(coco, survey(coco, jobs=1), skip_broken=True)


def test_the_blurred_frame_of_a_pair_is_decoded_too(tmp_path):
    source = read_source(write_gopro(tmp_path / "pairs", subsets=("blur",)))
    pair = source.splits["train"][1]
    cut(pair.blurred)
    seen = survey(source, jobs=1)
    assert [problem.where for problem in seen.problems] == [str(pair.blurred)] and list(
        seen.broken
    ) == [pair.id]


def test_results_are_kept_for_files_that_did_not_change(coco, tmp_path, monkeypatch):
    photos = coco.splits["train"]
    cut(photos[0].path)
    first = survey(coco, tmp_path / "kept", jobs=1)
    save(photos[1].path, picture("another", size=(48, 64)))
    asked, real = [], module.look
    monkeypatch.setattr(module, "look", lambda photo: asked.append(photo.id) or real(photo))
    again = survey(coco, tmp_path / "kept", jobs=1)
    assert asked == [photos[0].id, photos[1].id], "the broken and the changed photo, no other"
    assert again.looks[photos[1].id].size == (48, 64) and again.broken == first.broken
    monkeypatch.setattr(module, "VERSION", 0)
    survey(coco, tmp_path / "kept", jobs=1)
    assert len(asked) == 2 + 32, "results of another version are not used"


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_a_survey_that_was_cut_short_goes_on(coco, tmp_path, monkeypatch, end):
    monkeypatch.setattr(module, "CHUNK", 4)
    monkeypatch.setattr(module, "SAVE_EVERY", 2)
    if end == "killed":  # nothing is saved at the end
        write, saves = module._save, iter([True, False])
        monkeypatch.setattr(module, "_save", lambda *rest: write(*rest) if next(saves) else None)

    def stop(parts, **_):
        for count, part in enumerate(parts):
            if count == 3:
                raise KeyboardInterrupt
            yield part

    with pytest.raises(KeyboardInterrupt):
        survey(coco, tmp_path / "kept", jobs=1, progress=stop)
    asked, real = [], module.look
    monkeypatch.setattr(module, "_save", lambda *_: None)
    monkeypatch.setattr(module, "look", lambda photo: asked.append(photo.id) or real(photo))
    assert survey(coco, tmp_path / "kept", jobs=1) == survey(coco, jobs=1)
    assert len(asked) == (32 - 12 if end == "stopped" else 32 - 8) + 32


def test_a_full_disk_is_said(coco, tmp_path):
    (tmp_path / "kept").write_text("a file where the folder should be")
    with pytest.raises(S3EError, match="survey.json: cannot be written"):
        survey(coco, tmp_path / "kept", jobs=1)


# Near-duplicates


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.resize((112, 80), Image.Resampling.LANCZOS),
        lambda image: image.resize((40, 40), Image.Resampling.LANCZOS),
        lambda image: image.convert("L").convert("RGB"),
        lambda image: image.crop((1, 1, 55, 39)),
        lambda image: ImageEnhance.Contrast(image).enhance(0.8),
        lambda image: image.quantize(32).convert("RGB"),
    ],
)
def test_changed_copies_are_recognised_and_other_photos_are_not(change):
    copies = [Look((0, 0), (), *fingerprint(change(image))) for image in PICTURES]
    pairs = alike(of(LOOKS), of(copies))
    assert pairs.tolist() == [[k, k] for k in range(len(PICTURES))]


def of(looks):
    return signatures(
        [Photo(str(k), "") for k in range(len(looks))],
        Survey({str(k): seen for k, seen in enumerate(looks)}, {}),
    )


def test_photos_that_show_nothing_are_alike_only_if_equal():
    blank = [
        Look((9, 9), (), *fingerprint(Image.new("RGB", (50, 50), colour)))
        for colour in ("black", "white")
    ]
    assert alike(of(blank), of(blank)).tolist() == [[0, 0], [1, 1]]


def test_alike_agrees_with_a_plain_reference(monkeypatch):
    generator = np.random.default_rng(0)
    hashes = generator.choice(generator.integers(0, 2**63, 6, dtype=np.uint64), 40)
    hashes ^= np.uint64(1) << generator.integers(0, 40, 40, dtype=np.uint64)
    thumbs = generator.choice(generator.normal(size=(9, 256)), 40).astype(np.float32)
    thumbs /= np.linalg.norm(thumbs, axis=1, keepdims=True)
    exact = np.arange(40)
    a, b = (
        Signatures(hashes[part], thumbs[part], exact[part]) for part in (slice(23), slice(23, None))
    )
    expected = [
        [i, j]
        for i in range(23)
        for j in range(17)
        if bin(int(a.hashes[i]) ^ int(b.hashes[j])).count("1") <= 8
        and float(a.thumbs[i] @ b.thumbs[j]) >= 0.8
    ]
    assert len(expected) > 3 and alike(a, b).tolist() == expected
    monkeypatch.setattr(duplicates, "BLOCK", 40)
    assert alike(a, b).tolist() == expected
    assert alike(a, Signatures(hashes[:0], thumbs[:0], exact[:0])).shape == (0, 2)


def test_halves_keep_groups_together_where_the_smallest_id_is():
    source = source_of("halved", train=["t1", "t2"], val=["a", "c", "e"], test=["b", "d", "f"])
    seen = looks(t1=6, t2=0, a=0, b=1, c=2, d=0, e=1, f=3)
    result = separate(source, seen)
    assert ids(result) == {"train": ["t1"], "val": ["a", "c", "d"], "test": ["b", "f", "e"]}
    assert "2 photos moved to the split of a near-duplicate: e, d" in result.notes
    assert "1 train photo left out, alike a photo of val or test: t2" in result.notes


def test_given_splits_never_change_the_test_photos():
    source = source_of("given", train=["a", "b", "c", "d"], val=["e", "f"], test=["g", "h"])
    result = separate(source, looks(a=0, b=1, c=2, d=3, e=1, f=2, g=2, h=3))
    assert ids(result) == {"train": ["a"], "val": ["e"], "test": ["g", "h"]}
    assert "1 val photo left out, alike a photo of test: f" in result.notes


def test_videos_and_photos_without_twins_stay_as_they_are():
    twins = {"train": ["a"], "val": ["b"], "test": ["c"]}
    video = source_of("sequence", **twins)
    assert separate(video, looks(a=0, b=0, c=0)) is video
    for rule in ("given", "halved", "hashed"):
        assert separate(source_of(rule, **twins), looks(a=0, b=1, c=2)) == source_of(rule, **twins)


def looks(**pictures):
    return Survey({identity: LOOKS[k] for identity, k in pictures.items()}, {})


@given(
    st.sampled_from(["given", "halved", "hashed"]),
    st.lists(st.tuples(st.sampled_from(SPLITS), st.integers(0, len(LOOKS) - 1)), max_size=24),
)
@settings(max_examples=100, deadline=None)
def test_near_duplicates_never_straddle_splits(rule, photos):
    names = {f"{37 * k % 101}": entry for k, entry in enumerate(photos)}
    splits = {
        split: [name for name, (where, _) in names.items() if where == split] for split in SPLITS
    }
    source, seen = source_of(rule, **splits), looks(**{name: k for name, (_, k) in names.items()})
    result = separate(source, seen)
    shown = {split: {names[photo.id][1] for photo in part} for split, part in result.splits.items()}
    assert (
        not shown["train"] & shown["val"]
        and not shown["val"] & shown["test"]
        and not shown["train"] & shown["test"]
    )
    kept = [photo.id for part in result.splits.values() for photo in part]
    assert len(kept) == len(set(kept)) and set(kept) <= set(names)
    assert rule != "given" or ids(result)["test"] == splits["test"]
    assert rule != "hashed" or set(kept) == set(names)
    assert result == separate(source, seen) and bool(result.notes) == (ids(result) != splits)


# The command


def run(*command):
    parser = argparse.ArgumentParser()
    check.configure(parser)
    return check.execute(parser.parse_args([str(item) for item in command]))


def test_check_says_what_is_there(coco, runs, capsys):
    Image.open(coco.splits["val"][0].path).convert("L").save(coco.splits["val"][0].path)
    shutil.copy(coco.splits["test"][0].path, coco.splits["train"][0].path)
    assert run(coco.root, "--jobs", 1) == 0
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    assert ["train", "19", "95"] in lines and ["splits", "photos", "captions"] in lines
    assert (
        "smallest 56 x 40, median 56 x 40, largest 56 x 40" in printed
        and "nothing is broken" in printed
    )
    assert f"grey, converted when read: 1 ({coco.splits['val'][0].id})" in printed
    assert (
        f"1 train photo left out, alike a photo of val or test: {coco.splits['train'][0].id}"
        in printed
    )
    assert (survey_folder(coco.root) / "survey.json").is_file()


def test_check_lists_every_broken_file(coco, runs, capsys):
    files = [cut(photo.path) for photo in coco.splits["train"][:3]]
    assert run(coco.root) == 1
    printed = capsys.readouterr().out
    assert all(f"problem   {file}: cut" in printed for file in files) and "3 broken" in printed
    assert run(coco.root, "--skip-broken") == 0
    assert f"problem   {files[0]}: cut" in capsys.readouterr().out


def test_check_of_a_folder_that_cannot_be_used(tmp_path, coco, runs, capsys):
    with pytest.raises(S3EError, match="nowhere"):
        run(tmp_path / "nowhere")
    files = [cut(photo.path) for photo in coco.splits["train"]]
    with pytest.raises(S3EError, match="the train split has fewer than 2"):
        run(coco.root, "--skip-broken")
    printed = capsys.readouterr().out
    assert all(str(file) in printed for file in files), "what is broken is said first"


def test_check_of_pairs_and_of_plain_photos(tmp_path, runs, capsys):
    assert run(write_gopro(tmp_path / "pairs"), "--subset", "blur_gamma") == 0
    assert run(write_photos(tmp_path / "photos", 40)) == 0
    printed = capsys.readouterr().out
    assert "subset blur_gamma" in printed and "photos without captions" in printed
    assert ["splits", "pairs", "sequences"] in [line.split() for line in printed.splitlines()]


@pytest.mark.parametrize("name", ["captioned_photos", "captioned_photos_coco", "gopro_sample"])
def test_the_shared_data_have_no_problem(name, runs, capsys):
    if not (PHOTOS.parent / name).is_dir():
        pytest.skip(f"{PHOTOS.parent / name} is not there (set S3E_PHOTOS)")
    assert run(PHOTOS.parent / name) == 0
    printed = capsys.readouterr().out
    assert "nothing is broken" in printed and "left out" not in printed and "moved" not in printed
