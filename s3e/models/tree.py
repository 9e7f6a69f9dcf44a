"""The structured-spatial semantic tree: seven nodes, each a feature map (specification 6.3)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from s3e.models import BatchNorm1d
from s3e.models.encoders import conv_block

LEAVES, NODES = 4, 7


@dataclass(frozen=True)
class TreeOutput:
    """What the tree predicts of a batch; nodes in the order leaves 1-4, sub-relations 5 and 6,
    root.
    """

    maps: Tensor  # B x 7 x D x h x w
    vectors: Tensor  # B x 7 x D: the maps, pooled by attention
    attention: Tensor  # B x 7 x h x w, sums to 1 over a map
    entity_logits: Tensor  # B x 4 x E, class 0 is NULL
    relation_logits: Tensor  # B x 3 x R, class 0 is NULL


def predicted_nodes(tree: TreeOutput) -> Tensor:
    """Most likely class of each node: B x 7."""
    return torch.cat([tree.entity_logits.argmax(-1), tree.relation_logits.argmax(-1)], 1)


class AttentionPool(nn.Module):
    """x = sum over the grid of softmax(w^T tanh(W X)) X, the same W and w at every node."""

    def __init__(self, width: int):
        super().__init__()
        hidden, score = nn.Conv2d(width, width, 1, bias=False), nn.Conv2d(width, 1, 1, bias=False)
        self.score = nn.Sequential(hidden, nn.Tanh(), score)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        batch, nodes, _, height, width = maps.shape
        scores = self.score(maps.flatten(0, 1)).view(batch, nodes, height * width)
        attention = scores.softmax(-1)  # B x 7 x hw
        vectors = torch.einsum("bnp,bndp->bnd", attention, maps.flatten(3))
        return vectors, attention.view(batch, nodes, height, width)


class NodeClassifiers(nn.Module):
    """One entity classifier for the leaves, one relation classifier for the nodes above."""

    def __init__(self, width: int, entities: int, relations: int):
        super().__init__()
        self.entity = nn.Linear(width, entities)
        self.relation = nn.Linear(width, relations)

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        return self.entity(vectors[:, :LEAVES]), self.relation(vectors[:, LEAVES:])


class Nodes(nn.Module):
    """The blocks of seven nodes: each leaf has its own, a parent reads its two children through
    one.
    """

    def __init__(self, block: Callable[[int, int], nn.Module], channels: int, width: int):
        super().__init__()
        self.leaves = nn.ModuleList(block(channels, width) for _ in range(LEAVES))
        self.sub_relations = nn.ModuleList([block(2 * width, width)])  # shared by nodes 5 and 6
        self.root = block(2 * width, width)
        self.width = width

    def parents(self, leaves: list[Tensor]) -> Tensor:
        """Four leaves, B x D (x h x w) each -> all nodes, B x 7 x D (x h x w)."""
        node5 = self.sub_relations[0](torch.cat(leaves[:2], 1))
        node6 = self.sub_relations[0](torch.cat(leaves[2:], 1))
        root = self.root(torch.cat([node5, node6], 1))
        return torch.stack([*leaves, node5, node6, root], 1)


class S3Tree(Nodes):
    """V (B x C x h x w) -> `TreeOutput`: every node is a 3x3 convolution, of V (leaves) or of its
    children.
    """

    def __init__(
        self,
        *,
        channels: int,
        width: int,
        entities: int,
        relations: int,
    ):
        super().__init__(conv_block, channels, width)
        self.pool = AttentionPool(width)
        self.classify = NodeClassifiers(width, entities, relations)

    def forward(self, features: Tensor) -> TreeOutput:
        return self.grow([block(features) for block in self.leaves])

    def grow(self, leaves: list[Tensor]) -> TreeOutput:
        """The tree over four given leaf maps, each B x D x h x w."""
        maps = self.parents(leaves)  # B x 7 x D x h x w
        vectors, attention = self.pool(maps)
        return TreeOutput(maps, vectors, attention, *self.classify(vectors))


def _linear_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), BatchNorm1d(outputs), nn.ReLU())


class VectorTree(Nodes):
    """The tree of the StructCap lineage: global-average V, fully connected nodes, no space
    (ablation `vector_nodes`).

    Its `maps` are the node vectors broadcast over the grid, its attention is uniform.
    """

    def __init__(
        self,
        *,
        channels: int,
        width: int,
        entities: int,
        relations: int,
    ):
        super().__init__(_linear_block, channels, width)
        self.classify = NodeClassifiers(width, entities, relations)

    def forward(self, features: Tensor) -> TreeOutput:
        size = features.shape[2:]
        pooled = features.mean((2, 3))
        vectors = self.parents([block(pooled) for block in self.leaves])  # B x 7 x D
        maps = vectors[..., None, None].expand(-1, -1, -1, *size)
        attention = vectors.new_full((len(features), NODES, *size), 1 / size.numel())
        return TreeOutput(maps, vectors, attention, *self.classify(vectors))
