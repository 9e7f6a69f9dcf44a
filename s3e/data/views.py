"""The views of some photos as arrays: the sharp ones at the size that networks see, and blurred ones of each severity.

Photos are blurred with kernels of their own (`s3e.blur`). Pairs bring their blurred frame ("released"); their severe
view is the mean of several neighbours, of released frames or of the raw video (specification 4.3, variants B and A).
"""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from s3e.blur import blur_batch
from s3e.config import Blur, Config
from s3e.data.photos import central_crop, load_photo, load_whole
from s3e.data.plan import Part, side
from s3e.utils import S3EError, psnr

GAMMA = 2.2  # raw frames are averaged in linear light, x^2.2
LINEAR = ((np.arange(256) / 255) ** GAMMA).astype(np.float32)


class View(NamedTuple):
    """Photos at one severity: uint8 (N, H, W, 3); per photo the kernel extent in pixels and the input PSNR in dB.

    `extents` is None where no kernel was drawn, `psnr` where the photo does not have this severity.
    """

    images: np.ndarray
    extents: list[float | None]
    psnr: list[float | None]


def blurred_views(sharp: np.ndarray, ids: Sequence[str], severity: str, blur: Blur) -> View:
    """Blur sharp photos, uint8 (N, S, S, 3), each with the kernel of its id."""
    images, extents = blur_batch(
        sharp, ids, severity, blur.seed, blur.gamma, blur.noise, blur.motion
    )
    return View(images, [round(float(value), 3) for value in extents], _against(sharp, images))


def make_views(part: Part, config: Config) -> tuple[np.ndarray, dict[str, View]]:
    """The sharp photos of a part, uint8 (N, H, W, 3), and their views by severity.

    Raises `S3EError` for a broken file or for frames of unequal sizes.
    """
    if part.photos[0].blurred:
        return _pair_views(part, config.data.size, config.blur)
    sharp = np.stack([load_photo(photo.path, config.data.size) for photo in part.photos])
    ids = [photo.id for photo in part.photos]
    return sharp, {name: blurred_views(sharp, ids, name, config.blur) for name in part.severities}


def _pair_views(part: Part, size: int, blur: Blur) -> tuple[np.ndarray, dict[str, View]]:
    load = cache(load_whole if part.whole else lambda path: load_photo(path, size, side(size)))
    sharp = _stack([load(photo.path) for photo in part.photos], part)
    unknown: list[float | None] = [None] * len(sharp)
    views = {}
    if "released" in part.severities:
        images = _stack([load(photo.blurred) for photo in part.photos], part)
        views["released"] = View(images, unknown, _against(sharp, images))
    if "severe" in part.severities:
        mean = (
            _raw_mean(blur.frames, None if part.whole else size)
            if blur.average == "raw"
            else _released_mean(load)
        )
        blank = np.zeros_like(sharp[0])
        images = _stack(
            [blank if window is None else mean(window) for window in part.windows], part
        )
        scores = zip(_against(sharp, images), part.windows, strict=True)
        views["severe"] = View(
            images, unknown, [None if window is None else score for score, window in scores]
        )
    return sharp, views


def _stack(images: list[np.ndarray], part: Part) -> np.ndarray:
    for image, photo in zip(images, part.photos, strict=True):
        if image.shape != part.shape:
            raise S3EError(
                f"{photo.path}: this frame, its blurred partner or its raw frames have {image.shape[1]} x "
                f"{image.shape[0]} pixels, not {part.shape[1]} x {part.shape[0]}: replace the file or remove the pair."
            )
    return np.stack(images)


def _against(sharp: np.ndarray, images: np.ndarray) -> list[float]:
    return [psnr(*pair) for pair in zip(images, sharp, strict=True)]


def _released_mean(load: Callable[[Path], np.ndarray]) -> Callable[[tuple[Path, ...]], np.ndarray]:
    """Variant B: the mean of released blurred frames, as they are coded."""
    return lambda window: np.rint(
        np.mean([load(path) for path in window], axis=0, dtype=np.float64)
    ).astype(np.uint8)


def _raw_mean(frames: int, size: int | None) -> Callable[[tuple[Path, ...]], np.ndarray]:
    """Variant A: the mean of raw frames in linear light at full size, then cropped as released frames are."""

    @lru_cache(frames)  # neighbouring windows share all but one part
    def light(part: tuple[Path, ...]) -> np.ndarray:
        return sum(LINEAR[load_whole(path)] for path in part)

    def mean(window: tuple[Path, ...]) -> np.ndarray:
        step = len(window) // frames
        parts = [light(window[i : i + step]) for i in range(0, len(window), step)]
        image = np.rint(255 * (sum(parts) / len(window)) ** (1 / GAMMA)).astype(np.uint8)
        return image if size is None else central_crop(Image.fromarray(image), size, side(size))

    return mean
