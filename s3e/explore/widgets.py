"""What notebook 09 shows while controls are moved: texts, and the figures of `s3e.report`.

Images are uint8 (H, W, 3). Sources: specification 3.7 (paths and kernels), 6.3 and 6.4.
"""

from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import cache
from html import escape
from typing import Any

import ipywidgets
import torch
from numpy import ndarray

from s3e.blur import SEVERITIES, blur_batch, expose, extent
from s3e.captions.tree import NODE_NAMES
from s3e.inference.restorer import Reading, Restorer
from s3e.report import diagram, sheets, style
from s3e.utils import S3EError, psnr


def laboratory(draw: Callable[..., tuple], **controls: Any) -> ipywidgets.VBox:
    """Controls as `ipywidgets.interact` has them, and below what `draw` returns: a text, figures.

    A mistake of the user (`S3EError`) becomes a line that screen readers read out. The page is an
    `ipywidgets.HTML`: an `Output`, as `interact` has it, exchanges messages with the kernel while a
    cell runs.
    """
    page, boxes = ipywidgets.HTML(), {}

    def redraw(_: Any = None) -> None:
        try:
            text, *figures = draw(**{name: box.value for name, box in boxes.items()})
            codes = [b64encode(style.show(figure).data).decode() for figure in figures]
            images = [f'<img alt="" src="data:image/png;base64,{code}">' for code in codes]
            page.value = f"<p>{escape(text)}</p>{''.join(images)}"
        except S3EError as error:
            page.value = f'<p role="alert">{escape(str(error))}</p>'

    for name, control in controls.items():
        box = ipywidgets.interactive.widget_from_abbrev(control)
        box.description, box.continuous_update = name.replace("_", " "), False
        box.observe(redraw, "value")
        boxes[name] = box
    redraw()
    return ipywidgets.VBox([*boxes.values(), page])


# 1. What does a shaking camera do to a photo?


def shake(photo: ndarray, **settings: float) -> tuple:
    """A shake of one photo by the settings of `blur.expose`: how wide it is, and its figure."""
    path, seen, kernel, blurred = found = expose(photo, **settings)
    wide = extent(path[:seen])
    text = f"The kernel extends {wide:.1f} px, {wide / min(photo.shape[:2]):.0%} of the side."
    return f"{text} PSNR {psnr(blurred, photo):.2f} dB.", sheets.shakes({"": found})


# 2 and 3. What does the tree know? Is it better?


class Examples:
    """Sharp photos by name, and what the networks of `restorer` make of them, computed once.

    A photo's name keys its blur: a scene under its own id is blurred as the study blurs it. Any
    severity that has no name in `SEVERITIES`, such as "sharp", leaves photos as they are.
    """

    def __init__(self, restorer: Restorer, photos: Mapping[str, ndarray]):
        self.restorer, self.photos = restorer, dict(photos)
        self.views = ["blurred", *restorer.variants]
        self.image, self.reading = cache(self._image), cache(self._reading)

    def _image(self, name: str, severity: str, view: str) -> ndarray:
        """`view`: "sharp", "blurred" or a variant."""
        sharp, blur = self.photos[name], self.restorer.config.blur
        if view == "sharp" or view == "blurred" and severity not in SEVERITIES:
            return sharp
        if view == "blurred":
            arguments = (sharp[None], [name], severity, blur.seed, blur.gamma, blur.noise)
            return blur_batch(*arguments)[0][0]
        maps = self.reading(name, severity).tree.maps
        return self.restorer.restore(self.image(name, severity, "blurred"), view, maps)

    def _reading(self, name: str, severity: str, reader: str = "full") -> Reading:
        return self.restorer.read(self.image(name, severity, "blurred"), reader)

    def trees(self, photo: str, severity: str, read_by: str) -> tuple:
        """The caption of a photo, and where each node and each word of it looks."""
        seen, reading = (
            self.image(photo, severity, "blurred"),
            self.reading(photo, severity, read_by),
        )
        nodes = sheets.node_attention([seen], [reading.attention], [guesses(reading)], [None])
        looks = (reading.caption, reading.word_attention, reading.attention)
        return f"Caption: {reading.caption}", nodes, sheets.word_attention(seen, *looks)

    def restored(self, photo: str, severity: str) -> tuple:
        """The caption of a photo, the photo as every variant restores it, and its tree."""
        columns = {view: [self.image(photo, severity, view)] for view in self.views}
        known, reading = severity in SEVERITIES, self.reading(photo, severity)
        drawn = sheets.results(columns, [self.photos[photo]]) if known else sheets.sheet(columns)
        tree = diagram.tree(reading.nodes, reading.confidence)
        return f"Caption: {reading.caption}", drawn, tree


def guesses(reading: Reading) -> list[str]:
    """The three likeliest labels of each node and their probabilities, on three lines."""
    return [
        "\n".join(f"{label} {share:.0%}" for label, share in ranking[:3])
        for ranking in reading.rankings
    ]


# 4. What does the generator do with the tree?


def changes(examples: Examples, name: str, severity: str) -> dict[str, tuple[ndarray, float]]:
    """An example restored by changed trees, and the change of its PSNR in dB.

    Nodes off, the next example's tree, leaves 1 and 3 (the first of each pair) swapped.
    """
    restorer, names = examples.restorer, [*examples.photos]
    reading, other = examples.reading(name, severity), names[(names.index(name) + 1) % len(names)]
    off = {words: [node] for node, words in enumerate(NODE_NAMES)}
    off |= {"leaves": range(4), "relations": range(4, 7), "all nodes": range(7)}
    maps = {
        f"{words} off": reading.tree.maps.index_fill(1, torch.tensor(nodes), 0)
        for words, nodes in off.items()
    }
    maps["tree of another"] = examples.reading(other, severity).tree.maps
    for what in ("labels", "places"):
        swapped = restorer.swap(reading, 0, 2, places=what == "places")
        maps[f"{what} swapped"] = swapped.tree.maps
    found, sharp = {}, examples.photos[name]
    blurred, whole = (examples.image(name, severity, view) for view in ("blurred", "full"))
    for words, changed in maps.items():
        image = restorer.restore(blurred, maps=changed)
        found[words] = image, psnr(image, sharp) - psnr(whole, sharp)
    return found
