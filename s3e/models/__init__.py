"""Networks, one concept a file. Here: what the processes of one training share.

A training with several processes (ranks) gives each an equal part of every batch. With these
helpers the result is that of one process with the whole batch, up to rounding. In one process they
do nothing.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world() -> int:
    """Number of processes of this training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0 on."""
    return dist.get_rank() if world() > 1 else 0


def total(value: Tensor) -> Tensor:
    """Sum of `value` over all ranks; gradients flow back to every rank's share."""
    if world() == 1:
        return value
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(value)


def roll(items: Tensor) -> Tensor:
    """`items.roll(1, 0)` of the whole batch, of which each rank holds an equal part in its turn."""
    if world() == 1:
        return items.roll(1, 0)
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(items)).roll(1, 0).chunk(world())[rank()]


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the ranks.

    Explicit rather than through DistributedDataParallel, whose hooks do not see the double backward
    of a gradient penalty.
    """
    if world() == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= world()


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation of B x C (x h x w) by the statistics of the whole batch, on all ranks.

    `nn.SyncBatchNorm` does so on GPUs alone.
    """

    def _check_input_dim(self, image: Tensor) -> None:
        pass

    def forward(self, image: Tensor) -> Tensor:
        if not self.training or world() == 1:
            return super().forward(image)
        axes = [axis for axis in range(image.dim()) if axis != 1]
        values = image.float() if image.dtype in (torch.bfloat16, torch.float16) else image
        count = values.numel() // values.shape[1] * world()
        mean = total(values.sum(axes)) / count
        shape = [1, -1, *[1] * (image.dim() - 2)]
        centred = values - mean.view(shape)
        variance = total(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = variance * (count / (count - 1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(image.dtype)
