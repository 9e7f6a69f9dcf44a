"""Several processes for one training: a notebook asks for them (`runtime.devices`), `torchrun` starts them.

    torchrun --nproc-per-node 2 -m s3e.training.parallel runs/.../cotrain.job.json      (also by hand, on many machines)

A job file says which networks are trained how; the weights to start from lie beside it. The processes leave the log and
a finished checkpoint, from which the notebook's own process takes the result.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from s3e.config import Config, Runtime
from s3e.data.corpus import Corpus, load_corpus
from s3e.training import checkpoint
from s3e.utils import ROOT, S3EError, read_json, write_json

if TYPE_CHECKING:
    from s3e.training.loop import Trainer

POLL = 0.3  # seconds


def wanted(runtime: Runtime) -> bool:
    """True in a process that shall start others for its trainings."""
    return runtime.devices > 1 and "LOCAL_RANK" not in os.environ


def job_of(corpus: Corpus, config: Config, **how: Any) -> dict[str, Any]:
    """A training in plain values: data, settings and the arguments of its function."""
    vocabulary = str(corpus.vocabulary) if corpus.vocabulary else None
    return {
        "corpus": str(corpus.folder),
        "vocabulary": vocabulary,
        "config": config.model_dump(mode="json"),
        **how,
    }


def spread(
    trainer: "Trainer", job: dict[str, Any], watch: Callable[[int], None] | None = None
) -> None:
    """Run a training in `runtime.devices` processes and show its progress until it is on disk.

    `watch` is told each step whose log was written. Raises `S3EError` with the reason where a process fails.
    """
    folder, name, settings = trainer.folder, trainer.name, trainer.settings
    start = folder / f"{name}.start"
    if not trainer.checkpoint.exists():
        checkpoint.save(
            start, {key: module.state_dict() for key, module in trainer.modules.items()}
        )
    write_json(folder / f"{name}.job.json", {**job, "folder": str(folder), "name": name})
    count, file, output = (
        trainer.runtime.devices,
        folder / f"{name}.job.json",
        folder / f"{name}.launch.log",
    )
    command = [sys.executable, "-m", "s3e.training.parallel", "--processes", str(count), str(file)]
    bar = tqdm(total=settings.steps, desc=f"{name}, {count} processes", leave=False)
    with open(output, "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=_environment(trainer.runtime)
        )
    try:
        while process.poll() is None:
            time.sleep(POLL)
            _follow(trainer.log, bar, watch)
    finally:
        process.kill()
        bar.close()
    if process.returncode:
        raise S3EError(_why(output, name))
    start.unlink(missing_ok=True)


def _environment(runtime: Runtime) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    parent = {"S3E_LAUNCHER": str(os.getpid()), "TQDM_DISABLE": "1", "PYTHONPATH": path}
    return {**os.environ, **parent, "OMP_NUM_THREADS": str(runtime.threads)}


def _follow(log: Path, bar: tqdm, watch: Callable[[int], None] | None) -> None:
    last = log.read_text(encoding="utf-8").splitlines()[-1].split(",")[0] if log.is_file() else ""
    if last.isdecimal() and int(last) > bar.n:
        bar.update(int(last) - bar.n)
        if watch:
            watch(int(last))


def _why(output: Path, name: str) -> str:
    lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
    told = next((line.split("s3e: ", 1)[1] for line in lines if "s3e: " in line), "")
    return (
        told
        or f"training '{name}' ended in one of its processes: the last lines of {output} say why."
    )


def train(job: dict[str, Any]) -> None:
    """One process's part of a training; all of it where there is one process."""
    from s3e.models.build import build_critic, build_model
    from s3e.training import stages

    config = Config.model_validate_json(json.dumps(job["config"]))
    corpus = load_corpus(job["corpus"], job["vocabulary"])
    folder, name = Path(job["folder"]), job["name"]
    if "phase" in job:
        modules = {"source": stages.new_source(config, corpus, job["kind"])}
    else:
        modules = {
            "model": build_model(config, corpus, job["variant"]),
            "critic": build_critic(config),
        }
    if not (folder / f"{name}.ckpt").exists():
        for key, state in checkpoint.read(folder / f"{name}.start").items():
            modules[key].load_state_dict(state)
    if "phase" in job:
        prefix = name if name == job["phase"] else name.removesuffix(f"_{job['phase']}")
        losses = {"tree": job["tree"], "caption": job["caption"]}
        stages.train_semantics(
            folder, prefix, job["phase"], modules["source"], corpus, config, **losses
        )
    else:
        stages.train_deblurrer(folder, name, **modules, corpus=corpus, config=config, stage=job["stage"],
                               variant=job["variant"])  # fmt: skip


def main(command: list[str]) -> int:
    """Start the processes (`--processes N JOB`), or be one of those that `torchrun` started (`JOB`)."""
    from s3e.utils import die_with, set_threads

    if command[0] == "--processes":
        from torch.distributed.run import main as torchrun

        die_with(os.environ.get("S3E_LAUNCHER"), strict=True)
        os.environ["S3E_LAUNCHER"] = str(os.getpid())
        torchrun(
            [
                "--standalone",
                "--nproc-per-node",
                command[1],
                "-m",
                "s3e.training.parallel",
                command[2],
            ]
        )
        return 0
    die_with(os.environ.get("S3E_LAUNCHER"))
    job = read_json(command[0])
    set_threads(job["config"]["runtime"]["threads"], torch=True)
    try:
        train(job)
    except S3EError as error:
        print(f"s3e: {error}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
