"""One photo from disk: any usual format in, upright 8-bit RGB out, and a plain word on what is
wrong with it.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import skimage.data
from PIL import Image, UnidentifiedImageError
from skimage.transform import resize

from s3e.utils import S3EError

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")  # of scikit-image, free to show
SHORTEST = 16  # pixels of the shorter side below which there is nothing to restore
LARGEST = 80_000_000  # pixels above which decoding would take too much memory
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation -> what turns the photo upright
ORIENTATION = 0x0112  # the EXIF tag
SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")
TOO_LARGE = f"larger than {LARGEST // 1_000_000} megapixels", "scale it down or remove it"
FAULTS = (  # what a decoder may raise, what that means, and the remedy
    (MemoryError, "larger than the free memory", "scale it down or remove it"),
    (FileNotFoundError, "not there", "restore it or remove its entry"),
    (IsADirectoryError, "a folder instead of a photo", "put the photo there or remove its entry"),
    (PermissionError, "may not be read", "give yourself permission to read it"),
    (Image.DecompressionBombError, *TOO_LARGE),
    (
        UnidentifiedImageError,
        "not a photo in a known format",
        "convert it to JPEG or PNG, or remove it",
    ),
)


@dataclass(frozen=True)
class Problem:
    """Something wrong with a file or record: where, what, and what the user can do."""

    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.remedy}."


class BrokenPhoto(S3EError):
    """A photo that cannot be used; `problem` says where, what and the remedy."""

    def __init__(self, problem: Problem):
        super().__init__(str(problem))
        self.problem = problem

    def __reduce__(self):
        return BrokenPhoto, (self.problem,)  # so that it crosses processes


class Decoded(NamedTuple):
    """An upright RGB image, the photo's full upright size (width, height), and what is unusual
    about its file.
    """

    image: Image.Image
    size: tuple[int, int]
    notes: tuple[str, ...]


def decode(path: Path | str, least: int | None = None) -> Decoded:
    """Decode a photo: EXIF orientation applied, 16 bits scaled to 8, alpha laid over white.

    With `least`, a JPEG may come at 1/2, 1/4 or 1/8 of its size, no side shorter than `least`. All
    data are read in any case, so that a cut file is found. Raises `BrokenPhoto` (an `S3EError`)
    with file and remedy if it is missing, unreadable, damaged, cut, not a photo, shorter than
    `SHORTEST` pixels at a side, or larger than `LARGEST` pixels (found in the header, before
    decoding).
    """
    with _explained(path), Image.open(path) as image:
        _check(path, image)
        notes, size = _format_notes(image), image.size
        if least:
            image.draft(image.mode, (least, least))
        image.load()
        turn, rgb = TURNS.get(_orientation(image)), _to_rgb(image)
    if turn is None:
        return Decoded(rgb, size, notes)
    upright = rgb.transpose(turn)
    swapped = turn in (TURNS[5], TURNS[6], TURNS[7], TURNS[8])
    return Decoded(upright, size[::-1] if swapped else size, (*notes, "turned by EXIF"))


def load_photo(path: Path | str, size: int, side: int | None = None) -> np.ndarray:
    """The central crop after the shorter side is resized to `side` (default `size`) by Lanczos:
    uint8 (size, size, 3).

    `side` must not be less than `size`. Raises as `decode`.
    """
    image = decode(path).image
    edge = min(image.size) * (size / (side or size))  # of the crop, in pixels of the photo
    left, top = ((length - edge) / 2 for length in image.size)
    box = (left, top, left + edge, top + edge)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=box))


def load_whole(path: Path | str) -> np.ndarray:
    """The photo as it is: uint8 (H, W, 3). Raises as `decode`."""
    return np.asarray(decode(path).image)


@cache
def photograph(name: str, size: int) -> np.ndarray:
    """The central square of a photograph of `PHOTOS`, resized with anti-aliasing: float32 (size,
    size, 3) in [0, 1].
    """
    image = getattr(skimage.data, name)()[..., :3]
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = image[top : top + side, left : left + side]
    return resize(square, (size, size), anti_aliasing=True).astype(np.float32)


@contextmanager
def _explained(path: Path | str) -> Iterator[None]:
    """Turn whatever a decoder raises (nearly anything, for damaged files) into a `BrokenPhoto`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd EXIF; large images, which are refused right after
            yield
    except BrokenPhoto:
        raise
    except Exception as error:
        damaged = f"damaged ({str(error) or type(error).__name__})", "replace the file or remove it"
        what = next((what for kind, *what in FAULTS if isinstance(error, kind)), damaged)
        raise BrokenPhoto(Problem(str(path), *what)) from None


def _check(path: Path | str, image: Image.Image) -> None:
    fault = None
    if image.width * image.height > LARGEST:
        fault = TOO_LARGE
    elif min(image.size) < SHORTEST:
        what = f"{image.width} x {image.height} pixels, less than {SHORTEST} at a side"
        fault = what, "replace it by a larger photo or remove it"
    elif image.format in ("JPEG", "MPO") and b"\xff\xd9" not in image.fp.read():
        fault = "cut (the end of the JPEG data is missing)", "replace the file or remove it"
    if fault:
        raise BrokenPhoto(Problem(str(path), *fault))


def _format_notes(image: Image.Image) -> tuple[str, ...]:
    unusual = {"grey": ("1", "L", "LA", "La"), "CMYK": ("CMYK",), "16 bit": SIXTEEN_BIT}
    notes = [name for name, modes in unusual.items() if image.mode in modes]
    return (*notes, "alpha") if image.has_transparency_data else tuple(notes)


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # EXIF that cannot be parsed does not make the photo worse
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in SIXTEEN_BIT:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("grey values beyond 16 bits")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("grey values that are not whole numbers")
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")
