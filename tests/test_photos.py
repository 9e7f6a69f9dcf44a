"""Photos as they lie on disk: every usual format is read alike, every fault has a remedy."""

import io
import random

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from s3e.data.photos import PHOTOS, decode, load_photo, load_whole, photograph, sniff
from s3e.inference.photos import read_photo, write_photo
from s3e.utils import S3EError
from tests.fixtures_data import cut, picture

SHARED = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
SMOOTH = Image.fromarray(picture("photos", size=(60, 44)))
GREY = np.linspace(0, 65535, 44 * 60).reshape(44, 60).astype(np.uint16)
TURNS = ["FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_90"]
TURNS += ["TRANSVERSE", "ROTATE_270"]  # how upright photos of EXIF orientation 2 to 8 are stored


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, icc_profile=None, **options)
    return buffer.getvalue()


def test_a_photo_is_resized_and_cropped_in_its_middle(tmp_path):
    image = Image.fromarray(picture("margin", size=(128, 72)))
    image.save(tmp_path / "frame.png")
    small = np.asarray(image.resize((64, 36), Image.Resampling.LANCZOS))
    assert np.array_equal(load_photo(tmp_path / "frame.png", 36), small[:, 14:50])
    assert np.array_equal(load_photo(tmp_path / "frame.png", 24, side=36), small[6:30, 20:44])
    assert np.array_equal(load_whole(tmp_path / "frame.png"), image)


def test_public_photographs_have_any_size():
    for name in PHOTOS:
        image = photograph(name, 48)
        assert image.shape == (48, 48, 3) and image.dtype == np.uint8 and image.std() > 20


MODES = [("L", "png"), ("L", "jpeg"), ("1", "png"), ("LA", "png"), ("CMYK", "tiff"), ("RGB", "mpo")]
MODES += [("CMYK", "jpeg"), ("RGBA", "png"), ("P", "gif"), ("P", "bmp"), ("LAB", "tiff")]


@pytest.mark.parametrize("mode, kind", [*MODES, ("RGB", "webp")])
def test_every_usual_mode_becomes_rgb(tmp_path, mode, kind):
    file = tmp_path / "photo"
    more = {"save_all": True, "append_images": [SMOOTH]} if kind == "mpo" else {}
    file.write_bytes(encoded(SMOOTH.convert(mode), kind, **more))
    image, size, notes = decode(file)
    with Image.open(file) as plain:
        assert image.mode == "RGB" and np.array_equal(image, plain.convert("RGB"))
    assert size == SMOOTH.size
    more = ["the first of 2 images in the file"] * (kind == "mpo")
    more += ["alpha laid over white"] * (mode in ("LA", "RGBA"))
    assert notes == ([] if mode in ("RGB", "P") else [f"converted from {mode}"]) + more


@pytest.mark.parametrize("kind", ["png", "tiff", "ppm"])
def test_16_bits_are_scaled_not_clipped(tmp_path, kind):
    (tmp_path / "photo").write_bytes(encoded(Image.fromarray(GREY), kind))
    image, _, notes = decode(tmp_path / "photo")
    assert np.array_equal(np.asarray(image)[..., 1], np.rint(GREY / 257)) and len(notes) == 1
    (tmp_path / "colour.ppm").write_bytes(b"P6 60 44 65535\n" + COLOURS.astype(">u2").tobytes())
    image, _, notes = decode(tmp_path / "colour.ppm")
    assert np.array_equal(image, SMOOTH) and notes == ["converted from RGB of 16 bits"]
    head = (
        "19778 0 0 0 0 66 0 40 0 60 0 44 0 1 16 3" + " 0" * 11 + " 63488 0 2016 0 31" + " 0" * 2641
    )
    (tmp_path / "black.bmp").write_bytes(np.array(head.split(), "<u2").tobytes())
    image, _, notes = decode(tmp_path / "black.bmp")  # of 5 or 6 bits for a colour, dpi of 0
    assert notes == [] and image.info == {}
    Image.fromarray(DEEP).save(tmp_path / "a.tif", compression="packbits", tiffinfo={284: 2})
    assert np.array_equal(decode(tmp_path / "a.tif")[0].getchannel(0), LIGHT)  # of one plane
    twelve = encoded(Image.new("I;16", (45, 44), 65535), "tiff").replace(b"\0\x2d\0", b"\0\x3c\0")
    (tmp_path / "a.tif").write_bytes(twelve.replace(b"\0\x10\0", b"\0\x0c\0"))  # bits per sample
    assert decode(tmp_path / "a.tif")[0].getextrema()[0] == (255, 255)


def test_alpha_is_laid_over_white(tmp_path):
    clear, palette = SMOOTH.copy(), SMOOTH.convert("P")
    clear.putalpha(Image.fromarray(np.repeat([[0] * 30 + [255] * 30], 44, axis=0).astype(np.uint8)))
    clear.save(tmp_path / "photo.png")
    palette.save(tmp_path / "palette.png", transparency=palette.getpixel((0, 0)))
    pixels = np.asarray(decode(tmp_path / "photo.png")[0])
    assert (pixels[:, :30] == 255).all()
    assert np.array_equal(pixels[:, 30:], np.asarray(SMOOTH)[:, 30:])
    image, _, notes = decode(tmp_path / "palette.png")
    assert image.getpixel((0, 0)) == (255, 255, 255) and notes == ["alpha laid over white"]


@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_photo_upright(tmp_path, orientation, kind):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    turn = TURNS[orientation - 2]
    stored = SMOOTH.transpose(Image.Transpose[turn]) if orientation > 1 else SMOOTH
    stored.save(tmp_path / "photo", kind, exif=exif)
    image, size, notes = decode(tmp_path / "photo")
    assert np.array_equal(image, SMOOTH) and size == SMOOTH.size
    if kind == "png":  # Pillow turns a TIFF by itself
        assert notes == (["turned by EXIF"] if orientation > 1 else [])


LIGHT = np.asarray(SMOOTH.convert("L"))
DEEP, COLOURS = LIGHT.astype(np.uint16) * 257, np.asarray(SMOOTH).astype(np.uint16) * 257
GREYS = {"photometric": "minisblack"}


def declared(most):
    """MaxSampleValue, which may declare how many bits of a sample are used."""
    return {"extratags": [(281, 3, 1, most, True)]}


INVERTED, RGB = {"photometric": "miniswhite"}, {"photometric": "rgb"}
PLANES = RGB | {"planarconfig": "separate"}
BIG = {"byteorder": ">"}
MEANINGS = [  # samples, tags; the note on what was converted
    (65535 - DEEP, INVERTED, "I;16"),
    (255 - LIGHT, INVERTED, "L"),
    (DEEP >> 4, GREYS | declared(4095), "white at 4095"),
    (DEEP >> 6, GREYS | declared(1023), "white at 1023"),
    (4095 - (DEEP >> 4), INVERTED | declared(4095), "white at 4095"),
    (DEEP, GREYS | declared(int(DEEP.max())), "I;16"),  # of this photo alone
    (DEEP, GREYS | declared(4095), "I;16"),  # not true
    (DEEP, GREYS | BIG, "I;16B"),
    (COLOURS, RGB, "RGB of 16 bits"),
    (COLOURS, RGB | BIG, "RGB of 16 bits"),
    (np.asarray(SMOOTH), RGB | {"tile": (16, 16)}, ""),
    (np.asarray(SMOOTH).transpose(2, 0, 1), PLANES, ""),
    (np.stack([LIGHT, 255 - LIGHT]), GREYS, "the first of 2 images in the file"),
]
REFUSED = [  # samples, tags, what is said
    (LIGHT / np.float32(255), GREYS, "float32 samples, MINISBLACK"),
    (LIGHT / 255.0, GREYS, "float64 samples, MINISBLACK"),
    (COLOURS.astype(np.float32), RGB, "float32 samples, RGB"),
    ((DEEP >> 1).astype(np.int16), GREYS, "int16 samples"),
    ((LIGHT >> 1).astype(np.int8), GREYS, "int8 samples"),
    (DEEP.astype(np.uint32), GREYS, "uint32 samples"),
    (COLOURS.transpose(2, 0, 1), PLANES, "uint16 samples, RGB"),
    (DEEP, INVERTED | BIG, "uint16 samples, MINISWHITE"),
]


@pytest.mark.parametrize("samples, tags, note", MEANINGS)
def test_samples_mean_what_the_tags_say(tmp_path, samples, tags, note):
    tifffile.imwrite(tmp_path / "photo.tif", samples, **tags)
    image, _, notes = decode(tmp_path / "photo.tif")
    grey = samples.shape[-1] == 60 and samples.shape[0] != 3
    assert np.array_equal(image, SMOOTH.convert("L").convert("RGB") if grey else SMOOTH)
    assert note in " ".join(notes) and len(notes) <= 2 and (notes != []) == (note != "")
    assert np.array_equal(read_photo(tmp_path / "photo.tif").pixels, image)


@pytest.mark.parametrize("samples, tags, words", REFUSED)
def test_samples_that_cannot_be_read_are_named(tmp_path, samples, tags, words):
    tifffile.imwrite(tmp_path / "photo.tif", samples, **tags)
    with pytest.raises(S3EError, match=rf"photo.tif: .*{words}.*; make "):
        decode(tmp_path / "photo.tif")


def test_the_thumbnail_of_a_raw_photo_is_not_taken_for_it(tmp_path):
    SMOOTH.save(tmp_path / "photo.DNG", "tiff")
    with pytest.raises(S3EError, match="photo.DNG: a TIFF of uint8 samples.* is not supported; "):
        decode(tmp_path / "photo.DNG")
    (tmp_path / "photo.heic").write_bytes(JPEG)
    assert decode(tmp_path / "photo.heic")[2] == []


@pytest.mark.parametrize("kind", ["png", "tiff", "ppm"])
def test_few_of_16_bits_without_a_tag_are_noted(tmp_path, kind):
    Image.fromarray(DEEP >> 4).save(tmp_path / "photo", kind)
    image, _, notes = decode(tmp_path / "photo")
    assert np.abs(np.asarray(image)[..., 0].astype(int) - LIGHT / 16).max() <= 1
    assert notes[-1] == "very dark: perhaps fewer bits are used than the file declares"


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tiff", "avif"])
def test_the_first_of_several_images_is_taken_and_noted(tmp_path, kind):
    others = [SMOOTH.rotate(180), SMOOTH.convert("L").convert("RGB")]
    SMOOTH.save(tmp_path / "photo", kind, save_all=True, append_images=others)
    image, _, notes = decode(tmp_path / "photo")
    assert np.abs(np.asarray(image).astype(int) - SMOOTH).mean() < 12
    assert notes == ["the first of 3 images in the file"]
    if kind == "tiff":  # what is broken behind the first does no harm
        assert decode(cut(tmp_path / "photo"))[2] == []


JPEG, PNG = encoded(SMOOTH, "jpeg"), encoded(SMOOTH, "png")
MPO = encoded(SMOOTH, "mpo", save_all=True, append_images=[SMOOTH])
LOSSY = encoded(SMOOTH, "tiff").replace(b"\3\1\3\0\1\0\0\0\1\0", b"\3\1\3\0\1\0\0\0\x4c\x88")
BROKEN = {
    "a cut JPEG": (JPEG[: len(JPEG) // 2], "cut"),
    "a JPEG that ends in zeros": (JPEG[: len(JPEG) // 2] + bytes(4000), "cut"),
    "an MPO that ends in zeros": (MPO[: len(MPO) // 3] + bytes(4000), "cut"),
    "a compression": (LOSSY, "compression JPEG_LOSSY"),
    "a cut PNG": (PNG[: len(PNG) // 2], "damaged"),
    "a PNG with a wrong byte": (PNG[:2000] + bytes([PNG[2000] ^ 1]) + PNG[2001:], "damaged"),
    "an empty file": (b"", "not a photo in a known format"),
    "a web page": (b"<html>404</html>", "not a photo in a known format"),
    "a program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60 44\n", "not a photo in a known"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(400), "HEIC photos cannot be decoded here"),
    "a film": (b"\0\0\0\x18ftypisom" + bytes(400), "not a photo in a known format"),
    "floats of PFM": (b"Pf\n60 44\n-1.0\n" + bytes(4 * 60 * 44), "does not decode"),
    "a line": (encoded(Image.new("RGB", (200, 15)), "png"), "200 x 15 pixels"),
    "81 megapixels": (b"P6 9000 9000 255\n", "larger than 80 megapixels"),
    "100 megapixels": (b"P6 10000 10000 255\n", "larger than 80 megapixels"),
    "a decompression bomb": (b"P6 40000 40000 255\n", "larger than 80 megapixels"),
    "fractions": (encoded(Image.fromarray(GREY / np.float32(7)), "tiff"), "float32 samples"),
    "32 bits": (encoded(Image.fromarray(np.int32([[70000] * 20] * 20)), "tiff"), "int32 samples"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named_with_a_remedy(tmp_path, name):
    content, words = BROKEN[name]
    (tmp_path / "photo").write_bytes(content)
    for least in (None, 16):
        with pytest.raises(S3EError, match=f"^{tmp_path / 'photo'}: .*{words}.*; .+\\.$"):
            decode(tmp_path / "photo", least)


REFUSALS = [(PermissionError, "may not be read"), (MemoryError, "free memory")]
REFUSALS += [(FileNotFoundError, "not there; restore"), (IsADirectoryError, "a folder, pipe or")]
REFUSALS += [(type("ArrayMemoryError", (MemoryError,), {}), "free memory")]


@pytest.mark.parametrize("error, words", REFUSALS)
def test_files_that_the_system_refuses_are_named(tmp_path, monkeypatch, error, words):
    def refuse(path, formats):
        raise error

    (tmp_path / "photo.jpg").touch()
    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(S3EError, match=f"photo.jpg: .*{words}"):
        decode(tmp_path / "photo.jpg")


def test_a_draft_is_smaller_but_tells_the_full_size(tmp_path):
    Image.fromarray(picture("large", size=(640, 480))).save(tmp_path / "photo.jpg")
    image, size, _ = decode(tmp_path / "photo.jpg", 64)
    assert size == (640, 480) and 64 <= min(image.size) < 480


FILES = [JPEG, PNG, *(encoded(SMOOTH, kind) for kind in ("tiff", "gif", "webp", "bmp"))]
HITS = st.lists(st.tuples(st.floats(0, 0.999), st.binary(max_size=6)), max_size=4)
STARTS = {kind: f"\0\0\0\x18ftyp{kind}".encode() for kind in ("heic", "hevc", "mif1", "isom")}
STARTS |= {kind: kind.encode() for kind in ("MM\0*", "MM\0+", "II+\0")}


@pytest.mark.parametrize("kind", [*STARTS, *"jpeg png tiff gif webp avif jpeg2000 bmp".split()])
def test_photos_are_known_by_their_first_bytes(tmp_path, kind):
    (tmp_path / "photo").write_bytes(STARTS.get(kind) or encoded(SMOOTH, kind))
    assert (sniff(tmp_path / "photo") is None) == (kind in ("isom", "bmp"))
    assert sniff(tmp_path) is None


@given(st.sampled_from(FILES), HITS, st.floats(0, 1))
@settings(max_examples=100, **SHARED)
def test_any_damage_gives_a_photo_or_a_message(tmp_path, content, hits, length):
    content = bytearray(content)
    for place, wrong in hits:
        start = int(place * len(content))
        content[start : start + len(wrong)] = wrong
    (tmp_path / "photo").write_bytes(content[: int(length * len(content))])
    try:
        assert load_photo(tmp_path / "photo", 24).shape == (24, 24, 3)
    except S3EError as error:
        assert str(tmp_path / "photo") in str(error)


def test_a_wrong_header_gives_a_photo_or_a_message(tmp_path):
    """A byte or more of the first 400 changed; what else says it, EXIF, is read and written too."""
    draw = random.Random(1)
    kinds = {".jpg": "jpeg", ".png": "png", ".webp": "webp", ".tif": "tiff"}
    exif = Image.Exif()
    exif.update({ExifTags.Base.Orientation: 6, ExifTags.Base.Artist: "Jane"})
    for end, kind in [*kinds.items()] * 12:
        content = bytearray(encoded(SMOOTH, kind, exif=exif, dpi=(300, 300)))
        for _ in range(draw.choice([1, 1, 3])):
            content[draw.randrange(400 if kind != "tiff" else 8)] = draw.randrange(256)
        (file := tmp_path / f"photo{end}").write_bytes(content)
        try:
            photo = read_photo(file)
            assert np.array_equal(photo.pixels, load_whole(file))
            write_photo(photo.pixels, photo, tmp_path / f"result{end}")
        except S3EError as error:
            assert str(error).startswith(f"{file}: ") and str(error).count("\n") == 0
