"""Pictures of blur for notebook 01: paths and kernels, what a kernel does to the spectrum, how severe a data set is."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from s3e.report.style import GREY, INK, OKABE_ITO, PAGE_WIDTH, bare, styled

SEVERITY_COLOUR = dict(
    zip(
        ("light", "moderate", "severe", "released"),
        (OKABE_ITO[2], OKABE_ITO[1], OKABE_ITO[6], OKABE_ITO[5]),
        strict=True,
    )
)


def _kernel(axes: Axes, kernel: np.ndarray, side: int) -> None:
    """A kernel, brightness by square root, centred in `side` x `side` pixels."""
    before = [(side - length) // 2 for length in kernel.shape]
    pad = [(low, side - length - low) for low, length in zip(before, kernel.shape, strict=True)]
    bare(axes).imshow(np.sqrt(np.pad(kernel, pad) / kernel.max()), cmap="magma", vmin=0, vmax=1)


@styled
def path_and_kernels(path: np.ndarray, kernels: Mapping[float, np.ndarray]) -> Figure:
    """A camera path (complex, 1-D, pixels) and the kernels of its exposed shares {fraction: (K, K)}, one scale."""
    figure = Figure(figsize=(PAGE_WIDTH, 1.95), layout="constrained")
    first, *others = figure.subplots(1, 1 + len(kernels))
    moved = path - path.mean()
    first.scatter(moved.real, moved.imag, c=np.linspace(0, 1, len(path)), cmap="viridis", s=1.5)
    first.set(title="camera path", xlabel="pixels", ylabel="pixels", aspect="equal")
    first.invert_yaxis()
    side = max(max(kernel.shape) for kernel in kernels.values()) + 2
    for axes, (fraction, kernel) in zip(others, kernels.items(), strict=True):
        _kernel(axes, kernel, side)
        axes.set_title(f"exposed: {fraction:g}")
    return figure


@styled
def kernel_gallery(
    kernels: Mapping[str, Sequence[np.ndarray]], extents: Mapping[str, Sequence[float]]
) -> Figure:
    """Kernels of several photos (columns) under each severity (rows), all at one scale, extent in pixels below."""
    columns = len(next(iter(kernels.values())))
    side = max(max(kernel.shape) for row in kernels.values() for kernel in row) + 2
    figure = Figure(figsize=(PAGE_WIDTH, 0.2 + 1.08 * len(kernels)), layout="constrained")
    grid = figure.subplots(len(kernels), columns, squeeze=False)
    for row, (name, own) in zip(grid, kernels.items(), strict=True):
        for axes, kernel, extent in zip(row, own, extents[name], strict=True):
            _kernel(axes, kernel, side)
            axes.set_xlabel(f"{extent:.0f} px", size=7, labelpad=2)
        row[0].set_ylabel(name, weight="bold")
    return figure


def amplitude(photo: np.ndarray) -> np.ndarray:
    """Amplitude spectrum of the grey values (0 frequency in the middle) of a uint8 photo (H, W, 3), window applied."""
    grey = photo.mean(-1) / 255
    window = np.outer(*(np.hanning(length) for length in grey.shape))
    return np.abs(np.fft.fftshift(np.fft.fft2((grey - grey.mean()) * window)))


def radial(spectrum: np.ndarray, bins: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Root mean square of a centred spectrum over rings: frequencies in cycles per pixel (0 to 0.5), and values."""
    axes = [np.fft.fftshift(np.fft.fftfreq(length)) for length in spectrum.shape]
    radius = np.hypot(*np.meshgrid(*axes, indexing="ij"))
    ring = np.minimum(
        (radius * 2 * bins).astype(int), bins
    )  # the corners beyond 0.5 fall into a last, unused ring
    power = np.bincount(ring.ravel(), spectrum.ravel() ** 2, bins + 1)[:bins]
    counts = np.bincount(ring.ravel(), minlength=bins + 1)[:bins]
    return (np.arange(bins) + 0.5) / (2 * bins), np.sqrt(power / counts)


@styled
def spectra(views: Mapping[str, np.ndarray]) -> Figure:
    """What blur removes: photos ("sharp" first), their spectra, and the amplitude left at each spatial frequency."""
    figure = Figure(figsize=(PAGE_WIDTH, 2.5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.75, 1))
    grid = left.subplots(2, len(views), squeeze=False)
    axes = right.subplots()
    frequency, sharp = radial(amplitude(views["sharp"]))
    top = np.log10(amplitude(views["sharp"]) + 1e-3).max()
    for (name, photo), (above, below) in zip(views.items(), grid.T, strict=True):
        bare(above).imshow(photo)
        above.set_title(name, loc="center")
        bare(below).imshow(np.log10(amplitude(photo) + 1e-3), cmap="magma", vmin=top - 4, vmax=top)
        if name != "sharp":
            ratio = radial(amplitude(photo))[1] / sharp
            axes.plot(frequency, ratio, color=SEVERITY_COLOUR.get(name, INK), label=name)
    grid[1, 0].set_ylabel("log amplitude", size=7)
    axes.axhline(1, color=GREY, linewidth=0.8)
    axes.set(
        yscale="log",
        xlabel="spatial frequency (cycles per pixel)",
        ylabel="amplitude left (1 = all)",
    )
    axes.legend()
    return figure


@styled
def severity_spread(table: pd.DataFrame) -> Figure:
    """How severe a data set is: input PSNR by severity (left) and against kernel extent (right, where it is known).

    `table`: one row a photo and severity with `severity`, `extent` (pixels, NaN: unknown) and `psnr_blurred` (dB).
    """
    known = table.dropna(subset="extent")
    figure = Figure(figsize=(PAGE_WIDTH, 2.2), layout="constrained")
    panels = figure.subplots(1, 1 + (len(known) > 0), squeeze=False)[0]
    edges = np.histogram_bin_edges(table.psnr_blurred, bins=24)
    for name in dict.fromkeys(table.severity):
        own, colour = table[table.severity == name], SEVERITY_COLOUR.get(name, INK)
        panels[0].hist(own.psnr_blurred, edges, histtype="stepfilled", color=colour, alpha=0.3)
        panels[0].hist(own.psnr_blurred, edges, histtype="step", color=colour, label=name)
        if len(known):
            panels[1].scatter(
                own.extent, own.psnr_blurred, s=6, color=colour, alpha=0.6, linewidths=0
            )
    panels[0].set(
        title="a  how much is left", xlabel="PSNR of the blurred photo (dB)", ylabel="photos"
    )
    panels[0].legend()
    if len(known):
        panels[1].set(
            title="b  one name, many strengths",
            xlabel="kernel extent (pixels)",
            ylabel="PSNR of the blurred photo (dB)",
        )
    return figure
