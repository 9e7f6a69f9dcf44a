"""One photo from disk: any usual format in, upright 8-bit RGB out, or a plain word on its fault."""

import io
import logging
import os
import re
import stat
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import skimage.data
from numpy import ndarray
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError
from skimage.transform import resize
from tifffile import TiffFile

from s3e.utils import S3EError

# What Pillow warns of (odd EXIF, a palette's transparency) is found out or harmless
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")  # of scikit-image, free to show
SHORTEST = 16  # pixels of the shorter side below which there is nothing to restore
LARGEST = 80_000_000  # pixels above which decoding would take too much memory
# What is decoded, as Pillow calls it: nothing that runs programs (EPS) or is no photo (PDF, icons)
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "AVIF", "JPEG2000", "BMP", "PPM", "TGA")
EXTENSIONS = {  # of photos: what Pillow as installed can decode (MPO is recognised as a JPEG)
    end for end, kind in Image.registered_extensions().items() if kind in (*FORMATS, "MPO")
}
UNREAD = {*".heic .heif .hif .jxl .psd .dng .nef .cr2 .cr3 .arw .orf .rw2 .raf".split()}  # photos
START = re.compile(
    rb"\xff\xd8\xff|\x89PNG|GIF8|II[*+]|MM\0[*+]|RIFF....WEBP|....(?:jP  |ftypavi)|P[Ff]\s"
    rb"|....ftyp(hei|hev|mif)",  # its group: HEIC
    re.S,
)
KEPT = ("exif", "icc_profile", "dpi", "xmp", "comment")  # what a photo says about itself
TOO_LARGE = f"larger than {LARGEST // 1_000_000} megapixels", "scale it down or remove it"
FAULTS = {  # what a decoder may raise: what that means, and the remedy
    MemoryError: ("larger than the free memory", "scale it down or remove it"),
    FileNotFoundError: ("not there", "restore it or remove its entry"),
    IsADirectoryError: (
        "a folder, pipe or device, not a photo",
        "put the photo there or remove its entry",
    ),
    PermissionError: ("may not be read", "give yourself permission to read it"),
    Image.DecompressionBombError: TOO_LARGE,
}


def decode(
    path: Path | str, least: int | None = None
) -> tuple[Image.Image, tuple[int, int], list[str]]:
    """Decode a photo: the upright RGB image, its full size (width, height), what was converted.

    Its content decides on the format, not its name. EXIF orientation is applied, 16 bits are scaled
    to 8, alpha is laid over white, grey and CMYK with a colour profile become sRGB by it; the first
    of several images in a file is taken. The image's `info` has what is `KEPT`, EXIF as it was, and
    None for all else that the file says about itself (texts of PNG, tags of TIFF, IPTC).

    With `least`, a JPEG may come at 1/2, 1/4 or 1/8 of its size, no side shorter than `least`. All
    data are read in any case, so that a cut file is found. Raises `S3EError` with file and remedy
    if it is missing, unreadable, damaged, cut, not a photo, of samples that are not supported,
    shorter than `SHORTEST` pixels at a side, or larger than `LARGEST` pixels (found in the header,
    before decoding).
    """
    try:  # a damaged file may raise nearly anything
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise IsADirectoryError
        with Image.open(path, formats=FORMATS) as image:
            if not (fault := _fault(image)):
                size, turn = image.size, 1
                coding = re.search(r";16|'RGB', \d{4}", str(image.tile))  # the latter of PPM
                deep = bool(coding) and image.format != "BMP"
                if least:
                    image.draft(image.mode, (least, least))
                image.load()
                exif = image.info.get("exif")
                with suppress(Exception):  # EXIF that cannot be parsed does not make it worse
                    turn = image.getexif().get(ExifTags.Base.Orientation)
                    ImageOps.exif_transpose(image, in_place=True)
                image.info["exif"] = exif
                upright, notes = _to_rgb(image, deep)
                if turn in range(2, 9):
                    notes.append("turned by EXIF")
                with suppress(Exception):  # nor do broken images behind the first
                    if (count := getattr(image, "n_frames", 1)) > 1:
                        notes.append(f"the first of {count} images in the file")
                return upright, size[::-1] if turn in range(5, 9) else size, notes
    except UnidentifiedImageError:
        fault = _unknown(path)
    except Exception as error:
        damaged = f"damaged ({error})", "replace the file or remove it"
        fault = next((FAULTS[kind] for kind in FAULTS if isinstance(error, kind)), damaged)
    raise S3EError("{}: {}; {}.".format(path, *fault))


def sniff(path: Path | str) -> re.Match | None:
    """The match of `START` where a file begins like a photo."""
    with suppress(OSError), open(path, "rb") as file:
        return START.match(file.read(16))
    return None


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
    tags, tag, mode = getattr(image, "tag_v2", {}), ExifTags.Base, image.mode
    number = max(tags.get(tag.SampleFormat, (1,)))  # of another kind than unsigned
    deep = max(tags.get(tag.BitsPerSample, (1,))) > 8  # Pillow mixes up planes of 16 bits
    planes = deep and mode[0] != "I" and tags.get(tag.PlanarConfiguration) == 2
    raw = tags and Path(image.filename).suffix.lower() in UNREAD  # there is a thumbnail alone
    if raw or planes or number > 1 or mode == "F" or (mode == "I" and tags):
        raise UnidentifiedImageError
    return None


def _unknown(path: Path | str) -> tuple[str, str]:
    """What is known of a file that cannot be opened, and the remedy."""
    what = "not a photo in a known format"
    if start := sniff(path):
        what = "damaged, or a photo of a kind that this installation does not decode"
        if start[1]:
            what = "HEIC photos cannot be decoded here"
    with suppress(Exception), TiffFile(path) as tiff:
        page = tiff.pages[0]
        kind = f"{page.dtype} samples, {page.photometric.name}, compression {page.compression.name}"
        what = f"a TIFF of {kind}, which is not supported"
    return what, "make it a JPEG or remove it"


def _to_rgb(image: Image.Image, deep: bool) -> tuple[Image.Image, list[str]]:
    """A loaded photo in 8-bit RGB with what is `KEPT`, and what was converted (`deep`: 16 bits)."""
    info, mode, tags, tag = image.info, image.mode, getattr(image, "tag_v2", {}), ExifTags.Base
    about = {}  # not kept
    for key in {*info} - {"compression"}:
        if key == "photoshop" or isinstance(info[key], str):
            about[key] = None
            del info[key]
    for number, kind in getattr(tags, "tagtype", {}).items():
        if kind == 2 or (number > 33000 and number != 34675):  # texts, private ones; the profile
            about[ExifTags.TAGS.get(number, f"tag {number}")] = None
    what = mode + " of 16 bits" * deep
    notes = [] if what in ("RGB", "P") else [f"converted from {what}"]
    if mode[0] == "I":
        values = np.asarray(image).astype(np.int64)
        white = 2 ** tags.get(tag.BitsPerSample, (16,))[0] - 1
        (most, *_) = tags.get(281, (white,))  # MaxSampleValue; often of this photo alone
        if values.max() <= most < white and most & (most + 1) == 0:
            white = most
            notes.append(f"white at {white}")
        if tags.get(tag.PhotometricInterpretation) == 0:
            values = white - values
        image = Image.fromarray(((255 * values + white // 2) // white).astype(np.uint8))
    try:
        if icc := info.get("icc_profile"):
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            if profile.profile.xcolor_space != "RGB " or mode in ("CMYK", "LAB"):
                srgb = ImageCms.createProfile("sRGB")
                image = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
                del info["icc_profile"]
                notes.append("converted to sRGB by its colour profile")
    except Exception:  # a damaged profile, or one of another kind, does not make it worse
        del info["icc_profile"]
        notes.append("colour profile does not fit, left out")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
        notes.append("alpha laid over white")
    rgb = image.convert("RGB")
    if deep and np.asarray(rgb).max() < 16:
        notes.append("very dark: perhaps fewer bits are used than the file declares")
    if not min(info.get("dpi", (0,))) > 1:  # made up by Pillow, or NaN
        info.pop("dpi", None)
    rgb.info = about | {key: info[key] for key in KEPT if info.get(key)}
    return rgb, notes
