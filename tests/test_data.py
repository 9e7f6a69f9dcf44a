"""The corpus on disk, and COCO-layout folders with their mistakes."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from s3e.config import load_config
from s3e.data.coco import load_photo, read_folder
from s3e.data.corpus import consensus, load_corpus, prepare_corpus
from s3e.data.summary import write_summary
from s3e.parsing import IGNORE, parse_caption
from s3e.paths import S3EError
from tests.conftest import PHOTOS

TEXTS = ["A dog chases a ball.", "The ball is chased by a dog.", "a brown dog chasing a ball", "dog chases ball", "?!"]


def write_coco(folder, counts=None):
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    generator = np.random.default_rng(0)
    number = 0
    for split, count in (counts or {"train": 20, "val": 12}).items():
        images, annotations = [], []
        for _ in range(count):
            number += 1
            name = f"{number:06}.jpg"
            Image.fromarray(generator.integers(0, 255, (40, 56, 3), dtype=np.uint8)).save(folder / "images" / name)
            images.append({"id": number, "file_name": name})
            annotations += [{"image_id": number, "id": 10 * number + k, "caption": t} for k, t in enumerate(TEXTS)]
        content = {"images": images, "annotations": annotations}
        (folder / "annotations" / f"captions_{split}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path / "photos")


def small(folder):
    return load_config(
        "smoke", data=str(folder), overrides={"data.size": 32, "data.train": 0, "data.val": 0, "data.test": 0}
    )


def test_corpus_round_trip(corpus):
    again = load_corpus(corpus.folder)
    assert [len(split) for split in again.splits.values()] == [24, 8, 8]
    assert not set(again.train.ids) & set(again.val.ids) and not set(again.val.ids) & set(again.test.ids)
    assert set(again.train.blurred) == {"severe"} and set(again.test.blurred) == {"light", "moderate", "severe"}
    assert (again.train.words == corpus.train.words).all() and again.words.words == corpus.words.words


def test_vocabularies_come_from_training_captions_alone(corpus):
    words = {word for row in corpus.train.captions for text in row for word in text.lower().strip(".").split()}
    assert {word for word in corpus.words.words[4:]} <= {word.strip(".,!") for word in words}


def test_preparing_twice_gives_the_same_bytes(tiny, corpus, tmp_path):
    prepare_corpus(tiny, tmp_path)
    for path in corpus.folder.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_summary_files(tiny, corpus, tmp_path):
    metrics = write_summary(corpus, tiny, tmp_path)
    assert metrics["val_light_psnr_blurred"] > metrics["val_severe_psnr_blurred"]
    samples = np.load(tmp_path / "samples.npz")
    np.testing.assert_allclose(samples["kernel_severe"].sum((1, 2)), 1, atol=1e-6)


def test_coco_folder_is_split_by_id_without_overlap(coco):
    splits = read_folder(coco)
    assert len(splits["train"]) == 20 and len(splits["val"]) + len(splits["test"]) == 12
    assert splits["val"] and splits["test"]
    assert not {p.id for p in splits["val"]} & {p.id for p in splits["test"]}
    assert [p.id for p in read_folder(coco)["val"]] == [p.id for p in splits["val"]]


def test_coco_folder_becomes_a_corpus(coco, tmp_path):
    corpus = prepare_corpus(small(coco), tmp_path / "corpus")
    assert corpus.train.sharp.shape == (20, 32, 32, 3) and corpus.train.labels is None and not corpus.categories
    assert corpus.labels.decode(corpus.val.targets[0].tolist()).nodes == parse_caption(TEXTS[0]).nodes
    assert (corpus.train.trees[:, 4] == IGNORE).all()  # "?!" shows nothing


def test_photos_may_have_different_numbers_of_captions(coco, tmp_path):
    path = coco / "annotations" / "captions_val.json"
    content = json.loads(path.read_text())
    content["annotations"] = [item for item in content["annotations"] if item["id"] % 10 < 2 or item["id"] % 20 < 10]
    path.write_text(json.dumps(content))
    corpus = prepare_corpus(small(coco), tmp_path / "corpus")
    counts = {len(texts) for split in (corpus.val, corpus.test) for texts in split.captions}
    assert counts == {2, 5} and corpus.val.words.shape[1] == 5  # references stay as they are, word ids repeat


def test_no_chunk_is_a_single_photo(corpus):
    for count in range(2, 40):
        split = dataclasses.replace(corpus.val, ids=["x"] * count)
        for batch in range(3, 12):
            sizes = [len(rows) for rows in split.chunks(batch)]
            assert sum(sizes) == count and 2 <= min(sizes) and max(sizes) <= batch


def test_consensus_is_the_most_frequent_label():
    trees = [parse_caption(text) for text in ("a dog chases a ball", "a dog chases a cat", "a dog chases a cat")]
    assert consensus(trees).entities[2] == "cat" and consensus([None]) is None


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P", "I;16"])
def test_every_kind_of_photo_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("photo.tif" if mode in ("CMYK", "I;16") else "photo.png")
    picture = Image.new("I;16", (50, 30)) if mode == "I;16" else Image.new("RGB", (50, 30), "red").convert(mode)
    picture.save(path)
    assert load_photo(path, 32).shape == (32, 32, 3)


def test_broken_folders_are_named(tmp_path, coco):
    with pytest.raises(S3EError, match="captions_train"):
        read_folder(tmp_path / "empty")
    (coco / "images" / "000001.jpg").write_bytes(b"\xff\xd8broken")
    with pytest.raises(S3EError, match="000001.jpg: cannot be read"):
        prepare_corpus(small(coco), tmp_path / "corpus")
    (coco / "images" / "000001.jpg").unlink()
    with pytest.raises(S3EError, match="000001.jpg: listed in the annotations but not there"):
        prepare_corpus(small(coco), tmp_path / "corpus")
    (coco / "annotations" / "captions_val.json").write_text("{}")
    with pytest.raises(S3EError, match="captions_val.json: not in COCO-captions layout"):
        read_folder(coco)
    (coco / "annotations" / "captions_val.json").write_text("{")
    with pytest.raises(S3EError, match="captions_val.json is not valid JSON"):
        read_folder(coco)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no captioned photos at {PHOTOS} (set S3E_PHOTOS)")
def test_real_photos_and_captions(tmp_path):
    config = load_config("smoke", data=str(PHOTOS), overrides={"data.train": 40, "data.size": 32})
    corpus = prepare_corpus(config, tmp_path)
    assert len(corpus.train) == 40 and (corpus.train.trees[..., :4] > 0).any(-1).float().mean() > 0.9
