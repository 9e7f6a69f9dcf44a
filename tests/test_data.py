"""The corpus: scenes, captioned photos, pairs and plain photos, as training and evaluation read them."""

import dataclasses
import json
import math

import numpy as np
import pytest
from PIL import Image

from s3e.captions.parser import parse_caption
from s3e.captions.tree import IGNORE
from s3e.config import load_config
from s3e.data.corpus import consensus, load_corpus
from s3e.data.photos import load_photo, load_whole
from s3e.data.prepare import prepare_corpus, write_summary
from s3e.evaluation.images import psnr
from s3e.utils import S3EError, read_json, write_json
from tests.conftest import PHOTOS
from tests.fixtures_data import write_coco, write_gopro, write_photos

REAL = PHOTOS.with_name("captioned_photos_coco")
SMALL = {"data.size": 32, "data.train": 0, "data.val": 0, "data.test": 0, "evaluation.samples": 2}


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    """Caches of the tests lie in their own folder."""
    monkeypatch.setattr("s3e.utils.RUNS", tmp_path / "runs")
    return tmp_path / "runs"


def small(folder, **settings):
    overrides = SMALL | {name.replace("_", ".", 1): value for name, value in settings.items()}
    return load_config("smoke", data=str(folder), overrides=overrides)


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path / "photos")


@pytest.fixture
def gopro(tmp_path):
    return write_gopro(tmp_path / "gopro")


# Scenes


def test_corpus_round_trip(corpus):
    again = load_corpus(corpus.folder)
    assert [len(split) for split in again.splits.values()] == [24, 8, 8]
    assert not set(again.train.ids) & set(again.val.ids) and not set(again.val.ids) & set(
        again.test.ids
    )
    assert set(again.train.blurred) == {"severe"} and set(again.test.blurred) == {
        "light",
        "moderate",
        "severe",
    }
    assert (
        again.severities == ("light", "moderate", "severe") and again.captioned and again.categories
    )
    assert (
        again.train.words == corpus.train.words
    ).all() and again.words.words == corpus.words.words


def test_vocabularies_come_from_training_captions_alone(corpus):
    words = {
        word
        for row in corpus.train.captions
        for text in row
        for word in text.lower().strip(".").split()
    }
    assert {word for word in corpus.words.words[4:]} <= {word.strip(".,!") for word in words}


def test_preparing_twice_gives_the_same_bytes(tiny, corpus, tmp_path):
    prepare_corpus(tiny, tmp_path / "again")
    for path in corpus.folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_summary_files(tiny, corpus, tmp_path):
    metrics = write_summary(corpus, tiny, tmp_path)
    assert metrics["val_light_psnr_blurred"] > metrics["val_severe_psnr_blurred"]
    samples = np.load(tmp_path / "samples.npz")
    np.testing.assert_allclose(samples["kernel_severe"].sum((1, 2)), 1, atol=1e-6)


def test_every_photo_has_its_severity_stored(corpus):
    for split in corpus.splits.values():
        for name, images in split.blurred.items():
            assert split.psnr[name] == [
                psnr(*pair) for pair in zip(images, split.sharp, strict=True)
            ]
            assert all(0 < value < 32 for value in split.extents[name])


def test_no_chunk_is_a_single_photo(corpus):
    for count in range(2, 40):
        split = dataclasses.replace(corpus.val, ids=["x"] * count)
        for batch in range(3, 12):
            sizes = [len(rows) for rows in split.chunks(batch)]
            assert sum(sizes) == count and 2 <= min(sizes) and max(sizes) <= batch


def test_rows_without_a_severity_are_never_used(corpus):
    split = dataclasses.replace(corpus.train, missing={"severe": [0, 3, 23]})
    left = sorted(set(range(24)) - {0, 3, 23})
    assert (
        split.rows("severe").tolist() == left
        and len(split.rows()) == len(split.rows("sharp")) == 24
    )
    drawn = [split.draw(7, "severe", step, "k").ids for step in range(3)]
    assert sorted(sum(drawn, [])) == sorted(split.ids[i] for i in left)  # one pass over 21 photos
    assert (
        np.concatenate(split.chunks(4, "severe")).tolist() == left
        and sum(map(len, split.chunks(4))) == 24
    )
    assert [photo for batch in split.batches(4, "severe") for photo in batch.ids] == [
        split.ids[i] for i in left
    ]
    with pytest.raises(ValueError, match="some of these photos have no 'severe'"):
        split.batch(np.array([2, 3]), "severe")
    assert split.batch(np.array([2, 3]), "sharp").ids == split.ids[2:4]


# Captioned photos


def test_coco_folder_becomes_a_corpus(coco, tmp_path):
    corpus = prepare_corpus(small(coco), tmp_path / "corpus")
    assert (
        corpus.train.sharp.shape == (20, 32, 32, 3)
        and corpus.train.labels is None
        and not corpus.categories
    )
    assert corpus.captioned and corpus.protocol.endswith("val split halved by id")
    caption = corpus.val.captions[0][0]
    assert corpus.words.decode(corpus.val.words[0, 0].tolist()) == caption.lower().strip(".")
    nodes = consensus([parse_caption(text) for text in corpus.val.captions[0]])
    assert corpus.val.targets[0].tolist() == corpus.labels.encode(nodes)


def test_photos_in_the_corpus_are_those_of_the_cache(coco, tmp_path, runs, monkeypatch):
    corpus = prepare_corpus(small(coco), tmp_path / "corpus")
    (cache,) = (runs / "cache").glob("photos-*")
    for view in ("train_sharp", "train_severe", "test_light"):
        assert (tmp_path / "corpus" / f"{view}.npy").samefile(cache / f"{view}.npy")
    expected = load_photo(coco / "images" / "000003.jpg", 32)
    assert (corpus.train.sharp[corpus.train.ids.index("3")] == expected).all()
    monkeypatch.setattr("s3e.data.prepare._make_view", None)  # a second study decodes nothing
    again = prepare_corpus(small(coco, text_min_count=2), tmp_path / "again")
    assert (again.train.sharp == corpus.train.sharp).all() and len(again.words) <= len(corpus.words)


def test_links_become_copies_where_links_are_not_possible(coco, tmp_path, runs, monkeypatch):
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    prepare_corpus(small(coco), tmp_path / "corpus")
    (cache,) = (runs / "cache").glob("photos-*")
    copy, kept = tmp_path / "corpus" / "val_severe.npy", cache / "val_severe.npy"
    assert copy.read_bytes() == kept.read_bytes() and not copy.samefile(kept)


def test_photos_may_have_different_numbers_of_captions(coco, tmp_path):
    path = coco / "annotations" / "captions_val.json"
    content = json.loads(path.read_text())
    content["annotations"] = [
        item for item in content["annotations"] if item["id"] % 10 < 2 or item["id"] % 20 < 10
    ]
    path.write_text(json.dumps(content))
    corpus = prepare_corpus(small(coco), tmp_path / "corpus")
    counts = {len(texts) for split in (corpus.val, corpus.test) for texts in split.captions}
    assert (
        counts == {2, 5} and corpus.val.words.shape[1] == 5
    )  # references stay as they are, word ids repeat


def test_captions_that_show_nothing(coco, tmp_path):
    path = coco / "annotations" / "captions_train.json"
    content = json.loads(path.read_text())
    for item in content["annotations"]:
        item["caption"] = "it is very quickly"
    path.write_text(json.dumps(content))
    with pytest.raises(S3EError, match="no training caption names anything that can be seen"):
        prepare_corpus(small(coco), tmp_path / "corpus")


def test_consensus_is_the_most_frequent_label():
    trees = [
        parse_caption(text)
        for text in ("a fox chases a ball", "a fox chases a cat", "a fox chases a cat")
    ]
    assert consensus(trees).entities[2] == "cat" and consensus([None]) is None


def test_broken_photos_are_named_or_left_out_and_told(coco, tmp_path):
    (coco / "images" / "000001.jpg").write_bytes(b"\xff\xd8broken")
    with pytest.raises(S3EError, match="000001.jpg: .*skip_broken"):
        prepare_corpus(small(coco), tmp_path / "corpus")
    corpus = prepare_corpus(small(coco, data_skip_broken=True), tmp_path / "corpus")
    assert len(corpus.train) == 19 and "1" not in corpus.train.ids
    assert len(corpus.left_out) == 1 and "000001.jpg" in corpus.left_out[0]


@pytest.mark.parametrize("field", ["train", "test"])
def test_limits_that_leave_too_few_photos(coco, tmp_path, field):
    with pytest.raises(
        S3EError, match=f"fewer than 2 photos for the {field} split: set data.{field}"
    ):
        prepare_corpus(small(coco, **{f"data_{field}": 1}), tmp_path / "corpus")


# Pairs


def test_pairs_become_a_corpus_without_captions(gopro, tmp_path):
    corpus = prepare_corpus(small(gopro), tmp_path / "corpus")
    assert (
        not corpus.captioned and corpus.severities == ("released", "severe") and not corpus.left_out
    )
    assert corpus.protocol.endswith(
        "severe = mean of 3 windows (variant B, released frames), tested on central 32-px crops"
    )
    assert (
        set(corpus.train.blurred) == {"severe"} and not (corpus.folder / "vocabulary.json").exists()
    )
    batch = corpus.test.batch(np.arange(3), "released")
    assert (
        batch.words.tolist() == [[0]] * 3
        and batch.tree.tolist() == [[IGNORE] * 7] * 3
        and batch.labels is None
    )
    assert (
        corpus.test.targets.shape == (6, 7)
        and len(corpus.words) == 4
        and corpus.test.captions == [[]] * 6
    )
    assert all(map(math.isnan, corpus.test.extents["released"]))


def test_pairs_are_cropped_alike_and_severe_ones_are_means_of_windows(gopro, tmp_path):
    split = prepare_corpus(small(gopro), tmp_path / "corpus").test
    frames = [gopro / "test/GOPR0384_11_00/{}/{:06}.png".format("{}", n) for n in range(1, 7)]

    def crops(view):
        return np.stack([load_photo(str(path).format(view), 32, 45) for path in frames])

    assert (split.sharp == crops("sharp")).all() and (
        split.blurred["released"] == crops("blur")
    ).all()
    assert split.missing == {"severe": [0, 5]} and split.rows("released", "severe").tolist() == [
        1,
        2,
        3,
        4,
    ]
    for row in range(1, 5):
        window = crops("blur")[row - 1 : row + 2].astype(float)
        assert np.abs(split.blurred["severe"][row] - window.mean(0)).max() <= 0.5
        assert split.psnr["severe"][row] == psnr(split.blurred["severe"][row], split.sharp[row])
    assert (
        math.isnan(split.psnr["severe"][0]) and split.psnr["severe"][2] < split.psnr["released"][2]
    )


def test_whole_frames_of_the_test_split(gopro, tmp_path):
    corpus = prepare_corpus(small(gopro, data_whole_frames=True), tmp_path / "corpus")
    assert corpus.test.sharp.shape == (6, 54, 96, 3) and corpus.train.sharp.shape[1:] == (32, 32, 3)
    frames = [
        load_whole(gopro / f"test/GOPR0384_11_00/blur/{n:06}.png").astype(float) for n in (2, 3, 4)
    ]
    assert (corpus.test.blurred["released"][2] == frames[1]).all()
    assert np.abs(corpus.test.blurred["severe"][2] - np.mean(frames, 0)).max() <= 0.5
    assert corpus.test.batch(np.arange(1, 3), "severe").blurred.shape == (2, 3, 54, 96)
    assert corpus.protocol.endswith("shorter side of 45 px, tested on whole frames of full size")


def test_whole_frames_need_one_size(gopro, tmp_path):
    for view in ("blur", "sharp"):
        Image.new("RGB", (90, 54)).save(gopro / f"test/GOPR0384_11_00/{view}/000004.png")
    with pytest.raises(
        S3EError, match=r"000004.png has 90 x 54 pixels: --set data.whole_frames=false"
    ):
        prepare_corpus(small(gopro, data_whole_frames=True), tmp_path / "corpus")


def test_limits_spread_pairs_over_the_videos_and_keep_their_windows(gopro, tmp_path):
    full = prepare_corpus(small(gopro), tmp_path / "full").test
    few = prepare_corpus(small(gopro, data_test=3), tmp_path / "few").test
    assert few.ids == full.ids[::2] and few.missing == {"severe": [0]}
    assert (few.blurred["severe"][1:] == full.blurred["severe"][2::2]).all()


def test_videos_too_short_for_windows(tmp_path):
    counts = {"train/GOPR0001_07_00": 6, "train/GOPR0002_07_00": 6, "test/GOPR0003_07_00": 3}
    gopro = write_gopro(tmp_path / "gopro", counts)
    with pytest.raises(
        S3EError,
        match="needs 3 consecutive frames, which fewer than 2 pairs of the test split have",
    ):
        prepare_corpus(small(gopro), tmp_path / "corpus")
    corpus = prepare_corpus(small(gopro, blur_severity="released"), tmp_path / "corpus")
    assert corpus.severities == ("released",) and "severe" not in corpus.protocol


def test_words_and_labels_borrowed_from_captioned_data(gopro, corpus, tmp_path):
    prepare_corpus(small(gopro), tmp_path / "corpus")
    borrowed = load_corpus(tmp_path / "corpus", vocabulary=corpus.folder)
    assert (
        borrowed.words.words == corpus.words.words
        and borrowed.labels.entities == corpus.labels.entities
    )
    assert (
        not borrowed.captioned
        and not borrowed.categories
        and (borrowed.val.targets == IGNORE).all()
    )
    with pytest.raises(S3EError, match="vocabulary.json does not exist"):
        load_corpus(corpus.folder, vocabulary=tmp_path / "corpus")


def test_summary_of_pairs(gopro, tmp_path):
    config = small(gopro)
    corpus = prepare_corpus(config, tmp_path / "corpus")
    metrics = write_summary(corpus, config, tmp_path)
    assert (
        metrics["val_released_psnr_blurred"] > metrics["val_severe_psnr_blurred"]
        and "words" not in metrics
    )
    assert read_json(tmp_path / "references.json") == {}
    samples = np.load(tmp_path / "samples.npz")
    assert (
        set(samples.files) == {"ids", "sharp", "released", "severe"}
        and samples["ids"][0] == corpus.val.ids[1]
    )
    lines = (tmp_path / "severity.csv").read_text().splitlines()
    counts = {name: sum(f"test,{name}" in line for line in lines) for name in corpus.severities}
    assert counts == {"released": 6, "severe": 4}


# Plain photos, and severities that data do not have


def test_plain_photos_are_blurred_like_captioned_ones(tmp_path):
    photos = write_photos(tmp_path / "photos", 60)
    config = small(photos)
    corpus = prepare_corpus(config, tmp_path / "corpus")
    assert not corpus.captioned and corpus.severities == ("light", "moderate", "severe")
    assert sum(map(len, corpus.splits.values())) == 60
    write_summary(corpus, config, tmp_path)
    assert "kernel_severe" in np.load(tmp_path / "samples.npz").files


def test_severities_that_do_not_fit_the_data(gopro, coco, tmp_path):
    with pytest.raises(
        S3EError, match="blur.severity is 'light', but .*gopro holds pairs.*released or severe"
    ):
        prepare_corpus(small(gopro, blur_severity="light"), tmp_path / "corpus")
    with pytest.raises(
        S3EError, match="blur.severity is 'released', but .*photos holds sharp photos alone"
    ):
        prepare_corpus(small(coco, blur_severity="released"), tmp_path / "corpus")


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no captioned photos at {REAL} (set S3E_PHOTOS)")
def test_real_photos_and_captions(tmp_path):
    config = load_config("smoke", data=str(REAL), overrides={"data.train": 40, "data.size": 32})
    corpus = prepare_corpus(config, tmp_path / "corpus")
    assert (
        len(corpus.train) == 40 and (corpus.train.trees[..., :4] > 0).any(-1).float().mean() > 0.9
    )


def test_frames_of_one_video_are_spread(corpus):
    ids = [f"a/{n}" for n in range(4)] + [f"b/{n}" for n in range(2)] + ["c/0"]
    split = dataclasses.replace(corpus.val, ids=ids)
    order = [ids[row][0] for row in split.spread(np.arange(7))]
    assert sorted(order) == [*"aaaabbc"] and all(
        x != y for x, y in zip(order, order[1:], strict=False)
    )
    assert split.spread(np.array([1, 3])).tolist() == [1, 3]  # within a video the order stays
    assert (corpus.val.spread(corpus.val.rows()) == corpus.val.rows()).all()


def test_missing_severe_views_are_told(gopro, tmp_path):
    notes = prepare_corpus(small(gopro), tmp_path / "corpus").notes
    assert any(note.startswith("of 6 test pairs 2 have no severe view") for note in notes), notes


def test_photos_that_the_borrowed_captioner_was_trained_on_are_left_out(tmp_path):
    captioned = write_coco(tmp_path / "captioned")
    photos = write_photos(tmp_path / "photos", 60)
    params = {"config": {"data": {"source": str(captioned)}}}
    write_json(tmp_path / "store" / "01_data_blurring" / "all" / "params.json", params)
    config = small(photos).model_copy(update={"semantics_from": str(tmp_path / "store")})
    before = prepare_corpus(config, tmp_path / "before")
    taken, known = before.test.ids[0], min((captioned / "images").iterdir())
    known.write_bytes((photos / f"{taken}.jpg").read_bytes())
    after = prepare_corpus(config, tmp_path / "after")
    assert after.test.ids == before.test.ids[1:] and after.val.ids == before.val.ids
    assert any(
        f"test photos left out, alike a photo of {captioned}: 1 ({taken})" in n for n in after.notes
    )
