"""Single photos through trained networks: the study's own numbers, any size, edits of the tree, exported folders."""

import json
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

import s3e
from s3e.blur import blur_batch
from s3e.data.scenes import make_split
from s3e.data.severity import photograph
from s3e.evaluation.image import psnr, ssim
from s3e.inference import Restorer, bundle, export
from s3e.inference.restorer import _widened
from s3e.paths import ROOT, S3EError


@pytest.fixture(scope="module")
def restorer():
    return Restorer.load()


@pytest.fixture(scope="module")
def scenes():
    found = make_split("test", 24, size=64)
    sharp = np.stack([scene.image for scene in found])
    return found, sharp, blur_batch(sharp, [scene.id for scene in found], "severe")[0]


@pytest.fixture(scope="module")
def reading(restorer, scenes):
    return restorer.read(scenes[2][1])


def test_demonstration_weights_are_small_and_say_what_they_are_for(restorer):
    files = [path for path in bundle.DEMONSTRATION.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10e6 and "no use on photographs" in restorer.about
    assert restorer.arms == ("baseline", "full") and restorer.readers == ("full", "captioner")
    assert s3e.Restorer is Restorer


def test_the_card_tells_the_truth(restorer):
    """Its severe row, from the weights alone: all 200 test scenes again."""
    text = (bundle.DEMONSTRATION / "README.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| severe"))
    told = [tuple(map(float, pair)) for pair in re.findall(r"([\d.]+) dB, ([\d.]+)", row)]
    found = make_split("test", 200, size=64)
    sharp = np.stack([scene.image for scene in found])
    blurred = blur_batch(sharp, [scene.id for scene in found], "severe")[0]
    pictures = [blurred, *(np.stack([restorer.restore(p, arm) for p in blurred]) for arm in ("baseline", "full"))]
    for (told_psnr, told_ssim), images in zip(told, pictures, strict=True):
        pairs = list(zip(images, sharp, strict=True))
        assert np.mean([psnr(*pair) for pair in pairs]) == pytest.approx(told_psnr, abs=0.02)
        assert np.mean([ssim(*pair) for pair in pairs]) == pytest.approx(told_ssim, abs=0.002)


def test_the_tree_is_read_and_the_caption_said(restorer, scenes):
    found, _, blurred = scenes
    read = [restorer.read(photo) for photo in blurred]
    right = np.mean(
        [a == b for r, s in zip(read, found, strict=True) for a, b in zip(r.nodes, s.tree.nodes, strict=True)]
    )
    assert right > 0.85
    first = read[1]
    assert first.caption == " ".join(first.words) and first.words[0] in ("a", "an", "the", "there")
    assert first.word_attention.shape == (len(first.words), 7)
    assert np.allclose(first.word_attention.sum(1), 1, atol=1e-5) and np.allclose(
        first.attention.sum((1, 2)), 1, atol=1e-5
    )
    for node in range(7):
        (label, best), *_ = first.ranking(node)
        assert label == first.nodes[node] and best == pytest.approx(first.confidence[node])


def test_the_captioner_reads_sharp_scenes_better(restorer, scenes):
    found, sharp, _ = scenes
    right = {
        name: sum(
            restorer.read(photo, name).nodes == scene.tree.nodes for photo, scene in zip(sharp, found, strict=True)
        )
        for name in restorer.readers
    }
    assert right["captioner"] > right["full"]


@pytest.mark.parametrize("shape", [(64, 64), (17, 40), (100, 237), (300, 90)])
def test_any_size_and_orientation(restorer, shape):
    photo = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    photo.setflags(write=False)
    read = restorer.read(photo)
    tall, wide = read.attention.shape[1:]
    assert min(tall, wide) == 16 and abs(tall / wide - shape[0] / shape[1]) < 0.15 * shape[0] / shape[1]
    assert restorer.restore(photo).shape == photo.shape


def test_turning_the_photo_turns_the_grid(restorer):
    photo = np.rint(255 * photograph("chelsea", 96)).astype(np.uint8)[:64]
    upright, turned = restorer.read(photo), restorer.read(np.ascontiguousarray(photo.transpose(1, 0, 2)))
    assert upright.attention.shape[1:] == turned.attention.shape[:0:-1] == (16, 24)


def test_three_lines_of_the_readme(scenes):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [lines] = re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)
    names = {"photo": scenes[2][0]}
    exec(lines, names)
    assert len(lines.splitlines()) == 3 and names["restored"].shape == names["photo"].shape


def test_maps_keep_their_place_when_the_photo_is_padded():
    import torch

    ramp = torch.linspace(0.5, 9.5, 10).expand(1, 1, 10, 10)  # one unit a cell over a photo of 100 pixels: x / 10
    wide = _widened(ramp, (100, 100, 3), (1, 3, 112, 112))
    cells = (np.arange(10) + 0.5) * 11.2 / 10  # the same, over 112 pixels
    assert np.allclose(wide[0, 0, 0, :8], cells[:8], atol=1e-4) and float(wide.max()) <= 9.5
    assert torch.equal(_widened(ramp, (112, 112, 3), (1, 3, 112, 112)), ramp)


def test_an_edited_leaf_is_read_as_asked_and_changes_the_picture(restorer, scenes, reading):
    photo = scenes[2][1]
    for leaf, label in ((0, "horse"), (2, "man"), (2, "car")):
        edited = restorer.relabel(reading, leaf, label)
        assert edited.nodes[leaf] == label != reading.nodes[leaf]
        others = [node for node in range(4) if node != leaf]
        assert np.array_equal(edited.maps[0, others], reading.maps[0, others])
        assert not np.array_equal(edited.maps[0, 6], reading.maps[0, 6]), "the root must follow its leaves"
        assert (restorer.restore(photo, reading=edited) != restorer.restore(photo, reading=reading)).any()


def test_nearly_every_edit_succeeds(restorer, reading):
    entities = restorer.labels.entities[1:]
    done = [restorer.relabel(reading, leaf, label).nodes[leaf] == label for leaf in (0, 2) for label in entities]
    assert np.mean(done) > 0.9


def test_maps_that_are_given_take_the_place_of_the_tree(restorer, scenes, reading):
    photo = scenes[2][1]
    assert (restorer.restore(photo, maps=reading.maps) == restorer.restore(photo)).all()
    assert (restorer.restore(photo, maps=reading.maps * 0) != restorer.restore(photo)).any()
    assert (restorer.restore(photo, "baseline", maps=reading.maps) == restorer.restore(photo, "baseline")).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r, p: r.restore(p, "fulll"), "no arm 'fulll'; choose one of baseline, full"),
        (lambda r, p: r.read(p, "judge"), "no reader 'judge'"),
        (lambda r, p: r.read(p.astype(float)), "must be uint8"),
        (lambda r, p: r.restore(p[:8]), "16 pixels or more"),
        (lambda r, p: r.relabel(r.read(p), 4, "dog"), "leaf 4"),
        (lambda r, p: r.relabel(r.read(p), 0, "unicorn"), "'unicorn' is unknown"),
    ],
)
def test_wrong_requests_say_what_is_right(restorer, scenes, call, message):
    with pytest.raises(S3EError, match=re.escape(message)):
        call(restorer, scenes[2][0])


def test_a_store_of_runs_restores_what_its_own_run_restored(smoke):
    mine = Restorer.load(smoke["runs"])
    assert "smoke" in mine.about and mine.readers == ("full", "captioner")
    data = smoke["runs"] / "01_data_blurring" / "all"
    blurred = np.load(data / "test_severe.npy")
    for arm, folder in (("full", "05_co_training/full-s0"), ("baseline", "06_ablation/baseline-s0")):
        kept = np.load(smoke["runs"] / folder / "restored_test.npy")
        again = np.stack([mine.restore(photo, arm) for photo in blurred])
        assert np.abs(again.astype(int) - kept).max() <= 1


def test_an_exported_folder_is_the_store_in_small(smoke, tmp_path):
    export.export(smoke["runs"], tmp_path)
    record = json.loads((tmp_path / "bundle.json").read_text())
    store, folder = Restorer.load(smoke["runs"]), Restorer.load(tmp_path)
    for name, origin in record["origin"].items():
        run = smoke["runs"].parent / origin["run"]
        outputs = json.loads((run / "done.json").read_text())["outputs"]
        assert origin["sha256"] in {about["sha256"] for about in outputs.values()}, name
    photo = np.load(smoke["runs"] / "01_data_blurring" / "all" / "test_severe.npy")[0]
    assert (store.restore(photo) == folder.restore(photo)).all()
    assert store.read(photo).caption == folder.read(photo).caption
    assert np.array_equal(store._prototypes, folder._prototypes, equal_nan=True)


def test_missing_and_damaged_weights_are_named(tmp_path, scenes):
    with pytest.raises(S3EError, match="no weights there"):
        Restorer.load(tmp_path)
    (tmp_path / "05_co_training").mkdir()
    with pytest.raises(S3EError, match="co-training is not finished"):
        Restorer.load(tmp_path)
    copy = shutil.copytree(bundle.DEMONSTRATION, tmp_path / "copy")
    (copy / "full-generator.safetensors").write_bytes(b"nothing")
    with pytest.raises(S3EError, match="full-generator.safetensors"):
        Restorer.load(copy).restore(scenes[2][0])
    (copy / "full-generator.safetensors").unlink()
    with pytest.raises(S3EError, match="full-generator.safetensors is missing"):
        Restorer.load(copy)


def test_committed_weights_are_the_bytes_that_the_record_tells():
    import hashlib

    for name, origin in json.loads((bundle.DEMONSTRATION / "bundle.json").read_text())["origin"].items():
        path = bundle.DEMONSTRATION / f"{name}.safetensors"
        assert hashlib.sha256(path.read_bytes()).hexdigest() == origin["sha256"] and load_file(path)
