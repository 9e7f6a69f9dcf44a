"""One photo from disk: any usual format in, upright 8-bit RGB out, and a plain word on what is wrong with it."""

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


@dataclass(frozen=True)
class Problem:
    """Something wrong with a file or record: where, what, and what the user can do."""

    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.remedy}."


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
END_OF_JPEG = b"\xff\xd9"

_UNUSUAL = {
    "grey": ("1", "L", "LA", "La"),
    "CMYK": ("CMYK",),
    "16 bit": ("I;16", "I;16B", "I;16L", "I;16N", "I"),
}
_TOO_LARGE = (f"larger than {LARGEST // 1_000_000} megapixels", "scale it down or remove it")


class BrokenPhoto(S3EError):
    """A photo that cannot be used; `problem` says where, what and the remedy."""

    def __init__(self, problem: Problem):
        super().__init__(str(problem))
        self.problem = problem


class Decoded(NamedTuple):
    """An upright RGB image, the photo's full upright size (width, height), and what is unusual about its file."""

    image: Image.Image
    size: tuple[int, int]
    notes: tuple[str, ...]


def open_photo(path: Path | str) -> Image.Image:
    """The photo as an upright 8-bit RGB image: EXIF orientation applied, 16 bits scaled to 8, alpha laid over white.

    Raises `S3EError` with file and remedy if it is missing, unreadable, damaged, cut, not a photo, shorter than
    `SHORTEST` pixels at a side, or larger than `LARGEST` pixels (told from the header, before decoding).
    """
    return decode(path).image


def load_photo(path: Path | str, size: int, side: int | None = None) -> np.ndarray:
    """Shorter side resized to `side` (default `size`) by Lanczos, then the central crop: uint8 (size, size, 3).

    `side` must not be less than `size`. Raises as `open_photo`.
    """
    return central_crop(open_photo(path), size, side or size)


def central_crop(image: Image.Image, size: int, side: int) -> np.ndarray:
    """The central crop of an image whose shorter side is resized to `side` (Lanczos): uint8 (size, size, 3)."""
    edge = min(image.size) * (size / side)  # of the crop, in pixels of the photo
    left, top = ((length - edge) / 2 for length in image.size)
    box = (left, top, left + edge, top + edge)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=box))


def load_whole(path: Path | str) -> np.ndarray:
    """The photo as it is: uint8 (H, W, 3). Raises as `open_photo`."""
    return np.asarray(open_photo(path))


def decode(path: Path | str, least: int | None = None) -> Decoded:
    """Decode a photo. With `least`, a JPEG may come at 1/2, 1/4 or 1/8 of its size, no side shorter than `least`.

    All data are read in any case, so that a cut file is found. Raises as `open_photo`.
    """
    with _explained(path), Image.open(path) as image:
        _check(path, image)
        notes, size = _format_notes(image), image.size
        if least:
            image.draft(image.mode, (least, least))
        image.load()
        orientation, rgb = _orientation(image), _to_rgb(image)
    if orientation == 1:
        return Decoded(rgb, size, tuple(notes))
    size = size[::-1] if orientation >= 5 else size
    return Decoded(rgb.transpose(TURNS[orientation]), size, (*notes, "turned by EXIF"))


@contextmanager
def _explained(path: Path | str) -> Iterator[None]:
    """Turn whatever a decoder raises (nearly anything, for damaged files) into a `BrokenPhoto`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd EXIF; large images, which are refused right after
            yield
    except BrokenPhoto:
        raise
    except MemoryError:
        raise _broken(path, "larger than the free memory", "scale it down or remove it") from None
    except FileNotFoundError:
        raise _broken(path, "not there", "restore it or remove its entry") from None
    except IsADirectoryError:
        raise _broken(
            path, "a folder instead of a photo", "put the photo there or remove its entry"
        ) from None
    except PermissionError:
        raise _broken(path, "may not be read", "give yourself permission to read it") from None
    except Image.DecompressionBombError:
        raise _broken(path, *_TOO_LARGE) from None
    except UnidentifiedImageError:
        raise _broken(
            path, "not a photo in a known format", "convert it to JPEG or PNG, or remove it"
        ) from None
    except Exception as error:
        raise _broken(
            path, f"damaged ({str(error) or type(error).__name__})", "replace the file or remove it"
        ) from None


def _broken(path: Path | str, what: str, remedy: str) -> BrokenPhoto:
    return BrokenPhoto(Problem(str(path), what, remedy))


def _check(path: Path | str, image: Image.Image) -> None:
    if image.width * image.height > LARGEST:
        raise _broken(path, *_TOO_LARGE)
    if min(image.size) < SHORTEST:
        what = f"{image.width} x {image.height} pixels, less than {SHORTEST} at a side"
        raise _broken(path, what, "replace it by a larger photo or remove it")
    if (
        image.format in ("JPEG", "MPO") and END_OF_JPEG not in image.fp.read()
    ):  # decoding may pass over it
        raise _broken(
            path, "cut (the end of the JPEG data is missing)", "replace the file or remove it"
        )


def _format_notes(image: Image.Image) -> list[str]:
    notes = [name for name, modes in _UNUSUAL.items() if image.mode in modes]
    return notes + (["alpha"] if image.has_transparency_data else [])


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION)
    except Exception:  # EXIF that cannot be parsed does not make the photo worse
        return 1
    return value if value in TURNS else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _UNUSUAL["16 bit"]:
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


PHOTOS = (
    "astronaut",
    "chelsea",
    "coffee",
    "rocket",
)  # of scikit-image; they give the PSNR of 3.8 within 1 dB


@cache
def photograph(name: str, size: int) -> np.ndarray:
    """The central square of a photograph of scikit-image, resized with its anti-aliasing: float32 (size, size, 3)."""
    image = getattr(skimage.data, name)()[..., :3]
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return resize(
        image[top : top + side, left : left + side], (size, size), anti_aliasing=True
    ).astype(np.float32)
