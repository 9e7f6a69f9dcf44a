"""Photographs that anybody may publish, blurred, read and restored by a study's networks.

Some data must not be shown (their terms allow research alone). A profile with `pictures = "public"` draws its figures
of scikit-image's photographs instead, which are in the public domain. No network was trained on them, nor are they
among the photos that are scored: they show what the numbers look like and are no evidence themselves.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from s3e.blur import SEVERITIES, blur_batch, kernel_for
from s3e.config import VARIANTS, Config
from s3e.data.corpus import Batch, Corpus, load_corpus, to_tensor
from s3e.data.photos import PHOTOS, photograph
from s3e.data.prepare import pad_kernels
from s3e.evaluation import collect
from s3e.evaluation.collect import describe
from s3e.evaluation.images import score_batch, to_uint8
from s3e.evaluation.score import node_names, predicted_nodes, to_images
from s3e.models.build import build_model, build_semantics, load_weights
from s3e.report.gallery import Gallery

Samples = tuple[dict[str, np.ndarray], list[dict[str, Any]]]
WORDINGS = {  # ours, two a photograph
    "astronaut": (
        "A woman in an orange suit smiles in front of a flag",
        "There is a flag behind a smiling woman",
    ),
    "chelsea": ("A striped cat is lying on a soft blanket", "On a blanket lies a cat"),
    "coffee": (
        "A cup of coffee and a spoon are on a wooden table",
        "On a table there is a cup of coffee",
    ),
    "rocket": (
        "A rocket leaves its tower in a cloud of smoke",
        "Smoke is below a rocket near a tower",
    ),
}


def photographs(size: int) -> np.ndarray:
    """The photographs' central squares: uint8 (n, size, size, 3), in the order of `PHOTOS`."""
    return to_uint8(np.stack([photograph(name, size) for name in PHOTOS]), low=0.0)


def views(config: Config) -> dict[str, np.ndarray]:
    """Sharp, blurred (a key a severity) and the kernels (`kernel_<severity>`): what notebook 01 keeps of the data."""
    size, blur = config.data.size, config.blur
    found, sharp = {}, photographs(size)
    for name in SEVERITIES:
        found[name] = blur_batch(sharp, PHOTOS, name, blur.seed, blur.gamma, blur.noise)[0]
        kernels = [kernel_for(photo, name, size, blur.seed) for photo in PHOTOS]
        found[f"kernel_{name}"] = np.stack(pad_kernels(kernels))
    return {"sharp": sharp, **found}


def reader(corpus: Path, config: Config) -> Callable[[Path], Samples]:
    """`s3e.evaluation.collect.read_samples` for figures: of the data, or of the photographs where those are public.

    `corpus`: folder of the prepared data, whose vocabulary says how large the networks are.
    """
    return (
        cache(partial(_read, load_corpus(corpus), config))
        if config.pictures == "public"
        else collect.read_samples
    )


def _read(corpus: Corpus, config: Config, path: Path) -> Samples:
    """What a run would have kept of the photographs: views of notebook 01, node maps of 03, restored photos of 05, 06.

    Raises `S3EError` for weights that are missing or of other networks.
    """
    if path == corpus.folder:
        return views(config), []
    shown, variant = views(config), describe(path).variant
    arrays = {
        "ids": np.array(PHOTOS),
        "sharp": shown["sharp"],
        "blurred": shown[config.blur.severity],
    }
    batch = _batch(arrays)
    if variant:
        model = build_model(config, corpus, variant).eval()
        load_weights(model.generator, path / "generator.safetensors")
        if any(True for _ in (model.semantics.parameters() if model.semantics else ())):
            load_weights(model.semantics, path / "semantics.safetensors")
        with torch.no_grad():
            restored, semantics = model(batch)
        arrays["restored"] = to_images(restored)
    else:
        source = load_weights(
            build_semantics(config, corpus, "tree"), path / "tree_captioner.safetensors"
        ).eval()
        with torch.no_grad():
            semantics = source(batch.blurred)
    nodes: list[list[str] | None] = [None] * len(PHOTOS)
    taught = not variant or VARIANTS[variant].tree_loss
    if semantics is not None and semantics.tree is not None and taught:
        arrays["attention"] = semantics.tree.attention.numpy()
        nodes = [node_names(row, corpus) for row in predicted_nodes(semantics.tree).tolist()]
    return arrays, [
        {
            "id": name,
            "references": WORDINGS[name],
            "caption": None,
            "predicted": said,
            "target": None,
        }
        for name, said in zip(PHOTOS, nodes, strict=True)
    ]


def _batch(arrays: dict[str, np.ndarray]) -> Batch:
    """The photographs as a batch without words, trees and label maps."""
    nothing = torch.zeros(len(PHOTOS), 1, dtype=torch.long)
    images = (to_tensor(arrays[name]) for name in ("sharp", "blurred"))
    return Batch(list(PHOTOS), *images, nothing, nothing, None, ("showcase",))


def gallery(arms: Mapping[str, dict[str, np.ndarray]]) -> Gallery | None:
    """The photographs for figure 12, from arm -> arrays of `reader`; None without `baseline` and `full`."""
    if not {"baseline", "full"} <= set(arms):
        return None
    first = arms["full"]
    restored = {name: arrays["restored"] for name, arrays in arms.items()}
    scores = {
        name: score_batch(images, first["sharp"])["psnr"] for name, images in restored.items()
    }
    return Gallery(first["sharp"], first["blurred"], restored, pd.DataFrame(scores, index=PHOTOS))
