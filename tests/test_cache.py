"""The prepared cache: the same bytes however it is made, never half-written, and refused where it does not fit."""

import ast
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from s3e import __main__ as command_line
from s3e.config import load_config
from s3e.data import prepare as cache
from s3e.data.prepare import in_processes, plan
from s3e.data.readers import open_source
from s3e.utils import S3EError, read_json
from tests.fixtures_data import save, write_gopro, write_photos

SMALL = {"data.size": 32, "data.train": 0, "data.val": 0, "data.test": 0}
KILLED = """
import sys, time
from pathlib import Path
import s3e.data.prepare as cache
from s3e.config import load_config
from s3e.data.readers import open_source

cache.CHUNK = {False: 2, True: 2}
write = cache._write_rows

def write_and_hang(path, start, images):  # each process stops in the middle of a chunk, after a few whole ones
    write(path, start, images)
    if len(list(path.parent.glob("chunks/*"))) >= 6:
        time.sleep(600)

cache._write_rows = write_and_hang
if __name__ == "__main__":
    folder, root = map(Path, sys.argv[1:])
    zero = {f"data.{name}": 0 for name in ("train", "val", "test")}
    config = load_config("smoke", str(root), overrides={"data.size": 32, **zero})
    cache.prepare_arrays(open_source(root), config, folder, jobs=2)
"""


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    """Caches of the tests lie in their own folder."""
    monkeypatch.setattr("s3e.utils.RUNS", tmp_path / "runs")
    monkeypatch.setattr("s3e.data.prepare.RUNS", tmp_path / "runs", raising=False)
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("data") / "photos", 40)


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """An undisturbed cache, made in this process."""
    return cache.prepare_arrays(
        open_source(photos), configure(photos), tmp_path_factory.mktemp("x") / "cache", jobs=1
    )


def configure(folder, **settings):
    overrides = SMALL | {name.replace("_", ".", 1): value for name, value in settings.items()}
    return load_config("smoke", data=str(folder), overrides=overrides)


def prepare(root, folder=None, jobs=1, **settings):
    return cache.prepare_arrays(open_source(root), configure(root, **settings), folder, jobs)


def assert_same(one, other):
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    for name in (name for name in names if name != "cache.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_layout(photos, whole):
    record = read_json(whole / "cache.json")
    views = [
        "test_light",
        "test_moderate",
        "test_severe",
        "test_sharp",
        "train_severe",
        "train_sharp",
    ]
    arrays = [
        f"{name}.npy" for name in (*views, *(name.replace("test", "val") for name in views[:4]))
    ]
    assert sorted(record["files"]) == sorted([*arrays, "train.json", "val.json", "test.json"])
    source = open_source(photos)
    for split, photos_there in source.splits.items():
        content = read_json(whole / f"{split}.json")
        assert content["ids"] == [photo.id for photo in photos_there] and content["missing"] == {}
        assert (
            len(content["extents"]["severe"]) == len(content["psnr"]["severe"]) == len(photos_there)
        )
        assert np.load(whole / f"{split}_sharp.npy", mmap_mode="r").shape == (
            len(photos_there),
            32,
            32,
            3,
        )


def test_bytes_do_not_depend_on_processes_or_chunks(photos, whole, tmp_path, monkeypatch):
    assert_same(whole, prepare(photos, tmp_path / "two", jobs=2))
    monkeypatch.setattr(cache, "CHUNK", {False: 3, True: 3})
    assert_same(whole, prepare(photos, tmp_path / "small chunks"))


def test_killed_preparation_goes_on_where_it_stopped(photos, whole, tmp_path, monkeypatch):
    script, folder = tmp_path / "killed.py", tmp_path / "cache"
    script.write_text(KILLED)
    process = subprocess.Popen(
        [sys.executable, script, folder, photos], cwd=Path(cache.__file__).parents[2]
    )
    chunks = tmp_path / "cache.part" / "chunks"
    wait_for(lambda: len(list(chunks.glob("*"))) >= 6)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(
        lambda: not any(worker.is_running() and worker.status() != "zombie" for worker in workers)
    )
    assert len(workers) >= 2 and not folder.exists()  # nothing half-written under the final name
    before = {path.name: path.stat().st_mtime_ns for path in chunks.glob("*.json")}
    made, make = [], cache._make
    monkeypatch.setattr(cache, "CHUNK", {False: 2, True: 2})
    monkeypatch.setattr(cache, "_make", lambda *given: made.append(given[2].record) or make(*given))
    prepare(photos, folder)
    assert before and not {f"chunks/{name}" for name in before} & set(
        made
    )  # what was done is not done again
    assert_same(whole, folder)
    assert not (tmp_path / "cache.part").exists()


def wait_for(condition, seconds=60):
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("this never came true")


def test_full_disk_is_told_before_the_work(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=200_000))
    monkeypatch.setattr(cache, "_make", None)
    with pytest.raises(S3EError, match=r"cache.part needs \d{3}kB, but 200kB are free: make room"):
        prepare(photos, tmp_path / "cache")
    assert not list((tmp_path / "cache.part").glob("*.npy"))


@pytest.mark.parametrize("place", ["os.posix_fallocate", "s3e.data.prepare._write_rows"])
def test_full_disk_in_the_middle(photos, whole, tmp_path, monkeypatch, place):
    calls, real = [], os.posix_fallocate if "os." in place else cache._write_rows

    def full(*given):
        calls.append(given)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*given)

    monkeypatch.setattr(cache, "CHUNK", {False: 2, True: 2})
    with monkeypatch.context() as patch:
        patch.setattr(place, full)
        with pytest.raises(S3EError, match="cache: the disk is full; make room and repeat"):
            prepare(photos, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    assert_same(whole, prepare(photos, tmp_path / "cache"))


def test_places_that_cannot_be_written(photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        S3EError, match=r"file/cache cannot be written \(.+\): choose another place"
    ):
        prepare(photos, tmp_path / "file" / "cache")


def test_only_a_whole_cache_of_the_same_photos_and_settings_is_read(photos, whole, tmp_path):
    refused = "is not, or no longer, the cache of these photos and settings: delete it or give another --out"
    made = prepare(photos, tmp_path / "cache")
    with pytest.raises(S3EError, match=refused):
        prepare(photos, made, data_size=64)
    array = made / "val_light.npy"
    array.write_bytes(array.read_bytes()[:-1])
    with pytest.raises(S3EError, match=refused):
        prepare(photos, made)
    (made / "cache.json").unlink()
    with pytest.raises(S3EError, match=refused):
        prepare(photos, made)
    (tmp_path / "empty").mkdir()
    assert_same(whole, prepare(photos, tmp_path / "empty"))


def test_leftovers_of_other_settings_are_not_used(photos, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_finish", None)
        with pytest.raises(TypeError):
            prepare(photos, tmp_path / "cache", blur_seed=1)
    assert len(list((tmp_path / "cache.part" / "chunks").iterdir())) == 3
    assert_same(whole, prepare(photos, tmp_path / "cache"))


def test_arrays_that_were_lost_are_made_again(photos, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_finish", None)
        with pytest.raises(TypeError):
            prepare(photos, tmp_path / "cache")
    (tmp_path / "cache.part" / "train_severe.npy").write_bytes(b"")
    assert_same(whole, prepare(photos, tmp_path / "cache"))


def test_each_change_of_settings_or_files_has_its_own_cache(tmp_path, monkeypatch):
    photos = write_photos(tmp_path / "photos", 40)
    changes = [
        {},
        {"data_size": 64},
        {"data_train": 9},
        {"blur_severity": "light"},
        {"blur_seed": 1},
    ]
    changes += [{"blur_gamma": 2.2}, {"blur_noise": 0.01}]
    keys = [key_of(photos, **change) for change in changes]
    path = open_source(photos).splits["val"][0].path
    os.utime(path, ns=(0, 0))
    keys.append(key_of(photos))
    monkeypatch.setattr(cache, "MAKERS", cache.MAKERS[1:])
    keys.append(key_of(photos))
    assert len({json.dumps(key) for key in keys}) == len(keys)
    same = [
        key_of(photos, **change)
        for change in ({"blur_frames": 5}, {"text_min_count": 3}, {"evaluation_beam": 2})
    ]
    assert all(key == keys[-1] for key in same)


def test_pairs_have_their_own_settings(tmp_path):
    gopro = write_gopro(
        tmp_path / "gopro", {"train/A_07_00": 8, "train/B_07_00": 8, "test/C_07_00": 8}
    )
    changes = [{}, {"blur_frames": 5}, {"blur_severity": "released"}, {"data_whole_frames": True}]
    keys = [key_of(gopro, **change) for change in changes] + [
        key_of(gopro, data_test=3)
    ]  # frames 1, 3 and 6
    for changed in (
        1,
        4,
    ):  # the first one's blurred frame; one that only the window of frame 3 needs
        save(
            gopro / "test" / "C_07_00" / "blur" / f"{changed:06}.png",
            np.zeros((54, 96, 3), np.uint8),
        )
        keys.append(key_of(gopro, data_test=3))
    assert len({json.dumps(key) for key in keys}) == len(keys)
    assert key_of(gopro, data_test=3, blur_seed=1) == keys[-1]


def key_of(root, **settings):
    source, config = open_source(root), configure(root, **settings)
    return cache.cache_key(source, config, plan(source, config))


def test_all_code_that_makes_pixels_is_in_the_key():
    makers = {module.__name__ for module in cache.MAKERS}
    harmless = {"s3e.config", "s3e.utils", "s3e.data.readers"}
    for module in cache.MAKERS:
        tree = ast.parse(Path(module.__file__).read_text())
        found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert "s3e" not in found, (
            "import what pixels depend on by module, so that this test sees it"
        )
        assert {name for name in found if name.startswith("s3e.")} <= makers | harmless, (
            module.__name__
        )


def test_a_photo_that_breaks_meanwhile_is_named(tmp_path):
    photos = write_photos(tmp_path / "photos", 40)
    source = open_source(photos)
    source.splits["test"][1].path.write_bytes(b"\xff\xd8")
    with pytest.raises(S3EError, match=source.splits["test"][1].path.name):
        cache.prepare_arrays(source, configure(photos), tmp_path / "cache", jobs=1)
    assert not (tmp_path / "cache").exists()


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_told():
    with pytest.raises(S3EError, match="one of 2 processes was killed"):
        list(in_processes(die, [1, 2, 3], jobs=2))
    with pytest.raises(S3EError, match="--jobs -1"):
        list(in_processes(die, [1, 2, 3], jobs=-1))


def test_the_command(photos, runs, capsys):
    command = [
        "data",
        "prepare",
        str(photos),
        "--size",
        "32",
        "--jobs",
        "1",
        "--set",
        "blur.seed=3",
    ]
    assert command_line.main(command) == 0
    first = capsys.readouterr().out
    assert f"cache: {runs}/cache/photos-" in first and "made in" in first
    assert "photos of 32 x 32 pixels, sharp, light (9), moderate (9), severe (9)" in first
    assert command_line.main(command) == 0
    assert "already there" in capsys.readouterr().out
    assert command_line.main([*command, "--severity", "released"]) == 2
    assert "blur.severity is 'released'" in capsys.readouterr().err
    assert command_line.main([*command, "--set", "blur.seed"]) == 2


def test_the_command_prepares_what_the_pipeline_reads(photos, runs, tmp_path, monkeypatch, capsys):
    assert (
        command_line.main(["data", "prepare", str(photos), "--profile", "smoke", "--jobs", "1"])
        == 0
    )
    from s3e.data.prepare import prepare_corpus

    monkeypatch.setattr(cache, "_make", None)
    corpus = prepare_corpus(load_config("smoke", data=str(photos)), tmp_path / "corpus")
    assert corpus.train.sharp.shape[1:] == (64, 64, 3)


def test_the_command_names_what_it_leaves_out(tmp_path, capsys):
    photos = write_photos(tmp_path / "photos", 40)
    path = open_source(photos).splits["train"][0].path
    path.write_bytes(b"")
    command = [
        "data",
        "prepare",
        str(photos),
        "--size",
        "32",
        "--jobs",
        "1",
        "--out",
        str(tmp_path / "cache"),
    ]
    assert command_line.main(command) == 2 and path.name in capsys.readouterr().err
    assert command_line.main([*command, "--skip-broken"]) == 0
    told = capsys.readouterr().out
    assert f"left out: {path}" in told and f"cache: {tmp_path / 'cache'} (made in" in told
