"""One plain loop: seed, step, guard, log, checkpoint, resume. It knows nothing of deblurring.

Every update is seeded from (key, step) and every batch is a pure function of its step, so a run that was cut and goes
on from its last checkpoint makes the same bits as an unbroken one.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.optim import Optimizer
from tqdm.auto import tqdm

from s3e.config import Runtime, Training
from s3e.paths import S3EError, atomic_write
from s3e.seeds import seed_everything


def rate(schedule: str, step: int, updates: int) -> float:
    """Factor of the learning rate at `step`: constant; linear to 0; constant for one half, then linear to 0."""
    if schedule == "constant":
        return 1.0
    left = 1 - step / updates
    return left if schedule == "linear" else min(1.0, 2 * left)


class Trainer:
    """Run `updates` of a training, resumable, with its log on disk.

    Files in `folder`: `log_<name>.csv` (step and losses, never times) and `<name>.ckpt`.
    `modules` and `optimizers` are saved by name. `seconds` is the time spent in `timed` updates.
    """

    def __init__(
        self, folder: Path, name: str, modules: dict[str, nn.Module], optimizers: dict[str, Optimizer],
        settings: Training, runtime: Runtime, key: tuple[object, ...],
    ):  # fmt: skip
        self.folder, self.name, self.key = Path(folder), name, (*key, name)
        self.modules, self.optimizers = modules, optimizers
        self.settings, self.runtime = settings, runtime
        self.bases = {name: [group["lr"] for group in item.param_groups] for name, item in optimizers.items()}
        self.rows: list[dict[str, float]] = []
        self.seconds, self.timed = 0.0, 0

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.name}.ckpt"

    @property
    def log(self) -> Path:
        return self.folder / f"log_{self.name}.csv"

    def fit(self, step_fn: Callable[[int], dict[str, float]]) -> pd.DataFrame:
        """Call `step_fn(step)` (which updates and returns its losses) from the last checkpoint to the end; the log."""
        start, updates = self._resume(), self.settings.updates
        window: list[dict[str, float]] = []
        bar = tqdm(range(start, updates), desc=self.name, initial=start, total=updates, leave=False, mininterval=5)
        for step in bar:
            self._set_rates(step)
            seed_everything(*self.key, step)
            began = time.perf_counter()
            values = step_fn(step)
            self.seconds, self.timed = self.seconds + time.perf_counter() - began, self.timed + 1
            self._guard(values, step)
            window.append(values)
            if (step + 1) % self.runtime.log_every == 0 or step + 1 == updates:
                self._write_log(step + 1, window)
                window = []
                if (step + 1) % self.runtime.save_every == 0 or step + 1 == updates:
                    self._save(step + 1)
        return pd.DataFrame(self.rows)

    def _set_rates(self, step: int) -> None:
        factor = rate(self.settings.schedule, step, self.settings.updates)
        for name, optimizer in self.optimizers.items():
            for group, base in zip(optimizer.param_groups, self.bases[name], strict=True):
                group["lr"] = base * factor

    def _guard(self, values: dict[str, float], step: int) -> None:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise S3EError(
                f"training '{self.name}' diverged at update {step}: loss '{bad[0]}' is {values[bad[0]]}; lower the "
                f"learning rate. The last good state is {self.checkpoint}."
            )

    def _write_log(self, step: int, window: list[dict[str, float]]) -> None:
        means = {name: sum(row[name] for row in window) / len(window) for name in window[0]}
        self.rows.append({"step": step, **means})
        with atomic_write(self.log) as temporary:
            pd.DataFrame(self.rows).to_csv(temporary, index=False)

    def _save(self, step: int) -> None:
        state = {
            "key": list(map(str, self.key)),
            "step": step,
            "rows": self.rows,
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizers": {name: item.state_dict() for name, item in self.optimizers.items()},
            "rng": torch.get_rng_state(),
            "spent": [self.seconds, self.timed],
        }
        with atomic_write(self.checkpoint) as temporary:
            torch.save(state, temporary)

    def _resume(self) -> int:
        if not self.checkpoint.exists():
            return 0
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        if state["key"] != list(map(str, self.key)):
            raise S3EError(f"{self.checkpoint} belongs to another training {state['key']}; delete it and run again.")
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.rows = state["rows"]
        self.seconds, self.timed = state["spent"]
        torch.set_rng_state(state["rng"])
        if state["step"] < self.settings.updates:
            print(f"{self.name}: going on from update {state['step']} of {self.settings.updates}")
        return state["step"]
