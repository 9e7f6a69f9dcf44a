"""One plain loop: seed, step, guard, log, checkpoint, validate, resume.

Every step is seeded from (key, step), every batch and every learning rate is a pure function of its
step, so a run that was cut and resumes from its last checkpoint ends in the same bits as an
unbroken one.
"""

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from pandas import DataFrame
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm.auto import tqdm

from s3e.config import Config, Training
from s3e.data.corpus import Batch, Corpus
from s3e.models import average_gradients, rank, total, world
from s3e.training import checkpoint, parallel
from s3e.utils import S3EError, out_of_memory, seed_everything, write_file

EXPLOSION, SMALLEST = 1e4, 1e-2  # a loss may not be so many times its mean (or `SMALLEST`)
VALIDATED = 256  # validation images at most that a validation looks at
Terms = dict[str, Tensor]


def rate(settings: Training, step: int) -> float:
    """Factor of the learning rate at `step` (from 0 on)."""
    done = step / settings.steps
    return {
        "constant": 1.0,
        "linear": 1 - done,
        "half_linear": min(1.0, 2 * (1 - done)),
        "cosine": (1 + math.cos(math.pi * done)) / 2,
    }[settings.schedule]


class Trainer:
    """Run `settings.steps` steps of a training, resumable, with its log on disk.

    A subclass sets `optimizers` and defines

    - `step(number) -> Terms`: take step `number` of all optimizers; the losses,
    - `validate() -> float`: higher is better, equal in all processes; every `validate_every` steps.

    It trains on images blurred by `severity`. `modules` are moved to the device and saved by name.
    `job`: what else `stages.train` needs to rebuild this training in other processes. Files in
    `folder`: `log_<name>.csv` (step and losses, never times), `<name>.ckpt`,
    `validation_<name>.csv`. After `fit`, `milliseconds` is the mean time of a step.
    """

    optimizers: dict[str, Optimizer]

    def __init__(
        self, folder: Path, name: str, stage: str, corpus: Corpus, config: Config,
        modules: dict[str, nn.Module], severity: str, job: dict[str, object], key: tuple = ()
    ):  # fmt: skip
        self.folder, self.name, self.key = Path(folder), name, (config.seed, *key, name)
        self.settings, self.runtime = getattr(config, f"train_{stage}"), config.runtime
        self.corpus, self.config, self.modules = corpus, config, modules
        self.severity, vocabulary = severity, corpus.vocabulary and str(corpus.vocabulary)
        self.job = {"folder": str(folder), "name": name, "stage": stage, **job}
        self.job |= {"corpus": str(corpus.folder), "vocabulary": vocabulary}
        self.job["config"] = config.model_dump(mode="json")
        self.device, self.first = parallel.join(self.runtime), rank() == 0
        self.dtype = torch.float64 if self.runtime.precision == "64" else torch.float32
        self.checkpoint = self.folder / f"{name}.ckpt"
        self.rows: list[dict[str, float]] = []
        self.scores: list[dict[str, float]] = []
        self.number, self.ids, self.seconds = 0, [], 0.0
        for module in modules.values():
            module.train().to(self.device, self.dtype)

    def fit(self) -> DataFrame:
        """Take all steps from the last checkpoint on; the log.

        Raises `S3EError` for a divergence, too little memory or a full disk; the last good
        checkpoint stays.
        """
        if self.runtime.devices > 1 and not dist.is_initialized():
            if (start := self._resume()) < self.settings.steps:
                self._save(start)
                parallel.spread(self.job)
        with checkpoint.hold(self.folder, self.name) if self.first else nullcontext():
            try:
                self._run(self._resume())
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                why = (str(error) or type(error).__name__).splitlines()[0][:120]
                raise S3EError(
                    f"training '{self.name}' does not fit into memory ({why}): lower its section's"
                    f" batch (now {self.settings.batch}) or data.size, or raise runtime.devices"
                    f" (now {self.runtime.devices}), among which a batch is shared out."
                ) from None
        self.milliseconds = 1000 * self.seconds / self.settings.steps
        return DataFrame(self.rows)

    def _run(self, start: int) -> None:
        steps, every, window = self.settings.steps, self.settings.validate_every, []
        if 0 < start < steps and self.first:
            print(f"{self.name}: resuming from step {start} of {steps}", flush=True)
        bar = {"initial": start, "leave": False, "mininterval": 5, "disable": not self.first}
        for number in tqdm(range(start, steps), self.name, total=steps, **bar):
            began, done = time.perf_counter(), number + 1
            window.append(self._step(number))
            validated = every and (done % every == 0 or done == steps)
            logged = validated or done % self.runtime.log_every == 0 or done == steps
            if logged:
                self.rows.append({"step": done, **_mean(window)})
                window = []
            self.seconds += time.perf_counter() - began
            if not logged:
                continue
            self._write_table("log", self.rows)
            if validated:
                with self.evaluating():
                    self.scores.append({"step": done, "score": self.validate()})
                self._write_table("validation", self.scores)
            if done % self.runtime.save_every == 0 or done == steps:
                self._save(done)

    def _step(self, number: int) -> Terms:
        """Set learning rates and random state of a step, and take it; its losses."""
        self.number = number
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                initial = group.setdefault("initial_lr", group["lr"])
                group["lr"] = initial * rate(self.settings, number)
        seed_everything(*self.key, number, *([rank()] if world() > 1 else []))
        return self.step(number)

    def optimizer_step(self, optimizer: Optimizer, terms: Terms) -> Terms:
        """One step of an optimizer on the sum of loss terms; the terms as numbers."""
        self._check(terms)
        optimizer.zero_grad()  # here: an interrupted step may have left gradients
        sum(terms.values()).backward()
        parameters = [item for group in optimizer.param_groups for item in group["params"]]
        average_gradients(parameters)
        if self.settings.clip:
            nn.utils.clip_grad_value_(parameters, self.settings.clip)
        if self.settings.clip_norm:
            nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm)
        optimizer.step()
        return {name: value.detach() for name, value in terms.items()}

    def _check(self, terms: Terms) -> None:
        """Raise `S3EError` where a term is not finite or `EXPLOSION` times its last logged mean."""
        before = self.rows[-1] if self.rows else {}
        for name, value in zip(terms, torch.stack([*terms.values()]).tolist(), strict=True):
            mean = abs(before.get(name, math.inf))
            if abs(value) <= EXPLOSION * max(mean, SMALLEST) and math.isfinite(value):
                continue
            raise S3EError(
                f"training '{self.name}' diverged at step {self.number}: loss '{name}' is"
                f" {value:.3g} after {before.get(name, math.nan):.3g} in the mean (images:"
                f" {', '.join(self.ids)}); lower the learning rate or set clip_norm; it resumes"
                f" from the last checkpoint, {self.checkpoint}."
            )

    def drawn(self, *key: object) -> Callable[[int], Batch]:
        """A function of the step: this process's part of the batch of that number.

        The batch after it is loaded meanwhile.
        """
        pool, ahead, draw = ThreadPoolExecutor(1), {}, self.corpus.train.draw
        share = {"part": rank(), "parts": world()}

        def load(step: int) -> Future[Batch]:
            args = self.settings.batch, self.severity, step, self.config.seed, *key
            return pool.submit(draw, *args, **share)

        def batch(step: int) -> Batch:
            now = ahead.pop(step, None) or load(step)
            ahead[step + 1] = load(step + 1)
            return now.result()

        return batch

    def validation(self) -> Iterator[Batch]:
        """The first validation images, each once; the same in every process."""
        split, size = self.corpus.val, self.config.evaluation.batch
        for rows in split.chunks(size, self.severity, VALIDATED):
            yield split.batch(rows, self.severity)

    def place(self, batch: Batch) -> Batch:
        """A batch on the device; its images are named if losses diverge."""
        self.ids = batch.ids
        return batch.to(self.device, self.dtype)

    def autocast(self) -> torch.autocast:
        """Within it, networks compute in the precision of the settings."""
        enabled = self.runtime.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within it, networks are in eval mode, and nothing is differentiated."""
        networks = nn.ModuleDict(self.modules)
        modes = {part: part.training for part in networks.modules()}
        networks.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for part, mode in modes.items():
                part.training = mode

    def _write_table(self, kind: str, rows: list[dict[str, float]]) -> None:
        path = self.folder / f"{kind}_{self.name}.csv"
        if self.first:
            with checkpoint.disk_errors(path, self.checkpoint):
                write_file(path, DataFrame(rows))

    def _save(self, step: int) -> None:
        state = {"key": [*map(str, self.key)], "step": step, "rows": self.rows}
        state |= {"scores": self.scores, "seconds": self.seconds, "rng": torch.get_rng_state()}
        for kind in ("modules", "optimizers"):
            state[kind] = {name: item.state_dict() for name, item in getattr(self, kind).items()}
        if self.first:
            checkpoint.save(self.checkpoint, state)

    def _resume(self) -> int:
        """Take over the last checkpoint, if there is one; the number of its steps."""
        if not self.checkpoint.exists():
            return 0
        state = checkpoint.read(self.checkpoint)
        if state.get("key") != [*map(str, self.key)]:
            raise S3EError(
                f"{self.checkpoint} belongs to another training {state.get('key', '')}; delete it"
                " and run again."
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
        self.rows, self.scores, self.seconds = state["rows"], state["scores"], state["seconds"]
        torch.set_rng_state(state["rng"])
        return state["step"]


def _mean(window: list[Terms]) -> dict[str, float]:
    """Mean losses over the steps since the last log row, over all processes."""
    rows = [torch.stack([*terms.values()]) for terms in window]
    means = total(torch.stack(rows).double().mean(0)) / world()
    return dict(zip(window[0], means.tolist(), strict=True))
