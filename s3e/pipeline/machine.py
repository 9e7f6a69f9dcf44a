"""What a run needs from and knows about its machine: threads, GPUs, life and death of processes, provenance."""

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from s3e.config import Config, Runtime
from s3e.utils import ROOT

PACKAGES = (
    "torch", "lightning-fabric", "numpy", "scipy", "scikit-image", "pandas", "matplotlib", "pillow", "pydantic",
    "papermill", "pycocoevalcap",
)  # fmt: skip


def gpus() -> list[str]:
    """The GPUs that this process may use, each as CUDA_VISIBLE_DEVICES names it."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [
        str(number)
        for number in range(sum(line.startswith("GPU ") for line in listed.splitlines()))
    ]


def gpus_of(runtime: Runtime, slot: int) -> dict[str, str]:
    """The environment that leaves the notebook in place `slot` of this machine its own GPUs alone."""
    if runtime.device != "cuda":  # on the CPU, or on the one GPU that the settings name
        return {}
    first = slot * runtime.devices
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus()[first : first + runtime.devices])}


def _device_name(runtime: Runtime) -> str:
    torch = sys.modules.get("torch")  # a stage that did not import it computed without a GPU
    if runtime.device == "cpu" or torch is None or not torch.cuda.is_available():
        return ""
    return torch.cuda.get_device_name(torch.device(runtime.device))


def _git(*words: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(ROOT), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _peak_memory() -> float | None:
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def provenance(config: Config, parts: dict[str, Any], key: str, started: float) -> dict[str, Any]:
    """Everything one wants to know about a result later: source, packages, machine, times, memory, what it read."""
    moments = {"started": started, "ended": time.time()}
    return {
        "key": key,
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "code": parts["code"],
        "upstream": parts["upstream"],
        "data": {"source": config.data.source, "fingerprint": parts["data"]},
        "python": sys.version.split()[0],
        "executable": sys.executable,
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "device": config.runtime.device,
        "device_name": _device_name(config.runtime),
        "devices": config.runtime.devices,
        "precision": config.runtime.precision,
        "threads": config.runtime.threads,
        "seed": config.seed,
        "peak_memory_mib": _peak_memory(),
        **{
            name: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
            for name, moment in moments.items()
        },
    }
