"""S3E-Deblur: a semantic source whose maps are embedded, and a generator (specification 6.0).

Parts are passed in: an ablation swaps one source for another.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3e.config import GIVEN, Variant
from s3e.data.corpus import Batch
from s3e.models import roll
from s3e.models.encoders import GRID
from s3e.models.tree import LEAVES, NODES, TreeOutput


@dataclass(frozen=True)
class SemanticOutput:
    """What a semantic source reads in a batch; None where it has no such thing."""

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

    def forward(self, image: Tensor) -> SemanticOutput:
        features = self.encoder(image)  # B x C x 16 x 16
        tree = self.tree(features)  # maps B x 7 x D x 16 x 16
        context = torch.cat([tree.vectors[:, -1], features.mean((2, 3))], 1)
        return SemanticOutput(tree.maps.flatten(1, 2), tree, context, tree.vectors, features)


class TreelessSemantics(nn.Module):
    """Encoder and caption decoder without a tree.

    `spatial`: the feature grid, soft attention over cells, and `flat_spatial` (space without
    structure). Else one vector that starts the decoder, broadcast over the grid: the NIC captioner
    and `global_caption`.
    """

    def __init__(self, *, encoder: nn.Module, map_channels: int, decoder: nn.Module, spatial: bool):
        super().__init__()
        self.encoder, self.decoder, self.spatial = encoder, decoder, spatial
        sizes = encoder.channels, map_channels
        layer = nn.Conv2d(*sizes, 3, padding=1) if spatial else nn.Linear(*sizes)
        self.maps = nn.Sequential(layer, nn.ReLU())

    def forward(self, image: Tensor) -> SemanticOutput:
        features = self.encoder(image)
        if self.spatial:
            cells = features.flatten(2).transpose(1, 2)  # B x 256 x C
            return SemanticOutput(self.maps(features), None, features.mean((2, 3)), cells, features)
        vector = self.maps(features.mean((2, 3)))  # B x M
        maps = vector[..., None, None].expand(-1, -1, *features.shape[2:])
        return SemanticOutput(maps, None, vector, None, features)


class Given(nn.Module):
    """Maps of a batch that nothing is learned for, with M = `map_channels`.

    kind "labels": the true label map, one-hot and averaged over each grid cell, the strongest
    oracle (scenes only). "silhouettes": the same of all things together: where something is, but
    not what.
    """

    def __init__(self, *, kind: str, map_channels: int):
        super().__init__()
        self.kind, self.map_channels = kind, map_channels

    def forward(self, batch: Batch) -> SemanticOutput:
        labels = batch.label_map if self.kind == "labels" else batch.label_map > 0
        onehot = F.one_hot(labels.long(), self.map_channels).permute(0, 3, 1, 2).float()
        return SemanticOutput(F.adaptive_avg_pool2d(onehot, GRID))


class Labels(nn.Module):
    """The tree that a batch is `told` as learned label vectors, M = 7 D: what, without where.

    `counts` of entities and relations; the first vector of each is that of all labels out of
    vocabulary. A node's vector is the same in every grid cell.
    """

    def __init__(self, *, width: int, counts: tuple[int, int]):
        super().__init__()
        self.vectors = nn.ModuleList(nn.Embedding(1 + count, width) for count in counts)

    def forward(self, batch: Batch) -> SemanticOutput:
        rows = (batch.told + 1).clamp_min(0).split([LEAVES, NODES - LEAVES], 1)  # IGNORE -> 0
        parts = [table(row) for table, row in zip(self.vectors, rows, strict=True)]
        maps = torch.cat(parts, 1).flatten(1)  # B x 7 D
        return SemanticOutput(maps[..., None, None].expand(-1, -1, GRID, GRID))


class S3EDeblur(nn.Module):
    """Restore a batch with the help of what it shows.

    `semantics`: the source; None is the deblurrer alone. `rules.view`: which image it reads,
    "blurred" or "sharp" (kinds of `GIVEN` get the whole batch). `rules.shuffled` embeds the maps of
    another image of the batch; `rules.detached` keeps the deblurring loss out of the source.
    """

    def __init__(self, *, generator: nn.Module, semantics: nn.Module | None, rules: Variant):
        super().__init__()
        self.generator, self.semantics, self.rules = generator, semantics, rules

    def read(self, batch: Batch) -> SemanticOutput | None:
        """What the source reads in a batch (never shuffled: captions and trees stay their own)."""
        if self.semantics is None:
            return None
        given = self.rules.kind in GIVEN
        return self.semantics(batch if given else getattr(batch, self.rules.view))

    def restore(self, blurred: Tensor, read: SemanticOutput | None) -> Tensor:
        """Blurred B x 3 x H x W in [-1, 1] -> restored, with the maps of what was read embedded."""
        maps = None if read is None else self.embedded_maps(read).to(blurred.dtype)
        return self.generator(blurred, maps)

    def embedded_maps(self, read: SemanticOutput) -> Tensor:
        """The maps B x M x 16 x 16 that the generator gets; `shuffled`: of the image before it."""
        maps = read.maps.detach() if self.rules.detached else read.maps
        if not self.rules.shuffled:
            return maps
        return roll(maps) if self.training else maps.roll(1, 0)  # over all processes in training

    def forward(self, batch: Batch) -> tuple[Tensor, SemanticOutput | None]:
        read = self.read(batch)
        return self.restore(batch.blurred, read), read
