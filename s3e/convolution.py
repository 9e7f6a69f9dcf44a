"""Applying kernels to photos: reflected borders, linear light, sensor noise, an object that moves on its own; CUDA.

Everything is computed in float32, within 1e-5 of double precision for images in [0, 1]. On the CPU each photo is
blurred by itself and on one thread, so that it comes out with the same bits in any batch; processes use more cores.
OpenCV, where it is installed with Intel's transforms, is faster than SciPy; they differ in the last bits only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import fft

try:
    import cv2
except ImportError:
    cv2 = None

IPP = cv2 is not None and cv2.ipp.useIPP()
TAPS = 8  # kernels of so few cells are summed cell by cell: faster then, measured at 64 to 256 px


def blur_image(
    image: np.ndarray,
    kernel: np.ndarray,
    gamma: float = 1.0,
    sigma: float = 0.0,
    generator: np.random.Generator | None = None,
) -> np.ndarray:
    """Convolve an image (H, W, C) or (H, W) in [0, 1] with a kernel of odd sides; float32 of the same shape, in [0, 1].

    The border is reflected. `gamma` = 2.2 convolves in linear light; `sigma` adds N(0, sigma^2) noise from `generator`.
    """
    image, kernel = np.asarray(image), np.asarray(kernel)
    _check(image, kernel, sigma, generator)
    light = np.atleast_3d(image if gamma == 1 else image**gamma)
    noise = sensor_noise(light.shape, sigma, generator) if sigma else None
    return develop(convolve(light, kernel), gamma, noise).clip(0, 1).reshape(image.shape)


def _check(
    image: np.ndarray, kernel: np.ndarray, sigma: float, generator: np.random.Generator | None
) -> None:
    if image.ndim not in (2, 3) or image.size == 0 or image.min() < 0 or not image.max() <= 1:
        raise ValueError(
            "blur_image: image must be (H, W, C) or (H, W) with values in [0, 1]; divide uint8 by 255."
        )
    if kernel.ndim != 2 or kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
        raise ValueError(
            f"blur_image: kernel has shape {kernel.shape}; it must be 2-D with odd sides."
        )
    if sigma and generator is None:
        raise ValueError(
            "blur_image: noise (sigma > 0) needs a generator, e.g. s3e.utils.rng('noise', image_id)."
        )


@dataclass(frozen=True)
class Shot:
    """How one photo is blurred: kernel of the camera, kernel and mask of an object that moves on its own, noise."""

    camera: np.ndarray
    own: np.ndarray | None = None
    mask: np.ndarray | None = None  # float32 (H, W, 1) in [0, 1]
    noise: np.ndarray | None = None  # float32 (H, W, C), in units of white


def expose_all(
    images: np.ndarray, shots: Sequence[Shot], gamma: float, device: str, out: np.ndarray
) -> None:
    """Blur uint8 photos (N, H, W, C) into `out`, of the same kind: one by one on the CPU, at once on another device."""
    if device != "cpu":
        out[:] = _expose_on(device, images, shots, gamma)
        return
    for image, shot, blurred in zip(images, shots, out, strict=True):
        light = image if gamma == 1 else linear_levels(gamma)[image]
        light = shake(light, shot.camera, shot.own, shot.mask, convolve)
        # Rounds. Kernels of unit sum keep light within 1e-3 of [0, 255], so that nothing wraps around.
        np.add(
            develop(light, gamma, shot.noise, 255), np.float32(0.5), out=blurred, casting="unsafe"
        )


def _expose_on(device: str, images: np.ndarray, shots: Sequence[Shot], gamma: float) -> np.ndarray:
    import torch

    levels = torch.from_numpy(linear_levels(gamma)).to(device)
    light = levels[torch.from_numpy(images).to(device).int()]
    camera, own, mask, noise = (
        [getattr(shot, name) for shot in shots] for name in ("camera", "own", "mask", "noise")
    )
    mask, noise = (
        None if group[0] is None else torch.from_numpy(np.stack(group)).to(device)
        for group in (mask, noise)
    )
    own = None if mask is None else stack_kernels(own).to(device)
    light = shake(light, stack_kernels(camera).to(device), own, mask, convolve_batch)
    return (develop(light, gamma, noise, 255) + 0.5).to(torch.uint8).cpu().numpy()


def shake(image: Any, camera: Any, own: Any, mask: Any, convolve: Callable) -> Any:
    """Light of a photo under camera motion; where `mask` is 1, an object moves with the kernel `own` instead.

    The object is a layer over the moving scene: own * (image mask) + (1 - own * mask) (camera * image). Arrays and
    tensors (..., H, W, C) alike; mask (..., H, W, 1) in [0, 1], None = no object.
    """
    moved = convolve(image, camera)
    if mask is None:
        return moved
    return convolve(image * mask, own) + (1 - convolve(mask, own)) * moved


def develop(light: Any, gamma: float = 1.0, noise: Any = None, white: float = 1.0) -> Any:
    """From light in [0, white] to grey levels, with noise in units of white; arrays and tensors alike."""
    levels = light if gamma == 1 else white * (light.clip(0, white) / white) ** (1 / gamma)
    return levels if noise is None else (levels + white * noise).clip(0, white)


def linear_levels(gamma: float) -> np.ndarray:
    """Light of the 256 grey levels, float32 in [0, 255]."""
    return (255 * (np.arange(256) / 255) ** gamma).astype(np.float32)


def sensor_noise(
    shape: tuple[int, ...], sigma: float, generator: np.random.Generator
) -> np.ndarray:
    """N(0, sigma^2) in units of white, float32."""
    return (sigma * generator.standard_normal(shape)).astype(np.float32)


def blob(height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """One star-shaped region with a soft edge, float32 (height, width, 1) in [0, 1]: what moves on its own."""
    side = min(height, width)
    middle = generator.uniform(0.3, 0.7, 2) * (height, width)
    radius, swing = side * generator.uniform(0.15, 0.3), generator.uniform(-0.25, 0.25, 3)
    phase = generator.uniform(0, 2 * np.pi, 3)
    rows, columns = np.ogrid[:height, :width]
    y, x = rows - middle[0], columns - middle[1]
    waves = np.cos(np.arctan2(y, x)[..., None] * (1, 2, 3) + phase)
    rim = radius * (1 + (swing / (1, 2, 3) * waves).sum(-1))
    mask = np.clip((rim - np.hypot(y, x)) / max(1.0, 0.02 * side) + 0.5, 0, 1)
    return mask.astype(np.float32)[..., None]


def convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolve (H, W, C) of any real type with a kernel (2-D, odd sides); returns float32 (H, W, C).

    The border is reflected without repeating the edge (NumPy's "reflect"), as often as a wide kernel needs.
    """
    cells, before, taps = _trim(kernel)
    if taps <= TAPS:
        return _by_cells(image, cells, before)
    shape = (
        fast_size(image.shape[0] + len(cells) - 1),
        fast_size(image.shape[1] + len(cells[0]) - 1),
    )
    return (_by_opencv if IPP else _by_scipy)(image, cells, before, shape)


def _trim(kernel: np.ndarray) -> tuple[np.ndarray, tuple[int, int], int]:
    """Cut a kernel's empty rim off: float32 cells, pixels needed above and left of the image, cells that are not 0."""
    middle = kernel.shape[0] // 2, kernel.shape[1] // 2
    used = np.nonzero(kernel)
    first = [int(index.min(initial=centre)) for index, centre in zip(used, middle, strict=True)]
    last = [int(index.max(initial=centre)) for index, centre in zip(used, middle, strict=True)]
    cells = kernel[first[0] : last[0] + 1, first[1] : last[1] + 1].astype(np.float32)
    return cells, (last[0] - middle[0], last[1] - middle[1]), len(used[0])


@lru_cache(maxsize=1024)
def mirror(size: int, before: int, total: int) -> np.ndarray:
    """Indices that extend an axis by reflection to `total`: -2 -1 0 1 ... reads 2 1 0 1 ..."""
    period = max(2 * (size - 1), 1)
    index = np.arange(-before, total - before) % period
    return np.minimum(index, period - index)


@lru_cache(maxsize=4096)
def fast_size(size: int) -> int:
    """The next length >= `size` that transforms fast: a multiple of 8, of factors 2, 3 and at most one 5 (measured)."""
    lengths = (2**a * 3**b * 5**c for a in range(3, 20) for b in range(4) for c in (0, 1))
    return min(length for length in lengths if length >= size)


def _by_cells(image: np.ndarray, cells: np.ndarray, before: tuple[int, int]) -> np.ndarray:
    (height, width), (tall, wide) = image.shape[:2], cells.shape
    rows, columns = (
        mirror(height, before[0], height + tall - 1),
        mirror(width, before[1], width + wide - 1),
    )
    padded = image[rows[:, None], columns].astype(np.float32)
    blurred = np.zeros(image.shape, np.float32)
    for i, j in np.argwhere(cells):
        y, x = tall - 1 - i, wide - 1 - j
        blurred += cells[i, j] * padded[y : y + height, x : x + width]
    return blurred


def _by_scipy(
    image: np.ndarray, cells: np.ndarray, before: tuple[int, int], shape: tuple[int, int]
) -> np.ndarray:
    """Transform rows, then columns, channel by channel. Wrap-around stays in the part that is not read."""
    (height, width, channels), (tall, wide) = image.shape, cells.shape
    rows, columns = (mirror(image.shape[axis], before[axis], shape[axis]) for axis in (0, 1))
    spectrum = np.zeros((shape[0], shape[1] // 2 + 1), np.complex64)
    spectrum[:tall] = fft.rfft(cells, shape[1])
    response = fft.fft(spectrum, axis=0)
    line, left, right = np.empty((height, shape[1]), np.float32), before[1], before[1] + width
    blurred = np.empty((channels, height, spectrum.shape[1]), np.complex64)
    for channel in range(channels):
        line[:, left:right] = image[..., channel]
        line[:, :left] = line[:, left + columns[:left]]
        line[:, right:] = line[:, left + columns[right:]]
        np.take(fft.rfft(line), rows, axis=0, out=spectrum, mode="clip")
        product = fft.fft(spectrum, axis=0, overwrite_x=True)
        product *= response
        blurred[channel] = fft.ifft(product, axis=0, overwrite_x=True)[tall - 1 : tall - 1 + height]
    return fft.irfft(blurred.transpose(1, 2, 0), shape[1], axis=1)[:, wide - 1 : wide - 1 + width]


def _by_opencv(
    image: np.ndarray, cells: np.ndarray, before: tuple[int, int], shape: tuple[int, int]
) -> np.ndarray:
    (height, width), (tall, wide) = image.shape[:2], cells.shape
    image = np.ascontiguousarray(image, None if image.dtype == np.uint8 else np.float32)
    border = before[0], shape[0] - height - before[0], before[1], shape[1] - width - before[1]
    response = np.zeros(shape, np.float32)
    np.multiply(cells, np.float32(1 / response.size), out=response[:tall, :wide])
    cv2.dft(response, dst=response)
    planes = []
    for plane in cv2.split(image):
        plane = cv2.copyMakeBorder(plane, *border, cv2.BORDER_REFLECT_101).astype(np.float32)
        cv2.dft(plane, dst=plane)
        cv2.mulSpectrums(plane, response, 0, c=plane)
        cv2.dft(plane, dst=plane, flags=cv2.DFT_INVERSE | cv2.DFT_REAL_OUTPUT)
        planes.append(plane[tall - 1 : tall - 1 + height, wide - 1 : wide - 1 + width])
    return cv2.merge(planes).reshape(image.shape)


def stack_kernels(kernels: Sequence[np.ndarray]) -> Any:
    """Kernels of any odd sides as one float32 tensor (N, h, w), each in the middle."""
    import torch

    sides = [max(kernel.shape[axis] for kernel in kernels) for axis in (0, 1)]
    stacked = torch.zeros(len(kernels), *sides)
    for cells, kernel in zip(stacked, kernels, strict=True):
        (top, left), (tall, wide) = (
            ((s - k) // 2 for s, k in zip(sides, kernel.shape, strict=True)),
            kernel.shape,
        )
        cells[top : top + tall, left : left + wide] = torch.from_numpy(kernel)
    return stacked


def convolve_batch(images: Any, kernels: Any) -> Any:
    """`convolve` for float32 tensors on any device: images (N, H, W, C), kernels (N, h, w), all in one transform."""
    import torch

    (height, width), (tall, wide) = images.shape[1:3], kernels.shape[1:]
    shape = fast_size(height + tall - 1), fast_size(width + wide - 1)
    rows = torch.from_numpy(mirror(height, tall // 2, shape[0])).to(images.device)[:, None]
    columns = torch.from_numpy(mirror(width, wide // 2, shape[1])).to(images.device)
    spectrum = torch.fft.rfft2(images.permute(0, 3, 1, 2)[..., rows, columns])
    spectrum *= torch.fft.rfft2(kernels, shape)[:, None]
    full = torch.fft.irfft2(spectrum, shape)[
        ..., tall - 1 : tall - 1 + height, wide - 1 : wide - 1 + width
    ]
    return full.permute(0, 2, 3, 1)
