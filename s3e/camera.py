"""Random camera paths (Boracchi and Foi) and their point spread functions: specification 3.7, DeblurGAN's constants.

Two details of DeblurGAN's public code are left out on purpose: a kernel keeps unit sum (no min-max scaling) and is
centred to a fraction of a pixel.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STEPS = 2000  # samples of one trajectory: the exposure clock
CHUNK = 256  # trajectories walked at once: the noise of one chunk takes 8 MB
FRACTIONS = (0.01, 0.1, 0.5, 1.0)  # exposures of the public code


def trajectories(
    count: int,
    length: float,
    exploration: float,
    generator: np.random.Generator,
    steps: int = STEPS,
) -> np.ndarray:
    """Draw `count` camera paths of `length` pixels (specification 3.7).

    Returns complex128 (count, steps): real = column, imaginary = row, in pixels, starting at 0, equal exposure time
    between samples. A path depends on the generator's state only, not on how many are drawn with it.
    """
    if length <= 0 or exploration < 0 or steps < 2 or count < 0:
        raise ValueError(
            "trajectories: need count >= 0, length > 0, exploration >= 0 and steps >= 2."
        )
    step = length / (steps - 1)
    paths = np.empty((count, steps), complex)
    for start in range(0, count, CHUNK):
        part = paths[start : start + CHUNK]
        noise = np.empty((len(part), steps - 1, 2))
        part[:] = walk([draw(generator, exploration, step, row) for row in noise], noise, step)
    return paths


@dataclass(frozen=True)
class Start:
    """What a path draws besides its noise: first velocity in steps, pull, noise scale, big shakes {time: angle}."""

    velocity: tuple[float, float]
    pull: float
    gauss: float
    shakes: dict[int, float]


def draw(
    generator: np.random.Generator, exploration: float, step: float, noise: np.ndarray
) -> Start:
    """Draw all random numbers of one path; its noise, float64 (steps - 1, 2), is written in place."""
    inertia, shake, gauss = generator.random(3) * (0.7, 0.2, 10.0)
    angle = generator.random() * 2 * math.pi
    speed = exploration / step if exploration > 0 else 1.0
    generator.standard_normal(out=noise)
    hits = np.flatnonzero(generator.random(len(noise)) < shake * exploration)
    turns = math.pi + generator.random(len(hits)) - 0.5
    shakes = dict(zip(hits.tolist(), turns.tolist(), strict=True))
    return Start(
        (speed * math.cos(angle), speed * math.sin(angle)),
        exploration * inertia,
        exploration * gauss,
        shakes,
    )


def walk(starts: list[Start], noise: np.ndarray, step: float) -> np.ndarray:
    """Walk many paths at once, in units of one step; returns complex (n, steps) in pixels.

    `noise`, float64 (n, steps - 1, 2), is overwritten. Real, elementwise arithmetic only, so that a path has the same
    bits in any batch.
    """
    count = len(starts)
    moves = np.multiply(noise.transpose(1, 2, 0), [s.gauss for s in starts], order="C").reshape(
        -1, 2 * count
    )
    pull = np.tile([s.pull * step for s in starts], 2)
    shakes: dict[int, list] = {}
    for i, start in enumerate(starts):
        for t, angle in start.shakes.items():
            shakes.setdefault(t, []).append((i, 1 + 2 * math.cos(angle), 2 * math.sin(angle)))
    velocity = np.array([s.velocity for s in starts]).T.ravel()
    force, square, speed = np.zeros(2 * count), np.empty(2 * count), np.empty(count)
    square_x, square_y = square[:count], square[count:]
    add, multiply, subtract, divide, sqrt = np.add, np.multiply, np.subtract, np.divide, np.sqrt
    for t, (move, x, y) in enumerate(zip(moves, moves[:, :count], moves[:, count:], strict=True)):
        if t in shakes:  # v + J = v * (1 + 2 exp(i angle))
            velocity = _turn(velocity, shakes[t])
        add(move, velocity, move)
        add(move, force, move)
        multiply(move, move, square)
        add(square_x, square_y, speed)
        sqrt(speed, speed)
        divide(x, speed, x)
        divide(y, speed, y)
        multiply(move, pull, square)
        subtract(force, square, force)
        velocity = move
    path = np.zeros((count, len(moves) + 1), complex)
    noise[:] = moves.reshape(-1, 2, count).transpose(2, 0, 1)
    np.cumsum(noise.view(complex)[..., 0], axis=1, out=path[:, 1:])
    path *= step
    return path


def _turn(velocity: np.ndarray, turns: list[tuple[int, float, float]]) -> np.ndarray:
    """A copy in which velocities (x of all paths, then y) are multiplied by the complex numbers of (path, re, im)."""
    velocity = velocity.copy()
    for i, a, b in turns:
        x, y = velocity[[i, i + len(velocity) // 2]]
        velocity[[i, i + len(velocity) // 2]] = a * x - b * y, b * x + a * y
    return velocity


def exposed(trajectory: np.ndarray, fraction: float) -> np.ndarray:
    """The part of a trajectory that the shutter sees: its first `fraction` (0 < fraction <= 1) of the samples."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}: it must lie in (0, 1].")
    return trajectory[: max(1, round(fraction * len(trajectory)))]


def psf(trajectory: np.ndarray, fraction: float = 1.0) -> np.ndarray:
    """Point spread function of a path (complex, 1-D): float64 (side, side), odd side, unit sum, centroid in the middle.

    The centroid is that of the exposed part, so that a blurred image lies where its sharp one does. Bilinear weights
    keep the first moment, hence subtracting the mean of the path centres the kernel exactly.
    """
    path = exposed(np.asarray(trajectory), fraction)
    path = path - path.mean()
    return _splat(path, _radius(path)) / len(path)


def cumulative_psfs(trajectory: np.ndarray, fractions: Sequence[float] = FRACTIONS) -> np.ndarray:
    """Kernels of growing exposures as the public code makes them, float64 (len(fractions), side, side).

    They share one frame, centred for the whole path, and their sums are the fractions (to the nearest sample): each
    contains the one before it. `psf` is one of them, centred and normalised.
    """
    path = np.asarray(trajectory) - np.mean(trajectory)
    return np.stack(
        [_splat(exposed(path, fraction), _radius(path)) for fraction in fractions]
    ) / len(path)


def _radius(path: np.ndarray) -> int:
    return math.ceil(max(np.abs(path.real).max(), np.abs(path.imag).max()) - 1e-9)


def _splat(path: np.ndarray, radius: int) -> np.ndarray:
    """Add each sample to its four neighbours, bilinearly (specification 3.7); sums to the number of samples."""
    side = 2 * radius + 3  # one spare ring for the neighbours of samples on the rim
    x, y = path.real + (radius + 1), path.imag + (radius + 1)
    left, top = x.astype(np.intp), y.astype(np.intp)  # all positive: truncation is the floor
    u, v = x - left, y - top
    uv = u * v
    corner = top * side + left
    index = np.concatenate([corner, corner + 1, corner + side, corner + side + 1])
    weight = np.concatenate([1 - u - v + uv, u - uv, v - uv, uv])
    return np.bincount(index, weight, side * side).reshape(side, side)[1:-1, 1:-1]


def extent(blur: np.ndarray) -> float:
    """Larger side of the bounding box in pixels: exact for a path (complex, 1-D), to about 1 px for a kernel (2-D)."""
    blur = np.asarray(blur)
    if blur.ndim == 1:
        return float(max(np.ptp(blur.real), np.ptp(blur.imag)))
    sides = [np.flatnonzero(blur.sum(axis)) for axis in (0, 1)]
    return float(
        max(0, max(side[-1] - side[0] for side in sides) - 1)
    )  # splatting widens a path by about one pixel
