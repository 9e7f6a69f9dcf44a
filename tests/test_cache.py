"""The prepared cache: the same bytes however it is made, never half-written, and refused where it
does not fit.
"""

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

from s3e.config import load_config
from s3e.data import prepare
from s3e.data.prepare import plan, prepare_arrays, prepare_corpus, workers
from s3e.data.readers import open_source
from s3e.utils import S3EError, read_json
from tests.fixtures_data import save, write_gopro, write_photos

SMALL = {"data.size": 32, "data.train": 0, "data.val": 0, "data.test": 0}
KILLED = """
import sys, time
from pathlib import Path
from s3e.config import load_config
from s3e.data import prepare
from s3e.data.readers import open_source

prepare.CHUNK, make = 2, prepare._make_view

def hang(run, building, name, view, *rest):  # the third array stops when half of it is there
    for count, row in enumerate(make(run, building, name, view, *rest)):
        while name == "val" and count == 2:
            time.sleep(600)
        yield row

prepare._make_view = hang
if __name__ == "__main__":
    prepare.utils.RUNS, root = map(Path, sys.argv[1:])
    zero = {f"data.{name}": 0 for name in ("train", "val", "test")}
    config = load_config("smoke", str(root), overrides={"data.size": 32, **zero})
    prepare.prepare_arrays(open_source(root), config, jobs=2)
"""


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


def configure(folder, **settings):
    overrides = SMALL | {name.replace("_", ".", 1): value for name, value in settings.items()}
    return load_config("smoke", data=str(folder), overrides=overrides)


def make(root, jobs=1, **settings):
    return prepare_arrays(open_source(root), configure(root, **settings), jobs)[0]


def assert_same(one, other):
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_layout(photos, whole):
    splits = open_source(photos).splits
    views = [f"{split}_{name}" for split in ("val", "test") for name in ("light", "moderate")]
    views += [f"{split}_{name}" for split in splits for name in ("sharp", "severe")]
    expected = {f"{view}.{kind}" for view in views for kind in ("npy", "json")}
    assert expected == {path.name for path in whole.iterdir()}
    for split, part in splits.items():
        facts = read_json(whole / f"{split}_severe.json")
        assert len(facts["extents"]) == len(facts["psnr"]) == len(part)
        assert np.load(whole / f"{split}_sharp.npy").shape == (len(part), 32, 32, 3)


def test_bytes_do_not_depend_on_processes_or_chunks(photos, whole, monkeypatch):
    monkeypatch.setattr(prepare, "CHUNK", 3)
    assert_same(whole, make(photos, jobs=2))


def test_killed_preparation_goes_on_where_it_stopped(photos, whole, runs, tmp_path, monkeypatch):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    root = Path(prepare.__file__).parents[2]
    process = subprocess.Popen([sys.executable, script, runs, photos], cwd=root)
    wait_for(lambda: list(runs.glob("cache/*.part/.val_sharp*")))
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(p.is_running() and p.status() != "zombie" for p in children))
    assert children and [path.suffix for path in runs.glob("cache/photos-*")] == [".part"]
    made, real = [], prepare._make_view
    monkeypatch.setattr(prepare, "_make_view", lambda *all: made.append(all[2:4]) or real(*all))
    assert_same(whole, make(photos))
    assert made[0] == ("val", "sharp") and len(made) == 8  # of 10 views two were there


def wait_for(condition, seconds=60):
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("this never came true")


def test_full_disk_is_an_error_before_the_work(photos, runs, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=200_000))
    with pytest.raises(S3EError, match=r"part needs \d{3}kB, but 200kB are free: make room"):
        make(photos)
    assert not list(runs.glob("cache/*/*.npy"))


def test_full_disk_in_the_middle(photos, whole, runs, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "write_json", full)
        with pytest.raises(S3EError, match="the disk is full; make room and repeat"):
            make(photos)
    assert [path.suffix for path in runs.glob("cache/photos-*")] == [".part"]
    assert_same(whole, make(photos))


def test_places_that_cannot_be_written(photos, runs):
    runs.write_text("a file where the folder should be")
    with pytest.raises(S3EError, match=r"cannot be written \(.+\): choose another place"):
        make(photos)


def test_each_change_of_settings_or_files_has_its_own_cache(tmp_path, monkeypatch):
    photos = write_photos(tmp_path / "photos", 40)
    changes = [{}, {"data_size": 64}, {"data_train": 9}, {"blur_severity": "light"}]
    changes += [{"blur_seed": 1}, {"blur_gamma": 2.2}, {"blur_noise": 0.01}]
    keys = [key_of(photos, **change) for change in changes]
    os.utime(open_source(photos).splits["val"][0].path, ns=(0, 0))
    keys.append(key_of(photos))
    assert len({json.dumps(key) for key in keys}) == len(keys)
    same = ({"blur_frames": 5}, {"text_min_count": 3}, {"evaluation_beam": 2})
    assert all(key_of(photos, **change) == keys[-1] for change in same)
    monkeypatch.setattr("s3e.utils.code_digest", lambda *_: "other code")
    assert key_of(photos) not in keys


def test_pairs_have_their_own_settings(tmp_path):
    counts = {"train/A_07_00": 8, "train/B_07_00": 8, "test/C_07_00": 8}
    gopro = write_gopro(tmp_path / "gopro", counts)
    changes = [{}, {"blur_frames": 5}, {"blur_severity": "released"}, {"data_whole_frames": True}]
    keys = [key_of(gopro, **change) for change in changes]
    keys.append(key_of(gopro, data_test=3))  # frames 1, 3 and 6
    for changed in (1, 4):  # the first one's; one that only the window of frame 3 needs
        frame = gopro / "test" / "C_07_00" / "blur" / f"{changed:06}.png"
        save(frame, np.zeros((54, 96, 3), np.uint8))
        keys.append(key_of(gopro, data_test=3))
    assert len({json.dumps(key) for key in keys}) == len(keys)
    assert key_of(gopro, data_test=3, blur_seed=1) == keys[-1]


def key_of(root, **settings):
    source, config = open_source(root), configure(root, **settings)
    return prepare.cache_key(source, config, plan(source, config))


def test_a_photo_that_breaks_meanwhile_is_named(tmp_path, runs):
    photos = write_photos(tmp_path / "photos", 40)
    source = open_source(photos)
    source.splits["test"][1].path.write_bytes(b"\xff\xd8")
    with pytest.raises(S3EError, match=source.splits["test"][1].path.name):
        prepare_arrays(source, configure(photos), jobs=1)
    assert [path.suffix for path in runs.glob("cache/photos-*")] == [".part"]


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_an_error():
    with pytest.raises(S3EError, match="one of 2 processes was killed"), workers(2, 3) as run:
        list(run(die, [1, 2, 3]))
    with pytest.raises(S3EError, match="--jobs -1"), workers(-1, 3):
        pass


def test_the_command(photos, runs, capsys):
    settings = {"size": 32, "jobs": 1, "settings": ["blur.seed=3"]}
    assert prepare.prepare(photos, **settings) == 0
    first = capsys.readouterr().out
    assert f"cache: {runs}/cache/photos-" in first
    assert "9 photos of 32 x 32 pixels, sharp, light, moderate, severe" in first
    with pytest.raises(S3EError, match="blur.severity is 'released'"):
        prepare.prepare(photos, severity="released")


def test_the_command_prepares_what_the_pipeline_reads(photos, tmp_path, monkeypatch):
    assert prepare.prepare(photos, profile="smoke", jobs=1) == 0
    monkeypatch.setattr(prepare, "_make_view", None)
    corpus = prepare_corpus(load_config("smoke", data=str(photos)), tmp_path / "corpus")
    assert corpus.train.sharp.shape[1:] == (64, 64, 3)


def test_the_command_lists_what_it_leaves_out(tmp_path, capsys):
    photos = write_photos(tmp_path / "photos", 40)
    path = open_source(photos).splits["train"][0].path
    path.write_bytes(b"")
    with pytest.raises(S3EError, match=path.name):
        prepare.prepare(photos, size=32, jobs=1)
    assert prepare.prepare(photos, size=32, jobs=1, skip_broken=True) == 0
    assert f"left out: {path}" in capsys.readouterr().out
