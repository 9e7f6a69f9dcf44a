"""Two pictures of one photo under a sliding border: blurred, restored, sharp, or what is wrong with them."""

import ipywidgets as widgets
import numpy as np

from s3e.blur import SEVERITIES
from s3e.explore import markup, pictures
from s3e.explore.controls import SIDE, choice, controls, frame
from s3e.explore.examples import ERROR, Examples
from s3e.report.style import label

BORDER = 2  # pixels between left and right


def composed(left: np.ndarray, right: np.ndarray, share: float) -> np.ndarray:
    """`left` up to `share` (0 to 1) of the width, `right` beyond, a white line between; both uint8 of one shape."""
    column = round(share * left.shape[1])
    picture = np.concatenate([left[:, :column], right[:, column:]], 1)
    if 0 < share < 1:
        picture[:, max(0, column - BORDER // 2) : column + BORDER // 2] = 255
    return picture


class Compare:
    """Before and after: choose photo, severity and two pictures, and move the border; `widget` holds all of it."""

    def __init__(self, examples: Examples):
        self.examples = examples
        views = [(words, name) for name, words in examples.views.items()]
        self.example = choice("photo", list(examples.names))
        self.severity = choice("severity", list(SEVERITIES), "severe")
        self.left, self.right = (
            choice("left", views, "blurred"),
            choice("right", views, examples.restorer.arms[-1]),
        )
        self.position = widgets.IntSlider(
            50, 0, 100, description="border (%)", layout={"width": "100%", "max_width": "448px"}
        )
        self.picture, self.told = frame(), widgets.HTML()
        self.table, self.message = widgets.HTML(), widgets.HTML()
        top = controls(self.example, self.severity, self.left, self.right)
        self.widget = widgets.VBox(
            [top, self.position, self.picture, self.told, self.table, self.message]
        )
        self.position.observe(self._draw, "value")
        for control in (self.example, self.severity, self.left, self.right):
            control.observe(self._show, "value")
        self._show()

    def _show(self, _: object = None) -> None:
        with markup.reported(self.message):
            name, severity = self.example.value, self.severity.value
            views = (self.left.value, self.right.value)
            self._pair = [
                pictures.enlarged(self.examples.picture(name, severity, view), SIDE)
                for view in views
            ]
            self._tell()
            self._draw()

    def _draw(self, _: object = None) -> None:
        self.picture.value = pictures.png(composed(*self._pair, self.position.value / 100))

    def _tell(self) -> None:
        scores = self.examples.scores(self.example.value, self.severity.value)
        rows = [
            (label(view), f"{row.psnr:.2f}", f"{row.ssim:.3f}") for view, row in scores.iterrows()
        ]
        self.table.value = markup.table(("against sharp", "PSNR (dB)", "SSIM"), rows)
        words = self.examples.views
        note = " Black means no error." if ERROR in self.left.value + self.right.value else ""
        self.told.value = markup.line(
            f"Left: {words[self.left.value]}. Right: {words[self.right.value]}.{note}"
        )
