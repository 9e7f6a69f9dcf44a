"""Photos in and out of files: upright RGB pixels for the networks; EXIF, colour profile and format kept for the result.

Decoding and its checks are those of `s3e.data.photos`.
"""

import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms

from s3e.data.photos import ORIENTATION, TURNS, decode
from s3e.utils import S3EError, atomic_write

SAVED = {  # extension -> Pillow's format and options
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".png": ("PNG", {}),
    ".webp": ("WEBP", {"quality": 95}),
    ".tif": ("TIFF", {}),  # not compressed: Pillow writes no EXIF into a compressed one
    ".tiff": ("TIFF", {}),
    ".bmp": ("BMP", {}),
    ".ppm": ("PPM", {}),
}
BARE = ("BMP", "PPM")  # formats that hold neither EXIF nor a profile
LAYOUT = (  # TIFF tags about how the pixels of the old file are stored
    *(
        254,
        255,
        256,
        257,
        258,
        259,
        262,
        266,
        273,
        277,
        278,
        279,
        284,
        317,
        318,
        319,
        320,
        322,
        323,
        324,
        325,
        330,
    ),
    *(338, 339, 347, 529, 530, 531, 532, 700, 33723, 34377, 34675),
)


class Photograph(NamedTuple):
    """A photo and what its file says about it.

    `pixels`: uint8 (H, W, 3), upright RGB; `exif`: the file's EXIF with orientation 1, `icc`: its RGB colour profile
    (None: it has none); `format`: Pillow's name; `notes`: what was converted or is left out.
    """

    pixels: np.ndarray
    path: Path
    exif: bytes | None
    icc: bytes | None
    format: str
    notes: tuple[str, ...]


def read_photo(path: Path | str) -> Photograph:
    """Read a photo of any usual kind. Grey and CMYK with a colour profile are converted to sRGB by it.

    Raises `S3EError` as `s3e.data.photos.open_photo` (broken, cut, too small, larger than 80 megapixels).
    """
    decoded = decode(path)
    pixels, notes = np.asarray(decoded.image), list(decoded.notes)
    with warnings.catch_warnings(), Image.open(path) as image:
        warnings.simplefilter("ignore")  # odd EXIF; what matters was checked by `decode`
        icc, converted = _profile(image, notes)
        exif = _exif(image, decoded.size, notes)
        name = image.format or ""
    return Photograph(
        pixels if converted is None else converted, Path(path), exif, icc, name, tuple(notes)
    )


def write_photo(pixels: np.ndarray, like: Photograph, path: Path | str) -> None:
    """Write uint8 (H, W, 3) in the format of the extension, whole or not at all, with what `like` says about itself.

    JPEG: quality 95, full colour resolution; BMP and PPM hold pixels only. Raises `S3EError` for an unknown extension
    or where the file cannot be written.
    """
    path = Path(path)
    kind, options = format_of(path)
    about = {} if kind in BARE else {"exif": like.exif or b"", "icc_profile": like.icc}
    try:
        with atomic_write(path) as temporary:
            Image.fromarray(pixels).save(temporary, kind, **options, **about)
    except (OSError, ValueError) as error:  # the disk; too long a side or EXIF for the format
        reason = getattr(error, "strerror", None) or error
        raise S3EError(
            f"{path} cannot be written ({reason}): name another folder, or make the photo a PNG."
        ) from None


def format_of(path: Path) -> tuple[str, dict]:
    """Pillow's format and options for an extension; `S3EError` for one that is not written."""
    if path.suffix.lower() not in SAVED:
        raise S3EError(
            f"{path}: photos are not written as '{path.suffix}'; choose one of {', '.join(SAVED)}."
        )
    return SAVED[path.suffix.lower()]


def _exif(image: Image.Image, size: tuple[int, int], notes: list[str]) -> bytes | None:
    """The photo's EXIF for the upright photo of `size` (width, height), without its thumbnail."""
    try:
        exif = image.getexif()
        for tag in LAYOUT:
            exif.pop(tag, None)
        if not exif:
            return None
        exif[ORIENTATION] = 1
        details = exif.get_ifd(ExifTags.IFD.Exif)
        sides = zip(
            (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight), size, strict=True
        )
        details.update({tag: side for tag, side in sides if tag in details})
        return exif.tobytes()
    except (
        Exception
    ):  # Pillow raises nearly anything for damaged EXIF, which does not make the photo worse
        notes.append("EXIF cannot be read, left out")
        return None


def _profile(image: Image.Image, notes: list[str]) -> tuple[bytes | None, np.ndarray | None]:
    """The colour profile where it is one of RGB; otherwise the photo in sRGB, uint8 (H, W, 3), if it can be made."""
    data = image.info.get("icc_profile")
    if not data:
        return None, None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        if profile.profile.xcolor_space == "RGB " and image.mode not in ("CMYK", "LAB"):
            return data, None
        converted = ImageCms.profileToProfile(
            image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        turn = TURNS.get(image.getexif().get(ORIENTATION))
    except (
        Exception
    ):  # a profile that is damaged, or of another kind, does not make the photo worse
        notes.append("colour profile does not fit, left out")
        return None, None
    notes.append("converted to sRGB by its colour profile")
    return None, np.asarray(converted if turn is None else converted.transpose(turn))
