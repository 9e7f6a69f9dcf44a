"""How strong the synthetic blur is: the two tables of specification 3.8, measured again beside its own figures."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
import skimage.data
from skimage.transform import resize

from s3e.blur import MIX, blur_image
from s3e.camera import extent, psf, trajectories
from s3e.utils import rng

TWO = (0.003, 0.005)
PHOTOS = (
    "astronaut",
    "chelsea",
    "coffee",
    "rocket",
)  # of scikit-image; they give the PSNR of 3.8 within 1 dB


@dataclass(frozen=True)
class ExtentRow:
    """Trajectory length and explorations; mean extent, first-half extent and RMS radius of specification 3.8."""

    length: float
    explorations: tuple[float, ...]
    extent: float
    half: float
    radius: float


EXTENTS = (
    ExtentRow(60, MIX, 17.0, 12.7, 5.6),
    ExtentRow(60, (0.003,), 24.5, 16.5, 8.4),
    ExtentRow(60, (0.01,), 13.3, 10.6, 4.4),
    ExtentRow(96, MIX, 22.2, 18.1, 7.3),
    ExtentRow(128, MIX, 28.7, 23.4, 9.4),
    ExtentRow(128, (0.005,), 32.2, 26.5, 10.6),
    ExtentRow(128, (0.003,), 41.6, 31.8, 13.6),
    ExtentRow(192, (0.003,), 55.0, 42.4, 18.3),
)


def extent_table(
    rows: Sequence[ExtentRow] = EXTENTS, count: int = 600, seed: int = 0
) -> pd.DataFrame:
    """Extents in pixels of `count` trajectories a row: mean, p10, p90, mean of the first half, mean RMS radius.

    Beside them the specification's means; `deviation` is the mean's, as a share of the specification's.
    """
    return pd.DataFrame([_extent_row(row, count, seed) for row in rows])


def _paths(row: "ExtentRow | PsnrRow", count: int, *key: object) -> np.ndarray:
    """Trajectories in which every exploration has its share."""
    shares = [len(part) for part in np.array_split(range(count), len(row.explorations))]
    generators = [rng(*key, row.length, exploration) for exploration in row.explorations]
    drawn = zip(shares, row.explorations, generators, strict=True)
    return np.concatenate(
        [trajectories(share, row.length, e, generator) for share, e, generator in drawn]
    )


def _extent_row(row: ExtentRow, count: int, seed: int) -> dict[str, float | str]:
    paths = _paths(row, count, "extent table", seed)
    extents = np.array([extent(path) for path in paths])
    half = np.mean([extent(path[: len(path) // 2]) for path in paths])
    return {
        "L": row.length,
        "e": _name(row.explorations),
        "extent": extents.mean(),
        "p10": np.percentile(extents, 10),
        "p90": np.percentile(extents, 90),
        "half": half,
        "RMS radius": paths.std(axis=1).mean(),
        "specified extent": row.extent,
        "specified half": row.half,
        "specified RMS radius": row.radius,
        "deviation": extents.mean() / row.extent - 1,
    }


def _name(explorations: tuple[float, ...]) -> str:
    return "mix" if explorations == MIX else ", ".join(f"{value:g}" for value in explorations)


@dataclass(frozen=True)
class PsnrRow:
    """Image side, trajectory length, explorations, exposure fractions, and the mean input PSNR of specification 3.8."""

    size: int
    length: float
    explorations: tuple[float, ...]
    fractions: tuple[float, ...]
    psnr: float


LIGHT, FULL = (0.1, 0.5, 1.0), (1.0,)
PSNRS = (
    PsnrRow(256, 60, MIX, LIGHT, 25.1),
    PsnrRow(256, 60, MIX, FULL, 22.6),
    PsnrRow(256, 96, MIX, FULL, 21.7),
    PsnrRow(256, 96, TWO, FULL, 20.4),
    PsnrRow(256, 128, TWO, FULL, 19.9),
    PsnrRow(256, 160, TWO, FULL, 19.5),
    PsnrRow(128, 30, MIX, LIGHT, 26.8),
    PsnrRow(128, 64, TWO, FULL, 19.5),
    PsnrRow(64, 15, MIX, LIGHT, 28.9),
    PsnrRow(64, 24, TWO, FULL, 20.3),
    PsnrRow(64, 32, TWO, FULL, 19.6),
    PsnrRow(64, 48, TWO, FULL, 18.9),
)


def input_psnr_table(
    rows: Sequence[PsnrRow] = PSNRS,
    count: int = 120,
    seed: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
) -> pd.DataFrame:
    """PSNR in dB of scikit-image's photographs `PHOTOS`, each blurred with the same `count` kernels a row.

    Every exploration and every fraction has its share of the kernels. `deviation` is from the specification, in dB.
    """
    return pd.DataFrame([_psnr_row(row, count, seed) for row in progress(rows)])


@cache
def photograph(name: str, size: int) -> np.ndarray:
    """The central square of a photograph of scikit-image, resized with its anti-aliasing: float32 (size, size, 3)."""
    image = getattr(skimage.data, name)()[..., :3]
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return resize(
        image[top : top + side, left : left + side], (size, size), anti_aliasing=True
    ).astype(np.float32)


def _psnr_row(row: PsnrRow, count: int, seed: int) -> dict[str, float | str]:
    photos = [photograph(name, row.size) for name in PHOTOS]
    paths = _paths(row, count, "psnr table", seed, row.size)
    kernels = [psf(path, row.fractions[i % len(row.fractions)]) for i, path in enumerate(paths)]
    errors = [
        [np.mean((blur_image(photo, kernel) - photo) ** 2) for photo in photos]
        for kernel in kernels
    ]
    values = -10 * np.log10(np.array(errors, float))
    return {
        "size": row.size,
        "L": row.length,
        "e": _name(row.explorations),
        "fractions": ", ".join(f"{value:g}" for value in row.fractions),
        "kernel side": np.mean([len(kernel) for kernel in kernels]),
        "PSNR": values.mean(),
        "sd": values.std(),
        "specified PSNR": row.psnr,
        "deviation": values.mean() - row.psnr,
    }
