"""Downloads against a local server that cuts, corrupts, changes its files and refuses."""

import errno
import hashlib
import io
import shutil
import threading
import zipfile
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from s3e.data import download
from s3e.utils import S3EError, rng

NOISE = rng("download", "noise").bytes(60_000)  # does not compress: archives are as large
CONTENTS = {
    "train2014.zip": {f"train2014/{n:012}.jpg": NOISE[n : n + 20_000] for n in range(3)},
    "val2014.zip": {"val2014/COCO_val2014_000000000042.jpg": NOISE[:9000]},
    "annotations_trainval2014.zip": {
        "annotations/captions_train2014.json": b'{"a": 1}',
        "annotations/captions_val2014.json": b'{"b": 2}',
        "annotations/instances_val2014.json": b"not needed",
    },
    "caption_datasets.zip": {"dataset_flickr8k.json": b"", "dataset_coco.json": b'{"images": []}'},
    "GOPRO_Large.zip": {
        f"GOPRO_Large/{split}/GOPR0001_11_00/{kind}/000001.png": NOISE[:5000]
        for split in ("train", "test")
        for kind in ("blur", "blur_gamma", "sharp")
    },
}


def packed(contents):
    """A zip archive with these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Serves `site.files`; each of `site.faults` is what the next request meets ("": nothing)."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        site, asked = self.server, self.headers["Range"]
        site.seen.append(asked)
        fault = site.faults.pop(0) if site.faults else ""
        content = site.files.get(self.path.split("/")[-1])
        if content is None or fault.isdigit():
            return self.send_error(int(fault or 404))
        start = 0 if fault == "deaf" else int(asked[6:-1])
        if start and start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if fault == "corrupt":
            content = content[:400] + bytes([content[400] ^ 1]) + content[401:]
        end = (start + len(content)) // 2 if fault in ("cut", "silent") else len(content)
        self.wfile.write(content[start:end])
        if fault == "silent":
            self.wfile.flush()
            site.woken.wait(3)


@pytest.fixture
def site(monkeypatch):
    """A running server with the real data sets in tiny archives, faults and the ranges that were
    asked for.
    """
    monkeypatch.setattr(download, "RETRIES", download.RETRIES.new(total=2, backoff_factor=0))
    monkeypatch.setattr(download, "CHUNK", 100)
    monkeypatch.setenv("no_proxy", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files = {name: packed(content) for name, content in CONTENTS.items()}
    server.faults, server.seen, server.woken = [], [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    for key, data in download.DATASETS.items():
        archives = {}
        for name, item in data["archives"].items():
            more = facts(server.files[name]) | {"url": f"{server.url}/{name}"}
            archives[name] = item | more | {"unpacked": more["size"]}
            archives[name]["size"] *= key == "coco"  # GoPro's is not published
        monkeypatch.setitem(download.DATASETS, key, {**data, "archives": archives})
    run = {"target": server.serve_forever, "kwargs": {"poll_interval": 0.01}}
    threading.Thread(**run, daemon=True).start()
    yield server
    server.woken.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def archive(site, tmp_path):
    """One archive of the table and where to fetch it, as `fetch` takes them."""
    item = download.DATASETS["coco"]["archives"]["train2014.zip"]
    return item, tmp_path / "a.zip.part", "and so on"


def facts(content):
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def names(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def fetched(archive, site):
    """Fetch; whether it has the server's bytes."""
    download.fetch(*archive)
    return archive[1].read_bytes() == site.files["train2014.zip"]


@pytest.mark.parametrize(
    "faults", ["cut", "cut deaf", "silent", "500 503"]
)  # deaf: sends all again
def test_cut_download_goes_on_where_it_stopped(site, archive, monkeypatch, faults):
    monkeypatch.setattr(download, "PATIENCE", 1 if faults == "silent" else 60)
    site.faults = faults.split()
    assert fetched(archive, site)
    resumed = [False, False, False] if faults == "500 503" else [False, True]
    assert [asked != "bytes=0-" for asked in site.seen] == resumed
    assert all(int(asked[6:-1]) in (0, *range(10_000, archive[0]["size"])) for asked in site.seen)


def test_next_call_goes_on_but_does_not_glue_another_file(site, archive):
    site.faults = ["cut", "404"]
    with pytest.raises(S3EError, match=r"train2014\.zip could not be .*: and so on\.$"):
        download.fetch(*archive)
    assert fetched(archive, site) and site.seen[2] != "bytes=0-"
    assert fetched(archive, site)  # killed before it was unpacked
    site.files["train2014.zip"] = new = bytes(100) + site.files["train2014.zip"]
    archive[0].update(facts(new))
    with pytest.raises(S3EError, match="damaged or not the published file"):
        download.fetch(*archive)
    assert fetched(archive, site)


FAULTS = [("500", r"\.zip could not be fetched .*500.*: and so on", 3)]
FAULTS += [("404", r"\.zip could not be fetched \(404 ", 1)]  # a refusal is final
FAULTS += [("corrupt", "damaged or not the published file .*SHA-256", 1)]


@pytest.mark.parametrize(("fault", "message", "requests"), FAULTS)
def test_lasting_faults_end_with_address_and_remedy(site, archive, fault, message, requests):
    site.faults = [fault] * requests
    with pytest.raises(S3EError, match=message):
        download.fetch(*archive)
    assert len(site.seen) == requests and not (archive[1].exists() and archive[1].stat().st_size)
    assert fetched(archive, site)


def test_a_file_of_another_size_is_refused_at_once(archive):
    archive[0]["size"] += 30
    with pytest.raises(S3EError, match="offers a file of .* instead of"):
        download.fetch(*archive)


def test_a_disk_without_room_is_named(site, archive, monkeypatch, tmp_path):
    usage, size = namedtuple("usage", "total used free"), archive[0]["size"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 0, 2 * size - 1))
    with pytest.raises(S3EError, match="free, but .* needed: make room"):
        download.fetch(*archive)
    archive[0]["unpacked"] -= 1
    assert fetched(archive, site)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(S3EError, match=r"cannot be written \(the disk is full\): make room"):
        download.download("coco", tmp_path)


# --- the command ---


def test_coco_comes_in_the_official_layout(site, tmp_path, capsys):
    (tmp_path / "val2014").mkdir()
    (tmp_path / "val2014" / "mine.jpg").write_bytes(b"x")
    assert download.download("coco", tmp_path) == 0
    assert "val2014.zip: there already" in capsys.readouterr().out  # the user's files are kept
    expected = {f"annotations/captions_{split}2014.json" for split in ("train", "val")}
    expected |= {*CONTENTS["train2014.zip"], "dataset_coco.json", "val2014/mine.jpg"}
    assert names(tmp_path) == expected and not list(tmp_path.glob(".*"))
    for name, content in CONTENTS["train2014.zip"].items():
        assert (tmp_path / name).read_bytes() == content
    requests = len(site.seen)
    download.download("coco", tmp_path)
    assert len(site.seen) == requests  # not fetched twice


@pytest.mark.parametrize("top", ["GOPRO_Large/", ""])
def test_gopro_fetched_or_by_hand(site, tmp_path, capsys, top):
    frames = CONTENTS["GOPRO_Large.zip"]
    contents = {name.replace("GOPRO_Large/", top): frames[name] for name in frames}
    mine = tmp_path / "GOPRO_Large.zip"
    mine.write_bytes(packed(contents | {"__MACOSX/train/x/blur/000001.png": b"x"}))
    download.download("gopro", tmp_path / "by hand", mine)
    assert "not the published archive" in capsys.readouterr().out
    download.download("gopro", tmp_path / "fetched")
    assert names(tmp_path / "by hand") == names(tmp_path / "fetched") == set(frames)
    assert mine.exists() and len(site.seen) == 1


UNSAFE = {"../evil.jpg": b"x", "val2014/../b/1.jpg": b"x", "/evil.jpg": b"x"}
REFUSED = [
    (b"<html>sign in</html>", r"val2014\.zip is damaged .*fetch it again"),
    (packed(CONTENTS["val2014.zip"])[:-40], r"val2014\.zip is damaged .*fetch it again"),
    (packed(CONTENTS["caption_datasets.zip"] | UNSAFE), "holds nothing for val2014"),
]


@pytest.mark.parametrize(("content", "message"), REFUSED)
def test_archives_that_are_refused(site, tmp_path, content, message):
    mine = tmp_path / "val2014.zip"
    mine.write_bytes(content)
    with pytest.raises(S3EError, match=message):
        download.download("coco", tmp_path / "to", mine)
    assert names(tmp_path) == {"val2014.zip"}


def test_unsafe_paths_are_left_alone(site, tmp_path):
    mine = tmp_path / "val2014.zip"
    mine.write_bytes(packed(CONTENTS["val2014.zip"] | UNSAFE))
    download.download("coco", tmp_path / "to", mine)
    assert names(tmp_path) == {"val2014.zip", *(f"to/{name}" for name in CONTENTS["val2014.zip"])}


def test_wrong_requests(site, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(S3EError, match=r"x.zip is no file named like one of train2014\.zip, "):
        download.download("coco", tmp_path, Path("x.zip"))
    with pytest.raises(S3EError, match="cannot be written .*choose another folder"):
        download.download("gopro", tmp_path / "file" / "below")
    site.faults = ["401"]
    with pytest.raises(S3EError, match="401 .*Google Drive .*--archive FILE"):
        download.download("gopro", tmp_path)


def test_published_facts_are_complete():
    coco, gopro = (download.DATASETS[name]["archives"] for name in ("coco", "gopro"))
    assert coco.keys() | gopro.keys() == CONTENTS.keys() and len(gopro) == 1
    for name, item in (coco | gopro).items():
        assert len(item["sha256"]) == 64 and item["url"].endswith(f"/{name}")
    assert 20e9 < sum(item["size"] for item in coco.values()) < 21e9  # as its page says
