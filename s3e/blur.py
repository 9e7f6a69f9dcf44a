"""Synthetic camera-shake blur: Boracchi-Foi random trajectories, point spread functions, named severities.

Source: specification 3.7 (the generator of DeblurGAN's public code) and 3.8 (severities). Two details of that code are
left out on purpose: the kernel keeps unit sum (no min-max scaling), and so do the grey levels of both images.
Every kernel is keyed by (image id, severity, size, seed), hence the same in every run and in every batch.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft

from s3e.seeds import rng

STEPS = 2000  # samples of one trajectory: the exposure clock
CHUNK = 256  # trajectories walked at once: the noise of one chunk takes 8 MB
MIX = (0.01, 0.009, 0.008, 0.007, 0.005, 0.003)  # explorations of the public demo; a larger one curls up, so blurs less


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


def trajectories(
    count: int, length: float, exploration: float, generator: np.random.Generator, steps: int = STEPS
) -> np.ndarray:
    """Draw `count` camera paths of `length` pixels (specification 3.7).

    Returns complex128 (count, steps): real = column, imaginary = row, in pixels, starting at 0, equal exposure time
    between samples. A path depends on the generator's state only, not on how many are drawn with it.
    """
    if length <= 0 or exploration < 0 or steps < 2 or count < 0:
        raise ValueError("trajectories: need count >= 0, length > 0, exploration >= 0 and steps >= 2.")
    draws = [_draw(generator, exploration, length / (steps - 1), steps) for _ in range(count)]
    chunks = [_walk(draws[i : i + CHUNK], length / (steps - 1)) for i in range(0, count, CHUNK)]
    return np.concatenate(chunks) if chunks else np.empty((0, steps), complex)


def _draw(generator: np.random.Generator, exploration: float, step: float, steps: int) -> tuple:
    """All random numbers of one path: first velocity (2,), pull, noise (steps - 1, 2), big shakes {t: (cos, sin)}."""
    inertia, shake, gauss = generator.uniform(0, (0.7, 0.2, 10.0))
    angle = generator.uniform(0, 2 * math.pi)
    speed = exploration if exploration > 0 else step
    noise = generator.standard_normal((steps - 1, 2))
    noise *= exploration * step * gauss
    hits = np.flatnonzero(generator.random(steps - 1) < shake * exploration)
    turns = math.pi + generator.random(len(hits)) - 0.5
    shakes = {int(t): (1 + 2 * math.cos(a), 2 * math.sin(a)) for t, a in zip(hits, turns, strict=True)}
    velocity = (speed * math.cos(angle), speed * math.sin(angle))
    return velocity, exploration * step * inertia, noise, shakes


def _walk(draws: list[tuple], step: float) -> np.ndarray:
    """Walk many paths at once. Real arithmetic only, so that a path has the same bits in any batch."""
    velocity = np.array([d[0] for d in draws]).T.copy()  # (2, n)
    pull = np.array([d[1] for d in draws])
    noise = np.stack([d[2] for d in draws], axis=-1)  # (steps - 1, 2, n)
    shakes: dict[int, list] = {}
    for column, draw in enumerate(draws):
        for t, turn in draw[3].items():
            shakes.setdefault(t, []).append((column, *turn))
    path = np.zeros((len(noise) + 1, *velocity.shape))
    for t in range(len(noise)):
        for column, a, b in shakes.get(t, ()):  # v + J = v * (1 + 2 exp(i turn))
            x, y = velocity[:, column]
            velocity[:, column] = a * x - b * y, b * x + a * y
        velocity += noise[t]
        velocity -= pull * path[t]
        velocity *= step / np.sqrt(velocity[0] * velocity[0] + velocity[1] * velocity[1])
        np.add(path[t], velocity, out=path[t + 1])
    return np.ascontiguousarray(path.transpose(2, 0, 1)).view(complex)[..., 0]


def exposed(trajectory: np.ndarray, fraction: float) -> np.ndarray:
    """The part of a trajectory that the shutter sees: its first `fraction` (0 < fraction <= 1) of the samples."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}: it must lie in (0, 1].")
    return trajectory[: max(1, round(fraction * len(trajectory)))]


def psf(trajectory: np.ndarray, fraction: float = 1.0) -> np.ndarray:
    """Point spread function of a path (complex, 1-D): float64 (side, side), odd side, unit sum, centroid in the middle.

    Each sample is splatted bilinearly on its four neighbours (specification 3.7). Bilinear weights keep the first
    moment, so subtracting the mean of the path centres the kernel exactly.
    """
    path = exposed(np.asarray(trajectory), fraction)
    path = path - path.mean()
    radius = math.ceil(max(np.abs(path.real).max(), np.abs(path.imag).max()) - 1e-9)
    side = 2 * radius + 3  # one spare ring for the neighbours of samples on the rim
    left, top = np.floor(path.real), np.floor(path.imag)
    u, v = path.real - left, path.imag - top
    corner = ((top + radius + 1) * side + left + radius + 1).astype(np.intp)
    index = np.concatenate([corner, corner + 1, corner + side, corner + side + 1])
    weight = np.concatenate([(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v])
    kernel = np.bincount(index, weight, side * side).reshape(side, side)[1:-1, 1:-1]
    return kernel / kernel.sum()


def extent(blur: np.ndarray) -> float:
    """Larger side of the bounding box in pixels: exact for a path (complex, 1-D), to about 1 px for a kernel (2-D)."""
    blur = np.asarray(blur)
    if blur.ndim == 1:
        return float(max(np.ptp(blur.real), np.ptp(blur.imag)))
    sides = [np.flatnonzero(blur.sum(axis)) for axis in (0, 1)]
    return float(max(0, max(side[-1] - side[0] for side in sides) - 1))  # splatting widens a path by about one pixel


def severity_of(name: str) -> Severity:
    """Look up a named severity; an unknown name raises ValueError that lists the known ones."""
    if name not in SEVERITIES:
        raise ValueError(f"Unknown severity {name!r}: choose one of {', '.join(SEVERITIES)}.")
    return SEVERITIES[name]


def kernel_for(image_id: str | int, severity: str, size: int, seed: int = 0) -> np.ndarray:
    """The kernel of one image of side `size` (see `psf`): the same in every run, radius always below size / 2."""
    return kernels_for([image_id], severity, size, seed)[0][0]


def kernels_for(
    ids: Sequence[str | int], severity: str, size: int, seed: int = 0
) -> tuple[list[np.ndarray], np.ndarray]:
    """Kernels of many images and their extents in pixels, float64 (n,); one too large for its image is drawn again."""
    setting = severity_of(severity)
    kernels: list = [None] * len(ids)
    extents = np.zeros(len(ids))
    wanted = range(len(ids))
    for attempt in itertools.count():
        for start in range(0, len(wanted), CHUNK):
            chunk = wanted[start : start + CHUNK]
            keys = [("blur", seed, severity, size, str(ids[i]), attempt) for i in chunk]
            for i, path in zip(chunk, _keyed_paths(keys, setting, size), strict=True):
                kernels[i], extents[i] = psf(path), extent(path)
        wanted = [i for i in wanted if len(kernels[i]) // 2 >= size / 2]
        if not wanted:
            return kernels, extents


def _keyed_paths(keys: list[tuple], setting: Severity, size: int) -> list[np.ndarray]:
    """The exposed paths of many keys; each draws its own exploration, fraction and walk from its own generator."""
    step = setting.length_ratio * size / (STEPS - 1)
    draws, fractions = [], []
    for key in keys:
        generator = rng(*key)
        exploration = setting.explorations[generator.integers(len(setting.explorations))]
        fractions.append(setting.fractions[generator.integers(len(setting.fractions))])
        draws.append(_draw(generator, exploration, step, STEPS))
    return [exposed(path, fraction) for path, fraction in zip(_walk(draws, step), fractions, strict=True)]


def blur_image(
    image: np.ndarray,
    kernel: np.ndarray,
    gamma: float = 1.0,
    sigma: float = 0.0,
    generator: np.random.Generator | None = None,
) -> np.ndarray:
    """Convolve an image (H, W, C) or (H, W) in [0, 1] with a kernel of odd sides; returns the same shape, in [0, 1].

    The border is reflected. `gamma` = 2.2 convolves in linear light; `sigma` adds N(0, sigma^2) noise from `generator`.
    """
    image, kernel = np.asarray(image, float), np.asarray(kernel, float)
    _check(image, kernel, sigma, generator)
    radii = [side // 2 for side in kernel.shape]
    linear = image if gamma == 1.0 else image**gamma
    padded = np.pad(linear, [(radii[0],) * 2, (radii[1],) * 2, (0, 0)][: image.ndim], mode="reflect")
    planes = np.ascontiguousarray(np.moveaxis(padded, -1, 0) if image.ndim == 3 else padded)
    shape = [fft.next_fast_len(side, real=True) for side in planes.shape[-2:]]
    spectrum = fft.rfft2(planes, shape) * fft.rfft2(kernel, shape)
    full = fft.irfft2(spectrum, shape)  # wrap-around stays in the padding: only the `valid` part is read
    valid = full[..., 2 * radii[0] :, 2 * radii[1] :][..., : image.shape[0], : image.shape[1]]
    blurred = np.clip(np.moveaxis(valid, 0, -1) if image.ndim == 3 else valid, 0, 1)
    blurred = blurred if gamma == 1.0 else blurred ** (1 / gamma)
    return np.clip(blurred + sigma * generator.standard_normal(image.shape), 0, 1) if sigma else blurred


def _check(image: np.ndarray, kernel: np.ndarray, sigma: float, generator: np.random.Generator | None) -> None:
    if image.ndim not in (2, 3) or image.size == 0 or image.min() < 0 or not image.max() <= 1:
        raise ValueError("blur_image: image must be (H, W, C) or (H, W) with values in [0, 1]; divide uint8 by 255.")
    if kernel.ndim != 2 or kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
        raise ValueError(f"blur_image: kernel has shape {kernel.shape}; it must be 2-D with odd sides.")
    if sigma and generator is None:
        raise ValueError("blur_image: noise (sigma > 0) needs a generator, e.g. s3e.seeds.rng('noise', image_id).")


def blur_batch(
    images: np.ndarray, ids: Sequence[str | int], severity: str, seed: int = 0, gamma: float = 1.0, sigma: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Blur uint8 images (N, H, W, 3), each with its own kernel; returns uint8 (N, H, W, 3) and extents (N,) in pixels.

    An image's result does not depend on its neighbours in the batch. Severities scale with the shorter side.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(ids):
        raise ValueError("blur_batch: images must be uint8 (N, H, W, 3) with one id each.")
    kernels, extents = kernels_for(ids, severity, min(images.shape[1:3]), seed)
    blurred = np.empty_like(images)
    for i, (image, kernel) in enumerate(zip(images, kernels, strict=True)):
        generator = rng("noise", seed, severity, str(ids[i])) if sigma else None
        blurred[i] = np.rint(255 * blur_image(image / 255, kernel, gamma, sigma, generator))
    return blurred, extents
