"""Photos to play with: blurred as in the study, read and restored; everything is computed once, when asked for."""

from collections.abc import Mapping
from functools import cache
from itertools import product

import numpy as np
import pandas as pd

from s3e.blur import SEVERITIES, blur_batch
from s3e.evaluation.images import psnr, ssim
from s3e.inference import Reading, Restorer
from s3e.report.style import label
from s3e.utils import S3EError

GAIN = 4  # errors are shown four times as strong
ERROR = "error:"  # what the name of an error's picture starts with


class Examples:
    """Sharp photos, uint8 (H, W, 3), by name, and what the networks of `restorer` make of them at each severity.

    A photo's name keys its blur: a scene under its own id is blurred as the study blurs it. Pictures are uint8
    (H, W, 3); they are shared, so not to be written into. Unknown names raise `S3EError`.
    """

    def __init__(self, restorer: Restorer, photos: Mapping[str, np.ndarray]):
        if not photos:
            raise S3EError("there are no examples: give at least one photo with a name.")
        self.restorer, self.photos = restorer, dict(photos)
        self.blurred, self.reading, self.restored = (
            cache(self._blurred),
            cache(self._reading),
            cache(self._restored),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the photos."""
        return tuple(self.photos)

    @property
    def views(self) -> dict[str, str]:
        """Everything that `picture` shows, by name, in words."""
        plain = ("blurred", *self.restorer.arms)
        words = {name: label(name) for name in plain} | {"sharp": "sharp"}
        return words | {ERROR + name: f"error of {label(name)}, x {GAIN}" for name in plain}

    def sharp(self, name: str) -> np.ndarray:
        """The photo as it was."""
        if name not in self.photos:
            raise S3EError(f"unknown example '{name}'; choose one of {', '.join(self.photos)}.")
        return self.photos[name]

    def _blurred(self, name: str, severity: str) -> np.ndarray:
        if severity not in SEVERITIES:
            raise S3EError(f"unknown severity '{severity}'; choose one of {', '.join(SEVERITIES)}.")
        blur = self.restorer.config.blur
        photos = self.sharp(name)[None]
        return blur_batch(photos, [name], severity, blur.seed, blur.gamma, blur.noise)[0][0]

    def _reading(self, name: str, severity: str) -> Reading:
        return self.restorer.read(self.blurred(name, severity))

    def _restored(self, name: str, severity: str, arm: str) -> np.ndarray:
        reading = self.reading(name, severity) if arm == "full" else None
        return self.restorer.restore(self.blurred(name, severity), arm, reading=reading)

    def picture(self, name: str, severity: str, view: str) -> np.ndarray:
        """One of `views`; "error:..." of a picture is its absolute difference from sharp."""
        if view.startswith(ERROR):
            found = self.picture(name, severity, view.removeprefix(ERROR))
            return strengthened(found, self.sharp(name), GAIN)
        if view == "sharp":
            return self.sharp(name)
        return (
            self.blurred(name, severity)
            if view == "blurred"
            else self.restored(name, severity, view)
        )

    def scores(self, name: str, severity: str) -> pd.DataFrame:
        """PSNR (dB) and SSIM against sharp; rows: blurred and each arm (protocol: specification 4.4)."""
        views, sharp = ("blurred", *self.restorer.arms), self.sharp(name)
        pictures = {view: self.picture(name, severity, view) for view in views}
        rows = [
            {"psnr": psnr(picture, sharp), "ssim": ssim(picture, sharp)}
            for picture in pictures.values()
        ]
        return pd.DataFrame(rows, index=pd.Index(views, name="picture"))

    def table(self) -> pd.DataFrame:
        """`scores` of every example under every severity: a row each; columns: metric, and blurred or arm."""
        chosen = list(product(self.names, SEVERITIES))
        rows = [self.scores(*names).rename(index=label).unstack() for names in chosen]
        return pd.DataFrame(
            rows, index=pd.MultiIndex.from_tuples(chosen, names=["photo", "severity"])
        )


def strengthened(first: np.ndarray, second: np.ndarray, gain: int) -> np.ndarray:
    """|first - second| times `gain`, cut at white: uint8 like both."""
    apart = np.abs(first.astype(np.int16) - second)
    return np.minimum(gain * apart, 255).astype(np.uint8)
