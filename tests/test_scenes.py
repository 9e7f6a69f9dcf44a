"""Scenes: reproducible, disjoint, true captions and maps, and a texture that hangs on the category
alone.
"""

from collections import Counter

import numpy as np
import pytest

from s3e.captions.parser import parse_caption
from s3e.captions.tree import NULL
from s3e.data import scenes as shapes
from s3e.data.scenes import CATEGORIES, RELATIONS, ROLES, make_scene, make_split
from s3e.utils import S3EError


@pytest.fixture(scope="module")
def scenes():
    return make_split("train", 400)


def names(scene):
    return [name for name in scene.tree.entities if name != NULL]


def test_same_id_same_scene():
    first, second = make_scene("val-0-000003"), make_scene("val-0-000003")
    assert first.image.tobytes() == second.image.tobytes()
    assert first.captions == second.captions and first.tree == second.tree
    assert (
        first.image.shape == (64, 64, 3) and first.image.dtype == first.label_map.dtype == np.uint8
    )


def test_splits_are_disjoint_and_keep_their_beginning(scenes):
    others = make_split("val", 40) + make_split("test", 40) + make_split("train", 40, seed=1)
    assert len({scene.id for scene in scenes + others}) == len(scenes) + 120
    assert not {scene.image.tobytes() for scene in scenes} & {
        scene.image.tobytes() for scene in others
    }
    assert make_split("val", 3)[2].id == others[2].id == "val-0-000002"


def test_labels_and_shares(scenes):
    assert len(CATEGORIES) >= 20 and len(RELATIONS) >= 12
    for scene in scenes:
        present, (left, right, root) = names(scene), scene.tree.relations
        assert (
            set(present) <= set(CATEGORIES)
            and len(set(present)) == len(present)
            and root in RELATIONS
        )
        a, b, c, d = scene.tree.entities
        assert (
            (left == NULL) == (b == NULL) and (right == NULL) == (d == NULL) and NULL not in (a, c)
        )
        for relation, first, second in ((root, a, c), (left, a, b), (right, c, d)):
            assert relation == NULL or (
                first in ROLES[relation][0] and second in ROLES[relation][1]
            )
    counts = Counter(len(names(scene)) for scene in scenes)
    assert [round(counts[n] / len(scenes), 1) for n in (2, 3, 4)] == pytest.approx(
        [0.45, 0.35, 0.2], abs=0.11
    )


def test_label_map_agrees_with_tree_and_boxes(scenes):
    for scene in scenes:
        seen = {CATEGORIES[label - 1] for label in np.unique(scene.label_map) if label}
        assert seen == set(names(scene)) == set(scene.boxes)
        for name, (x0, y0, x1, y1) in scene.boxes.items():
            ys, xs = np.nonzero(scene.label_map == 1 + CATEGORIES.index(name))
            assert (
                x0 <= xs.min()
                and xs.max() < x1
                and y0 <= ys.min()
                and ys.max() < y1
                and len(xs) >= 100
            )
    covered = np.mean([(scene.label_map > 0).mean() for scene in scenes])
    assert 0.25 < covered < 0.45


def test_geometry_shows_the_root(scenes):
    for scene in scenes:
        a, c, root = scene.tree.entities[0], scene.tree.entities[2], scene.tree.relations[2]
        (al, at, ar, ab), (cl, ct, cr, cb) = scene.boxes[a], scene.boxes[c]
        if root in ("above", "on", "ride"):
            assert at + ab < ct + cb
        else:
            assert al + ar < cl + cr


def test_texture_switch_changes_only_the_texture():
    changed = 0
    for index in range(20):
        tied, free = (
            make_scene(f"train-0-{index:06d}", texture=texture)
            for texture in ("category", "random")
        )
        assert tied.captions == free.captions and tied.tree == free.tree
        assert np.array_equal(tied.label_map, free.label_map)
        different = (tied.image != free.image).any(axis=2)
        assert (
            not different[tied.label_map == 0].any() or different[tied.label_map == 0].mean() < 0.02
        )  # soft edges
        changed += different.any()
    assert changed >= 18


def test_tiles_are_distinct_balanced_and_locked_to_the_grid():
    tiles = np.array([shapes.texture_of(name, 64)[:4, :4].ravel() for name in CATEGORIES])
    assert np.all(tiles.sum(axis=1) == 0) and set(np.unique(tiles)) == {-1, 1}
    assert (tiles @ tiles.T / 16 - np.eye(len(tiles))).max() <= 0.5
    whole = shapes.texture_of("dog", 128)
    assert np.array_equal(whole, np.tile(whole[:8, :8], (16, 16)))


def test_tile_is_in_the_picture():
    """In the body of an object the picture follows the tile of its category, wherever it stands."""
    hits = total = 0
    for scene in make_split("test", 60):
        grey = scene.image.astype(float).mean(axis=2)
        detail = grey - grey.reshape(16, 4, 16, 4).mean(axis=(1, 3)).repeat(4, 0).repeat(4, 1)
        for name in names(scene):
            inside = scene.label_map == 1 + CATEGORIES.index(name)
            scores = [
                (detail * shapes.texture_of(other, 64))[inside].mean() for other in CATEGORIES
            ]
            hits, total = hits + (CATEGORIES[int(np.argmax(scores))] == name), total + 1
    assert hits / total > 0.95


def test_captions_mean_the_tree(scenes):
    agree = whole = 0
    for scene in scenes:
        assert len(scene.captions) == 5
        full = [caption for caption in scene.captions if set(names(scene)) <= set(caption.split())]
        assert len(full) >= 4
        agree, whole = (
            agree + sum(parse_caption(caption) == scene.tree for caption in full),
            whole + len(full),
        )
    assert agree / whole >= 0.99


def test_captions_vary(scenes):
    captions = [caption for scene in scenes for caption in scene.captions]
    words = {word for caption in captions for word in caption.split()}
    assert (
        110 <= len(words) <= 250 and np.mean([len(set(scene.captions)) for scene in scenes]) > 4.5
    )
    assert {"is", "there", "that", "by", "held", "right", "behind"} <= words


@pytest.mark.parametrize("size", [32, 96, 128, 512])
def test_every_size_shows_the_same_scene(size):
    small, other = make_scene("val-0-000001"), make_scene("val-0-000001", size=size)
    assert (
        other.image.shape == (size, size, 3)
        and other.captions == small.captions
        and other.tree == small.tree
    )
    share = [(scene.label_map > 0).mean() for scene in (small, other)]
    assert share[0] == pytest.approx(share[1], rel=0.12)


@pytest.mark.parametrize("arguments", [{"size": 16}, {"size": 1024}, {"texture": "none"}])
def test_wrong_arguments_are_named(arguments):
    with pytest.raises(S3EError, match=str(next(iter(arguments.values())))):
        make_scene("val-0-000001", **arguments)


def test_wrong_split_is_named():
    with pytest.raises(S3EError, match="valid"):
        make_split("valid", 2)
