"""Single photos through trained networks: the study's own numbers, any size, tiles, swapped leaves,
exported folders.
"""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

import s3e
from s3e.blur import blur_batch
from s3e.data.scenes import make_split
from s3e.evaluation.images import psnr, ssim
from s3e.inference import restorer
from s3e.inference.restorer import DEMONSTRATION, OVERLAP, Restorer, _cut, _maps_below
from s3e.utils import ROOT, S3EError, file_digest
from tests.fixtures_data import picture

TILE = 2 * OVERLAP


@pytest.fixture(scope="module")
def mine():
    return Restorer.load()


@pytest.fixture(scope="module")
def scenes():
    found = make_split("test", 24, size=64)
    sharp = np.stack([scene.image for scene in found])
    return found, sharp, blur_batch(sharp, [scene.id for scene in found], "severe")[0]


@pytest.fixture(scope="module")
def large():
    return picture("tiles", size=(700, 300))


# The demonstration weights


def test_demonstration_weights_are_small_and_say_what_they_are_for(mine):
    files = [path for path in DEMONSTRATION.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10e6
    assert "no use on photographs" in mine.about and s3e.Restorer is Restorer
    assert [*mine.variants] == ["baseline", "full"] and [*mine.readers] == ["full", "captioner"]
    for path in [*mine.variants.values(), *mine.readers.values()]:
        done = json.loads(path.with_name("done.json").read_text())
        assert file_digest(path) == done["outputs"][path.name]["sha256"] and load_file(path)


def test_the_card_tells_the_truth(mine):
    """Its severe scores, from the weights alone: all 200 test scenes again."""
    text = (DEMONSTRATION / "README.md").read_text(encoding="utf-8")
    [told] = re.findall(r"^\| severe +\| +\d.* dB.*", text, re.M)
    found = make_split("test", 200, size=64)
    sharp = np.stack([scene.image for scene in found])
    blurred = blur_batch(sharp, [scene.id for scene in found], "severe")[0]
    views = [blurred]
    for variant in ("baseline", "full"):
        views.append([mine.restore(image, variant) for image in blurred])
    scores = [
        [np.mean([score(*pair) for pair in zip(images, sharp, strict=True)]) for images in views]
        for score in (psnr, ssim)
    ]
    numbers = [float(number) for number in re.findall(r"\d+\.\d+", told)]
    assert numbers[::2] == pytest.approx(scores[0], abs=0.02)
    assert numbers[1::2] == pytest.approx(scores[1], abs=0.002)


# Reading


def test_the_tree_is_read_and_the_caption_said(mine, scenes):
    found, _, blurred = scenes
    read = [mine.read(photo) for photo in blurred]
    right = [np.equal(r.nodes, s.tree.nodes).mean() for r, s in zip(read, found, strict=True)]
    assert np.mean(right) > 0.8
    first = read[1]
    assert first.caption == " ".join(first.words) and first.words[0] in ("a", "an", "the", "there")
    assert first.word_attention.shape == (len(first.words), 7)
    assert np.allclose(first.word_attention.sum(1), 1, atol=1e-5)
    assert np.allclose(first.attention.sum((1, 2)), 1, atol=1e-5)
    for ranking, label, best in zip(first.rankings, first.nodes, first.confidence, strict=True):
        assert ranking[0] == (label, best) == max(ranking, key=lambda entry: entry[1])
        assert sum(share for _, share in ranking) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(64, 64), (17, 40), (100, 237), (300, 90)])
def test_any_size_and_orientation(mine, shape):
    photo = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    photo.setflags(write=False)
    tall, wide = mine.read(photo).attention.shape[1:]
    assert min(tall, wide) == 16 and tall / wide == pytest.approx(shape[0] / shape[1], rel=0.15)
    assert mine.restore(photo).shape == photo.shape


def test_a_very_long_photo_is_squashed_before_it_is_read(mine):
    assert mine.read(np.zeros((20, 2000, 3), np.uint8)).attention.shape[1:] == (16, 256)


def test_two_leaves_swap_their_labels_or_their_places(mine, scenes):
    photo = scenes[2][1]
    reading = mine.read(photo)
    labels, places = (mine.swap(reading, 0, 2, places=places) for places in (False, True))
    for leaf, other in ((0, 2), (2, 0)):
        wanted = reading.tree.vectors[0, other]
        apart = [(r.tree.vectors[0, leaf] - wanted).norm() for r in (labels, reading)]
        assert apart[0] < 0.7 * apart[1]
    whole, swapped, moved = maps = [r.tree.maps for r in (reading, labels, places)]
    assert torch.equal(moved[:, 2], swapped[:, 0])
    assert torch.equal(swapped[:, [1, 3]], whole[:, [1, 3]])
    assert not torch.equal(swapped[:, 6], whole[:, 6]), "the root follows its leaves"
    restored = [mine.restore(photo, maps=some) for some in maps]
    assert len({image.tobytes() for image in restored}) == 3


def test_maps_that_are_given_take_the_place_of_the_tree(mine, scenes):
    photo = scenes[2][1]
    maps, whole = mine.read(photo).tree.maps, mine.restore(photo)
    assert (mine.restore(photo, maps=maps) == whole).all()
    assert (mine.restore(photo, maps=maps * 0) != whole).any()
    alone = mine.restore(photo, "baseline")
    assert (mine.restore(photo, "baseline", maps=maps) == alone).all()


def test_the_lines_of_the_readme(scenes, tmp_path, monkeypatch):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [lines] = re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(scenes[2][0]).save("photo.jpg", quality=95)
    exec(lines, {})
    restored = Restorer.load().restore(s3e.read_photo("photo.jpg").pixels)
    apart = s3e.read_photo("restored.jpg").pixels.astype(int) - restored
    assert np.abs(apart).mean() < 4, "JPEG changes it by about 2"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r, p: r.restore(p, "fulll"), "have no 'fulll'; choose one of baseline, full"),
        (lambda r, p: r.restore(p, tile=100), "tile = 100: give a multiple of 16 from 256 pixels"),
        (lambda r, p: r.read(p, "judge"), "have no 'judge'; choose one of full, captioner"),
        (lambda r, p: r.read(p.astype(float)), "must be an array, uint8"),
        (lambda r, p: r.restore(p[:8]), "16 pixels or more"),
        (lambda r, p: r.restore("photo.jpg"), "not <U9 (); s3e.read_photo(path)"),
    ],
)
def test_wrong_requests_say_what_is_right(mine, scenes, call, message):
    with pytest.raises(S3EError, match=re.escape(message)):
        call(mine, scenes[2][0])


# Tiles


@pytest.mark.parametrize("side", [16, 256, 272, 480, 2000])
@pytest.mark.parametrize("tile", [256, 304, 1536])
def test_tiles_cover_a_side_and_overlap(side, tile):
    tiles = _cut(side, tile)
    assert tiles[0].start == 0 and tiles[-1].stop == side
    assert all(piece.stop - piece.start <= tile for piece in tiles)
    assert all(b.start <= a.stop - OVERLAP for a, b in zip(tiles, tiles[1:], strict=False))


@pytest.mark.parametrize("variant", ["baseline", "full"])
def test_tiles_show_no_border(mine, large, variant):
    """The error against one piece changes no more from tile to tile than within a tile; it is
    small.
    """
    whole = mine.restore(large, variant, tile=0)
    assert np.array_equal(mine.restore(large, variant), whole), "it fits into one tile"
    tiled = mine.restore(large, variant, tile=TILE)
    assert psnr(tiled, whole) > 24
    jumps = np.abs(np.diff(tiled.astype(float) - whole, axis=1)).mean((0, 2))
    borders = {edge for tile in _cut(704, TILE) for edge in (tile.start, tile.stop)} - {0, 704}
    assert len(borders) >= 6
    for border in borders:
        near = np.r_[jumps[border - 12 : border - 4], jumps[border + 4 : border + 12]]
        assert jumps[border - 1] < 1.5 * near.mean() + 0.1


def test_without_fading_the_borders_would_be_seen(mine, large, monkeypatch):
    monkeypatch.setattr(restorer, "_fade", lambda place: torch.ones(place.stop - place.start))
    with pytest.raises(AssertionError):
        test_tiles_show_no_border(mine, large, "baseline")


def test_a_tile_gets_its_part_of_the_maps():
    photo, ramp = np.zeros((320, 480, 3)), torch.linspace(0.5, 29.5, 30).expand(1, 1, 20, 30)
    part = _maps_below(ramp, photo, slice(0, 256), slice(160, 416))
    wanted = (160 + 4 * (torch.arange(64) + 0.5)) / 16  # one unit a cell of 16 pixels
    assert part.shape == (1, 1, 64, 64) and torch.allclose(part[0, 0, 5], wanted, atol=1e-4)
    padded = _maps_below(ramp, np.zeros((316, 470, 3)), slice(0, 320), slice(0, 480))
    assert padded.shape == ramp.shape and float(padded.max()) <= 29.5
    assert _maps_below(ramp, photo, slice(0, 320), slice(0, 480)) is ramp


# Stores, whole and exported


def test_missing_and_damaged_weights_are_named(tmp_path, scenes):
    (tmp_path / "05_co_training").mkdir()
    with pytest.raises(S3EError, match="no weights there"):
        Restorer.load(tmp_path)
    for seed in (1, 0):
        (tmp_path / f"05_co_training/full-s{seed}").mkdir()
        (tmp_path / f"05_co_training/full-s{seed}/done.json").write_text("{}")
    with pytest.raises(S3EError, match="full-s0/params.json"):  # the smallest number
        Restorer.load(tmp_path)
    copy = shutil.copytree(DEMONSTRATION, tmp_path / "copy")
    generator = copy / "05_co_training/full-s0/generator.safetensors"
    for damage in (lambda: generator.write_bytes(b"nothing"), generator.unlink):
        damage()
        with pytest.raises(S3EError, match="generator.safetensors .*: run the stage that makes it"):
            Restorer.load(copy).restore(scenes[2][0])


@pytest.mark.parametrize(
    "name, text", [("vocabulary", '{"words": {}}'), ("params", '{"config": {"new": 1}}')]
)
def test_a_store_of_another_version_is_named(tmp_path, name, text):
    copy = shutil.copytree(DEMONSTRATION, tmp_path / "copy")
    [file] = copy.rglob(f"{name}.json")
    file.write_text(text)
    with pytest.raises(S3EError, match=r"copy is damaged or of another version \(.*restore the"):
        Restorer.load(copy)
