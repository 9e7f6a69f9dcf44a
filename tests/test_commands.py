"""`python -m s3e deblur | blur | caption`, and the files that photos come from and go to."""

import json
import os
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageCms

from s3e.__main__ import main
from s3e.blur import blur_batch, kernel_for
from s3e.data.photos import LARGEST, ORIENTATION, TURNS
from s3e.explore.blurlab import PRESET, Settings
from s3e.inference import Restorer, blur, deblur
from s3e.inference.bundle import DEMONSTRATION
from s3e.inference.photos import read_photo, write_photo
from s3e.report.diagram import NODE_NAMES
from s3e.utils import ROOT, S3EError
from tests.fixtures_data import picture

SMOOTH = Image.fromarray(picture("commands", size=(60, 44)))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
DAY = "2020:02:29 12:00:00"


def exif(orientation=1, **more):
    """EXIF with a maker, the sides, a day and a place; `more` by name."""
    made = Image.Exif()
    made.update({ORIENTATION: orientation, ExifTags.Base.Make: "Maker"})
    made.update({ExifTags.Base[name]: value for name, value in more.items()})
    sides = {ExifTags.Base.ExifImageWidth: 1, ExifTags.Base.ExifImageHeight: 2}
    made.get_ifd(ExifTags.IFD.Exif).update({ExifTags.Base.DateTimeOriginal: DAY, **sides})
    made.get_ifd(ExifTags.IFD.GPSInfo).update({ExifTags.GPS.GPSLatitudeRef: "N"})
    return made.tobytes()


def grey_profile():
    """A colour profile of grey: light = value ** 1.5."""
    parts = {
        b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">iii", 63190, 65536, 54061),
        b"kTRC": b"curv\0\0\0\0" + struct.pack(">IH", 1, 384),
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"grey\0" + bytes(78),
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
    }
    table, body, start = struct.pack(">I", len(parts)), b"", 128 + 4 + 12 * len(parts)
    for name, content in parts.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    head = struct.pack(
        ">I4sI4s4s4s", start + len(body), b"lcms", 0x02100000, b"mntr", b"GRAY", b"XYZ "
    )
    head += (
        struct.pack(">6H4s", 2020, 1, 1, 0, 0, 0, b"acsp")
        + bytes(28)
        + struct.pack(">iii", 63190, 65536, 54061)
    )
    return head + bytes(128 - len(head)) + table + body


def facts(path):
    """What a file says: EXIF (main part, details, place), colour profile, size."""
    with Image.open(path) as image:
        found = image.getexif()
        parts = found.get_ifd(ExifTags.IFD.Exif), found.get_ifd(ExifTags.IFD.GPSInfo)
        return dict(found), *parts, image.info, image.size


# Photos


@pytest.mark.parametrize("end", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("start", [".jpg", ".png", ".webp", ".tif"])
def test_exif_and_profile_survive_a_round_trip(tmp_path, start, end):
    made = exif(6, **({} if start == ".tif" else {"ImageWidth": 7}))  # TIFF itself writes that one
    SMOOTH.transpose(TURNS[8]).save(tmp_path / f"in{start}", exif=made, icc_profile=SRGB)
    photo = read_photo(tmp_path / f"in{start}")
    assert (
        photo.pixels.shape == (44, 60, 3) and photo.pixels.dtype == np.uint8 and photo.icc == SRGB
    )
    write_photo(photo.pixels, photo, tmp_path / f"out{end}")
    main_part, details, place, info, size = facts(tmp_path / f"out{end}")
    assert size == (60, 44) and info["icc_profile"] == SRGB
    assert main_part[ORIENTATION] == 1 and main_part[ExifTags.Base.Make] == "Maker"
    assert (
        details[ExifTags.Base.DateTimeOriginal] == DAY and place[ExifTags.GPS.GPSLatitudeRef] == "N"
    )
    assert (details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight]) == (
        60,
        44,
    )
    assert (ExifTags.Base.ImageWidth in main_part) == (end == ".tif"), (
        "how the old file stored its pixels is left out"
    )
    again = read_photo(tmp_path / f"out{end}").pixels.astype(int)
    assert np.abs(again - photo.pixels).mean() < {".jpg": 4, ".webp": 8}.get(end, 0.01)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_written_upright(tmp_path, orientation):
    back = {6: TURNS[8], 8: TURNS[6]}.get(orientation, TURNS.get(orientation))
    stored = SMOOTH if back is None else SMOOTH.transpose(back)
    stored.save(tmp_path / "photo.png", exif=exif(orientation))
    photo = read_photo(tmp_path / "photo.png")
    write_photo(photo.pixels, photo, tmp_path / "again.png")
    assert np.array_equal(read_photo(tmp_path / "again.png").pixels, np.asarray(SMOOTH))


def test_a_photo_without_exif_gets_none(tmp_path):
    SMOOTH.save(tmp_path / "photo.jpg")
    photo = read_photo(tmp_path / "photo.jpg")
    assert photo[2:] == (None, None, "JPEG", ())
    write_photo(photo.pixels, photo, tmp_path / "again.jpg")
    assert (
        not facts(tmp_path / "again.jpg")[0]
        and "icc_profile" not in facts(tmp_path / "again.jpg")[3]
    )


def test_jpeg_keeps_the_resolution_of_colours(tmp_path):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 200
    Image.fromarray(stripes).save(tmp_path / "photo.png")
    write_photo(stripes, read_photo(tmp_path / "photo.png"), tmp_path / "photo.jpg")
    assert np.abs(read_photo(tmp_path / "photo.jpg").pixels.astype(int) - stripes).mean() < 4


@pytest.mark.parametrize("turned", [False, True])
def test_grey_with_a_profile_is_converted_by_it(tmp_path, turned):
    grey = Image.linear_gradient("L").resize((64, 48))
    stored, options = (grey.transpose(TURNS[8]), {"exif": exif(6)}) if turned else (grey, {})
    stored.save(tmp_path / "photo.png", icc_profile=grey_profile(), **options)
    photo = read_photo(tmp_path / "photo.png")
    light = (np.asarray(grey)[..., None] / 255) ** 1.5
    expected = 255 * np.where(
        light < 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055
    )  # IEC 61966-2-1
    assert np.abs(photo.pixels - expected).mean() < 1
    assert np.abs(photo.pixels - np.asarray(grey)[..., None].astype(int)).mean() > 5
    assert photo.icc is None and "converted to sRGB by its colour profile" in photo.notes


@pytest.mark.parametrize(
    "mode, profile",
    [("CMYK", SRGB), ("RGB", grey_profile()), ("RGB", b"nonsense"), ("RGB", SRGB[:200])],
)
def test_a_profile_that_does_not_fit_is_left_out(tmp_path, mode, profile):
    SMOOTH.convert(mode).save(tmp_path / "photo.jpg", icc_profile=profile)
    photo = read_photo(tmp_path / "photo.jpg")
    assert photo.icc is None and "colour profile does not fit, left out" in photo.notes
    assert np.abs(photo.pixels.astype(int) - np.asarray(SMOOTH)).mean() < 30


def test_exif_that_cannot_be_read_is_left_out(tmp_path, monkeypatch):
    SMOOTH.save(tmp_path / "photo.jpg", exif=exif())

    def broken(self, tag):
        raise SyntaxError("not a TIFF")

    monkeypatch.setattr(Image.Exif, "get_ifd", broken)
    photo = read_photo(tmp_path / "photo.jpg")
    assert photo.exif is None and photo.notes == ("EXIF cannot be read, left out",)


def test_bmp_and_ppm_hold_the_pixels(tmp_path):
    SMOOTH.save(tmp_path / "photo.png", exif=exif(), icc_profile=SRGB)
    photo = read_photo(tmp_path / "photo.png")
    for end in (".bmp", ".PPM"):
        write_photo(photo.pixels, photo, tmp_path / f"out{end}")
        assert np.array_equal(read_photo(tmp_path / f"out{end}").pixels, photo.pixels)


def test_photos_that_cannot_be_written_are_named(tmp_path):
    SMOOTH.save(tmp_path / "photo.png")
    photo = read_photo(tmp_path / "photo.png")
    with pytest.raises(
        S3EError, match=r"photo.gif: photos are not written as '.gif'; choose one of .jpg"
    ):
        write_photo(photo.pixels, photo, tmp_path / "photo.gif")
    with pytest.raises(
        S3EError, match=r"photo.png/a.png cannot be written .*: name another folder"
    ):
        write_photo(photo.pixels, photo, tmp_path / "photo.png" / "a.png")


def test_too_many_pixels_are_refused_from_the_header(tmp_path):
    Image.new("1", (16, LARGEST // 16 + 1)).save(tmp_path / "photo.png")
    with pytest.raises(S3EError, match="larger than 80 megapixels"):
        read_photo(tmp_path / "photo.png")


def test_a_photo_that_its_format_cannot_hold_is_one_error(tmp_path):
    SMOOTH.save(tmp_path / "photo.png")
    like = read_photo(tmp_path / "photo.png")._replace(exif=b"Exif\0\0" + bytes(70_000))
    with pytest.raises(
        S3EError, match="EXIF data is too long.: name another folder, or make the photo a PNG"
    ):
        write_photo(like.pixels, like, tmp_path / "result.jpg")
    assert not (tmp_path / "result.jpg").exists()


# Commands


@pytest.fixture
def photos(tmp_path):
    """A folder of three photos (JPEG, turned PNG, one in a folder of its own) and a note."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    (folder / "note.txt").write_text("no photo")
    SMOOTH.save(folder / "a.jpg", quality=95)
    SMOOTH.transpose(TURNS[8]).save(folder / "b.png", exif=exif(6), icc_profile=SRGB)
    Image.fromarray(picture("wide", size=(150, 40))).save(folder / "more" / "c.webp")
    return folder


def run(*command):
    return main([*map(str, command)])


def names(folder):
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def test_deblur_restores_a_folder(photos, tmp_path, capsys):
    assert run("deblur", photos, "-o", tmp_path / "out") == 0
    assert names(tmp_path / "out") == ["a.jpg", "b.png", "c.webp"]
    expected = Restorer.load().restore(np.asarray(SMOOTH))
    assert np.array_equal(read_photo(tmp_path / "out" / "b.png").pixels, expected)
    assert facts(tmp_path / "out" / "b.png")[3]["icc_profile"] == SRGB
    output, errors = capsys.readouterr()
    assert errors.count("no use on photographs") == 1, "which weights these are is said once"
    assert output.split() == [
        str(tmp_path / "out" / "a.jpg"),
        *(str(tmp_path / "out" / "b.png"), "(turned", "by", "EXIF)"),
        str(tmp_path / "out" / "c.webp"),
    ]


def test_deblur_tells_caption_and_tree(photos, tmp_path, capsys):
    assert run("deblur", photos / "b.png", "-o", tmp_path / "out", "--caption", "--tree") == 0
    reading, output = Restorer.load().read(np.asarray(SMOOTH)), capsys.readouterr().out
    told = json.loads((tmp_path / "out" / "b.json").read_text())
    assert told["caption"] == reading.caption and reading.caption in output
    assert [node["label"] for node in told["tree"]] == [*reading.nodes]
    assert [node["node"] for node in told["tree"]] == [*NODE_NAMES]
    assert [node["probability"] for node in told["tree"]] == pytest.approx(
        reading.confidence, abs=1e-4
    )
    assert (
        told["photo"] == "b.png"
        and told["reader"] == "full"
        and "no use on photographs" in told["weights"]
    )


@pytest.mark.parametrize(
    "flag, key, other", [("--caption", "caption", "tree"), ("--tree", "tree", "caption")]
)
def test_deblur_tells_only_what_is_asked(photos, tmp_path, flag, key, other):
    assert run("deblur", photos / "a.jpg", "-o", tmp_path, "--arm", "baseline", flag) == 0
    told = json.loads((tmp_path / "a.json").read_text())
    assert key in told and other not in told


def test_deblur_has_two_arms_and_tiles(photos, tmp_path, capsys):
    wide, restorer = photos / "more" / "c.webp", Restorer.load()
    pixels = read_photo(wide).pixels
    for arm in restorer.arms:
        for statistics in ("whole", "tile"):
            out = tmp_path / arm / statistics
            command = ("--arm", arm, "--statistics", statistics, "--tile", 32, "-o", out)
            Image.fromarray(pixels).save(tmp_path / "c.png")
            assert run("deblur", tmp_path / "c.png", *command) == 0
            done = read_photo(out / "c.png").pixels
            assert np.array_equal(
                done, restorer.restore(pixels, arm, tile=32, statistics=statistics)
            )
    assert "c.png:   0%" in capsys.readouterr().err, "tiles have a progress bar"
    assert run("deblur", tmp_path / "c.png", "--tile", 0, "-o", tmp_path / "whole") == 0
    assert "c.png:   0%" not in capsys.readouterr().err, "one piece has none"


def test_ten_files_one_corrupt(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for number in range(10):
        Image.fromarray(picture("ten", number, size=(40, 40))).save(
            tmp_path / "in" / f"{number}.jpg"
        )
    broken = tmp_path / "in" / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:-200])
    assert run("deblur", tmp_path / "in", "-o", tmp_path / "out") == 1
    assert names(tmp_path / "out") == [f"{number}.jpg" for number in range(10) if number != 3]
    errors = capsys.readouterr().err
    assert (
        f"s3e: {broken}: " in errors
        and "replace the file or remove it" in errors
        and "1 failed, 9 done" in errors
    )


def test_files_are_not_overwritten_unasked(photos, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.jpg").write_bytes(b"mine")
    (out / "b.json").write_bytes(b"mine, too")
    command = ("deblur", photos, "-o", out, "--caption")
    assert run(*command) == 1
    assert (out / "a.jpg").read_bytes() == b"mine" and (out / "b.json").read_bytes() == b"mine, too"
    assert names(out) == ["a.jpg", "b.json", "c.json", "c.webp"]
    errors = capsys.readouterr().err
    assert (
        f"{out / 'a.jpg'} is there already" in errors
        and f"{out / 'b.json'} is there already" in errors
    )
    assert "s3e: 2 were there already, 1 done" in errors and "failed" not in errors
    assert run(*command, "--overwrite") == 0
    assert (
        read_photo(out / "a.jpg").pixels.shape == (44, 60, 3)
        and "caption" in (out / "b.json").read_text()
    )


def test_photos_of_one_name_get_numbers(photos, tmp_path):
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        SMOOTH.save(tmp_path / folder / "a.jpg")
    SMOOTH.save(tmp_path / "first" / "a.png")
    inputs = (tmp_path / "first", tmp_path / "second", tmp_path / "first" / "a.jpg")
    assert run("deblur", *inputs, "-o", tmp_path / "out") == 0
    assert names(tmp_path / "out") == ["a-2.jpg", "a.jpg", "a.png"], (
        "a.jpg is named twice, but is one photo"
    )
    assert run("blur", *inputs, "-o", tmp_path / "blurred") == 0
    kernels = ["a-2.kernel.png", "a-3.kernel.png", "a.kernel.png"]
    assert names(tmp_path / "blurred") == sorted([*kernels, "a.jpg", "a-2.png", "a-3.jpg"])


def test_a_format_that_is_not_written_becomes_png(tmp_path):
    SMOOTH.convert("P").save(tmp_path / "photo.gif")
    assert run("deblur", tmp_path / "photo.gif", "-o", tmp_path / "out") == 0
    assert names(tmp_path / "out") == ["photo.png"]


@pytest.mark.parametrize("verb", ["deblur", "blur"])
def test_a_photo_is_never_replaced(photos, tmp_path, capsys, verb):
    before = {name: (photos / name).read_bytes() for name in names(photos)}
    (tmp_path / "link").symlink_to(photos)
    for out in (photos, tmp_path / "link"):
        assert run(verb, photos, "-o", out, "--overwrite") == 2
        assert f"{photos / 'a.jpg'} would be replaced by a result" in capsys.readouterr().err
    assert {name: (photos / name).read_bytes() for name in names(photos)} == before


def test_a_file_beside_a_result_replaces_no_photo_either(photos, tmp_path, capsys):
    SMOOTH.save(tmp_path / "a.kernel.png")
    assert (
        run("blur", photos / "a.jpg", tmp_path / "a.kernel.png", "-o", tmp_path, "--overwrite") == 2
    )
    assert f"{tmp_path / 'a.kernel.png'} would be replaced by a result" in capsys.readouterr().err


def test_results_below_a_folder_are_not_its_photos(photos):
    command = ("blur", photos, "-o", photos / "out")
    assert run(*command) == 0 and run(*command, "--overwrite") == 0
    assert len(names(photos / "out")) == 6


def test_photos_may_lie_below_the_results(photos):
    assert run("blur", photos / "more", "-o", photos) == 0 and (photos / "c.webp").is_file()


@pytest.mark.parametrize(
    "command, message",
    [
        (["deblur", "{in}", "nowhere.jpg", "-o", "{out}"], "nowhere.jpg does not exist (1 of 2)"),
        (["deblur", "{empty}", "-o", "{out}"], "empty: no photo there"),
        (["deblur", "{in}", "-o", "{in}/a.jpg"], "a.jpg is no folder: name another"),
        (["deblur", "{in}", "-o", "{in}/a.jpg/out"], "a.jpg is no folder: name another"),
        (["caption", "{in}", "--json", "{in}/a.jpg/all.json"], "a.jpg is no folder: name another"),
        (["deblur", "{in}", "-o", "{out}", "--tile", "-5"], "--tile -5: give 0 or more pixels"),
        (["deblur", "{in}", "-o", "{out}", "--weights", "{empty}"], "empty: no weights there"),
        (["caption", "{in}", "--weights", "{empty}"], "empty: no weights there"),
        (["caption", "{in}", "--json", "{in}/a.jpg"], "a.jpg is there already"),
        (
            ["blur", "{in}", "-o", "{out}", "--severity", "light", "--length", "1"],
            "say the same in two ways",
        ),
    ],
)
def test_wrong_requests_end_before_any_work(photos, tmp_path, capsys, command, message):
    (tmp_path / "empty").mkdir()
    places = {"in": photos, "out": tmp_path / "out", "empty": tmp_path / "empty"}
    assert run(*(word.format(**places) for word in command)) == 2
    output, errors = capsys.readouterr()
    assert (
        message in errors
        and errors.count("\n") == 1
        and not output
        and not (tmp_path / "out").exists()
    )


@pytest.mark.parametrize(
    "option", ["--noise 0.6", "--exposure 0", "--length far", "--length nan", "--severity much"]
)
def test_blur_refuses_settings_out_of_range(photos, tmp_path, option):
    with pytest.raises(SystemExit) as end:
        run("blur", photos, "-o", tmp_path / "out", *option.split())
    assert end.value.code == 2 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "command",
    [["deblur", "{in}", "-o", "{in}/new/out"], ["caption", "{in}", "--json", "{in}/new/all.json"]],
)
def test_a_place_that_may_not_be_written_is_told_before_any_work(
    photos, monkeypatch, capsys, command
):
    monkeypatch.setattr(
        os, "access", lambda path, mode: path != photos
    )  # as root everything may be written
    assert run(*(word.format(**{"in": photos}) for word in command)) == 2
    output, errors = capsys.readouterr()
    assert f"{photos} may not be written to" in errors and errors.count("\n") == 1 and not output


def test_missing_photos_are_named_before_weights_are_read(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        deblur, "load_restorer", lambda *names, **options: pytest.fail("weights were read")
    )
    assert run("deblur", photos / "a.jpg", "nowhere.jpg", "-o", tmp_path / "out") == 2


def test_damaged_weights_end_before_any_photo(photos, tmp_path, monkeypatch, capsys):
    shutil.copytree(DEMONSTRATION, tmp_path / "weights")
    (tmp_path / "weights" / "baseline-generator.safetensors").write_bytes(b"damaged")
    command = ("deblur", photos, "-o", tmp_path / "out", "--weights", tmp_path / "weights")
    assert run(*command, "--arm", "baseline") == 2 and not (tmp_path / "out").exists()
    assert run(*command) == 0, "the other arm does not need them"


def test_what_a_folder_hides_is_told(photos, tmp_path, capsys):
    SMOOTH.save(os.fsencode(photos) + b"/\xff.png")
    assert run("blur", photos, "-o", tmp_path / "out") == 1
    errors = capsys.readouterr().err
    assert (
        "not valid UTF-8" in errors
        and "1 failed, 3 done" in errors
        and len(names(tmp_path / "out")) == 6
    )


def test_links_to_nowhere_are_told_and_the_others_done(photos, tmp_path, capsys):
    (photos / "b2.jpg").symlink_to(tmp_path / "gone.jpg")
    (photos / "b3.jpg").symlink_to("b3.jpg")
    assert run("blur", photos, "-o", photos / "out") == 1
    errors = capsys.readouterr().err
    assert f"{photos / 'b2.jpg'}: not there" in errors and str(photos / "b3.jpg") in errors
    assert "2 failed, 3 done" in errors and len(names(photos / "out")) == 6


def test_a_link_in_the_place_of_a_result_is_not_replaced_unasked(photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    assert run("blur", photos / "a.jpg", "-o", tmp_path / "out") == 1
    assert (tmp_path / "out" / "a.jpg").is_symlink()


def test_a_photo_under_two_names_keeps_the_first(photos, tmp_path):
    (tmp_path / "z.jpg").symlink_to(photos / "a.jpg")
    assert run("blur", photos / "a.jpg", tmp_path / "z.jpg", "-o", tmp_path / "out") == 0
    assert names(tmp_path / "out") == ["a.jpg", "a.kernel.png"]


def test_kernels_beside_blurred_photos_are_not_restored(photos, tmp_path):
    SMOOTH.save(photos / "lone.kernel.png")
    assert run("blur", photos, "-o", tmp_path / "blurred") == 0
    assert run("deblur", tmp_path / "blurred", "-o", tmp_path / "out") == 0
    assert names(tmp_path / "out") == ["a.jpg", "b.png", "c.webp", "lone.kernel.png"]


def too_large():
    torch.empty(10**14)


def unwritable():
    raise OSError(28, "No space left on device")


def no_memory():
    raise MemoryError


@pytest.mark.parametrize(
    "trouble, message",
    [
        (too_large, "too little memory; scale it down"),
        (no_memory, "too little memory; scale it down"),
        (unwritable, "No space left on device; free space"),
    ],
)
def test_trouble_with_one_photo_does_not_stop_the_others(
    photos, tmp_path, monkeypatch, capsys, trouble, message
):
    blurred = blur._blurred
    monkeypatch.setattr(
        blur, "_blurred", lambda *facts: trouble() if facts[-1] == "b.png" else blurred(*facts)
    )
    assert run("blur", photos, "-o", tmp_path / "out") == 1
    errors = capsys.readouterr().err
    assert f"s3e: {photos / 'b.png'}: {message}" in errors and "1 failed, 2 done" in errors
    assert "b.png" not in names(tmp_path / "out")


def test_a_mistake_in_the_code_is_not_hidden(photos, tmp_path, monkeypatch):
    def wrong(*facts):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(blur, "_blurred", wrong)
    with pytest.raises(RuntimeError, match="shapes differ"):
        run("blur", photos, "-o", tmp_path / "out")


@pytest.mark.parametrize(
    "words", [("-m", "s3e", "blur", "{photos}", "-o", "{out}"), ("run_all.py", "--status")]
)
def test_a_reader_of_the_output_may_leave(words, photos, tmp_path):
    command = [
        sys.executable,
        *(word.format(photos=photos, out=tmp_path / "out") for word in words),
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    child = subprocess.Popen(command, **pipes, cwd=ROOT, env=os.environ | {"PYTHONUNBUFFERED": ""})
    child.stdout.close()
    assert child.stderr.read() == b"" and child.wait() == 141


def test_an_interrupt_leaves_whole_files(photos, tmp_path, monkeypatch, capsys):
    save, saved = Image.Image.save, []

    def interrupted(self, path, *options, **more):
        saved.append(path)
        save(self, path, *options, **more)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    assert run("deblur", photos, "-o", tmp_path / "out") == 130
    assert names(tmp_path / "out") == ["a.jpg"]
    assert "interrupted: 1 of 3 photos done; no file is half written" in capsys.readouterr().err


def test_blur_is_that_of_the_study(photos, tmp_path, capsys):
    assert run("blur", photos / "b.png", "-o", tmp_path, "--severity", "severe", "--seed", 3) == 0
    expected, extents = blur_batch(np.asarray(SMOOTH)[None], ["b.png"], "severe", 3)
    assert np.array_equal(read_photo(tmp_path / "b.png").pixels, expected[0])
    kernel = kernel_for("b.png", "severe", 44, 3)
    with Image.open(tmp_path / "b.kernel.png") as image:
        assert np.allclose(np.asarray(image) / 65535, kernel / kernel.max(), atol=1e-5)
    assert f"extent {extents[0]:.1f} px" in capsys.readouterr().out


def test_blur_by_a_path_of_ones_own(photos, tmp_path):
    def blurred(*options):
        folder = tmp_path / "-".join(map(str, ("out", *options)))
        assert run("blur", photos / "b.png", "-o", folder, *options) == 0
        return read_photo(folder / "b.png").pixels.astype(int), Image.open(
            folder / "b.kernel.png"
        ).size

    sharp, (base, size) = np.asarray(SMOOTH), blurred("--length", 0.8)
    assert np.array_equal(
        base, blurred("--length", 0.8, "--exploration", 0.004, "--exposure", 1)[0]
    )
    assert np.abs(blurred("--length", 0.001)[0] - sharp).max() <= 1
    short, less = blurred("--length", 0.8, "--exposure", 0.1)
    assert less < size and np.abs(short - sharp).mean() < np.abs(base - sharp).mean()
    for other in (("--seed", 1), ("--exploration", 0.5)):
        assert not np.array_equal(base, blurred("--length", 0.8, *other)[0])
    noisy = blurred("--length", 0.8, "--noise", 0.05)[0] - base
    assert 0.04 * 255 < noisy.std() < 0.06 * 255


def test_the_laboratory_has_the_same_path_where_nothing_is_said():
    assert {name: getattr(Settings(), name) for name in PRESET} == blur.PATH


def test_weights_without_a_captioner_are_read_by_full(photos, tmp_path, capsys):
    weights, file = shutil.copytree(DEMONSTRATION, tmp_path / "weights"), tmp_path / "all.json"
    record = json.loads((weights / "bundle.json").read_text())
    del record["origin"]["captioner-semantics"]
    (weights / "bundle.json").write_text(json.dumps(record))
    assert run("caption", photos / "a.jpg", "--weights", weights, "--json", file) == 0
    told, reading = (
        json.loads(file.read_text()),
        Restorer.load().read(read_photo(photos / "a.jpg").pixels, "full"),
    )
    assert (
        told["reader"] == "full"
        and told["photos"][str(photos / "a.jpg")]["caption"] == reading.caption
    )
    assert "these weights have no captioner, so 'full' reads the photos" in capsys.readouterr().err


def test_caption_prints_what_the_captioner_says(photos, tmp_path, capsys):
    restorer, file = Restorer.load(), tmp_path / "all.json"
    (photos / "d.jpg").write_bytes(b"no photo")
    assert run("caption", photos, "--json", file, "--tree") == 1
    output, errors = capsys.readouterr()
    told = json.loads(file.read_text())
    assert told["reader"] == "captioner"
    assert [*told["photos"]] == [str(photos / name) for name in ("a.jpg", "b.png", "more/c.webp")]
    for path, found in told["photos"].items():
        reading = restorer.read(read_photo(path).pixels, "captioner")
        assert (
            found["caption"] == reading.caption
            and f"{path}\n  caption  {reading.caption}\n  leaf 1" in output
        )
        assert [node["label"] for node in found["tree"]] == [*reading.nodes]
    assert (
        errors.count("no use on photographs") == 1 and f"{photos / 'd.jpg'}: not a photo" in errors
    )
