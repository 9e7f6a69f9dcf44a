"""Notebooks on a Dask cluster: places, workers that come, go or do not fit, and the same results as on one machine."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

pytest.importorskip("distributed")

import dask  # noqa: E402
from distributed import LocalCluster  # noqa: E402

from s3e.config import Runtime, load_config  # noqa: E402
from s3e.pipeline import cluster, folders  # noqa: E402
from s3e.pipeline.graph import Instance  # noqa: E402
from s3e.utils import ROOT, S3EError, read_json  # noqa: E402
from tests.test_pipeline import Command, copy_suite, wait_for  # noqa: E402

RUNS = [Instance("04_train_deblurrer", seed=seed) for seed in range(6)]


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    """A cluster of two workers with two threads each, all in this process; jobs are shell commands."""

    def launch(job: dict, slot: int, output: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sh", "-c", f"echo place {slot}; {job['command']}"], stdout=output)

    monkeypatch.setattr(cluster, "launch", launch)
    monkeypatch.setattr(cluster, "LOOK", 0.1)
    monkeypatch.setattr(cluster, "facts", lambda: {"Python": "3"})  # the real ones: one test below
    options = {"processes": False, "protocol": "tcp", "dashboard_address": None, "silence_logs": 50}
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        with LocalCluster(n_workers=2, threads_per_worker=2, **options) as started:
            yield started


@pytest.fixture
def open_pool(workers: LocalCluster) -> Iterator[Callable[..., cluster.DaskPool]]:
    """Opens pools on that cluster for runs that write into a folder, and closes them in the end."""
    opened = []

    def opener(folder: Path, jobs: int = 0) -> cluster.DaskPool:
        arguments = SimpleNamespace(scheduler=workers.scheduler_address)
        study = SimpleNamespace(
            arguments=arguments, config=load_config("smoke"), inputs=lambda: [folder.parent]
        )
        opened.append(cluster.DaskPool(study, [folder], jobs))
        return opened[-1]

    yield opener
    for pool in opened:
        pool.close()


def collect(pool: cluster.DaskPool, count: int) -> dict[Instance, object]:
    found = {}
    wait_for(
        lambda: found.update({end.run: end for end in pool.ended()}) or len(found) == count, 20
    )
    return found


def test_every_place_is_used_once_and_ends_are_told(open_pool: Callable, tmp_path: Path) -> None:
    pool = open_pool(tmp_path)
    assert pool.about.startswith("4 at a time on 2 workers of tcp://")
    for run, command in zip(
        RUNS, ["exit 0", "echo broken; exit 1", "kill -9 $$", "sleep 0.5"], strict=False
    ):
        assert pool.room()
        pool.start(run, {"command": command})
    assert not pool.room()
    ends = [*collect(pool, 4).values()]
    assert sorted(end.printed.split()[1] for end in ends) == ["0", "0", "1", "1"]
    assert {end.run.seed: (end.good, end.why, end.lost) for end in ends} == {
        0: (True, "", False),
        1: (False, "", False),
        2: (False, "killed by signal 9", False),
        3: (True, "", False),
    }
    assert "broken" in next(end.printed for end in ends if end.run.seed == 1) and pool.room()
    few = open_pool(tmp_path, jobs=1)
    few.start(RUNS[0], {"command": "sleep 60"})
    assert not few.room()


def test_a_worker_that_leaves_costs_its_own_runs_and_a_new_one_is_used(
    workers: LocalCluster,
    open_pool: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pool = open_pool(tmp_path)
    places = {
        run: pool.start(run, {"command": f"echo $$ > {tmp_path}/{run.seed}; sleep 60"})
        for run in RUNS[:2]
    }
    wait_for(lambda: all((tmp_path / str(run.seed)).exists() for run in RUNS[:2]))
    gone, _ = sorted(places, key=lambda run: places[run])
    workers.sync(
        next(item for item in workers.workers.values() if item.address == places[gone]).close
    )
    end = collect(pool, 1)[gone]
    assert end.lost and not end.good and places[gone] in end.why
    assert not psutil.pid_exists(int((tmp_path / str(gone.seed)).read_text()))
    assert pool.start(RUNS[2], {"command": "sleep 60"}) != places[gone] and not pool.room()
    workers.scale(3)  # its own books still count the closed one
    wait_for(lambda: pool.ended() is not None and len(pool._free) == 2, 20)
    assert pool.start(RUNS[4], {"command": "exit 0"}) not in places.values()
    monkeypatch.setattr(cluster, "facts", lambda: {"Python": "2"})
    workers.scale(4)
    wait_for(lambda: pool.ended() is not None and len(pool._known) == 3, 20)
    assert (
        len(pool._free) == 2
        and "is left out: Python is 2 there and 3 here" in capsys.readouterr().out
    )


def test_leaving_kills_what_runs_and_leaves_no_trace(open_pool: Callable, tmp_path: Path) -> None:
    pool = open_pool(tmp_path / "store")
    pool.start(RUNS[0], {"command": f"echo $$ > {tmp_path}/pid; sleep 60"})
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    assert [path.name.startswith(".cluster-") for path in (tmp_path / "store").iterdir()] == [True]
    pool.close()
    wait_for(lambda: not psutil.pid_exists(int((tmp_path / "pid").read_text())), 5)
    assert not list((tmp_path / "store").iterdir())


def test_a_scheduler_that_goes_is_told(
    workers: LocalCluster, open_pool: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    pool, seen = open_pool(tmp_path), []
    pool.start(RUNS[0], {"command": "sleep 60"})
    with (
        monkeypatch.context() as patch,
        pytest.raises(S3EError, match="is gone"),
    ):  # as it answers while it connects
        patch.setattr(pool._client, "scheduler_info", lambda **options: {})
        wait_for(pool.ended, 5)
    workers.sync(workers.scheduler.close)
    with pytest.raises(S3EError, match="scheduler at tcp://.* is gone"):
        wait_for(lambda: seen.extend(pool.ended()), 20)
    assert not seen  # its runs are not counted as lost, to be tried elsewhere


def test_what_must_be_the_same_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = cluster.facts("rules")
    assert {"Python", "torch", "numpy", "the source of the suite"} < set(mine)
    lock = folders.take_lock(tmp_path / ".cluster-1.lock", "")
    fits = {
        "parser": "rules",
        "facts": mine,
        "locks": [str(tmp_path / ".cluster-1.lock")],
        "inputs": [tmp_path],
        "gpus": 0,
    }
    worker = SimpleNamespace(state=SimpleNamespace(total_resources={"GPU": 2}))
    assert cluster.examine(fits, worker) == ""
    for name in mine:
        told = cluster.examine({**fits, "facts": mine | {name: "other"}}, worker)
        assert told.startswith(f"{name} is {mine[name]} there and other here")
    assert "does not see /no/such" in cluster.examine({**fits, "inputs": ["/no/such"]}, worker)
    assert f"another {tmp_path}/x" in cluster.examine(
        {**fits, "locks": [tmp_path / "x" / "y.lock"]}, worker
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert cluster.examine({**fits, "gpus": 2}, worker) == ""
    assert "it has 2 GPUs" in cluster.examine({**fits, "gpus": 3}, worker)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert "it has 1 GPUs" in cluster.examine({**fits, "gpus": 1}, worker)  # it declares two
    lock.close()
    assert "locks" in cluster.examine(fits, worker)


def test_the_source_is_compared_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("s3e", "notebooks"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(cluster.keys, "PACKAGE", tmp_path / "s3e")
    monkeypatch.setattr(cluster.keys, "NOTEBOOKS", tmp_path / "notebooks")
    seen = {cluster.keys.source_digest()}
    for path in ("s3e/a.py", "s3e/b.mplstyle", "notebooks/a.ipynb"):
        (tmp_path / path).write_text("1")
        seen.add(cluster.keys.source_digest())
        (tmp_path / path).write_text("2")
        seen.add(cluster.keys.source_digest())
    assert len(seen) == 7


@pytest.mark.parametrize(
    "runtime, threads, resources, places",
    [
        ({}, 4, {}, 4),
        ({"threads": 2}, 5, {}, 2),
        ({"threads": 2, "devices": 2}, 8, {}, 2),
        ({"threads": 8}, 2, {}, 1),
        ({"device": "cuda"}, 8, {}, 1),
        ({"device": "cuda"}, 8, {"GPU": 4}, 4),
        ({"device": "cuda", "devices": 2}, 8, {"GPU": 5}, 2),
        ({"device": "cuda", "devices": 2}, 8, {"GPU": 1}, 0),
        ({"device": "cuda"}, 2, {"GPU": 4}, 2),
    ],
)
def test_places_of_a_worker(runtime: dict, threads: int, resources: dict, places: int) -> None:
    assert (
        cluster.slots({"nthreads": threads, "resources": resources}, Runtime(**runtime)) == places
    )


@pytest.mark.parametrize(
    "address, device, says",
    [
        ("local:0", "cpu", "local:N"),
        ("local:x", "cpu", "local:N"),
        ("local:2", "cuda", "--jobs"),
        ("127.0.0.1", "cpu", "missing port"),
        ("tcp://127.0.0.1:1", "cpu", "Timed out trying to connect.*give the address"),
    ],
)
def test_addresses(address: str, device: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    with pytest.raises(S3EError, match=f"--scheduler {address}: .*{says}"):
        cluster.connect(address, Runtime(device=device))


# ------------------------------------------------------------------------------------------------ with real notebooks


def family_of(process: subprocess.Popen[bytes], word: str) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if word in " ".join(child.cmdline())]


def test_a_killed_worker_costs_its_own_run_alone(tmp_path: Path) -> None:
    command = Command(copy_suite(tmp_path / "copy"), tmp_path / "runs")
    trained = tmp_path / "runs" / "smoke" / "04_train_deblurrer"
    trained.mkdir(parents=True)
    (trained / "hang").touch()
    process = command.start("--only", "01", "04", "--seeds", "0", "1", "--scheduler", "local:2")
    ticks = [trained / f"s{seed}" / "ticks.txt" for seed in (0, 1)]
    wait_for(lambda: all(path.exists() and len(path.read_text()) == 2 for path in ticks))
    job = next(
        item
        for item in family_of(process, "s3e.pipeline.worker")
        if '"04_train_deblurrer/s1"' in item.cmdline()[3]
    )
    lost = psutil.Process(job.pid).children(recursive=True)
    os.kill(job.ppid(), signal.SIGKILL)
    assert not psutil.wait_procs([job, *lost], timeout=10)[1]
    wait_for(lambda: "LOST   04_train_deblurrer/s1" in command.log.read_text())
    (trained / "hang").unlink()
    assert process.wait(60) == 0, command.log.read_text()
    resumed = [read_json(trained / f"s{seed}" / "metrics.json")["resumed"] for seed in (0, 1)]
    starts = [
        (trained / f"s{seed}" / "papermill.log").read_text().count("Input Notebook")
        for seed in (0, 1)
    ]
    assert (resumed, starts) == ([0, 1], [1, 2])
    assert not list((tmp_path / "runs" / "smoke").glob(".cluster*"))


def test_a_foreign_worker_stops_the_request_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = Command(copy_suite(tmp_path / "copy"), tmp_path / "runs")
    with LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None
    ) as foreign:  # of this source
        code, log = command.run("--only", "00", "--scheduler", foreign.scheduler_address)
    assert (
        code == 2
        and "cannot take part: the source of the suite is" in log
        and len(log.splitlines()) == 1
    )
    assert not (tmp_path / "runs" / "smoke" / "00_start_here").exists()


def timeless(path: Path) -> str:
    """A table or a file of scores without the column of measured times."""
    rows = [line.split("|") for line in path.read_text().splitlines()]
    times = {i for row in rows for i, cell in enumerate(row) if cell.strip() == "ms an update"}
    return "\n".join("|".join(cell for i, cell in enumerate(row) if i not in times) for row in rows)


@pytest.mark.slow
def test_a_cluster_gives_the_same_tables_as_one_job(tmp_path: Path) -> None:
    found = []
    for words in (["--jobs", "1"], ["--scheduler", "local:2"]):
        root = tmp_path / words[1].replace(":", "")
        environment = {
            **os.environ,
            "S3E_RUNS": str(root / "runs"),
            "S3E_FIGURES": str(root / "figures"),
        }
        command = [sys.executable, str(ROOT / "run_all.py"), "--profile", "smoke", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        files = [*root.glob("runs/smoke/*/*/metrics.json"), *root.glob("runs/smoke/*/*/scores.csv")]
        files += root.glob("figures/smoke/table*.md")
        found.append({str(path.relative_to(root)): timeless(path) for path in files})
    assert found[0] == found[1] and len(found[0]) > 15
