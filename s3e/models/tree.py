"""The structured-spatial semantic tree: seven nodes, each a feature map (specification 6.3)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from s3e.models import BatchNorm1d
from s3e.models.encoders import conv_block

LEAVES, NODES = 4, 7


@dataclass(frozen=True)
class TreeOutput:
    """What the tree says of a photo.

    maps B x 7 x D x h x w; vectors B x 7 x D (attention-pooled); attention B x 7 x h x w (sums to 1 over a map);
    entity_logits B x 4 x E and relation_logits B x 3 x R (class 0 is NULL). Nodes: leaves 1-4, sub-relations, root.
    """

    maps: Tensor
    vectors: Tensor
    attention: Tensor
    entity_logits: Tensor
    relation_logits: Tensor


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
        batch, nodes, width, height, breadth = maps.shape
        scores = self.score(maps.flatten(0, 1)).view(batch, nodes, height * breadth)
        attention = scores.softmax(-1)
        vectors = torch.einsum("bnp,bndp->bnd", attention, maps.flatten(3))
        return vectors, attention.view(batch, nodes, height, breadth)


class NodeClassifiers(nn.Module):
    """One entity classifier for the leaves, one relation classifier for the nodes above."""

    def __init__(self, width: int, entities: int, relations: int):
        super().__init__()
        self.entity = nn.Linear(width, entities)
        self.relation = nn.Linear(width, relations)

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        return self.entity(vectors[:, :LEAVES]), self.relation(vectors[:, LEAVES:])


class S3Tree(nn.Module):
    """V (B x C x h x w) -> `TreeOutput`: a leaf has its own 3x3 convolution of V, a parent convolves its children."""

    def __init__(
        self,
        *,
        channels: int,
        width: int,
        entities: int,
        relations: int,
        share_sub_relations: bool = True,
    ):
        super().__init__()
        self.leaves = nn.ModuleList(conv_block(channels, width) for _ in range(LEAVES))
        left = conv_block(2 * width, width)
        self.sub_relations = nn.ModuleList(
            [left, left if share_sub_relations else conv_block(2 * width, width)]
        )
        self.root = conv_block(2 * width, width)
        self.pool = AttentionPool(width)
        self.classify = NodeClassifiers(width, entities, relations)
        self.width = width

    def forward(self, features: Tensor) -> TreeOutput:
        leaf = [conv(features) for conv in self.leaves]
        subs = [
            conv(torch.cat(pair, 1))
            for conv, pair in zip(self.sub_relations, (leaf[:2], leaf[2:]), strict=True)
        ]
        maps = torch.stack([*leaf, *subs, self.root(torch.cat(subs, 1))], dim=1)
        vectors, attention = self.pool(maps)
        return TreeOutput(maps, vectors, attention, *self.classify(vectors))


class VectorTree(nn.Module):
    """The tree of the StructCap lineage: global-average V, fully connected nodes, no space.

    Its `maps` are the node vectors broadcast over the grid, its attention is uniform (ablation `vector_nodes`).
    """

    def __init__(
        self,
        *,
        channels: int,
        width: int,
        entities: int,
        relations: int,
        share_sub_relations: bool = True,
    ):
        super().__init__()

        def node(inputs: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(inputs, width), BatchNorm1d(width), nn.ReLU())

        self.leaves = nn.ModuleList(node(channels) for _ in range(LEAVES))
        left = node(2 * width)
        self.sub_relations = nn.ModuleList([left, left if share_sub_relations else node(2 * width)])
        self.root = node(2 * width)
        self.classify = NodeClassifiers(width, entities, relations)
        self.width = width

    def forward(self, features: Tensor) -> TreeOutput:
        pooled = features.mean((2, 3))
        leaf = [layer(pooled) for layer in self.leaves]
        subs = [
            layer(torch.cat(pair, 1))
            for layer, pair in zip(self.sub_relations, (leaf[:2], leaf[2:]), strict=True)
        ]
        vectors = torch.stack([*leaf, *subs, self.root(torch.cat(subs, 1))], dim=1)
        size = features.shape[2:]
        attention = vectors.new_full((len(features), NODES, *size), 1 / size.numel())
        maps = vectors[..., None, None].expand(-1, -1, -1, *size)
        return TreeOutput(maps, vectors, attention, *self.classify(vectors))
