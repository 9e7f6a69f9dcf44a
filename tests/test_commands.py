"""`python -m s3e deblur | blur | caption`, and the files that photos come from and go to."""

import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin

from s3e.__main__ import main
from s3e.blur import blur_batch, kernels_for
from s3e.captions.tree import NODE_NAMES
from s3e.data.photos import LARGEST
from s3e.inference import photos
from s3e.inference.photos import read_photo, write_photo
from s3e.inference.restorer import DEMONSTRATION, Restorer
from s3e.utils import ROOT, S3EError
from tests.fixtures_data import picture

SMOOTH = Image.fromarray(picture("commands", size=(60, 44)))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
DAY = "2020:02:29 12:00:00"
BASE = ExifTags.Base
TURNED = Image.Transpose.ROTATE_90  # as a photo of orientation 6 is stored


def exif(orientation=1, order=">"):
    """EXIF with a maker, the sides, a day and a place; `order` of bytes."""
    made = Image.Exif()
    made.endian = order
    made.update({BASE.Orientation: orientation, BASE.Make: "Maker"})
    details = {BASE.DateTimeOriginal: DAY, BASE.ExifImageWidth: 65596, BASE.ExifImageHeight: 2}
    made.get_ifd(ExifTags.IFD.Exif).update(details)
    made.get_ifd(ExifTags.IFD.GPSInfo).update({ExifTags.GPS.GPSLatitudeRef: "N"})
    return made.tobytes()


def grey_profile():
    """A colour profile of grey: light = value ** 1.5."""
    white = struct.pack(">iii", 63190, 65536, 54061)
    parts = {
        b"wtpt": b"XYZ \0\0\0\0" + white,
        b"kTRC": b"curv\0\0\0\0" + struct.pack(">IH", 1, 384),
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"grey\0" + bytes(78),
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
    }
    table, body, start = struct.pack(">I", len(parts)), b"", 128 + 4 + 12 * len(parts)
    for name, content in parts.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    size, kinds = start + len(body), (b"lcms", 0x02100000, b"mntr", b"GRAY", b"XYZ ")
    head = struct.pack(">I4sI4s4s4s", size, *kinds)
    head += struct.pack(">6H4s", 2020, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + white
    return head + bytes(128 - len(head)) + table + body


def facts(path):
    """What a file says: EXIF (main part, details, place), colour profile, size."""
    with Image.open(path) as image:
        found = image.getexif()
        parts = found.get_ifd(ExifTags.IFD.Exif), found.get_ifd(ExifTags.IFD.GPSInfo)
        return dict(found), *parts, image.info, image.size


# Files


@pytest.mark.parametrize("end", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("start", [".jpg", ".png", ".webp", ".tif"])
def test_exif_and_profile_survive_a_round_trip(tmp_path, start, end):
    SMOOTH.transpose(TURNED).save(tmp_path / f"in{start}", exif=exif(6), icc_profile=SRGB)
    photo = read_photo(tmp_path / f"in{start}")
    assert photo.pixels.shape == (44, 60, 3) and photo.pixels.dtype == np.uint8
    write_photo(photo.pixels, photo, tmp_path / f"out{end}")
    main_part, details, place, info, size = facts(tmp_path / f"out{end}")
    assert size == (60, 44) and info["icc_profile"] == photo.about["icc_profile"] == SRGB
    assert main_part.get(BASE.Orientation, 1) == 1
    if start != ".tif":
        assert main_part[BASE.Make] == "Maker"
        assert details[BASE.DateTimeOriginal] == DAY and place[ExifTags.GPS.GPSLatitudeRef] == "N"
        assert (details[BASE.ExifImageWidth], details[BASE.ExifImageHeight]) == (60, 44)
    again = read_photo(tmp_path / f"out{end}").pixels.astype(int)
    assert np.abs(again - photo.pixels).mean() < {".jpg": 4, ".webp": 8}.get(end, 0.01)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_written_upright(tmp_path, orientation):
    SMOOTH.save(tmp_path / "photo.png", exif=exif(orientation))
    photo = read_photo(tmp_path / "photo.png")
    write_photo(photo.pixels, photo, tmp_path / "again.png")
    with Image.open(tmp_path / "photo.png") as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored))
    assert np.array_equal(read_photo(tmp_path / "again.png").pixels, upright)


def test_bare_files_and_formats(tmp_path):
    SMOOTH.save(tmp_path / "photo.jpg")
    assert read_photo(tmp_path / "photo.jpg")[2:] == ((), {})
    own = b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", ExifTags.IFD.Exif, 4, 1, 8)
    SMOOTH.save(tmp_path / "a.jpg", exif=own + b"\x08\0\0\0")  # a way to details and a thumbnail
    assert read_photo(tmp_path / "a.jpg").about["exif"] == own + bytes(4)
    SMOOTH.save(tmp_path / "a.jpg", exif=exif(6, "<").replace(b"\2\0\6", b"\x0c\0\6"))  # no text
    assert read_photo(tmp_path / "a.jpg").notes == ("turned by EXIF",)
    SMOOTH.save(tmp_path / "a.png", pnginfo=TITLE, dpi=(0, 0))
    assert read_photo(tmp_path / "a.png")[2:] == ((), {"icc_profile": None})
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 200
    Image.fromarray(stripes).save(tmp_path / "photo.png", exif=exif(), icc_profile=SRGB)
    photo = read_photo(tmp_path / "photo.png")
    for end, apart in ((".bmp", 0), (".PPM", 0), (".JPG", 4)):  # JPEG: in full colour resolution
        write_photo(stripes, photo, tmp_path / f"out{end}")
        again = read_photo(tmp_path / f"out{end}").pixels.astype(int)
        assert np.abs(again - stripes).mean() <= apart


@pytest.mark.parametrize("turned", [False, True])
def test_grey_with_a_profile_is_converted_by_it(tmp_path, turned):
    grey = Image.linear_gradient("L").resize((64, 48))
    stored, options = (grey.transpose(TURNED), {"exif": exif(6)}) if turned else (grey, {})
    stored.save(tmp_path / "photo.png", icc_profile=grey_profile(), **options)
    photo = read_photo(tmp_path / "photo.png")
    light = (np.asarray(grey)[..., None] / 255) ** 1.5
    curve = 1.055 * light ** (1 / 2.4) - 0.055  # IEC 61966-2-1
    expected = 255 * np.where(light < 0.0031308, 12.92 * light, curve)
    assert np.abs(photo.pixels - expected).mean() < 1
    assert "icc_profile" not in photo.about
    assert "converted to sRGB by its colour profile" in photo.notes


@pytest.mark.parametrize(
    "mode, profile",
    [("CMYK", SRGB), ("RGB", grey_profile()), ("RGB", b"nonsense"), ("RGB", SRGB[:200])],
)
def test_a_profile_that_does_not_fit_is_left_out(tmp_path, mode, profile):
    SMOOTH.convert(mode).save(tmp_path / "photo.jpg", icc_profile=profile)
    photo = read_photo(tmp_path / "photo.jpg")
    assert "icc_profile" not in photo.about
    assert "colour profile does not fit, left out" in photo.notes
    assert np.abs(photo.pixels.astype(int) - np.asarray(SMOOTH)).mean() < 30


@pytest.mark.parametrize("wrong", [b"Exif\0\0no TIFF", exif()[:-90], b"Exif\0\0II*\0\xff\xff\0\0"])
def test_exif_that_cannot_be_read_is_left_out(tmp_path, wrong):
    SMOOTH.save(tmp_path / "photo.jpg", exif=wrong)
    photo = read_photo(tmp_path / "photo.jpg")
    assert "exif" not in photo.about and photo.notes == ("EXIF cannot be read, left out",)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("end", [".jpg", ".png", ".webp"])
def test_exif_is_kept_byte_for_byte(tmp_path, end, order):
    given = exif(6, order).replace(b"Maker", b"J\xc3\xbc\xff~")
    SMOOTH.transpose(TURNED).save(tmp_path / f"in{end}", exif=given)
    photo = read_photo(tmp_path / f"in{end}")
    write_photo(photo.pixels, photo, tmp_path / f"out{end}")
    main_part, details, _, info, _ = facts(tmp_path / f"out{end}")
    kept = b"Exif\0\0" + info["exif"].removeprefix(b"Exif\0\0")
    apart = sum(a != b for a, b in zip(given, kept, strict=True))
    assert apart == 3, "orientation, width and height"
    sides = details[BASE.ExifImageWidth], details[BASE.ExifImageHeight]
    assert (main_part[BASE.Orientation], *sides) == (1, 60, 44)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not_is_upright(tmp_path, orientation):
    SMOOTH.save(tmp_path / "photo.png", exif=exif(orientation))
    assert np.array_equal(read_photo(tmp_path / "photo.png").pixels, SMOOTH)


@pytest.mark.parametrize("end", [".jpg", ".png", ".bmp", ".tif", ".webp"])
def test_resolution_xmp_and_comment_are_kept(tmp_path, end):
    xmp = b'<x dc:creator="J\xc3\xbcrgen" tiff:Orientation="6"/>'
    SMOOTH.save(tmp_path / f"in{end}", dpi=(240, 240), xmp=xmp, comment=b"caf\xe9")
    photo = read_photo(tmp_path / f"in{end}")
    write_photo(photo.pixels, photo, tmp_path / f"out{end}")
    info = facts(tmp_path / f"out{end}")[3]
    if end != ".webp":
        assert info["dpi"] == pytest.approx((240, 240), abs=0.01)
    if end in (".jpg", ".webp"):
        assert b"J\xc3\xbcrgen" in info["xmp"] and b"Orientation" not in info["xmp"]
    assert info.get("comment") == (b"caf\xe9" if end == ".jpg" else None)


IPTC = b"Photoshop 3.0\0008BIM\4\4\0\0\0\0\0\x08\x1c\2\5\0\3abc"
TITLE = PngImagePlugin.PngInfo()
TITLE.add_text("icc_profile", "dusk")  # a text, though its name is that of what is kept
LOST = [  # a photo, what its file says, what is not kept of it
    ("a.png", {"pnginfo": TITLE, "dpi": (240, 240)}, "icc_profile"),
    ("a.tif", {"exif": exif(), "icc_profile": SRGB}, "ExifOffset, GPSInfo, Make"),
    ("b.tif", {"tiffinfo": {33723: b"abc", 700: b"<x/>"}}, "IPTCNAA, xmp"),
    ("a.gif", {"comment": b"dusk"}, "comment"),
    ("a.jpg", {"extra": b"\xff\xed" + struct.pack(">H", len(IPTC) + 2) + IPTC}, "photoshop"),
]


@pytest.mark.parametrize("name, said, lost", LOST)
def test_what_is_not_kept_is_told(tmp_path, capsys, name, said, lost):
    SMOOTH.save(tmp_path / name, **said)
    assert run("blur", tmp_path / name, "-o", tmp_path / "out") == 0
    [result] = [file for file in (tmp_path / "out").iterdir() if file.suffix != ".npy"]
    assert capsys.readouterr().err == f"s3e: {result}: not kept: {lost}\n"


@pytest.mark.parametrize("end", [".jpg", ".png", ".tif", ".bmp", ".webp"])
def test_a_full_disk_leaves_no_cut_photo(tmp_path, end):
    SMOOTH.save(tmp_path / "photo.png")
    photo, limits = read_photo(tmp_path / "photo.png"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(S3EError, match=r"cannot be written \(the disk is full\)"):
            write_photo(photo.pixels, photo, tmp_path / f"a{end}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [*tmp_path.iterdir()] == [tmp_path / "photo.png"]


def test_photos_that_cannot_be_read_or_written_are_named(tmp_path):
    Image.new("1", (16, LARGEST // 16 + 1)).save(tmp_path / "huge.png")
    with pytest.raises(S3EError, match="larger than 80 megapixels"):
        read_photo(tmp_path / "huge.png")
    SMOOTH.save(tmp_path / "photo.png")
    photo = read_photo(tmp_path / "photo.png")
    long = photo._replace(about={"exif": b"Exif\0\0" + bytes(70_000)})
    for like, name, says in (
        (photo, "photo.gif", r"photos are not written as '.gif'; choose one of .jpg"),
        (photo, "photo.png/a.png", r"a.png cannot be written .*: name another folder"),
        (long, "a.jpg", "EXIF data is too long.: name another folder, or make the photo a PNG"),
    ):
        with pytest.raises(S3EError, match=says):
            write_photo(photo.pixels, like, tmp_path / name)
    assert not (tmp_path / "a.jpg").exists()


# Commands


@pytest.fixture
def folder(tmp_path):
    """A folder of three photos (JPEG, turned PNG, one in a folder of its own) and a note."""
    made = tmp_path / "photos"
    (made / "more").mkdir(parents=True)
    (made / "note.txt").write_text("no photo")
    SMOOTH.save(made / "a.jpg", quality=95)
    SMOOTH.transpose(TURNED).save(made / "b.png", exif=exif(6), icc_profile=SRGB)
    Image.fromarray(picture("wide", size=(150, 40))).save(made / "more" / "c.webp")
    return made


def run(*command):
    return main([*map(str, command)])


def names(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in files)


def test_deblur_restores_a_folder(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("deblur", folder, "-o", out) == 0
    assert names(out) == ["a.jpg", "b.png", "c.webp"]
    expected = Restorer.load().restore(np.asarray(SMOOTH))
    assert np.array_equal(read_photo(out / "b.png").pixels, expected)
    assert facts(out / "b.png")[3]["icc_profile"] == SRGB
    output, errors = capsys.readouterr()
    assert errors.count("no use on photographs") == 1, "which weights these are is said once"
    assert [line.strip() for line in output.splitlines()] == [
        str(out / "a.jpg"), f"{out / 'b.png'} (turned by EXIF)", str(out / "c.webp")
    ]  # fmt: skip


def test_a_folder_gives_what_can_be_decoded_and_counts_the_rest(folder, tmp_path, capsys):
    for name, kind in (
        ("d.jfif", "JPEG"), ("e.JPE", "JPEG"), ("f.avif", "AVIF"), ("g.jp2", "JPEG2000"),
        ("h.tga", "TGA"), ("bare", "JPEG"), ("i.mpo", "MPO"), ("wrong.jpg", "PNG"),
    ):  # fmt: skip
        SMOOTH.save(folder / name, kind)
    (folder / "bare words").write_text("no photo")
    out = tmp_path / "out"
    assert run("blur", folder, "-o", out) == 0
    assert f"{folder}: left alone: 1 .txt, 1 without extension." in capsys.readouterr().err
    assert {path.stem for path in out.glob("*.png")} == {*"bdefghi", "bare"}
    (folder / "j.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(400))
    (folder / "k.dng").write_bytes(b"II*\0")
    assert run("blur", folder, "-o", out, "--overwrite") == 1
    errors = capsys.readouterr().err
    assert "left alone: 1 .dng, 1 .heic, 1 .txt, 1 without" in errors
    assert "this installation cannot decode photos among them: convert them to JPEG" in errors


def test_what_is_named_and_no_photo_is_missed(folder, tmp_path, capsys):
    (empty := tmp_path / "empty").mkdir()
    assert run("blur", folder / "note.txt", folder / "a.jpg", "-o", tmp_path / "out") == 1
    assert "note.txt: not a photo in a known format" in capsys.readouterr().err
    assert run("caption", folder, empty) == 1
    assert f"{empty}: no photo there" in capsys.readouterr().err


def test_deblur_has_two_variants_and_tiles(tmp_path, capsys):
    pixels, mine = picture("wide", size=(400, 60)), Restorer.load()
    Image.fromarray(pixels).save(tmp_path / "c.png")
    for variant in ("full", "baseline"):
        out, options = tmp_path / variant, ("--variant", variant, "--tile", 256)
        assert run("deblur", tmp_path / "c.png", *options, "-o", out) == 0
        done = read_photo(out / "c.png").pixels
        assert np.array_equal(done, mine.restore(pixels, variant, tile=256))
    assert "tiles:   0%" in capsys.readouterr().err, "tiles have a progress bar"
    assert run("deblur", tmp_path / "c.png", "--tile", 0, "-o", tmp_path / "whole") == 0
    assert "tiles:   0%" not in capsys.readouterr().err, "one piece has none"


def test_ten_files_one_corrupt(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for number in range(10):
        image = Image.fromarray(picture("ten", number, size=(40, 40)))
        image.save(tmp_path / "in" / f"{number}.jpg")
    broken = tmp_path / "in" / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:-200])
    assert run("deblur", tmp_path / "in", "-o", tmp_path / "out") == 1
    assert names(tmp_path / "out") == [f"{number}.jpg" for number in range(10) if number != 3]
    errors = capsys.readouterr().err
    assert f"s3e: {broken}: " in errors and "replace the file or remove it" in errors
    assert "9 of 10 photos done" in errors


def test_files_are_not_overwritten_unasked(folder, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    (out / "b.kernel.npy").write_bytes(b"mine, too")
    command = ("blur", folder, "-o", out)
    assert run(*command) == 1
    assert (out / "a.jpg").is_symlink() and (out / "b.kernel.npy").read_bytes() == b"mine, too"
    assert names(out) == ["b.kernel.npy", "c.kernel.npy", "c.webp"]
    errors = capsys.readouterr().err
    assert f"{out / 'a.jpg'} is there already" in errors and "1 of 3 photos done" in errors
    assert f"{out / 'b.kernel.npy'} is there already" in errors
    assert run(*command, "--overwrite") == 0
    assert read_photo(out / "a.jpg").pixels.shape == (44, 60, 3)
    assert np.load(out / "b.kernel.npy").sum() == pytest.approx(1)


def test_two_results_of_one_name_are_refused(folder, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    SMOOTH.save(tmp_path / "other" / "A.JPG")
    SMOOTH.save(tmp_path / "other" / "b.jpg")
    SMOOTH.convert("P").save(tmp_path / "c.gif")
    (tmp_path / "link.jpg").symlink_to(folder / "a.jpg")
    for verb, other, both in (
        ("deblur", "other/A.JPG", "a.jpg and {}/other/A.JPG would both become {}/out/A.JPG"),
        ("blur", "other/b.jpg", "b.png and {}/other/b.jpg would both become {}/out/b.kernel.npy"),
    ):
        assert run(verb, folder, tmp_path / other, "-o", tmp_path / "out") == 2
        assert both.format(tmp_path, tmp_path) in capsys.readouterr().err
    inputs = (folder / "a.jpg", tmp_path / "link.jpg", tmp_path / "other" / "b.jpg")
    assert run("deblur", *inputs, tmp_path / "c.gif", "-o", tmp_path / "out") == 0
    assert names(tmp_path / "out") == ["a.jpg", "b.jpg", "c.png"], "a photo once; GIF becomes PNG"


@pytest.mark.parametrize("verb", ["deblur", "blur"])
def test_results_never_go_into_the_folder_of_a_photo(folder, tmp_path, capsys, verb):
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    (tmp_path / "link").symlink_to(folder)
    for inputs in ([folder], [folder / "more" / "c.webp", folder / "a.jpg"]):
        for out in (folder, tmp_path / "link"):
            assert run(verb, *inputs, "-o", out, "--overwrite") == 2
            assert f"{folder / 'a.jpg'} lies in {out}: give another" in capsys.readouterr().err
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before


def test_results_in_a_folder_are_not_its_photos(folder, tmp_path):
    command = ("blur", folder, "-o", folder / "out")
    assert run(*command) == 0 and run(*command, "--overwrite") == 0
    assert len(names(folder / "out")) == 6
    assert run("deblur", folder / "out", "-o", tmp_path / "restored") == 0
    assert names(tmp_path / "restored") == ["a.jpg", "b.png", "c.webp"]
    assert run("blur", folder / "more", "-o", folder) == 0, "photos may lie below the results"


@pytest.mark.parametrize(
    "command, message",
    [
        (["deblur", "{in}", "nowhere.jpg", "-o", "{out}"], "nowhere.jpg does not exist: correct"),
        (["deblur", "{empty}", "-o", "{out}"], "empty: no photo there"),
        (["deblur", "{in}", "-o", "{in}/a.jpg"], "a.jpg is no folder to write to: name another"),
        (["deblur", "{in}", "-o", "{in}/a.jpg/out"], "a.jpg is no folder to write to: name"),
        (["caption", "{in}", "--json", "{in}/a.jpg/all.json"], "a.jpg is no folder to write to"),
        (["deblur", "{in}", "-o", "{gone}"], "gone is no folder to write to: name another"),
        (["deblur", "{in}", "-o", "{in}" * 200], "(File name too long): give it"),
        (["deblur", "{in}", "-o", "{out}", "--tile", "-5"], "tile = -5: give a multiple of 16"),
        (["deblur", "{in}", "-o", "{out}", "--weights", "{empty}"], "empty: no weights there"),
        (["caption", "{in}", "--weights", "{empty}"], "empty: no weights there"),
        (["caption", "{in}", "--json", "{in}/a.jpg"], "a.jpg is there already"),
    ],
)
def test_wrong_requests_end_before_any_work(folder, tmp_path, capsys, command, message):
    (tmp_path / "empty").mkdir()
    (folder / "a.jpg").chmod(0o755)
    (tmp_path / "gone").symlink_to("nowhere")
    places = {"in": folder} | {name: tmp_path / name for name in ("out", "empty", "gone")}
    assert run(*(word.format(**places) for word in command)) == 2
    output, errors = capsys.readouterr()
    assert message in errors.splitlines()[-1] and errors.count("\n") <= 2  # what is no photo
    assert not output and not (tmp_path / "out").exists()


def test_a_place_that_may_not_be_written_is_told_before_any_work(folder, monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder)  # root may write anywhere
    monkeypatch.setattr(Restorer, "load", lambda *_: pytest.fail("weights were read"))
    for words in (("deblur", "-o", folder / "new/out"), ("caption", "--json", folder / "new/a")):
        assert run(words[0], folder, *words[1:]) == 2
        output, errors = capsys.readouterr()
        assert f"{folder} is no folder to write to" in errors and not output


def test_damaged_weights_end_before_any_photo(folder, tmp_path):
    shutil.copytree(DEMONSTRATION, tmp_path / "weights")
    Restorer.load(tmp_path / "weights").variants["baseline"].write_bytes(b"damaged")
    command = ("deblur", folder, "-o", tmp_path / "out", "--weights", tmp_path / "weights")
    assert run(*command, "--variant", "baseline") == 2 and not (tmp_path / "out").exists()
    assert run(*command) == 0, "the other variant does not need them"


def test_what_a_folder_hides_is_told_and_the_others_done(folder, tmp_path, capsys):
    (folder / "b2.jpg").symlink_to(tmp_path / "gone.jpg")
    (folder / "b3.jpg").symlink_to("b3.jpg")
    assert run("blur", folder, "-o", folder / "out") == 1
    errors = capsys.readouterr().err
    for name in ("b2.jpg", "b3.jpg"):
        assert f"{folder / name}: cannot be opened as a file" in errors
    assert "3 of 5 photos done" in errors
    assert len(names(folder / "out")) == 6


def no_space():
    raise OSError(28, "No space left on device")


def no_memory():
    raise MemoryError


@pytest.mark.parametrize(
    "trouble, message",
    [
        (lambda: torch.empty(10**14), "too little memory; scale it down"),
        (no_memory, "too little memory; scale it down"),
        (no_space, "its result cannot be written (the disk is full): free space"),
    ],
)
def test_trouble_with_one_photo_does_not_stop_the_others(
    folder, tmp_path, monkeypatch, capsys, trouble, message
):
    blur = photos.blur_batch

    def hurt(images, ids, *more):
        return trouble() if ids == ["b.png"] else blur(images, ids, *more)

    monkeypatch.setattr(photos, "blur_batch", hurt)
    assert run("blur", folder, "-o", tmp_path / "out") == 1
    errors = capsys.readouterr().err
    assert f"s3e: {folder / 'b.png'}: {message}" in errors and "2 of 3 photos done" in errors
    assert "b.png" not in names(tmp_path / "out")


def test_a_mistake_in_the_code_is_not_hidden(folder, tmp_path, monkeypatch):
    def wrong(*_):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(photos, "blur_batch", wrong)
    with pytest.raises(RuntimeError, match="shapes differ"):
        run("blur", folder, "-o", tmp_path / "out")


@pytest.mark.parametrize(
    "words", [("-m", "s3e", "blur", "{photos}", "-o", "{out}"), ("run_all.py", "--status")]
)
def test_a_reader_of_the_output_may_leave(words, folder, tmp_path):
    places = {"photos": folder, "out": tmp_path / "out"}
    command = [sys.executable, *(word.format(**places) for word in words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    child = subprocess.Popen(command, **pipes, cwd=ROOT, env=os.environ | {"PYTHONUNBUFFERED": ""})
    child.stdout.close()
    assert child.stderr.read().count(b"\n") <= 1 and child.wait() == 141


def test_an_interrupt_leaves_whole_files(folder, tmp_path, monkeypatch, capsys):
    save, saved = Image.Image.save, []

    def interrupted(self, path, *options, **more):
        saved.append(path)
        save(self, path, *options, **more)
        if len(saved) == 2:
            signal.raise_signal(signal.SIGTERM)  # is as Ctrl-C

    monkeypatch.setattr(Image.Image, "save", interrupted)
    assert run("deblur", folder, "-o", tmp_path / "out") == 130
    assert names(tmp_path / "out") == ["a.jpg"]
    assert "interrupted: 1 of 3 photos done; no file is half written" in capsys.readouterr().err


def test_blur_is_that_of_the_study(folder, tmp_path, capsys):
    assert run("blur", folder / "b.png", "-o", tmp_path, "--severity", "severe", "--seed", 3) == 0
    expected, extents, _ = blur_batch(np.asarray(SMOOTH)[None], ["b.png"], "severe", 3)
    assert np.array_equal(read_photo(tmp_path / "b.png").pixels, expected[0])
    (kernel,), _ = kernels_for(["b.png"], "severe", 44, 3)
    assert np.array_equal(np.load(tmp_path / "b.kernel.npy"), kernel)
    assert f"extent {extents[0]:.1f} px" in capsys.readouterr().out


def test_weights_without_a_captioner_are_read_by_full(folder, tmp_path, capsys):
    weights, file = shutil.copytree(DEMONSTRATION, tmp_path / "weights"), tmp_path / "all.json"
    Restorer.load(weights).readers["captioner"].with_name("done.json").unlink()
    photo = folder / "a.jpg"
    assert run("caption", photo, "--weights", weights, "--json", file) == 0
    told, reading = json.loads(file.read_text()), Restorer.load().read(read_photo(photo).pixels)
    assert told["reader"] == "full" and told["photos"][str(photo)]["caption"] == reading.caption
    assert "these weights have no captioner, so 'full' reads the photos" in capsys.readouterr().err


def test_caption_prints_what_the_captioner_says(folder, tmp_path, capsys):
    mine, file = Restorer.load(), tmp_path / "all.json"
    (folder / "d.jpg").write_bytes(b"no photo")
    assert run("caption", folder, "--json", file, "--tree") == 1
    output, errors = capsys.readouterr()
    told = json.loads(file.read_text())
    assert told["reader"] == "captioner"
    assert [*told["photos"]] == [str(folder / name) for name in ("a.jpg", "b.png", "more/c.webp")]
    for path, found in told["photos"].items():
        reading = mine.read(read_photo(path).pixels, "captioner")
        assert found["caption"] == reading.caption
        assert f"{path}\n  caption  {reading.caption}\n  leaf 1" in output
        shares = [round(share, 4) for share in reading.confidence]
        rows = [*zip(NODE_NAMES, reading.nodes, shares, strict=True)]
        told = [(node["node"], node["label"], node["probability"]) for node in found["tree"]]
        assert told == rows
    assert errors.count("no use on photographs") == 1
    assert f"{folder / 'd.jpg'}: not a photo" in errors


# Names, streams and interrupts

NAMES = [b"caf\xe9", b"caf\\xe9", b"a\nb", b"\x1b[31mred", b"\xff\xfe", b'q"\\uote', b"z"]


def odd(folder, name):
    """A photo under a name of bytes; its path."""
    folder.mkdir(exist_ok=True)
    path = os.path.join(os.fsencode(folder), name + b".png")
    with open(path, "wb") as file:
        SMOOTH.save(file, "PNG")
    return os.fsdecode(path)


@pytest.mark.skipif(sys.platform != "linux", reason="UTF-8 names only")
def test_photos_of_any_name_are_done(tmp_path, capsys):
    paths = [odd(tmp_path / "in", name) for name in NAMES]
    assert run("deblur", tmp_path / "in", "-o", f"{tmp_path}/o\udce9") == 0
    assert len(os.listdir(f"{tmp_path}/o\udce9")) == len(paths)
    assert run("caption", *paths, "--json", tmp_path / "all.json") == 0
    assert {*json.loads((tmp_path / "all.json").read_text("utf-8"))["photos"]} == {*paths}
    assert capsys.readouterr().out.replace("\n", "").isprintable()


def test_names_are_as_long_as_the_file_system_allows(tmp_path, monkeypatch, capsys):
    stems, read = ["x" * 240, "日" * 80, "x" + "." * 238, "n" * 241, "m" * 250], photos.read_photo
    for stem in stems:
        odd(tmp_path / "in", stem.encode())
    monkeypatch.setattr(photos, "read_photo", lambda path: path.stem == stems[-1] or read(path))
    for words in ("blur", tmp_path / "in", "-o", tmp_path / "out"), ("caption", "o" * 256):
        assert run(*words) in (1, 2) and len(names(tmp_path / "out")) == 8
        assert "File name too long" in capsys.readouterr().err


FULL = ["> /dev/full", "PYTHONUNBUFFERED=1 > /dev/full", "> /dev/full 2>&1"]


@pytest.mark.parametrize("to", [">&-", "<&- >&- 2>&-", "> text", *FULL])
def test_output_may_be_closed_full_or_ascii(tmp_path, to):
    for name in (b"caf\xe9", "日".encode()):
        odd(tmp_path / "in", name)
    command = f"cd {tmp_path}; {to} {sys.executable} -m s3e blur in -o out"
    streams = {"PYTHONIOENCODING": "ascii", "PYTHONUNBUFFERED": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, shell=True, capture_output=True, env=os.environ | streams)
    assert done.returncode == ("full" in to) and len(names(tmp_path / "out")) == 4
    full = b"s3e: standard output: No space left on device; nothing more is printed.\n"
    assert done.stderr == full * (done.returncode and "2>" not in to)


def test_a_deleted_folder_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert run("report", "fill") == 2 and "the current folder cannot be" in capsys.readouterr().err


@pytest.mark.parametrize("trouble", [KeyboardInterrupt, ValueError])
def test_captions_that_were_read_are_not_lost(tmp_path, monkeypatch, trouble):
    def read(*_):
        saved.append(len(json.loads(file.read_text())["photos"]))
        if len(saved) == 54:
            raise trouble
        return reading

    for number in range(54):
        odd(tmp_path / "in", b"%d" % number)
    reading, saved, file = Restorer.load().read(np.asarray(SMOOTH)), [], tmp_path / "all.json"
    monkeypatch.setattr(Restorer, "read", read)
    with suppress(ValueError):
        assert run("caption", tmp_path / "in", "--json", file) == 130
    assert saved == [*range(51), 50, 52, 52] and len(json.loads(file.read_text())["photos"]) == 53


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of another system")
def test_pipes_and_devices_are_named_and_not_waited_for(folder, tmp_path, capsys):
    for pipe in (folder / "0.jpg", folder / "captions_train.json", tmp_path / "named.jpg"):
        os.mkfifo(pipe)
    for path, named in (folder, folder / "0.jpg"), (pipe, pipe), ("/dev/zero", "/dev/zero"):
        assert run("caption", path, folder / "a.jpg") == 1
        output, errors = capsys.readouterr()
        assert "a.jpg" in output and re.search(f"{named}: .*(pipe|device)", errors)
