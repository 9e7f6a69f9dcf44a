"""One photo from disk: any usual format in, upright 8-bit RGB out, or a plain word on its fault."""

import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import skimage.data
from numpy import ndarray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from skimage.transform import resize

from s3e.utils import S3EError

# What Pillow warns of (odd EXIF, a palette's transparency) is found out or harmless
warnings.filterwarnings("ignore", module=r"PIL\.")

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")  # of scikit-image, free to show
SHORTEST = 16  # pixels of the shorter side below which there is nothing to restore
LARGEST = 80_000_000  # pixels above which decoding would take too much memory
TOO_LARGE = f"larger than {LARGEST // 1_000_000} megapixels", "scale it down or remove it"
FAULTS = {  # what a decoder may raise: what that means, and the remedy
    MemoryError: ("larger than the free memory", "scale it down or remove it"),
    FileNotFoundError: ("not there", "restore it or remove its entry"),
    IsADirectoryError: ("a folder, not a photo", "put the photo there or remove its entry"),
    PermissionError: ("may not be read", "give yourself permission to read it"),
    Image.DecompressionBombError: TOO_LARGE,
    UnidentifiedImageError: ("not a photo in a known format", "make it a JPEG or remove it"),
}


def decode(
    path: Path | str, least: int | None = None
) -> tuple[Image.Image, tuple[int, int], list[str]]:
    """Decode a photo: the upright RGB image, its full size (width, height), what was converted.

    EXIF orientation is applied, 16 bits are scaled to 8, alpha is laid over white. With `least`, a
    JPEG may come at 1/2, 1/4 or 1/8 of its size, no side shorter than `least`. All data are read in
    any case, so that a cut file is found. Raises `S3EError` with file and remedy if it is missing,
    unreadable, damaged, cut, not a photo, shorter than `SHORTEST` pixels at a side, or larger than
    `LARGEST` pixels (found in the header, before decoding).
    """
    try:  # a damaged file may raise nearly anything
        with Image.open(path) as image:
            if not (fault := _fault(image)):
                notes = [] if image.mode in ("RGB", "P") else [f"converted from {image.mode}"]
                size, turn = image.size, 1
                if least:
                    image.draft(image.mode, (least, least))
                image.load()
                with suppress(Exception):  # EXIF that cannot be parsed does not make it worse
                    turn = image.getexif().get(ExifTags.Base.Orientation)
                    ImageOps.exif_transpose(image, in_place=True)
                if turn in range(2, 9):
                    notes.append("turned by EXIF")
                return _to_rgb(image), size[::-1] if turn in range(5, 9) else size, notes
    except Exception as error:
        damaged = f"damaged ({error or type(error).__name__})", "replace the file or remove it"
        fault = next((FAULTS[kind] for kind in FAULTS if isinstance(error, kind)), damaged)
    raise S3EError("{}: {}; {}.".format(path, *fault))


def load_photo(path: Path | str, size: int, side: int | None = None) -> ndarray:
    """The central crop after the shorter side is resized to `side` (default `size`) by Lanczos:
    uint8 (size, size, 3).

    `side` must not be less than `size`. Raises as `decode`.
    """
    image, margin = decode(path)[0], (1 - size / (side or size)) / 2
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS, bleed=margin))


def load_whole(path: Path | str) -> ndarray:
    """The photo as it is: uint8 (H, W, 3). Raises as `decode`."""
    return np.asarray(decode(path)[0])


@cache
def photograph(name: str, size: int) -> ndarray:
    """The central square of a photograph of `PHOTOS`, anti-aliased: uint8 (size, size, 3)."""
    image = getattr(skimage.data, name)()
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    square = image[top : top + side, left : left + side]
    small = resize(square, (size, size), anti_aliasing=True).astype(np.float32)
    return np.rint(255 * small).astype(np.uint8)


def _fault(image: Image.Image) -> tuple[str, str] | None:
    """What is wrong with an opened photo, and the remedy."""
    if image.width * image.height > LARGEST:
        return TOO_LARGE
    if min(image.size) < SHORTEST:
        what = f"{image.width} x {image.height} pixels, less than {SHORTEST} at a side"
        return what, "replace it by a larger photo or remove it"
    if image.format in ("JPEG", "MPO") and b"\xff\xd9" not in image.fp.read():
        return "cut (the end of the JPEG data is missing)", "replace the file or remove it"
    return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":  # 16 bits, or what may be more
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535 or (values != image).any():
            raise ValueError("grey values that are not whole numbers of 16 bits")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")
