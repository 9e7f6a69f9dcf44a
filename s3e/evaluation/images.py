"""PSNR and SSIM under one stated protocol (specification 4.4): 8-bit RGB, whole image, per image, then the mean.

SSIM is that of Wang et al. (2004), filtered row by row and column by column; tests hold it against scikit-image.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from skimage import data
from skimage.metrics import structural_similarity
from skimage.restoration import wiener as skimage_wiener

from s3e.blur import blur_image, convolve, kernels_for
from s3e.config import Blur, Config
from s3e.utils import PSNR_CAP, peak_value, psnr

if TYPE_CHECKING:
    from s3e.data.corpus import Corpus, Split

STRIP = 64  # rows that are filtered at a time, so that what one strip needs stays in the processor's cache


@dataclass(frozen=True)
class Protocol:
    """What "PSNR" and "SSIM" mean here: the functions below compute with these numbers, tables print `sentence`."""

    range: int = 255  # of 8-bit values; floats come with a range of their own
    cap: float = PSNR_CAP  # dB, of two identical images
    window: int = 11  # taps of the Gaussian
    sigma: float = 1.5  # its standard deviation in pixels
    colour: str = "RGB, all three channels alike (no luma)"
    rounding: str = "clamped and rounded to 8 bit"
    border: str = "no border is cropped; windows of SSIM that leave the image are not counted"
    averaging: str = "one value per image, then the mean over images"

    @property
    def sentence(self) -> str:
        """The protocol in words, for the note below a table."""
        return (
            f"Protocol: {self.colour}; restored images are {self.rounding} before scoring; data range {self.range}; "
            f"{self.averaging}; {self.border}. PSNR of identical images counts as {self.cap:g} dB. SSIM: per channel, "
            f"{self.window} x {self.window} Gaussian window (sigma {self.sigma:g}), population covariance, as "
            "scikit-image computes it with gaussian_weights=True and use_sample_covariance=False."
        )

    @property
    def taps(self) -> np.ndarray:
        """The Gaussian window along one axis, float64 (window,), sum 1."""
        places = np.arange(self.window) - self.window // 2
        weights = np.exp(-0.5 * (places / self.sigma) ** 2)
        return weights / weights.sum()


DEFINITION = Protocol()
PROTOCOL = DEFINITION.sentence


def to_uint8(image: np.ndarray, low: float, high: float = 1.0) -> np.ndarray:
    """Map float values in [low, high] (`low` is -1 or 0) to uint8: clamp, then round. Any shape; NaN: ValueError."""
    image = np.asarray(image, float)
    if np.isnan(image).any():
        raise ValueError("to_uint8: the image contains NaN; the network that made it has diverged.")
    return np.rint((np.clip(image, low, high) - low) * (255 / (high - low))).astype(np.uint8)


def ssim(restored: np.ndarray, sharp: np.ndarray, data_range: float | None = None) -> float:
    """Structural similarity of two images (H, W, 3), at least 11 pixels a side; mean of the three channels.

    Both uint8, or both float with their `data_range`, as in `psnr`. Computed in float64.
    """
    peak, reach = peak_value(restored, sharp, 3, data_range), DEFINITION.window - 1
    if min(sharp.shape[:2]) <= reach:
        raise ValueError(
            f"ssim: images of shape {sharp.shape} are smaller than the {reach + 1}-pixel window."
        )
    first, second = restored.astype(float), sharp.astype(float)
    starts = range(0, len(sharp) - reach, STRIP)
    maps = (
        _ssim_map(first[at : at + STRIP + reach], second[at : at + STRIP + reach], peak)
        for at in starts
    )
    value = sum(part.sum() for part in maps) / first[reach:, reach:].size
    if not np.isfinite(value):
        raise ValueError(
            "ssim: an image contains NaN or infinity; the network that made it has diverged."
        )
    return float(value)


def _ssim_map(x: np.ndarray, y: np.ndarray, peak: float) -> np.ndarray:
    """SSIM of every window inside float64 images (h, w, 3).

    Four filters instead of five: with s = x + y and d = x - y, 2xy = (s² - d²) / 2 and x² + y² = (s² + d²) / 2.
    """
    total, difference = x + y, x - y
    mean_s, mean_d = _windows(total) ** 2, _windows(difference) ** 2
    var_s, var_d = _windows(total * total) - mean_s, _windows(difference * difference) - mean_d
    c1, c2 = (
        2 * (0.01 * peak) ** 2,
        2 * (0.03 * peak) ** 2,
    )  # twice those of the paper: numbers above are twice, too
    alike = (mean_s - mean_d + c1) * (var_s - var_d + c2)
    return alike / ((mean_s + mean_d + c1) * (var_s + var_d + c2))


def _windows(plane: np.ndarray) -> np.ndarray:
    """Gaussian means over all windows that lie inside a float64 image (h, w, 3)."""
    taps, rim = DEFINITION.taps, DEFINITION.window // 2
    return cv2.sepFilter2D(plane, cv2.CV_64F, taps, taps)[rim:-rim, rim:-rim]


def score_batch(restored: np.ndarray, sharp: np.ndarray) -> dict[str, np.ndarray]:
    """Score uint8 images (N, H, W, 3) one by one: {"psnr": (N,) in dB, "ssim": (N,)}."""
    peak_value(restored, sharp, 4)
    pairs = list(zip(restored, sharp, strict=True))
    return {
        "psnr": np.array([psnr(*pair) for pair in pairs]),
        "ssim": np.array([ssim(*pair) for pair in pairs]),
    }


DEFINITION_IMAGES = (
    200  # are scored: all definitions together take ten milliseconds for 64 px, 150 for 256 px
)
BORDER = 4  # pixels, as in super-resolution by a factor of four
LUMA = np.array([65.481, 128.553, 24.966]) / 255  # ITU-R BT.601: Y from 16 (black) to 235 (white)
GREY = np.array([0.299, 0.587, 0.114])  # the same from 0 to 255
DEFINITION_COLUMNS = ("variant", "definition", "metric", "value")
Score = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Definition:
    """One meaning of a metric; `score` takes a restored and a sharp uint8 image (H, W, 3); `habit`: who does so."""

    name: str
    metric: str
    score: Score
    habit: str
    pooled: bool = (
        False  # `score` is the mean squared error, and PSNR that of its mean over all images
    )


def _skimage(restored: np.ndarray, sharp: np.ndarray, data_range: float = 255, **settings) -> float:
    return structural_similarity(
        restored, sharp, data_range=data_range, channel_axis=-1, **settings
    )


WANG = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def _floats_of_range_two(restored: np.ndarray, sharp: np.ndarray) -> float:
    return _skimage(restored / 255, sharp / 255, 2.0, **WANG)


def _everywhere(restored: np.ndarray, sharp: np.ndarray, mode: str, axes: tuple[int, ...]) -> float:
    """SSIM of all windows, also those that leave the image, by a Gaussian along `axes`; `mode`: what lies outside."""
    x, y = restored.astype(float), sharp.astype(float)
    mx, my, xx, yy, xy = (
        gaussian_filter(z, DEFINITION.sigma, mode=mode, radius=5, axes=axes)
        for z in (x, y, x * x, y * y, x * y)
    )
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
    return float(np.mean(top / ((mx**2 + my**2 + c1) * (xx - mx**2 + yy - my**2 + c2))))


def _grey(restored: np.ndarray, sharp: np.ndarray) -> float:
    """SSIM of 8-bit grey images, three equal channels each."""
    grey = (np.rint(item @ GREY).astype(np.uint8) for item in (restored, sharp))
    return ssim(*(np.repeat(item[..., None], 3, -1) for item in grey))


def _luma(score: Callable[..., float]) -> Score:
    """`score` on Y, as an image of three equal channels."""

    def measure(restored: np.ndarray, sharp: np.ndarray) -> float:
        return score(
            *(np.repeat((16 + item @ LUMA)[..., None], 3, -1) for item in (restored, sharp)), 255
        )

    return measure


def _cropped(restored: np.ndarray, sharp: np.ndarray) -> float:
    return psnr(*(item[BORDER:-BORDER, BORDER:-BORDER] for item in (restored, sharp)))


def _squared(restored: np.ndarray, sharp: np.ndarray) -> float:
    return float(np.mean(np.square(restored.astype(float) - sharp)))


DEFINITIONS = (
    Definition("this suite", "psnr", psnr, "8-bit RGB, per image"),
    Definition("pooled over images", "psnr", _squared, "torchmetrics without `dim`", pooled=True),
    Definition("Y channel", "psnr", _luma(psnr), "super-resolution"),
    Definition(f"border of {BORDER} px cropped", "psnr", _cropped, "KAIR, super-resolution"),
    Definition("this suite", "ssim", ssim, "Wang et al.: Gaussian 11 x 11, per channel"),
    Definition("scikit-image default", "ssim", _skimage, "7 x 7 box, sample covariance"),
    Definition(
        "sample covariance",
        "ssim",
        partial(_skimage, gaussian_weights=True, sigma=1.5),
        "scikit-image with the Gaussian alone",
    ),
    Definition(
        "floats, range 2", "ssim", _floats_of_range_two, "scikit-image's former default for floats"
    ),
    Definition("grey first", "ssim", _grey, "8-bit grey, as image libraries convert"),
    Definition("Y channel", "ssim", _luma(ssim), "super-resolution"),
    Definition(
        "border counted",
        "ssim",
        partial(_everywhere, mode="mirror", axes=(0, 1)),
        "torchmetrics, kornia",
    ),
    Definition(
        "through colour",
        "ssim",
        partial(_everywhere, mode="nearest", axes=(0, 1, 2)),
        "MATLAB ssim(rgb), NAFNet",
    ),
)


def astronaut() -> tuple[np.ndarray, np.ndarray]:
    """The pair of the lesson: a 256 x 256 crop of scikit-image's astronaut under a horizontal box blur of 15 px.

    Returns the blurred one before rounding, float32 (256, 256, 3) in [0, 255], and the sharp one, uint8.
    """
    sharp = data.astronaut()[:256, 100:356]
    return blur_image(sharp / 255, np.full((1, 15), 1 / 15)) * 255, sharp


def value(definition: Definition, restored: np.ndarray, sharp: np.ndarray) -> float:
    """A definition's score of images uint8 (N, H, W, 3): the mean over images, or PSNR of the pooled error."""
    mean = float(np.mean([definition.score(*pair) for pair in zip(restored, sharp, strict=True)]))
    if not definition.pooled:
        return mean
    return min(DEFINITION.cap, 10 * np.log10(255**2 / mean)) if mean else DEFINITION.cap


def definition_scores(outputs: Mapping[str, np.ndarray], sharp: np.ndarray) -> pd.DataFrame:
    """Every definition of every output: variant, definition, metric, value (PSNR in dB).

    `outputs`: variant -> uint8 (N, H, W, 3); `sharp`: the same shape.
    """
    rows = [
        (variant, definition.name, definition.metric, value(definition, images, sharp))
        for variant, images in outputs.items()
        for definition in DEFINITIONS
    ]
    return pd.DataFrame(rows, columns=list(DEFINITION_COLUMNS))


def rounding(blurred: np.ndarray, sharp: np.ndarray) -> dict[str, float]:
    """PSNR in dB of a float image (H, W, 3) in [0, 255] as it is, and after each way to make 8 bits of it."""
    return {
        "floats": psnr(blurred.astype(float), sharp.astype(float), 255),
        "rounded": psnr(np.rint(blurred).clip(0, 255).astype(np.uint8), sharp),
        "truncated": psnr(blurred.clip(0, 255).astype(np.uint8), sharp),
    }


def swapped(scores: pd.DataFrame) -> pd.DataFrame:
    """Which pairs of variants each definition ranks otherwise than the suite's: metric, definition, pairs, apart.

    `pairs`: of "a > b" in words of the suite's order; `apart`: the largest of their differences under the suite's own
    definition. A swap of two that are hardly apart means little.
    """
    rows = []
    for metric, part in scores.groupby("metric", sort=False):
        table = part.pivot(index="definition", columns="variant", values="value")
        ours = table.loc[DEFINITIONS[0].name]
        for name in part.definition.unique():
            found = [
                pair
                for pair in combinations(table.columns, 2)
                if _turned(ours, table.loc[name], pair)
            ]
            words = [" > ".join(sorted(pair, key=lambda variant: -ours[variant])) for pair in found]
            apart = max((abs(ours[first] - ours[second]) for first, second in found), default=0.0)
            rows.append(
                {"metric": metric, "definition": name, "pairs": ", ".join(words), "apart": apart}
            )
    return pd.DataFrame(rows)


def _turned(ours: pd.Series, theirs: pd.Series, pair: tuple[str, str]) -> bool:
    first, second = pair
    return (ours[first] - ours[second]) * (theirs[first] - theirs[second]) < 0


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
CLASSICAL_IMAGES = (
    500  # of a split at a severity are restored; all of 5,000 photos of 256 px would take hours
)
CLASSICAL_COLUMNS = ("split", "severity", "id", "variant", "psnr", "ssim")
CLASSICAL_NOTE = (
    f"Wiener and Richardson-Lucy ({STEPS} iterations) are told the true kernel; both take the photo as mirrored at its "
    f"border, and at most {CLASSICAL_IMAGES} photos are restored. Wiener's regularisation is chosen per severity on validation "
    f"photos from {BALANCES[0]:.6f} to {BALANCES[-1]:g}; the number of iterations is not tuned."
)
Method = Callable[[np.ndarray, np.ndarray], np.ndarray]


def score_classical(corpus: "Corpus | Path | str", config: Config) -> pd.DataFrame:
    """PSNR (dB) and SSIM of both methods on validation and test: split, severity, id, variant, psnr, ssim.

    `corpus`: prepared photos or scenes, or their folder; of each split at most the first `CLASSICAL_IMAGES`. Pairs (GoPro), whose
    blur is real motion, which no one kernel describes, give an empty frame.
    """
    from s3e.data.corpus import load_corpus

    corpus = load_corpus(corpus) if isinstance(corpus, (str, Path)) else corpus
    frames = [pd.DataFrame(columns=list(CLASSICAL_COLUMNS))]
    one_kernel = "released" not in corpus.severities
    for severity in corpus.severities if one_kernel else ():
        balance = choose_balance(corpus.val, severity, config.blur)
        methods = {"wiener": partial(wiener, balance=balance), "richardson_lucy": richardson_lucy}
        for split in (corpus.val, corpus.test):
            rows = split.rows(severity)[:CLASSICAL_IMAGES]
            frames += [
                _scored(split, severity, rows, name, method, config.blur)
                for name, method in methods.items()
            ]
    return pd.concat(frames[1:] or frames, ignore_index=True)


def choose_balance(split: "Split", severity: str, blur: Blur) -> float:
    """The regularisation of `BALANCES` with which Wiener's filter restores the first photos of `split` best (PSNR)."""
    rows = split.rows(severity)[:CHOSEN_ON]
    means = []
    for balance in BALANCES:
        restored = restore(split, severity, rows, partial(wiener, balance=balance), blur)
        means.append(score_batch(restored, split.sharp[rows])["psnr"].mean())
    return BALANCES[int(np.argmax(means))]


def restore(
    split: "Split", severity: str, rows: np.ndarray, method: Method, blur: Blur
) -> np.ndarray:
    """Deconvolve the photos `rows` (n) of a split in linear light: uint8 n x H x W x 3."""
    blurred = split.blurred[severity][rows]
    light = (blurred / np.float32(255)) ** np.float32(blur.gamma)
    pairs = zip(light, true_kernels(split, severity, rows, blur), strict=True)
    restored = np.stack([method(photo, kernel) for photo, kernel in pairs])
    return to_uint8(restored.clip(0, 1) ** (1 / blur.gamma), low=0.0)


def true_kernels(split: "Split", severity: str, rows: np.ndarray, blur: Blur) -> list[np.ndarray]:
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
    split: "Split", severity: str, rows: np.ndarray, name: str, method: Method, blur: Blur
) -> pd.DataFrame:
    scores = score_batch(restore(split, severity, rows, method, blur), split.sharp[rows])
    about = {
        "split": split.name,
        "severity": severity,
        "id": [split.ids[row] for row in rows],
        "variant": name,
    }
    return pd.DataFrame(about | scores)[list(CLASSICAL_COLUMNS)]
