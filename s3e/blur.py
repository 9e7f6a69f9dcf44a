"""Synthetic camera shake: random paths, their kernels (point spread functions), named severities,
convolution.

Paths follow Boracchi and Foi with DeblurGAN's constants (specification 3.7). Two details of
DeblurGAN's public code are left out on purpose: a kernel keeps unit sum (no min-max scaling) and is
centred to a fraction of a pixel. Every kernel is keyed by (image id, severity, size, seed), hence
the same in every run and in every batch.
"""

import cmath
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from s3e.utils import rng

STEPS = 2000  # samples of one path: the exposure clock
CHUNK = 256  # paths walked at once: the noise of one chunk takes 8 MB
MIX = (0.01, 0.009, 0.008, 0.007, 0.005, 0.003)  # explorations of DeblurGAN's public demo
TAPS = 8  # kernels of so few cells are summed cell by cell
TRANSFORMS = "OpenCV with IPP" if cv2.ipp.useIPP() else "OpenCV"  # they differ in the last bits


@dataclass(frozen=True)
class Severity:
    """A named blur: path length over the image's side, and the explorations and exposed fractions
    drawn from.

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


class Draw(NamedTuple):
    """All random numbers of one path, in units of one step."""

    velocity: complex  # the first one
    pull: float
    noise: np.ndarray  # (steps - 1, 2)
    shakes: dict[int, float]  # time -> angle


def _draw(generator: np.random.Generator, exploration: float, step: float, steps: int) -> Draw:
    inertia, shake, gauss = generator.random(3) * (0.7, 0.2, 10.0)
    velocity = cmath.rect(exploration / step or 1.0, generator.random() * 2 * math.pi)
    noise = generator.standard_normal((steps - 1, 2)) * (exploration * gauss)
    times = np.flatnonzero(generator.random(steps - 1) < shake * exploration)
    shakes = dict(zip(times, math.pi + generator.random(len(times)) - 0.5, strict=True))
    return Draw(velocity, exploration * inertia, noise, shakes)


def walk(draws: Sequence[Draw], step: float) -> np.ndarray:
    """Walk many paths at once; returns complex (n, steps) in pixels.

    Real, elementwise arithmetic only, so that a path has the same bits in any company.
    """
    velocity = np.array([[draw.velocity.real, draw.velocity.imag] for draw in draws])  # (n, 2)
    pull = np.array([[draw.pull * step] for draw in draws])
    moves = np.stack([draw.noise for draw in draws], axis=1)  # (steps - 1, n, 2)
    force, shaken = np.zeros_like(velocity), {t for draw in draws for t in draw.shakes}
    for t, move in enumerate(moves):
        for i, draw in enumerate(draws if t in shaken else ()):
            if t in draw.shakes:
                kicked = complex(*velocity[i]) * (1 + 2 * cmath.rect(1, draw.shakes[t]))
                velocity[i] = kicked.real, kicked.imag
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
) -> np.ndarray:
    """Draw `count` camera paths of `length` pixels (specification 3.7).

    Returns complex128 (count, steps): real = column, imaginary = row, in pixels, starting at 0,
    equal exposure time between samples. A path depends on the generator's state only, not on how
    many are drawn with it.
    """
    if length <= 0 or exploration < 0 or steps < 2 or count < 1:
        raise ValueError(
            "trajectories: need count >= 1, length > 0, exploration >= 0 and steps >= 2."
        )
    step = length / (steps - 1)
    return walk([_draw(generator, exploration, step, steps) for _ in range(count)], step)


def exposed(trajectory: np.ndarray, fraction: float) -> np.ndarray:
    """The part of a trajectory that the shutter sees: its first `fraction` (0 < fraction <= 1) of
    the samples.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}: it must lie in (0, 1].")
    return trajectory[: max(1, round(fraction * len(trajectory)))]


# Kernels


def psf(trajectory: np.ndarray, fraction: float = 1.0) -> np.ndarray:
    """Point spread function of a path (complex, 1-D): float64 (side, side), odd side, unit sum,
    centroid in the middle.

    The centroid is that of the exposed part, so that a blurred image lies where its sharp one does.
    Bilinear weights keep the first moment, hence subtracting the mean of the path centres the
    kernel exactly.
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


def extent(path: np.ndarray) -> float:
    """Larger side of the bounding box of a path (complex, 1-D) in pixels."""
    return float(max(np.ptp(path.real), np.ptp(path.imag)))


def kernel_for(image_id: str | int, severity: str, size: int, seed: int = 0) -> np.ndarray:
    """The kernel of one image of side `size` (see `psf`): the same in every run, radius always
    below size / 2.
    """
    return kernels_for([image_id], severity, size, seed)[0][0]


def kernels_for(
    ids: Sequence[str | int], severity: str, size: int, seed: int = 0
) -> tuple[list[np.ndarray], np.ndarray]:
    """Kernels of many images and their extents in pixels, float64 (n,); one too large for its image
    is drawn again.
    """
    if severity not in SEVERITIES:
        known = ", ".join(SEVERITIES)
        raise ValueError(f"Unknown severity {severity!r}: choose one of {known}.")
    setting = SEVERITIES[severity]
    step = setting.length_ratio * size / (STEPS - 1)
    kernels: list = [None] * len(ids)
    extents = np.zeros(len(ids))
    attempts, wanted = [0] * len(ids), list(range(len(ids)))
    while wanted:
        chunk, wanted = wanted[:CHUNK], wanted[CHUNK:]
        fractions, draws = [], []
        for i in chunk:
            generator = rng("blur", seed, severity, size, str(ids[i]), attempts[i])
            exploration = setting.explorations[generator.integers(len(setting.explorations))]
            fractions.append(setting.fractions[generator.integers(len(setting.fractions))])
            draws.append(_draw(generator, exploration, step, STEPS))
        for i, path, fraction in zip(chunk, walk(draws, step), fractions, strict=True):
            path = exposed(path, fraction)
            kernels[i], extents[i] = psf(path), extent(path)
            attempts[i] += 1
        wanted += [i for i in chunk if len(kernels[i]) // 2 >= size / 2]
    return kernels, extents


# Images


def blur_image(
    image: np.ndarray,
    kernel: np.ndarray,
    gamma: float = 1.0,
    sigma: float = 0.0,
    generator: np.random.Generator | None = None,
) -> np.ndarray:
    """Convolve an image (H, W, C) or (H, W) in [0, 1] with a kernel of odd sides; float32 of the
    same shape, in [0, 1].

    The border is reflected. `gamma` = 2.2 convolves in linear light; `sigma` adds N(0, sigma^2)
    noise from `generator`.
    """
    image, kernel = np.asarray(image), np.asarray(kernel)
    if image.ndim not in (2, 3) or image.size == 0 or image.min() < 0 or not image.max() <= 1:
        raise ValueError(
            "blur_image: image must be (H, W, C) or (H, W) with values in [0, 1]; divide uint8 by"
            " 255."
        )
    if kernel.ndim != 2 or kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
        raise ValueError(
            f"blur_image: kernel has shape {kernel.shape}; it must be 2-D with odd sides."
        )
    if sigma and generator is None:
        raise ValueError(
            "blur_image: noise (sigma > 0) needs a generator, e.g. s3e.utils.rng('noise',"
            " image_id)."
        )
    light = np.atleast_3d(image if gamma == 1 else image**gamma)
    noise = sensor_noise(light.shape, sigma, generator) if sigma else None
    return _levels(convolve(light, kernel), gamma, noise, 1).clip(0, 1).reshape(image.shape)


def blur_bytes(
    image: np.ndarray, kernel: np.ndarray, gamma: float = 1.0, noise: np.ndarray | None = None
) -> np.ndarray:
    """`blur_image` for a uint8 image (H, W, C), with noise of that shape in units of white; rounded
    to uint8.
    """
    light = (
        image if gamma == 1 else (255 * (np.arange(256) / 255) ** gamma).astype(np.float32)[image]
    )
    levels = _levels(convolve(light, kernel), gamma, noise, 255)
    # Kernels of unit sum keep light within 1e-3 of [0, 255], so that nothing wraps around.
    return (levels + np.float32(0.5)).astype(np.uint8)


def blur_batch(
    images: np.ndarray,
    ids: Sequence[str | int],
    severity: str,
    seed: int = 0,
    gamma: float = 1.0,
    sigma: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Blur uint8 images (N, H, W, C), each with its own kernel; returns uint8 (N, H, W, C) and
    extents (N,) in pixels.

    An image's result does not depend on its neighbours in the batch. Severities scale with the
    shorter side. `gamma`, `sigma`: see `blur_image`.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(ids):
        raise ValueError("blur_batch: images must be uint8 (N, H, W, 3) with one id each.")
    kernels, extents = kernels_for(ids, severity, min(images.shape[1:3]), seed)
    blurred = np.empty_like(images)
    for i, (image, kernel) in enumerate(zip(images, kernels, strict=True)):
        generator = rng("noise", seed, severity, str(ids[i]))
        noise = sensor_noise(image.shape, sigma, generator) if sigma else None
        blurred[i] = blur_bytes(image, kernel, gamma, noise)
    return blurred, extents


def _levels(light: np.ndarray, gamma: float, noise: np.ndarray | None, white: float) -> np.ndarray:
    """From light in [0, white] to grey levels, with noise in units of white."""
    levels = light if gamma == 1 else white * (light.clip(0, white) / white) ** (1 / gamma)
    return levels if noise is None else (levels + white * noise).clip(0, white)


def sensor_noise(
    shape: tuple[int, ...], sigma: float, generator: np.random.Generator
) -> np.ndarray:
    """N(0, sigma^2) in units of white, float32."""
    return (sigma * generator.standard_normal(shape)).astype(np.float32)


def convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolve (H, W, C) of any real type with a kernel (2-D, odd sides); returns float32 (H, W,
    C).

    The border is reflected without repeating the edge, as often as a wide kernel needs. Computed in
    float32, within 1e-5 of double precision for images in [0, 1], image by image on one thread: the
    same bits in any batch.
    """
    cells, above, left = _trim(kernel)
    (height, width), (tall, wide) = image.shape[:2], cells.shape
    if np.count_nonzero(cells) <= TAPS:
        rim = (above, tall - 1 - above), (left, wide - 1 - left), (0, 0)
        padded = np.pad(image, rim, "reflect").astype(np.float32)
        blurred = np.zeros(image.shape, np.float32)
        for i, j in np.argwhere(cells):
            y, x = tall - 1 - i, wide - 1 - j
            blurred += cells[i, j] * padded[y : y + height, x : x + width]
        return blurred
    full = _fast_size(height + tall - 1), _fast_size(width + wide - 1)
    border = above, full[0] - height - above, left, full[1] - width - left
    response = np.zeros(full, np.float32)
    response[:tall, :wide] = cells * np.float32(1 / response.size)
    response = cv2.dft(response)
    planes = []
    image = np.ascontiguousarray(image, None if image.dtype == np.uint8 else np.float32)
    for plane in cv2.split(image):
        plane = cv2.copyMakeBorder(plane, *border, cv2.BORDER_REFLECT_101).astype(np.float32)
        spectrum = cv2.mulSpectrums(cv2.dft(plane), response, 0)
        plane = cv2.dft(spectrum, flags=cv2.DFT_INVERSE | cv2.DFT_REAL_OUTPUT)
        planes.append(plane[tall - 1 : tall - 1 + height, wide - 1 : wide - 1 + width])
    return cv2.merge(planes).reshape(image.shape)


def _trim(kernel: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Cut a kernel's empty rim off: float32 cells, and the pixels needed above and left of the
    image.
    """
    middle = np.array(kernel.shape) // 2
    used = np.vstack([np.argwhere(kernel), middle])
    (top, left), (bottom, right) = used.min(0), used.max(0)
    cells = kernel[top : bottom + 1, left : right + 1].astype(np.float32)
    return cells, int(bottom - middle[0]), int(right - middle[1])


@lru_cache(maxsize=4096)
def _fast_size(size: int) -> int:
    """The next length >= `size` that transforms fast: a multiple of 8, of factors 2, 3 and at most
    one 5 (measured).
    """
    lengths = (2**a * 3**b * 5**c for a in range(3, 20) for b in range(4) for c in (0, 1))
    return min(length for length in lengths if length >= size)
