"""Shared by all tests: one tiny corpus, and one smoke run of the whole pipeline."""

import os
import subprocess
import sys
from pathlib import Path

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import pytest  # noqa: E402
import torch  # noqa: E402
from filelock import FileLock  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from s3e.config import load_config  # noqa: E402
from s3e.utils import ROOT  # noqa: E402

TINY = {"data.train": 24, "data.val": 8, "data.test": 8, "data.size": 32, "evaluation.samples": 2}
PHOTOS = Path(os.environ.get("S3E_PHOTOS", ROOT.parent / "shared" / "data" / "captioned_photos"))


settings.register_profile(  # no clock, no chance
    "suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


LONG = ("test_smoke", "test_pipeline", "test_browser")  # files of tests


def pytest_configure(config):
    config.option.loadscopereorder = False  # of pytest-xdist: keep the order below


def pytest_collection_modifyitems(items):
    """Long files first, so that two processes end at about the same time."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny():
    """A smoke configuration with 32-px scenes."""
    return load_config("smoke", overrides=TINY)


@pytest.fixture(scope="session")
def corpus(tiny, tmp_path_factory):
    """The prepared corpus of the tiny configuration."""
    from s3e.data.prepare import prepare_corpus

    return prepare_corpus(tiny, tmp_path_factory.mktemp("corpus"))


def environment_of(root):
    """The environment in which runs and figures go below a folder; METEOR is tested elsewhere."""
    own = {"S3E_RUNS": str(root / "runs"), "S3E_FIGURES": str(root / "figures")}
    return {**os.environ, **own, "S3E_NO_JAVA": "1"}


def run_all(environment, *words):
    """`python run_all.py --profile smoke` with further words."""
    command = [sys.executable, str(ROOT / "run_all.py"), "--profile", "smoke", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=2400)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """`python run_all.py --profile smoke`, once for all tests, in whichever of pytest-xdist's
    processes: folders of runs and figures, environment.
    """
    root = tmp_path_factory.getbasetemp()
    root = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "smoke"
    root.mkdir(exist_ok=True)
    with FileLock(root / ".lock"):
        if not (root / "done").is_file():
            done = run_all(environment_of(root))
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
            (root / "done").touch()
    folders = {name: root / name / "smoke" for name in ("runs", "figures")}
    return {**folders, "env": environment_of(root)}
