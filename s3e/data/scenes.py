"""Procedural scenes with true captions, trees and label maps (reconstruction, specification 6.2 and
6.8).

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

Words, colours, silhouettes and chances are tables in `scenes.toml`. Boxes and points are in 64ths
of the image; drawing is supersampled, so every size shows the same scene. The order of random draws
is part of the data: it must not change.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from s3e.captions.tree import NULL, CaptionTree
from s3e.utils import S3EError
from s3e.utils import rng as keyed_rng

Box = tuple[float, float, float, float]  # left, top, right, bottom

TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
SHAPES, COLOURS, VERBS = TABLES["shapes"], TABLES["colours"], TABLES["verbs"]
PLACES, INVERSE_PLACES = TABLES["places"], TABLES["inverse_places"]
CATEGORIES, RELATIONS = tuple(SHAPES), tuple(TABLES["relations"])
ROLES = {  # relation -> (who may come first, who may come second)
    name: tuple(tuple(TABLES[place].get(name, CATEGORIES)) for place in ("first", "second"))
    for name in RELATIONS
}
TEXTURES = ("category", "random")
AMPLITUDE = 48.0  # grey levels of the texture around the body colour
INK, SNOW, ROAD = (52, 48, 58), (252, 252, 252), (104, 104, 114)


@dataclass(frozen=True, eq=False)
class Scene:
    """One image and everything true about it.

    image: uint8 (S, S, 3); label_map: uint8 (S, S), 0 background, 1 + i where `CATEGORIES[i]` is
    seen; captions: five; tree: the canonical truth; boxes: category -> (left, top, right, bottom)
    in pixels, right and bottom exclusive; sizes: category -> "small" | "" | "big".
    """

    id: str
    image: np.ndarray
    captions: tuple[str, ...]
    tree: CaptionTree
    label_map: np.ndarray
    boxes: dict[str, tuple[int, int, int, int]]
    sizes: dict[str, str]


def make_scene(scene_id: str, size: int = 64, texture: str = "category") -> Scene:
    """Draw the scene that belongs to `scene_id`: the same on every machine, at any `size` from 32
    to 512 pixels.

    `texture="random"` gives each object the texture of a random category. A wrong size or texture:
    `S3EError`.
    """
    if not 32 <= size <= 512:
        raise S3EError(f"Scene size {size} is outside 32..512: choose a size in that range.")
    if texture not in TEXTURES:
        raise S3EError(f"Scene texture {texture!r} is unknown: use one of {', '.join(TEXTURES)}.")
    rng = keyed_rng("scene", scene_id)
    tree = _draw_tree(rng)
    cells = _lay_out(tree, rng)
    scales = {name: rng.uniform(0.86, 1.0) for name in cells}
    boxes = _stack(tree, {name: _fit(name, cell, scales[name]) for name, cell in cells.items()})
    owners = {name: name for name in boxes}  # whose texture each object has
    if texture == "random":
        drawn = keyed_rng("texture", scene_id).integers(len(CATEGORIES), size=len(owners))
        owners = {name: CATEGORIES[i] for name, i in zip(owners, drawn, strict=True)}
    sizes = {
        name: "small" if scale < 0.9 else "big" if scale > 0.96 else ""
        for name, scale in scales.items()
    }
    captions = _write_captions(tree, sizes, rng)
    image, label_map, pixels = _paint(tree, boxes, owners, size, rng)
    return Scene(scene_id, image, captions, tree, label_map, pixels, sizes)


def make_split(
    split: str, count: int, size: int = 64, texture: str = "category", seed: int = 0
) -> list[Scene]:
    """The first `count` scenes of "train", "val" or "test"; ids like "val-0-000017" keep splits and
    seeds disjoint.
    """
    if split not in ("train", "val", "test"):
        raise S3EError(f"Split {split!r} is unknown: use train, val or test.")
    return [make_scene(f"{split}-{seed}-{index:06d}", size, texture) for index in range(count)]


# --- what is in the image, and where ---


def _draw_tree(rng: np.random.Generator) -> CaptionTree:
    """2, 3 or 4 categories (chances .45, .35, .20) and their relations."""
    count = int(rng.choice([2, 3, 4], p=[0.45, 0.35, 0.20]))
    table = TABLES["pair_roots" if count == 2 else "group_roots"]
    roots, chances = list(table), np.array(list(table.values()))
    while (
        True
    ):  # again where no category can play two roles at once, such as being pulled and riding
        root = str(rng.choice(roots, p=chances / sum(chances)))
        has_sub = (count == 4, True) if rng.random() < 0.5 else (True, count == 4)
        inner = ("next_to", "hold", "in_front_of") if root == "above" else ("on", "ride", "hold")
        subs = [str(rng.choice(inner)) if has and count > 2 else NULL for has in has_sub]
        if entities := _cast(root, subs, rng):
            return CaptionTree(entities, (subs[0], subs[1], root))


def _cast(root: str, subs: Sequence[str], rng: np.random.Generator) -> tuple[str, ...] | None:
    """A category for each of the four leaves so that every relation is served, or None where that
    fails.
    """
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


def _lay_out(tree: CaptionTree, rng: np.random.Generator) -> dict[str, Box]:
    """A cell for every entity."""
    (a, b, c, d), (left, right, root) = tree.entities, tree.relations
    if b == d == NULL:
        return _pair_cells(root, a, c, rng)
    if root == "above":
        return _row_cells(left, a, b, 1, 28, rng) | _row_cells(right, c, d, 34, 62, rng)
    return _column_cells(left, a, b, 1, rng) | _column_cells(right, c, d, 35, rng)


def _pair_cells(root: str, a: str, c: str, rng: np.random.Generator) -> dict[str, Box]:
    x, y, ground = rng.uniform(-1, 1), rng.uniform(-1, 1), 59 + rng.uniform(-3, 2)
    if root == "above":
        return {a: (15 + 9 * x, 1, 49 + 9 * x, 28), c: (14 + 10 * y, 34, 50 + 10 * y, 62)}
    if root in ("on", "ride"):
        floor = 35 if root == "ride" else 31
        return {a: (16 + 7 * x, 1, 48 + 7 * x, floor), c: (12 + 7 * x, 30, 52 + 7 * x, 62)}
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
    first = (gap + 1, 10, 31 - gap, ground - lift[0])
    return {a: first, c: (33 + gap, 10, 63, ground + 2 * y - lift[1])}


def _column_cells(sub: str, a: str, b: str, x: float, rng: np.random.Generator) -> dict[str, Box]:
    """A group that fills the column of width 28 from `x`: the first entity is the upper one."""
    ground = 60 + rng.uniform(-1.5, 2)
    if b == NULL:
        return {a: (x, 14, x + 28, ground)}
    if sub == "hold":
        return {a: (x, 3, x + 22, ground - 19), b: (x + 5, ground - 25, x + 28, ground)}
    return {a: (x, 1, x + 28, 35 if sub == "ride" else 31), b: (x, ground - 29, x + 28, ground)}


def _row_cells(
    sub: str, a: str, b: str, top: float, bottom: float, rng: np.random.Generator
) -> dict[str, Box]:
    """A group that fills a row: the first entity is the left one."""
    x = rng.uniform(-1, 1)
    if b == NULL:
        return {a: (15 + 9 * x, top, 49 + 9 * x, bottom)}
    if sub == "hold":
        return {a: (3 + x, top, 33 + x, bottom), b: (32 + x, top + 1, 59 + x, bottom - 4)}
    if sub == "in_front_of":
        return {a: (4 + x, top + 2, 36 + x, bottom), b: (30 + x, top, 61 + x, bottom - 5)}
    return {a: (1, top, 30, bottom), b: (34, top, 63, bottom)}


def _fit(name: str, cell: Box, scale: float) -> Box:
    """The largest box of the category's shape in the cell, times `scale`, standing in the middle of
    its floor.
    """
    left, top, right, bottom = cell
    aspect = SHAPES[name]["aspect"]
    height = scale * min(bottom - top, (right - left) / aspect, (1150 / aspect) ** 0.5)
    middle, width = (left + right) / 2, height * aspect
    return middle - width / 2, bottom - height, middle + width / 2, bottom


def _bonds(tree: CaptionTree) -> list[tuple[str, str, str]]:
    """(relation, first, second) of the root, the left and the right sub-relation."""
    (a, b, c, d), (left, right, root) = tree.entities, tree.relations
    return [(root, a, c), (left, a, b), (right, c, d)]


def _stack(tree: CaptionTree, boxes: dict[str, Box]) -> dict[str, Box]:
    """Let whoever is on or rides something down (or up) to its top, so that they touch."""
    for relation, upper, lower in _bonds(tree):
        if relation in ("on", "ride"):
            x0, y0, x1, y1 = boxes[upper]
            _, top, _, bottom = boxes[lower]
            fall = top + (1.5 if relation == "on" else 0.35 * (bottom - top)) - y1
            back = 0.12 * (x1 - x0) if lower == "horse" else 0  # leave its head free
            boxes[upper] = (x0 - back, max(y0 + fall, 1), x1 - back, max(y0 + fall, 1) + y1 - y0)
    return boxes


# --- five captions: many wordings, one meaning ---


class _Writer:
    """Words one tree: noun phrases, groups and sentences, with the choices drawn from `rng`."""

    def __init__(self, sizes: dict[str, str], rng: np.random.Generator):
        self.sizes, self.rng = sizes, rng

    def pick(self, options: Sequence[str]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def noun(self, name: str) -> str:
        """A noun phrase whose adjectives are true: "a small red car", "the duck"."""
        words = [name]
        if self.chance(0.4):
            words.insert(0, self.pick(TABLES["colour_words"][SHAPES[name]["colour"]]))
        if len(words) == 1 and self.chance(0.3):
            words.insert(0, self.pick(SHAPES[name]["traits"]))
        elif self.sizes[name] and self.chance(0.25):
            words.insert(0, self.pick(TABLES["size_words"][self.sizes[name]]))
        article = "an" if words[0][0] in "aeiou" else "a"
        return " ".join([self.pick((article, article, article, "the")), *words])

    def group(self, first: str, sub: str, second: str, swap: bool) -> str:
        """A pair as one phrase: "a dog holding a cup", with `swap` also "a cup held by a dog"; or
        one noun phrase.
        """
        a = self.noun(first)
        if sub == NULL:
            return a
        b = self.noun(second)
        if sub in VERBS:
            third, doing, done = VERBS[sub]
            if swap and self.chance(0.35):
                return self.pick((f"{b} {done} by {a}", f"{b} that is {done} by {a}"))
            return f"{a} {self.pick((doing, f'that {third}', f'that is {doing}'))} {b}"
        if swap and sub in INVERSE_PLACES and self.chance(0.4):
            return f"{b} {self.pick(INVERSE_PLACES[sub])} {a}"
        return f"{a} {self.pick(('', 'that is '))}{self.pick(PLACES[sub])} {b}"

    def act(self, verb: str, first: str, second: str) -> str:
        """A sentence with a verb as its root."""
        third, doing, done = VERBS[verb]
        adverb = f"{self.pick(TABLES['adverbs'][verb])} " if self.chance(0.2) else ""
        active = f"{first} {adverb}{third} {second}", f"{first} is {adverb}{doing} {second}"
        passive = f"{second} is {adverb}{done} by {first}", f"{second} is being {done} by {first}"
        return self.pick(active if self.chance(0.7) else passive)

    def locate(self, relation: str, first: str, second: str) -> str:
        """A sentence with a spatial relation as its root."""
        words = PLACES[relation]
        if relation in INVERSE_PLACES and self.chance(0.4):
            first, second, words = second, first, INVERSE_PLACES[relation]
        stands = "stands" if relation in ("left_of", "in_front_of") else "is"
        return f"{first} {self.pick(('is', 'is', stands))} {self.pick(words)} {second}"

    def plain(self, relation: str, first: str, second: str) -> str:
        """A verbless or existential caption of an image with two entities."""
        a, b = self.noun(first), self.noun(second)
        lead = self.pick(("", "", "there is "))
        if relation in VERBS:
            third, doing, _ = VERBS[relation]
            existential = self.chance(0.25)
            return f"there is {a} that {third} {b}" if existential else f"{lead}{a} {doing} {b}"
        if relation in INVERSE_PLACES and self.chance(0.4):
            return f"{lead}{b} {self.pick(INVERSE_PLACES[relation])} {a}"
        return f"{lead}{a} {self.pick(PLACES[relation])} {b}"

    def caption(self, tree: CaptionTree) -> str:
        (a, b, c, d), (left, right, root) = tree.entities, tree.relations
        if b == d == NULL and self.chance(0.35):
            return self.plain(root, a, c)
        swap = root not in VERBS
        first, second = self.group(a, left, b, swap), self.group(c, right, d, swap)
        return self.act(root, first, second) if root in VERBS else self.locate(root, first, second)


def _write_captions(
    tree: CaptionTree, sizes: dict[str, str], rng: np.random.Generator
) -> tuple[str, ...]:
    """Five captions; in two fifths of the images with groups, the last one leaves the second
    entities out.
    """
    writer = _Writer(sizes, rng)
    captions = [writer.caption(tree) for _ in range(4)]
    (a, _, c, _), root = tree.entities, tree.relations[2]
    short = CaptionTree((a, NULL, c, NULL), (NULL, NULL, root))
    return (*captions, writer.caption(short if writer.chance(0.4) else tree))


# --- the image ---


@cache
def texture_of(category: str, size: int) -> np.ndarray:
    """Float32 (size, size) of -1 and 1, mean 0: the category's tile, 4 x 4 pixels at 64, locked to
    the image.
    """
    rows = SHAPES[category]["texture"].split()
    tile = np.array([[2 * int(sign) - 1 for sign in row] for row in rows], dtype=np.float32)
    index = np.arange(size) // max(1, round(size / 64)) % 4
    return tile[np.ix_(index, index)]


@lru_cache(maxsize=4096)
def _sprite(
    category: str, width: int, height: int, flip: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A category in `height` x `width` pixels plus a margin of one pixel on each side, antialiased.

    Returns float32 arrays: colour (h+2, w+2, 3) in 0..255, opacity and share of textured body (h+2,
    w+2) in 0..1.
    """
    shape, factor = SHAPES[category], 4 if height <= 64 else 2
    base = COLOURS[shape["colour"]]
    fills = COLOURS | TABLES["accents"] | {"body": base, "shade": [int(0.7 * c) for c in base]}
    outline = tuple(int(0.32 * c) for c in base)
    canvas = (factor * (width + 2), factor * (height + 2))
    layers = [Image.new("RGB", canvas, outline), *(Image.new("L", canvas, 0) for _ in range(2))]
    colour, solid, body = map(ImageDraw.Draw, layers)
    for part in shape["parts"].replace("\n", "").split("|"):
        fill, kind, *numbers = part.split()
        scale = np.tile([width, height], len(numbers) // 2) / 100
        xy = ((np.array(numbers, dtype=float) * scale + 1) * factor).tolist()
        _draw_part(colour, kind, xy, outline if fill == "hole" else tuple(fills[fill]))
        _draw_part(solid, kind, xy, 0 if fill == "hole" else 255)
        _draw_part(body, kind, xy, {"body": 255, "shade": 170}.get(fill, 0))
    rim = 2 * max(1, round(factor * height / 64)) + 1
    layers[1] = layers[1].filter(ImageFilter.MaxFilter(rim))
    arrays = [np.asarray(layer.reduce(factor), dtype=np.float32) for layer in layers]
    arrays = [array[:, ::-1] if flip else array for array in arrays]
    return arrays[0], arrays[1] / 255, arrays[2] / 255


def _draw_part(pen: ImageDraw.ImageDraw, kind: str, xy: list[float], fill) -> None:
    if kind == "e":
        pen.ellipse(xy, fill=fill)
    elif kind == "c":
        pen.chord(xy, 180, 360, fill=fill)
    elif kind == "r":
        pen.rounded_rectangle(xy, radius=0.18 * min(xy[2] - xy[0], xy[3] - xy[1]), fill=fill)
    else:
        pen.polygon(xy, fill=fill)


def _paint(
    tree: CaptionTree,
    boxes: dict[str, Box],
    owners: dict[str, str],
    size: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, dict[str, tuple[int, int, int, int]]]:
    """Backdrop, objects (each with the texture of its owner) and cues: image, label map, boxes in
    pixels.
    """
    a, b, c, d = tree.entities
    root = tree.relations[2]
    groups = [[boxes[name] for name in pair if name != NULL] for pair in ((a, b), (c, d))]
    cues = [bond for bond in _bonds(tree) if bond[0] != NULL]
    actors = {name for relation, *pair in cues if relation not in PLACES for name in pair}
    image, labels = _backdrop(root, groups, size, rng), np.zeros((size, size), np.uint8)
    poses = {
        name: (rng.random() < 0.5 and name not in actors, rng.uniform(-9, 9)) for name in boxes
    }  # flipped, and how much lighter
    # from the farthest to the nearest: the first of a relation is in front; a held thing hides its
    # holder
    pairs = (((a, b), tree.relations[0]), ((c, d), tree.relations[1]))
    order = [pair if sub == "hold" else pair[::-1] for pair, sub in pairs]
    names = [name for pair in (order if root == "hold" else order[::-1]) for name in pair]
    pixels = {
        name: _paste(image, labels, name, boxes[name], *poses[name], texture_of(owners[name], size))
        for name in names
        if name != NULL
    }
    _draw_cues(image, cues, boxes)
    return np.clip(image + 0.5, 0, 255).astype(np.uint8), labels, pixels


def _paste(
    image: np.ndarray,
    labels: np.ndarray,
    name: str,
    box: Box,
    flip: bool,
    tint: float,
    texture: np.ndarray,
) -> tuple[int, int, int, int]:
    """Paint one object on `image` and `labels` in place; its box in pixels."""
    size = len(image)
    left, top, right, bottom = (round(value * size / 64) for value in box)
    colour, opacity, body = _sprite(name, right - left, bottom - top, bool(flip))
    x0, y0, x1, y1 = max(left - 1, 0), max(top - 1, 0), min(right + 1, size), min(bottom + 1, size)
    inside = slice(y0 - top + 1, y1 - top + 1), slice(x0 - left + 1, x1 - left + 1)
    region = slice(y0, y1), slice(x0, x1)
    shade = body[inside] * (AMPLITUDE * texture[region] + tint)
    painted = colour[inside] + shade[..., None]
    image[region] += opacity[inside][..., None] * (painted - image[region])
    labels[region][opacity[inside] > 0.5] = 1 + CATEGORIES.index(name)
    return x0, y0, x1, y1


def _mix(first: Sequence[float], second: Sequence[float], share: float) -> tuple[int, ...]:
    """`share` of the second colour and the rest of the first."""
    pairs = zip(first, second, strict=True)
    return tuple(int(round((1 - share) * a + share * b)) for a, b in pairs)


def _supersampling(size: int) -> int:
    return 4 if size <= 128 else 2


class _Stage:
    """A drawing surface in 64ths of the image."""

    def __init__(self, image: Image.Image):
        self.unit, self.pen = image.width / 64, ImageDraw.Draw(image)

    def ellipse(self, box: Box, fill) -> None:
        self.pen.ellipse([self.unit * value for value in box], fill=fill)

    def disc(self, x: float, y: float, radius: float, fill) -> None:
        self.ellipse((x - radius, y - radius, x + radius, y + radius), fill)

    def rectangle(self, box: Box, fill) -> None:
        self.pen.rectangle([self.unit * value for value in box], fill=fill)


def _backdrop(
    root: str, groups: Sequence[Sequence[Box]], size: int, rng: np.random.Generator
) -> np.ndarray:
    """Sky, ground, ornaments, what carries the groups, and shadows: float32 (size, size, 3) in
    0..255.
    """
    factor = _supersampling(size)
    theme = TABLES["themes"][str(rng.choice(list(TABLES["themes"])))]
    horizon, unit = rng.uniform(36, 46), factor * size / 64
    rows = (np.arange(factor * size) + 0.5) / unit
    knots = [0, horizon, horizon + 1e-3, 64]
    channels = zip(theme["sky"], theme["haze"], theme["ground"], theme["floor"], strict=True)
    ramp = np.stack([np.interp(rows, knots, channel) for channel in channels], axis=1)
    canvas = Image.fromarray(np.repeat(ramp[:, None], factor * size, axis=1).astype(np.uint8))
    stage = _Stage(canvas)
    for ornament in theme["ornaments"]:
        _draw_ornament(stage, ornament, theme, horizon, rng)
    _draw_carriers(stage, root, groups, theme)
    image = np.asarray(canvas.reduce(factor), dtype=np.float32)
    grid, shadow = (
        (np.arange(size, dtype=np.float32) + 0.5) * 64 / size,
        np.zeros((size, size), np.float32),
    )
    for left, _, right, bottom in (box for group in groups for box in group):
        across = ((grid - (left + right) / 2) / (0.5 * (right - left))) ** 2
        down = ((grid - bottom) / 2.2) ** 2
        shadow += np.exp(-2 * down)[:, None] * np.exp(-1.5 * across**2)[None]
    return image * (1 - 0.3 * np.minimum(shadow, 1)[..., None])


def _draw_ornament(
    stage: _Stage, ornament: str, theme: dict, horizon: float, rng: np.random.Generator
) -> None:
    sky, haze, ground, floor = theme["sky"], theme["haze"], theme["ground"], theme["floor"]
    white = (255, 255, 255)
    x, y = rng.uniform(6, 58), rng.uniform(5, 14)
    if ornament in ("sun", "moon"):
        stage.disc(x, y, 5, _mix(haze, (255, 250, 214), 0.8))
        if ornament == "moon":
            stage.ellipse((x - 7, y - 6, x + 2, y + 3), _mix(sky, haze, 0.2))
    elif ornament == "cloud":
        for dx, r in ((-5, 2.6), (0, 4), (5, 2.8)):
            box = (x + dx - 1.6 * r, y - r, x + dx + 1.6 * r, y + 0.8 * r)
            stage.ellipse(box, _mix(haze, white, 0.7))
    elif ornament == "hills":
        for middle, share in ((x, 0.25), (64 - x, 0.45)):
            box = (middle - 34, horizon - 7 - 8 * share, middle + 34, horizon + 20)
            stage.ellipse(box, _mix(haze, ground, share + 0.15))
        stage.rectangle((0, horizon, 64, 64), _mix(ground, floor, 0.4))
    elif ornament == "sea":
        stage.rectangle((0, horizon - 7, 64, horizon), (150, 198, 216))
    elif ornament == "waves":
        for row in range(4):
            left, level = rng.uniform(0, 44), horizon + 4 + 6 * row
            stage.rectangle((left, level, left + 16, level + 0.7), _mix(ground, white, 0.4))
    elif ornament == "frame":
        stage.rectangle((x - 6, y - 2, x + 6, y + 9), _mix(sky, floor, 0.5))
        stage.rectangle((x - 5, y - 1, x + 5, y + 8), _mix(sky, white, 0.5))
    else:
        stage.rectangle((0, horizon - 1.6, 64, horizon), _mix(haze, floor, 0.5))


def _draw_carriers(stage: _Stage, root: str, groups: Sequence[Sequence[Box]], theme: dict) -> None:
    """A cloud under the upper group (above), a road (chase), a glow (watch); else a mound under
    each of two columns.
    """
    if root == "above":
        left, right = min(box[0] for box in groups[0]) - 3, max(box[2] for box in groups[0]) + 3
        rim = _mix(theme["sky"], (120, 130, 160), 0.45)
        for radius, floor, fill in ((6, 32.5, rim), (5.4, 31.5, (252, 252, 254))):
            for x in np.linspace(left + 4, right - 4, 2 + int((right - left) / 8)):
                stage.ellipse((x - radius, 25.5, x + radius, floor), fill)
    elif root == "chase":
        stage.rectangle((0, 54, 64, 64), ROAD)
        for x in range(2, 64, 12):
            stage.rectangle((x, 62, x + 7, 63.2), SNOW)
    elif max(map(len, groups)) > 1:
        for group in groups:
            middle = np.mean([box[0] + box[2] for box in group]) / 2
            floor = max(box[3] for box in group)
            mound = (middle - 15, floor - 5, middle + 15, 76)
            stage.ellipse(mound, _mix(theme["ground"], theme["floor"], 1.8))
    if root == "watch":
        left, top, right, bottom = groups[1][0]
        radius = 0.35 * (right - left + bottom - top)
        glow = tuple(TABLES["cue_colours"]["watch"])
        stage.disc((left + right) / 2, (top + bottom) / 2, radius, glow)


def _draw_cues(
    image: np.ndarray, cues: Sequence[tuple[str, str, str]], boxes: dict[str, Box]
) -> None:
    """Draw on `image` (float32, in place) the cue of every relation (label, first, second) that has
    one.
    """
    size = len(image)
    factor = _supersampling(size)
    for relation, first, second in cues:
        strokes, light = _strokes(relation, boxes[first], boxes[second]), relation == "watch"
        colour = TABLES["cue_colours"].get(relation, COLOURS[SHAPES[first]["colour"]])
        edge = _mix(colour, INK, 0.4) if light else SNOW if relation == "chase" else INK
        for rim, fill in ((0.5, edge), (0, colour)) if strokes else ():
            mask = Image.new("L", (factor * size, factor * size), 0)
            for stroke in strokes:
                _draw_stroke(ImageDraw.Draw(mask), *stroke, unit=factor * size / 64, rim=rim)
            cover = np.asarray(mask.reduce(factor), dtype=np.float32)[..., None]
            share = (0.75 if light else 1) * cover / 255
            image += share * (np.array(fill, dtype=np.float32) - image)


def _draw_stroke(
    pen: ImageDraw.ImageDraw, kind: str, width: float, points: list, unit: float, rim: float
) -> None:
    """Fill ("line", width, points), ("dot", radius, [centre]) or ("area", 0, points), grown by
    `rim`.
    """
    xy = [(unit * x, unit * y) for x, y in points]
    if kind == "line":
        pen.line(xy, fill=255, width=max(1, round(unit * (width + 2 * rim))), joint="curve")
    elif kind == "dot":
        (x, y), radius = xy[0], unit * (width + rim)
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=255)
    else:
        pen.polygon(xy, fill=255)
        pen.line([*xy, xy[0]], fill=255, width=max(1, round(2 * unit * rim)))


def _strokes(relation: str, first: Box, second: Box) -> list[tuple]:
    """The strokes that show a relation between two boxes; none for the purely spatial ones."""
    (al, at, ar, ab), (bl, bt, br, bb) = first, second
    middle, height = (al + ar) / 2, ab - at
    if relation == "chase":
        speed = [
            (box[0], box[1] + k * (box[3] - box[1]))
            for box in (first, second)
            for k in (0.3, 0.5, 0.7)
        ]
        return [("line", 1.4, [(x - 5.5, y), (x - 1, y)]) for x, y in speed]
    if relation == "watch":
        eye = (min(ar - 3, middle + 8), at + 0.25 * height)
        seen = [(bl + 3, bt + share * (bb - bt)) for share in (0.05, 0.65)]
        return [("area", 0, [eye, *seen])]
    if relation == "pull":
        start, end = (ar - 5, at + 0.6 * height), (bl + 3, bt + 0.65 * (bb - bt))
        sag = ((start[0] + end[0]) / 2, max(start[1], end[1]) + 1)
        return [("line", 1.5, [start, sag, end]), ("dot", 1.6, [start]), ("dot", 1.6, [end])]
    if relation == "push":
        levels = [at + share * height for share in (0.5, 0.66)]
        hands = [("dot", 1.5, [(bl + 1.5, level)]) for level in levels]
        return [("line", 2, [(middle, level), (bl + 1.5, level)]) for level in levels] + hands
    if relation == "kick":
        angles, x, y = np.arange(16) * np.pi / 8, (ar + bl) / 2, max(at + 0.7 * height, bt + 4)
        spikes = zip(angles, [6, 2.8] * 8, strict=True)
        return [("area", 0, [(x + r * np.cos(a), y + r * np.sin(a)) for a, r in spikes])]
    if relation == "fly":
        hand, bend = (ar - 5, at + 0.55 * height), (ar + 3, at + 0.3 * height)
        return [("line", 0.9, [hand, bend, ((bl + br) / 2, bb - 1)]), ("dot", 1.6, [hand])]
    if relation == "hold":
        reach = min(max(bt + 0.5 * (bb - bt), at + 0.4 * height), bt + 0.6 * (bb - bt))
        shoulder = (middle + 0.2 * (ar - al), at + 0.55 * height)
        hand = (min(bl + 3.5, (bl + br) / 2), reach)
        return [("line", 1.7, [shoulder, hand]), ("dot", 1.7, [hand])]
    return []
