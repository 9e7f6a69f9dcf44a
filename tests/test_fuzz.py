"""Damaged photos and caption files, the same in each run, through the commands: nothing is raised,
and each photo and each record is used or named."""

import json
import re
from copy import deepcopy
from pathlib import Path

import pytest
from PIL import Image

from s3e.__main__ import main
from s3e.data.annotations import read_source
from s3e.utils import rng
from tests.fixtures_data import picture, write_coco, write_karpathy, write_photos

MORE = {"progressive": True, "lossless": True, "compression": "tiff_lzw", "dpi": (300, 300)}
DEEP = "[" * 5000 + "]" * 5000  # lists in lists, deeper than a reader goes
ODD = [None, True, 10**30, 0.5, "", "x" * 5000, "\ud800", "../a", [], [[]], {"a": 0}, float("nan")]


def with_bytes(content, draw, start, *lengths):
    """The same bytes, one to three of them changed: each within one of `lengths` from `start`."""
    data = bytearray(content)
    for _ in range(draw.integers(1, 4)):
        place = start + draw.integers(draw.choice(lengths))
        data[place % len(data)] = draw.choice([0, 1, 127, 255, draw.integers(256)])
    return bytes(data)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """32 damaged photos of all kinds, TIFFs also with 16 bits, beside 24 that are whole."""
    folder = write_photos(tmp_path_factory.mktemp("damaged"), 24)
    for n, ending in enumerate(("jpg", "png", "webp", "tif") * 8):
        file, array = folder / f"p{n:02}.{ending}", picture("fuzz", n)
        array = 257 * array[..., 0].astype("uint16") if n % 8 == 7 else array
        Image.fromarray(array).save(file, **MORE if n % 8 < 4 else {})
        content = file.read_bytes()  # a TIFF's header says where its directory is
        start = int.from_bytes(content[4:8], "little") if ending == "tif" else 0
        file.write_bytes(with_bytes(content, rng("photo", n), start, 24, 200, 700))
    return folder


@pytest.mark.parametrize("verb", ["deblur", "blur", "caption"])
def test_a_damaged_photo_is_done_or_named(photos, tmp_path, capsys, verb):
    option, results = ("--json", tmp_path / "all.json") if verb == "caption" else ("-o", tmp_path)
    code = main([verb, str(photos), option, str(results)])
    errors, names = capsys.readouterr().err, {file.name for file in photos.rglob("*.*")}
    text = results.read_text() if verb == "caption" else ""
    done = {name for name in names if (tmp_path / name).is_file() or f'{name}"' in text}
    assert {name for name in names if name not in errors} == done
    assert code == 1 and 28 < len(done) < 52


def counts(output):
    """Of how many photos `data check` said that they are used or left out."""
    found = re.findall(r"^(?:train|val|test) +(\d+) photos|left out, alike.*?: (\d+)", output, re.M)
    return sum(int(a or b) for a, b in found) + output.count("\nproblem ")


def test_a_damaged_photo_is_counted(photos, capsys):
    assert main(["data", "check", str(photos)]) == 1
    assert counts(capsys.readouterr().out) == 56


def changed(text, draw):
    """The same JSON with bytes changed, or with values replaced at any depth."""
    if draw.random() < 0.3:
        return with_bytes(text.encode(), draw, 0, len(text))
    whole = [json.loads(text)]
    for depth in draw.integers(1, 6, draw.integers(1, 4)):
        parent, name, inner = whole, 0, whole[0]
        while depth and isinstance(inner, dict | list) and inner:
            names, depth = [*inner] if isinstance(inner, dict) else range(len(inner)), depth - 1
            parent, name = inner, names[draw.integers(len(names))]
            inner = parent[name]
        parent[name] = deepcopy([*ODD, "DEEP"][draw.integers(len(ODD) + 1)])
    return json.dumps(whole[0]).replace('"DEEP"', DEEP).encode()


@pytest.mark.parametrize("writer", [write_coco, write_karpathy])
def test_a_damaged_caption_file_is_read_or_named(tmp_path, capsys, writer):
    file, *_ = sorted(writer(tmp_path, {"train": 12, "val": 8, "test": 4}).rglob("*t*.json"))
    text, others = file.read_text(), 24 - len(json.loads(file.read_text())["images"])
    for n in range(25):
        file.write_bytes(changed(text, rng(file.name, n)))
        code, (output, errors) = main(["data", "check", str(tmp_path)]), capsys.readouterr()
        if code == 2:
            assert str(tmp_path) in errors and errors.count("\n") == 1, n
        else:
            listed = len(json.loads(file.read_text())["images"]) + others
            assert counts(output) >= listed and code == ("\nproblem " in output), (n, output)
            images = read_source(tmp_path).images
            assert images["id"].is_unique and all(map(Path.is_file, images["path"]))
            assert all(tmp_path in path.parents for path in images["path"])
            assert all(1 <= len(texts) <= 5 and all(texts) for texts in images["captions"])
