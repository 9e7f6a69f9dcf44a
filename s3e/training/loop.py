"""One plain loop: seed, step, guard, log, checkpoint, validate, resume. It knows nothing of deblurring.

Every step is seeded from (key, step), every batch and every learning rate is a pure function of its step, so a run that
was cut and resumes from its last checkpoint ends in the same bits as an unbroken one.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm.auto import tqdm

from s3e.config import Runtime, Training
from s3e.data.corpus import Batch, Split
from s3e.models import average_gradients, rank, total, world
from s3e.training import checkpoint, parallel
from s3e.utils import S3EError, out_of_memory, seed_everything

SNAPSHOTS = (0.0, 0.1, 0.3, 1.0)  # parts of a training after which its samples are kept
SETTLED = 50  # values before a loss term counts as having a usual size
SMALLEST = 1e-2  # a usual size below it counts as this
Terms = dict[str, Tensor]


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


class Batches:
    """This process's parts of a training's batches, by step; the part after is loaded meanwhile."""

    def __init__(self, split: Split, severity: str, settings: Training, *key: object):
        self.split, self.severity, self.settings, self.key = split, severity, settings, key
        self.pool, self.loading = ThreadPoolExecutor(1), {}

    def __call__(self, step: int) -> Iterator[Batch]:
        """The `accumulate` parts of batch number `step`, one after the other."""
        for part in range(self.settings.accumulate):
            number = step * self.settings.accumulate + part
            batch = self.loading.pop(number, None) or self.pool.submit(self._draw, number)
            self.loading = {number + 1: self.pool.submit(self._draw, number + 1)}
            yield batch.result()

    def _draw(self, number: int) -> Batch:
        step, part = divmod(number, self.settings.accumulate)
        cut = {
            "part": rank() * self.settings.accumulate + part,
            "parts": self.settings.accumulate * world(),
        }
        return self.split.draw(self.settings.batch, self.severity, step, *self.key, **cut)


class Trainer:
    """Run `settings.steps` steps of a training, resumable, with its log on disk.

    A subclass sets `optimizers` and defines `step`, and may define `validate`, `sample` and `job`. `modules` are moved
    to the device and saved by name. Files in `folder`: `log_<name>.csv` (step and losses, never times), `<name>.ckpt`
    (and the one before it), `validation_<name>.csv`, `progress/<name>_<step>.npz` with samples at `SNAPSHOTS`.
    """

    optimizers: dict[str, Optimizer]

    def __init__(
        self,
        folder: Path,
        name: str,
        key: tuple[object, ...],
        settings: Training,
        runtime: Runtime,
        **modules: nn.Module,
    ):
        self.folder, self.name, self.key = Path(folder), name, [*map(str, key), name]
        self.settings, self.runtime, self.modules = settings, runtime, modules
        self.seed = (*key, name)
        self.device = parallel.join(runtime)
        self.dtype = torch.float64 if runtime.precision == "64" else torch.float32
        self.checks_late = self.device.type != "cpu"  # a check waits for the device
        self.rows: list[dict[str, float]] = []
        self.scores: list[dict[str, float]] = []
        self.usual: dict[str, list[float]] = {}  # size of each loss term: mean, number of values
        self.number, self.ids, self.seconds = 0, [], 0.0
        for module in modules.values():
            self.prepare(module.train())

    def step(self, number: int) -> Terms:
        """Take step `number` of all optimizers and return its losses."""
        raise NotImplementedError

    def validate(self) -> float:
        """A score, higher is better, the same in all processes; for `validate_every`."""
        raise NotImplementedError

    def sample(self) -> dict[str, np.ndarray]:
        """What shows how far the training has come; {}: nothing is kept."""
        return {}

    def job(self) -> dict[str, Any]:
        """This training in plain values, for processes of its own."""
        raise NotImplementedError

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.name}.ckpt"

    @property
    def milliseconds(self) -> float:
        """Mean time of a step, without validation and samples."""
        return 1000 * self.seconds / self.settings.steps

    def fit(self, watch: Callable[[int], None] = lambda step: None) -> pd.DataFrame:
        """Take all steps from the last checkpoint on; the log. `watch` is called with each step that was logged.

        Raises `S3EError` for a divergence, too little memory or a full disk; the last good checkpoint stays.
        """
        if self.runtime.devices > 1 and not parallel.launched():
            start = self._resume()
            if start == 0:
                self._save(0)
            if start < self.settings.steps:
                parallel.spread(self.folder, self.name, self.job(), self.settings.steps, watch)
        with checkpoint.hold(self.folder, self.name) if rank() == 0 else nullcontext():
            try:
                self._run(self._resume(), watch)
            except (RuntimeError, MemoryError) as error:
                if out_of_memory(error):
                    raise self._too_large(error) from None
                raise
        return pd.DataFrame(self.rows)

    def _run(self, start: int, watch: Callable[[int], None]) -> None:
        steps, window = self.settings.steps, []
        snapshots = {round(share * steps) for share in SNAPSHOTS}
        if 0 < start < steps and rank() == 0:
            print(f"{self.name}: resuming from step {start} of {steps}", flush=True)
        quiet = {"leave": False, "mininterval": 5, "disable": rank() > 0}
        for number in tqdm(
            range(start, steps), desc=self.name, initial=start, total=steps, **quiet
        ):
            self.number = number
            if number in snapshots:
                self._snapshot(number)
            began, done = time.perf_counter(), number + 1
            window.append(self._step())
            logged = done % self.runtime.log_every == 0 or done == steps
            row = self._mean(window) if logged else {}
            self.seconds += time.perf_counter() - began
            if not logged:
                continue
            self.rows.append({"step": done, **row})
            self._write_table(f"log_{self.name}.csv", self.rows)
            window = []
            every = self.settings.validate_every
            if every and (done % every == 0 or done == steps):
                with self.evaluating():
                    self.scores.append({"step": done, "score": self.validate()})
                self._write_table(f"validation_{self.name}.csv", self.scores)
            if done % self.runtime.save_every == 0 or done == steps:
                self._save(done)
            if rank() == 0:
                watch(done)
        if start < steps or not self._progress(steps).exists():  # it may have been killed there
            self._snapshot(steps)

    def _step(self) -> tuple[int, list[str], Terms]:
        """The next step, its images and its losses."""
        factor = rate(self.settings, self.number)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
        seed_everything(*self.seed, self.number, *([rank()] if world() > 1 else []))
        terms = self.step(self.number)
        return self.number, self.ids, terms

    def optimizer_step(self, optimizer: Optimizer, parts: Iterable[Terms]) -> Terms:
        """One step of an optimizer on the mean over `accumulate` parts, each the terms of a loss; the terms' means.

        Parts are taken one after the other, so that only one is in memory.
        """
        optimizer.zero_grad(set_to_none=True)
        means: Terms = {}
        parts = iter(parts)
        for _ in range(self.settings.accumulate):
            with self.autocast():
                terms = next(parts)
            if not self.checks_late:  # before anything is learned from them
                self._check(self.number, self.ids, terms)
            (sum(terms.values()) / self.settings.accumulate).backward()
            for name, value in terms.items():
                means[name] = means.get(name, 0.0) + value.detach() / self.settings.accumulate
        parameters = [item for group in optimizer.param_groups for item in group["params"]]
        average_gradients(parameters)
        if self.settings.clip:
            nn.utils.clip_grad_value_(parameters, self.settings.clip)
        if self.settings.clip_norm:
            nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm)
        optimizer.step()
        return means

    def _check(self, step: int, ids: list[str], terms: Terms) -> None:
        """Raise `S3EError` for a loss term that is not finite, or many times its mean over the last hundred values."""
        for name, value in terms.items():
            number = float(value.detach())
            size = abs(number)
            mean, count = self.usual.get(name, (0.0, 0))
            exploded = count >= SETTLED and size > self.runtime.explosion * max(mean, SMALLEST)
            if exploded or not math.isfinite(size):
                images = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if ids[8:] else "")
                saved = self.checkpoint if self.checkpoint.exists() else "none was saved before"
                raise S3EError(
                    f"training '{self.name}' diverged at step {step}: loss '{name}' is {number:.3g} after "
                    f"{mean:.3g} in the mean (images: {images}); lower the learning rate or set clip_norm; the last "
                    f"good checkpoint: {saved}."
                )
            self.usual[name] = [mean + (size - mean) / min(count + 1, 100), count + 1]

    def _mean(self, window: list[tuple[int, list[str], Terms]]) -> dict[str, float]:
        """Mean losses over the steps since the last log row."""
        for checked in window if self.checks_late else ():
            self._check(*checked)
        losses = [terms for _, _, terms in window]
        rows = [torch.stack([torch.as_tensor(row[name]) for name in losses[0]]) for row in losses]
        means = total(torch.stack(rows).double().mean(0)) / world()
        return dict(zip(losses[0], means.tolist(), strict=True))

    def prepare(self, module: nn.Module) -> None:
        """Move a network to the device, in the precision and memory layout of the settings."""
        module.to(self.device, self.dtype)
        if self.runtime.channels_last:
            module.to(memory_format=torch.channels_last)

    def place(self, batch: Batch) -> Batch:
        """A batch on the device; its images are named if losses diverge."""
        self.ids = batch.ids
        return batch.to(self.device, self.dtype, channels_last=self.runtime.channels_last)

    def autocast(self) -> torch.autocast:
        """Within it, networks compute in the precision of the settings."""
        enabled = self.runtime.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within it, all networks are in eval mode and nothing is differentiated."""
        parts = [part for module in self.modules.values() for part in module.modules()]
        modes = [part.training for part in parts]
        for module in self.modules.values():
            module.eval()
        with torch.no_grad(), self.autocast():
            yield
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode

    def _snapshot(self, step: int) -> None:
        if rank() > 0:
            return
        with self.evaluating():
            arrays = self.sample()
        if arrays:
            with checkpoint.writing(self._progress(step), self.checkpoint) as temporary:
                np.savez_compressed(temporary, **arrays)

    def _progress(self, step: int) -> Path:
        return self.folder / "progress" / f"{self.name}_{step:07d}.npz"

    def _write_table(self, name: str, rows: list[dict[str, float]]) -> None:
        if rank() == 0:
            with checkpoint.writing(self.folder / name, self.checkpoint) as temporary:
                pd.DataFrame(rows).to_csv(temporary, index=False)

    def _save(self, step: int) -> None:
        if rank() > 0:
            return
        state = {"key": self.key, "step": step, "rows": self.rows, "scores": self.scores}
        state |= {"usual": self.usual, "seconds": self.seconds, "rng": torch.get_rng_state()}
        for kind in ("modules", "optimizers"):
            state[kind] = {name: item.state_dict() for name, item in getattr(self, kind).items()}
        checkpoint.save(self.checkpoint, state)

    def _resume(self) -> int:
        """Take over the last checkpoint, if there is one; the number of its steps."""
        state = checkpoint.load(self.checkpoint)
        if state is None:
            return 0
        if state.get("key") != self.key:
            raise S3EError(
                f"{self.checkpoint} belongs to another training {state.get('key', '')}; delete it and run again."
            )
        try:
            for kind in ("modules", "optimizers"):
                for name, item in getattr(self, kind).items():
                    item.load_state_dict(state[kind][name])
        except (KeyError, RuntimeError, ValueError) as error:
            why = str(error).splitlines()[0]
            raise S3EError(
                f"{self.checkpoint} was made by other networks ({why}); delete it and run again."
            ) from None
        self.rows, self.scores = state["rows"], state["scores"]
        self.usual, self.seconds = state["usual"], state["seconds"]
        torch.set_rng_state(state["rng"])
        return state["step"]

    def _too_large(self, error: Exception) -> S3EError:
        batch, accumulate = self.settings.batch, self.settings.accumulate
        why = (str(error) or type(error).__name__).splitlines()[0][:120]
        return S3EError(
            f"training '{self.name}' does not fit into memory with {batch // accumulate} images at a time ({why}): "
            f"raise its section's accumulate (now {accumulate}), or lower its batch (now {batch}) or data.size."
        )
