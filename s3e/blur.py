"""Synthetic camera-shake blur: named severities, one kernel per photo, batches of photos.

Source: specification 3.7 (paths and kernels, see `s3e.camera`) and 3.8 (severities). Every kernel is keyed by
(image id, severity, size, seed), hence the same in every run and in every batch.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from s3e.camera import CHUNK, STEPS, draw, exposed, extent, psf, trajectories, walk
from s3e.convolution import Shot, blob, blur_image, expose_all, sensor_noise
from s3e.utils import rng

__all__ = [
    "SEVERITIES",
    "blur_batch",
    "blur_image",
    "exposed",
    "extent",
    "kernel_for",
    "psf",
    "trajectories",
]

MIX = (
    0.01,
    0.009,
    0.008,
    0.007,
    0.005,
    0.003,
)  # explorations of the public demo; a larger one curls up, so blurs less
SHOTS = 64  # images whose masks and noise are held at once


@dataclass(frozen=True)
class Severity:
    """A named blur: trajectory length over image side, and the explorations and exposure fractions drawn from."""

    length_ratio: float
    explorations: tuple[float, ...]
    fractions: tuple[float, ...]


SEVERITIES = {
    "light": Severity(0.234, MIX, (0.1, 0.5, 1.0)),
    "moderate": Severity(0.5, (0.003, 0.005), (1.0,)),
    "severe": Severity(0.94, (0.003, 0.005), (1.0,)),
}


def severity_of(name: str) -> Severity:
    """Look up a named severity; an unknown name raises ValueError that lists the known ones."""
    if name not in SEVERITIES:
        raise ValueError(f"Unknown severity {name!r}: choose one of {', '.join(SEVERITIES)}.")
    return SEVERITIES[name]


def kernel_for(image_id: str | int, severity: str, size: int, seed: int = 0) -> np.ndarray:
    """The kernel of one image of side `size` (see `psf`): the same in every run, radius always below size / 2."""
    return kernels_for([image_id], severity, size, seed)[0][0]


def kernels_for(
    ids: Sequence[str | int], severity: str, size: int, seed: int = 0, layer: str = "blur"
) -> tuple[list[np.ndarray], np.ndarray]:
    """Kernels of many images and their extents in pixels, float64 (n,); one too large for its image is drawn again.

    `layer`: "blur" for the camera, "object" for what moves on its own.
    """
    setting = severity_of(severity)
    kernels: list = [None] * len(ids)
    extents = np.zeros(len(ids))
    wanted = range(len(ids))
    for attempt in itertools.count():
        for start in range(0, len(wanted), CHUNK):
            chunk = wanted[start : start + CHUNK]
            keys = [(layer, seed, severity, size, str(ids[i]), attempt) for i in chunk]
            for i, path in zip(chunk, _keyed_paths(keys, setting, size), strict=True):
                kernels[i], extents[i] = psf(path), extent(path)
        wanted = [i for i in wanted if len(kernels[i]) // 2 >= size / 2]
        if not wanted:
            return kernels, extents


def _keyed_paths(keys: list[tuple], setting: Severity, size: int) -> list[np.ndarray]:
    """The exposed paths of many keys; each draws its own exploration, fraction and walk from its own generator."""
    step = setting.length_ratio * size / (STEPS - 1)
    starts, fractions, noise = [], [], np.empty((len(keys), STEPS - 1, 2))
    for key, row in zip(keys, noise, strict=True):
        generator = rng(*key)
        exploration = setting.explorations[generator.integers(len(setting.explorations))]
        fractions.append(setting.fractions[generator.integers(len(setting.fractions))])
        starts.append(draw(generator, exploration, step, row))
    paths = walk(starts, noise, step)
    return [exposed(path, fraction) for path, fraction in zip(paths, fractions, strict=True)]


def blur_batch(
    images: np.ndarray,
    ids: Sequence[str | int],
    severity: str,
    seed: int = 0,
    gamma: float = 1.0,
    sigma: float = 0.0,
    motion: str = "camera",
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Blur uint8 images (N, H, W, C), each with its own kernel; returns uint8 (N, H, W, C) and extents (N,) in pixels.

    An image's result does not depend on its neighbours in the batch. Severities scale with the shorter side; extents
    are those of the camera's motion. `gamma`, `sigma`: see `blur_image`. `motion` = "object": one region of each image
    moves along a path of its own (see `shake`). `device`: another torch device ("cuda") gives the same images to within
    one grey level.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(ids):
        raise ValueError("blur_batch: images must be uint8 (N, H, W, 3) with one id each.")
    if motion not in ("camera", "object"):
        raise ValueError(f"blur_batch: unknown motion {motion!r}: choose camera or object.")
    size = min(images.shape[1:3])
    kernels, extents = kernels_for(ids, severity, size, seed)
    own = (
        kernels_for(ids, severity, size, seed, "object")[0]
        if motion == "object"
        else [None] * len(ids)
    )
    blurred = np.empty_like(images)
    for start in range(0, len(ids), SHOTS):
        part = slice(start, start + SHOTS)
        shots = [
            _shot(images.shape[1:], str(photo), severity, seed, sigma, camera, moving)
            for photo, camera, moving in zip(ids[part], kernels[part], own[part], strict=True)
        ]
        expose_all(images[part], shots, gamma, device, blurred[part])
    return blurred, extents


def _shot(
    shape: tuple, photo: str, severity: str, seed: int, sigma: float, camera: Any, own: Any
) -> Shot:
    mask = None if own is None else blob(*shape[:2], rng("blob", seed, photo))
    noise = sensor_noise(shape, sigma, rng("noise", seed, severity, photo)) if sigma else None
    return Shot(camera, own, mask, noise)
