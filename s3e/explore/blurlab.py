"""The blur laboratory: from the settings of a camera shake to its path, kernel, spectrum and blurred photo, live.

Source: specification 3.7 (paths and kernels) and 3.8 (severities).
"""

from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import numpy as np

from s3e.blur import SEVERITIES, blur_image, exposed, extent, psf, severity_of, trajectories
from s3e.evaluation.images import psnr, to_uint8
from s3e.explore import markup, pictures
from s3e.explore.controls import fluid
from s3e.utils import S3EError, rng

RANGES = {  # setting -> smallest, largest, step of its slider
    "length": (0.05, 1.0, 0.002), "exploration": (0.0, 0.02, 0.0005), "exposure": (0.01, 1.0, 0.01),
    "noise": (0.0, 0.1, 0.005), "seed": (0, 99, 1),
}  # fmt: skip
PRESET = ("length", "exploration", "exposure")  # what a severity decides
OWN = "own settings"
LEGEND = "Dot: where the path starts; grey: what the shutter does not see. The spectrum has frequency 0 in the middle."
VIEWS = ("trajectory", "kernel", "spectrum", "photo")


@dataclass(frozen=True)
class Settings:
    """A camera shake: path length over the photo's shorter side, exploration, exposed share of the path, noise, seed.

    `noise`: standard deviation in units of white. Raises `S3EError` for values outside `RANGES`.
    """

    length: float = 0.5
    exploration: float = 0.004
    exposure: float = 1.0
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (low, high, _) in RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise S3EError(
                    f"The blur's {name} is {getattr(self, name)}: choose a value from {low} to {high}."
                )

    def __str__(self) -> str:
        parts = [
            f"length {self.length:.3f}",
            f"exploration {self.exploration:.4f}",
            f"exposure {self.exposure:.2f}",
        ]
        return ", ".join([*parts, f"noise {self.noise:.3f}", f"seed {self.seed}"])


def preset(severity: str, noise: float = 0.0, seed: int = 0) -> Settings:
    """The middle of what a severity draws from: its length, its median exploration and exposure."""
    found = severity_of(severity)
    middle = float(np.median(found.explorations)), float(np.median(found.fractions))
    return Settings(found.length_ratio, *middle, noise, seed)


@dataclass(frozen=True, eq=False)
class Exposure:
    """What a shake does to a photo.

    `path`: complex (2000,), pixels, 0 at the centre of its exposed part, which is the first `seen` samples; `kernel`:
    see `s3e.blur.psf`; `sharp`, `blurred`: uint8 (H, W, 3); `extent` of the exposed part in pixels; `psnr` in dB.
    """

    settings: Settings
    path: np.ndarray
    seen: int
    kernel: np.ndarray
    sharp: np.ndarray
    blurred: np.ndarray
    extent: float
    psnr: float

    @property
    def window(self) -> int:
        """Pixels at a side of the square in which path and kernel are drawn, both at one scale."""
        return pictures.window_for(self.path, min(self.sharp.shape[:2]))

    @property
    def sentence(self) -> str:
        """The figures of this exposure in words."""
        share = self.extent / min(self.sharp.shape[:2])
        return f"The kernel extends {self.extent:.1f} px, {markup.percent(share)} of the side; PSNR {self.psnr:.2f} dB."


def expose(photo: np.ndarray, settings: Settings) -> Exposure:
    """Blur a photo, uint8 (H, W, 3). One seed has one path: the other settings stretch, bend and cut it."""
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
        raise S3EError(f"The photo is {photo.dtype} {photo.shape}: give uint8 (height, width, 3).")
    length = settings.length * min(photo.shape[:2])
    path = trajectories(1, length, settings.exploration, rng("laboratory", settings.seed))[0]
    seen = exposed(path, settings.exposure)
    kernel = psf(seen)
    noise = rng("laboratory noise", settings.seed)
    blurred = to_uint8(
        blur_image(photo / np.float32(255), kernel, sigma=settings.noise, generator=noise), 0.0
    )
    around = path - seen.mean()
    return Exposure(
        settings, around, len(seen), kernel, photo, blurred, extent(seen), psnr(blurred, photo)
    )


class BlurLab:
    """Sliders for a shake of one photo, uint8 (H, W, 3), and what it does to it; show `widget`."""

    def __init__(self, photo: np.ndarray):
        first = expose(photo, preset("moderate"))
        self.photo, self._brightest, self._presetting = photo, pictures.top(photo), False
        self.severity = widgets.Dropdown(
            options=[*SEVERITIES, OWN], value="moderate", description="severity"
        )
        self.controls = {name: _slider(name, getattr(first.settings, name)) for name in RANGES}
        self.views = {
            name: widgets.Image(format="png", layout=fluid(width="100%")) for name in VIEWS
        }
        self.titles, self.text, self.message = (
            {name: widgets.HTML() for name in VIEWS},
            widgets.HTML(),
            widgets.HTML(),
        )
        self.severity.observe(self._preset, "value")
        for control in self.controls.values():
            control.observe(self._moved, "value")
        self.widget = self._laid_out()
        self.show(first)

    def compute(self, settings: Settings) -> Exposure:
        """What `settings` do to the photo; shows nothing."""
        return expose(self.photo, settings)

    def show(self, result: Exposure) -> None:
        """Put the pictures and figures of a result into the widget."""
        window = result.window
        self.views["trajectory"].value = pictures.png(
            pictures.trajectory(result.path, result.seen, window)
        )
        self.views["kernel"].value = pictures.png(pictures.kernel(result.kernel, window))
        self.views["spectrum"].value = pictures.png(
            pictures.spectrum(result.blurred, self._brightest)
        )
        self.views["photo"].value = pictures.shown(result.blurred)
        self.titles["trajectory"].value = markup.heading(f"path, {window} px wide")
        self.titles["kernel"].value = markup.heading(f"kernel, {window} px wide")
        self.text.value = markup.line(result.sentence) + markup.line(LEGEND)

    def _draw(self) -> None:
        with markup.reported(self.message):
            self.show(
                self.compute(
                    Settings(**{name: control.value for name, control in self.controls.items()})
                )
            )

    def _moved(self, _: Any) -> None:
        if not self._presetting:
            self.severity.value = next((name for name in SEVERITIES if self._is(name)), OWN)
            self._draw()

    def _is(self, severity: str) -> bool:
        """Do the sliders stand where `severity` puts them, to half a step? A browser rounds what it is sent."""
        apart = {
            name: abs(self.controls[name].value - getattr(preset(severity), name))
            for name in PRESET
        }
        return all(apart[name] < RANGES[name][2] / 2 for name in PRESET)

    def _preset(self, change: Any) -> None:
        if change.new == OWN or self._is(change.new):
            return
        self._presetting = True
        for name in PRESET:
            self.controls[name].value = getattr(preset(change.new), name)
        self._presetting = False
        self._draw()

    def _laid_out(self) -> widgets.Box:
        self.titles["spectrum"].value = markup.heading("log spectrum")
        self.titles["photo"].value = markup.heading("blurred photo")
        cells = [
            widgets.VBox([self.titles[name], self.views[name]], layout=fluid(flex="1 1 150px"))
            for name in VIEWS
        ]
        for cell in cells:
            cell.layout.max_width, cell.layout.margin = f"{pictures.SIDE}px", "0 8px 8px 0"
        left = widgets.VBox([self.severity, *self.controls.values(), self.text, self.message])
        left.layout = fluid(flex="1 1 280px", max_width="420px", margin="0 12px 8px 0")
        right = widgets.Box(cells, layout=fluid(flex="3 1 400px", flex_flow="row wrap"))
        return widgets.Box([left, right], layout=fluid(flex_flow="row wrap"))


def _slider(name: str, value: float) -> widgets.Widget:
    low, high, step = RANGES[name]
    shown = {
        "min": low,
        "max": high,
        "step": step,
        "description": name,
        "layout": fluid(width="auto"),
    }
    if name == "seed":
        return widgets.IntSlider(value, **shown)
    return widgets.FloatSlider(value, readout_format=f".{len(str(step)) - 2}f", **shown)
