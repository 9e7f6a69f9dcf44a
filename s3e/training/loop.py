"""One plain loop: seed, step, guard, log, checkpoint, resume. It knows nothing of deblurring.

Every update is seeded from (key, step), every batch and every learning rate is a pure function of its step, so a run
that was cut and goes on from its last checkpoint makes the same bits as an unbroken one.
"""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from s3e import models as ranks
from s3e.config import Runtime, Training
from s3e.data.corpus import Batch
from s3e.training import checkpoint
from s3e.training.checkpoint import unwritable
from s3e.utils import S3EError, atomic_write, out_of_memory, seed_everything

SNAPSHOTS = (0.0, 0.1, 0.3, 1.0)  # parts of a training after which its samples are kept
Values = dict[str, Tensor]
PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "64": "64-true"}
SETTLED = 50  # steps before a loss term counts as having a usual size
SMALLEST = 1e-2  # a usual size below it counts as this


def rate(settings: Training, step: int) -> float:
    """Factor of the learning rate at `step` (from 0 on).

    Constant; linear to 0; constant for one half, then linear to 0; half a cosine to 0; or falling in steps. A warm-up
    lets it rise linearly first.
    """
    done = step / settings.steps
    factor = {
        "constant": 1.0,
        "linear": 1 - done,
        "half_linear": min(1.0, 2 * (1 - done)),
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "steps": settings.decay ** (step // settings.decay_every),
    }[settings.schedule]
    return factor * min(1.0, (step + 1) / settings.warmup) if settings.warmup else factor


class Diverged(Exception):
    """A loss term that is not finite or has exploded."""


def check(values: dict[str, float]) -> None:
    """Raise `Diverged` for the first term that is not finite."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise Diverged(f"loss '{name}' is {value}")


class Guard:
    """Knows the usual size of each loss term: a mean of its absolute value over about the last hundred steps."""

    def __init__(self, explosion: float):
        self.explosion = explosion
        self.usual: dict[str, list[float]] = {}  # mean size, number of steps seen

    def __call__(self, values: dict[str, float]) -> None:
        """Take an update's terms into account; raises `Diverged` for one that is not finite or has exploded."""
        check(values)
        for name, value in values.items():
            mean, count = self.usual.setdefault(name, [0.0, 0.0])
            if count >= SETTLED and abs(value) > self.explosion * max(mean, SMALLEST):
                raise Diverged(f"loss '{name}' is {value:.3g} after {mean:.3g} in the mean")
            self.usual[name] = [mean + (abs(value) - mean) / min(count + 1, 100), count + 1]


def too_large(name: str, settings: Training, error: Exception) -> S3EError:
    """What to lower when a training does not fit into memory."""
    at_once = settings.batch // settings.accumulate
    why = (str(error) or type(error).__name__).splitlines()[0][:120]
    return S3EError(
        f"training '{name}' does not fit into memory with {at_once} images at a time ({why}): raise its section's "
        f"accumulate (now {settings.accumulate}), or lower its batch (now {settings.batch}) or data.size."
    )


class Engine:
    """Put networks and batches where they belong and take optimizer steps.

    `ids` are the images of the last batch that was placed, `whole` says that losses are checked before each step (on
    the CPU; on a GPU that would wait for the device every time, so the loop checks them when it writes its log).
    """

    def __init__(self, runtime: Runtime):
        from lightning_fabric import Fabric

        kind, _, number = runtime.device.partition(":")
        if kind == "cuda" and not torch.cuda.is_available():
            raise S3EError(
                f"runtime.device is '{runtime.device}', but PyTorch sees no GPU: --set runtime.device=cpu."
            )
        launched = "LOCAL_RANK" in os.environ
        self.runtime, self.ids = runtime, []
        self.fabric = Fabric(
            accelerator=kind,
            devices=[int(number)]
            if number
            else int(os.environ.get("LOCAL_WORLD_SIZE", 1))
            if launched
            else 1,
            num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", 1)),
            strategy="ddp" if launched else "auto",
            precision=PRECISION[runtime.precision],
        )
        self.fabric.launch()
        self.device = self.fabric.device
        self.whole = self.device.type == "cpu"
        self.dtype = torch.float64 if runtime.precision == "64" else torch.float32
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = runtime.tf32

    @property
    def first(self) -> bool:
        """True in the process that writes files."""
        return ranks.rank() == 0

    def prepare(self, *modules: nn.Module) -> None:
        """Move networks to the device, in the precision and memory layout of the settings."""
        for module in modules:
            module.to(self.device, self.dtype)
            if self.runtime.channels_last:
                module.to(memory_format=torch.channels_last)

    def compile(self, *modules: nn.Module | None) -> None:
        """Let calls of the networks run compiled, if the settings say so; their `forward` stays eager."""
        for module in modules if self.runtime.compile else ():
            if module is not None:
                module.compile()

    def place(self, batch: Batch) -> Batch:
        """A batch on the device."""
        self.ids = batch.ids
        return batch.to(self.device, self.dtype, channels_last=self.runtime.channels_last)

    def autocast(self) -> AbstractContextManager:
        """Within it, networks compute in the precision of the settings."""
        return self.fabric.autocast()

    def descend(
        self, optimizer: Optimizer, settings: Training, parts: Iterable[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """One optimizer step on the mean over `parts` (`settings.accumulate` of them), each the terms of a loss.

        Parts are taken one after the other, so that only one is in memory; returns the terms' means. Raises `Diverged`
        before anything is changed, where terms are checked at once.
        """
        optimizer.zero_grad(set_to_none=True)
        means: dict[str, Tensor] = {}
        for terms in parts:
            if self.whole:
                check({name: float(value.detach()) for name, value in terms.items()})
            (sum(terms.values()) / settings.accumulate).backward()
            for name, value in terms.items():
                means[name] = means.get(name, 0.0) + value.detach() / settings.accumulate
        parameters = [
            parameter for group in optimizer.param_groups for parameter in group["params"]
        ]
        ranks.average_gradients(parameters)
        if settings.clip:
            nn.utils.clip_grad_value_(parameters, settings.clip)
        if settings.clip_norm:
            nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
        optimizer.step()
        return means


class Trainer:
    """Run `steps` of a training, resumable, with its log on disk.

    Files in `folder`: `log_<name>.csv` (step and losses, never times), `<name>.ckpt` (and the one before it),
    `validation_<name>.csv` and `<name>.best` where there is a validation, `progress/<name>_<step>.npz` with what
    `sampler` shows of the training at `SNAPSHOTS`, `<name>.postmortem` after a divergence. `modules` and `optimizers`
    are saved by name; averaging and the choice of the best concern the module named first. `validate` gives a score
    (higher is better), the same in all processes; `watch` is told each step whose log was written. `seconds` is the
    time spent in `timed` steps.
    """

    def __init__(
        self, folder: Path, name: str, modules: dict[str, nn.Module], optimizers: dict[str, Optimizer],
        settings: Training, runtime: Runtime, key: tuple[object, ...], engine: Engine | None = None,
        validate: Callable[[], float] | None = None,
        sampler: Callable[[], dict[str, np.ndarray]] | None = None, watch: Callable[[int], None] | None = None,
    ):  # fmt: skip
        self.folder, self.name, self.key = Path(folder), name, (*key, name)
        self.modules, self.optimizers = modules, optimizers
        self.settings, self.runtime = settings, runtime
        self.engine = engine or Engine(runtime)
        self.validate, self.sampler, self.watch = validate, sampler, watch
        self.bases = {
            name: [group["lr"] for group in item.param_groups] for name, item in optimizers.items()
        }
        self.result = next(iter(modules.values()))
        average = get_ema_multi_avg_fn(settings.ema)
        self.averaged = AveragedModel(self.result, multi_avg_fn=average) if settings.ema else None
        self.rows: list[dict[str, float]] = []
        self.scores: list[dict[str, float]] = []
        self.guard = Guard(runtime.explosion)
        self.seconds, self.timed, self.stopped = 0.0, 0, False
        self._window: list[tuple[Values, list[str]]] = []

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.name}.ckpt"

    @property
    def log(self) -> Path:
        return self.folder / f"log_{self.name}.csv"

    def finished(self) -> bool:
        """True if the training is on disk, to its end."""
        state = checkpoint.load(self.checkpoint)
        if state is None or state.get("key") != self._names():
            return False
        return state["stopped"] or state["step"] == self.settings.steps

    def fit(self, step_fn: Callable[[int], Values]) -> pd.DataFrame:
        """Call `step_fn(step)` (which steps and returns its losses) from the last checkpoint to the end; the log.

        Raises `S3EError` for a divergence, too little memory or a full disk; the last good checkpoint stays.
        """
        lock = checkpoint.hold(self.folder / f"{self.name}.lock") if self.engine.first else None
        try:
            if lock:
                checkpoint.sweep(self.folder, self.name)
            self._run(step_fn, self._resume())
        except (RuntimeError, MemoryError) as error:
            if out_of_memory(error):
                raise too_large(self.name, self.settings, error) from None
            raise
        finally:
            if lock:
                lock.close()
        self._conclude()
        return pd.DataFrame(self.rows)

    def _run(self, step_fn: Callable[[int], Values], start: int) -> None:
        marks = {round(share * self.settings.steps) for share in SNAPSHOTS}
        self._began = time.perf_counter()
        for step in self._bar(start):
            if step in marks:
                self._snapshot(step)
            self._update(step_fn, step)
            done = step + 1
            if (done % self.runtime.log_every == 0 or done == self.settings.steps) and self._report(
                done
            ):
                break
        last = int(self.rows[-1]["step"])
        if (
            last > start or not self._progress(last).exists()
        ):  # killed between the last checkpoint and this
            self._snapshot(last)

    def _bar(self, start: int) -> tqdm:
        total, quiet = self.settings.steps, not self.engine.first
        steps = range(start, total)
        return tqdm(
            steps,
            desc=self.name,
            initial=start,
            total=total,
            leave=False,
            mininterval=5,
            disable=quiet,
        )

    def _update(self, step_fn: Callable[[int], Values], step: int) -> None:
        """One update; its losses are checked at once where the engine does so."""
        factor = rate(self.settings, step)
        for name, optimizer in self.optimizers.items():
            for group, base in zip(optimizer.param_groups, self.bases[name], strict=True):
                group["lr"] = base * factor
        seed_everything(*self.key, step, *([ranks.rank()] if ranks.world() > 1 else []))
        with self._stops_at(step, lambda: self.engine.ids):
            values = step_fn(step)
            if self.engine.whole:
                self.guard(_numbers(values))
        self._window.append((values, self.engine.ids))
        if self.averaged:
            self.averaged.update_parameters(self.result)

    def _report(self, done: int) -> bool:
        """Log the steps since the last report, validate and save where due; True if training ends early."""
        for place, (values, ids) in enumerate(() if self.engine.whole else self._window):
            with self._stops_at(done - len(self._window) + place, lambda ids=ids: ids):
                self.guard(_numbers(values))
        row = self._means()
        self.seconds += time.perf_counter() - self._began
        self.timed += len(self._window)
        self.rows.append({"step": done, **row})
        self._write_table(self.log, self.rows)
        self._window = []
        self.stopped = self._validate(done)
        if done % self.runtime.save_every == 0 or done == self.settings.steps or self.stopped:
            self._save(done)
        if self.watch and self.engine.first:
            self.watch(done)
        self._began = time.perf_counter()
        return self.stopped

    def _means(self) -> dict[str, float]:
        names = list(self._window[0][0])
        rows = [
            torch.stack([torch.as_tensor(values[name]) for name in names])
            for values, _ in self._window
        ]
        means = ranks.total(torch.stack(rows).double().mean(0)) / ranks.world()
        return dict(zip(names, means.tolist(), strict=True))

    @contextmanager
    def _stops_at(self, step: int, images: Callable[[], list[str]]) -> Iterator[None]:
        """Turn a divergence into a saved state and an error that names update and images."""
        try:
            yield
        except Diverged as error:
            ids, path = images(), self.folder / f"{self.name}.postmortem"
            checkpoint.save(path, {**self._state(step), "why": str(error), "ids": ids})
            last = (
                f"the last good state is {self.checkpoint}"
                if self.checkpoint.exists()
                else "none was saved before"
            )
            photos = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
            raise S3EError(
                f"training '{self.name}' diverged at update {step}: {error} (images: {photos or 'none'}; its state "
                f"is in {path}); lower the learning rate or set clip_norm; {last}."
            ) from None

    def _write_table(self, path: Path, rows: list[dict[str, float]]) -> None:
        if not self.engine.first:
            return
        with self._writing(path) as temporary:
            pd.DataFrame(rows).to_csv(temporary, index=False)

    @contextmanager
    def _writing(self, path: Path) -> Iterator[Path]:
        try:
            with atomic_write(path) as temporary:
                yield temporary
        except OSError as error:
            raise unwritable(path, error, self.checkpoint) from None

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Within it, the module named first holds the averaged weights, if there are any, and none is in training."""
        modes = {
            module: module.training for item in self.modules.values() for module in item.modules()
        }
        own = (
            {name: value.clone() for name, value in self.result.state_dict().items()}
            if self.averaged
            else None
        )
        if self.averaged:
            self.result.load_state_dict(self.averaged.module.state_dict())
        for module in self.modules.values():
            module.eval()
        try:
            with torch.no_grad(), ranks.alone():
                yield
        finally:
            if own is not None:
                self.result.load_state_dict(own)
            for module, mode in modes.items():
                module.training = mode

    def _snapshot(self, step: int) -> None:
        if self.sampler is None or not self.engine.first:
            return
        start = time.perf_counter()
        with self.judged():
            arrays = self.sampler()
        with self._writing(self._progress(step)) as temporary:
            np.savez_compressed(temporary, **arrays)
        self._began += time.perf_counter() - start

    def _progress(self, step: int) -> Path:
        return self.folder / "progress" / f"{self.name}_{step:07d}.npz"

    def _validate(self, step: int) -> bool:
        """Score the training where it is due; True if it has not got better for too long."""
        every, patience = self.settings.validate_every, self.settings.patience
        if self.validate is None or not every or (step % every and step != self.settings.steps):
            return False
        with self.judged():
            score = self.validate()
            weights = (
                {name: value.cpu() for name, value in self.result.state_dict().items()}
                if patience
                else {}
            )
        if patience and self.engine.first and all(score > row["score"] for row in self.scores):
            best = {"key": self._names(), "step": step, "state": weights}
            checkpoint.save(self.folder / f"{self.name}.best", best)
        self.scores.append({"step": step, "score": score})
        self._write_table(self.folder / f"validation_{self.name}.csv", self.scores)
        best = max(range(len(self.scores)), key=lambda place: self.scores[place]["score"])
        return bool(patience) and len(self.scores) - 1 - best >= patience

    def _conclude(self) -> None:
        """Leave the weights that count: the best where a validation chooses, else averaged ones, else the last."""
        self.engine.fabric.barrier()  # the first process writes the best
        if self.settings.patience and self.scores:
            self.result.load_state_dict(self._best())
        elif self.averaged:
            self.result.load_state_dict(self.averaged.module.state_dict())

    def _best(self) -> dict[str, Tensor]:
        """The weights with the best score; a file with others (one from before, or none) is refused."""
        path = self.folder / f"{self.name}.best"
        step = max(self.scores, key=lambda row: row["score"])["step"]
        state = checkpoint.load(path) or {}
        if (state.get("key"), state.get("step")) != (self._names(), step):
            raise S3EError(
                f"{path} does not hold the weights of update {step}, the best ones of '{self.name}': delete "
                f"{self.checkpoint} to train again."
            )
        return state["state"]

    def _names(self) -> list[str]:
        return list(map(str, self.key))

    def _state(self, step: int) -> dict[str, object]:
        cuda = torch.cuda.get_rng_state_all() if self.engine.device.type == "cuda" else []
        return {
            "key": self._names(),
            "step": step,
            "stopped": self.stopped,
            "rows": self.rows,
            "scores": self.scores,
            "usual": self.guard.usual,
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizers": {name: item.state_dict() for name, item in self.optimizers.items()},
            "averaged": self.averaged.state_dict() if self.averaged else {},
            "rng": [torch.get_rng_state(), *cuda],
            "spent": [self.seconds, self.timed],
        }

    def _save(self, step: int) -> None:
        if self.engine.first:
            checkpoint.save(self.checkpoint, self._state(step))

    def _resume(self) -> int:
        state = checkpoint.load(self.checkpoint)
        if state is None:
            return 0
        if state.get("key") != self._names():
            raise S3EError(
                f"{self.checkpoint} belongs to another training {state.get('key', '')}; delete it and run again."
            )
        try:
            self._restore(state)
        except (KeyError, RuntimeError, ValueError) as error:
            why = str(error).splitlines()[0]
            raise S3EError(
                f"{self.checkpoint} was made by other networks ({why}); delete it and run again."
            ) from None
        if state["step"] < self.settings.steps and not self.stopped and self.engine.first:
            print(
                f"{self.name}: going on from update {state['step']} of {self.settings.steps}",
                flush=True,
            )
        return self.settings.steps if self.stopped else state["step"]

    def _restore(self, state: dict) -> None:
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        if self.averaged:
            self.averaged.load_state_dict(state["averaged"])
        self.rows, self.scores, self.guard.usual = state["rows"], state["scores"], state["usual"]
        (self.seconds, self.timed), self.stopped = state["spent"], state["stopped"]
        torch.set_rng_state(state["rng"][0])


def _numbers(values: Values) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}
