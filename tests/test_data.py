"""The corpus: scenes, captioned photos, pairs and plain photos, as training reads them."""

import dataclasses
import errno
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from s3e.captions.parser import parse_caption
from s3e.captions.tree import IGNORE
from s3e.data import prepare
from s3e.data.corpus import consensus, load_corpus, to_images, to_tensor
from s3e.data.photos import load_photo, load_whole
from s3e.data.prepare import prepare_corpus
from s3e.report.sheets import severity_views
from s3e.utils import S3EError, psnr, write_file
from tests.fixtures_data import cut, small, write_coco, write_gopro, write_photos


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path / "photos")


@pytest.fixture(scope="module")
def gopro(tmp_path_factory):
    return write_gopro(tmp_path_factory.mktemp("data") / "gopro")


@pytest.fixture(scope="module")
def pairs(gopro, tmp_path_factory):
    """The corpus of `gopro`."""
    return prepare_corpus(small(gopro), tmp_path_factory.mktemp("pairs"))


# Scenes


def test_corpus_round_trip(corpus):
    again = load_corpus(corpus.folder)
    assert [len(split) for split in again.splits.values()] == [24, 8, 8]
    assert len({photo for split in again.splits.values() for photo in split.ids}) == 40
    assert {*again.train.blurred} == {"severe"} and {*again.test.blurred} == {*again.synthetic}
    assert again.severities == ("light", "moderate", "severe") and again.captioned
    assert (again.train.words == corpus.train.words).all() and again.categories
    texts = " ".join(text for row in corpus.train.captions for text in row)
    assert set(corpus.words.words[4:]) <= set(texts.lower().split())


def test_preparing_twice_gives_the_same_bytes(tiny, corpus, tmp_path):
    prepare_corpus(tiny, tmp_path / "again")
    for path in corpus.folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_examples(tiny, corpus):
    sharp, blurred, kernels = severity_views(corpus, tiny)
    assert corpus.val.psnr["light"].mean() > corpus.val.psnr["severe"].mean()
    assert all(len(own) == len(sharp) == 3 for own in [*kernels.values(), *blurred.values()])
    assert all(abs(kernel.sum() - 1) < 1e-6 for kernel in kernels["severe"])


def test_every_photo_has_its_severity_stored(corpus):
    for split in corpus.splits.values():
        for name, images in split.blurred.items():
            pairs = zip(images, split.sharp, strict=True)
            assert split.psnr[name].tolist() == [psnr(*pair) for pair in pairs]
            assert ((split.extents[name] > 0) & (split.extents[name] < 32)).all()


def test_images_become_tensors_and_back():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    tensor = to_tensor(images)
    assert tensor.shape == (1, 3, 16, 16) and tensor.min() == -1 and tensor.max() == 1
    assert (to_images(tensor) == images).all() and to_images(1.5 * tensor).max() == 255
    with pytest.raises(ValueError, match="NaN"):
        to_images(torch.full((1, 3, 2, 2), math.nan))


def test_no_chunk_is_a_single_photo(corpus):
    for count in range(2, 40):
        split = dataclasses.replace(corpus.val, ids=["x"] * count)
        for batch in range(3, 12):
            sizes = [len(rows) for rows in split.chunks(batch)]
            assert sum(sizes) == count and 2 <= min(sizes) and max(sizes) <= batch


def test_rows_without_a_severity_are_never_used(corpus):
    known = corpus.train.psnr["severe"].copy()
    known[[0, 3, 23]] = math.nan
    split = dataclasses.replace(corpus.train, psnr={"severe": known})
    left = sorted(set(range(24)) - {0, 3, 23})
    names = [split.ids[i] for i in left]
    assert split.rows("severe").tolist() == left and len(split.rows()) == 24
    drawn = [photo for step in range(3) for photo in split.draw(7, "severe", step, "k").ids]
    assert sorted(drawn) == sorted(names)  # one pass over 21 photos
    assert np.concatenate(split.chunks(4, "severe")).tolist() == left
    with pytest.raises(ValueError, match="others do not have it"):
        split.batch(np.array([2, 3]), "severe")
    assert split.batch(np.array([2, 3]), "sharp").ids == split.ids[2:4]


def test_frames_of_one_video_are_spread(corpus):
    ids = [f"a/{n}" for n in range(4)] + [f"b/{n}" for n in range(2)] + ["c/0"]
    split = dataclasses.replace(corpus.val, ids=ids)
    order = [ids[row][0] for row in split.apart(np.arange(7))]
    assert sorted(order) == [*"aaaabbc"]
    assert all(first != second for first, second in zip(order, order[1:], strict=False))
    assert split.apart(np.array([1, 3])).tolist() == [1, 3]  # within a video the order stays


# Captioned photos


def test_coco_folder_becomes_a_corpus(coco, tmp_path):
    corpus = prepare_corpus(small(coco), tmp_path / "corpus")
    assert corpus.train.sharp.shape == (20, 32, 32, 3) and corpus.train.label_maps is None
    assert corpus.captioned and corpus.protocol.endswith("val split halved by id")
    caption = corpus.val.captions[0][0]
    assert corpus.words.decode(corpus.val.words[0, 0].tolist()) == caption.lower().strip(".")
    nodes = consensus([parse_caption(text) for text in corpus.val.captions[0]])
    assert corpus.val.targets[0].tolist() == corpus.labels.encode(nodes)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_bytes_do_not_depend_on_threads_chunks_or_what_a_stopped_run_left(
    coco, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    whole = prepare_corpus(small(coco), tmp_path / "whole")
    expected = load_photo(coco / "images" / "000003.jpg", 32)
    assert (whole.train.sharp[whole.train.ids.index("3")] == expected).all()
    monkeypatch.setattr(prepare, "CHUNK", 3)
    monkeypatch.setattr(prepare, "cores", lambda: 3)
    again = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "write_file", full)
        with pytest.raises(S3EError, match=r"again .*the disk is full\): .* the variable S3E_RUNS"):
            prepare_corpus(small(coco), again)
    assert [*again.glob("*_sharp.npy")]
    prepare_corpus(small(coco), again)
    assert contents(again) == contents(whole.folder)


def test_places_that_cannot_be_written_are_named(coco, tmp_path):
    (tmp_path / "file").write_text("a file where the folder should be")
    with pytest.raises(S3EError, match=r"cannot be written \(.+\): choose another place"):
        prepare_corpus(small(coco), tmp_path / "file" / "corpus")


def edit_captions(folder, split, change):
    path = folder / "annotations" / f"captions_{split}.json"
    content = json.loads(path.read_text())
    content["annotations"] = change(content["annotations"])
    path.write_text(json.dumps(content))


def test_photos_may_have_different_numbers_of_captions(coco, tmp_path):
    def some(items):
        return [item for k, item in enumerate(items) if k % 5 < 2 or k % 10 < 5]

    edit_captions(coco, "val", some)
    corpus = prepare_corpus(small(coco), tmp_path / "corpus")
    counts = {len(texts) for split in (corpus.val, corpus.test) for texts in split.captions}
    assert counts == {2, 5} and corpus.val.words.shape[1] == 5  # word ids repeat, references don't


def test_captions_that_show_nothing(coco, tmp_path):
    edit_captions(coco, "train", lambda items: [i | {"caption": "it is quickly"} for i in items])
    with pytest.raises(S3EError, match="no training caption names anything that can be seen"):
        prepare_corpus(small(coco), tmp_path / "corpus")


def test_consensus_is_the_most_frequent_label():
    texts = ("a fox chases a ball", "a fox chases a cat", "a fox chases a cat")
    assert consensus([parse_caption(text) for text in texts]).entities[2] == "cat"
    assert consensus([None]) is None


def test_broken_photos_are_named_or_left_out(coco, tmp_path):
    cut(coco / "images" / "000001.jpg")
    with pytest.raises(S3EError, match="000001.jpg: .*skip_broken"):
        prepare_corpus(small(coco), tmp_path / "corpus")
    corpus = prepare_corpus(small(coco, data_skip_broken=True), tmp_path / "corpus")
    assert len(corpus.train) == 19 and "1" not in corpus.train.ids
    assert len(corpus.left_out) == 1 and "000001.jpg" in corpus.left_out[0]


# Pairs


def test_pairs_become_a_corpus_without_captions(gopro, pairs):
    assert not pairs.captioned and pairs.severities == ("released", "severe")
    assert not pairs.synthetic and not (pairs.folder / "vocabulary.json").exists()
    severe = "severe = mean of 3 windows (variant B, released frames)"
    assert pairs.protocol.endswith(f"{severe}, tested on central 32-px crops")
    assert pairs.notes[0].startswith("no severe view, as the video ends near: 8 (GOPR0384_11_00/")
    batch = pairs.test.batch(np.arange(3), "released")
    assert batch.words.tolist() == [[0]] * 3 and batch.tree.tolist() == [[IGNORE] * 7] * 3
    assert pairs.test.targets.shape == (6, 7) and pairs.test.captions == [[]] * 6
    assert np.isnan(pairs.test.extents["released"]).all()
    assert np.nanmean(pairs.val.psnr["released"]) > np.nanmean(pairs.val.psnr["severe"])
    _, blurred, kernels = severity_views(pairs, small(gopro))
    assert {*blurred} == {"released", "severe"} and not kernels


def test_pairs_are_cropped_alike_and_severe_ones_are_means_of_windows(gopro, pairs):
    split = pairs.test

    def crops(view):
        paths = [gopro / f"test/GOPR0384_11_00/{view}/{n:06}.png" for n in range(1, 7)]
        return np.stack([load_photo(path, 32, 45) for path in paths])

    assert (split.sharp == crops("sharp")).all()
    assert (split.blurred["released"] == crops("blur")).all()
    assert split.rows("severe").tolist() == [1, 2, 3, 4]
    for row in range(1, 5):
        window = crops("blur")[row - 1 : row + 2].astype(float)
        assert np.abs(split.blurred["severe"][row] - window.mean(0)).max() <= 0.5
        assert split.psnr["severe"][row] == psnr(split.blurred["severe"][row], split.sharp[row])


def test_whole_frames_of_the_test_split(tmp_path):
    gopro = write_gopro(tmp_path / "gopro")
    corpus = prepare_corpus(small(gopro, data_whole_frames=True), tmp_path / "corpus")
    assert corpus.test.sharp.shape == (6, 54, 96, 3) and corpus.train.sharp.shape[1:] == (32, 32, 3)
    paths = [gopro / f"test/GOPR0384_11_00/blur/{n:06}.png" for n in (2, 3, 4)]
    frames = [load_whole(path).astype(float) for path in paths]
    assert (corpus.test.blurred["released"][2] == frames[1]).all()
    assert np.abs(corpus.test.blurred["severe"][2] - np.mean(frames, 0)).max() <= 0.5
    assert corpus.protocol.endswith("shorter side of 45 px, tested on whole frames of full size")
    for view, colour in (("blur", "red"), ("sharp", "blue")):
        Image.new("RGB", (90, 54), colour).save(gopro / f"test/GOPR0384_11_00/{view}/000004.png")
    odd = r"000004.png has 90 x 54 pixels: --set data.whole_frames=false"
    with pytest.raises(S3EError, match=odd):
        prepare_corpus(small(gopro, data_whole_frames=True), tmp_path / "corpus")


def test_limits_spread_pairs_over_the_videos_and_keep_their_windows(gopro, pairs, tmp_path):
    full, few = pairs.test, prepare_corpus(small(gopro, data_test=3), tmp_path / "few").test
    assert few.ids == full.ids[::2] and few.rows("severe").tolist() == [1, 2]
    assert (few.blurred["severe"][1:] == full.blurred["severe"][2::2]).all()


def test_frames_without_numbers_are_released_and_never_severe(tmp_path):
    gopro = write_gopro(tmp_path / "gopro")
    for photo in gopro.glob("*/*/*/*.png"):
        photo.rename(photo.with_stem(f"frame{photo.stem}"))
    split = prepare_corpus(small(gopro, blur_severity="released"), tmp_path / "corpus").test
    paths = [gopro / "test" / name.replace("/", "/blur/") for name in split.ids]
    assert (
        split.blurred["released"] == [load_photo(f"{path}.png", 32, 45) for path in paths]
    ).all()
    assert len(split) == 6 and "severe" not in split.blurred


def test_videos_too_short_for_windows(tmp_path, capsys):
    counts = {"train/GOPR0001_07_00": 6, "train/GOPR0002_07_00": 6, "test/GOPR0003_07_00": 3}
    gopro = write_gopro(tmp_path / "gopro", counts)
    few = "needs 3 consecutive frames, which fewer than 2 pairs of the test split have"
    with pytest.raises(S3EError, match=few):
        prepare.read(small(gopro))  # before any photo is decoded, thus before a notebook runs
    assert prepare.check(gopro) == 0 and few in capsys.readouterr().out
    corpus = prepare_corpus(small(gopro, blur_severity="released"), tmp_path / "corpus")
    assert corpus.severities == ("released",) and "severe" not in corpus.protocol


def test_words_and_labels_of_captioned_data(pairs, corpus):
    other = load_corpus(pairs.folder, vocabulary=corpus.folder)
    assert other.words.words == corpus.words.words
    assert other.labels.entities == corpus.labels.entities
    assert not other.captioned and (other.val.targets == IGNORE).all()
    with pytest.raises(S3EError, match="vocabulary.json does not exist"):
        load_corpus(corpus.folder, vocabulary=pairs.folder)


# Plain photos, and settings that data do not have


def test_plain_photos_without_those_that_the_captioner_was_trained_on(coco, tmp_path):
    photos, params = (
        write_photos(tmp_path / "plain", 60),
        {"config": {"data": {"source": str(coco)}}},
    )
    write_file(tmp_path / "store" / "01_data_blurring" / "all" / "params.json", params)
    config = small(photos).model_copy(update={"semantics_from": str(tmp_path / "store")})
    before = prepare_corpus(config, tmp_path / "before")
    assert not before.captioned and before.severities == ("light", "moderate", "severe")
    assert sum(map(len, before.splits.values())) == 60
    assert "severe" in severity_views(before, config)[-1]
    taken, known = before.test.ids[0], min((coco / "images").iterdir())
    known.write_bytes((photos / f"{taken}.jpg").read_bytes())
    after = prepare_corpus(config, tmp_path / "after")
    assert after.test.ids == before.test.ids[1:] and after.val.ids == before.val.ids
    assert f"test photos left out, alike a photo of {coco}: 1 ({taken})" in after.notes


def test_settings_that_do_not_fit_the_data(coco, gopro, tmp_path):
    with pytest.raises(S3EError, match="'light', but .*gopro holds pairs.*released or severe"):
        prepare_corpus(small(gopro, blur_severity="light"), tmp_path / "corpus")
    with pytest.raises(S3EError, match="'released', but .*photos holds sharp photos alone"):
        prepare_corpus(small(coco, blur_severity="released"), tmp_path / "corpus")
