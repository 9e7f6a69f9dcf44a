"""Several processes for one training (`runtime.devices`), each with an equal part of every batch.

A notebook asks for them and `torchrun` starts them; by hand, also on many machines that share the
folder:

    torchrun --nproc-per-node 2 -m s3e.training.stages runs/.../cotrain.job.json

The job file says which networks are trained how; they start from the checkpoint beside it and leave
their log and their last checkpoint, from which the notebook's own process takes the result.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from s3e.config import Runtime
from s3e.utils import S3EError, read_json, set_threads, write_file

LAUNCHED = "S3E_LAUNCHED"  # set for processes that end with the one that started them


def check_device(runtime: Runtime) -> None:
    """Raise `S3EError` where a GPU is asked for that is not there."""
    device = torch.device(runtime.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise S3EError(
            f"runtime.device is '{runtime.device}', but PyTorch sees"
            f" {torch.cuda.device_count()} GPUs: --set runtime.device=cpu."
        )


def join(runtime: Runtime) -> torch.device:
    """The device on which this process trains, with the others if `torchrun` started several.

    Raises `S3EError` where a GPU is asked for that is not there.
    """
    check_device(runtime)
    device = torch.device(runtime.device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", device.index or 0)))
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if "LOCAL_RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def spread(job: dict[str, Any]) -> None:
    """Run the training of a job (see `Trainer`) in processes of its own until it is on disk.

    Raises `S3EError` with the reason where a process fails.
    """
    folder, name, runtime = Path(job["folder"]), job["name"], job["config"]["runtime"]
    file, output = folder / f"{name}.job.json", folder / f"{name}.launch.log"
    write_file(file, job)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(runtime["devices"]), "-m", "s3e.training.stages", str(file)]
    variables = {LAUNCHED: "1", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": str(runtime["threads"])}
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.STDOUT, "env": os.environ | variables}
    print(f"{name}: {runtime['devices']} processes; log_{name}.csv grows in {folder}", flush=True)
    with open(output, "w", encoding="utf-8") as stream:
        process = subprocess.Popen(command, stdout=stream, **pipes)
    with process.stdin:
        process.wait()
    if process.returncode:
        lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
        known = [line.split("s3e: ", 1)[1] for line in lines if "s3e: " in line]
        unknown = f"training '{name}' ended in one of its processes: see the end of {output}."
        raise S3EError(known[0] if known else unknown)


def member(train: Callable[[dict[str, Any]], None], file: str) -> int:
    """Take part in the training of a job file by `train(job)`; the exit code."""
    if LAUNCHED in os.environ:  # when the launcher is gone, nobody holds this standard input
        threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
    job = read_json(file)
    set_threads(job["config"]["runtime"]["threads"], torch=True)
    try:
        train(job)
    except S3EError as error:
        print(f"s3e: {error}", flush=True)
        return 1
    dist.destroy_process_group()
    return 0
