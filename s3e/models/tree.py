"""The structured-spatial semantic tree: seven nodes, each a feature map (specification 6.3)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from s3e.models import BatchNorm
from s3e.models.encoders import conv_block

LEAVES, NODES = 4, 7


@dataclass(frozen=True)
class TreeOutput:
    """What the tree predicts of a batch; nodes in the order leaves 1-4, relations 5 and 6, root."""

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


def _linear_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), BatchNorm(outputs), nn.ReLU())


class S3Tree(nn.Module):
    """V (B x C x h x w) -> `TreeOutput`: every node is a 3x3 convolution, of V (leaves) or of its
    two children; nodes 5 and 6 share theirs.

    Without `spatial` it is the tree of the StructCap lineage (ablation `vector_nodes`): the mean of
    V, fully connected nodes, no space; maps are node vectors broadcast over the grid, attention is
    uniform.
    """

    def __init__(self, *, channels: int, width: int, entities: int, relations: int, spatial: bool):
        super().__init__()
        block = conv_block if spatial else _linear_block
        self.leaves = nn.ModuleList(block(channels, width) for _ in range(LEAVES))
        self.sub_relations = nn.ModuleList([block(2 * width, width)])
        self.root = block(2 * width, width)
        self.pool = AttentionPool(width) if spatial else None
        self.classify = nn.ModuleDict(
            {"entity": nn.Linear(width, entities), "relation": nn.Linear(width, relations)}
        )

    def forward(self, features: Tensor) -> TreeOutput:
        seen = features if self.pool else features.mean((2, 3))
        return self.grow([leaf(seen) for leaf in self.leaves], features.shape[2:])

    def grow(self, leaves: list[Tensor], grid: tuple[int, int] | None = None) -> TreeOutput:
        """The tree over four given leaves, each B x D x h x w (or B x D, and the `grid` h, w)."""
        nodes = self.parents(leaves)
        if self.pool:
            maps, (vectors, attention) = nodes, self.pool(nodes)
        else:
            maps, vectors = nodes[..., None, None].expand(-1, -1, -1, *grid), nodes
            attention = nodes.new_full((*nodes.shape[:2], *grid), 1 / (grid[0] * grid[1]))
        entities = self.classify.entity(vectors[:, :LEAVES])
        relations = self.classify.relation(vectors[:, LEAVES:])
        return TreeOutput(maps, vectors, attention, entities, relations)

    def parents(self, leaves: list[Tensor]) -> Tensor:
        """Four leaves, B x D (x h x w) each -> all nodes, B x 7 x D (x h x w)."""
        node5 = self.sub_relations[0](torch.cat(leaves[:2], 1))
        node6 = self.sub_relations[0](torch.cat(leaves[2:], 1))
        root = self.root(torch.cat([node5, node6], 1))
        return torch.stack([*leaves, node5, node6, root], 1)
