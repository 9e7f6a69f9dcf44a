"""Read and restore one photo of any size with trained networks: the suite's door for users.

Maps and tree are always those of the whole photo, scaled to the size that the semantic branch was trained at; the
generator sees every pixel (specification 6.10).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from s3e.captions.tree import EOS
from s3e.config import VARIANTS
from s3e.data.corpus import to_images, to_tensor
from s3e.data.photos import SHORTEST
from s3e.evaluation.score import STRIDE
from s3e.inference import bundle, memory
from s3e.inference.tiles import halo, run_tiled
from s3e.models.build import build_generator, build_semantics, load_weights, map_channels
from s3e.models.encoders import GRID
from s3e.models.tree import LEAVES, S3Tree, TreeOutput
from s3e.utils import S3EError

TILE = 768  # pixels of a tile's side: a 12-megapixel photo stays below 4 GiB
LONGEST = 16  # times the shorter side: a longer photo is squashed to this before it is read


@dataclass(frozen=True)
class Reading:
    """What a photo's tree and caption say.

    `nodes`: seven labels, leaf 1-4, node 5, node 6, root ("null": an empty slot); `probabilities`: of every label, a
    list of seven arrays; `attention`: float32 (7, h, w), each map sums to 1; `maps`: the node maps 1 x 7 x D x h x w;
    `words` of the caption and `word_attention`: float32 (words, 7), how much each word hears of each node.
    """

    nodes: tuple[str, ...]
    probabilities: list[np.ndarray]
    attention: np.ndarray
    maps: Tensor
    words: list[str]
    word_attention: np.ndarray
    vectors: Tensor  # 1 x 7 x D
    features: Tensor  # 1 x C: the encoder's grid, averaged
    names: tuple[list[str], list[str]]  # labels of entities and of relations
    reader: str  # who read: one of `Restorer.readers`

    @property
    def caption(self) -> str:
        """The words in one string."""
        return " ".join(self.words)

    @property
    def confidence(self) -> np.ndarray:
        """Probability of each node's label: float (7,)."""
        return np.array([row.max() for row in self.probabilities])

    def ranking(self, node: int, k: int = 3) -> list[tuple[str, float]]:
        """The `k` most likely labels of a node (0-6) with their probabilities."""
        row, names = self.probabilities[node], self.names[node >= LEAVES]
        return [(names[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:k]]


class Restorer:
    """Trained networks for single photos: `restorer.restore(photo)`, `restorer.read(photo)`.

    `arms`: deblurrers ("full", "baseline"); `readers`: who reads a photo: "full" (co-trained on blurred photos) or
    "captioner" (before co-training, at home on sharp photos too); `about`: what these weights are good for. The
    networks themselves: `generator(arm)`, `semantics(reader)`.
    """

    def __init__(self, source: bundle.Bundle, device: str = "cpu"):
        self.source, self.device = source, device
        self.config, self.words, self.labels, self.about = (
            source.config,
            source.words,
            source.labels,
            source.about,
        )
        self.arms = tuple(
            name for name in ("baseline", "full") if f"{name}-generator" in source.files
        )
        self.readers = tuple(
            name for name in ("full", "captioner") if f"{name}-semantics" in source.files
        )
        self.generator, self.semantics = cache(self._load_generator), cache(self._load_semantics)

    @classmethod
    def load(cls, folder: Path | str | None = None, device: str = "cpu") -> "Restorer":
        """The demonstration weights, or those of a finished store of runs ("runs/laptop") or an exported folder.

        Raises `S3EError` where there are no weights, or damaged ones (when they are first used).
        """
        return cls(bundle.find(folder), device)

    @torch.no_grad()
    def read(self, photo: np.ndarray, reader: str = "full") -> Reading:
        """Tree and caption of a photo, uint8 (H, W, 3) in any size. Raises `S3EError` for an unknown reader.

        A photo longer than `LONGEST` times its shorter side is squashed to that before it is read.
        """
        source = self.semantics(reader)
        features = source.encoder(_tensor(self._scaled(photo)).to(self.device))
        return self._told(reader, source.tree(features), features.mean((2, 3)))

    @torch.no_grad()
    def restore(
        self, photo: np.ndarray, arm: str = "full", *, reading: Reading | None = None, maps: Tensor | None = None,
        tile: int = TILE, statistics: str = "whole", progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:  # fmt: skip
        """The restored photo, uint8 (H, W, 3) like `photo`.

        `reading` (by "full") and `maps` (1 x 7 x D x h x w) take the place of what the photo itself says; zeros switch
        a node off. `tile`, `statistics`, `progress`: see `s3e.inference.tiles.run_tiled`. Raises `S3EError` for an
        unknown arm, a reading by another than "full", and a photo that does not fit into memory.
        """
        generator = self.generator(arm)
        _check(photo)
        _by_full(reading)
        height, width = photo.shape[:2]
        image = F.pad(_tensor(photo), (0, -width % STRIDE, 0, -height % STRIDE), "reflect").to(
            self.device
        )
        if arm == "baseline":
            maps = None
        elif maps is None:
            maps = (reading or self.read(photo)).maps
        self._fit(generator, tuple(image.shape[2:]), tile, statistics)
        embedded = (
            None
            if maps is None
            else _widened(maps.to(self.device).flatten(1, 2), photo.shape, image.shape)
        )
        restored = run_tiled(
            generator, image, embedded, tile=tile, statistics=statistics, progress=progress
        )
        return to_images(restored[:, :, :height, :width])[0]

    @torch.no_grad()
    def relabel(self, reading: Reading, leaf: int, label: str) -> Reading:
        """A reading by "full" in which one leaf (0-3) shows another entity; the tree itself reads the edit again.

        Where the leaf looks, its map is moved towards the mean vector that this entity has in this leaf
        (`bundle.leaf_prototypes`), up to six times as far where the tree does not name it before; the result's `nodes`
        tell whether it does. Sub-relation, root and caption follow. Raises `S3EError` for an unknown leaf, and for a
        label that is not in `editable`. (Specification 6.10.)
        """
        if leaf not in range(LEAVES) or label not in self.labels.entities:
            raise S3EError(
                f"relabel: leaf {leaf} (0-3) or label '{label}' is unknown; see restorer.labels.entities."
            )
        _by_full(reading)
        source, wanted = self.semantics("full"), self.labels.entities.index(label)
        target = torch.from_numpy(self._prototypes[leaf, wanted]).to(self.device)
        if label not in self.editable:
            raise S3EError(
                f"relabel: none of the first {bundle.SEEN} training photos shows '{label}', so its look is unknown; "
                "choose one of restorer.editable."
            )
        weight = torch.from_numpy(reading.attention[leaf] / reading.attention[leaf].max()).to(
            self.device
        )
        move = (target - reading.vectors[0, leaf])[:, None, None] * weight
        for strength in (1.0, 1.5, 2.0, 3.0, 4.0, 6.0):
            leaves = reading.maps[0, :LEAVES].clone()
            leaves[leaf] = (leaves[leaf] + strength * move).relu()
            tree = _grown(source.tree, leaves)
            if int(tree.entity_logits[0, leaf].argmax()) == wanted:
                break
        return self._told("full", tree, reading.features)

    def _told(self, reader: str, tree: TreeOutput, features: Tensor) -> Reading:
        """The reading that a tree's output amounts to, with the caption by beam search."""
        source, logits = self.semantics(reader), [*tree.entity_logits[0], *tree.relation_logits[0]]
        probabilities = [row.softmax(-1).cpu().numpy() for row in logits]
        names = (self.labels.entities, self.labels.relations)
        nodes = tuple(
            names[node >= LEAVES][int(row.argmax())] for node, row in enumerate(probabilities)
        )
        context = torch.cat([tree.vectors[:, -1], features], 1)
        ids = source.decoder.beam(
            context, tree.vectors, self.source.longest, self.config.evaluation.beam
        )
        said = [i for i in ids[0].tolist() if i >= EOS]
        said = said[: said.index(EOS)] if EOS in said else said
        heard = source.decoder.attend(ids, context, tree.vectors)[0, : len(said)]
        return Reading(
            nodes=nodes, probabilities=probabilities, attention=tree.attention[0].cpu().numpy(), maps=tree.maps,
            words=[self.words.words[i] for i in said], word_attention=heard.cpu().numpy(), vectors=tree.vectors,
            features=features, names=names, reader=reader,
        )  # fmt: skip

    def _scaled(self, photo: np.ndarray) -> np.ndarray:
        """The photo with its shorter side at the training size and its longer one a multiple of the encoder's stride.

        A photo of the training size stays as it is; beyond `LONGEST` times the shorter side the longer one is squashed.
        """
        _check(photo)
        size, shorter = self.config.data.size, min(photo.shape[:2])
        step = size // GRID
        scaled = (max(size, round(side * size / shorter / step) * step) for side in photo.shape[:2])
        height, width = (min(side, LONGEST * size) for side in scaled)
        if (height, width) == photo.shape[:2]:
            return photo
        return np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.LANCZOS))

    @cached_property
    def _prototypes(self) -> np.ndarray:
        return bundle.prototypes(self.source, self.semantics("full"))

    @cached_property
    def editable(self) -> tuple[str, ...]:
        """Entities whose look is known, so that `relabel` can give them to a leaf (of a store: found by reading)."""
        known = np.isfinite(self._prototypes).all((0, 2))
        return tuple(label for label, here in zip(self.labels.entities, known, strict=True) if here)

    def _fit(
        self, generator: nn.Module, shape: tuple[int, int], tile: int, statistics: str
    ) -> None:
        """Raise `S3EError` if restoring a photo of `shape` (H, W) does not fit into the machine's memory."""
        if self.device == "cpu" and max(shape) > TILE:
            width = self.config.model.generator_width
            memory.check(shape, memory.needed(shape, width, halo(generator), tile, statistics))

    def _load_generator(self, arm: str) -> nn.Module:
        _known(arm, self.arms, "arm")
        maps = map_channels(self.config, self.source, VARIANTS[arm].semantics)
        return self._weighted(build_generator(self.config, maps), f"{arm}-generator")

    def _load_semantics(self, reader: str) -> nn.Module:
        _known(reader, self.readers, "reader")
        return self._weighted(
            build_semantics(self.config, self.source, "tree"), f"{reader}-semantics"
        )

    def _weighted(self, network: nn.Module, name: str) -> nn.Module:
        load_weights(network, self.source.files[name])
        return network.to(self.device).eval().requires_grad_(False)


def _known(name: str, names: tuple[str, ...], what: str) -> str:
    if name not in names:
        raise S3EError(f"these weights have no {what} '{name}'; choose one of {', '.join(names)}.")
    return name


def _by_full(reading: Reading | None) -> None:
    if reading is not None and reading.reader != "full":
        raise S3EError(
            f"the reading is by '{reading.reader}', which no deblurrer knows: give one by 'full'."
        )


def _check(photo: np.ndarray) -> None:
    if not isinstance(photo, np.ndarray):
        raise S3EError(
            f"a photo must be an array, not {type(photo).__name__}; s3e.read_photo(path).pixels reads a file."
        )
    if (
        photo.dtype != np.uint8
        or photo.ndim != 3
        or photo.shape[2] != 3
        or min(photo.shape[:2]) < SHORTEST
    ):
        raise S3EError(
            f"a photo must be uint8 (height, width, 3) with {SHORTEST} pixels or more at each side, not {photo.dtype} "
            f"{photo.shape}; s3e.read_photo(path).pixels reads any file so."
        )


def _tensor(photo: np.ndarray) -> Tensor:
    """uint8 (H, W, 3), read-only or not -> float32 1 x 3 x H x W in [-1, 1]."""
    return to_tensor(np.array(photo)[None])


def _widened(maps: Tensor, photo: tuple[int, ...], padded: tuple[int, ...]) -> Tensor:
    """Maps B x M x h x w that cover `photo` (H, W, 3), continued so that they cover the picture `padded` to strides."""
    scale = padded[2] / photo[0], padded[3] / photo[1]
    if scale == (1.0, 1.0):
        return maps
    turn = maps.new_tensor([[[scale[1], 0.0, scale[1] - 1], [0.0, scale[0], scale[0] - 1]]])
    places = F.affine_grid(turn, [1, 1, *maps.shape[2:]], align_corners=False)
    return F.grid_sample(maps, places, padding_mode="border", align_corners=False)


def _grown(tree: S3Tree, leaves: Tensor) -> TreeOutput:
    """The tree over four given leaf maps, 4 x D x h x w."""
    pairs = (leaves[:2], leaves[2:])
    subs = [
        conv(pair.flatten(0, 1)[None]) for conv, pair in zip(tree.sub_relations, pairs, strict=True)
    ]
    root = tree.root(torch.cat(subs, 1))
    maps = torch.stack([*leaves[:, None], *subs, root], 1)
    vectors, attention = tree.pool(maps)
    return TreeOutput(maps, vectors, attention, *tree.classify(vectors))
