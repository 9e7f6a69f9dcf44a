"""A photo of your own, uploaded or by its path: blurred first if you like, read as a tree and a caption, restored."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ipywidgets as widgets
import numpy as np

from s3e.blur import SEVERITIES, blur_batch
from s3e.evaluation.images import psnr
from s3e.explore import markup, pictures
from s3e.explore.controls import choice, controls, frame, titled
from s3e.inference import Reading, Restorer
from s3e.inference.photos import SAVED, Photograph, read_photo, write_photo
from s3e.report.style import label
from s3e.utils import S3EError

SIDE = 272  # pixels of a picture's longer side on the page
NONE = "no"  # blurred first


class Result(NamedTuple):
    """What came of a photo; pictures uint8 (H, W, 3). `given` is what was restored: the photo, or the photo blurred."""

    photo: np.ndarray
    given: np.ndarray
    restored: np.ndarray
    reading: Reading

    @property
    def pictures(self) -> dict[str, np.ndarray]:
        """The photo as given, blurred where it was, and restored."""
        blurred = {} if self.given is self.photo else {"blurred": self.given}
        return {"as given": self.photo, **blurred, "restored": self.restored}

    @property
    def told(self) -> str:
        """The size and, where the photo was blurred here, PSNR before and after."""
        height, width = self.photo.shape[:2]
        size = f"{width} x {height} pixels"
        if self.given is self.photo:
            return f"{size}. No sharp photo to compare with, so no PSNR."
        values = psnr(self.given, self.photo), psnr(self.restored, self.photo)
        return f"{size}. PSNR against the photo as given: blurred {values[0]:.2f} dB, restored {values[1]:.2f} dB."


def processed(
    restorer: Restorer, photo: np.ndarray, arm: str = "full", severity: str = NONE,
    progress: Callable[[int, int], None] | None = None,
) -> Result:  # fmt: skip
    """Blur a photo, uint8 (H, W, 3), by a `severity` (or "no"), read it, restore it with `arm`."""
    given = photo if severity == NONE else blur_batch(photo[None], ["own photo"], severity)[0][0]
    reading = restorer.read(given)
    restored = restorer.restore(
        given, arm, reading=reading if arm == "full" else None, progress=progress
    )
    return Result(photo, given, restored, reading)


def received(item: Mapping[str, Any]) -> Photograph:
    """The photo of an uploaded file (`name`, `content`), as `read_photo` reads it from disk; same errors."""
    name = Path(item["name"]).name or "photo"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(item["content"])
        try:
            return read_photo(path)._replace(path=Path(name))
        except S3EError as error:
            raise S3EError(str(error).replace(f"{folder}/", "")) from None


def beside(path: Path) -> Path:
    """Where the restored photo goes unless told otherwise: "a.jpg" -> "a-restored.jpg", PNG for what is not written."""
    suffix = path.suffix if path.suffix.lower() in SAVED else ".png"
    return path.with_name(f"{path.stem}-restored{suffix}")


class OwnPhoto:
    """Upload a photo or name its path; `widget` shows it restored, with tree and caption, and saves the result."""

    def __init__(self, restorer: Restorer):
        self.restorer, self.photo, self.result = restorer, None, None
        wide = widgets.Layout(width="100%", max_width="460px")
        self.upload = widgets.FileUpload(
            accept="image/*", multiple=False, description="upload a photo"
        )
        self.upload.layout.width = "auto"
        self.path = widgets.Text(description="or its path", continuous_update=False, layout=wide)
        self.severity = choice("blur it first", [NONE, *SEVERITIES])
        self.arm = choice("restore with", [(label(name), name) for name in reversed(restorer.arms)])
        self.bar = widgets.IntProgress(0, 0, 1, description="progress", layout=wide)
        self.places = {words: frame(SIDE) for words in ("as given", "blurred", "restored")}
        self.titled = {words: titled(words, place, SIDE) for words, place in self.places.items()}
        self._display({})
        self.told, self.message, self.saved = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.target = widgets.Text(description="save as", layout=wide)
        self.save = widgets.Button(description="save", disabled=True)
        above = (
            controls(self.upload, self.path),
            controls(self.severity, self.arm),
            self.bar,
            self.message,
        )
        below = self.told, controls(self.target, self.save), self.saved
        self.widget = widgets.VBox([*above, controls(*self.titled.values()), *below])
        self._listen()

    def _listen(self) -> None:
        self.upload.observe(
            lambda change: change.new and self._open(lambda: received(change.new[0])), "value"
        )
        self.path.observe(
            lambda change: change.new.strip() and self._open(lambda: _named(change.new)), "value"
        )
        for control in (self.severity, self.arm):
            control.observe(lambda _: self._show(), "value")
        self.save.on_click(lambda _: self._save())

    def _open(self, reader: Callable[[], Photograph]) -> None:
        with markup.reported(self.message):
            self.photo = reader()
            self.target.value = str(beside(self.photo.path))
        if not self.message.value:
            self._show()

    def _show(self) -> None:
        if self.photo is None:
            return
        with markup.reported(self.message):
            self.saved.value, self.save.disabled = "", True
            self._progress(0, 1)
            chosen = (self.arm.value, self.severity.value)
            self.result = processed(self.restorer, self.photo.pixels, *chosen, self._progress)
            self._display(self.result.pictures)
            reading, notes = self.result.reading, [f"{note}." for note in self.photo.notes]
            said = " ".join(
                (
                    self.photo.path.name + ":",
                    self.result.told,
                    *notes,
                    f"Caption: “{reading.caption}”.",
                )
            )
            self.told.value = markup.line(said) + markup.tree(reading.nodes, reading.confidence)
            self._progress(self.bar.max, self.bar.max)
            self.save.disabled = False

    def _display(self, found: Mapping[str, np.ndarray]) -> None:
        """Show these pictures; a place without one is hidden."""
        for words, place in self.places.items():
            self.titled[words].layout.display = "" if words in found else "none"
            place.value = pictures.shown(found[words], SIDE) if words in found else b""

    def _progress(self, done: int, total: int) -> None:
        self.bar.max, self.bar.value = total, done

    def _save(self) -> None:
        self.saved.value, path = "", Path(self.target.value.strip()).expanduser()
        with markup.reported(self.message):
            if path.exists():
                raise S3EError(f"{path} is there already: choose another name.")
            write_photo(self.result.restored, self.photo, path)
            self.saved.value = markup.line(f"Saved as {path.resolve()}.")


def _named(text: str) -> Photograph:
    return read_photo(Path(text.strip().strip("\"'")).expanduser())
