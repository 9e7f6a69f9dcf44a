"""Scenes: the same for ever, disjoint, with true captions and maps, textured by category alone."""

import hashlib
from collections import Counter

import numpy as np
import pytest

from s3e.captions.parser import parse_caption
from s3e.captions.tree import NULL
from s3e.data.scenes import CATEGORIES, RELATIONS, ROLES, make_scene, make_split, texture_of


@pytest.fixture(scope="module")
def scenes():
    return make_split("train", 400)


def names(scene):
    return [name for name in scene.tree.entities if name != NULL]


def test_scenes_stay_the_same(scenes):
    """Weights and published results were made on them: words to the letter, images nearly."""
    words = [[scene.captions, scene.tree.nodes] for scene in scenes[:100]]
    assert hashlib.sha256(str(words).encode()).hexdigest()[:16] == "a50c7a449df721b4"
    colour = np.mean([scene.image for scene in scenes], axis=(0, 1, 2))
    covered = np.mean([scene.label_map > 0 for scene in scenes])
    assert [covered, *colour] == pytest.approx([0.315426, 182.514, 177.733, 172.477], rel=1e-4)


def test_splits_are_disjoint_and_keep_their_beginning(scenes):
    others = make_split("val", 40) + make_split("test", 40) + make_split("train", 40, seed=1)
    assert len({scene.id for scene in scenes + others}) == len(scenes) + 120
    mine, theirs = ({scene.image.tobytes() for scene in part} for part in (scenes, others))
    assert not mine & theirs
    again = make_split("val", 3)[2]
    assert again.id == others[2].id == "val-0-000002"
    assert np.array_equal(again.image, others[2].image)


def test_labels_and_shares(scenes):
    assert len(CATEGORIES) >= 20 and len(RELATIONS) >= 12
    for scene in scenes:
        (a, b, c, d), (left, right, root) = scene.tree.entities, scene.tree.relations
        assert set(names(scene)) <= set(CATEGORIES) and root in RELATIONS
        assert len(set(names(scene))) == len(names(scene)) and NULL not in (a, c)
        assert (left == NULL) == (b == NULL) and (right == NULL) == (d == NULL)
        for relation, first, second in ((root, a, c), (left, a, b), (right, c, d)):
            assert first in ROLES[relation][0] and second in ROLES[relation][1]
    counts = Counter(len(names(scene)) for scene in scenes)
    shares = [counts[n] / len(scenes) for n in (2, 3, 4)]
    assert shares == pytest.approx([0.45, 0.35, 0.2], abs=0.06)


def test_label_map_and_geometry_agree_with_the_tree(scenes):
    for scene in scenes:
        labels = [label for label in np.unique(scene.label_map) if label]
        assert {CATEGORIES[label - 1] for label in labels} == set(names(scene))
        assert all((scene.label_map == label).sum() >= 100 for label in labels)
        places = [
            [values.min() + values.max() for values in np.nonzero(scene.label_map == 1 + label)]
            for label in map(CATEGORIES.index, scene.tree.entities[::2])
        ]
        (ay, ax), (cy, cx) = places
        assert ay < cy if scene.tree.relations[2] in ("above", "on", "ride") else ax < cx


def test_texture_switch_changes_only_the_texture():
    changed = 0
    for tied, free in zip(
        make_split("train", 20), make_split("train", 20, 64, "random"), strict=True
    ):
        assert tied.captions == free.captions and tied.tree == free.tree
        assert np.array_equal(tied.label_map, free.label_map)
        different = (tied.image != free.image).any(axis=2)
        assert different[tied.label_map == 0].mean() < 0.02  # soft edges
        changed += different.any()
    assert changed >= 18


def test_tiles_are_distinct_balanced_and_locked_to_the_grid():
    tiles = np.array([texture_of(name, 64)[:4, :4].ravel() for name in CATEGORIES])
    assert np.all(tiles.sum(axis=1) == 0) and set(np.unique(tiles)) == {-1, 1}
    assert (tiles @ tiles.T / 16 - np.eye(len(tiles))).max() <= 0.5
    whole = texture_of("dog", 128)
    assert np.array_equal(whole, np.tile(whole[:8, :8], (16, 16)))


def test_tile_is_in_the_image():
    """In the body of an object the image follows the tile of its category, wherever it stands."""
    hits = []
    for scene in make_split("test", 60):
        grey = scene.image.astype(float).mean(axis=2)
        detail = grey - grey.reshape(16, 4, 16, 4).mean(axis=(1, 3)).repeat(4, 0).repeat(4, 1)
        for name in names(scene):
            inside = scene.label_map == 1 + CATEGORIES.index(name)
            scores = [(detail * texture_of(other, 64))[inside].mean() for other in CATEGORIES]
            hits.append(CATEGORIES[int(np.argmax(scores))] == name)
    assert np.mean(hits) > 0.95


def test_captions_mean_the_tree_and_vary(scenes):
    agree, texts = [], []
    for scene in scenes:
        full = [text for text in scene.captions if set(names(scene)) <= set(text.split())]
        assert len(scene.captions) == 5 and len(full) >= 4
        agree += [parse_caption(text) == scene.tree for text in full]
        texts += scene.captions
    assert np.mean(agree) >= 0.99
    words = {word for text in texts for word in text.split()}
    assert {"is", "there", "that", "by", "held", "right", "behind"} <= words
    assert 110 <= len(words) <= 250
    assert np.mean([len(set(scene.captions)) for scene in scenes]) > 4.5


@pytest.mark.parametrize("size", [32, 96, 128, 512])
def test_every_size_shows_the_same_scene(size):
    small, other = make_scene("val-0-000001"), make_scene("val-0-000001", size=size)
    assert other.image.shape == (size, size, 3)
    assert other.captions == small.captions and other.tree == small.tree
    share = [(scene.label_map > 0).mean() for scene in (small, other)]
    assert share[0] == pytest.approx(share[1], rel=0.12)
