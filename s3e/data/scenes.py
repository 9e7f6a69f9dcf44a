"""Procedural scenes with true captions, trees and label maps (specification 6.2 and 6.8).

Every category has a colour, a silhouette and a fine texture. Severe blur keeps the first two and
wipes the third, so what an object *is* tells how it must be restored; `texture="random"` cuts that
tie and changes nothing else.

The image determines the whole canonical tree. "First" means left; where one stands over the other,
upper:

    left_of, next_to    side by side, a plain gap
    chase, pull, watch  side by side, with a road and speed lines, a rope, a beam of light
    push, kick, hold    side by side, with two arms, a burst, one arm (in a column: lower right)
    fly, in_front_of    first lower left, second upper right: a string, an overlap
    on, ride            stacked and touching
    above               stacked, the upper group on a cloud

Words, chances, places, shapes and colours are tables in `scenes.toml`. Boxes and points are in
64ths of the image; drawing is supersampled, so every size shows the same scene. The order of random
draws is part of the data: it must not change.
"""

from collections.abc import Sequence
from functools import cache, lru_cache
from operator import mul
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from s3e.captions.tree import NULL, CaptionTree
from s3e.utils import data_file
from s3e.utils import rng as keyed_rng

Box = Sequence[float]  # left, top, right, bottom
Boxes = dict[str, Box]  # of entities
Random = np.random.Generator

TABLES = data_file("data/scenes.toml")
SHAPES, COLOURS, TERMS, CUES = (TABLES[name] for name in ("shapes", "colours", "words", "cues"))
CATEGORIES, RELATIONS = tuple(SHAPES), tuple(TABLES["relations"])
ROLES = {  # relation -> who may come first, who may come second
    name: [set(TABLES[place].get(name, CATEGORIES)) for place in ("first", "second")]
    for name in (*RELATIONS, NULL)
}
AMPLITUDE = 48.0  # grey levels of the texture around the body colour


class Scene(NamedTuple):
    """One image and everything true about it.

    image: uint8 (S, S, 3); label_map: uint8 (S, S), 0 background, 1 + i where `CATEGORIES[i]` is
    seen; captions: five; tree: the canonical truth.
    """

    id: str
    image: ndarray
    captions: list[str]
    tree: CaptionTree
    label_map: ndarray


def make_scene(scene_id: str, size: int = 64, texture: str = "category") -> Scene:
    """Draw the scene of `scene_id`: the same on every machine, at any `size` (32 to 512 pixels).

    `texture="random"` gives each object the texture of a random category.
    """
    rng = keyed_rng("scene", scene_id)
    tree = _draw_tree(rng)
    cells = _lay_out(tree, rng)
    scales = {name: rng.uniform(0.86, 1.0) for name in cells}
    boxes = _place(tree, cells, scales)
    owners = list(boxes)  # whose texture each object has
    if texture == "random":
        owners = keyed_rng("texture", scene_id).choice(CATEGORIES, len(boxes))
    captions = [_write_caption(tree, scales, rng) for _ in range(4)]
    (a, _, c, _), root = tree.entities, tree.relations[2]
    short = CaptionTree((a, NULL, c, NULL), (NULL, NULL, root))
    captions.append(_write_caption(short if rng.random() < 0.4 else tree, scales, rng))
    image, label_map = _paint(tree, boxes, dict(zip(boxes, owners, strict=True)), size, rng)
    return Scene(scene_id, image, captions, tree, label_map)


def make_split(
    split: str, count: int, size: int = 64, texture: str = "category", seed: int = 0
) -> list[Scene]:
    """The first `count` scenes of a split; ids like "val-0-000017" keep splits and seeds apart."""
    return [make_scene(f"{split}-{seed}-{index:06d}", size, texture) for index in range(count)]


# --- what is in the image, and where ---


def _draw_tree(rng: Random) -> CaptionTree:
    """2, 3 or 4 categories (chances .45, .35, .20) and their relations."""
    count = int(rng.choice([2, 3, 4], p=[0.45, 0.35, 0.20]))
    roots = TABLES["pair_roots" if count == 2 else "group_roots"]
    chances = np.array(list(roots.values()))
    while True:  # again where no category can play two roles at once: being pulled and riding
        root = str(rng.choice(list(roots), p=chances / sum(chances)))
        grouped = [count > 3, count > 2]
        if rng.random() >= 0.5:
            grouped.reverse()
        inner = TABLES["inner"]["row" if root == "above" else "column"]
        subs = (str(rng.choice(inner)) if group else NULL for group in grouped)
        relations = (*subs, root)
        if entities := _cast(relations, rng):
            return CaptionTree(entities, relations)


def _cast(relations: Sequence[str], rng: Random) -> tuple[str, ...] | None:
    """A category for each leaf so that every relation is served, or None where that fails."""
    (a, b), (c, d), (first, second) = (ROLES[name] for name in relations)
    wanted, chosen = [a & first, b, c & second, d], [NULL] * 4
    for place in sorted(range(4), key=lambda place: len(wanted[place])):
        pool = sorted(wanted[place] - (set(chosen) - {NULL}))
        if not pool:
            return None
        chosen[place] = str(rng.choice(pool))
    return tuple(chosen)


def _lay_out(tree: CaptionTree, rng: Random) -> Boxes:
    """A cell for every entity."""
    (a, b, c, d), (left, right, root) = tree.entities, tree.relations
    parts, hover, cells = [("pair", root, (a, c))], TABLES["hover"], {}
    if b != NULL or d != NULL:
        kind = "row" if root == "above" else "column"
        parts = [(kind, left, (a, b), 0), (kind, right, (c, d), 1)]
    for kind, relation, names, *given in parts:
        table = TABLES["cells"][kind]
        cells |= zip(names, _measure(table[relation], table, rng, *given), strict=False)
    if root == "hold":
        cells[c][3] = min(cells[c][3], 50)
    for name in cells if len(parts) == 1 and root in hover["relations"] else ():
        if name in hover["entities"]:
            cells[name][3] -= rng.uniform(0, 12)
    return cells


def _measure(
    rows: Sequence, table: dict, rng: Random | None, *given: float, unit: float = 1
) -> list[list[float]]:
    """Rows of values from their coefficients of 1, what is given, and a table's random jitters."""
    amounts = [1, *given, *(rng.uniform(*span) for span in table.get("jitters", ()))]
    return [[unit * sum(map(mul, edge, amounts)) for edge in row] for row in rows]


def _bonds(tree: CaptionTree) -> list[tuple[str, str, str]]:
    """(relation, first, second) of the root, the left and the right sub-relation, where present."""
    (a, b, c, d), (left, right, root) = tree.entities, tree.relations
    return [bond for bond in ((root, a, c), (left, a, b), (right, c, d)) if bond[0] != NULL]


def _place(tree: CaptionTree, cells: Boxes, scales: dict[str, float]) -> Boxes:
    """In each cell a box of the category's shape, as large as it fits, times its scale."""
    boxes = {}
    for name, (left, top, right, bottom) in cells.items():
        aspect = SHAPES[name]["aspect"]
        height = min(bottom - top, (right - left) / aspect, (1150 / aspect) ** 0.5) * scales[name]
        middle, half = (left + right) / 2, height * aspect / 2
        boxes[name] = middle - half, bottom - height, middle + half, bottom
    for relation, upper, lower in _bonds(tree):
        if relation in ("on", "ride"):  # let the upper one down (or up), so that they touch
            left, top, right, bottom = boxes[upper]
            _, surface, _, floor = boxes[lower]
            sink = 1.5 if relation == "on" else 0.35 * (floor - surface)
            back = 0.12 * (right - left) if lower == "horse" else 0  # leave its head free
            start = max(surface + sink - (bottom - top), 1)
            boxes[upper] = left - back, start, right - back, start + bottom - top
    return boxes


# --- five captions: many wordings, one meaning ---


def _write_caption(tree: CaptionTree, scales: dict[str, float], rng: Random) -> str:
    """One wording of a tree; `scales` tell what may be called small or big."""
    (a, b, c, d), (left, right, root) = tree.entities, tree.relations
    adverbs = TERMS[root].get("adverbs")
    plain, more, phrases = b == d == NULL and rng.random() < 0.35, "", []
    for first, sub, second in ((a, left, b), (c, right, d)):
        phrase = _noun(first, scales, rng)
        if sub != NULL:
            other = _noun(second, scales, rng)
            phrase = _relate("group", sub, phrase, other, rng, may_turn=not adverbs)
        phrases.append(phrase)
    if plain:
        more = rng.choice(("", "", "there is "))
    elif adverbs and rng.random() < 0.2:
        more = rng.choice(adverbs)
    return _relate("plain" if plain else "sentence", root, *phrases, rng, more)


def _noun(name: str, scales: dict[str, float], rng: Random) -> str:
    """A noun phrase whose adjectives are true: "a small red car", "the duck"."""
    words, shape, scale = [name], SHAPES[name], scales[name]
    size = "small" if scale < 0.9 else "big" if scale > 0.96 else ""
    if rng.random() < 0.4:
        words.insert(0, rng.choice(TABLES["colour_words"][shape["colour"]]))
    if len(words) == 1 and rng.random() < 0.3:
        words.insert(0, rng.choice(shape["traits"]))
    elif size and rng.random() < 0.25:
        words.insert(0, rng.choice(TABLES["size_words"][size]))
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([rng.choice((article, article, article, "the")), *words])


def _relate(
    style: str, relation: str, a: str, b: str, rng: Random, more: str = "", may_turn: bool = True
) -> str:
    """Two phrases as a sentence, or as a phrase of a style of the table; perhaps turned round."""
    words = TERMS[relation]
    forms = TABLES["phrases"][style]["verb" if "done" in words else "place"]
    low, high = forms["turns"]
    may_turn = may_turn and {"done", "turned"} & words.keys()
    way = "turned" if may_turn and low <= rng.random() < high else "straight"
    form = rng.choice(forms[way])
    place = rng.choice(words[way]) if way in words else ""
    return form.format(a=a, b=b, place=place, more=more, **words)


# --- the image ---


@cache
def texture_of(category: str, size: int) -> ndarray:
    """Float32 (size, size) of -1 and 1, mean 0: the category's tile, 4 x 4 pixels at size 64."""
    tile = np.float32(SHAPES[category]["texture"])
    index = np.arange(size) // max(1, round(size / 64)) % 4
    return tile[np.ix_(index, index)]


@lru_cache(maxsize=4096)
def _sprite(category: str, width: int, height: int) -> list[Image.Image]:
    """Colour, opacity, share of textured body; antialiased, with a margin of a pixel all round."""
    shape, factor = SHAPES[category], 4 if height <= 64 else 2
    body, shade, outline = map(tuple, COLOURS[shape["colour"]])
    special = {"body": (body, 255, 255), "shade": (shade, 255, 170), "hole": (outline, 0, 0)}
    canvas = factor * (width + 2), factor * (height + 2)
    layers = [Image.new("RGB", canvas, outline), Image.new("L", canvas), Image.new("L", canvas)]
    for fill, kind, *numbers in shape["parts"]:
        scale = np.resize([width / 100, height / 100], len(numbers))
        xy = ((numbers * scale + 1) * factor).tolist()
        radius = 0.18 * min(xy[2] - xy[0], xy[3] - xy[1])
        options = {"chord": {"start": 180, "end": 360}, "rounded_rectangle": {"radius": radius}}
        paints = special.get(fill) or (tuple(TABLES["accents"][fill]), 255, 0)
        for layer, paint in zip(layers, paints, strict=True):
            getattr(ImageDraw.Draw(layer), kind)(xy, fill=paint, **options.get(kind, {}))
    rim = 2 * max(1, round(factor * height / 64)) + 1
    layers[1] = layers[1].filter(ImageFilter.MaxFilter(rim))
    return [layer.reduce(factor) for layer in layers]


def _paint(
    tree: CaptionTree, boxes: Boxes, owners: dict[str, str], size: int, rng: Random
) -> tuple[ndarray, ndarray]:
    """Backdrop, objects (each with the texture of its owner) and cues: image and label map."""
    (a, b, c, d), (left, right, root) = tree.entities, tree.relations
    groups = [[boxes[name] for name in pair if name in boxes] for pair in ((a, b), (c, d))]
    actors = {  # look to the right
        name for relation, *pair in _bonds(tree) if "done" in TERMS[relation] for name in pair
    }
    factor = 4 if size <= 128 else 2  # supersampling
    image = _backdrop(root, groups, size, factor, rng)
    labels = np.zeros((size, size), np.uint8)
    poses = {name: (rng.random() < 0.5, rng.uniform(-9, 9)) for name in boxes}  # flipped, lighter
    # from far to near: the first of a relation is in front, but a held thing hides its holder
    order = [(a, b) if left == "hold" else (b, a), (c, d) if right == "hold" else (d, c)]
    for name in sum(order if root == "hold" else order[::-1], ()):
        if name not in boxes:
            continue
        flip, tint = poses[name]
        left, top, right, bottom = (round(value * size / 64) for value in boxes[name])
        window = 1 - left, 1 - top, 1 - left + size, 1 - top + size
        layers = _sprite(name, right - left, bottom - top)
        if flip and name not in actors:
            layers = map(ImageOps.mirror, layers)
        colour, opacity, body = (np.asarray(layer.crop(window), np.float32) for layer in layers)
        opacity, body = opacity / 255, body / 255
        shade = body * (AMPLITUDE * texture_of(owners[name], size) + tint)
        image += opacity[..., None] * (colour + shade[..., None] - image)
        labels[opacity > 0.5] = 1 + CATEGORIES.index(name)
    for relation, first, second in _bonds(tree):
        if relation in CUES:
            colour = COLOURS[SHAPES[first]["colour"]][0]
            _draw_cue(image, factor, CUES[relation], colour, (*boxes[first], *boxes[second]))
    return np.clip(image + 0.5, 0, 255).astype(np.uint8), labels


def _backdrop(
    root: str, groups: Sequence[Sequence[Box]], size: int, factor: int, rng: Random
) -> ndarray:
    """Sky, ground, ornaments, what carries the groups, shadows: float32 (size, size, 3), 0..255."""
    theme = rng.choice(TABLES["themes"])
    palette, horizon, unit = TABLES["paints"] | theme, rng.uniform(36, 46), factor * size / 64
    rows = (np.arange(factor * size) + 0.5) / unit
    knots = [0, horizon, horizon + 1e-3, 64]
    channels = zip(*theme["sky"], *theme["ground"], strict=True)
    ramp = np.stack([np.interp(rows, knots, channel) for channel in channels], axis=1)
    canvas = Image.fromarray(ramp.astype(np.uint8)[:, None].repeat(len(rows), axis=1))

    def draw(ornament: str, *given: float) -> None:
        table = TABLES["ornaments"][ornament]
        kinds, rows, colours = zip(*table["parts"], strict=True)
        boxes = _measure(rows, table, rng, *given, unit=unit)
        for kind, xy, colour in zip(kinds, boxes, colours, strict=True):
            getattr(ImageDraw.Draw(canvas), kind)(xy, fill=tuple(palette[colour]))

    for ornament in theme["ornaments"]:
        draw(ornament, horizon)
    if root == "above":
        left, right = groups[0][0][0] + 1, groups[0][-1][2] - 1
        for ornament in ("rim", "puff"):
            for x in np.linspace(left, right, 3 + int((right - left) / 8)):
                draw(ornament, x)
    elif root == "chase":
        draw("road")
    elif max(map(len, groups)) > 1:
        for group in groups:
            draw("mound", *group[0], *group[-1])
    if root == "watch":
        draw("glow", *groups[1][0])
    image = np.asarray(canvas.reduce(factor), dtype=np.float32)
    grid = (np.arange(size, dtype=np.float32) + 0.5) * 64 / size
    shadow = sum(
        np.exp(-2 * ((grid - bottom) / 2.2) ** 2)[:, None]
        * np.exp(-1.5 * ((grid - (left + right) / 2) / (0.5 * (right - left))) ** 4)
        for left, _, right, bottom in sum(groups, [])
    )
    return image * (1 - 0.3 * np.minimum(shadow, 1)[..., None])


def _draw_cue(image: ndarray, factor: int, cue: dict, colour: Sequence[int], boxes: Box) -> None:
    """Draw on `image` (float32, in place) what shows a relation of two `boxes` (8 edges)."""
    unit = factor * len(image) / 64
    for rim, fill in ((0.5, cue["edge"]), (0, cue.get("colour", colour))):
        mask = Image.new("L", (factor * len(image),) * 2)
        pen = ImageDraw.Draw(mask)
        for stroke in cue["strokes"]:
            xy = [*map(median, _measure(stroke["points"], cue, None, *boxes, unit=unit))]
            width = unit * (stroke["width"] + 2 * rim)
            if stroke["kind"] == "circle":
                pen.circle(xy, width / 2, fill=255)
                continue
            if stroke["kind"] == "polygon":
                pen.polygon(xy, fill=255)
                xy += xy[:2]
            pen.line(xy, fill=255, width=max(1, round(width)), joint=stroke.get("joint"))
        cover = np.asarray(mask.reduce(factor), dtype=np.float32)[..., None]
        image += cue["opacity"] * cover / 255 * (np.array(fill, dtype=np.float32) - image)
