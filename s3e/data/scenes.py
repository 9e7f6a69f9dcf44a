"""Procedural pictures with true captions, trees and label maps (reconstruction, specification 6.2 and 6.8).

Every category has a colour, a silhouette and a fine texture. Severe blur keeps the first two and wipes the third, so
what an object *is* tells how it must be restored; `texture="random"` cuts that tie and changes nothing else.

The picture determines the whole canonical tree. "First" means left; where one stands over the other, upper:

    left_of, next_to    side by side, a plain gap
    chase, pull, watch  side by side, with a road and speed lines, a rope, a beam of light
    push, kick, hold    side by side, with two arms, a burst, one arm (inside a column the held thing is lower right)
    fly, in_front_of    first lower left, second upper right: a string, an overlap
    on, ride            stacked and touching
    above               stacked, the upper group on a cloud
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from s3e.data import scene_shapes as shapes
from s3e.data.scene_shapes import CATEGORIES, SHAPES
from s3e.data.scene_stage import Box, backdrop, draw_cues
from s3e.data.scene_words import write_captions
from s3e.parsing import NULL, CaptionTree
from s3e.utils import S3EError
from s3e.utils import rng as keyed_rng

RELATIONS = (
    "left_of", "above", "on", "in_front_of", "next_to",
    "hold", "ride", "chase", "watch", "pull", "push", "kick", "fly",
)  # fmt: skip
SPATIAL = RELATIONS[:5]
TEXTURES = ("category", "random")
AGENTS = ("man", "woman", "dog", "cat", "frog", "duck", "rabbit", "horse")
RIDERS = AGENTS[:-1]
ITEMS = ("ball", "cup", "bottle", "guitar", "umbrella", "star", "mushroom", "fish")
VEHICLES = ("box", "car", "bus", "boat")
THINGS = (
    "cat",
    "duck",
    "frog",
    "rabbit",
    "butterfly",
    "ball",
    "cup",
    "bottle",
    "star",
    "guitar",
    "kite",
    "mushroom",
)
# relation -> (who may come first, who may come second)
ROLES = {
    "left_of": (CATEGORIES, CATEGORIES), "next_to": (CATEGORIES, CATEGORIES), "above": (CATEGORIES, CATEGORIES),
    "in_front_of": (CATEGORIES, CATEGORIES), "on": (THINGS, ("box", "car", "bus", "house")),
    "ride": (RIDERS, ("horse", "boat")),
    "hold": (RIDERS, ITEMS), "chase": (AGENTS, AGENTS + ("butterfly", "fish")), "watch": (AGENTS, CATEGORIES),
    "pull": (AGENTS, VEHICLES), "push": (AGENTS, VEHICLES),
    "kick": (("man", "woman", "rabbit", "horse"), ("ball", "box", "bottle", "cup")),
    "fly": (("man", "woman", "dog", "cat", "frog", "rabbit"), ("kite",)),
}  # fmt: skip
# chances of the roots, of two entities and of groups; relations inside a group that stands as a column or as a row
PAIR_ROOTS = {
    "left_of": 4, "above": 3, "on": 2, "in_front_of": 2, "hold": 2, "ride": 2, "chase": 2, "watch": 2, "pull": 1.5,
    "push": 2, "kick": 2, "fly": 1.5,
}  # fmt: skip
GROUP_ROOTS = {"left_of": 3, "above": 3, "watch": 1.5, "chase": 1.5, "pull": 1}
COLUMN_RELATIONS, ROW_RELATIONS = ("on", "ride", "hold"), ("next_to", "hold", "in_front_of")


@dataclass(frozen=True, eq=False)
class Scene:
    """One picture and everything true about it.

    image: uint8 (S, S, 3); label_map: uint8 (S, S), 0 background, 1 + i where `CATEGORIES[i]` is seen; captions: five;
    tree: the canonical truth; boxes: category -> (left, top, right, bottom) in pixels, right and bottom exclusive;
    sizes: category -> "small" | "" | "big".
    """

    id: str
    image: np.ndarray
    captions: tuple[str, ...]
    tree: CaptionTree
    label_map: np.ndarray
    boxes: dict[str, tuple[int, int, int, int]]
    sizes: dict[str, str]


def make_scene(scene_id: str, size: int = 64, texture: str = "category") -> Scene:
    """Draw the scene that belongs to `scene_id`: the same on every machine, at any `size` from 32 to 512 pixels.

    `texture="random"` gives each object the texture of a category drawn by lot. A wrong size or texture: `S3EError`.
    """
    if not 32 <= size <= 512:
        raise S3EError(f"Scene size {size} is outside 32..512: choose a size in that range.")
    if texture not in TEXTURES:
        raise S3EError(f"Scene texture {texture!r} is unknown: use one of {', '.join(TEXTURES)}.")
    rng = keyed_rng("scene", scene_id)
    tree = draw_tree(rng)
    cells = lay_out(tree, rng)
    scales = {name: rng.uniform(0.86, 1.0) for name in cells}
    boxes = stack(tree, {name: fit(name, cell, scales[name]) for name, cell in cells.items()})
    owners = {name: name for name in boxes}
    if texture == "random":
        lots = keyed_rng("texture", scene_id).integers(len(CATEGORIES), size=len(owners))
        owners = {name: CATEGORIES[lot] for name, lot in zip(owners, lots, strict=True)}
    sizes = {
        name: "small" if scale < 0.9 else "big" if scale > 0.96 else ""
        for name, scale in scales.items()
    }
    captions = write_captions(tree, sizes, {name: SHAPES[name].colour for name in boxes}, rng)
    image, label_map, pixels = paint(tree, boxes, owners, size, rng)
    return Scene(scene_id, image, captions, tree, label_map, pixels, sizes)


def make_split(
    split: str, count: int, size: int = 64, texture: str = "category", seed: int = 0
) -> list[Scene]:
    """The first `count` scenes of "train", "val" or "test"; ids like "val-0-000017" keep splits and seeds disjoint."""
    if split not in ("train", "val", "test"):
        raise S3EError(f"Split {split!r} is unknown: use train, val or test.")
    return [make_scene(f"{split}-{seed}-{index:06d}", size, texture) for index in range(count)]


def draw_tree(rng: np.random.Generator) -> CaptionTree:
    """Draw what is in the picture: 2, 3 or 4 categories (chances .45, .35, .20) and their relations."""
    count = int(rng.choice([2, 3, 4], p=[0.45, 0.35, 0.20]))
    roots, chances = zip(*(PAIR_ROOTS if count == 2 else GROUP_ROOTS).items(), strict=True)
    while (
        True
    ):  # drawn again where no category can play two roles at once, such as being pulled and riding
        root = str(rng.choice(roots, p=np.array(chances) / sum(chances)))
        has_sub = (count == 4, True) if rng.random() < 0.5 else (True, count == 4)
        inner = ROW_RELATIONS if root == "above" else COLUMN_RELATIONS
        subs = [str(rng.choice(inner)) if has and count > 2 else NULL for has in has_sub]
        entities = cast(root, subs, rng)
        if entities:
            return CaptionTree(entities, (subs[0], subs[1], root))


def cast(root: str, subs: Sequence[str], rng: np.random.Generator) -> tuple[str, ...] | None:
    """Choose a category for each of the four leaves so that every relation is served, or None where that fails."""
    wanted = [set(ROLES[root][0]), {NULL}, set(ROLES[root][1]), {NULL}]
    for place, sub in ((0, subs[0]), (2, subs[1])):
        if sub != NULL:
            wanted[place] &= set(ROLES[sub][0])
            wanted[place + 1] = set(ROLES[sub][1])
    chosen: dict[int, str] = {}
    for place in sorted(range(4), key=lambda place: len(wanted[place])):
        pool = sorted(wanted[place] - (set(chosen.values()) - {NULL}))
        if not pool:
            return None
        chosen[place] = str(rng.choice(pool))
    return tuple(chosen[place] for place in range(4))


def lay_out(tree: CaptionTree, rng: np.random.Generator) -> dict[str, Box]:
    """A cell for every entity, in 64ths of the picture."""
    (a, b, c, d), (left, right, root) = tree.entities, tree.relations
    if b == d == NULL:
        return pair_cells(root, a, c, rng)
    if root == "above":
        return row_cells(left, a, b, 1, 28, rng) | row_cells(right, c, d, 34, 62, rng)
    return column_cells(left, a, b, 1, rng) | column_cells(right, c, d, 35, rng)


def pair_cells(root: str, a: str, c: str, rng: np.random.Generator) -> dict[str, Box]:
    """Cells of a picture with two entities."""
    x, y, ground = rng.uniform(-1, 1), rng.uniform(-1, 1), 59 + rng.uniform(-3, 2)
    if root == "above":
        return {a: (15 + 9 * x, 1, 49 + 9 * x, 28), c: (14 + 10 * y, 34, 50 + 10 * y, 62)}
    if root in ("on", "ride"):
        return {
            a: (16 + 7 * x, 1, 48 + 7 * x, 35 if root == "ride" else 31),
            c: (12 + 7 * x, 30, 52 + 7 * x, 62),
        }
    if root == "in_front_of":
        return {a: (1, 27 + y, 34, 62 + y), c: (27, 5 + y, 63, 42 + y)}
    if root == "fly":
        return {a: (1, 24, 29, 62 + y), c: (35, 3 + 2 * y, 63, 34 + 2 * y)}
    if root == "hold":
        return {a: (2 + x, 12, 34 + x, ground), c: (32 + x, 20, 60 + x, min(48 + 3 * y, 50))}
    if root == "push":
        return {a: (2 + x, 12, 31 + x, ground), c: (31 + x, 12, 60 + x, ground)}
    lift = [rng.uniform(0, 12) if name in ("kite", "butterfly", "star") else 0 for name in (a, c)]
    gap = {"chase": 3, "pull": 3, "watch": 3, "kick": 2}.get(root, 1)
    return {
        a: (gap + 1, 10, 31 - gap, ground - lift[0]),
        c: (33 + gap, 10, 63, ground + 2 * y - lift[1]),
    }


def column_cells(sub: str, a: str, b: str, x: float, rng: np.random.Generator) -> dict[str, Box]:
    """Cells of a group that fills the column of width 28 from `x`: the first entity is the upper one."""
    ground = 60 + rng.uniform(-1.5, 2)
    if b == NULL:
        return {a: (x, 14, x + 28, ground)}
    if sub == "hold":
        return {a: (x, 3, x + 22, ground - 19), b: (x + 5, ground - 25, x + 28, ground)}
    return {a: (x, 1, x + 28, 35 if sub == "ride" else 31), b: (x, ground - 29, x + 28, ground)}


def row_cells(
    sub: str, a: str, b: str, top: float, bottom: float, rng: np.random.Generator
) -> dict[str, Box]:
    """Cells of a group that fills a row: the first entity is the left one."""
    x = rng.uniform(-1, 1)
    if b == NULL:
        return {a: (15 + 9 * x, top, 49 + 9 * x, bottom)}
    if sub == "hold":
        return {a: (3 + x, top, 33 + x, bottom), b: (32 + x, top + 1, 59 + x, bottom - 4)}
    if sub == "in_front_of":
        return {a: (4 + x, top + 2, 36 + x, bottom), b: (30 + x, top, 61 + x, bottom - 5)}
    return {a: (1, top, 30, bottom), b: (34, top, 63, bottom)}


def fit(name: str, cell: Box, scale: float) -> Box:
    """The largest box of the category's shape in the cell, times `scale`, standing in the middle of its floor."""
    left, top, right, bottom = cell
    aspect = SHAPES[name].aspect
    height = scale * min(bottom - top, (right - left) / aspect, (1150 / aspect) ** 0.5)
    middle, width = (left + right) / 2, height * aspect
    return middle - width / 2, bottom - height, middle + width / 2, bottom


def stack(tree: CaptionTree, boxes: dict[str, Box]) -> dict[str, Box]:
    """Let whoever is on or rides something down (or up) to its top, so that they touch."""
    (a, b, c, d), (left, right, root) = tree.entities, tree.relations
    for relation, upper, lower in ((root, a, c), (left, a, b), (right, c, d)):
        if relation in ("on", "ride"):
            x0, y0, x1, y1 = boxes[upper]
            fall = (
                boxes[lower][1]
                + (1.5 if relation == "on" else 0.35 * (boxes[lower][3] - boxes[lower][1]))
                - y1
            )
            back = 0.12 * (x1 - x0) if lower == "horse" else 0  # leave its head free
            boxes[upper] = (x0 - back, max(y0 + fall, 1), x1 - back, max(y0 + fall, 1) + y1 - y0)
    return boxes


def painting_order(tree: CaptionTree) -> list[str]:
    """Entities from the farthest to the nearest: the first of a relation is in front; a held thing hides its holder."""
    pairs = (tree.entities[:2], tree.entities[2:])
    near_last = [
        pair if sub == "hold" else pair[::-1]
        for pair, sub in zip(pairs, tree.relations, strict=False)
    ]
    groups = near_last if tree.relations[2] == "hold" else near_last[::-1]
    return [name for group in groups for name in group if name != NULL]


def paint(
    tree: CaptionTree,
    boxes: dict[str, Box],
    owners: dict[str, str],
    size: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, dict[str, tuple[int, int, int, int]]]:
    """Paint backdrop, objects (each with the texture of its owner) and cues; return picture, label map, pixel boxes."""
    (a, b, c, d), (left, right, root) = tree.entities, tree.relations
    groups = [[boxes[name] for name in pair if name != NULL] for pair in ((a, b), (c, d))]
    cues = [cue for cue in ((root, a, c), (left, a, b), (right, c, d)) if cue[0] != NULL]
    actors = {name for relation, *pair in cues if relation not in SPATIAL for name in pair}
    image, labels = backdrop(root, groups, size, rng), np.zeros((size, size), np.uint8)
    looks = {
        name: (rng.random() < 0.5 and name not in actors, rng.uniform(-9, 9)) for name in boxes
    }
    pixels = {name: paste(image, labels, name, boxes[name], *looks[name], shapes.texture(owners[name], size))
              for name in painting_order(tree)}  # fmt: skip
    draw_cues(image, cues, boxes)
    return np.clip(image + 0.5, 0, 255).astype(np.uint8), labels, pixels


def paste(
    image: np.ndarray,
    labels: np.ndarray,
    name: str,
    box: Box,
    flip: bool,
    tint: float,
    tile: np.ndarray,
) -> tuple[int, int, int, int]:
    """Paint one object on `image` and `labels` in place; return its box in pixels."""
    size = len(image)
    left, top, right, bottom = (round(value * size / 64) for value in box)
    colour, opacity, body = shapes.sprite(name, right - left, bottom - top, bool(flip))
    x0, y0, x1, y1 = max(left - 1, 0), max(top - 1, 0), min(right + 1, size), min(bottom + 1, size)
    inside = slice(y0 - top + 1, y1 - top + 1), slice(x0 - left + 1, x1 - left + 1)
    region = slice(y0, y1), slice(x0, x1)
    shade = body[inside] * (shapes.AMPLITUDE * tile[region] + tint)
    image[region] += opacity[inside][..., None] * (
        colour[inside] + shade[..., None] - image[region]
    )
    labels[region][opacity[inside] > 0.5] = 1 + CATEGORIES.index(name)
    return x0, y0, x1, y1
