"""Procedural pictures with true captions, trees and label maps (reconstruction, specification 6.2 and 6.8).

Every category has a colour, a silhouette and a fine texture. Severe blur keeps the first two and wipes the third, so
what an object *is* tells how it must be restored; `texture="random"` cuts that tie and changes nothing else.

The picture determines the whole canonical tree. "First" means left; where one stands over the other, upper:

    left_of, next_to    side by side, a plain gap
    chase, pull, watch  side by side, with a road and speed lines, a rope, a beam of light
    push, kick, hold    side by side, with two arms, a burst, one arm (inside a column the held thing is lower right)
    fly, in_front_of    first lower left, second upper right: a string, an overlap
    on, ride            stacked and touching
    above               stacked, the upper group on a cloud"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from s3e.captions.parser import NULL, CaptionTree
from s3e.utils import S3EError
from s3e.utils import rng as keyed_rng

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


# verb -> third person, participle, past participle
VERBS = {
    "hold": ("holds", "holding", "held"), "ride": ("rides", "riding", "ridden"),
    "chase": ("chases", "chasing", "chased"), "watch": ("watches", "watching", "watched"),
    "pull": ("pulls", "pulling", "pulled"), "push": ("pushes", "pushing", "pushed"),
    "kick": ("kicks", "kicking", "kicked"), "fly": ("flies", "flying", "flown"),
}  # fmt: skip
PLACES = {
    "left_of": ("left of", "to the left of", "on the left of"), "above": ("above", "over"), "on": ("on", "upon"),
    "in_front_of": ("in front of",), "next_to": ("next to", "beside"),
}  # fmt: skip
INVERSE_PLACES = {
    "left_of": ("right of", "to the right of", "on the right of"), "above": ("below", "under", "beneath", "underneath"),
    "in_front_of": ("behind",),
}  # fmt: skip
COLOUR_WORDS = {
    "brown": ("brown",), "orange": ("orange",), "red": ("red",), "blue": ("blue",), "green": ("green",),
    "yellow": ("yellow", "golden"), "purple": ("purple", "violet"), "white": ("white",),
}  # fmt: skip
SIZE_WORDS = {"small": ("small", "little"), "big": ("big", "large")}
TRAITS = {
    "dog": ("cute", "furry", "brave"), "box": ("wooden", "square", "heavy"), "guitar": ("wooden", "fine"),
    "cat": ("cute", "furry", "soft"), "fish": ("shiny", "wet"), "kite": ("pretty", "light"),
    "car": ("shiny", "fast", "new"), "mushroom": ("round", "fresh"), "house": ("pretty", "lovely"),
    "man": ("happy", "young", "kind"), "boat": ("fast", "wet"), "umbrella": ("pretty", "new"),
    "tree": ("green", "tall", "fresh"), "frog": ("funny", "happy", "wet"), "bottle": ("tall", "empty", "narrow"),
    "star": ("shiny", "funny", "bright"), "bus": ("shiny", "old", "heavy"), "duck": ("cute", "funny", "proud"),
    "woman": ("happy", "young", "kind"), "butterfly": ("pretty", "light", "lovely"), "cup": ("empty", "fine"),
    "rabbit": ("cute", "fluffy", "soft"), "ball": ("round", "light"), "horse": ("calm", "tall", "proud"),
}  # fmt: skip
ADVERBS = {
    "hold": ("happily", "carefully"), "ride": ("happily", "slowly"), "chase": ("quickly", "happily"),
    "watch": ("quietly", "calmly"), "pull": ("slowly", "carefully"), "push": ("slowly", "carefully"),
    "kick": ("quickly", "happily"), "fly": ("happily", "calmly"),
}  # fmt: skip


class Teller:
    """Words one tree: noun phrases, groups and sentences, with the choices drawn from `rng`."""

    def __init__(self, sizes: dict[str, str], colours: dict[str, str], rng: np.random.Generator):
        self.sizes, self.colours, self.rng = sizes, colours, rng

    def pick(self, options: tuple[str, ...]) -> str:
        """One of the options."""
        return options[int(self.rng.integers(len(options)))]

    def chance(self, share: float) -> bool:
        """True in `share` of the draws."""
        return bool(self.rng.random() < share)

    def noun(self, name: str) -> str:
        """A noun phrase whose adjectives are true: "a small red car", "the duck"."""
        words = [name]
        if self.chance(0.4):
            words.insert(0, self.pick(COLOUR_WORDS[self.colours[name]]))
        if len(words) == 1 and self.chance(0.3):
            words.insert(0, self.pick(TRAITS[name]))
        elif self.sizes[name] and self.chance(0.25):
            words.insert(0, self.pick(SIZE_WORDS[self.sizes[name]]))
        article = "an" if words[0][0] in "aeiou" else "a"
        return " ".join([self.pick((article, article, article, "the")), *words])

    def group(self, first: str, sub: str, second: str, swap: bool = False) -> str:
        """A pair as one phrase: "a dog holding a cup", with `swap` also "a cup held by a dog"; or one noun phrase."""
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
        adverb = f"{self.pick(ADVERBS[verb])} " if self.chance(0.2) else ""
        active = f"{first} {adverb}{third} {second}", f"{first} is {adverb}{doing} {second}"
        passive = f"{second} is {adverb}{done} by {first}", f"{second} is being {done} by {first}"
        return self.pick(active if self.chance(0.7) else passive)

    def place(self, relation: str, first: str, second: str) -> str:
        """A sentence with a spatial relation as its root."""
        if relation in INVERSE_PLACES and self.chance(0.4):
            first, second, words = second, first, INVERSE_PLACES[relation]
        else:
            words = PLACES[relation]
        copula = self.pick(
            ("is", "is", "stands" if relation in ("left_of", "in_front_of") else "is")
        )
        return f"{first} {copula} {self.pick(words)} {second}"

    def plain(self, relation: str, first: str, second: str) -> str:
        """A verbless or existential caption of a picture with two entities."""
        a, b = self.noun(first), self.noun(second)
        lead = self.pick(("", "", "there is "))
        if relation in VERBS:
            third, doing, _ = VERBS[relation]
            return (
                f"there is {a} that {third} {b}" if self.chance(0.25) else f"{lead}{a} {doing} {b}"
            )
        if relation in INVERSE_PLACES and self.chance(0.4):
            return f"{lead}{b} {self.pick(INVERSE_PLACES[relation])} {a}"
        return f"{lead}{a} {self.pick(PLACES[relation])} {b}"

    def tell(self, tree: CaptionTree) -> str:
        """One caption of the tree."""
        (a, b, c, d), (left, right, root) = tree.entities, tree.relations
        if b == d == NULL and self.chance(0.35):
            return self.plain(root, a, c)
        swap = root not in VERBS
        first, second = self.group(a, left, b, swap), self.group(c, right, d, swap)
        return self.act(root, first, second) if root in VERBS else self.place(root, first, second)


def write_captions(
    tree: CaptionTree, sizes: dict[str, str], colours: dict[str, str], rng: np.random.Generator
) -> tuple[str, ...]:
    """Five captions of `tree`; in two fifths of the pictures with groups, the last one leaves the second entities out.

    `sizes` (category -> "small", "" or "big") and `colours` (category -> colour name) make the adjectives true.
    """
    teller = Teller(sizes, colours, rng)
    captions = [teller.tell(tree) for _ in range(4)]
    (a, _, c, _), root = tree.entities, tree.relations[2]
    short = CaptionTree((a, NULL, c, NULL), (NULL, NULL, root))
    return (*captions, teller.tell(short if teller.chance(0.4) else tree))


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
    pixels = {name: paste(image, labels, name, boxes[name], *looks[name], texture(owners[name], size))
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
    colour, opacity, body = sprite(name, right - left, bottom - top, bool(flip))
    x0, y0, x1, y1 = max(left - 1, 0), max(top - 1, 0), min(right + 1, size), min(bottom + 1, size)
    inside = slice(y0 - top + 1, y1 - top + 1), slice(x0 - left + 1, x1 - left + 1)
    region = slice(y0, y1), slice(x0, x1)
    shade = body[inside] * (AMPLITUDE * tile[region] + tint)
    image[region] += opacity[inside][..., None] * (
        colour[inside] + shade[..., None] - image[region]
    )
    labels[region][opacity[inside] > 0.5] = 1 + CATEGORIES.index(name)
    return x0, y0, x1, y1
