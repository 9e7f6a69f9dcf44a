"""PSNR and SSIM under one stated protocol (specification 4.4): 8-bit RGB, whole image, per image, then the mean."""

import numpy as np
from skimage.metrics import structural_similarity

PSNR_CAP = 100.0  # dB; two identical images would otherwise give infinity and ruin every mean

PROTOCOL = (
    "Restored images are clamped and rounded to 8 bit. PSNR: RGB, data range 255, one value per image (identical "
    "images: 100 dB), then the mean over images. SSIM: scikit-image structural_similarity per colour channel with "
    "Gaussian weights (sigma 1.5), population covariance, data range 255. No border is cropped before scoring."
)


def to_uint8(image: np.ndarray, low: float, high: float = 1.0) -> np.ndarray:
    """Map float values in [low, high] (`low` is -1 or 0) to uint8: clamp, then round. Any shape; NaN: ValueError."""
    image = np.asarray(image, float)
    if np.isnan(image).any():
        raise ValueError("to_uint8: the image contains NaN; the network that made it has diverged.")
    return np.rint((np.clip(image, low, high) - low) * (255 / (high - low))).astype(np.uint8)


def psnr(restored: np.ndarray, sharp: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 images (H, W, 3), at most 100 dB."""
    _check(restored, sharp, 3)
    difference = restored.astype(np.int32) - sharp
    error = np.mean(difference * difference, dtype=float)
    return float(min(PSNR_CAP, 10 * np.log10(255**2 / error))) if error else PSNR_CAP


def ssim(restored: np.ndarray, sharp: np.ndarray) -> float:
    """Structural similarity of two uint8 images (H, W, 3), at least 11 pixels a side; mean of the three channels."""
    _check(restored, sharp, 3)
    if min(sharp.shape[:2]) < 11:
        raise ValueError(f"ssim: images of shape {sharp.shape} are smaller than the 11-pixel window.")
    return float(
        structural_similarity(
            restored,
            sharp,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
        )
    )


def score_batch(restored: np.ndarray, sharp: np.ndarray) -> dict[str, np.ndarray]:
    """Score uint8 images (N, H, W, 3) one by one: {"psnr": (N,) in dB, "ssim": (N,)}."""
    _check(restored, sharp, 4)
    pairs = list(zip(restored, sharp, strict=True))
    return {"psnr": np.array([psnr(*pair) for pair in pairs]), "ssim": np.array([ssim(*pair) for pair in pairs])}


def _check(restored: np.ndarray, sharp: np.ndarray, dimensions: int) -> None:
    if restored.dtype != np.uint8 or sharp.dtype != np.uint8:
        raise ValueError(f"Images must be uint8, not {restored.dtype} and {sharp.dtype}: use to_uint8 first.")
    if restored.shape != sharp.shape or sharp.ndim != dimensions or sharp.shape[-1] != 3:
        raise ValueError(f"Images must have one RGB shape in common, not {restored.shape} and {sharp.shape}.")
