"""Trained networks at work on single photos of any size: restore them, read their trees and
captions, pass weights on.

Maps and tree are always those of the whole photo, scaled to the size that the semantic branch was
trained at; the generator sees every pixel, of a large photo in overlapping tiles (specification
6.10).
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from s3e.captions.tree import NODE_NAMES, NULL, TreeVocabulary, Vocabulary
from s3e.config import Config
from s3e.data.corpus import to_images, to_tensor
from s3e.data.photos import SHORTEST
from s3e.evaluation.images import PROTOCOL
from s3e.evaluation.score import STRIDE
from s3e.inference.photos import (
    Job,
    check_folder,
    check_free,
    find_photos,
    for_each,
    plan_results,
    read_photo,
    say,
    write_photo,
)
from s3e.models.build import build_generator, build_semantics, load_weights, map_channels
from s3e.models.encoders import GRID
from s3e.models.tree import LEAVES, TreeOutput
from s3e.utils import S3EError, atomic_write, file_digest, read_json, write_json

DEMONSTRATION = Path(__file__).parents[1] / "weights"
RECORD = "bundle.json"
SOURCES = {  # network -> its file in the run of full, baseline or captioner
    "baseline-generator": "generator",
    "full-generator": "generator",
    "full-semantics": "semantics",
    "captioner-semantics": "tree_captioner",
}
NEEDED = ("full-generator", "full-semantics")
USED = ("blur", "data", "evaluation", "model", "profile", "seed")  # of a configuration, in a record
TILE = 1536  # pixels of a tile's side: about 0.6 GiB of memory at width 16
OVERLAP = 128  # pixels that neighbouring tiles share at least; there one fades into the other
FINEST = 4  # pixels a cell of the finest features that take maps
LONGEST = 16  # times the shorter side: a longer photo is squashed to this before it is read


@dataclass(frozen=True)
class Reading:
    """What a photo's tree and caption say.

    `nodes`: seven labels, leaf 1-4, node 5, node 6, root ("null": an empty slot); `probabilities`:
    of every label, a list of seven arrays; `attention`: float32 (7, h, w), each map sums to 1;
    `maps`: the node maps 1 x 7 x D x h x w; `words` of the caption and `word_attention`: float32
    (words, 7), how much each word attends to each node; `vectors` 1 x 7 x D; `features` 1 x C: the
    encoder's grid, averaged; `names`: labels of entities and of relations.
    """

    nodes: tuple[str, ...]
    probabilities: list[np.ndarray]
    attention: np.ndarray
    maps: Tensor
    words: list[str]
    word_attention: np.ndarray
    vectors: Tensor
    features: Tensor
    names: list[list[str]]
    reader: str

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

    `record`: what a `bundle.json` holds (settings, words, labels, origin of each network); `files`:
    network -> file of weights (`SOURCES`). `about`: what these weights are good for; `variants` and
    `readers` are there. The networks themselves: `generator(variant)`, `semantics(reader)`.
    """

    categories = ()  # no network here reads true label maps

    def __init__(self, record: dict[str, Any], files: dict[str, Path], device: str = "cpu"):
        self.record, self.files, self.device = record, files, device
        self.config = Config.model_validate(record["config"])
        self.words = Vocabulary.from_dict(record["words"])
        self.labels = TreeVocabulary.from_dict(record["labels"])
        self.longest, self.about = record["longest"], record["about"]
        owners = [name.split("-") for name in SOURCES if name in files]
        self.variants = [owner for owner, kind in owners if kind == "generator"]
        self.readers = [owner for owner, kind in owners if kind == "semantics"]
        self.generator, self.semantics = cache(self._generator), cache(self._semantics)

    @classmethod
    def load(cls, folder: Path | str | None = None, device: str = "cpu") -> "Restorer":
        """The demonstration weights, or those of a finished store of runs ("runs/laptop") or an
        exported folder.

        Raises `S3EError` where there are no weights, or damaged ones (when they are first used).
        """
        folder = DEMONSTRATION if folder is None else Path(folder).expanduser().resolve()
        path = folder / RECORD
        if (folder / "05_co_training").is_dir():
            return cls(*_store(folder), device)
        if not path.is_file():
            raise S3EError(
                f"{folder}: no weights there; give a finished store of runs such as runs/laptop"
                " (made by: python run_all.py), or a folder made by `python -m s3e weights"
                " export`."
            )
        record = read_json(path)
        try:
            files = {name: folder / f"{name}.safetensors" for name in record["origin"]}
            restorer = cls(record, files, device)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            why = " ".join((str(error) or type(error).__name__).split()[:12])
            remedy = "restore the folder, or export it again"
            raise S3EError(f"{path} is damaged or of another version ({why}): {remedy}.") from None
        for file in files.values():
            if not file.is_file():
                raise S3EError(f"{file} is missing: restore the folder, or export it again.")
        return restorer

    @torch.no_grad()
    def read(self, photo: np.ndarray, reader: str = "full") -> Reading:
        """Tree and caption of a photo, uint8 (H, W, 3) in any size; an unknown reader raises
        `S3EError`.

        `reader`: "full" (co-trained on blurred photos) or "captioner" (before co-training, at home
        on sharp ones too). A photo longer than `LONGEST` times its shorter side is squashed to that
        before it is read.
        """
        source = self.semantics(reader)
        features = source.encoder(to_tensor(self._scaled(photo)[None]).to(self.device))
        return self._told(reader, source.tree(features), features.mean((2, 3)))

    @torch.no_grad()
    def restore(
        self,
        photo: np.ndarray,
        variant: str = "full",
        *,
        reading: Reading | None = None,
        maps: Tensor | None = None,
        tile: int = TILE,
        progress: Callable[[list], Iterable] = iter,
    ) -> np.ndarray:
        """The restored photo, uint8 (H, W, 3) like `photo`, by `variant` "full" or "baseline".

        `reading` (by "full") and `maps` (1 x 7 x D x h x w) take the place of what the photo itself
        says; zeros switch a node off. A photo larger than `tile` pixels (0: never) is restored in
        tiles that fade into each other; `progress` goes round their list, e.g. `tqdm`. Raises
        `S3EError` for an unknown variant, a reading by another than "full" and a tile of less than
        twice `OVERLAP`.
        """
        generator = self.generator(variant)
        _check(photo)
        _check_reader(reading)
        height, width = photo.shape[:2]
        padding = (0, -width % STRIDE, 0, -height % STRIDE)
        image = F.pad(to_tensor(np.array(photo)[None]), padding, "reflect")
        if variant == "baseline":
            maps = None
        elif maps is None:
            maps = (reading or self.read(photo)).maps
        if maps is not None:
            maps = maps.to(self.device).flatten(1, 2)
        # Each tile has statistics (normalisation, channel attention) of its own, as the patches of
        # the training had.
        tiles = [
            (rows, columns)
            for rows in _cut(image.shape[2], tile)
            for columns in _cut(image.shape[3], tile)
        ]
        total, weights = torch.zeros_like(image), torch.zeros_like(image[:, :1])
        for rows, columns in progress(tiles) if len(tiles) > 1 else tiles:
            own = None if maps is None else _maps_of(maps, photo.shape, rows, columns)
            restored = generator(image[..., rows, columns].to(self.device), own).cpu()
            weight = torch.outer(_fade(rows, image.shape[2]), _fade(columns, image.shape[3]))
            total[..., rows, columns] += weight * restored
            weights[..., rows, columns] += weight
        return to_images((total / weights)[..., :height, :width])[0]

    @torch.no_grad()
    def swap(self, reading: Reading, first: int, second: int, places: bool = False) -> Reading:
        """A reading by "full" in which two leaves (0-3) have swapped their labels; everything above
        them follows.

        Where a leaf looks, its map is moved by the difference of the two vectors. With `places`,
        the leaves then swap their maps, so that each keeps its label and has the other's place.
        """
        _check_reader(reading)
        maps, vectors = reading.maps.clone(), reading.vectors[0]
        for leaf, other in ((first, second), (second, first)):
            light = torch.from_numpy(reading.attention[leaf]).to(self.device)
            moved = (vectors[other] - vectors[leaf])[:, None, None] * light / light.square().sum()
            maps[:, other if places else leaf] = (reading.maps[:, leaf] + moved).relu()
        tree = self.semantics("full").tree.grow(list(maps[:, :LEAVES].unbind(1)))
        return self._told("full", tree, reading.features)

    def _told(self, reader: str, tree: TreeOutput, features: Tensor) -> Reading:
        """The reading that a tree's output amounts to, with the caption by beam search."""
        decoder, names = (
            self.semantics(reader).decoder,
            [self.labels.entities, self.labels.relations],
        )
        logits = [*tree.entity_logits[0], *tree.relation_logits[0]]
        probabilities = [row.softmax(-1).cpu().numpy() for row in logits]
        nodes = [names[node >= LEAVES][row.argmax()] for node, row in enumerate(probabilities)]
        context = torch.cat([tree.vectors[:, -1], features], 1)
        ids = decoder.beam(context, tree.vectors, self.longest, self.config.evaluation.beam)
        words = self.words.decode(ids[0].tolist()).split()
        heard = decoder.attend(ids, context, tree.vectors)[0, : len(words)].cpu().numpy()
        attention, vectors = tree.attention[0].cpu().numpy(), tree.vectors
        return Reading(
            tuple(nodes),
            probabilities,
            attention,
            tree.maps,
            words,
            heard,
            vectors,
            features,
            names,
            reader,
        )

    def _scaled(self, photo: np.ndarray) -> np.ndarray:
        """The photo with its shorter side at the training size, sides multiples of the encoder's
        stride.
        """
        _check(photo)
        size, shorter = self.config.data.size, min(photo.shape[:2])
        step = size // GRID
        sides = (max(size, round(side * size / shorter / step) * step) for side in photo.shape[:2])
        height, width = (min(side, LONGEST * size) for side in sides)
        if (height, width) == photo.shape[:2]:
            return np.array(photo)
        return np.array(Image.fromarray(photo).resize((width, height), Image.Resampling.LANCZOS))

    def _generator(self, variant: str) -> nn.Module:
        _check_name("variant", variant, self.variants)
        maps = map_channels(self.config, self, "tree") if variant == "full" else 0
        return self._weighted(build_generator(self.config, maps), f"{variant}-generator")

    def _semantics(self, reader: str) -> nn.Module:
        _check_name("reader", reader, self.readers)
        return self._weighted(build_semantics(self.config, self, "tree"), f"{reader}-semantics")

    def _weighted(self, network: nn.Module, name: str) -> nn.Module:
        load_weights(network, self.files[name])
        return network.to(self.device).eval().requires_grad_(False)


def _check_name(what: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise S3EError(f"these weights have no {what} '{name}'; choose one of {', '.join(names)}.")


def _check_reader(reading: Reading | None) -> None:
    if reading is not None and reading.reader != "full":
        raise S3EError(
            f"the reading is by '{reading.reader}', which no deblurrer knows: give one by 'full'."
        )


def _check(photo: np.ndarray) -> None:
    kind, shape = getattr(photo, "dtype", type(photo).__name__), np.shape(photo)
    if kind != np.uint8 or len(shape) != 3 or shape[2] != 3 or min(shape[:2]) < SHORTEST:
        raise S3EError(
            f"a photo must be an array, uint8 (height, width, 3), with {SHORTEST} pixels or more at"
            f" each side, not {kind} {shape}; s3e.read_photo(path).pixels reads any file so."
        )


def _cut(side: int, tile: int) -> list[slice]:
    """Tiles along a side (a multiple of `STRIDE`): equally long, evenly spaced, at least `OVERLAP`
    in common.
    """
    if tile and tile < 2 * OVERLAP:
        raise S3EError(f"tile = {tile}: give {2 * OVERLAP} pixels or more, or 0 for one piece.")
    tile = -(-tile // STRIDE) * STRIDE
    if not tile or side <= tile:
        return [slice(0, side)]
    count = -(-(side - OVERLAP) // (tile - OVERLAP))
    starts = [(side - tile) * i // (count - 1) // STRIDE * STRIDE for i in range(count)]
    return [slice(start, start + tile) for start in starts]


def _fade(place: slice, side: int) -> Tensor:
    """Weights (0, 1] of a tile's pixels along one axis: falling towards its ends, but not at the
    photo's border.
    """
    ramp, weights = torch.linspace(0, 1, OVERLAP + 2)[1:-1], torch.ones(place.stop - place.start)
    if place.start:
        weights[:OVERLAP] = ramp
    if place.stop < side:
        weights[-OVERLAP:] = ramp.flip(0)
    return weights


def _maps_of(maps: Tensor, photo: tuple[int, ...], rows: slice, columns: slice) -> Tensor:
    """The part of maps (1 x M x h x w, they cover `photo`) that covers a tile, which may end beyond
    the photo.
    """
    spans = ((columns.start, columns.stop, photo[1]), (rows.start, rows.stop, photo[0]))
    (wide, right), (high, down) = (
        ((stop - start) / side, (stop + start) / side - 1) for start, stop, side in spans
    )
    if wide == high == 1:
        return maps
    size = [(stop - start) // FINEST for start, stop, _ in spans[::-1]]
    if wide >= 1 and high >= 1:  # one piece
        size = maps.shape[2:]
    turn = maps.new_tensor([[[wide, 0, right], [0, high, down]]])
    grid = F.affine_grid(turn, [1, 1, *size], align_corners=False)
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)


def _store(folder: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """Record and files of `Restorer` from the first seed of a finished store of runs."""
    finished = folder.glob("05_co_training/full-s*/done.json")
    seeds = sorted(int(done.parent.name.removeprefix("full-s")) for done in finished)
    if not seeds:
        remedy = "go on with `python run_all.py`, then try again"
        raise S3EError(f"{folder}: the co-training is not finished; {remedy}.")
    full = folder / f"05_co_training/full-s{seeds[0]}"
    config = read_json(full / "params.json")["config"]
    captioned = Path(config["semantics_from"] or folder)  # words, labels and captioner are of it
    owners = {
        "full": full,
        "baseline": folder / f"06_ablation/baseline-s{seeds[0]}",
        "captioner": captioned / f"03_train_captioner/s{seeds[0]}",
    }
    files, origin = {}, {}
    for name, kind in SOURCES.items():
        run = owners[name.split("-")[0]]
        file = run / f"{kind}.safetensors"
        if file.is_file() and (run / "done.json").is_file():
            done, made = read_json(run / "done.json"), read_json(run / "provenance.json")
            about = {"run": "/".join(run.parts[-3:]), "key": done["key"], "commit": made["commit"]}
            files[name], origin[name] = file, about
        elif name in NEEDED:
            raise S3EError(f"{file} is missing: run that stage again.")
    text = read_json(captioned / "01_data_blurring/all/vocabulary.json")
    source, blur = config["data"]["source"], config["blur"]["severity"]
    seen = "the suite's built-in scenes" if source == "scenes" else f"photos of {Path(source).name}"
    about = f"Weights of the run {folder.name}, s{seeds[0]}, trained on {seen} ({blur} blur)"
    if source == "scenes":
        about += ": they show how the method works and are of no use on photographs"
    record = {
        "config": {name: config[name] for name in USED},
        "words": text["words"],
        "labels": text["labels"],
        "longest": text["max_words"] + 2,
        "about": f"{about}.",
        "origin": origin,
    }
    return record, files


def export_weights(store: Path, to: Path, overwrite: bool = False) -> int:
    """`python -m s3e weights export`: a store's first seed as a folder that can be passed on;
    returns 0.

    Writes weights (unchanged copies), `bundle.json` and a card (README.md). Raises `S3EError` if
    the store is not finished, lacks the baseline or was exported itself, and if `to` holds anything
    but exported weights that may be replaced; nothing is written then.
    """
    if (store / RECORD).is_file():
        raise S3EError(f"{store} was exported itself: copy the folder as it is.")
    source = Restorer.load(store)
    if "baseline" not in source.variants:
        raise S3EError(f"{store}: the baseline is not finished; go on with `python run_all.py`.")
    check_folder(to)
    exported = (to / RECORD).is_file()
    if to.is_dir() and any(to.iterdir()) and not (exported and overwrite):
        remedy = "add --overwrite to replace them" if exported else "name a new or empty folder"
        what = "weights" if exported else "other files"
        raise S3EError(f"--to {to} holds {what} already: {remedy}.")
    for name, path in source.files.items():
        source.record["origin"][name]["sha256"] = file_digest(path)
        with atomic_write(to / f"{name}.safetensors") as temporary:
            shutil.copyfile(path, temporary)
    for name in SOURCES.keys() - source.files.keys():  # of the weights that were there before
        (to / f"{name}.safetensors").unlink(missing_ok=True)
    with atomic_write(to / "README.md") as temporary:
        temporary.write_text(_card(source, store.resolve()), encoding="utf-8")
    write_json(to / RECORD, source.record)
    print(f"{to} is ready: {sum(p.stat().st_size for p in to.iterdir()) / 1e6:.1f} MB")
    return 0


def _card(source: Restorer, store: Path) -> str:
    """What the weights are, where they come from and how they score on test images, in Markdown."""
    parts = [
        f"# Weights of the profile {source.config.profile}, seed {source.config.seed}",
        source.about,
    ]
    parts.append(pd.DataFrame(source.record["origin"]).T.to_markdown())
    for name, path in source.files.items():
        table = path.with_name("nodes.csv" if "semantics" in name else "scores.csv")
        if table.is_file() and store in table.parents:
            rows = pd.read_csv(table).query("split == 'test'")
            means = rows.groupby(rows.columns[1], sort=False).mean(numeric_only=True)
            parts += [f"## {name}: means over the test images", means.to_markdown(floatfmt=".3f")]
    return "\n\n".join([*parts, PROTOCOL]) + "\n"


def deblur_photos(
    photos: Sequence[Path], output: Path, overwrite: bool = False, weights: Path | None = None,
    variant: str = "full", caption: bool = False, tree: bool = False, tile: int | None = None,
) -> int:  # fmt: skip
    """`python -m s3e deblur`: restore photos of any size; print and write their captions and trees,
    if asked for.

    Returns 0, or 1 where a photo could not be done. Raises `S3EError` for a wrong request, before
    any work.
    """
    found, problems = find_photos(photos, output)
    jobs = plan_results(found, output, [".json"] if caption or tree else [])
    tile = TILE if tile is None else tile
    _cut(0, tile)
    restorer, _ = _ready(weights, ("full",), variant)

    def restore(job: Job) -> None:
        check_free(job, overwrite)
        photo = read_photo(job.photo)
        reading = restorer.read(photo.pixels) if variant == "full" or job.beside else None
        bar = partial(tqdm, desc=job.photo.name, leave=False)
        restored = restorer.restore(photo.pixels, variant, reading=reading, tile=tile, progress=bar)
        write_photo(restored, photo, job.result)
        print(job.result, f"({', '.join(photo.notes)})" if photo.notes else "", flush=True)
        for path in job.beside:
            facts = {"photo": job.photo.name, "weights": restorer.about, "reader": "full"}
            write_json(path, facts | _described(reading, caption, tree))

    return for_each(jobs, restore, problems)


def caption_photos(
    photos: Sequence[Path],
    weights: Path | None = None,
    tree: bool = False,
    json: Path | None = None,
) -> int:
    """`python -m s3e caption`: print captions of photos, and their trees; `json`: a new file for
    everything.

    Read by the captioner, which knows sharp photos as well as blurred ones; where the weights have
    none, by "full". Returns 0, or 1 where a photo could not be done. Raises `S3EError` for a wrong
    request, before any work.
    """
    if json:
        check_folder(json.parent)
        if json.exists():
            raise S3EError(f"{json} is there already: remove it or name another file.")
    found, problems = find_photos(photos)
    restorer, reader = _ready(weights, ("captioner", "full"))
    everything: dict[str, Any] = {}

    def read(path: Path) -> None:
        reading = restorer.read(read_photo(path).pixels, reader)
        print(path)
        everything[str(path)] = _described(reading, True, tree)

    code = for_each(found, read, problems)
    if json:
        write_json(json, {"weights": restorer.about, "reader": reader, "photos": everything})
    return code


def _ready(weights: Path | None, readers: Sequence[str], variant: str = "") -> tuple[Restorer, str]:
    """The networks, loaded at once, and the first of `readers` that they have; a line (stderr)
    tells their use.
    """
    restorer = Restorer.load(weights)
    reader = next((name for name in readers if name in restorer.readers), readers[0])
    restorer.semantics(reader)
    if variant:
        restorer.generator(variant)
    say(restorer.about)
    if reader != readers[0]:
        say(f"these weights have no {readers[0]}, so '{reader}' reads the photos")
    return restorer, reader


def _described(reading: Reading, caption: bool, tree: bool) -> dict[str, Any]:
    """Caption and tree of a reading: printed, and as facts for a file."""
    facts: dict[str, Any] = {}
    if caption:
        facts["caption"] = reading.caption
        print(f"  caption  {reading.caption}", flush=True)
    if tree:
        facts["tree"] = []
        for node, label, share in zip(NODE_NAMES, reading.nodes, reading.confidence, strict=True):
            facts["tree"].append(
                {"node": node, "label": label, "probability": round(float(share), 4)}
            )
            print(f"  {node:<8} {'(empty)' if label == NULL else label} {share:.0%}", flush=True)
    return facts
