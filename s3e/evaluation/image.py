"""PSNR and SSIM under one stated protocol (specification 4.4): 8-bit RGB, whole image, per image, then the mean.

SSIM is that of Wang et al. (2004), filtered row by row and column by column; tests hold it against scikit-image.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from s3e.utils import PSNR_CAP, peak_value, psnr

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
