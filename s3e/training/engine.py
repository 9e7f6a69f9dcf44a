"""Where and how precisely a training computes: device, precision and processes, through lightning-fabric."""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from s3e import ranks
from s3e.config import Runtime, Training
from s3e.data.corpus import Batch
from s3e.training.guard import check
from s3e.utils import S3EError

PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "64": "64-true"}


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
