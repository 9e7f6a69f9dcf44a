"""S3E-Deblur: a semantic source, whose maps are embedded, and a generator (specification 6.0);
parts are passed in.

An ablation swaps one source for another.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3e.data.corpus import Batch
from s3e.models import roll
from s3e.models.encoders import GRID
from s3e.models.tree import TreeOutput


@dataclass(frozen=True)
class Semantics:
    """What a source reads in a batch; None where it has no such thing."""

    maps: Tensor  # B x M x 16 x 16, embedded into the generator
    tree: TreeOutput | None = None  # for L_tree
    context: Tensor | None = None  # B x F, starts the caption decoder
    items: Tensor | None = None  # B x K x I, attended by the caption decoder
    features: Tensor | None = None  # B x C x 16 x 16, the encoder's grid V


class TreeSemantics(nn.Module):
    """Encoder, S3-tree (or vector tree) and caption decoder; M = [X_1; ...; X_7]."""

    def __init__(self, *, encoder: nn.Module, tree: nn.Module, decoder: nn.Module):
        super().__init__()
        self.encoder, self.tree, self.decoder = encoder, tree, decoder

    def forward(self, image: Tensor) -> Semantics:
        features = self.encoder(image)  # B x C x 16 x 16
        tree = self.tree(features)  # maps B x 7 x D x 16 x 16
        context = torch.cat([tree.vectors[:, -1], features.mean((2, 3))], 1)
        return Semantics(tree.maps.flatten(1, 2), tree, context, tree.vectors, features)


class GlobalSemantics(nn.Module):
    """One vector that starts the caption decoder, broadcast over the grid: the NIC captioner and
    `global_caption`.
    """

    def __init__(self, *, encoder: nn.Module, map_channels: int, decoder: nn.Module):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.vector = nn.Sequential(nn.Linear(encoder.channels, map_channels), nn.ReLU())

    def forward(self, image: Tensor) -> Semantics:
        features = self.encoder(image)
        vector = self.vector(features.mean((2, 3)))  # B x M
        maps = vector[..., None, None].expand(-1, -1, *features.shape[2:])
        return Semantics(maps, None, vector, None, features)


class FlatSemantics(nn.Module):
    """The feature grid without a tree: soft attention over cells, and `flat_spatial` (space without
    structure).
    """

    def __init__(self, *, encoder: nn.Module, map_channels: int, decoder: nn.Module):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        conv = nn.Conv2d(encoder.channels, map_channels, 3, padding=1)
        self.maps = nn.Sequential(conv, nn.ReLU())

    def forward(self, image: Tensor) -> Semantics:
        features = self.encoder(image)
        cells = features.flatten(2).transpose(1, 2)  # B x 256 x C
        return Semantics(self.maps(features), None, features.mean((2, 3)), cells, features)


class NoiseMaps(nn.Module):
    """Standard normal maps of the same shape: a control for the extra parameters of the
    embedding.
    """

    def __init__(self, *, map_channels: int):
        super().__init__()
        self.map_channels = map_channels

    def forward(self, batch: Batch) -> Semantics:
        return Semantics(batch.normal("noise", self.map_channels, GRID, GRID))


class LabelMaps(nn.Module):
    """The true label map, one-hot and averaged over each grid cell: the strongest oracle, on scenes
    only.

    With two classes it is the silhouette of all things (label > 0): where something is, but not
    what.
    """

    def __init__(self, *, classes: int):
        super().__init__()
        self.classes = classes

    def forward(self, labels: Tensor) -> Semantics:
        labels = (labels > 0) if self.classes == 2 else labels
        onehot = F.one_hot(labels.long(), self.classes).permute(0, 3, 1, 2).float()
        return Semantics(F.adaptive_avg_pool2d(onehot, GRID))


# what a source reads of a batch
VIEWS: dict[str, Callable[[Batch], Tensor | Batch]] = {
    "blurred": lambda batch: batch.blurred,
    "sharp": lambda batch: batch.sharp,
    "labels": lambda batch: batch.labels,
    "silhouettes": lambda batch: batch.labels,
    "noise": lambda batch: batch,
}


class S3EDeblur(nn.Module):
    """Restore a batch with the help of what it shows.

    `view` names what the semantic source reads. `shuffled` embeds the maps of another image of the
    batch; `detach` keeps the deblurring loss out of the semantic source; `semantics=None` is the
    deblurrer alone.
    """

    def __init__(
        self, *, generator: nn.Module, semantics: nn.Module | None = None, view: str = "blurred",
        shuffled: bool = False, detach: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.generator, self.semantics = generator, semantics
        self.view, self.shuffled, self.detach = view, shuffled, detach

    def read(self, batch: Batch) -> Semantics | None:
        """The semantics of a batch, as the source sees it (never shuffled: captions and trees stay
        their own).
        """
        return None if self.semantics is None else self.semantics(VIEWS[self.view](batch))

    def restore(self, blurred: Tensor, semantics: Semantics | None) -> Tensor:
        """Blurred B x 3 x H x W in [-1, 1] -> restored, with the maps of `semantics` embedded."""
        maps = None if semantics is None else self.embedded_maps(semantics).to(blurred.dtype)
        return self.generator(blurred, maps)

    def embedded_maps(self, semantics: Semantics) -> Tensor:
        """The maps B x M x 16 x 16 that the generator gets: those of the image before it, where
        `shuffled`.
        """
        maps = semantics.maps.detach() if self.detach else semantics.maps
        if not self.shuffled:
            return maps
        return roll(maps) if self.training else maps.roll(1, 0)  # over all processes in training

    def forward(self, batch: Batch) -> tuple[Tensor, Semantics | None]:
        semantics = self.read(batch)
        return self.restore(batch.blurred, semantics), semantics
