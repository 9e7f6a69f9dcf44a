"""Blur throughput on one thread, side by side with DeblurGAN's algorithm restated plainly.

    python benchmarks/blur.py [--size 256] [--batch 64] [--repeats 9] [--peer CHECKOUT_OF_DEBLURGAN]

Times are processor time of this thread, so that other programs on the machine weigh little; medians
of the repeats, in which all candidates take turns. See benchmarks/README.md for results.
"""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

import argparse  # noqa: E402
import cmath  # noqa: E402
import math  # noqa: E402
import platform  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from scipy.signal import fftconvolve  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from s3e.blur import SEVERITIES, STEPS, blur_batch, convolve, kernels_for  # noqa: E402
from s3e.utils import rng  # noqa: E402

SEVERITY, EXPLORATION = "severe", 0.003
FRACTIONS = (0.01, 0.1, 0.5, 1.0)  # exposures of the public code
SUITE = "suite, total (blur_batch)"


def plain_trajectory(length: float, exploration: float) -> np.ndarray:
    """The walk of specification 3.7, step by step with Python's complex numbers."""
    step = length / (STEPS - 1)
    inertia, shake, gauss = (
        0.7 * np.random.uniform(),
        0.2 * np.random.uniform(),
        10 * np.random.uniform(),
    )
    velocity = exploration * cmath.exp(2j * math.pi * np.random.uniform())
    path = np.zeros(STEPS, complex)
    for t in range(STEPS - 1):
        jump = 0
        if np.random.uniform() < shake * exploration:
            jump = 2 * velocity * cmath.exp(1j * (math.pi + np.random.uniform() - 0.5))
        noise = complex(np.random.randn(), np.random.randn())
        velocity += jump + exploration * (gauss * noise - inertia * path[t]) * step
        velocity = velocity / abs(velocity) * step
        path[t + 1] = path[t] + velocity
    return path


def triangle(distance: float) -> float:
    return np.maximum(0, 1 - np.abs(distance))


def plain_psfs(path: np.ndarray, canvas: int) -> list[np.ndarray]:
    """Four cumulative kernels: for each exposure a loop over all samples, each added to its four
    neighbours.
    """
    path = path - complex(path.real.min(), path.imag.min())
    path = path + complex((canvas - path.real.max()) // 2, (canvas - path.imag.max()) // 2)
    kernel, kernels, start = np.zeros((canvas, canvas)), [], 0.0
    for fraction in FRACTIONS:
        for t in range(len(path)):
            share = 1 if start * len(path) <= t < fraction * len(path) else 0
            left = int(np.minimum(canvas - 2, np.maximum(1, math.floor(path[t].real))))
            top = int(np.minimum(canvas - 2, np.maximum(1, math.floor(path[t].imag))))
            for row in (top, top + 1):
                for column in (left, left + 1):
                    weight = np.multiply(
                        triangle(path[t].real - column), triangle(path[t].imag - row)
                    )
                    kernel[row, column] += share * weight
        kernels.append(kernel / len(path))
        start = fraction
    return kernels


def stretch(values: np.ndarray) -> np.ndarray:
    return (values - values.min()) / (values.max() - values.min())


def plain_blur(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Channel by channel, the kernel as large as the image; both are stretched as the public code
    does.
    """
    image, kernel = stretch(image.astype(np.float32)), stretch(kernel.astype(np.float32))
    return stretch(
        np.stack([fftconvolve(image[..., c], kernel, "same") for c in range(3)], axis=-1)
    )


def peer_kernels(folder: str) -> Callable[[float, int], list[np.ndarray]]:
    """Trajectory and kernels by the classes of a checkout; NumPy 2 no longer has the `np.math` that
    they use.
    """
    if not (Path(folder) / "motion_blur" / "generate_PSF.py").is_file():
        raise SystemExit(
            f"--peer {folder}: no motion_blur/generate_PSF.py there; give a checkout of"
            " KupynOrest/DeblurGAN."
        )
    sys.path.insert(0, folder)
    np.math = math
    from motion_blur.generate_PSF import PSF
    from motion_blur.generate_trajectory import Trajectory

    def make(length: float, canvas: int) -> list[np.ndarray]:
        trajectory = Trajectory(canvas=canvas, max_len=length, expl=EXPLORATION)
        trajectory.fit()
        return PSF(canvas=canvas, trajectory=trajectory).fit()

    return make


def clock(work: Callable, *arguments: object) -> tuple[float, Any]:
    """Milliseconds of this thread's processor time, and the result."""
    start = time.thread_time()
    result = work(*arguments)
    return 1e3 * (time.thread_time() - start), result


def convolve_all(images: np.ndarray, kernels: list[np.ndarray]) -> None:
    for image, kernel in zip(images, kernels, strict=True):
        convolve(image, kernel)


def measure(images: np.ndarray, repeats: int, peer: Callable | None) -> dict[str, list[float]]:
    """Milliseconds an image of every part, one entry a repeat; the candidates take turns."""
    size, count, ids = images.shape[1], len(images), list(range(len(images)))
    length, times = SEVERITIES[SEVERITY].length_ratio * size, {}
    for _ in range(repeats):
        making, (kernels, _) = clock(kernels_for, ids, SEVERITY, size)
        convolving, _ = clock(convolve_all, images, kernels)
        together, _ = clock(blur_batch, images, ids, SEVERITY)
        walking, path = clock(plain_trajectory, length, EXPLORATION)
        splatting, plain = clock(plain_psfs, path, size)
        plainly, _ = clock(plain_blur, images[0], plain[-1])
        row = {
            "suite, trajectory + PSF": making / count,
            "suite, convolution": convolving / count,
            SUITE: together / count,
            "plain, trajectory": walking,
            "plain, PSF": splatting,
            "plain, convolution": plainly,
            "plain, total": walking + splatting + plainly,
        }
        if peer:
            row["peer, trajectory + PSF"], _ = clock(peer, length, size)
            row["peer, total (with the plain convolution)"] = (
                row["peer, trajectory + PSF"] + plainly
            )
        for name, value in row.items():
            times.setdefault(name, []).append(value)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--peer", help="a checkout of KupynOrest/DeblurGAN, measured in the same run"
    )
    arguments = parser.parse_args()
    shape = (arguments.batch, arguments.size, arguments.size, 3)
    images = rng("benchmark").integers(0, 256, shape, dtype=np.uint8)
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, NumPy"
        f" {np.__version__}"
    )
    print(f"{shape[0]} colour images of {shape[1]} px, {SEVERITY}, own kernel each, one thread")
    times = measure(
        images, arguments.repeats, peer_kernels(arguments.peer) if arguments.peer else None
    )
    median = {name: float(np.median(values)) for name, values in times.items()}
    for name, values in times.items():
        print(f"  {name:<42} {median[name]:9.3f} ms an image   (min {min(values):.3f})")
    for name in [name for name in median if name.startswith(("plain, total", "peer, total"))]:
        print(f"  {name.split(',')[0]} / suite: {median[name] / median[SUITE]:.0f} times faster")
    if not arguments.peer:
        print("  peer: not measured; add --peer PATH of a checkout of KupynOrest/DeblurGAN")


if __name__ == "__main__":
    main()
