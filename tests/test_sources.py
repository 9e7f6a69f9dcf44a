"""Data folders of every kind, as they should be and as they are: broken records are named."""

import contextlib
import json
import os
import re
import shutil
import tempfile
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from s3e.config import load_config
from s3e.data.annotations import layout, read_source
from s3e.data.pairs import validation
from s3e.data.prepare import add_windows
from s3e.data.readers import SPLITS, ImageIndex
from s3e.utils import S3EError, stable_hash, write_file
from tests.fixtures_data import (
    PAIRS,
    cut,
    pair_places,
    picture,
    save,
    write_coco,
    write_gopro,
    write_karpathy,
    write_pairs,
    write_photos,
    write_table,
)


def sizes(source):
    return [int((source.images["split"] == split).sum()) for split in SPLITS]


def photos(source, split):
    return source.images[source.images["split"] == split]


def whole(folder, *subset):
    """A source without any problem."""
    source = read_source(folder, *subset)
    assert not source.problems and source.images["id"].is_unique
    return source


def names_problem(source, message):
    return any(re.search(message, problem) for problem in source.problems)


def edit(path, change):
    """Change the content of a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path / "photos")


@pytest.fixture
def karpathy(tmp_path):
    return write_karpathy(tmp_path / "karpathy")


@pytest.fixture
def pairs(tmp_path):
    return write_gopro(tmp_path / "gopro", subsets=("blur",), size=(32, 18))


# --- MSCOCO, official layout ---


@pytest.mark.parametrize("year", ["2014", "2017", ""])
@pytest.mark.parametrize("images", ["images", "{split}2017", "images/{split}2017", "{split}", "."])
def test_official_layouts(tmp_path, year, images):
    source = whole(write_coco(tmp_path, {"train": 4, "val": 8}, year=year, images=images))
    assert source.kind == "captions" and source.captioned and not source.paired
    assert sum(sizes(source)) == 12
    assert source.protocol == f"COCO captions {year}".strip() + ", val split halved by id"
    trained = photos(source, "train")
    assert all(path.is_file() for path in trained["path"])
    assert {*map(len, trained["captions"])} == {5}


def test_val_is_halved_by_hashed_id_unless_there_is_a_test_file(coco, tmp_path):
    source, numbers = whole(coco), [str(number) for number in range(21, 33)]
    for half, split in enumerate(("val", "test")):
        expected = [n for n in numbers if stable_hash("split", n) % 2 == half]
        assert [*photos(source, split)["id"]] == expected
    given = whole(write_coco(tmp_path / "given", {"train": 4, "val": 3, "test": 2}))
    assert sizes(given) == [4, 3, 2] and given.protocol.endswith("splits as given")


def test_years_are_not_mixed_and_2014_is_preferred(tmp_path):
    write_coco(tmp_path, {"train": 4}, year="2014")
    write_coco(tmp_path, {"val": 8}, year="2017")
    with pytest.raises(S3EError, match="of the same year are both needed"):
        read_source(tmp_path)
    write_coco(tmp_path, {"train": 4, "val": 8}, year="2017")
    source = whole(write_coco(tmp_path, {"train": 5, "val": 7}, year="2014"))
    assert sizes(source)[0] == 5 and "2014" in source.protocol


def change_captions(folder, change, split="train"):
    path = folder / "annotations" / f"captions_{split}.json"
    edit(path, lambda content: change(content["images"], content["annotations"]))


def test_captions_are_cleaned_and_at_most_five(coco):
    change_captions(coco, lambda i, t: t[0].update(caption="a\u2028dog\r\nruns"))
    change_captions(coco, lambda i, t: t.append({"image_id": 1, "caption": "a sixth"}))
    first = photos(whole(coco), "train")["captions"].iloc[0]
    assert first[0] == "a dog runs" and len(first) == 5


VAL = {"id": 21, "file_name": "000021.jpg"}, {"image_id": 21, "caption": "a dog"}
GONE = "image 1: its photo .* is not there"
BROKEN_RECORDS = [
    (lambda i, t: i[0].pop("id"), r"images\[0\]: the key 'id' is missing or of another kind"),
    (lambda i, t: i[0].update(id=True), r"images\[0\]: the key 'id' is"),
    (lambda i, t: i[0].update(file_name="\ud800"), GONE),
    (lambda i, t: (i[0].update(id="a\ud800"), t[0].update(image_id="a\ud800")), "do not print"),
    (lambda i, t: i.append(3), r"images\[20\]: the key 'id' is missing"),
    (lambda i, t: i.append(i[0]), r"image 1: it is listed twice"),
    (lambda i, t: (i.append(VAL[0]), t.append(VAL[1])), "train.json: image 21: it is listed twice"),
    (lambda i, t: t[0].pop("caption"), r"annotations\[0\]: the key 'caption' is missing"),
    (lambda i, t: t[0].update(caption=5), r"annotations\[0\]: the key 'caption' is"),
    (lambda i, t: t[0].update(caption="\n"), r"image 1: the caption is empty"),
    (lambda i, t: t[0].update(caption="собака"), r"image 1: .* no Latin letter"),
    (lambda i, t: t[0].update(caption="dog " * 999), r"image 1: .* enormous"),
    (lambda i, t: t[0].update(image_id=77), r"image '77': is not listed"),
    (lambda i, t: t.__delitem__(slice(5)), r"image 1: it has no usable caption"),
    (lambda i, t: i[0].update(file_name="x.jpg"), GONE),
    (lambda i, t: i[0].update(file_name="a\0/b"), GONE),
    (lambda i, t: i[0].update(file_name="../../outside.jpg"), GONE),
    (lambda i, t: i[0].update(file_name="folder.jpg"), GONE),
    (lambda i, t: i[0].update(file_name="a/" * 5000 + "b"), GONE),
]


@pytest.mark.parametrize(("change", "message"), BROKEN_RECORDS)
def test_a_broken_record_is_named_and_skipped(coco, change, message):
    save(coco.parent / "outside.jpg", picture("outside"))
    (coco / "images" / "folder.jpg").mkdir()
    change_captions(coco, change)
    source = read_source(coco)
    assert names_problem(source, f"{coco}.*{message}") and sizes(source)[0] in (19, 20)
    texts = [text for row in source.images["captions"] for text in row]
    assert all(text.isprintable() and text for text in texts)


@pytest.mark.parametrize("name", ["sub/000001.jpg", "train2017/000001.jpg", "/home/x/000001.jpg"])
def test_a_photo_named_by_a_path_is_found(coco, name):
    inside = name.startswith("sub")
    if inside:
        save(coco / "images" / name, picture("sub"))
    change_captions(coco, lambda images, texts: images[0].update(file_name=name))
    path = photos(whole(coco), "train")["path"].iloc[0]
    assert path == coco / "images" / (name if inside else "000001.jpg")


LIKELIEST = [("000001.jpg", "thumbs/000001.jpg"), ("000001.jpg", "images/old/000001.jpg")]
LIKELIEST += [("000001.jpg", "images/000001.JPG"), ("000001.JPG", "images/000001.png")]


@pytest.mark.parametrize(("name", "other"), LIKELIEST)
def test_of_photos_of_one_name_the_likeliest_is_taken(coco, name, other):
    save(coco / other, picture("other"))
    change_captions(coco, lambda images, texts: images[0].update(file_name=name))
    assert photos(whole(coco), "train")["path"].iloc[0] == coco / "images" / "000001.jpg"


def test_two_photos_of_one_name_lie_in_folders_of_their_split(tmp_path):
    for split in ("train", "val"):
        write_coco(tmp_path, {split: 20}, images="{split}2017")
    source = whole(tmp_path)
    for split in SPLITS:
        given = {path.parent.name for path in photos(source, split)["path"]}
        assert given == {"train2017" if split == "train" else "val2017"}


def test_separately_numbered_files_keep_both_photos(coco):
    def renumber(images, texts):
        images[:] = [record | {"id": record["id"] - 20} for record in images]
        texts[:] = [record | {"image_id": record["image_id"] - 20} for record in texts]

    change_captions(coco, renumber, "val")
    source = whole(coco)
    assert len(source.images) == 32 and {"train/1", "1"} <= {*source.images["id"]}


NO_JSON, NO_LAYOUT = "is not valid JSON", "it does not hold captions"
CONTENTS = [("{", NO_JSON), ("[" * 100_000, NO_JSON), ("\xff", "is not UTF-8 text"), ("", NO_JSON)]
CONTENTS += [("{}", NO_LAYOUT), ("[]", NO_LAYOUT), ('{"images": {}, "annotations": []}', NO_LAYOUT)]


@pytest.mark.parametrize(("text", "message"), CONTENTS)
def test_a_file_that_holds_something_else(coco, text, message):
    path = coco / "annotations" / "captions_val.json"
    path.write_text("\ufeff" + path.read_text())
    assert whole(coco)  # a byte order mark does no harm
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(S3EError, match=f"captions_val.json:? {message}"):
        read_source(coco)


def test_photos_that_are_not_there(coco, tmp_path):
    few = write_coco(tmp_path / "few", {"train": 3, "val": 2, "test": 2})
    (few / "images" / "000004.jpg").unlink()
    with pytest.raises(S3EError, match=r"val split has .* photos \(1\).*photo '000004.jpg' is not"):
        read_source(few)
    for path in (coco / "images").iterdir():
        path.unlink()
    with pytest.raises(S3EError, match=r"train split has .* \(0\).*put it into images/"):
        read_source(coco)


# --- Karpathy ---


def test_karpathys_split(karpathy):
    source = whole(karpathy)
    assert sizes(source) == [16, 6, 6] and source.kind == "captions" and source.captioned
    assert source.protocol == "Karpathy's split (dataset_coco.json)"
    restval = photos(source, "train").iloc[12]
    assert restval["path"].parent.name == "val2014"  # is trained on
    for above in "ab":
        save(karpathy / above / "x.jpg", picture(above))
    place = {"filepath": "a", "filename": "x.jpg"}
    edit(karpathy / "dataset_coco.json", lambda content: content["images"][0].update(place))
    assert karpathy / "a" / "x.jpg" in {*whole(karpathy).images["path"]}


def test_flickr_files_number_by_imgid_and_give_no_path(karpathy):
    def flickr(content):
        for item in content["images"]:
            del item["cocoid"], item["filepath"]

    edit(karpathy / "dataset_coco.json", flickr)
    source = whole(karpathy)
    assert source.images["id"].iloc[-16] == "0" and sizes(source) == [16, 6, 6]


BROKEN_ITEMS = [
    (lambda item: item.update(cocoid=1.5), r"images\[0\]: the key 'cocoid' is"),
    (lambda item: item.update(split="dev"), r"images\[0\]: the key 'split' is"),
    (lambda item: item.update(sentences=None), r"images\[0\]: the key 'sentences' is"),
    (lambda item: item["sentences"][2].pop("raw"), r"image 1: sentences\[2\]: the key 'raw' is"),
    (lambda item: item["sentences"].clear(), "image 1: it has no usable caption"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN_ITEMS)
def test_broken_records_of_karpathys_file(karpathy, change, message):
    edit(karpathy / "dataset_coco.json", lambda content: change(content["images"][0]))
    source = read_source(karpathy)
    assert names_problem(source, f"dataset_coco.json: {message}") and sizes(source)[0] >= 15


# --- tables such as Flickr8k's ---

TABLES = [
    ("captions.txt", "{photo},{text}", "image,caption"),
    ("captions.csv", "7,{photo},{raw}", ",image,caption"),  # pandas' index; no quotes
    ("captions.csv", "{photo};{raw}", "photo;text"),
    ("captions.tsv", '"{photo}",{text}', '"image","caption"'),
    ("captions.txt", "{photo}, {k}, {raw}", "image_name,comment_number,comment"),
    ("results.csv", "{photo}| {k}| {raw}", "image_name| comment_number| comment"),
    ("results_20130124.token", "{photo}#{k}\t{raw}", ""),
    ("Flickr8k.token.txt", "{photo}#{k}\t{raw}", ""),
]


@pytest.mark.parametrize(("name", "row", "head"), TABLES)
def test_tables_of_captions(tmp_path, name, row, head):
    source = whole(write_table(tmp_path, name, row, head))
    assert source.captioned and source.protocol == f"{name}, split 80/10/10 by id"
    assert sum(sizes(source)) == 30 and source.images["captions"].map(len).eq(5).all()
    assert {texts[4] for texts in source.images["captions"]} == {'a "big" dog, running'}
    assert {texts[0].split()[0] for texts in source.images["captions"]} == {"A"}


def test_lists_of_splits_and_lines_that_hold_no_caption(tmp_path):
    flickr = write_table(tmp_path, "Flickr8k.token.txt", "{photo}#{k}\t{raw}", "")
    with (flickr / "Flickr8k.token.txt").open("a") as file:
        file.write("\n\n0003.jpg\nnowhere.jpg#0\ta dog\n")
    for name, rows in (("train", range(20)), ("dev", range(18, 24)), ("test", range(24, 29))):
        if name != "train":  # a table without lists is read, one with some of them is not
            with pytest.raises(S3EError, match="Images.txt: there is no such list of test"):
                read_source(flickr)
        listed = "".join(f"{row:04}.jpg\n" for row in rows)
        (flickr / f"Flickr_8k.{name}Images.txt").write_text(listed)
    source = read_source(flickr)
    assert sizes(source) == [18, 6, 5] and "given (2 photos are in none)" in source.protocol
    assert names_problem(source, "Flickr8k.token.txt: line 152 holds no photo and caption")
    assert len(source.problems) == 1
    assert "photos without a caption, left out: 1 (Images/0029.jpg)" in source.notes


# --- where caption files lie, which are read, and which would be left out ---


def together(folder):
    """Photos of COCO and of Karpathy's file, with the caption files of both in annotations/."""
    write_karpathy(write_coco(folder, year="2014"), size=(24, 20))
    shutil.move(folder / "dataset_coco.json", folder / "annotations")
    write_file(folder / "annotations" / "dataset_flickr8k.json", {"images": []})
    return folder


def copied(folder):
    folder = write_coco(folder / "a")
    shutil.copytree(folder / "annotations", folder / "b")
    return folder


def moved(folder, place="annotations_trainval2014/annotations"):
    write_coco(folder / "new", year="2014", images="{split}2014/{split}2014")
    write_file(folder / "new/annotations/instances_val2014.json", {"annotations": []})
    shutil.move(folder / "new/annotations", folder / "old")
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(folder / "old", folder / place)
    return folder


def broken(folder, *names):
    """Caption files, of which those with these names hold nothing."""
    write_coco(write_table(folder), year="2014", size=(24, 20))
    for name in names:
        write_file(folder / name, {})


def differing(folder):
    write_file(copied(folder) / "captions_val.json", {})


def renamed(folder):
    for photo in write_karpathy(folder, size=(24, 20)).glob("*2014/*"):
        photo.rename(photo.with_stem(photo.stem[-3:]))
    write_file(folder / "dataset_flickr8k.json", {"images": []})


CHOICES = [
    (moved, "COCO captions 2014", ""),
    (lambda at: moved(at, "new/captions"), "COCO captions 2014", ""),
    (lambda at: moved(at, "deep/er/annotations"), "COCO captions 2014", ""),
    (together, "Karpathy's split", "28 of 28 photos of .*dataset_coco.json are there; not read: 3"),
    (copied, "COCO captions", "32 of 32 .* not read: 2"),
    (lambda at: write_table(together(at)), "Karpathy", "not read: 4"),
    (lambda at: broken(at, "dataset_coco.json"), "COCO", "dataset_coco.json: it does not hold"),
    (
        lambda at: broken(at, "annotations/captions_val2014.json"),
        "captions.txt",
        "val2014.json: it",
    ),
    (lambda at: broken(at, "captions_val2017.json"), "COCO captions 2014", "2017.json: .*needed"),
]


@pytest.mark.parametrize(("write", "protocol", "note"), CHOICES)
def test_caption_files_are_found_wherever_they_lie(tmp_path, write, protocol, note):
    write(tmp_path)
    source = whole(tmp_path)
    assert source.protocol.startswith(protocol) and re.search(note, "".join(source.notes))


REFUSED = [
    (lambda at: write_coco(at, {"val": 20}), "of the same year are both needed; fetch the other"),
    (differing, "captions_val.json and .*captions_val.json differ: keep one"),
    (
        lambda at: [write_table(at, name) for name in ("captions.csv", "captions.txt")],
        "captions.csv and .*captions.txt have equally many of their photos there .30.; keep one",
    ),
    (renamed, "dataset_coco.json and .*flickr8k.json have equally many of their photos there .0.;"),
]
UNREAD = {
    "captions.json": "{}",
    "captions_mine.json": "{}",
    "annotations/train.json": '{"images": [%s], "annotations": [{"caption": "a dog"}]}'
    % ("1," * 9999),
    "metadata.csv": "file_name,text",
    "dataset_infos.jsonl": '{"sentences": []}',
    "00/photo000.txt": "a dog runs",
}


@pytest.mark.parametrize(("write", "message"), REFUSED)
def test_caption_files_that_cannot_be_read_rightly(tmp_path, write, message):
    write(tmp_path)
    with pytest.raises(S3EError, match=message):
        read_source(tmp_path)


@pytest.mark.parametrize("name", UNREAD)
def test_photos_are_not_read_without_their_captions_unasked(tmp_path, name):
    place = write_photos(tmp_path, 40) / name
    place.parent.mkdir(exist_ok=True)
    place.write_text(UNREAD[name])
    with pytest.raises(S3EError, match=f"{place} may hold captions.*--set data.kind=photos"):
        read_source(tmp_path)
    assert not read_source(tmp_path, kind="photos").captioned
    place.rename(place.with_name("00.txt")).write_text("0 0.5 0.5")
    assert whole(tmp_path).kind == "photos"


# --- names that differ from the disk ---

RULES = [
    lambda name: f"train2014\\{name}",
    lambda name: f"http://images.cocodataset.org/train2017/{name}?download=1",
    lambda name: f"COCO_train2014_{name}",
    lambda name: name.replace(".jpg", ".JPEG"),
    lambda name: name.removesuffix(".jpg"),
    lambda name: name.replace("cafe\u0301 ", "Caf\u00e9%20"),
    lambda name: name.replace("cafe\u0301", "CAF\u00c9"),
]


@pytest.mark.parametrize("change", RULES)
def test_names_are_matched_by_rule_where_that_is_unique(coco, change):
    def name(images, texts, change=str):
        for image in images:
            image["file_name"] = change(f"cafe\u0301 {image['id']:06}.jpg")

    for path in (coco / "images").iterdir():
        path.rename(path.with_name(f"cafe\u0301 {path.name}"))
    change_captions(coco, name, "val")
    change_captions(coco, partial(name, change=change))
    source = whole(coco)
    assert sizes(source)[0] == 20 and "from those listed: 20 (1, 2, 3" in source.notes[-1]
    assert [path.stem[-6:].lstrip("0") for path in source.images["path"]] == [*source.images["id"]]


UNSURE = [
    (["000001.png"], "000001.bmp", "images/000001.jpg or images/000001.png"),
    ([], "000002.png", "'000002.png' is perhaps images/000002.jpg; give it that"),
    ([], "a/00000l.jpg", r"'a/00000l.jpg' is not there .most alike: images/0000\d+.jpg"),
    (["a/1.jpg", "b/1.jpg"], "1.jpg", "a/1.jpg or images/b/1"),
]


@pytest.mark.parametrize(("there", "name", "message"), UNSURE)
def test_names_that_no_rule_decides_are_named_with_what_was_found(coco, there, name, message):
    for place in there:
        save(coco / "images" / place, picture(place))
    change_captions(coco, lambda images, _: images[0].update(file_name=name))
    source = read_source(coco)
    assert names_problem(source, message) and sizes(source)[0] == 19


def test_what_archives_leave_is_ignored_and_counted(coco):
    names = "__MACOSX/images/._000001.jpg", "@eaDir/000001.jpg", "images/Thumbs.db", ".DS_Store"
    for path in map(coco.joinpath, names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    assert "ignored: 4 (.DS_Store, @eaDir, Thumbs.db, ...)" in whole(coco).notes[0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without pipes")
@pytest.mark.parametrize("name", ["images/000001.jpg", "captions_val.json", "no_extension"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_pipes_and_links_to_nothing_are_never_opened(coco, name, make):
    (coco / name).unlink(missing_ok=True)
    make(coco / name)
    index = ImageIndex(coco)
    assert name not in index.paths and name not in index.photos
    assert re.match(f"{coco / name}: cannot be opened as a file .pipe", *index.problems)


# --- GoPro ---


@pytest.mark.parametrize("subset", ["blur", "blur_gamma"])
@pytest.mark.parametrize("above", ["", "GOPRO_Large", "a/b"])
def test_pairs_are_read_by_sequence(tmp_path, subset, above):
    write_gopro(tmp_path / above, size=(32, 18))
    source = whole(tmp_path, subset)
    assert source.kind == "pairs" and source.paired and not source.captioned
    assert source.protocol == f"GoPro, subset {subset}, validation = 1 of 3 train sequences"
    sequences = [{*photos(source, split)["sequence"]} for split in SPLITS]
    assert [len(names) for names in sequences] == [2, 1, 1] and not set.intersection(*sequences[:2])
    photo = photos(source, "test").iloc[1]
    assert (photo["id"], photo["frame"]) == ("GOPR0384_11_00/000002", 2)
    assert photo["path"].parent.name == "sharp" and photo["blurred"].parent.name == subset


SEQUENCE = "train/GOPR0372_07_00"
BROKEN_PAIRS = [
    (lambda at: (at / "sharp/000002.png").unlink(), "2 has 1 files in blur/ and 0 in sharp/"),
    (lambda at: (at / "blur/000002.png").unlink(), "frame 000002 has 0 files in blur/ and 1 in"),
    (lambda at: save(at / "sharp/000002.jpg", picture("x")), "1 files in blur/ and 2 in sharp/"),
    (lambda at: at.rename(at.parents[1] / at.name), "0372_07_00/blur: is neither in train/ nor"),
    (lambda at: (at / "blur").rename(at / "depth"), "frame 000001 has 0 files in blur/"),
    (lambda at: (at / "sharp").rename(at / "s"), "1 has 1 files in blur/ and 0 in sharp/"),
    (lambda at: write_gopro(at.parents[1], {"test/GOPR0372_07_00": 2}), "that of one in test/; re"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN_PAIRS)
def test_a_broken_pair_is_named_and_skipped(pairs, change, message):
    change(pairs / SEQUENCE)
    source = read_source(pairs)
    assert names_problem(source, message)
    kept = "that of" in message  # the second one is left out
    assert source.images["id"].is_unique and len({*source.problems}) == len(source.problems)
    assert (f"{SEQUENCE[6:]}/000002" in {*source.images["id"]}) == kept


def test_a_wrong_subset_and_a_half_of_gopro_are_refused(pairs):
    with pytest.raises(S3EError, match="called blur_gamma/; --set data.subset=blur"):
        read_source(pairs, "blur_gamma")
    with pytest.raises(S3EError, match="train: is one half of the pairs, .* give the folder"):
        read_source(pairs / "train")
    (pairs / "test").rename(pairs.parent / "test")
    with pytest.raises(S3EError, match="one half of the pairs, train only; give the folder"):
        read_source(pairs)


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_are_two_trees_whose_paths_agree(tmp_path, name):
    source, given = whole(write_pairs(tmp_path, *PAIRS[name])), {}
    for split, _, blurred, sharp in pair_places(*PAIRS[name]):
        given[tmp_path / blurred, tmp_path / sharp] = split
    pairs = [*source.images.itertuples()]
    assert source.kind == "pairs" and {(pair.blurred, pair.path) for pair in pairs} == {*given}
    held = {"test", "testing"} & {*given.values()} or {"val", "valid", "validation"}
    if any(given.values()):
        assert all((given[p.blurred, p.path] in held) == (p.split == "test") for p in pairs)
    videos = source.images.query("sequence != ''").groupby("sequence")["split"]
    assert videos.nunique().le(1).all() and min(sizes(source)) >= 2
    assert ("measured" in str(source.notes)) == (name in ("pix2pix", "cyclegan", "numbered"))
    numbered = {*source.images["frame"]} != {-1}
    assert numbered == (
        name in ("mprnet", "reds", "reds of one", "inner folder", "videos", "words in names")
    )


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("mprnet", "GoPro, subset blur, validation = 1 of 6 train sequences"),
        ("patches", "GoPro, subset blur, validation = 1 of 6 train sequences"),
        ("reds", "pairs, subset blur, tested on val, validation = 1 of 6 train sequences"),
        ("reds of one", "pairs, subset blur_comp, tested on val, validation = 1 of 6 train seq"),
        ("flat", "pairs, subset blur, splits as given"),
        ("prefixed", "pairs, subset blur, test = 2 of 18 pairs, validation = 2 of 16 pairs"),
        ("videos", "GoPro, subset blur, test = 1 of 6 sequences, validation = 1 of 5 sequences"),
    ],
)
def test_the_protocol_of_pairs(tmp_path, name, protocol):
    assert whole(write_pairs(tmp_path, *PAIRS[name])).protocol.startswith(protocol)


def test_realblurs_lists_give_the_splits(tmp_path):
    for kind in "JR":
        above = f"RealBlur-{kind}_ECC_IMCORR_centroid_itensity_ref/scene"
        places = above + "{k:03}/blur/blur_{n}.png", above + "{k:03}/gt/gt_{n}.png", ""
        write_pairs(tmp_path / "in", *places)
        for split, scenes in (("train", "00123"), ("test", "45")):
            named = [(b, s) for _, _, b, s in pair_places(*places) if s.split("/")[1][-1] in scenes]
            text = "".join(f"{sharp} {blurred} \r\n" for blurred, sharp in named)
            (tmp_path / f"in/RealBlur_{kind}_{split}_list.txt").write_text(text)
    source = whole(tmp_path)
    assert sizes(source) == [18, 6, 12] and {*source.images["frame"]} == {-1}
    scenes = photos(source, "val")["sequence"].str.rpartition("/")[2]
    assert scenes.nunique() == 1  # of both kinds


def many(folder, *places, same=()):
    """30 pictures of each of these places, all different but for those in `same`."""
    for place in places:
        for n in range(30):
            key = ("same" if place in same else place), n
            save(folder / place.format(n=n), picture(*key))


PLAIN = [
    ("clear/{n}.jpg", "fog/{n}.jpg"),
    ("2020-01/{n}.jpg", "2020-02/{n}.jpg"),
    ("train/{n}.jpg", "test/{n}.jpg"),
]
PLAIN += [("images/{n}.jpg", "masks/{n}.png"), ("a/{n}.jpg", "b/{n}.jpg", "c/{n}.jpg")]
PLAIN += [("input_{n}.jpg",), ("blur/{n}.jpg", "blur_gamma/{n}.jpg")]


@pytest.mark.parametrize("places", PLAIN)
def test_equal_names_alone_make_no_pairs(tmp_path, places):
    many(tmp_path, *places)
    cut(tmp_path / places[0].format(n=0))
    assert whole(tmp_path).kind == "photos" and len(whole(tmp_path).images) == 30 * len(places)
    for name in ("my blur.png", "my sharp.png"):
        save(tmp_path / name, picture(name))
    assert layout(ImageIndex(tmp_path)) == "photos"  # a pair by chance


LIKE = ("left/{n}.png", "right/{n}.png")
HIDE = "{split}/{i:04}from.png", "GT/{i:04}from.png"
UNREADABLE = [
    (lambda at: many(at, "sharp/{n}_S.jpg", "moved_blur/{n}_M.jpg"), "never agrees; name"),
    (lambda at: many(at, *LIKE, same=LIKE), "neither is clearly the blurred other"),
    (lambda at: write_pairs(at / "Test", *PAIRS["prefixed"]), "Test: is one half .* test only"),
    (lambda at: write_pairs(at, *PAIRS["flat"][:2], "train"), "one half of the pairs, train only"),
    (lambda at: write_pairs(at, *HIDE, frames=6), "never agrees; name partners alike"),
]


@pytest.mark.parametrize(("make", "message"), UNREADABLE)
def test_pairs_that_cannot_be_read_are_not_read_as_photos(tmp_path, make, message):
    make(tmp_path)
    folder = tmp_path / "Test" if "test only" in message else tmp_path
    with pytest.raises(S3EError, match=message):
        read_source(folder)
    assert read_source(folder, kind="photos").kind == "photos"  # asked for


def test_photos_without_a_partner_are_counted(tmp_path):
    folder = write_pairs(tmp_path, *PAIRS["reds"])
    many(folder, "test/test_blur/{n:08}.png", "train/depth/{n:08}.png")
    (note,) = whole(folder).notes
    assert note.startswith("photos without a partner, left alone: 60 (test/test_blur/0000")


def test_validation_sequences():
    def chosen(**counts):
        names = [name for name, count in counts.items() for _ in range(count)]
        return validation(pd.Series(names, dtype=object))

    official = {f"GOPR{n:04}_11_00": 95 for n in range(22)}
    assert len(chosen(**official)) == 3
    assert chosen(**official) == chosen(**dict(reversed(official.items())))
    assert chosen(a=10, b=10, x=1, y=1, z=1) <= {"a", "b"}  # short ones only if need be
    assert len(chosen(x=1, y=1, z=1)) == 2  # one stays in train
    assert chosen(a=10, x=1) == {"a"} and chosen(a=10) == set()
    clips = {f"{part}/GOPR{n:04}_11_{part:02}": 30 for n in range(8) for part in range(3)}
    taken = chosen(**clips)
    recordings = [{name[2:10] for name in names} for names in (taken, clips.keys() - taken)]
    assert taken and not set.intersection(*recordings)  # clips of one recording stay together


@pytest.mark.parametrize("frames", [3, 5])
def test_windows_are_consecutive_frames_of_one_sequence(pairs, frames):
    (pairs / "train/GOPR0374_11_00/sharp/000003.png").unlink()
    source = read_source(pairs)
    add_windows(source, load_config("laptop", overrides={"blur.frames": frames}))
    count = {"GOPR0372_07_00": 8, "GOPR0373_07_01": 6, "GOPR0374_11_00": 0, "GOPR0384_11_00": 6}
    reach = frames // 2
    for photo in source.images.itertuples():
        inside = reach < photo.frame <= count[photo.sequence] - reach
        numbers = range(photo.frame - reach, photo.frame + reach + 1)
        names = tuple(photo.blurred.with_name(f"{number:06}.png") for number in numbers)
        assert photo.severe == (names if inside else None) and photo.released == (photo.blurred,)


# --- any folder ---


def test_photos_are_split_by_hashed_name(tmp_path):
    source = whole(write_photos(tmp_path, 40))
    assert source.kind == "photos" and not source.captioned and not source.paired
    assert sum(sizes(source)) == 40 and "00/photo000" in {*source.images["id"]}
    before = dict(zip(source.images["id"], source.images["split"], strict=True))
    save(tmp_path / "new" / "one.PNG", picture("one"))
    images = whole(tmp_path).images
    after = dict(zip(images["id"], images["split"], strict=True))
    assert after.pop("new/one") and after == before  # nothing moves when a photo is added


def test_ids_stay_unique_and_other_files_are_counted(tmp_path):
    write_photos(tmp_path, 40)
    save(tmp_path / "00" / "photo000.png", picture("same name"))
    save(tmp_path / "00" / "._photo001.jpg", picture("hidden"))
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("taken in Rome")
    write_file(tmp_path / "annotations" / "instances_train2017.json", {})
    source = whole(tmp_path)
    assert {"00/photo000.png", "00/photo000.jpg", "00/photo003"} <= {*source.images["id"]}
    assert len(source.images) == 41 and layout(ImageIndex(tmp_path)) == "photos"
    ignored, others = source.notes
    assert ignored.endswith("ignored: 1 (._photo001.jpg)")
    assert others == "left alone: 2 .json, 1 .txt"


def test_links_are_followed_once(tmp_path):
    write_photos(tmp_path / "disk", 40)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "loop").symlink_to(tmp_path / "root")
    assert len(whole(tmp_path / "root").images) == 40


def test_names_that_are_not_utf8(tmp_path):
    write_photos(tmp_path, 40)
    try:
        os.rename(tmp_path / "00" / "photo000.jpg", os.fsencode(tmp_path) + b"/caf\xe9.jpg")
    except OSError:
        pytest.skip("this file system allows UTF-8 names only")
    source = read_source(tmp_path)
    assert r"caf\xe9" in [*source.images["id"]] and not source.problems
    assert len(source.images) == 40


def test_folders_without_photos(tmp_path):
    for count, message in ((0, "none: there is no"), (4, "fewer than 2 usable photos")):
        with pytest.raises(S3EError, match=message):
            read_source(write_photos(tmp_path / "few", count) if count else tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(S3EError, match="usable photos .0.; add photos .JPEG, "):
        read_source(tmp_path / "empty")


# --- permissions ---


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


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="permissions of another system")
def test_what_may_not_be_read_is_named():
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        coco, plain = write_coco(Path(name, "coco")), write_photos(Path(name, "photos"), 60)
        for place in (coco, coco / "images", coco / "annotations"):
            with forbidden(place), pytest.raises(S3EError, match=f"{place}: .* cannot be listed"):
                read_source(coco)
        path = coco / "annotations" / "captions_val.json"
        with forbidden(path), pytest.raises(S3EError, match="val.json: cannot be read .*permissi"):
            read_source(coco)
        with forbidden(plain / "01"):
            assert names_problem(read_source(plain), "01: the folder cannot be listed .Permission")
