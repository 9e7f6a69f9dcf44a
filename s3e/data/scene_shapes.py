"""Drawing book of the scenes: silhouette, colour and fine texture of each category (reconstruction, specification 6.8).

A silhouette is a list of parts in a box of 100 x 100 units, x to the right, y down, looking right. A part is
`fill kind coordinates`: kind `e` ellipse, `c` upper half of an ellipse, `r` rectangle with round corners, `p` polygon.
Fill `body` carries the colour and the texture of the category, `shade` its colour darkened and 2/3 of the texture,
`hole` cuts out.
"""

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

AMPLITUDE = 48.0  # grey levels of the texture around the body colour

COLOURS = {
    "brown": (150, 98, 62), "orange": (207, 122, 54), "red": (202, 62, 58), "blue": (60, 104, 198),
    "green": (60, 152, 76), "yellow": (207, 178, 56), "purple": (140, 72, 176), "white": (204, 204, 206),
}  # fmt: skip
ACCENTS = {
    "black": (38, 34, 40), "snow": (250, 250, 246), "skin": (240, 200, 168), "wood": (118, 78, 50),
    "glass": (204, 232, 244), "beak": (238, 134, 40), "pink": (244, 168, 176), "cream": (246, 232, 204),
    "steel": (92, 96, 108), "lamp": (255, 240, 150),
    "hair": (92, 56, 38), "navy": (34, 52, 110), "tape": (214, 176, 120),
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """One category: its colour name, width / height, texture (4 rows of 4 signs) and parts."""

    colour: str
    aspect: float
    tile: str
    parts: str


_SPIKES = zip(np.arange(10) * np.pi / 5, [54, 29] * 5, strict=True)
_STAR = " ".join(f"{50 + r * np.sin(a):.1f} {54 - r * np.cos(a):.1f}" for a, r in _SPIKES)

SHAPES = {
    "dog": Shape("brown", 1.10, "1100 1100 1100 1100", """
        body p 14 56 0 26 8 20 24 44|body r 10 40 74 76|body r 10 62 26 99|body r 29 64 42 96
        shade r 46 64 57 96|body r 58 60 74 99|body e 52 6 96 54|shade p 58 8 48 46 56 52 68 40 68 10
        body r 76 28 100 48|black e 91 26 100 36|black e 77 18 85 28|cream e 70 42 78 47"""),
    "box": Shape("brown", 1.06, "1111 1111 0000 0000", """
        body r 5 20 95 99|shade r 0 8 100 30|tape r 43 8 57 52|cream r 64 66 84 84"""),
    "guitar": Shape("brown", 0.60, "1001 0110 0110 1001", """
        wood r 43 4 57 50|black r 36 0 64 14|body e 2 56 98 100|body e 14 36 86 72|black e 36 52 64 69
        wood r 30 82 70 87"""),
    "cat": Shape("orange", 0.86, "1100 0110 0011 1001", """
        body p 66 96 100 84 98 52 86 50 84 74 64 84|body e 14 44 82 100|body p 12 36 12 0 44 14
        body p 84 36 84 0 52 14|pink p 19 20 19 9 31 15|pink p 77 20 77 9 65 15|body e 8 8 88 58
        snow e 24 24 42 38|snow e 54 24 72 38|black e 30 25 40 38|black e 58 25 68 38|pink p 43 41 53 41 48 47
        cream e 30 92 46 100|cream e 52 92 68 100"""),
    "fish": Shape("orange", 1.25, "1010 1010 1010 1010", """
        shade p 40 20 60 0 76 20|shade p 44 80 56 100 70 82|body p 34 50 0 10 10 50 0 90|body e 20 12 100 88
        snow e 76 30 90 48|black e 81 34 89 45|shade p 88 60 98 56 90 66"""),
    "kite": Shape("orange", 0.84, "0001 0111 1110 1000", """
        body p 50 0 100 42 50 94 0 42|shade p 48 0 52 0 52 94 48 94|shade p 0 40 100 40 100 45 0 45
        red p 50 92 34 86 34 99|red p 50 92 66 86 66 99"""),
    "car": Shape("red", 1.36, "1111 0000 1111 0000", """
        body p 12 50 26 10 72 10 90 50|body r 0 42 100 82|glass p 25 42 33 19 47 19 47 42
        glass p 53 42 53 19 67 19 78 42|black e 10 62 38 100|black e 62 62 90 100|cream e 18 72 30 90
        cream e 70 72 82 90|lamp e 92 50 100 62"""),
    "mushroom": Shape("red", 1.00, "0110 1001 1001 0110", """
        cream r 32 50 68 100|body c 0 0 100 130|snow e 16 34 32 50|snow e 42 10 60 28|snow e 70 32 86 50"""),
    "house": Shape("red", 0.98, "1010 1010 0101 0101", """
        wood r 70 4 82 34|body r 9 38 91 100|shade p 50 0 102 46 -2 46|wood r 40 66 62 100|glass r 18 56 34 74
        glass r 68 56 84 74"""),
    "man": Shape("blue", 0.56, "0011 0110 1100 1001", """
        skin e 26 2 74 28|navy c 24 0 76 22|navy r 60 8 88 13|body r 8 27 92 70|skin e 2 60 24 72
        skin e 76 60 98 72|body r 20 60 80 80|body r 20 66 47 97|body r 53 66 80 97|black r 16 93 48 100
        black r 53 93 86 100"""),
    "boat": Shape("blue", 1.16, "1100 1100 0011 0011", """
        wood r 46 0 51 66|body p 53 4 53 54 98 54|snow p 44 12 44 54 10 54|body p 0 60 100 60 84 99 16 99
        shade p 0 60 100 60 97 68 3 68"""),
    "umbrella": Shape("blue", 1.06, "1000 1110 0111 0001", """
        wood r 47 50 54 95|wood e 47 84 74 100|hole e 54 82 67 94|body c 0 0 100 128|hole e 6 56 34 74
        hole e 36 56 64 74|hole e 66 56 94 74|wood r 47 50 54 92"""),
    "tree": Shape("green", 0.82, "0101 1010 0101 1010", """
        wood r 40 66 60 100|body e 0 30 58 78|body e 42 30 100 78|body e 14 0 86 58|body e 24 40 76 82"""),
    "frog": Shape("green", 1.22, "0011 0011 1100 1100", """
        body e 12 0 44 44|body e 56 0 88 44|body e 4 20 96 92|shade e 0 74 34 100|shade e 66 74 100 100
        snow e 18 6 38 32|snow e 62 6 82 32|black e 26 10 38 28|black e 70 10 82 28|black r 30 58 70 63"""),
    "bottle": Shape("green", 0.46, "1001 1001 1001 1001", """
        wood r 32 0 68 10|body r 34 8 66 40|body p 34 30 66 30 98 48 2 48|body r 2 42 98 100|cream r 14 62 86 78"""),
    "star": Shape("yellow", 1.04, "0110 1100 1001 0011", f"""
        body p {_STAR}|black e 38 42 44 52|black e 56 42 62 52|black r 42 60 58 64"""),
    "bus": Shape("yellow", 1.34, "1100 0110 1100 0110", """
        body r 0 6 100 86|glass r 7 16 27 38|glass r 31 16 51 38|glass r 55 16 75 38|glass r 81 16 100 46
        black e 12 68 36 100|black e 64 68 88 100|cream e 19 76 29 91|cream e 71 76 81 91|beak e 94 62 101 72"""),
    "duck": Shape("yellow", 1.06, "1001 1111 0110 0000", """
        beak r 32 90 46 100|beak r 52 90 66 100|body p 16 84 0 42 32 56|body e 4 42 84 95|body e 46 2 92 54
        beak p 86 20 104 30 86 40|black e 72 16 81 28|shade e 18 56 54 80"""),
    "woman": Shape("purple", 0.64, "1111 0110 0000 1001", """
        hair e 22 0 78 38|skin e 30 5 72 28|hair c 26 0 76 22|skin r 2 36 18 62|skin r 82 36 98 62
        skin r 32 80 45 96|skin r 55 80 68 96|body p 26 29 74 29 100 88 0 88|body r 4 30 96 46
        black r 28 94 47 100|black r 55 94 74 100"""),
    "butterfly": Shape("purple", 1.16, "1011 0010 1101 0100", """
        body e 0 2 54 60|body e 46 2 100 60|body e 8 46 52 100|body e 48 46 92 100|pink e 14 18 30 36
        pink e 70 18 86 36|black r 46 16 54 88|black p 48 20 34 2 38 0 51 18|black p 52 20 66 2 62 0 49 18"""),
    "cup": Shape("purple", 1.04, "1010 0101 1010 0101", """
        body e 56 22 100 76|hole e 68 36 88 62|body p 2 8 76 8 70 99 8 99|cream e 2 0 76 18|wood e 9 4 69 14"""),
    "rabbit": Shape("white", 0.74, "0000 0000 1111 1111", """
        body e 16 0 42 50|body e 56 0 82 50|pink e 23 8 35 40|pink e 63 8 75 40|body e 6 54 94 100
        body e 10 26 88 70|black e 28 40 38 50|black e 60 40 70 50|pink p 43 52 55 52 49 59"""),
    "ball": Shape("white", 1.00, "0011 1001 1100 0110", """
        body e 0 0 100 100|steel p 50 34 66 46 60 64 40 64 34 46|steel p 40 1 60 1 56 13 44 13
        steel p 2 38 13 44 9 58 0 58|steel p 98 38 87 44 91 58 100 58|steel p 22 92 30 80 38 90 36 98
        steel p 78 92 70 80 62 90 64 98"""),
    "horse": Shape("white", 1.08, "0101 0101 1010 1010", """
        steel p 14 42 0 50 2 84 12 80|body r 8 38 74 72|body p 46 52 62 6 88 24 74 62|body r 9 58 23 100
        body r 28 60 40 97|shade r 45 60 56 97|body r 60 58 74 100|body p 62 4 80 2 100 28 94 38 76 30
        steel p 48 46 58 4 68 2 62 46|black e 76 12 83 20|shade e 90 28 96 34"""),
}  # fmt: skip

CATEGORIES = tuple(SHAPES)


@cache
def texture(category: str, size: int) -> np.ndarray:
    """Float32 (size, size) of -1 and 1, mean 0: the tile of `category`, 4 x 4 pixels at 64, locked to the picture."""
    tile = np.array(
        [[2 * int(sign) - 1 for sign in row] for row in SHAPES[category].tile.split()],
        dtype=np.float32,
    )
    index = np.arange(size) // max(1, round(size / 64)) % 4
    return tile[np.ix_(index, index)]


def draw_part(pen: ImageDraw.ImageDraw, kind: str, xy: list[float], fill) -> None:
    """Draw one part (see the module's head) with coordinates in pixels of the supersampled canvas."""
    if kind == "e":
        pen.ellipse(xy, fill=fill)
    elif kind == "c":
        pen.chord(xy, 180, 360, fill=fill)
    elif kind == "r":
        pen.rounded_rectangle(xy, radius=0.18 * min(xy[2] - xy[0], xy[3] - xy[1]), fill=fill)
    else:
        pen.polygon(xy, fill=fill)


@lru_cache(maxsize=4096)
def sprite(
    category: str, width: int, height: int, flip: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a category into `height` x `width` pixels plus a margin of one pixel on each side, antialiased.

    Returns float32 arrays: colour (h+2, w+2, 3) in 0..255, opacity and share of textured body (h+2, w+2) in 0..1.
    """
    shape, factor = SHAPES[category], 4 if height <= 64 else 2
    base = COLOURS[shape.colour]
    fills = COLOURS | ACCENTS | {"body": base, "shade": tuple(int(0.7 * c) for c in base)}
    canvas = (factor * (width + 2), factor * (height + 2))
    outline = tuple(int(0.32 * c) for c in base)
    pictures = (
        Image.new("RGB", canvas, outline),
        Image.new("L", canvas, 0),
        Image.new("L", canvas, 0),
    )
    colour, solid, body = map(ImageDraw.Draw, pictures)
    for part in "|".join(shape.parts.strip().splitlines()).split("|"):
        fill, kind, *numbers = part.split()
        scale = np.tile([width, height], len(numbers) // 2) / 100
        xy = ((np.array(numbers, dtype=float) * scale + 1) * factor).tolist()
        draw_part(colour, kind, xy, outline if fill == "hole" else fills[fill])
        draw_part(solid, kind, xy, 0 if fill == "hole" else 255)
        draw_part(body, kind, xy, {"body": 255, "shade": 170}.get(fill, 0))
    rim = 2 * max(1, round(factor * height / 64)) + 1
    layers = pictures[0], pictures[1].filter(ImageFilter.MaxFilter(rim)), pictures[2]
    arrays = [np.asarray(layer.reduce(factor), dtype=np.float32) for layer in layers]
    arrays = [array[:, ::-1] if flip else array for array in arrays]
    return arrays[0], arrays[1] / 255, arrays[2] / 255
