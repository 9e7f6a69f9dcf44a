"""A generator over a large photo, tile by tile, with the result of the whole photo in one piece.

A tile is a core and, inside the photo, a halo as wide as the network reaches. Three things in a network look further
than its convolutions: instance normalisation and NAFNet's channel attention take means over the photo, and node maps
cover all of it. So every tile walks through the network's graph (torch.fx) as a generator that pauses before each mean;
means are then taken over all cores, float64, always in the same order, and each tile samples its own part of the maps.
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from s3e.evaluation.score import STRIDE
from s3e.models.generator import Embed
from s3e.utils import S3EError

STATISTICS = ("whole", "tile")
PROBE = 128  # side of the picture whose way through a network tells the strides of its convolutions

Progress = Callable[[int, int], None]


class Span(NamedTuple):
    """A tile along one axis: its first and last + 1 pixel, those of its core, and the photo's side."""

    start: int
    stop: int
    first: int
    last: int
    side: int

    def at(self, length: int) -> "Span":
        """The same tile in features of which it has `length`."""
        stride = (self.stop - self.start) // length
        return Span(*(place // stride for place in self))

    @property
    def core(self) -> slice:
        """Where the core lies in the tile."""
        return slice(self.first - self.start, self.last - self.start)


@torch.no_grad()
def run_tiled(
    network: nn.Module, image: Tensor, maps: Tensor | None = None, tile: int = 0, statistics: str = "whole",
    progress: Progress | None = None,
) -> Tensor:  # fmt: skip
    """`network(image, maps)` for a photo 1 x 3 x H x W in [-1, 1], H and W multiples of `STRIDE`; same shape.

    `maps`: 1 x M x h x w, they cover the whole photo. `tile`: side of a core in pixels, rounded up to a multiple of
    `STRIDE`; 0, or a photo that is no larger, means one piece. `statistics`: "whole" takes means over the photo, so
    that the result is that of one piece to rounding (all tiles wait in memory with one activation each, two in NAFNet);
    "tile" takes them in each tile, with less memory and a result that differs visibly (benchmarks/deblur.py).
    `progress` is told (steps done, all steps). Raises `S3EError` for settings it does not know.
    """
    if tile < 0 or statistics not in STATISTICS:
        raise S3EError(
            f"tile = {tile}, statistics = {statistics!r}: give 0 or more pixels, and whole or tile."
        )
    if not tile or max(image.shape[2:]) <= tile:
        return network(image, maps)
    margin = halo(network)
    graph = _Tracer().trace(network, concrete_args={"maps": None} if maps is None else None)
    spans = product(*(cut(side, tile, margin) for side in image.shape[2:]))
    tiles = [_Tile(network, graph, *place, shared=statistics == "whole") for place in spans]
    restored = torch.empty_like(image)
    for part, result in _together(tiles, image, maps, progress or (lambda done, total: None)):
        restored[part.inside] = result
    return restored


def cut(side: int, tile: int, margin: int) -> list[Span]:
    """Nearly equal cores of at most `tile` pixels (rounded up to a multiple of `STRIDE`), each with its halo."""
    cells = side // STRIDE
    count = -(-cells // max(1, -(-tile // STRIDE)))
    edges = [STRIDE * (cells * i // count) for i in range(count + 1)]
    pairs = zip(edges[:-1], edges[1:], strict=True)
    return [
        Span(max(0, first - margin), min(side, last + margin), first, last, side)
        for first, last in pairs
    ]


def halo(network: nn.Module) -> int:
    """How far, in pixels, one pixel acts through the convolutions of `network`: a multiple of `STRIDE`.

    A convolution of kernel k and dilation d on features of stride t reaches (k - 1) / 2 d t pixels (a transposed one
    less); rounding the sum up covers the whole cells of coarser features.
    """
    reach = 0

    def note(conv: nn.Conv2d | nn.ConvTranspose2d, inputs: tuple[Tensor]) -> None:
        nonlocal reach
        stride = round(PROBE / inputs[0].shape[3])
        reach += (max(conv.kernel_size) - 1) // 2 * max(conv.dilation) * stride

    convolutions = [
        layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    ]
    handles = [layer.register_forward_pre_hook(note) for layer in convolutions]
    try:
        network(torch.zeros(1, 3, PROBE, PROBE, device=next(network.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return -(-reach // STRIDE) * STRIDE


class _Tracer(fx.Tracer):
    """Leaves `Embed` in one piece, since each tile has its own part of the maps."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, Embed) or super().is_leaf_module(module, name)


class _Tile(fx.Interpreter):
    """One tile on its way through a network."""

    def __init__(
        self, network: nn.Module, graph: fx.Graph, rows: Span, columns: Span, shared: bool
    ):
        super().__init__(network, graph=graph)
        self.rows, self.columns = rows, columns
        self.pauses = [node for node in graph.nodes if shared and self._is_mean(node)]
        self.inside = (..., slice(rows.first, rows.last), slice(columns.first, columns.last))

    def _is_mean(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return isinstance(self.submodules[node.target], nn.InstanceNorm2d)
        return node.op == "call_method" and node.target == "mean"

    def walk(self, image: Tensor, maps: Tensor | None) -> Iterator[tuple[Tensor, ...] | Tensor]:
        """Yield (pixels, mean, variance) of the core before each mean and be sent those of the photo; then the core."""
        self.args_iter = iter((image[..., slice(*self.rows[:2]), slice(*self.columns[:2])], maps))
        for node in self.graph.nodes:
            if node in self.pauses:
                mean, variance = yield self._moments(node)
                self.env[node] = self._replaced(node, mean, variance)
            else:
                self.env[node] = self.run_node(node)
            for used in self.user_to_last_uses.get(node, []):
                del self.env[used]
        yield self._core(self.env.pop(node))

    def _moments(self, node: fx.Node) -> tuple[Tensor, ...]:
        """Pixels of the core, mean and variance of its channels, float64 (C,)."""
        features = self.env[node.args[0]]
        core = self._core(features if node.op == "call_module" else features.movedim(-1, 1))[
            0
        ].flatten(1)
        variance, mean = torch.var_mean(core, 1, correction=0)
        return mean.new_tensor(core.shape[1], dtype=torch.float64), mean.double(), variance.double()

    def _replaced(self, node: fx.Node, mean: Tensor, variance: Tensor) -> Tensor:
        """What the node would make of the whole photo: features normalised by its moments, or its mean."""
        features = self.env[node.args[0]]
        mean, variance = mean.to(features.dtype), variance.to(features.dtype)
        if node.op == "call_method":
            return mean.view(1, 1, 1, -1)
        norm = self.submodules[node.target]
        return F.batch_norm(
            features, mean, variance, norm.weight, norm.bias, training=False, eps=norm.eps
        )

    def _core(self, features: Tensor) -> Tensor:
        rows, columns = self._spans(features)
        return features[:, :, rows.core, columns.core]

    def _spans(self, features: Tensor) -> tuple[Span, Span]:
        return self.rows.at(features.shape[2]), self.columns.at(features.shape[3])

    def call_module(self, target: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        """A layer of the network; `Embed` gets the tile's part of the maps, sampled as for the whole photo."""
        if isinstance(self.submodules[target], Embed):
            features, maps = args
            weights = (
                _bilinear(maps, axis, span)
                for axis, span in zip((2, 3), self._spans(features), strict=True)
            )
            args = features, torch.einsum("bchw,yh,xw->bcyx", maps, *weights)
        return super().call_module(target, args, kwargs)


def _bilinear(maps: Tensor, axis: int, span: Span) -> Tensor:
    """Weights, tile x map, by which `F.interpolate` (bilinear) fills the tile's part of an axis."""
    unit = torch.eye(maps.shape[axis], dtype=maps.dtype, device=maps.device)
    return F.interpolate(unit[None], span.side, mode="linear", align_corners=False)[0].T[
        span.start : span.stop
    ]


def _together(
    tiles: list[_Tile], image: Tensor, maps: Tensor | None, progress: Progress
) -> Iterator[tuple[_Tile, Tensor]]:
    """Walk all tiles from mean to mean, side by side, and yield each with its result."""
    walks = [tile.walk(image, maps) for tile in tiles]
    rounds, sent = len(tiles[0].pauses), None
    for count in range(rounds):
        found = []
        for walk in walks:
            found.append(walk.send(sent))
            progress(count * len(tiles) + len(found), (rounds + 1) * len(tiles))
        sent = _pooled(found)
    for number, (tile, walk) in enumerate(zip(tiles, walks, strict=True)):
        yield tile, walk.send(sent)
        progress(rounds * len(tiles) + number + 1, (rounds + 1) * len(tiles))


def _pooled(parts: list[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor]:
    """Mean and variance of all cores together, float64 (C,): no squares of large numbers are subtracted."""
    pixels, means, variances = (torch.stack(column) for column in zip(*parts, strict=True))
    share = (pixels / pixels.sum())[:, None]
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean) ** 2)).sum(0)
