"""Sanity rows: deconvolution with the true kernel, which no network is told (Wiener; Richardson, 1972, and Lucy, 1974).

Kernels are drawn again from the photos' ids, exactly as the data were blurred; pairs of frames have none.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from skimage.restoration import wiener as skimage_wiener

from s3e.blur import kernels_for
from s3e.config import Blur, Config
from s3e.convolution import convolve
from s3e.data.corpus import Corpus, Split, load_corpus
from s3e.evaluation.image import score_batch, to_uint8

STEPS = 30  # of Richardson and Lucy
BALANCES = (
    1e-6,
    3e-6,
    1e-5,
    3e-5,
    1e-4,
    3e-4,
    1e-3,
    3e-3,
    0.01,
    0.03,
    0.1,
    0.3,
)  # Wiener's regularisation
CHOSEN_ON = 32  # validation photos that choose among them
PHOTOS = (
    500  # of a split at a severity are restored; all of 5,000 photos of 256 px would take hours
)
COLUMNS = ("split", "severity", "id", "variant", "psnr", "ssim")
NOTE = (
    f"Wiener and Richardson-Lucy ({STEPS} iterations) are told the true kernel; both take the photo as mirrored at its "
    f"border, and at most {PHOTOS} photos are restored. Wiener's regularisation is chosen per severity on validation "
    f"photos from {BALANCES[0]:.6f} to {BALANCES[-1]:g}; the number of iterations is not tuned."
)
Method = Callable[[np.ndarray, np.ndarray], np.ndarray]


def score_classical(corpus: Corpus | Path | str, config: Config) -> pd.DataFrame:
    """PSNR (dB) and SSIM of both methods on validation and test: split, severity, id, variant, psnr, ssim.

    `corpus`: prepared photos or scenes, or their folder; of each split at most the first `PHOTOS`. Pairs (GoPro), whose
    blur is real motion, and photos in which an object moves on its own, which no one kernel tells, give an empty frame.
    """
    corpus = corpus if isinstance(corpus, Corpus) else load_corpus(corpus)
    frames = [pd.DataFrame(columns=list(COLUMNS))]
    one_kernel = "released" not in corpus.severities and config.blur.motion == "camera"
    for severity in corpus.severities if one_kernel else ():
        balance = choose_balance(corpus.val, severity, config.blur)
        methods = {"wiener": partial(wiener, balance=balance), "richardson_lucy": richardson_lucy}
        for split in (corpus.val, corpus.test):
            rows = split.rows(severity)[:PHOTOS]
            frames += [
                _scored(split, severity, rows, name, method, config.blur)
                for name, method in methods.items()
            ]
    return pd.concat(frames[1:] or frames, ignore_index=True)


def choose_balance(split: Split, severity: str, blur: Blur) -> float:
    """The regularisation of `BALANCES` with which Wiener's filter restores the first photos of `split` best (PSNR)."""
    rows = split.rows(severity)[:CHOSEN_ON]
    means = []
    for balance in BALANCES:
        restored = restore(split, severity, rows, partial(wiener, balance=balance), blur)
        means.append(score_batch(restored, split.sharp[rows])["psnr"].mean())
    return BALANCES[int(np.argmax(means))]


def restore(
    split: Split, severity: str, rows: np.ndarray, method: Method, blur: Blur
) -> np.ndarray:
    """Deconvolve the photos `rows` (n) of a split in linear light: uint8 n x H x W x 3."""
    blurred = split.blurred[severity][rows]
    light = (blurred / np.float32(255)) ** np.float32(blur.gamma)
    pairs = zip(light, true_kernels(split, severity, rows, blur), strict=True)
    restored = np.stack([method(photo, kernel) for photo, kernel in pairs])
    return to_uint8(restored.clip(0, 1) ** (1 / blur.gamma), low=0.0)


def true_kernels(split: Split, severity: str, rows: np.ndarray, blur: Blur) -> list[np.ndarray]:
    """The kernels (odd sides, unit sum) with which the photos `rows` of a split were blurred, drawn again."""
    side = min(split.sharp.shape[1:3])
    return kernels_for([split.ids[row] for row in rows], severity, side, blur.seed)[0]


def wiener(light: np.ndarray, kernel: np.ndarray, balance: float) -> np.ndarray:
    """Wiener's filter of scikit-image with a Laplacian regulariser, on a photo H x W x 3 made periodic by mirroring."""
    height, width = light.shape[:2]
    mirrored = np.pad(light, ((0, height), (0, width), (0, 0)), "symmetric")
    planes = [
        skimage_wiener(plane, kernel, balance, clip=False) for plane in np.moveaxis(mirrored, -1, 0)
    ]
    return np.stack(planes, -1)[:height, :width]


def richardson_lucy(light: np.ndarray, kernel: np.ndarray, steps: int = STEPS) -> np.ndarray:
    """Richardson-Lucy on a photo H x W x 3, with the convolution (and its mirrored border) that blurred the data.

    scikit-image's function takes the world outside the photo as black, which ruins a photo smaller than a few kernels.
    """
    turned, estimate = kernel[::-1, ::-1], np.full_like(light, 0.5)
    for _ in range(steps):
        seen = np.maximum(convolve(estimate, kernel), np.float32(1e-6))
        estimate = estimate * convolve(light / seen, turned)
    return estimate


def _scored(
    split: Split, severity: str, rows: np.ndarray, name: str, method: Method, blur: Blur
) -> pd.DataFrame:
    scores = score_batch(restore(split, severity, rows, method, blur), split.sharp[rows])
    about = {
        "split": split.name,
        "severity": severity,
        "id": [split.ids[row] for row in rows],
        "variant": name,
    }
    return pd.DataFrame(about | scores)[list(COLUMNS)]
