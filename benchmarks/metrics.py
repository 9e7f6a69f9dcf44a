"""PSNR and SSIM beside scikit-image, on one thread: `python benchmarks/metrics.py`.

Both score the same pictures, scikit-image with the settings that the protocol names, and must agree
to 1e-6. Milliseconds are this thread's processor time; the two take turns, so that other jobs hurt
both.
"""

import argparse
import os
import time

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import skimage  # noqa: E402
from skimage.metrics import peak_signal_noise_ratio, structural_similarity  # noqa: E402

from s3e.evaluation.images import psnr, ssim  # noqa: E402
from s3e.utils import rng  # noqa: E402

SIZES = {
    "one frame of 1280 x 720": (1, 720, 1280),
    "64 photos of 64 px": (64, 64, 64),
    "8 of 256 px": (8, 256, 256),
}
REQUIRED = 3


def pictures(count: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth random pictures, uint8 (N, H, W, 3), and the same with noise."""
    generator = rng("benchmark", "metrics", height, width)
    coarse = generator.integers(0, 256, (count, 9, 16, 3), np.uint8)
    sharp = np.stack(
        [cv2.resize(item, (width, height), interpolation=cv2.INTER_CUBIC) for item in coarse]
    )
    return np.clip(sharp + generator.normal(0, 12, sharp.shape), 0, 255).astype(np.uint8), sharp


def skimage_psnr(restored: np.ndarray, sharp: np.ndarray) -> float:
    return peak_signal_noise_ratio(sharp, restored, data_range=255)


def skimage_ssim(restored: np.ndarray, sharp: np.ndarray) -> float:
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return structural_similarity(restored, sharp, channel_axis=-1, data_range=255, **settings)


METRICS = {"PSNR": (psnr, skimage_psnr), "SSIM": (ssim, skimage_ssim)}


def compare(name: str, shape: tuple[int, int, int], repeats: int) -> None:
    """Check that both give the same values, then let them take turns and print their medians."""
    restored, sharp = pictures(*shape)
    print(f"  {name}")
    for metric, measures in METRICS.items():
        times, values = np.empty((repeats, 2)), np.empty((2, shape[0]))
        for turn in range(repeats):
            for place, measure in enumerate(measures):
                start = time.thread_time()
                values[place] = [measure(*pair) for pair in zip(restored, sharp, strict=True)]
                times[turn, place] = 1e3 * (time.thread_time() - start) / shape[0]
        apart = np.abs(values[0] - values[1]).max()
        if apart > 1e-6:
            raise SystemExit(f"{metric} differs by {apart:.1e}; nothing was measured.")
        ours, theirs = np.median(times, 0)
        ratios = times[:, 1] / times[:, 0]
        print(
            f"    {metric}: suite {ours:8.3f} ms an image, scikit-image {theirs:8.3f}:"
            f" {theirs / ours:.1f} times as fast ({ratios.min():.1f}-{ratios.max():.1f}), values"
            f" within {apart:.0e}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    cv2.setNumThreads(1)
    print(
        f"one thread, medians of {repeats} turns; OpenCV {cv2.__version__}, scikit-image"
        f" {skimage.__version__}"
    )
    for name, shape in SIZES.items():
        compare(name, shape, repeats)
    print(f"SSIM of 1280 x 720 at least {REQUIRED} times as fast is required")


if __name__ == "__main__":
    main()
