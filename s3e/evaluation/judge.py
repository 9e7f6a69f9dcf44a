"""The judge of semantic fidelity: a captioner that no arm knows, trained on sharp photos alone, then frozen.

It attends to the grid of its encoder (soft attention, no tree) and starts from a seed of its own, so that it shares
neither weights nor batches with what the arms learned from. Choices are made on validation photos; it reads the test
photos once (specification 6.7, last rule).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from s3e.config import Config
from s3e.data.corpus import Corpus, to_tensor
from s3e.evaluation.runs import describe
from s3e.evaluation.scoring import say
from s3e.models.build import save_weights
from s3e.training.stages import new_source, train_semantics

OWN_SEED = 1000  # added to the study's seed


def train_judge(
    folder: Path, corpus: Corpus, config: Config, watch: Callable[[int], None] | None = None
) -> nn.Module:
    """Train the judge on sharp photos and write `judge.safetensors`; it is returned frozen.

    `watch`: told the steps of the longer phase, "a1", as in `train_semantics`.
    """
    own = config.model_copy(update={"seed": config.seed + OWN_SEED})
    judge = new_source(own, corpus, "flat")
    train_semantics(folder, "judge", "tree", judge, corpus, own, tree=False, caption=True)
    train_semantics(
        folder, "judge", "a1", judge, corpus, own, tree=False, caption=True, watch=watch
    )
    save_weights(judge, folder / "judge.safetensors")
    return judge.eval().requires_grad_(False)


@torch.no_grad()
def read_photos(judge: nn.Module, images: np.ndarray, corpus: Corpus, config: Config) -> list[str]:
    """The judge's caption of each photo, uint8 N x S x S x 3."""
    judge.to(config.runtime.device).eval()
    said = []
    for rows in np.array_split(np.arange(len(images)), -(-len(images) // config.evaluation.batch)):
        semantics = judge(to_tensor(images[rows]).to(config.runtime.device))
        said += say(judge, semantics, corpus, config)
    return said


def read_arms(
    judge: nn.Module, arms: list[Path], corpus: Corpus, config: Config
) -> list[dict[str, Any]]:
    """What the judge says of the test photos: sharp, blurred as in training, and restored by each arm.

    For `fidelity_captions.json`: system, input, split, seed (of the arm; 0 for sharp and blurred), captions {id: text}.
    """
    severity = config.blur.severity
    views = [
        ("sharp", "sharp", 0, corpus.test.sharp),
        ("blurred", severity, 0, corpus.test.blurred[severity]),
    ]
    for arm in map(describe, arms):
        views.append(
            (
                arm.variant,
                "deblurred",
                arm.seed,
                np.load(arm.path / "restored_test.npy", mmap_mode="r"),
            )
        )
    rows = []
    for system, kind, seed, images in views:
        said = dict(zip(corpus.test.ids, read_photos(judge, images, corpus, config), strict=True))
        rows.append(
            {"system": system, "input": kind, "split": "test", "seed": seed, "captions": said}
        )
    return rows
