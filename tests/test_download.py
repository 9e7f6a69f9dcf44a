"""Downloads against a local server that cuts, truncates, corrupts, changes its files and
refuses.
"""

import errno
import hashlib
import io
import json
import shutil
import socket
import threading
import urllib.error
import zipfile
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from s3e.data import download
from s3e.utils import S3EError, rng

NOISE = rng("download", "noise").bytes(60_000)  # does not compress: archives are as large
CONTENTS = {
    "train2014": {f"train2014/COCO_train2014_{n:012}.jpg": NOISE[n : n + 20_000] for n in range(3)},
    "val2014": {"val2014/COCO_val2014_000000000042.jpg": NOISE[:9000]},
    "annotations2014": {
        "annotations/captions_train2014.json": b'{"a": 1}',
        "annotations/captions_val2014.json": b'{"b": 2}',
        "annotations/instances_val2014.json": b"not needed",
    },
    "karpathy": {"dataset_flickr8k.json": b"not needed", "dataset_coco.json": b'{"images": []}'},
    "GOPRO_Large": {
        f"GOPRO_Large/{split}/GOPR0001_11_00/{kind}/000001.png": NOISE[:5000]
        for split in ("train", "test")
        for kind in ("blur", "blur_gamma", "sharp")
    },
}


def packed(contents: dict[str, bytes]) -> bytes:
    """A zip archive with these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            info = zipfile.ZipInfo(name)  # a fixed date: the same bytes each time
            archive.writestr(info, content, compress_type=zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


class Site:
    """Files, the faults that the next requests meet (one word each, "" for none), and the requests
    seen.
    """

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.seen: list[tuple[str, str | None, str | None]] = []  # path, Range, If-Range
        self.woken, self.patience_lost = threading.Event(), False


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        site, asked, condition = self.server.site, self.headers["Range"], self.headers["If-Range"]
        site.seen.append((self.path, asked, condition))
        fault = site.faults.pop(0) if site.faults else ""
        content = site.files.get(self.path.split("/")[-1])
        if content is None or fault.isdigit():
            return self.send_error(int(fault or 404))
        if fault == "redirect":
            self.send_response(302)
            self.send_header("Location", f"/elsewhere{self.path}")
            return self.end_headers()
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        start = (
            int(asked[6:-1])
            if asked and (condition == tag or fault == "careless") and fault != "deaf"
            else 0
        )
        self.send_response(206 if start else 200)
        if start:
            first = start + 7 if fault == "misplaced" else start
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if fault != "endless":
            self.send_header("Content-Length", str(len(content) - start))
        if fault != "untagged":
            self.send_header("ETag", tag)
        self.end_headers()
        if fault == "corrupt":
            content = content[:400] + bytes([content[400] ^ 1]) + content[401:]
        end = (
            (start + len(content)) // 2 if fault in ("cut", "silent", "untagged") else len(content)
        )
        self.wfile.write(content[start:end])
        if fault == "silent":
            self.wfile.flush()
            site.patience_lost = not site.woken.wait(3)


@pytest.fixture
def site(monkeypatch):
    """A running server; downloads wait for no longer than a moment."""
    monkeypatch.setattr(download, "WAITS", (0, 0))
    monkeypatch.setenv("no_proxy", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.site = site = Site()
    site.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    ).start()
    yield site
    site.woken.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def small(site, monkeypatch):
    """The real data sets with tiny archives of the real layouts, on the server."""
    for key, data in download.DATASETS.items():
        archives = {}
        for name, item in data["archives"].items():
            content = packed(CONTENTS.get(name, {}))
            facts = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            facts = facts if key == "coco" else {"size": 0, "sha256": ""}
            archives[name] = {**item, "unpacked": 0, **facts}
            if name in CONTENTS:
                site.files[item["url"].rpartition("/")[2]] = content
        monkeypatch.setitem(download.DATASETS, key, {**data, "archives": archives})
    return site


def run(folder: Path, site: Site, dataset: str, *only: str, archive: Path | None = None) -> int:
    return download.download(dataset, folder, only, None if archive else site.url, archive)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def archive(site, tmp_path):
    """One archive on the server and how to fetch it: url, path, size, digest."""
    site.files["a.zip"] = content = packed(CONTENTS["train2014"])
    digest = hashlib.sha256(content).hexdigest()
    return f"{site.url}/a.zip", tmp_path / "a.zip", len(content), digest


def whole(archive: tuple, site: Site) -> bool:
    """The archive has its name and the server's bytes, and nothing else is left in the folder."""
    path = archive[1]
    return path.read_bytes() == site.files["a.zip"] and names(path.parent) == {"a.zip"}


# --- one archive over HTTP ---


@pytest.mark.parametrize(
    ("faults", "resumed"),
    [
        (["cut"], [False, True]),
        (["cut", "deaf"], [False, True]),  # the server sends all of it again
        (["cut", "misplaced"], [False, True, False]),
        (["cut", "redirect"], [False, True, True]),
        (["cut", "416"], [False, True, False]),
        (["untagged"], [False, False]),  # nothing to tell versions apart
        (["silent"], [False, True]),
        (["500", "503", ""], [False, False, False]),
        (["endless"], [False]),  # no length: known by the size
    ],
)
def test_cut_download_goes_on_where_it_stopped(site, archive, monkeypatch, faults, resumed):
    monkeypatch.setattr(download, "PATIENCE", 1 if "silent" in faults else 60)
    site.faults = list(faults)
    assert download.fetch(*archive) == archive[3]
    assert whole(archive, site)
    asked = [f"bytes={archive[2] // 2}-" if again else None for again in resumed]
    assert [given for _, given, _ in site.seen] == asked


def test_next_call_goes_on_and_other_addresses_do_not_mix(site, archive, monkeypatch):
    monkeypatch.setattr(download, "WAITS", ())
    site.faults = ["cut", "cut"]
    for url in (archive[0], f"{site.url}/mirror/a.zip"):
        with pytest.raises(S3EError, match="cut after .*goes on where it stopped"):
            download.fetch(url, *archive[1:])
    download.fetch(f"{site.url}/mirror/a.zip", *archive[1:])
    assert whole(archive, site)
    assert [bool(asked) for _, asked, _ in site.seen] == [False, False, True]


@pytest.mark.parametrize("fault", ["", "careless"])
def test_file_that_changed_is_not_glued(site, archive, monkeypatch, fault):
    """With If-Range honoured, and by a server that ignores it; nothing but the validator can tell
    (no size, no sha).
    """
    monkeypatch.setattr(download, "WAITS", ())
    site.faults = ["cut"]
    with pytest.raises(S3EError):
        download.fetch(*archive[:2])
    site.files["a.zip"] = packed({"train2014/other.jpg": NOISE})
    monkeypatch.setattr(download, "WAITS", (0, 0))
    monkeypatch.setenv("no_proxy", "*")
    site.faults = [fault]
    download.fetch(*archive[:2])
    assert whole(archive, site)


@pytest.mark.parametrize("notes", [None, "no JSON", "[]", '{"url": 1}'])
def test_part_without_its_notes_starts_anew(site, archive, notes):
    part = archive[1].with_name("a.zip.part")
    part.write_bytes(b"something else")
    if notes:
        part.with_name("a.zip.part.json").write_text(notes)
    download.fetch(*archive)
    assert whole(archive, site) and site.seen[0][1] is None


@pytest.mark.parametrize(
    ("fault", "message", "requests"),
    [
        ("500", r"a\.zip could not be fetched \(500 .*run the command again", 3),
        ("404", r"a\.zip was refused \(404 Not Found\)", 1),  # a refusal is final
        ("corrupt", "damaged or not the published archive .*SHA-256", 1),
    ],
)
def test_lasting_faults_end_with_address_and_remedy(site, archive, fault, message, requests):
    site.faults = [fault] * requests
    with pytest.raises(S3EError, match=message):
        download.fetch(*archive)
    assert len(site.seen) == requests and not names(archive[1].parent)
    download.fetch(*archive)
    assert whole(archive, site)


def test_truncated_archive_never_gets_its_name(site, archive):
    site.files["a.zip"] = site.files["a.zip"][:-30]
    with pytest.raises(S3EError, match="offers a file of .* instead of"):
        download.fetch(*archive)
    for facts, message in ((archive, "cut after"), (archive[:2], "damaged or not the published")):
        site.faults = ["endless"] * 9
        with pytest.raises(S3EError, match=message):
            download.fetch(*facts)
        assert not archive[1].exists()


def test_archive_that_is_there_is_checked(site, archive):
    download.fetch(*archive)
    assert download.fetch(*archive) == archive[3] and len(site.seen) == 1
    for known in ((archive[2] - 1,), (0, "0" * 64)):
        with pytest.raises(S3EError, match=r"a\.zip is damaged .*delete it"):
            download.fetch(*archive[:2], *known)


def test_no_internet_is_an_error_at_once(tmp_path, monkeypatch):
    def nowhere(*_, **__):
        raise urllib.error.URLError(socket.gaierror(-2, "Name or service not known"))

    monkeypatch.setattr("urllib.request.urlopen", nowhere)
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("waited for a name that isn't there"))
    with pytest.raises(
        S3EError, match="nowhere.invalid cannot be found, so there may be no intern"
    ):
        download.fetch("http://nowhere.invalid/a.zip", tmp_path / "a.zip")


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_midway_goes_on_later(site, archive, monkeypatch):
    monkeypatch.setattr(download, "CHUNK", 1000)
    read, count = download._read, iter(range(99))
    with monkeypatch.context() as patch, pytest.raises(S3EError, match=r"a\.zip: the disk is full"):
        patch.setattr(download, "_read", lambda r: full() if next(count) == 9 else read(r))
        download.fetch(*archive)
    assert len(site.seen) == 1 and not archive[1].exists()  # no fault of the connection
    download.fetch(*archive)
    assert whole(archive, site) and site.seen[1][1]


def disk(patch, free: int) -> None:
    usage = namedtuple("usage", "total used free")
    patch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 0, free))


def test_room_is_checked_before_the_first_byte(site, archive, monkeypatch):
    """Also where only the server knows the size: room for the archive and for what comes out of
    it.
    """
    disk(monkeypatch, 2 * archive[2] - 1)
    with pytest.raises(S3EError, match="free, but .* needed: make room"):
        download.fetch(*archive[:2])
    assert not names(archive[1].parent)
    disk(monkeypatch, 2 * archive[2])
    download.fetch(*archive[:2])


# --- the command ---


def test_coco_comes_in_the_official_layout(small, tmp_path, capsys):
    assert run(tmp_path, small, "coco") == 0
    expected = {name for key in ("train2014", "val2014") for name in CONTENTS[key]}
    expected |= {f"annotations/captions_{split}2014.json" for split in ("train", "val")}
    assert names(tmp_path) == expected | {"dataset_coco.json", "download.json"}
    for name in CONTENTS["train2014"]:
        assert (tmp_path / name).read_bytes() == CONTENTS["train2014"][name]
    assert "(as published)" in capsys.readouterr().out and not list(tmp_path.glob(".*"))
    requests = len(small.seen)
    assert run(tmp_path, small, "coco") == 0 and len(small.seen) == requests  # not fetched twice


@pytest.mark.parametrize("top", ["GOPRO_Large/", ""])
def test_gopro_with_and_without_a_top_folder(small, tmp_path, capsys, top):
    frames = CONTENTS["GOPRO_Large"]
    contents = {name.replace("GOPRO_Large/", top): frames[name] for name in frames}
    small.files["GOPRO_Large.zip"] = packed(contents | {"__MACOSX/train/x/blur/000001.png": b"x"})
    run(tmp_path, small, "gopro")
    assert names(tmp_path) == {*CONTENTS["GOPRO_Large"], "download.json"}
    found = hashlib.sha256(small.files["GOPRO_Large.zip"]).hexdigest()
    assert f"{found} (no digest is published)" in capsys.readouterr().out
    facts = json.loads((tmp_path / "download.json").read_text())["GOPRO_Large"]
    assert facts["sha256"] == found and facts["bytes"] == len(small.files["GOPRO_Large.zip"])


def test_refused_gopro_names_the_manual_step(small, tmp_path):
    small.faults = ["401"]
    with pytest.raises(S3EError, match="401 .*Google Drive .*--archive FILE"):
        run(tmp_path, small, "gopro")


def test_archive_fetched_by_hand(small, tmp_path, capsys):
    mine = tmp_path / "mine.zip"
    mine.write_bytes(packed(CONTENTS["GOPRO_Large"]))
    run(tmp_path / "to", small, "gopro", archive=mine)
    assert names(tmp_path / "to") == {*CONTENTS["GOPRO_Large"], "download.json"}
    assert mine.exists() and not small.seen
    mine.write_bytes(packed({"val2014/other.jpg": b"x"}))
    run(tmp_path / "to", small, "coco", "val2014", archive=mine)
    assert "(not the published archive)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>sign in</html>", r"mine\.zip is damaged .*fetch it again"),
        (packed(CONTENTS["val2014"])[:-40], r"mine\.zip is damaged .*fetch it again"),
        (packed(CONTENTS["karpathy"]), r"mine\.zip holds nothing for val2014"),
        (packed({**CONTENTS["val2014"], "../evil.jpg": b"x"}), "holds the unsafe path"),
        (packed({**CONTENTS["val2014"], "val2014/../blur/1.png": b"x"}), "holds the unsafe path"),
        (packed({**CONTENTS["val2014"], "/evil.jpg": b"x"}), "holds the unsafe path"),
    ],
)
def test_archives_that_are_refused(small, tmp_path, content, message):
    (tmp_path / "mine.zip").write_bytes(content)
    with pytest.raises(S3EError, match=message):
        run(tmp_path / "to", small, "coco", "val2014", archive=tmp_path / "mine.zip")
    assert names(tmp_path) == {"mine.zip"}


def test_files_of_the_user_are_left_alone(small, tmp_path):
    (tmp_path / "val2014").mkdir()
    (tmp_path / "val2014" / "mine.jpg").write_bytes(b"x")
    with pytest.raises(S3EError, match="val2014 is there, but not from this command: move it away"):
        run(tmp_path, small, "coco")
    assert names(tmp_path) == {"val2014/mine.jpg"} and not small.seen


def test_full_disk_while_unpacking_goes_on_later(small, tmp_path, monkeypatch):
    usual, copied = shutil.copyfileobj, []

    def copy(source, *rest):
        copied.append(source.name)
        usual(source, *rest)

    with monkeypatch.context() as patch, pytest.raises(S3EError, match="the disk is full; make ro"):
        patch.setattr(shutil, "copyfileobj", lambda *rest: full() if copied else copy(*rest))
        run(tmp_path, small, "coco", "train2014")
    assert not (tmp_path / "train2014").exists() and (tmp_path / "train2014.zip").exists()
    monkeypatch.setattr(shutil, "copyfileobj", copy)
    run(tmp_path, small, "coco", "train2014")
    assert sorted(copied) == sorted(CONTENTS["train2014"])  # the first file was not unpacked twice
    assert names(tmp_path) == {*CONTENTS["train2014"], "download.json"} and len(small.seen) == 1


def test_room_for_all_archives_is_checked_first(small, tmp_path, monkeypatch):
    size = download.DATASETS["coco"]["archives"]["train2014"]["size"]  # by far the largest
    disk(monkeypatch, 2 * size - 1)
    with pytest.raises(S3EError, match="free, but .* needed"):
        run(tmp_path / "to", small, "coco")
    assert not small.seen and not (tmp_path / "to").exists()


def test_folder_that_cannot_be(small, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(S3EError, match="cannot be written .*choose another folder"):
        run(tmp_path / "file" / "below", small, "gopro")


def test_any_damage_ends_in_one_sentence(tmp_path):
    """Bytes of an archive changed in some ways, and many lengths: unpacked whole or refused,
    nothing half-done.
    """
    item = download.Archive("karpathy", **download.DATASETS["coco"]["archives"]["karpathy"])
    content, whole = b'{"images": [%s]}' % (b'"a photo", ' * 30), tmp_path / "dataset_coco.json"
    archive = packed({"dataset_coco.json": content})
    changed = [
        archive[:n] + bytes([value]) + archive[n + 1 :]
        for n, byte in enumerate(archive)
        for value in {12, byte ^ 128} - {byte}  # 12: the bzip2 method
    ]
    for damaged in changed + [archive[:n] for n in range(0, len(archive), 9)]:
        (tmp_path / "a.zip").write_bytes(damaged)
        try:
            download.unpack(tmp_path / "a.zip", item, tmp_path, "", "")
        except S3EError:
            assert not whole.exists()
        else:
            assert whole.read_bytes() == content
            whole.unlink()


def test_published_facts_are_complete():
    """Every size with its digest; the sum of MSCOCO's usual archives is the 20 GB that its page
    speaks of.
    """
    for data in download.DATASETS.values():
        for item in data["archives"].values():
            assert not item.get("size") or len(item["sha256"]) == 64
            assert item["url"].endswith(".zip") and item["url"].startswith(("http://", "https://"))
    coco = download.DATASETS["coco"]
    assert 20e9 < sum(coco["archives"][name]["size"] for name in coco["usual"]) < 21e9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("coco", None, (), None, Path("x.zip")), "x.zip is one archive: say with --only"),
        (("gopro", None, (), None, Path("no.zip")), "no.zip is not a file"),
        (("coco", None, ["train2015"]), "train2015 is not known: choose from train2014, "),
        (("coco", None, (), "file:///etc"), "file:///etc is not an address"),
    ],
)
def test_wrong_requests(arguments, message):
    with pytest.raises(S3EError, match=message):
        download.download(*arguments)
