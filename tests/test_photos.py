"""Photos as they lie on disk: every usual format is read alike, every fault has a remedy."""

import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from s3e.data.photos import PHOTOS, decode, load_photo, load_whole, photograph
from s3e.utils import S3EError
from tests.fixtures_data import picture

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
    several = ["the first of 2 images in the file"] * (kind == "mpo")
    assert notes == ([] if mode in ("RGB", "P") else [f"converted from {mode}"]) + several


@pytest.mark.parametrize("kind", ["png", "tiff", "ppm"])
def test_16_bits_are_scaled_not_clipped(tmp_path, kind):
    (tmp_path / "photo").write_bytes(encoded(Image.fromarray(GREY), kind))
    image, _, notes = decode(tmp_path / "photo")
    assert np.array_equal(np.asarray(image)[..., 1], np.rint(GREY / 257)) and len(notes) == 1


def test_alpha_is_laid_over_white(tmp_path):
    clear, palette = SMOOTH.copy(), SMOOTH.convert("P")
    clear.putalpha(Image.fromarray(np.repeat([[0] * 30 + [255] * 30], 44, axis=0).astype(np.uint8)))
    clear.save(tmp_path / "photo.png")
    palette.save(tmp_path / "palette.png", transparency=palette.getpixel((0, 0)))
    pixels = np.asarray(decode(tmp_path / "photo.png")[0])
    assert (pixels[:, :30] == 255).all()
    assert np.array_equal(pixels[:, 30:], np.asarray(SMOOTH)[:, 30:])
    assert decode(tmp_path / "palette.png")[0].getpixel((0, 0)) == (255, 255, 255)


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


def test_exif_that_cannot_be_parsed_is_ignored(tmp_path):
    SMOOTH.save(tmp_path / "photo.png", exif=b"Exif\0\0no TIFF header")
    assert decode(tmp_path / "photo.png")[1] == SMOOTH.size


JPEG, PNG = encoded(SMOOTH, "jpeg"), encoded(SMOOTH, "png")
BROKEN = {
    "a cut JPEG": (JPEG[: len(JPEG) // 2], "cut"),
    "a JPEG that ends in zeros": (JPEG[: len(JPEG) // 2] + bytes(4000), "cut"),
    "a cut PNG": (PNG[: len(PNG) // 2], "damaged"),
    "a PNG with a wrong byte": (PNG[:2000] + bytes([PNG[2000] ^ 1]) + PNG[2001:], "damaged"),
    "an empty file": (b"", "not a photo in a known format"),
    "a web page": (b"<html>404</html>", "not a photo in a known format"),
    "a line": (encoded(Image.new("RGB", (200, 15)), "png"), "200 x 15 pixels"),
    "81 megapixels": (b"P6 9000 9000 255\n", "larger than 80 megapixels"),
    "100 megapixels": (b"P6 10000 10000 255\n", "larger than 80 megapixels"),
    "a decompression bomb": (b"P6 40000 40000 255\n", "larger than 80 megapixels"),
    "fractions": (encoded(Image.fromarray(GREY / np.float32(7)), "tiff"), "floating-point samples"),
    "32 bits": (
        encoded(Image.fromarray(np.full((20, 20), 70000, np.int32)), "tiff"),
        "32-bit samples",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named_with_a_remedy(tmp_path, name):
    content, words = BROKEN[name]
    (tmp_path / "photo").write_bytes(content)
    for least in (None, 16):
        with pytest.raises(S3EError, match=f"^{tmp_path / 'photo'}: .*{words}.*; .+\\.$"):
            decode(tmp_path / "photo", least)


REFUSALS = [(PermissionError, "may not be read"), (MemoryError, "free memory")]
REFUSALS += [(FileNotFoundError, "not there; restore"), (IsADirectoryError, "a folder, not a")]


@pytest.mark.parametrize("error, words", REFUSALS)
def test_files_that_the_system_refuses_are_named(monkeypatch, error, words):
    def refuse(path, formats):
        raise error

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(S3EError, match=f"photo.jpg: .*{words}"):
        decode("photo.jpg")


def test_a_draft_is_smaller_but_tells_the_full_size(tmp_path):
    Image.fromarray(picture("large", size=(640, 480))).save(tmp_path / "photo.jpg")
    image, size, _ = decode(tmp_path / "photo.jpg", 64)
    assert size == (640, 480) and 64 <= min(image.size) < 480


FILES = [JPEG, PNG, *(encoded(SMOOTH, kind) for kind in ("tiff", "gif", "webp", "bmp"))]
HITS = st.lists(st.tuples(st.floats(0, 0.999), st.binary(max_size=6)), max_size=4)


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
