"""Synthetic camera shake: random paths, their kernels (point spread functions), convolution.

Paths follow Boracchi and Foi with DeblurGAN's constants (specification 3.7). Two details of
DeblurGAN's public code are left out on purpose: a kernel keeps unit sum (no min-max scaling) and is
centred to a fraction of a pixel. Every kernel is keyed by (image id, severity, size, seed), hence
the same in every run and in every batch.
"""

import cmath
import math
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

import cv2
import numpy as np
from numpy import ndarray

from s3e.utils import rng, to_uint8

STEPS = 2000  # samples of one path: the exposure clock
MIX = (0.01, 0.009, 0.008, 0.007, 0.005, 0.003)  # explorations of DeblurGAN's public demo


class Severity(NamedTuple):
    """A named blur: path length over the image's side, and what is drawn from for each image.

    A larger exploration curls the path up, so it blurs less.
    """

    length_ratio: float
    explorations: tuple[float, ...]
    fractions: tuple[float, ...]


SEVERITIES = {
    "light": Severity(0.234, MIX, (0.1, 0.5, 1.0)),
    "moderate": Severity(0.5, (0.003, 0.005), (1.0,)),
    "severe": Severity(0.94, (0.003, 0.005), (1.0,)),
}


# Paths


def _draw(generator: np.random.Generator, exploration: float, step: float, steps: int) -> tuple:
    """All random numbers of one path: first velocity, pull, noise, factors of shakes."""
    inertia, shake, gauss = generator.random(3) * (0.7, 0.2, 10.0)
    velocity = cmath.rect(exploration / step or 1.0, generator.random() * 2 * math.pi)
    noise = generator.standard_normal((steps - 1, 2)) * (exploration * gauss)
    times = np.flatnonzero(generator.random(steps - 1) < shake * exploration)
    shakes = np.ones(steps - 1, complex)
    angles = math.pi + generator.random(len(times)) - 0.5
    shakes[times] = [1 + 2 * cmath.rect(1, angle) for angle in angles]
    return velocity, exploration * inertia, noise, shakes


def walk(draws: Sequence[tuple], step: float) -> ndarray:
    """Walk many paths (drawn in units of one step) at once: complex (n, steps), in pixels.

    Real, elementwise arithmetic only, so that a path has the same bits in any company.
    """
    velocities, pulls, noise, shakes = zip(*draws, strict=True)
    velocity = np.array(velocities)[:, None].view(float)  # (n, 2)
    pull = step * np.array(pulls)[:, None]
    moves, shakes = np.stack(noise, axis=1), np.stack(shakes, axis=1)  # (steps - 1, n, 2)
    force, shaken = np.zeros_like(velocity), (shakes != 1).any(axis=1)
    for t, move in enumerate(moves):
        if shaken[t]:
            (x, y), turn = velocity.T, shakes[t]
            velocity = np.stack([x * turn.real - y * turn.imag, x * turn.imag + y * turn.real], 1)
        move += velocity
        move += force
        move /= np.sqrt(move[:, :1] * move[:, :1] + move[:, 1:] * move[:, 1:])
        force -= move * pull
        velocity = move.copy()
    path = np.zeros((len(draws), len(moves) + 1), complex)
    path[:, 1:] = moves.cumsum(axis=0).view(complex)[..., 0].T
    return path * step


def trajectories(
    count: int,
    length: float,
    exploration: float,
    generator: np.random.Generator,
    steps: int = STEPS,
) -> ndarray:
    """Draw `count` camera paths of `length` pixels (specification 3.7): complex128 (count, steps).

    Real = column, imaginary = row, in pixels, from 0 on, equal exposure time between samples. A
    path depends on the generator's state only, not on how many are drawn with it.
    """
    if length <= 0 or exploration < 0 or steps < 2 or count < 1:
        raise ValueError(
            "trajectories: need count >= 1, length > 0, exploration >= 0 and steps >= 2."
        )
    step = length / (steps - 1)
    return walk([_draw(generator, exploration, step, steps) for _ in range(count)], step)


def exposed(trajectory: ndarray, fraction: float) -> ndarray:
    """The part of a trajectory that the shutter sees: its first `fraction` (0 < fraction <= 1)."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}: it must lie in (0, 1].")
    return trajectory[: max(1, round(fraction * len(trajectory)))]


# Kernels


def psf(trajectory: ndarray, fraction: float = 1.0) -> ndarray:
    """Point spread function of a path (complex, 1-D): float64 (side, side), odd side, unit sum.

    The centroid of the exposed part is in the middle, so that a blurred image lies where its sharp
    one does: bilinear weights keep the first moment, hence subtracting the mean of the path centres
    the kernel exactly.
    """
    path = exposed(np.asarray(trajectory), fraction)
    path = path - path.mean()
    radius = math.ceil(max(np.abs(path.real).max(), np.abs(path.imag).max()) - 1e-9)
    side = 2 * radius + 3  # one spare ring for the neighbours of samples on the rim
    x, y = path.real + (radius + 1), path.imag + (radius + 1)
    left, top = x.astype(np.intp), y.astype(np.intp)  # all positive: truncation is the floor
    u, v = x - left, y - top
    corner = top * side + left
    index = np.concatenate([corner, corner + 1, corner + side, corner + side + 1])
    weight = np.concatenate([1 - u - v + u * v, u - u * v, v - u * v, u * v])
    cells = np.bincount(index, weight, side * side).reshape(side, side)[1:-1, 1:-1]
    return cells / len(path)


def extent(path: ndarray) -> float:
    """Larger side of the bounding box of a path (complex, 1-D) in pixels."""
    return float(max(np.ptp(path.real), np.ptp(path.imag)))


def kernels_for(
    ids: Sequence[str | int], severity: str, size: int, seed: int = 0
) -> tuple[list[ndarray], ndarray]:
    """Kernels (see `psf`) of many images of side `size`, and their extents in pixels (n,).

    Those with a radius of size / 2 or more are drawn again.
    """
    if severity not in SEVERITIES:
        known = ", ".join(SEVERITIES)
        raise ValueError(f"Unknown severity {severity!r}: choose one of {known}.")
    ratio, explorations, fractions = SEVERITIES[severity]
    step, found = ratio * size / (STEPS - 1), {}
    for attempt in count():
        wanted = [i for i in range(len(ids)) if i not in found]
        if not wanted:
            break
        shares, draws = [], []
        for i in wanted:
            generator = rng("blur", seed, severity, size, str(ids[i]), attempt)
            exploration, share = generator.choice(explorations), generator.choice(fractions)
            shares.append(share)
            draws.append(_draw(generator, exploration, step, STEPS))
        for i, path, share in zip(wanted, walk(draws, step), shares, strict=True):
            path = exposed(path, share)
            if len(kernel := psf(path)) // 2 < size / 2:
                found[i] = kernel, extent(path)
    kernels, extents = zip(*(found[i] for i in range(len(ids))), strict=True)
    return [*kernels], np.array(extents)


# Images


def blur_image(
    image: ndarray,
    kernel: ndarray,
    gamma: float = 1.0,
    sigma: float = 0.0,
    generator: np.random.Generator | None = None,
) -> ndarray:
    """Convolve an image (H, W, C) or (H, W) in [0, 1] with a kernel of odd sides; float32, too.

    `gamma` = 2.2 convolves in linear light; `sigma` adds N(0, sigma^2) noise from `generator`.
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3) or image.size == 0 or image.min() < 0 or not image.max() <= 1:
        raise ValueError(
            "blur_image: image must be (H, W, C) or (H, W) in [0, 1]; divide uint8 by 255."
        )
    levels = convolve(image if gamma == 1 else image**gamma, kernel).clip(0, 1)
    levels = levels if gamma == 1 else levels ** (1 / gamma)
    if sigma:
        levels += (sigma * generator.standard_normal(image.shape)).astype(np.float32)
    return levels.clip(0, 1)


def blur_batch(
    images: ndarray,
    ids: Sequence[str | int],
    severity: str,
    seed: int = 0,
    gamma: float = 1.0,
    sigma: float = 0.0,
) -> tuple[ndarray, ndarray, list[ndarray]]:
    """Blur uint8 images (N, H, W, C): the same, their extents (N,) in pixels, and their kernels.

    An image's result does not depend on its neighbours in the batch. Severities scale with the
    shorter side. `gamma`, `sigma`: see `blur_image`.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(ids):
        raise ValueError("blur_batch: images must be uint8 (N, H, W, 3) with one id each.")
    kernels, extents = kernels_for(ids, severity, min(images.shape[1:3]), seed)
    blurred = np.empty_like(images)
    for i, (image, kernel) in enumerate(zip(images, kernels, strict=True)):
        noise = rng("noise", seed, severity, str(ids[i]))
        levels = blur_image(image / np.float32(255), kernel, gamma, sigma, noise)
        blurred[i] = np.rint(255 * levels)
    return blurred, extents, kernels


def expose(
    photo: ndarray,
    length: float,
    exploration: float,
    exposure: float,
    noise: float = 0.0,
    seed: int = 0,
) -> tuple[ndarray, int, ndarray, ndarray]:
    """Blur a photo by a path of `length` shorter sides (specification 3.7); `noise`: deviation.

    Returns the path, how many of its samples are seen, kernel and blurred photo, as `sheets.shakes`
    draws them. One seed has one path: the other settings stretch, bend and cut it. Noise is in
    units of white.
    """
    pixels = length * min(photo.shape[:2])
    path = trajectories(1, pixels, exploration, rng("laboratory", seed))[0]
    kernel, draws = psf(path, exposure), rng("noise", "laboratory", seed)
    blurred = blur_image(photo / np.float32(255), kernel, sigma=noise, generator=draws)
    return path, len(exposed(path, exposure)), kernel, to_uint8(blurred, 0.0)


def convolve(image: ndarray, kernel: ndarray) -> ndarray:
    """Convolve (H, W, C) or (H, W) with a kernel (2-D, odd sides); returns float32 of that shape.

    The border is reflected without repeating the edge, as often as a wide kernel needs. Within 1e-5
    of double precision for images in [0, 1].
    """
    if kernel.ndim != 2 or kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
        raise ValueError(f"a kernel must be 2-D with odd sides, not {kernel.shape}.")
    turned = np.ascontiguousarray(kernel[::-1, ::-1], np.float32)
    image = np.ascontiguousarray(image, np.float32)
    found = cv2.filter2D(image, cv2.CV_32F, turned, borderType=cv2.BORDER_REFLECT_101)
    return found.reshape(image.shape)
