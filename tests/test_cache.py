"""The prepared cache: the same bytes however it is made, never half-written."""

import errno
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from s3e.config import load_config
from s3e.data import prepare
from s3e.data.annotations import read_source
from s3e.data.prepare import prepare_corpus, prepare_photos
from s3e.utils import S3EError
from tests.fixtures_data import cut, save, small, write_gopro, write_photos

SCRIPT = """
import sys, time
from pathlib import Path
from tests.fixtures_data import small
from s3e.data import prepare

make, prepare.CHUNK = prepare.in_threads, 2

def hang(work, chunks, jobs, title):  # stops when some of the photos are written
    for count, result in enumerate(make(work, chunks, jobs, title)):
        while len(sys.argv) > 3 and title == "preparing train" and count == 10:
            time.sleep(600)
        yield result

prepare.in_threads, prepare.utils.RUNS = hang, Path(sys.argv[1])
prepare.prepare_photos(small(sys.argv[2]), 2)
"""
ROOT = Path(prepare.__file__).parents[2]


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr("s3e.utils.RUNS", tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("data") / "photos", 40)


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """An undisturbed cache, made in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("s3e.utils.RUNS", tmp_path_factory.mktemp("whole"))
        return make(photos)


def make(root, jobs=1, **settings):
    return prepare_photos(small(root, **settings), jobs)


def assert_same(one, other):
    files = [{path.name: path.read_bytes() for path in cache.iterdir()} for cache in (one, other)]
    assert files[0] == files[1]


def test_layout(photos, whole):
    names = {"corpus.json"}
    for split, count in read_source(photos).images["split"].value_counts().items():
        for view in ("severe",) if split == "train" else ("light", "moderate", "severe"):
            names |= {f"{split}_{kind}{view}.npy" for kind in ("", "psnr_", "extent_")}
        names |= {f"{split}.json", f"{split}_sharp.npy"}
        assert np.load(whole / f"{split}_psnr_severe.npy").shape == (count,)
        assert np.load(whole / f"{split}_sharp.npy").shape == (count, 32, 32, 3)
    assert names == {path.name for path in whole.iterdir()}


def test_bytes_do_not_depend_on_processes_or_chunks(photos, whole, monkeypatch):
    monkeypatch.setattr(prepare, "CHUNK", 3)
    assert_same(whole, make(photos, jobs=2))


def test_a_killed_preparation_begins_again(photos, whole, runs):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, runs, photos, "hang"], cwd=ROOT)
    while not [*runs.glob("cache/*.part/train_sharp*")]:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert [path.suffix for path in runs.glob("cache/photos-*")] == [".part"]
    assert_same(whole, make(photos))
    assert [path.suffix for path in runs.glob("cache/photos-*")] == [""]


def test_processes_that_prepare_the_same_wait_for_each_other(photos, whole, runs):
    command = [sys.executable, "-c", SCRIPT, runs, photos]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    (cache,) = runs.glob("cache/photos-*")
    assert_same(whole, cache)


def test_full_disk_in_the_middle(photos, whole, runs, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "write_file", full)
        with pytest.raises(S3EError, match=r"the disk is full\): .* the variable S3E_RUNS"):
            make(photos)
    assert [path.suffix for path in runs.glob("cache/photos-*")] == [".part"]
    assert_same(whole, make(photos))


def test_places_that_have_no_room_or_cannot_be_written(photos, runs, monkeypatch):
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: usage(10**9, 10**9, 0))
        with pytest.raises(S3EError, match=r"needs 0.0 GB, but 0.0 GB are free: make room, or cho"):
            make(photos)
    shutil.rmtree(runs)
    runs.write_text("a file where the folder should be")
    with pytest.raises(S3EError, match=r"cannot be written \(.+\): choose another place"):
        make(photos)


def key_of(root, **settings):
    return prepare.cache_key(small(root, **settings), read_source(root), None)


def test_each_change_of_settings_or_files_has_its_own_cache(tmp_path, monkeypatch):
    photos = write_photos(tmp_path / "photos", 40)
    changes = [{}, {"data_size": 64}, {"data_train": 9}, {"blur_severity": "light"}]
    changes += [{"blur_seed": 1}, {"blur_gamma": 2.2}, {"blur_noise": 0.01}, {"blur_frames": 5}]
    keys = [key_of(photos, **change) for change in changes]
    os.utime(read_source(photos).images["path"].iloc[-1], ns=(0, 0))
    keys.append(key_of(photos))
    gopro = write_gopro(tmp_path / "gopro", {"train/A_07_00": 8, "train/B": 8, "test/C": 8})
    keys.append(key_of(gopro))
    save(gopro / "test" / "C" / "blur" / "000001.png", np.zeros((54, 96, 3), np.uint8))
    keys.append(key_of(gopro))
    assert len({*keys}) == len(keys) and key_of(photos, evaluation_beam=2) == keys[len(changes)]
    monkeypatch.setattr(prepare, "code_digest", lambda *_: "other code")
    assert key_of(photos) not in keys


def test_the_command_prepares_what_the_pipeline_reads(photos, runs, tmp_path, monkeypatch, capsys):
    assert prepare.prepare(photos, "smoke", jobs=1) == 0
    assert f"cache: {runs}/cache/photos-" in capsys.readouterr().out
    monkeypatch.setattr(prepare, "_write", None)
    corpus = prepare_corpus(load_config("smoke", data=str(photos)), tmp_path / "corpus")
    assert corpus.train.sharp.shape[1:] == (64, 64, 3)
    with pytest.raises(S3EError, match="blur.severity is 'released'"):
        prepare.prepare(photos, "smoke", [("blur.severity", "released")])


def test_the_command_lists_what_it_leaves_out(tmp_path, capsys):
    photos = write_photos(tmp_path / "photos", 40)
    path = cut(read_source(photos).images["path"].iloc[0])
    with pytest.raises(S3EError, match=path.name):
        prepare.prepare(photos, "smoke", [("data.size", 32)])
    assert prepare.prepare(photos, "smoke", [("data.size", 32), ("data.skip_broken", True)]) == 0
    assert f"left out: {path}" in capsys.readouterr().out
