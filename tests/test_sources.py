"""Data folders of every kind, as they should be and as they are: each broken record is named, none is used."""

import contextlib
import copy
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3e.data.readers import SPLITS, open_source, read_source, validation
from s3e.utils import S3EError, stable_hash
from tests.fixtures_data import (
    picture,
    save,
    write,
    write_coco,
    write_gopro,
    write_karpathy,
    write_photos,
)


def sizes(source):
    return [len(source.splits[split]) for split in SPLITS]


def ids(source):
    return [photo.id for split in SPLITS for photo in source.splits[split]]


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path / "photos")


@pytest.fixture
def karpathy(tmp_path):
    return write_karpathy(tmp_path / "karpathy")


@pytest.fixture
def pairs(tmp_path):
    return write_gopro(tmp_path / "gopro", subsets=("blur",), size=(32, 18))


@contextlib.contextmanager
def forbidden(path):
    """Take the permission to read `path` away, from root as well."""
    mode, user = path.stat().st_mode, os.geteuid()
    path.chmod(0)
    try:
        if user == 0:
            os.seteuid(65534)
        yield
    finally:
        os.seteuid(user)
        path.chmod(mode)


@pytest.fixture
def open_folder():
    """A temporary folder that every user may enter."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


# --- MSCOCO, official layout ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("year", ["2014", "2017", ""])
@pytest.mark.parametrize(
    "images", ["images", "{split}2014", "{split}2017", "images/{split}2017", "{split}", "."]
)
def test_official_layouts(tmp_path, year, images, capsys):
    source = open_source(write_coco(tmp_path, {"train": 4, "val": 8}, year=year, images=images))
    assert source.kind == "coco" and source.captioned and not source.paired
    assert sum(sizes(source)) == 12 and len(set(ids(source))) == 12
    assert source.protocol == f"COCO captions {year}".strip() + ", val split halved by id"
    assert all(
        photo.path.is_file() and len(photo.captions) == 5 for photo in source.splits["train"]
    )
    assert capsys.readouterr().out == ""


def test_val_is_halved_by_hashed_id_in_the_order_of_the_file(coco):
    splits = open_source(coco).splits
    numbers = [str(number) for number in range(21, 33)]
    assert [photo.id for photo in splits["val"]] == [
        n for n in numbers if stable_hash("split", n) % 2 == 0
    ]
    assert [photo.id for photo in splits["test"]] == [
        n for n in numbers if stable_hash("split", n) % 2 == 1
    ]


def test_a_test_file_makes_the_splits_given(tmp_path):
    source = open_source(write_coco(tmp_path, {"train": 4, "val": 3, "test": 2}))
    assert sizes(source) == [4, 3, 2] and source.protocol.endswith("splits as given")


def test_2014_is_preferred_and_said(tmp_path):
    write_coco(tmp_path, {"train": 4, "val": 8}, year="2017")
    source = open_source(write_coco(tmp_path, {"train": 5, "val": 9}, year="2014"))
    assert len(source.splits["train"]) == 5 and "2014" in source.protocol
    assert (
        "annotations/captions_train2017.json, annotations/captions_val2017.json" in source.notes[0]
    )


def test_years_are_not_mixed(tmp_path):
    write_coco(tmp_path, {"train": 4}, year="2014")
    write_coco(tmp_path, {"val": 8}, year="2017")
    with pytest.raises(S3EError, match="of the same year are both needed"):
        open_source(tmp_path)


def edit(folder, change, split="train"):
    """Change the content of `captions_{split}.json`."""
    path = folder / "annotations" / f"captions_{split}.json"
    content = json.loads(path.read_text())
    change(content["images"], content["annotations"])
    write(path, content)


def test_at_most_five_captions_a_photo(coco):
    edit(
        coco,
        lambda images, texts: texts.append({"id": 9999, "image_id": 1, "caption": "a sixth one"}),
    )
    source = open_source(coco)
    assert (
        len(source.splits["train"][0].captions) == 5
        and "more than 5 captions, cut: 1 (" in source.notes[0]
    )


def test_cleaned_captions_are_noted(coco):
    edit(coco, lambda images, texts: texts[0].update(caption="a\u2028dog\r\nruns"))
    source = open_source(coco)
    assert source.splits["train"][0].captions[0] == "a dog runs"
    note = "captions with characters that do not print, cleaned: 1 (annotation 10 of captions_train.json)"
    assert source.notes == (note,)


BROKEN_RECORDS = {
    "no id": (lambda images, texts: images[0].pop("id"), r"images\[0\]: the key 'id' is missing"),
    "no file name": (
        lambda images, texts: images[0].pop("file_name"),
        r"images\[0\]: the key 'file_name' is missing",
    ),
    "id of a wrong type": (
        lambda images, texts: images[0].update(id=[1]),
        r"images\[0\]: the key 'id' .* wrong type",
    ),
    "true as id": (
        lambda images, texts: images[0].update(id=True),
        r"images\[0\]: the key 'id' .* wrong type",
    ),
    "half surrogate": (
        lambda images, texts: images[0].update(file_name="\ud800"),
        r"images\[0\]: .* 'file_name' holds char",
    ),
    "no object": (
        lambda images, texts: images.append(3),
        r"images\[20\]: the record is not an object",
    ),
    "image twice": (
        lambda images, texts: images.append(images[0]),
        r"images\[20\]: the id 1 occurs twice",
    ),
    "caption twice": (
        lambda images, texts: texts.append(texts[0]),
        r"annotations\[100\]: the id 10 occurs twice",
    ),
    "no caption": (
        lambda images, texts: texts[0].pop("caption"),
        r"annotations\[0\]: the key 'caption' is missing",
    ),
    "number as caption": (
        lambda images, texts: texts[0].update(caption=5),
        r"annotations\[0\]: .* wrong type",
    ),
    "empty caption": (
        lambda images, texts: texts[0].update(caption="\n"),
        r"annotation 10: the caption is empty",
    ),
    "other script": (
        lambda images, texts: texts[0].update(caption="собака"),
        r"annotation 10: .* no Latin letter",
    ),
    "enormous": (
        lambda images, texts: texts[0].update(caption="dog " * 999),
        r"annotation 10: .* enormous",
    ),
    "caption without image": (
        lambda images, texts: texts[0].update(image_id=77),
        r"annotation 10: its image 77 is not",
    ),
    "image without caption": (
        lambda images, texts: texts.__delitem__(slice(5)),
        r"image 1: it has no usable caption",
    ),
    "no such photo": (
        lambda images, texts: images[0].update(file_name="x.jpg"),
        r"its photo x\.jpg is in none of the image folders",
    ),
    "outside": (
        lambda images, texts: images[0].update(file_name="../outside.jpg"),
        "is in none of the image folders",
    ),
    "NUL in a name": (
        lambda images, texts: images[0].update(file_name="a\0/b.jpg"),
        r"images\[0\]: the key 'file_name' holds characters that do not print",
    ),
    "folder": (
        lambda images, texts: images[0].update(file_name="folder.jpg"),
        "is in none of the image folders",
    ),
    "deep name": (
        lambda images, texts: images[0].update(file_name="a/" * 5000 + "b"),
        "is in none of the image folders",
    ),
    "endless name": (
        lambda images, texts: images[0].update(file_name="a" * 9999),
        "is in none of the image",
    ),
}


@pytest.mark.parametrize("name", BROKEN_RECORDS)
def test_a_broken_record_is_named_and_skipped_only_when_allowed(coco, name):
    change, message = BROKEN_RECORDS[name]
    save(coco.parent / "outside.jpg", picture("outside"))
    (coco / "images" / "folder.jpg").mkdir()
    edit(coco, change)
    with pytest.raises(S3EError, match=message) as error:
        open_source(coco)
    assert str(coco) in str(error.value) and "--skip-broken" in str(error.value)
    source = open_source(coco, skip_broken=True)
    assert (
        source.problems
        and len(source.splits["train"]) >= 19
        and len(ids(source)) == len(set(ids(source)))
    )
    assert all(
        text.isprintable() and text for photo in source.splits["train"] for text in photo.captions
    )


@pytest.mark.parametrize(
    "name", ["sub/000001.jpg", "train2017/000001.jpg", "/home/someone/coco/000001.jpg"]
)
def test_a_photo_named_by_a_path_is_found(coco, name):
    if name.startswith("sub"):
        save(coco / "images" / name, picture("sub"))
    edit(coco, lambda images, texts: images[0].update(file_name=name))
    path = open_source(coco).splits["train"][0].path
    assert path == coco / "images" / (name if name.startswith("sub") else "000001.jpg")


def test_the_first_problem_is_named_and_the_others_counted(coco):
    for number in (3, 5, 6):
        (coco / "images" / f"{number:06}.jpg").unlink()
    with pytest.raises(
        S3EError,
        match=r"its photo 000003\.jpg .* \(\.\.\. and 2 more; `python -m s3e data check .*` lists them",
    ):
        open_source(coco)
    assert len(open_source(coco, skip_broken=True).problems) == 3


def test_a_byte_order_mark_does_no_harm(coco):
    path = coco / "annotations" / "captions_val.json"
    path.write_text("\ufeff" + path.read_text())
    assert not open_source(coco).problems


def test_separately_numbered_files_keep_both_photos(coco):
    def renumber(images, texts):
        for record in images:
            record["id"] -= 20
        for record in texts:
            record["image_id"] -= 20

    edit(coco, renumber, "val")
    source = open_source(coco)
    assert len(set(ids(source))) == 32 and "train/1" in ids(source) and "1" in ids(source)
    assert "another split has their id: 12" in source.notes[0]


def test_a_photo_of_val_is_not_trained_on(coco):
    photo = {"id": 21, "file_name": "000021.jpg"}
    text = {"id": 9, "image_id": 21, "caption": "a dog"}
    edit(coco, lambda images, texts: (images.append(photo), texts.append(text)))
    with pytest.raises(
        S3EError, match="captions_train.json: image 21: it is in another split as well"
    ):
        open_source(coco)
    assert sizes(open_source(coco, skip_broken=True))[0] == 20


@pytest.mark.parametrize(
    "text", ["{", "[" * 100_000, "\xff", '{"images": 1' + "0" * 5000 + "}", ""]
)
def test_no_json(coco, text):
    (coco / "annotations" / "captions_val.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(S3EError, match="captions_val.json is not valid JSON"):
        read_source(coco)


@pytest.mark.parametrize("content", [{}, [], 3, {"images": []}, {"images": {}, "annotations": []}])
def test_json_of_another_kind(coco, content):
    write(coco / "annotations" / "captions_val.json", content)
    with pytest.raises(S3EError, match="captions_val.json: not in COCO-captions layout"):
        read_source(coco)


def test_captions_without_a_folder_of_images(coco):
    (coco / "images").rename(coco / "elsewhere")
    with pytest.raises(
        S3EError,
        match=r"captions_val.json: none of its 12 photos is there; unpack them into .*images",
    ):
        read_source(coco, "blur")


def test_too_few_photos_are_refused_with_the_reason(tmp_path):
    folder = write_coco(tmp_path, {"train": 3, "val": 2, "test": 2})
    (folder / "images" / "000004.jpg").unlink()
    with pytest.raises(
        S3EError,
        match=r"val split has fewer than 2 usable photos \(1\).*photo 000004.jpg is in none",
    ):
        read_source(folder)


# --- Karpathy ------------------------------------------------------------------------------------------------------


def test_karpathys_split(karpathy):
    source = open_source(karpathy)
    assert sizes(source) == [16, 6, 6] and source.kind == "karpathy" and source.captioned
    assert source.protocol == "Karpathy's split (dataset_coco.json)"
    assert source.splits["train"][12].path.parent.name == "val2014"  # restval is trained on


def test_karpathys_file_in_annotations_goes_before_official_ones(karpathy):
    write_coco(karpathy, {"train": 4, "val": 8}, year="2014")
    (karpathy / "dataset_coco.json").rename(karpathy / "annotations" / "dataset_coco.json")
    write(karpathy / "annotations" / "dataset_flickr8k.json", {})
    source = open_source(karpathy)
    assert (
        source.kind == "karpathy"
        and "annotations/dataset_flickr8k.json, annotations/captions_train2014.json, "
        in source.notes[0]
    )


def test_flickr_files_number_by_imgid_and_give_no_path(karpathy):
    path = karpathy / "dataset_coco.json"
    content = json.loads(path.read_text())
    for item in content["images"]:
        del item["cocoid"], item["filepath"]
    write(path, content)
    source = open_source(karpathy)
    assert source.splits["train"][0].id == "0" and sizes(source) == [16, 6, 6]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda item: item.pop("cocoid"), r"images\[0\]: the key 'cocoid' is missing"),
        (lambda item: item.update(split="dev"), "image 1: the split 'dev' is unknown"),
        (lambda item: item.update(split=["train"]), r"images\[0\]: the key 'split' .* wrong type"),
        (lambda item: item.update(filepath=5), r"images\[0\]: the key 'filepath' .* wrong type"),
        (
            lambda item: item.update(sentences=None),
            r"images\[0\]: the key 'sentences' .* wrong type",
        ),
        (
            lambda item: item["sentences"][2].pop("raw"),
            r"image 1, sentences\[2\]: the key 'raw' is missing",
        ),
        (lambda item: item["sentences"].clear(), "image 1: it has no usable caption"),
        (lambda item: item.update(cocoid=2), r"images\[1\]: the cocoid 2 occurs twice"),
    ],
)
def test_broken_records_of_karpathys_file(karpathy, change, message):
    path = karpathy / "dataset_coco.json"
    content = json.loads(path.read_text())
    change(content["images"][0])
    write(path, content)
    with pytest.raises(S3EError, match=f"dataset_coco.json: {message}"):
        open_source(karpathy)
    assert sizes(open_source(karpathy, skip_broken=True))[0] >= 15


# --- any JSON ------------------------------------------------------------------------------------------------------

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | ANY_TEXT
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
)
CHANGES = st.lists(
    st.tuples(st.lists(st.integers(0, 999), max_size=5), st.sampled_from("sdc"), VALUES), max_size=4
)


def mutate(content, changes):
    """Set, delete or copy some values of a JSON document, found by following index paths."""
    content = copy.deepcopy(content)
    for path, action, value in changes:
        node, parent, key = content, None, None
        for step in path:
            if isinstance(node, dict | list) and node:
                parent, key = (
                    node,
                    sorted(node)[step % len(node)] if isinstance(node, dict) else step % len(node),
                )
                node = parent[key]
        if parent is None:
            content = value
        elif action == "d":
            del parent[key]
        elif action == "c" and isinstance(parent, list):
            parent.append(copy.deepcopy(node))
        else:
            parent[key] = value
    return content


@pytest.fixture(scope="module", params=["annotations/captions_train.json", "dataset_coco.json"])
def mutable(request, tmp_path_factory):
    writer = write_coco if "captions" in request.param else write_karpathy
    folder = writer(tmp_path_factory.mktemp("json"))
    return folder, folder / request.param, json.loads((folder / request.param).read_text())


@given(CHANGES)
@settings(deadline=None)
def test_any_json_gives_sound_photos_or_an_error_that_names_the_file(mutable, changes):
    folder, path, content = mutable
    write(path, mutate(content, changes))
    try:
        source = read_source(folder)
    except S3EError as error:
        assert str(folder) in str(error) and "\n" not in str(error)
        return
    photos = [photo for split in SPLITS for photo in source.splits[split]]
    assert len({photo.id for photo in photos}) == len(photos) and all(
        isinstance(photo.id, str) for photo in photos
    )
    assert all(photo.path.is_file() and folder in photo.path.parents for photo in photos)
    assert all(1 <= len(photo.captions) <= 5 and all(photo.captions) for photo in photos)
    assert all(str(problem).encode() for problem in source.problems)


# --- GoPro ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subset", ["blur", "blur_gamma"])
@pytest.mark.parametrize("above", ["", "GOPRO_Large", "a/b"])
def test_pairs_are_read_by_sequence(tmp_path, subset, above):
    write_gopro(tmp_path / above, size=(32, 18))
    source = open_source(tmp_path, subset)
    assert source.kind == "gopro" and source.paired and not source.captioned
    assert source.protocol == f"GoPro, subset {subset}, validation = 1 of 3 train sequences"
    sequences = [{photo.sequence for photo in source.splits[split]} for split in SPLITS]
    assert [len(names) for names in sequences] == [2, 1, 1] and not set.intersection(*sequences[:2])
    photo = source.splits["test"][1]
    assert (
        photo.id == "GOPR0384_11_00/000002"
        and photo.frame == 2
        and photo.sequence == "GOPR0384_11_00"
    )
    assert photo.path.parent.name == "sharp" and photo.blurred.parent.name == subset


@pytest.mark.parametrize("subset", ["sharp", ""])
def test_unknown_subset(pairs, subset):
    with pytest.raises(S3EError, match="data.subset is"):
        read_source(pairs, subset)


def test_missing_subset(tmp_path):
    write_gopro(tmp_path, subsets=("blur",))
    with pytest.raises(
        S3EError, match="no sequence has the folder blur_gamma/; --set data.subset=blur"
    ):
        read_source(tmp_path, "blur_gamma")


SEQUENCE = "train/GOPR0372_07_00"
BROKEN_PAIRS = {
    "no sharp frame": (
        lambda at: (at / "sharp/000002.png").unlink(),
        r"blur/000002.png: has no partner in sharp/",
    ),
    "no blurred frame": (
        lambda at: (at / "blur/000002.png").unlink(),
        r"sharp/000002.png: has no partner in blur/",
    ),
    "no number": (
        lambda at: (at / "blur/000002.png").rename(at / "blur/two.png"),
        "two.png: the name is not a frame",
    ),
    "two numbers": (
        lambda at: save(at / "blur/2.png", picture("x")),
        "blur/2.png: the name is not a frame number of its",
    ),
    "no split": (
        lambda at: at.rename(at.parents[1] / at.name),
        "GOPR0372_07_00: the sequence is neither in train/ nor",
    ),
    "no subset": (
        lambda at: (at / "blur").rename(at / "blurry"),
        "GOPR0372_07_00: the sequence has no folder blur/",
    ),
    "no sharp": (
        lambda at: (at / "sharp").rename(at / "s"),
        "GOPR0372_07_00: the sequence has no folder sharp/",
    ),
    "same name": (
        lambda at: write_gopro(at.parents[1] / "copy", {SEQUENCE: 2}),
        "the sequence's name is that of ",
    ),
}


@pytest.mark.parametrize("name", BROKEN_PAIRS)
def test_a_broken_pair_is_named_and_skipped_only_when_allowed(pairs, name):
    change, message = BROKEN_PAIRS[name]
    change(pairs / SEQUENCE)
    with pytest.raises(S3EError, match=message):
        open_source(pairs)
    source = open_source(pairs, skip_broken=True)
    assert len(source.problems) <= 2 and len(set(ids(source))) == len(ids(source))
    assert (f"{SEQUENCE[6:]}/000002" in ids(source)) == (name in ("same name", "two numbers"))


def test_a_half_of_gopro_is_refused(pairs):
    with pytest.raises(
        S3EError, match="train: is one half of GoPro; give the folder that holds train/ and test/"
    ):
        read_source(pairs / "train")
    (pairs / "test").rename(pairs.parent / "test")
    with pytest.raises(S3EError, match=r"the test split has fewer than 2 usable photos \(0\)"):
        read_source(pairs)


def test_validation_sequences():
    official = {f"GOPR{n:04}_11_00": 95 for n in range(22)}
    chosen = validation(official)
    assert len(chosen) == 3 and chosen == validation(dict(reversed(official.items())))
    assert validation({"a": 10, "b": 10, "x": 1, "y": 1, "z": 1}) <= {
        "a",
        "b",
    }  # short ones only if need be
    assert len(validation({"x": 1, "y": 1, "z": 1})) == 2  # one stays in train
    assert validation({"a": 10, "x": 1}) == {"a"} and validation({"a": 10}) == set()


# --- photos --------------------------------------------------------------------------------------------------------


def test_photos_are_split_by_hashed_name(tmp_path):
    source = open_source(write_photos(tmp_path, 40))
    assert source.kind == "folder" and not source.captioned and not source.paired
    assert sum(sizes(source)) == 40 and "00/photo000" in ids(source)
    before = {photo.id: split for split, part in source.splits.items() for photo in part}
    save(tmp_path / "new" / "one.PNG", picture("one"))
    after = {
        photo.id: split for split, part in open_source(tmp_path).splits.items() for photo in part
    }
    assert after.pop("new/one") and after == before  # nothing moves when a photo is added


def test_ids_stay_unique_and_other_files_are_told(tmp_path):
    write_photos(tmp_path, 40)
    save(tmp_path / "00" / "photo000.png", picture("same name"))
    save(tmp_path / "00" / "._photo001.jpg", picture("hidden"))
    (tmp_path / "notes.txt").write_text("x")
    source = open_source(tmp_path)
    assert {"00/photo000.png", "00/photo000.jpg", "00/photo003"} <= set(ids(source)) and len(
        set(ids(source))
    ) == 41
    assert source.notes == ("other files, left alone: 1 (.txt)",)


def test_links_are_followed_once(tmp_path):
    write_photos(tmp_path / "disk", 40)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "loop").symlink_to(tmp_path / "root")
    assert len(ids(open_source(tmp_path / "root"))) == 40


def test_names_that_are_not_utf8(tmp_path):
    write_photos(tmp_path, 40)
    name = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    try:
        os.rename(tmp_path / "00" / "photo000.jpg", name)
    except OSError:
        pytest.skip("this file system allows UTF-8 names only")
    with pytest.raises(S3EError, match=r"caf\?.jpg: the name is not valid UTF-8; rename it"):
        open_source(tmp_path)
    assert len(ids(open_source(tmp_path, skip_broken=True))) == 39


@pytest.mark.parametrize(
    ("count", "message"), [(0, "holds no photos"), (4, "4 photos are too few, add some")]
)
def test_too_few_photos(tmp_path, count, message):
    with pytest.raises(S3EError, match=message):
        read_source(write_photos(tmp_path, count))


def test_no_such_folder(tmp_path):
    with pytest.raises(S3EError, match="none: there is no such folder"):
        read_source(tmp_path / "none")


def test_photos_beside_annotations_without_captions(tmp_path):
    write_photos(tmp_path, 40)
    write(tmp_path / "annotations" / "instances_train2017.json", {})
    assert "annotations/ holds no captions_*.json" in open_source(tmp_path).notes[1]


# --- permissions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", "/images", "/annotations"])
def test_a_folder_without_permission_is_named(open_folder, place):
    write_coco(open_folder / "photos")
    message = (
        f"photos{place}: the folder cannot be listed .Permission denied.; give yourself permission"
    )
    with forbidden(Path(f"{open_folder}/photos{place}")), pytest.raises(S3EError, match=message):
        read_source(open_folder / "photos")


def test_a_caption_file_without_permission_is_named(open_folder):
    path = write_coco(open_folder) / "annotations" / "captions_val.json"
    with (
        forbidden(path),
        pytest.raises(S3EError, match="captions_val.json: cannot be read .*read permission"),
    ):
        read_source(open_folder)


def test_a_photo_folder_without_permission_is_skipped_only_when_allowed(open_folder):
    write_photos(open_folder, 60)
    with forbidden(open_folder / "01"):
        with pytest.raises(S3EError, match="01: the folder cannot be listed"):
            open_source(open_folder)
        assert len(ids(open_source(open_folder, skip_broken=True))) == 40


# --- real data -----------------------------------------------------------------------------------------------------


def test_clips_of_one_recording_stay_together():
    clips = {f"GOPR{n:04}_11_{part:02}": 30 for n in range(8) for part in range(3)}
    chosen = validation(clips)
    recordings = [
        {name.split("_")[0] for name in names} for names in (chosen, clips.keys() - chosen)
    ]
    assert chosen and not set.intersection(*recordings)


def test_other_json_files_do_not_make_a_folder_captioned(tmp_path):
    write_photos(tmp_path, 100)
    (tmp_path / "dataset_info.json").write_text("{}")
    assert open_source(tmp_path).kind == "folder"
