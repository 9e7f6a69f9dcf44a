"""The laboratories of notebook 09: controls, and the figures of `s3e.report` for their values.

Images are uint8 (H, W, 3). Sources: specification 3.7 (paths and kernels), 6.3 and 6.4.
"""

from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from s3e.blur import SEVERITIES, blur_batch, blur_image, exposed, extent, psf, trajectories
from s3e.captions.tree import NODE_NAMES
from s3e.evaluation.images import ssim
from s3e.inference.photos import read_photo
from s3e.inference.restorer import Reading, Restorer
from s3e.models.tree import LEAVES
from s3e.report import diagram, photos, style
from s3e.utils import S3EError, psnr, rng, to_uint8

SHARP = "sharp"
RANGES = {  # setting of a shake -> smallest, largest, step of its slider
    "length": (0.05, 1.0, 0.002),
    "exploration": (0.0, 0.02, 0.0005),
    "exposure": (0.01, 1.0, 0.01),
    "noise": (0.0, 0.1, 0.005),
    "seed": (0, 99, 1),
}


class Laboratory(ipywidgets.VBox):
    """Controls (or what ipywidgets makes them of), and below them what `make` returns: a text, then
    figures.

    A mistake of the user (`S3EError`) becomes a line that screen readers read out. The page is an
    `ipywidgets.HTML`: an `Output` would exchange messages with the kernel while a cell runs.
    """

    def __init__(self, make: Callable[..., tuple], **controls: Any):
        self.make, self.page = make, ipywidgets.HTML()
        self.controls = {
            name: ipywidgets.interactive.widget_from_abbrev(control)
            for name, control in controls.items()
        }
        for name, control in self.controls.items():
            control.description, control.continuous_update = name.replace("_", " "), False
            control.observe(self.show, "value")
        super().__init__([*self.controls.values(), self.page])
        self.show()

    def show(self, _: Any = None) -> None:
        """Draw the page for the values of the controls."""
        try:
            values = {name: control.value for name, control in self.controls.items()}
            text, *figures = self.make(**values)
            codes = [b64encode(style.show(figure).data).decode() for figure in figures]
            images = [f'<img alt="" src="data:image/png;base64,{code}">' for code in codes]
            self.page.value = f"<p>{escape(text)}</p>{''.join(images)}"
        except S3EError as error:
            self.page.value = f'<p role="alert">{escape(str(error))}</p>'


class Examples:
    """Sharp photos by name, and what the networks of `restorer` make of them at each severity,
    computed once.

    A photo's name keys its blur: a scene under its own id is blurred as the study blurs it.
    """

    def __init__(self, restorer: Restorer, photos: Mapping[str, np.ndarray]):
        self.restorer, self.photos = restorer, dict(photos)
        self.views = ["blurred", *restorer.variants]
        self.image, self.reading = cache(self._image), cache(self._reading)

    def _image(self, name: str, severity: str, view: str) -> np.ndarray:
        """`view`: "sharp", "blurred" (not so by the severity "sharp") or a variant."""
        sharp, blur = self.photos[name], self.restorer.config.blur
        if view == SHARP or (view, severity) == ("blurred", SHARP):
            return sharp
        if view == "blurred":
            arguments = (sharp[None], [name], severity, blur.seed, blur.gamma, blur.noise)
            return blur_batch(*arguments)[0][0]
        maps = self.reading(name, severity).tree.maps
        return self.restorer.restore(self.image(name, severity, "blurred"), view, maps)

    def _reading(self, name: str, severity: str, reader: str = "full") -> Reading:
        return self.restorer.read(self.image(name, severity, "blurred"), reader)

    def table(self) -> pd.DataFrame:
        """PSNR (dB) and SSIM of all examples and severities; columns: metric, view."""
        rows = {
            (name, severity): {
                (metric, style.label(view)): score(self.image(name, severity, view), sharp)
                for metric, score in (("PSNR", psnr), ("SSIM", ssim))
                for view in self.views
            }
            for name, sharp in self.photos.items()
            for severity in SEVERITIES
        }
        return pd.DataFrame(rows).T.rename_axis(["photo", "severity"])


# 1. What does a shaking camera do to a photo?


class Shake(NamedTuple):
    """A camera path (complex, pixels), how many samples are seen, kernel, blurred photo."""

    path: np.ndarray
    seen: int
    kernel: np.ndarray
    blurred: np.ndarray


def preset(severity: str) -> dict[str, float]:
    """The middle of what a severity draws from: its length, its median exploration and exposure."""
    found = SEVERITIES[severity]
    return {
        "length": found.length_ratio,
        "exploration": float(np.median(found.explorations)),
        "exposure": float(np.median(found.fractions)),
    }


def expose(
    photo: np.ndarray,
    length: float,
    exploration: float,
    exposure: float,
    noise: float = 0.0,
    seed: int = 0,
) -> Shake:
    """Blur a photo by a path of `length` shorter sides (specification 3.7) and noise of a standard
    deviation in units of white.

    One seed has one path: the other settings stretch, bend and cut it.
    """
    pixels = length * min(photo.shape[:2])
    path = trajectories(1, pixels, exploration, rng("laboratory", seed))[0]
    kernel, draws = psf(path, exposure), rng("noise", "laboratory", seed)
    blurred = blur_image(photo / np.float32(255), kernel, sigma=noise, generator=draws)
    return Shake(path, len(exposed(path, exposure)), kernel, to_uint8(blurred, 0.0))


def blur_lab(photo: np.ndarray) -> Laboratory:
    """Sliders for a shake of one photo, and its path, kernel, spectrum and blurred photo."""
    start = preset("moderate") | {"noise": 0.0, "seed": 0}

    def make(**settings: float) -> tuple:
        found = expose(photo, **settings)
        wide = extent(found.path[: found.seen])
        text = (
            f"The kernel extends {wide:.1f} px, {wide / min(photo.shape[:2]):.0%} of the side. PSNR"
            f" {psnr(found.blurred, photo):.2f} dB. Dot: where the path starts; grey: what the"
            " shutter does not see. The spectrum has frequency 0 in the middle."
        )
        return text, photos.shakes({"": found})

    abbreviated = ipywidgets.interactive.widget_from_abbrev
    sliders = {name: abbreviated(ends, start[name]) for name, ends in RANGES.items()}
    sliders["exploration"].readout_format = ".4f"
    return Laboratory(make, **sliders)


# 2. What does the tree know?


def tree_lab(examples: Examples) -> Laboratory:
    """A photo, sharp or blurred: its tree, where each node and each word of the caption looks."""

    def make(photo: str, severity: str, read_by: str) -> tuple:
        seen = examples.image(photo, severity, "blurred")
        reading = examples.reading(photo, severity, read_by)
        nodes = photos.node_attention([seen], [reading.attention], [guesses(reading)], [None])
        looks = (reading.caption, reading.word_attention, reading.attention)
        return f"Caption: {reading.caption}", nodes, photos.word_attention(seen, *looks)

    return Laboratory(
        make,
        photo=[*examples.photos],
        severity=[*SEVERITIES, SHARP],
        read_by=[*examples.restorer.readers],
    )


def guesses(reading: Reading) -> list[str]:
    """The three likeliest labels of each node and their probabilities, on three lines."""
    return [
        "\n".join(f"{label} {share:.0%}" for label, share in ranking[:3])
        for ranking in reading.rankings
    ]


# 3. Is it better?


def compare(examples: Examples) -> Laboratory:
    """Before and after: two images of a photo under a border that moves."""

    def make(photo: str, severity: str, left: str, right: str, border: int) -> tuple:
        first, second = (examples.image(photo, severity, view) for view in (left, right))
        column = round(border / 100 * first.shape[1])
        both = np.concatenate([first[:, :column], second[:, column:]], 1)
        values = [f"{psnr(image, examples.photos[photo]):.2f} dB" for image in (first, second)]
        text = f"Left: {style.label(left)}, {values[0]}. Right: {style.label(right)}, {values[1]}."
        return text, photos.sheet({"before and after": [both]}, across=2)

    views = [*examples.views, SHARP]
    return Laboratory(
        make,
        photo=[*examples.photos],
        severity=[*SEVERITIES][::-1],
        left=views,
        right=views[::-1],
        border=(0, 100),
    )


# 4. What does the generator do with the tree?


def changes(examples: Examples, name: str, severity: str) -> dict[str, tuple[np.ndarray, float]]:
    """An example restored by changed trees, and the change of its PSNR in dB.

    Nodes off, the next example's tree, leaves 1 and 3 (the first of each pair) swapped.
    """
    reading, names = examples.reading(name, severity), [*examples.photos]
    off: dict[str, Any] = {words: node for node, words in enumerate(NODE_NAMES)}
    off |= {"leaves": slice(LEAVES), "relations": slice(LEAVES, None), "all nodes": slice(None)}
    maps = {}
    for words, nodes in off.items():
        maps[f"{words} off"] = reading.tree.maps.clone()
        maps[f"{words} off"][:, nodes] = 0
    other = names[(names.index(name) + 1) % len(names)]
    maps["tree of another"] = examples.reading(other, severity).tree.maps
    for what in ("labels", "places"):
        swapped = examples.restorer.swap(reading, 0, 2, places=what == "places")
        maps[f"{what} swapped"] = swapped.tree.maps
    found, sharp = {}, examples.photos[name]
    blurred, whole = (examples.image(name, severity, view) for view in ("blurred", "full"))
    for words, changed in maps.items():
        image = examples.restorer.restore(blurred, maps=changed)
        found[words] = image, psnr(image, sharp) - psnr(whole, sharp)
    return found


def effects(examples: Examples, severity: str) -> pd.DataFrame:
    """What each of `changes` does to PSNR (dB) over all examples: mean, worst and best."""
    gains = {
        name: {words: gain for words, (_, gain) in changes(examples, name, severity).items()}
        for name in examples.photos
    }
    return pd.DataFrame(gains).agg(["mean", "min", "max"], axis=1)


# 5. Your own photo


def process(restorer: Restorer, photo: np.ndarray, severity: str = "") -> tuple[Reading, Figure]:
    """Blur a photo by a `severity` ("": not), read it, and draw it as every variant restores it."""
    given = blur_batch(photo[None], ["own photo"], severity)[0][0] if severity else photo
    reading, columns = restorer.read(given), {"blurred": [given]}
    for variant in restorer.variants:
        columns[variant] = [restorer.restore(given, variant, reading.tree.maps)]
    return reading, photos.results(columns, [photo]) if severity else photos.sheet(columns)


def own_photo(restorer: Restorer) -> Laboratory:
    """The path of a photo: restored, with tree and caption."""

    def make(path: str, blur_it_first: str) -> tuple:
        if not path.strip():
            return ("No photo yet.",)
        photo = read_photo(Path(path.strip("\"' ")).expanduser())
        name, size = photo.path.name, photo.pixels.shape
        reading, restored = process(restorer, photo.pixels, blur_it_first)
        about = ", ".join((f"{name}: {size[1]} x {size[0]} pixels", *photo.notes))
        tree = diagram.tree(reading.nodes, reading.confidence)
        return f"{about}. Caption: {reading.caption}", restored, tree

    severities = [("no", ""), *zip(SEVERITIES, SEVERITIES, strict=True)]
    return Laboratory(make, path=ipywidgets.Text(), blur_it_first=severities)
