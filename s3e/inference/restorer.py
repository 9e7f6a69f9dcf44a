"""Trained networks at work on single photos of any size: restore and read them, pass weights on.

Maps and tree are always those of the whole photo, scaled to the size that the semantic branch was
trained at; the generator sees every pixel, of a large photo in overlapping tiles (specification
6.10).
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy import ndarray
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from s3e.captions.tree import NODE_NAMES, NULL
from s3e.config import Config
from s3e.data.corpus import Sizes, read_vocabulary, to_images, to_tensor
from s3e.data.photos import SHORTEST
from s3e.evaluation.images import PROTOCOL
from s3e.evaluation.score import STRIDE
from s3e.inference.photos import Photograph, check_folder, for_each, plan_results, write_photo
from s3e.models.build import build_model, load_weights
from s3e.models.encoders import GRID
from s3e.models.tree import LEAVES, TreeOutput
from s3e.utils import S3EError, atomic_write, disk_errors, read_json, say, tell, write_file

DEMONSTRATION = Path(__file__).parents[1] / "weights"
VOCABULARY = "01_data_blurring/all/vocabulary.json"
FINISHED = "05_co_training/full-s*/done.json"
NETWORKS = {  # part of the model -> variant or reader -> its weights in a store of runs
    "generator": {
        "baseline": "06_ablation/baseline-s{}/generator.safetensors",
        "full": "05_co_training/full-s{}/generator.safetensors",
    },
    "semantics": {
        "full": "05_co_training/full-s{}/semantics.safetensors",
        "captioner": "03_train_captioner/s{}/tree_captioner.safetensors",
    },
}
TILE = 1536  # pixels of a tile's side: about 0.6 GiB of memory at width 16
OVERLAP = 128  # pixels that neighbouring tiles share at least; there one fades into the other
FINEST = 4  # pixels a cell of the finest features that take maps
LONGEST = 16  # times the shorter side: a longer photo is squashed to this before it is read


@dataclass(frozen=True)
class Reading:
    """What a photo's tree and caption say.

    `tree`: the network's output, `features` 1 x C: the encoder's grid, averaged; `rankings`: of
    each node (leaf 1-4, node 5, node 6, root) all labels with their probabilities, the likeliest
    first ("null": an empty slot); `words` of the caption and `word_attention`: float32 (words, 7),
    how much each word attends to each node.
    """

    reader: str
    tree: TreeOutput
    features: Tensor
    rankings: list[list[tuple[str, float]]]
    words: list[str]
    word_attention: ndarray

    @property
    def caption(self) -> str:
        """The words in one string."""
        return " ".join(self.words)

    @property
    def nodes(self) -> list[str]:
        """The likeliest label of each node."""
        return [ranking[0][0] for ranking in self.rankings]

    @property
    def confidence(self) -> list[float]:
        """Probability of each node's label."""
        return [ranking[0][1] for ranking in self.rankings]

    @property
    def attention(self) -> ndarray:
        """Where each node looks: float32 (7, h, w), each map sums to 1."""
        return self.tree.attention[0].numpy()


class Restorer:
    """Trained networks for single photos: `restorer.restore(photo)`, `restorer.read(photo)`.

    They are those of the first seed of a store of runs, whole or exported. `variants` and `readers`
    are there; the networks themselves: `generator(variant)`, `semantics(reader)`.
    """

    def __init__(self, store: Path):
        ended = {
            int(done.parent.name.removeprefix("full-s")): done for done in store.glob(FINISHED)
        }
        if not ended:
            raise S3EError(
                f"{store}: no weights there; give a store of runs with a finished co-training, such"
                " as runs/laptop (made by: python run_all.py), or a folder made by `python -m s3e"
                " weights export`."
            )
        settings = read_json(ended[min(ended)].with_name("params.json"))["config"]
        self.config = Config.model_validate(settings)
        own = (store / VOCABULARY).is_file()  # or words, labels and captioner are of another store
        self.captioned = store if own else Path(settings["semantics_from"])
        vocabulary = (self.captioned / VOCABULARY).parent
        self.words, self.labels, self.max_words = read_vocabulary(vocabulary)
        self.store = store
        self.variants, self.readers = map(self._finished, NETWORKS.values())
        self.generator = cache(partial(self._network, "generator", self.variants))
        self.semantics = cache(partial(self._network, "semantics", self.readers))

    @classmethod
    def load(cls, folder: Path | str | None = None) -> "Restorer":
        """The demonstration weights, or those of a store ("runs/laptop") or an exported folder.

        Raises `S3EError` where there are no weights, or damaged ones (when they are first used).
        """
        store = Path(os.path.realpath(os.path.expanduser(folder or DEMONSTRATION)))
        try:
            return cls(store)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            why = " ".join((str(error) or type(error).__name__).split()[:12])
            remedy = "run the stages again, or restore the folder"
            raise S3EError(f"{store} is damaged or of another version ({why}): {remedy}.") from None

    @property
    def about(self) -> str:
        """What these weights are and what they are good for, in one sentence."""
        data, scenes = self.config.data, self.config.data.source == "scenes"
        seen = f"{Path(data.source).name} ({data.size} px, {self.config.blur.severity} blur)"
        use = ": they show how the method works and are of no use on photographs" if scenes else ""
        return f"Weights of the profile {self.config.profile}, trained on {seen}{use}."

    @torch.no_grad()
    def read(self, photo: ndarray, reader: str = "full") -> Reading:
        """Tree and caption of a photo, uint8 (H, W, 3) in any size.

        `reader`: "full" (co-trained on blurred photos) or "captioner" (before co-training, at home
        on sharp ones too); another raises `S3EError`. A photo longer than `LONGEST` times its
        shorter side is squashed to that before it is read.
        """
        source = self.semantics(reader)
        features = source.encoder(to_tensor(self._scaled(photo)[None]))
        return self._reading(reader, source.tree(features), features.mean((2, 3)))

    @torch.no_grad()
    def restore(
        self, photo: ndarray, variant: str = "full", maps: Tensor | None = None, tile: int = TILE
    ) -> ndarray:
        """The restored photo, uint8 (H, W, 3) like `photo`, by `variant` "full" or "baseline".

        `maps` (1 x 7 x D x h x w, as `reading.tree.maps` by "full") take the place of what the
        photo itself says; zeros switch a node off. A photo larger than `tile` pixels (0: never) is
        restored in tiles that fade into each other, with a progress bar. Raises `S3EError` for an
        unknown variant and a tile that `_cut` refuses.
        """
        _check(photo)
        generator = self.generator(variant)
        if variant == "full":
            maps = self.read(photo).tree.maps if maps is None else maps
            maps = maps.flatten(1, 2)
        height, width = photo.shape[:2]
        padding = (0, -width % STRIDE, 0, -height % STRIDE)
        image = F.pad(to_tensor(np.array(photo)[None]), padding, "reflect")
        # Each tile has statistics (normalisation, channel attention) of its own, as the patches of
        # the training had.
        tiles = list(product(*(_cut(side, tile) for side in image.shape[2:])))
        total, weights = torch.zeros_like(image), torch.zeros_like(image[:, :1])
        for rows, columns in tqdm(tiles, "tiles", leave=False, disable=len(tiles) == 1):
            piece = image[..., rows, columns]
            below = _maps_below(maps, photo, rows, columns) if variant == "full" else None
            restored = generator(piece, below)
            weight = torch.outer(_fade(rows), _fade(columns)) if len(tiles) > 1 else 1
            total[..., rows, columns] += weight * restored
            weights[..., rows, columns] += weight
        whole = total.div_(weights)[..., :height, :width]
        bands = whole.split(TILE, 2)  # doubles of a whole photo would take 2 GiB for 80 megapixels
        return np.concatenate([to_images(band)[0] for band in bands])

    @torch.no_grad()
    def swap(self, reading: Reading, first: int, second: int, places: bool = False) -> Reading:
        """A reading in which two leaves (0-3) have swapped their labels; all above them follows.

        Where a leaf looks, its map is moved by the difference of the two vectors. With `places`,
        the leaves then swap their maps, so that each keeps its label and has the other's place.
        """
        tree, maps = reading.tree, reading.tree.maps.clone()
        for leaf, other in ((first, second), (second, first)):
            light = tree.attention[0, leaf]
            apart = (tree.vectors[0, other] - tree.vectors[0, leaf])[:, None, None]
            moved = tree.maps[:, leaf] + apart * light / light.square().sum()
            maps[:, other if places else leaf] = moved.relu()
        tree = self.semantics(reading.reader).tree.grow(list(maps[:, :LEAVES].unbind(1)))
        return self._reading(reading.reader, tree, reading.features)

    def _reading(self, reader: str, tree: TreeOutput, features: Tensor) -> Reading:
        """What a tree's output amounts to, with the caption by beam search."""
        rankings = []
        for node, logits in enumerate([*tree.entity_logits[0], *tree.relation_logits[0]]):
            names = self.labels.entities if node < LEAVES else self.labels.relations
            shares, order = logits.softmax(-1).sort(descending=True, stable=True)
            labels = [names[place] for place in order.tolist()]
            rankings.append(list(zip(labels, shares.tolist(), strict=True)))
        decoder = self.semantics(reader).decoder
        context = torch.cat([tree.vectors[:, -1], features], 1)
        length = self.max_words + 2  # with its signs of begin and end
        ids = decoder.beam(context, tree.vectors, length, self.config.evaluation.beam)
        words = self.words.decode(ids[0].tolist()).split()
        heard = decoder.attend(ids, context, tree.vectors)[0, : len(words)].numpy()
        return Reading(reader, tree, features, rankings, words, heard)

    def _scaled(self, photo: ndarray) -> ndarray:
        """The photo, its shorter side of the training size, sides multiples of the stride."""
        _check(photo)
        size, step = self.config.data.size, self.config.data.size // GRID
        sides = np.array(photo.shape[:2])
        steps = np.round(sides * size / sides.min() / step)
        height, width = np.clip(steps * step, size, LONGEST * size).astype(int).tolist()
        return np.array(Image.fromarray(photo).resize((width, height), Image.Resampling.LANCZOS))

    def _finished(self, places: Mapping[str, str]) -> dict[str, Path]:
        """Those of the networks whose runs have ended, with their files."""
        found = {}
        for name, place in places.items():
            store = self.captioned if name == "captioner" else self.store
            file = store / place.format(self.config.seed)
            if file.with_name("done.json").is_file():
                found[name] = file
        return found

    def _network(self, part: str, files: Mapping[str, Path], name: str) -> nn.Module:
        """A part of the model with the weights of a variant or reader, ready for use."""
        if name not in files:
            raise S3EError(f"these weights have no '{name}'; choose one of {', '.join(files)}.")
        sizes = Sizes(len(self.words), len(self.labels.entities), len(self.labels.relations))
        model = build_model(self.config, sizes, "baseline" if name == "baseline" else "full")
        network = load_weights(getattr(model, part), files[name])
        return network.eval().requires_grad_(False)


def _check(photo: ndarray) -> None:
    given = np.asarray(photo)
    sides = given.shape[:2]
    if given.dtype != np.uint8 or given.shape != (*sides, 3) or min(sides) < SHORTEST:
        raise S3EError(
            f"a photo must be an array, uint8 (height, width, 3), with {SHORTEST} pixels or more at"
            f" each side, not {given.dtype} {given.shape}; s3e.read_photo(path).pixels reads any"
            " file so."
        )


def _cut(side: int, tile: int) -> list[slice]:
    """Tiles along a side (a multiple of `STRIDE`) with at least `OVERLAP` pixels in common."""
    if tile % STRIDE or 0 != tile < 2 * OVERLAP:
        sizes = f"a multiple of {STRIDE} from {2 * OVERLAP} pixels on"
        raise S3EError(f"tile = {tile}: give {sizes}, or 0 for one piece.")
    if not tile or side <= tile:
        return [slice(0, side)]
    starts = [*range(0, side - tile, tile - OVERLAP), side - tile]
    return [slice(start, start + tile) for start in starts]


def _fade(place: slice) -> Tensor:
    """Weights of a tile's pixels along one axis: falling towards its ends over `OVERLAP` pixels."""
    rising = torch.arange(1.0, place.stop - place.start + 1)
    return torch.minimum(rising, rising.flip(0)).clamp(max=OVERLAP)


def _maps_below(maps: Tensor, photo: ndarray, rows: slice, columns: slice) -> Tensor:
    """The part of a photo's maps (1 x M x h x w) below a tile, which may end beyond the photo."""
    (high, down), (wide, right) = (  # sides and middle of the tile; the photo's are 1 and 0
        ((part.stop - part.start) / side, (part.stop + part.start) / side - 1)
        for part, side in zip((rows, columns), photo.shape[:2], strict=True)
    )
    if high == wide == 1:
        return maps
    size = [(part.stop - part.start) // FINEST for part in (rows, columns)]
    if min(high, wide) >= 1:  # one piece
        size = maps.shape[2:]
    turn = maps.new_tensor([[[wide, 0, right], [0, high, down]]])
    grid = F.affine_grid(turn, [1, 1, *size], align_corners=False)
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)


def export_weights(store: Path, to: Path) -> int:
    """`python -m s3e weights export`: copy what photos need of a store to a new one; returns 0.

    A card (README.md) is added. Raises `S3EError` if `to` holds anything.
    """
    source = Restorer.load(store)
    check_folder(to)
    if to.exists() and any(to.iterdir()):
        raise S3EError(f"--to {to} holds files already: name a new or empty folder.")
    weights = [*source.readers.values(), *source.variants.values()]
    files = [source.captioned / VOCABULARY, source.variants["full"].with_name("params.json")]
    for name in ("provenance.json", "scores.csv", "done.json"):  # the last one last, as in a run
        files += [file.with_name(name) for file in weights]
    for file in filter(Path.is_file, [*weights, *files]):
        with atomic_write(to.joinpath(*file.parts[-3:])) as temporary:
            shutil.copyfile(file, temporary)
    parts = ["# Weights", source.about]
    for table in to.glob("*/*/scores.csv"):
        means = pd.read_csv(table).query("split == 'test'").groupby("severity", sort=False)
        parts += [f"## {table.parent.name}: means over the test images"]
        parts += [means.mean(numeric_only=True).to_markdown(floatfmt=".3f")]
    write_file(to / "README.md", "\n\n".join([*parts, PROTOCOL]) + "\n")
    tell(f"{to} is ready")
    return 0


def deblur_photos(
    photos: Sequence[Path],
    output: Path,
    overwrite: bool,
    weights: Path | None,
    variant: str,
    tile: int,
) -> int:
    """`python -m s3e deblur`: restore photos.

    Returns 0, or 1 where a photo could not be done. Raises `S3EError` for a wrong request, before
    any work.
    """
    jobs, problems = plan_results(photos, output, overwrite=overwrite)
    _cut(0, tile)
    restorer = Restorer.load(weights)
    restorer.generator(variant)  # damaged weights end the command here
    if variant == "full":
        restorer.semantics("full")
    say(restorer.about)

    def restore(photo: Photograph, result: Path) -> None:
        write_photo(restorer.restore(photo.pixels, variant, tile=tile), photo, result)
        tell(f"{result} ({', '.join(photo.notes)})" if photo.notes else result)

    return for_each(jobs, restore, problems)


def caption_photos(
    photos: Sequence[Path], weights: Path | None, tree: bool, json: Path | None
) -> int:
    """`python -m s3e caption`: print captions and trees of photos; `json`: a new file for all.

    Read by the captioner, which knows sharp photos as well as blurred ones; where the weights have
    none, by "full". Returns 0, or 1 where a photo could not be done. Raises `S3EError` for a wrong
    request, before any work.
    """
    if json:
        check_folder(json.parent)
        if os.path.lexists(json):
            raise S3EError(f"{json} is there already: remove it or name another file.")
    jobs, problems = plan_results(photos)
    restorer = Restorer.load(weights)
    reader = "captioner" if "captioner" in restorer.readers else "full"
    restorer.semantics(reader)
    say(restorer.about)
    if reader == "full":
        say("these weights have no captioner, so 'full' reads the photos")
    everything: dict[str, Any] = {}
    found = {"weights": restorer.about, "reader": reader, "photos": everything}

    def save() -> None:
        if json:
            with disk_errors(json, "free space, or name another file"):
                write_file(json, found)

    def read(photo: Photograph) -> None:
        reading = restorer.read(photo.pixels, reader)
        facts: dict[str, Any] = {"caption": reading.caption}
        tell(photo.path)
        tell(f"  caption  {reading.caption}")
        if tree:
            facts["tree"] = []
            nodes = zip(NODE_NAMES, reading.nodes, reading.confidence, strict=True)
            for node, label, share in nodes:
                facts["tree"].append({"node": node, "label": label, "probability": round(share, 4)})
                tell(f"  {node:<8} {'(empty)' if label == NULL else label} {share:.0%}")
        everything[str(photo.path)] = facts
        count = len(everything)
        if count % (count // 50 + 1) == 0:  # where a process is killed, 2 % are lost at most
            save()

    save()  # what cannot be written is said before any work
    try:
        return for_each(jobs, read, problems)
    finally:  # also of an interrupt
        save()
