"""Restore a split with a trained model, in parts that fit into memory, and score the pictures (specification 4.4)."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from s3e.config import Config
from s3e.data.corpus import Batch, Split
from s3e.evaluation.image import score_batch, to_uint8
from s3e.models.semantics import S3EDeblur
from s3e.models.tree import TreeOutput
from s3e.utils import seed_everything

PIXELS = 4_000_000  # restored at a time: four GoPro frames, or 61 photos of 256 px
STRIDE = 16  # sides of a restored picture are padded to a multiple of it (DeblurGAN: 4, NAFNet and encoder: 16)
Restored = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def predicted_nodes(tree: TreeOutput) -> Tensor:
    """Most likely class of each node: B x 7."""
    return torch.cat([tree.entity_logits.argmax(-1), tree.relation_logits.argmax(-1)], 1)


@torch.no_grad()
def restore_chunks(
    model: S3EDeblur, split: Split, severity: str, config: Config
) -> Iterator[Restored]:
    """Restore what a split has of a severity, in parts that fit into memory.

    Yields row numbers n, restored photos uint8 n x H x W x 3 and predicted nodes n x 7 (None without a tree). Rows come
    in the order of `Split.spread`, so that the tree of "another photo" is not that of the frame before.
    """
    model.to(config.runtime.device).eval()
    seed_everything(config.seed, "evaluation", split.name, severity)
    height, width = split.sharp.shape[1:3]
    size = max(3, min(config.evaluation.batch, PIXELS // (height * width)))
    order = split.spread(split.rows(severity))
    for rows in np.array_split(order, max(1, -(-len(order) // size))):
        image, semantics = model(padded(split.batch(rows, severity).to(config.runtime.device)))
        tree = None if semantics is None else semantics.tree
        nodes = None if tree is None else predicted_nodes(tree).cpu().numpy()
        yield rows, to_images(image[:, :, :height, :width]), nodes


def padded(batch: Batch) -> Batch:
    """Photos of any size, continued by reflection on the right and below to sides that the networks can halve."""
    height, width = batch.blurred.shape[2:]
    sides = (0, -width % STRIDE, 0, -height % STRIDE)
    if not any(sides):
        return batch
    return replace(
        batch,
        **{name: F.pad(getattr(batch, name), sides, "reflect") for name in ("sharp", "blurred")},
    )


def restore_split(model: S3EDeblur, split: Split, severity: str, config: Config) -> np.ndarray:
    """Restored photos uint8 N x H x W x 3 of `split.rows(severity)`."""
    parts = [part[:2] for part in restore_chunks(model, split, severity, config)]
    rows, restored = (np.concatenate(column) for column in zip(*parts, strict=True))
    return restored[np.argsort(rows)]


def to_images(image: Tensor) -> np.ndarray:
    """float N x 3 x H x W in [-1, 1] -> uint8 N x H x W x 3, clamped and rounded."""
    return to_uint8(image.permute(0, 2, 3, 1).cpu().numpy(), low=-1.0, high=1.0)


def image_table(
    split: Split, severity: str, rows: np.ndarray, restored: np.ndarray
) -> pd.DataFrame:
    """PSNR and SSIM of the photos `rows` (n), restored (uint8 n x H x W x 3) and blurred."""
    scores = score_batch(restored, split.sharp[rows])
    blurred = score_batch(split.blurred[severity][rows], split.sharp[rows])
    return pd.DataFrame(
        {
            "split": split.name,
            "severity": severity,
            "id": [split.ids[row] for row in rows],
            "psnr": scores["psnr"],
            "ssim": scores["ssim"],
            "psnr_blurred": blurred["psnr"],
            "ssim_blurred": blurred["ssim"],
            "extent": [split.extents[severity][row] for row in rows],
        }
    )
