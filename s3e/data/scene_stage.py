"""Everything in a scene that is no object: backdrop, clouds, mounds, shadows, cues of relations (reconstruction).

Boxes and points are in 64ths of the picture; drawing is supersampled, so every size shows the same scene.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from s3e.data.scene_shapes import COLOURS, SHAPES

Box = tuple[float, float, float, float]  # left, top, right, bottom

# name -> top of the sky, bottom of the sky, top of the ground, bottom of the ground, ornaments
THEMES = {
    "meadow": ((176, 212, 240), (232, 242, 240), (196, 220, 164), (166, 200, 138), ("sun", "cloud", "hills")),
    "beach": ((178, 220, 240), (236, 244, 238), (240, 226, 190), (224, 204, 162), ("sun", "sea", "cloud")),
    "sunset": ((240, 186, 160), (252, 230, 196), (208, 178, 164), (180, 148, 142), ("sun", "hills")),
    "dusk": ((142, 150, 198), (216, 196, 216), (160, 156, 186), (130, 128, 162), ("moon", "hills")),
    "snow": ((190, 208, 230), (226, 234, 242), (236, 240, 246), (212, 222, 236), ("hills", "cloud")),
    "room": ((238, 226, 206), (232, 218, 198), (208, 184, 156), (188, 162, 134), ("frame", "skirting")),
    "nursery": ((214, 230, 228), (226, 236, 232), (206, 196, 208), (186, 176, 192), ("frame", "skirting")),
    "lake": ((198, 216, 230), (230, 236, 236), (170, 206, 214), (140, 184, 202), ("hills", "waves")),
}  # fmt: skip
CUE_COLOURS = {
    "chase": (70, 60, 84), "pull": (222, 184, 120), "kick": (255, 226, 90), "watch": (255, 234, 124),
    "fly": (250, 250, 250),
}  # fmt: skip
INK, SNOW, ROAD = (52, 48, 58), (252, 252, 252), (104, 104, 114)


def mix(first: Sequence[float], second: Sequence[float], share: float) -> tuple[int, int, int]:
    """`share` of the second colour and the rest of the first."""
    return tuple(
        int(round((1 - share) * a + share * b)) for a, b in zip(first, second, strict=True)
    )


def supersampling(size: int) -> int:
    """How many times finer than the picture the stage is drawn."""
    return 4 if size <= 128 else 2


def backdrop(
    root: str, groups: Sequence[Sequence[Box]], size: int, rng: np.random.Generator
) -> np.ndarray:
    """Paint sky, ground, ornaments and what carries the groups; float32 (size, size, 3) in 0..255."""
    factor = supersampling(size)
    theme = THEMES[str(rng.choice(list(THEMES)))]
    horizon, unit = rng.uniform(36, 46), factor * size / 64
    rows = (np.arange(factor * size) + 0.5) / unit
    knots, channels = [0, horizon, horizon + 1e-3, 64], zip(*theme[:4], strict=True)
    ramp = np.stack([np.interp(rows, knots, channel) for channel in channels], axis=1)
    sky = np.repeat(ramp[:, None], factor * size, axis=1).astype(np.uint8)
    picture = Image.fromarray(sky)
    pen = ImageDraw.Draw(picture)
    for ornament in theme[4]:
        draw_ornament(pen, ornament, theme, horizon, unit, rng)
    draw_carriers(pen, root, groups, theme, unit)
    image = np.asarray(picture.reduce(factor), dtype=np.float32)
    return image * (1 - 0.3 * shadows(groups, size)[..., None])


def draw_ornament(
    pen: ImageDraw.ImageDraw,
    ornament: str,
    theme: tuple,
    horizon: float,
    unit: float,
    rng: np.random.Generator,
) -> None:
    """Draw one pale ornament of the backdrop."""
    sky, haze, ground = theme[0], theme[1], theme[2]
    x, y = rng.uniform(6, 58), rng.uniform(5, 14)

    def ellipse(box: Box, fill: tuple) -> None:
        pen.ellipse([unit * value for value in box], fill=fill)

    def rectangle(box: Box, fill: tuple) -> None:
        pen.rectangle([unit * value for value in box], fill=fill)

    if ornament in ("sun", "moon"):
        ellipse((x - 5, y - 5, x + 5, y + 5), mix(haze, (255, 250, 214), 0.8))
        if ornament == "moon":
            ellipse((x - 7, y - 6, x + 2, y + 3), mix(sky, haze, 0.2))
    elif ornament == "cloud":
        for dx, r in ((-5, 2.6), (0, 4), (5, 2.8)):
            ellipse(
                (x + dx - 1.6 * r, y - r, x + dx + 1.6 * r, y + 0.8 * r),
                mix(haze, (255, 255, 255), 0.7),
            )
    elif ornament == "hills":
        for middle, share in ((x, 0.25), (64 - x, 0.45)):
            ellipse(
                (middle - 34, horizon - 7 - 8 * share, middle + 34, horizon + 20),
                mix(haze, ground, share + 0.15),
            )
        rectangle((0, horizon, 64, 64), mix(ground, theme[3], 0.4))
    elif ornament == "sea":
        rectangle((0, horizon - 7, 64, horizon), (150, 198, 216))
    elif ornament == "waves":
        for row in range(4):
            left, level = rng.uniform(0, 44), horizon + 4 + 6 * row
            rectangle((left, level, left + 16, level + 0.7), mix(ground, (255, 255, 255), 0.4))
    elif ornament == "frame":
        rectangle((x - 6, y - 2, x + 6, y + 9), mix(sky, theme[3], 0.5))
        rectangle((x - 5, y - 1, x + 5, y + 8), mix(sky, (255, 255, 255), 0.5))
    else:
        rectangle((0, horizon - 1.6, 64, horizon), mix(haze, theme[3], 0.5))


def draw_carriers(
    pen: ImageDraw.ImageDraw, root: str, groups: Sequence[Sequence[Box]], theme: tuple, unit: float
) -> None:
    """A cloud under the upper group (above), a road (chase), a glow (watch); else a mound under each of two columns."""
    if root == "above":
        left, right = min(box[0] for box in groups[0]) - 3, max(box[2] for box in groups[0]) + 3
        for radius, floor, fill in (
            (6, 32.5, mix(theme[0], (120, 130, 160), 0.45)),
            (5.4, 31.5, (252, 252, 254)),
        ):
            for x in np.linspace(left + 4, right - 4, 2 + int((right - left) / 8)):
                pen.ellipse(
                    [unit * (x - radius), unit * 25.5, unit * (x + radius), unit * floor], fill=fill
                )
    elif root == "chase":
        pen.rectangle([0, unit * 54, unit * 64, unit * 64], fill=ROAD)
        for x in range(2, 64, 12):
            pen.rectangle([unit * x, unit * 62, unit * (x + 7), unit * 63.2], fill=SNOW)
    elif max(map(len, groups)) > 1:
        for group in groups:
            middle, floor = (
                np.mean([box[0] + box[2] for box in group]) / 2,
                max(box[3] for box in group),
            )
            mound = (middle - 15, floor - 5, middle + 15, 76)
            pen.ellipse([unit * value for value in mound], fill=mix(theme[2], theme[3], 1.8))
    if root == "watch":
        left, top, right, bottom = groups[1][0]
        x, y, radius = (left + right) / 2, (top + bottom) / 2, 0.35 * (right - left + bottom - top)
        glow = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse([unit * value for value in glow], fill=CUE_COLOURS["watch"])


def shadows(groups: Sequence[Sequence[Box]], size: int) -> np.ndarray:
    """Soft shadows under all objects: float32 (size, size) in 0..1."""
    grid, total = (
        (np.arange(size, dtype=np.float32) + 0.5) * 64 / size,
        np.zeros((size, size), np.float32),
    )
    for left, _, right, bottom in (box for group in groups for box in group):
        across = ((grid - (left + right) / 2) / (0.5 * (right - left))) ** 2
        down = ((grid - bottom) / 2.2) ** 2
        total += np.exp(-2 * down)[:, None] * np.exp(-1.5 * across**2)[None]
    return np.minimum(total, 1)


def draw_cues(
    image: np.ndarray, cues: Sequence[tuple[str, str, str]], boxes: dict[str, Box]
) -> None:
    """Draw on `image` (float32, in place) the cue of every relation (label, first, second) that has one."""
    size = len(image)
    factor = supersampling(size)
    for relation, first, second in cues:
        strokes, light = cue_strokes(relation, boxes[first], boxes[second]), relation == "watch"
        colour = CUE_COLOURS.get(relation, COLOURS[SHAPES[first].colour])
        edge = mix(colour, INK, 0.4) if light else SNOW if relation == "chase" else INK
        for rim, fill in ((0.5, edge), (0, colour)) if strokes else ():
            mask = Image.new("L", (factor * size, factor * size), 0)
            draw_strokes(ImageDraw.Draw(mask), strokes, factor * size / 64, rim)
            share = (
                (0.75 if light else 1)
                * np.asarray(mask.reduce(factor), dtype=np.float32)[..., None]
                / 255
            )
            image += share * (np.array(fill, dtype=np.float32) - image)


def draw_strokes(pen: ImageDraw.ImageDraw, strokes: list[tuple], unit: float, rim: float) -> None:
    """Fill strokes ("line", width, points), ("dot", radius, centre) or ("area", 0, points), grown by `rim`."""
    for kind, width, points in strokes:
        xy = [(unit * x, unit * y) for x, y in points]
        if kind == "line":
            pen.line(xy, fill=255, width=max(1, round(unit * (width + 2 * rim))), joint="curve")
        elif kind == "dot":
            radius = unit * (width + rim)
            pen.ellipse(
                [xy[0][0] - radius, xy[0][1] - radius, xy[0][0] + radius, xy[0][1] + radius],
                fill=255,
            )
        else:
            pen.polygon(xy, fill=255)
            pen.line([*xy, xy[0]], fill=255, width=max(1, round(2 * unit * rim)))


def cue_strokes(relation: str, first: Box, second: Box) -> list[tuple]:
    """The strokes that show a relation between two boxes; none for the purely spatial ones."""
    (al, at, ar, ab), (bl, bt, br, bb) = first, second
    middle, height = (al + ar) / 2, ab - at
    if relation == "chase":
        return [("line", 1.4, [(left - 5.5, top + share * (low - top)), (left - 1, top + share * (low - top))])
                for left, top, low in ((al, at, ab), (bl, bt, bb)) for share in (0.3, 0.5, 0.7)]  # fmt: skip
    if relation == "watch":
        eye = (min(ar - 3, middle + 8), at + 0.25 * height)
        return [
            ("area", 0, [eye, (bl + 3, bt + 0.05 * (bb - bt)), (bl + 3, bt + 0.65 * (bb - bt))])
        ]
    if relation == "pull":
        start, end = (ar - 5, at + 0.6 * height), (bl + 3, bt + 0.65 * (bb - bt))
        sag = ((start[0] + end[0]) / 2, max(start[1], end[1]) + 1)
        return [("line", 1.5, [start, sag, end]), ("dot", 1.6, [start]), ("dot", 1.6, [end])]
    if relation == "push":
        arms = [
            ((middle, at + share * height), (bl + 1.5, at + share * height))
            for share in (0.5, 0.66)
        ]
        return [("line", 2, [*arm]) for arm in arms] + [("dot", 1.5, [hand]) for _, hand in arms]
    if relation == "kick":
        angles, x, y = np.arange(16) * np.pi / 8, (ar + bl) / 2, max(at + 0.7 * height, bt + 4)
        spikes = zip(angles, [6, 2.8] * 8, strict=True)
        return [("area", 0, [(x + r * np.cos(a), y + r * np.sin(a)) for a, r in spikes])]
    if relation == "fly":
        hand, bend, end = (
            (ar - 5, at + 0.55 * height),
            (ar + 3, at + 0.3 * height),
            ((bl + br) / 2, bb - 1),
        )
        return [("line", 0.9, [hand, bend, end]), ("dot", 1.6, [hand])]
    if relation == "hold":
        reach = min(max(bt + 0.5 * (bb - bt), at + 0.4 * height), bt + 0.6 * (bb - bt))
        shoulder, hand = (
            (middle + 0.2 * (ar - al), at + 0.55 * height),
            (min(bl + 3.5, (bl + br) / 2), reach),
        )
        return [("line", 1.7, [shoulder, hand]), ("dot", 1.7, [hand])]
    return []
