"""Notebooks on a Dask cluster: places, workers that come, go or do not fit, and the same results as
on one machine.
"""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("distributed")

import dask  # noqa: E402
from distributed import LocalCluster  # noqa: E402

from s3e.pipeline import schedule  # noqa: E402
from s3e.utils import S3EError, read_json  # noqa: E402
from tests.test_pipeline import (  # noqa: E402, F401
    ALONE,
    DATA,
    DEBLURRER,
    Command,
    finish,
    hanging,
    here,
    repo,
    wait_for,
)


@pytest.fixture
def workers(monkeypatch):
    """A cluster of two workers with two threads each, all in this process; jobs are Python
    functions.
    """

    def run_notebook(job, stop):
        folder = Path(job["output"]).parent
        (folder / "begun").touch()
        while (folder / "hang").exists() and not stop():
            time.sleep(0.02)
        (folder / "ended").touch()
        return job["why"]

    monkeypatch.setattr(schedule, "run_notebook", run_notebook)
    monkeypatch.setattr(schedule, "facts", lambda root: {"Python": "3"})
    options = {"processes": False, "protocol": "tcp", "dashboard_address": None}
    with dask.config.set({"distributed.comm.timeouts.connect": "5s"}):
        cluster = LocalCluster(n_workers=2, threads_per_worker=2, silence_logs=50, **options)
        with cluster as started:
            yield started


@pytest.fixture
def join(workers, tmp_path):
    """Opens places on that cluster for runs that write into a folder, and closes them in the
    end.
    """
    opened = []

    def opener(jobs=0):
        opened.append(schedule.Cluster(workers.scheduler_address, jobs, tmp_path))
        return opened[-1]

    yield opener
    for places in opened:
        places.close()


def job(root, name, hang=False, why=""):
    folder = root / "stage" / name
    folder.mkdir(parents=True)
    if hang:
        (folder / "hang").touch()
    return {"output": str(folder / "notebook.ipynb"), "why": why}, folder


def test_ends_are_reported(join, tmp_path):
    places = join(jobs=3)
    assert len(places.free) == 3
    futures = [places.submit(job(tmp_path, f"x{why}", why=why)[0]) for why in ("", "broken")]
    assert [future.result(60) for future in futures] == ["", "broken"]


def test_a_worker_that_leaves_costs_its_own_runs_alone(workers, join, tmp_path):
    places = join()
    what, folder = job(tmp_path, "long", hang=True)
    future = places.submit(what)
    wait_for((folder / "begun").exists)
    [gone] = [name for name, tasks in places._client.processing().items() if tasks]
    (folder / "begun").unlink()
    workers.sync(next(item for item in workers.workers.values() if item.address == gone).close)
    wait_for((folder / "begun").exists)  # it is begun again elsewhere
    (folder / "hang").unlink()
    assert future.result(60) == ""


def test_a_worker_that_differs_takes_no_part(join, tmp_path, monkeypatch):
    places = join()
    monkeypatch.setattr(schedule, "facts", lambda root: {"Python": "2"})
    with pytest.raises(S3EError, match="Python is 2 there and 3 here; start it with the same"):
        places.submit(job(tmp_path, "short")[0]).result(60)
    monkeypatch.undo()
    mine = schedule.facts(tmp_path)
    assert {"Python", "torch", "numpy", "the source of the suite", str(tmp_path)} == set(mine)
    schedule.check_worker(mine, tmp_path)
    monkeypatch.setattr(Path, "is_dir", lambda path: path != tmp_path)
    with pytest.raises(S3EError, match="is not seen there and seen here"):
        schedule.check_worker(mine, tmp_path)


def test_leaving_stops_what_runs(join, tmp_path):
    places = join()
    what, folder = job(tmp_path, "long", hang=True)
    places.submit(what)
    wait_for((folder / "begun").exists)
    places.close()
    wait_for((folder / "ended").exists)


def test_a_scheduler_that_goes_is_reported(workers, join):
    places = join()
    workers.sync(workers.scheduler.close)
    with pytest.raises(S3EError, match="scheduler on tcp://.* is gone"):
        wait_for(lambda: places.free is None)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("local:x", "invalid literal .*or local:N for N workers here"),
        ("127.0.0.1", "missing port"),
        ("tcp://127.0.0.1:1", "Timed out trying to connect.*give the address"),
    ],
)
def test_addresses(address, says, tmp_path, monkeypatch):
    monkeypatch.setattr(schedule, "PATIENCE", 0.5)
    with pytest.raises(S3EError, match=f"--scheduler {address}: .*{says}"):
        schedule.Cluster(address, 0, tmp_path)


# ------------------------------------------------------------------------------ with real notebooks


def test_a_killed_worker_costs_its_own_run_alone(here, tmp_path):
    finish(DATA)
    command, trained = Command(here, tmp_path / "runs"), hanging(tmp_path / "runs")
    process = command.start(*ALONE, "--seeds", "0", "1", "--scheduler", "local:2")
    ticks = [trained / f"s{seed}" / "ticks.txt" for seed in (0, 1)]
    wait_for(lambda: all(path.exists() and len(path.read_text()) == 2 for path in ticks))
    children = psutil.Process(process.pid).children(recursive=True)
    job = next(item for item in children if f'"{DEBLURRER}/s1"' in " ".join(item.cmdline()))
    lost = [job, *job.children(recursive=True)]
    os.kill(job.ppid(), signal.SIGKILL)
    assert not psutil.wait_procs(lost, timeout=300)[1]
    log = trained / "s1" / "papermill.log"
    wait_for(lambda: log.read_text().count("Input Notebook") == 2)  # it goes on elsewhere
    (trained / "hang").unlink()
    assert process.wait(300) == 0, command.log.read_text()
    for seed, (resumed, starts) in enumerate([(0, 1), (1, 2)]):
        folder = trained / f"s{seed}"
        assert read_json(folder / "metrics.json")["resumed"] == resumed
        assert (folder / "papermill.log").read_text().count("Input Notebook") == starts


def test_a_foreign_worker_stops_the_request_at_once(repo, tmp_path):
    command = Command(repo, tmp_path / "runs")
    options = {"processes": False, "protocol": "tcp", "dashboard_address": None}
    with LocalCluster(n_workers=1, threads_per_worker=1, **options) as foreign:  # of this source
        code, log = command.run("--until", "00", "--scheduler", foreign.scheduler_address)
    assert code == 2 and "a worker cannot take part: the source of the suite is" in log
    assert "Traceback" not in log
    assert not (tmp_path / "runs" / "smoke" / "00_start_here").exists()
