"""PSNR and SSIM under one protocol (specification 4.4), and other definitions.

Protocol: 8-bit RGB, whole image, one value per image, then the mean. SSIM is that of Wang et al.
(2004) with separable filters; tests hold it against scikit-image.
"""

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy import ndarray
from pandas import DataFrame
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from torch import Tensor

from s3e.data.corpus import to_tensor
from s3e.models.build import build_recogniser
from s3e.models.efficientnet import SEEN
from s3e.utils import PSNR_CAP, peak_value, psnr

WINDOW, SIGMA = 11, 1.5  # taps and standard deviation of SSIM's Gaussian, in pixels
PROTOCOL = (
    "Protocol: RGB, all three channels alike (no luma); restored images are clamped and rounded to"
    " 8 bit before scoring; data range 255; one value per image, then the mean over images; no"
    " border is cropped; windows of SSIM that leave the image are not counted. PSNR of identical"
    f" images counts as {PSNR_CAP:g} dB. SSIM: per channel, {WINDOW} x {WINDOW} Gaussian window"
    f" (sigma {SIGMA:g}), population covariance, as scikit-image computes it with"
    " gaussian_weights=True and use_sample_covariance=False."
)
METRICS = ["psnr", "ssim"]
SEEN_METRICS = ["recognition", "feature_distance"]  # of photographs
SEEN_PROTOCOL = (
    "Recognition: of the five classes that EfficientNet-Lite2 (ImageNet) finds likeliest in the"
    " sharp photo, the share that it has among its five of the restored one. Feature distance: 1 -"
    " cosine of the 1280 features below these classes, 0 for identical photos. It sees squares of"
    f" {SEEN} px (of larger photos up to {2 * SEEN}) and is no part of any variant."
)
LABELS = ["split", "severity", "variant", "seed", "id", "video"]  # of a value in the long frame


def ssim(restored: ndarray, sharp: ndarray, data_range: float | None = None) -> float:
    """Mean structural similarity of the channels of two images (H, W, 3) of at least 11 pixels.

    Both uint8, or both float with their `data_range`; else ValueError. Computed in float64.
    """
    peak = peak_value(restored, sharp, data_range)
    if min(sharp.shape[:2]) < WINDOW:
        raise ValueError(
            f"ssim: images of shape {sharp.shape} are smaller than the {WINDOW}-pixel window."
        )
    return _similarity(restored, sharp, peak, _window_means)


def _similarity(restored: ndarray, sharp: ndarray, peak: float, means: Callable) -> float:
    """Mean SSIM over all windows whose Gaussian means the function `means` takes."""
    x, y = restored.astype(float), sharp.astype(float)
    mx, my = means(x), means(y)
    vx, vy, cov = means(x * x) - mx**2, means(y * y) - my**2, means(x * y) - mx * my
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    top = (2 * mx * my + c1) * (2 * cov + c2)
    return float(np.mean(top / ((mx**2 + my**2 + c1) * (vx + vy + c2))))


def _window_means(plane: ndarray) -> ndarray:
    """Gaussian means over all windows that lie inside a float64 image (h, w, 3)."""
    taps, rim = cv2.getGaussianKernel(WINDOW, SIGMA), WINDOW // 2
    return cv2.sepFilter2D(plane, cv2.CV_64F, taps, taps)[rim:-rim, rim:-rim]


def score_batch(restored: ndarray, sharp: ndarray) -> dict[str, ndarray]:
    """Score uint8 images (N, H, W, 3) one by one: {"psnr": (N,) in dB, "ssim": (N,)}."""
    pairs = list(zip(restored, sharp, strict=True))
    return {name: np.array([score(*pair) for pair in pairs])
            for name, score in (("psnr", psnr), ("ssim", ssim))}  # fmt: skip


@torch.no_grad()
def recognised(images: ndarray) -> tuple[Tensor, Tensor]:
    """What the recogniser finds in uint8 images N x H x W x 3: features N x 1280, five classes."""
    network, side = build_recogniser(), int(np.clip(images.shape[2], SEEN, 2 * SEEN))
    squares = F.interpolate(to_tensor(images), (side, side), mode="bilinear", antialias=True)
    *_, features = network(squares)
    return features, network.classes(features).topk(5).indices


def score_recognised(restored: tuple, sharp: tuple) -> dict[str, ndarray]:
    """Both metrics of `SEEN_METRICS`, image by image, of what was `recognised`."""
    (features, classes), (wanted, names) = restored, sharp
    shared = (classes[:, None] == names[..., None]).any(2).double().mean(1)
    distance = 1 - F.cosine_similarity(features, wanted)
    return dict(zip(SEEN_METRICS, (shared.numpy(), distance.numpy()), strict=True))


# --------------------------------------------- what "PSNR" and "SSIM" mean elsewhere (notebook 07b)
# Left out: CW-SSIM (needs a complex steerable pyramid), and average-pooling before SSIM, which
# changes large images only.

DEFINITION_IMAGES = 200  # are scored: all take ten milliseconds for 64 px, 150 for 256 px
LUMA = np.array([65.481, 128.553, 24.966]) / 255  # ITU-R BT.601: Y from 16 (black) to 235 (white)
GREY = np.array([0.299, 0.587, 0.114])  # the same from 0 to 255


class Definition(NamedTuple):
    """A metric as `habit` has it: `score` of an image and the sharp one, the mean over images.

    `convert`: what is scored instead of a uint8 image (H, W, 3); `pooled`: all images are scored as
    one.
    """

    name: str
    metric: str
    habit: str
    score: Callable[[ndarray, ndarray], float]
    convert: Callable[[ndarray], ndarray] = np.asarray
    pooled: bool = False


def _grey(image: ndarray) -> ndarray:
    return np.repeat(np.rint(image @ GREY)[..., None], 3, -1)


def _luma(image: ndarray) -> ndarray:
    return np.repeat((16 + image @ LUMA)[..., None], 3, -1)


PSNR, SSIM = partial(psnr, data_range=255), partial(ssim, data_range=255)  # of floats
BOX = partial(structural_similarity, channel_axis=-1, data_range=255)
MEANS = partial(gaussian_filter, sigma=SIGMA, radius=WINDOW // 2)  # also at the border
AROUND = partial(_similarity, peak=255, means=partial(MEANS, mode="mirror", axes=(0, 1)))
THROUGH = partial(_similarity, peak=255, means=partial(MEANS, mode="nearest"))
DEFINITIONS = (
    Definition("this suite", "psnr", "8-bit RGB, per image", psnr),
    Definition("pooled over images", "psnr", "torchmetrics without `dim`", psnr, pooled=True),
    Definition("Y channel", "psnr", "super-resolution", PSNR, _luma),
    Definition("this suite", "ssim", "Wang et al.: Gaussian 11 x 11, per channel", ssim),
    Definition("scikit-image default", "ssim", "7 x 7 box, sample covariance", BOX),
    Definition("grey first", "ssim", "8-bit grey, as image libraries convert", SSIM, _grey),
    Definition("Y channel", "ssim", "super-resolution", SSIM, _luma),
    Definition("border counted", "ssim", "torchmetrics, kornia", AROUND),
    Definition("through colour", "ssim", "MATLAB ssim(rgb), NAFNet", THROUGH),
)


def definition_scores(outputs: Mapping[str, ndarray], sharp: ndarray) -> DataFrame:
    """Every definition of every output: variant, definition, metric, value (PSNR in dB).

    `outputs`: variant -> uint8 (N, H, W, 3); `sharp`: the same shape.
    """
    rows = []
    for (variant, restored), item in itertools.product(outputs.items(), DEFINITIONS):
        pairs = list(zip(restored, sharp, strict=True))
        if item.pooled:
            pairs = [(np.concatenate(restored), np.concatenate(sharp))]
        values = [item.score(*map(item.convert, pair)) for pair in pairs]
        rows.append((variant, item.name, item.metric, float(np.mean(values))))
    return DataFrame(rows, columns=["variant", "definition", "metric", "value"])


def agreement(scores: DataFrame) -> pd.Series:
    """Kendall's rank correlation of each (metric, definition) with the suite's: 1 ranks alike."""
    table = scores.pivot(index="variant", columns=["metric", "definition"], values="value")
    return pd.concat(
        table[[metric]].corr("kendall")[metric, DEFINITIONS[0].name] for metric in METRICS
    )
