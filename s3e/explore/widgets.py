"""The laboratories of notebook 09: each is a function that returns a `Panel`; what a panel shows, plain functions make.

Images are uint8 (H, W, 3). Sources: specification 3.7 (paths and kernels), 6.2 (trees of captions), 6.3 and 6.4.
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import ipywidgets as widgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from s3e.blur import SEVERITIES, blur_batch, extent
from s3e.captions.parser import explain
from s3e.captions.tree import NODE_NAMES, NULL
from s3e.evaluation.images import psnr, ssim
from s3e.inference.photos import PATH, SAVED, read_photo, shake, write_photo
from s3e.inference.restorer import Reading, Restorer
from s3e.models.tree import LEAVES, NODES
from s3e.report import diagram, style
from s3e.report.photos import word_maps
from s3e.report.style import label
from s3e.utils import S3EError

LARGE, SMALL = 448, 176  # pixels of the longer side of a large image and of a small one
GAIN = 4  # errors are shown four times as strong
ERROR = "error: "  # what the name of an error's image starts with
SHARP = "sharp"
WORDS = 60  # of a typed caption are drawn at most
RANGES = {  # setting of a shake -> smallest, largest, step of its slider
    "length": (0.05, 1.0, 0.002), "exploration": (0.0, 0.02, 0.0005), "exposure": (0.01, 1.0, 0.01),
    "noise": (0.0, 0.1, 0.005), "seed": (0, 99, 1),
}  # fmt: skip


class Panel:
    """Controls, below them what `show` makes of their values, images by title and a text in HTML; display `widget`.

    `show(**values)` returns (images, text); an image is an array or a figure, one that is missing is hidden. A mistake
    of the user (`S3EError`) is shown in one line; anything else is a fault of the code: shown and raised. `sides`:
    pixels of each image on the page, by title.
    """

    def __init__(
        self,
        show: Callable[..., tuple[Mapping[str, Any], str]],
        sides: Mapping[str, int],
        controls: Mapping[str, widgets.Widget],
    ):
        self.show, self.sides, self.controls, self.quiet = show, sides, dict(controls), False
        self.images = {title: widgets.Image(format="png") for title in sides}
        self.text, self.message = widgets.HTML(), widgets.HTML()
        self.cells = {title: self._cell(title) for title in sides}
        below = _row(*self.cells.values())
        self.widget = widgets.VBox([_row(*controls.values()), self.message, below, self.text])
        for control in controls.values():
            control.observe(self.draw, "value")
        self.draw()

    def _cell(self, title: str) -> widgets.Widget:
        side, image = self.sides[title], self.images[title]
        image.layout = widgets.Layout(width="100%", height="auto")
        size = {"flex": f"1 1 {side * 2 // 3}px", "max_width": f"{side}px"}
        layout = widgets.Layout(margin="0 8px 8px 0", min_width="0", **size)
        return widgets.VBox([widgets.HTML(f"<b>{escape(title)}</b>"), image], layout=layout)

    def set(self, **values: Any) -> None:
        """Give controls new values, and draw once."""
        self.quiet = True
        for name, value in values.items():
            self.controls[name].value = value
        self.quiet = False
        self.draw()

    def draw(self, _: Any = None) -> None:
        """Show what the controls ask for."""
        if self.quiet:
            return
        try:
            images, text = self.show(**{n: control.value for n, control in self.controls.items()})
            for title, place in self.images.items():
                self.cells[title].layout.display = "" if title in images else "none"
                place.value = png(images[title], self.sides[title]) if title in images else b""
            self.text.value, self.message.value = text, ""
        except S3EError as error:
            self.message.value = _fault(str(error))
        except Exception as error:
            self.message.value = _fault(f"{type(error).__name__}: {error}")
            raise


def png(image: np.ndarray | Figure, side: int) -> bytes:
    """PNG bytes of a figure, or of an image with `side` pixels at its longer side."""
    if isinstance(image, Figure):
        return style.show(image).data
    coded = cv2.cvtColor(style.enlarged(image, side), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", coded, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def _row(*items: widgets.Widget) -> widgets.Widget:
    """Widgets side by side, on more lines where the screen is narrow."""
    return widgets.HBox(list(items), layout=widgets.Layout(flex_flow="row wrap"))


def _control(kind: type, words: str, **options: Any) -> Any:
    """A labelled control that is as wide as its content asks for and shrinks with the screen."""
    layout = widgets.Layout(width="auto", max_width="100%", margin="2px 12px 2px 0")
    found = kind(description=words, layout=layout, **options)
    found.style.description_width = "initial"
    return found


def _choice(words: str, options: Sequence, value: Any = None) -> widgets.Dropdown:
    chosen = {} if value is None else {"value": value}
    return _control(widgets.Dropdown, words, options=list(options), **chosen)


def _same(names: Iterable[str]) -> list[tuple[str, str]]:
    return [(name, name) for name in names]


def _buttons(panel: Panel, choices: Mapping[str, Mapping[str, Any]]) -> None:
    """Put a button for each choice above the panel: it sets several controls at once."""
    made = [widgets.Button(description=words) for words in choices]
    for button, values in zip(made, choices.values(), strict=True):
        button.on_click(lambda _, values=values: panel.set(**values))
    panel.widget.children = (_row(*made), *panel.widget.children)


def _line(words: str) -> str:
    return f'<div style="line-height:1.5;overflow-wrap:anywhere">{escape(words)}</div>'


def _fault(words: str) -> str:
    return f'<div role="alert" style="color:var(--jp-error-color1, #b71c1c)">{escape(words)}</div>'


def _name(node: str) -> str:
    return "∅" if node == NULL else node.replace("_", " ")


# Examples: everything that networks make of a few photos, computed once


class Examples:
    """Sharp photos by name, and what the networks of `restorer` make of them at each severity.

    A photo's name keys its blur: a scene under its own id is blurred as the study blurs it. Unknown names raise
    `S3EError`.
    """

    def __init__(self, restorer: Restorer, photos: Mapping[str, np.ndarray]):
        if not photos:
            raise S3EError("there are no examples: give at least one photo with a name.")
        self.restorer, self.photos, self.names = restorer, dict(photos), tuple(photos)
        self.blurred, self.reading = cache(self._blurred), cache(self._reading)
        self.restored, self.scores = cache(self._restored), cache(self._scores)
        self.plain = ("blurred", *restorer.variants)

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

    def _reading(self, name: str, severity: str, reader: str = "full") -> Reading:
        return self.restorer.read(self.image(name, severity, "blurred"), reader)

    def _restored(self, name: str, severity: str, variant: str) -> np.ndarray:
        reading = self.reading(name, severity) if variant == "full" else None
        return self.restorer.restore(self.blurred(name, severity), variant, reading=reading)

    def image(self, name: str, severity: str, view: str) -> np.ndarray:
        """`view` is "sharp", "blurred" (also by the severity "sharp"), a variant, or "error: " and one of these."""
        if view.startswith(ERROR):
            found = self.image(name, severity, view.removeprefix(ERROR))
            return style.strengthened(found, self.sharp(name), GAIN)
        if SHARP in (view, severity):
            return self.sharp(name)
        if view == "blurred":
            return self.blurred(name, severity)
        return self.restored(name, severity, view)

    def _scores(self, name: str, severity: str) -> pd.DataFrame:
        images, sharp = [self.image(name, severity, v) for v in self.plain], self.sharp(name)
        rows = [{"PSNR": psnr(image, sharp), "SSIM": ssim(image, sharp)} for image in images]
        return pd.DataFrame(rows, index=[label(view) for view in self.plain])

    def table(self) -> pd.DataFrame:
        """PSNR (dB) and SSIM of every example under every severity; columns: metric, and blurred or variant."""
        rows = {(n, s): self.scores(n, s).unstack() for n in self.names for s in SEVERITIES}
        return pd.DataFrame(rows).T.rename_axis(["photo", "severity"])


# 1. What does a shaking camera do to a photo?


@dataclass(frozen=True, eq=False)
class Exposure:
    """What a shake does to a photo.

    `path`: complex (2000,), pixels, 0 at the centre of its exposed part, which is the first `seen` samples; `window`:
    pixels of the square in which path and kernel are drawn; `extent` of the exposed part in pixels; `psnr` in dB.
    """

    settings: str
    path: np.ndarray
    seen: int
    kernel: np.ndarray
    sharp: np.ndarray
    blurred: np.ndarray
    window: int
    extent: float
    psnr: float


def preset(severity: str) -> dict[str, float]:
    """The middle of what a severity draws from: its length, its median exploration and exposure."""
    found = SEVERITIES[severity]
    middle = (found.length_ratio, np.median(found.explorations), np.median(found.fractions))
    return dict(zip(PATH, map(float, middle), strict=True))


def expose(photo: np.ndarray, **settings: float) -> Exposure:
    """Blur a photo by `settings` (of `RANGES`, `PATH` where nothing is said); values outside raise `S3EError`.

    One seed has one path: the other settings stretch, bend and cut it.
    """
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
        raise S3EError(f"The photo is {photo.dtype} {photo.shape}: give uint8 (height, width, 3).")
    chosen = PATH | {"noise": 0.0, "seed": 0} | settings
    for name, (low, high, _) in RANGES.items():
        if not low <= chosen[name] <= high:
            raise S3EError(
                f"The blur's {name} is {chosen[name]}: choose a value from {low} to {high}."
            )
    path_settings = {name: value for name, value in chosen.items() if name != "seed"}
    blurred, kernel, path, seen = shake(photo, **path_settings, key=("laboratory", chosen["seed"]))
    path = path - seen.mean()
    window = style.window_for(path, min(photo.shape[:2]))
    words = ", ".join(f"{name} {value:g}" for name, value in chosen.items())
    wide, decibels = extent(seen), psnr(blurred, photo)
    return Exposure(words, path, len(seen), kernel, photo, blurred, window, wide, decibels)


def blur_lab(photo: np.ndarray) -> Panel:
    """Sliders for a shake of one photo, and its path, kernel, spectrum and blurred photo."""
    brightest = style.top(photo)

    def show(**settings: float) -> tuple[dict[str, np.ndarray], str]:
        found = expose(photo, **settings)
        images = (
            style.trajectory(found.path, found.seen, found.window),
            style.kernel_image(found.kernel, found.window),
            style.spectrum(found.blurred, brightest),
            found.blurred,
        )
        text = (
            f"The kernel extends {found.extent:.1f} px, {found.extent / min(photo.shape[:2]):.0%} of the side; path and "
            f"kernel are drawn {found.window} px wide. PSNR {found.psnr:.2f} dB. Dot: where the path starts; grey: what "
            "the shutter does not see. The spectrum has frequency 0 in the middle."
        )
        return dict(zip(sides, images, strict=True)), _line(text)

    sides = dict.fromkeys(("path", "kernel", "log spectrum", "blurred photo"), style.SIDE)
    start = preset("moderate") | {"noise": 0.0, "seed": 0}
    sliders = {}
    for name, (low, high, step) in RANGES.items():
        kind, look = widgets.FloatSlider, {"readout_format": f".{len(str(step)) - 2}f"}
        if name == "seed":
            kind, look = widgets.IntSlider, {}
        sliders[name] = _control(
            kind, name, min=low, max=high, step=step, value=start[name], **look
        )
    panel = Panel(show, sides, sliders)
    _buttons(panel, {severity: preset(severity) for severity in SEVERITIES})
    return panel


# 2. What does the tree know?


def caption_lab(captions: Sequence[str]) -> Panel:
    """A caption to type, or to pick from `captions`: the parts of speech of its words, its entities and its tree."""

    def show(pick: str, caption: str) -> tuple[dict[str, Figure], str]:
        parse = explain(caption)
        if not parse["tokens"]:
            return {}, _line(
                "No words yet: type a caption in English, such as “a dog chases a cat”."
            )
        chunks = [f"{text} → {_name(name)}" for text, name in parse["chunks"]]
        text = f"Entities: {'; '.join(chunks[:LEAVES]) or 'none, so that it has no tree'}"
        if len(chunks) > LEAVES:
            text += f"; {len(chunks) - LEAVES} more, for which the tree has no room"
        if parse["tree"]:
            text += f". Tree: {', '.join(map(_name, parse['tree'].nodes))}"
        shown = parse | {name: parse[name][:WORDS] for name in ("tokens", "tags")}
        return {"tree": diagram.forest([shown])}, _line(text)

    options = list(captions)
    panel = Panel(
        show,
        {"tree": LARGE},
        {
            "pick": _choice("pick", options),
            "caption": _control(widgets.Textarea, "caption", value=options[0] if options else ""),
        },
    )
    panel.controls["pick"].observe(lambda change: panel.set(caption=change.new), "value")
    return panel


def tree_lab(examples: Examples) -> Panel:
    """A photo, sharp or blurred: the tree that is read in it, where each node looks, and the caption word by word."""

    def show(photo: str, severity: str, read_by: str, word: int) -> tuple[dict[str, Any], str]:
        seen = examples.image(photo, severity, "blurred")
        reading = examples.reading(photo, severity, read_by)
        images = {"what is read": seen, "tree": diagram.tree(reading.nodes, reading.confidence)}
        for node, name in enumerate(NODE_NAMES):
            images[name] = style.lit(seen, reading.attention[node], SMALL)
        rows = [
            [f"{_name(guess)} {share:.0%}" for guess, share in reading.ranking(node)]
            for node in range(NODES)
        ]
        guesses = pd.DataFrame(rows, index=NODE_NAMES, columns=["first", "second", "third"])
        controls["word"].max = max(1, len(reading.words))
        if not reading.words:
            return images, _line("The caption is empty.") + guesses.to_html(border=0)
        place = min(word, len(reading.words)) - 1
        shares = reading.word_attention[place]
        looked = word_maps(shares[None, None], reading.attention[None])[0, 0]
        images["where the word looks"] = style.lit(seen, looked, style.SIDE)
        guesses[f"share of “{reading.words[place]}”"] = [f"{share:.0%}" for share in shares]
        said = [f"[{w}]" if here == place else w for here, w in enumerate(reading.words)]
        return images, _line(f"Caption: {' '.join(said)}") + guesses.to_html(border=0)

    sides = dict.fromkeys(("what is read", "where the word looks"), style.SIDE) | {"tree": LARGE}
    sides |= dict.fromkeys(NODE_NAMES, SMALL)
    readers = {"full": "S3E-Deblur, after co-training", "captioner": "S3-tree, before co-training"}
    controls = {
        "photo": _choice("photo", examples.names),
        "severity": _choice("severity", [SHARP, *SEVERITIES], "severe"),
        "read_by": _choice("read by", [(readers[r], r) for r in examples.restorer.readers]),
        "word": _control(widgets.IntSlider, "word", min=1, max=1, value=1),
    }
    return Panel(show, sides, controls)


# 3. Is it better?


def compare(examples: Examples) -> Panel:
    """Before and after: two images of a photo under a border that moves; a table of scores."""

    def show(
        photo: str, severity: str, left: str, right: str, border: int
    ) -> tuple[dict[str, np.ndarray], str]:
        first, second = (
            style.enlarged(examples.image(photo, severity, view), LARGE) for view in (left, right)
        )
        column = round(border / 100 * first.shape[1])
        both = np.concatenate([first[:, :column], second[:, column:]], 1)
        if 0 < border < 100:
            both[:, max(0, column - 1) : column + 1] = 255
        note = " Black means no error." if ERROR in left + right else ""
        scores = examples.scores(photo, severity).round({"PSNR": 2, "SSIM": 3})
        text = f"Left: {words[left]}. Right: {words[right]}.{note}"
        return {"before and after": both}, _line(text) + scores.to_html(border=0)

    words = {view: label(view) for view in (*examples.plain, SHARP)}
    words |= {ERROR + view: f"error of {words[view]}, x {GAIN}" for view in examples.plain}
    views = [(text, view) for view, text in words.items()]
    controls = {
        "photo": _choice("photo", examples.names),
        "severity": _choice("severity", SEVERITIES, "severe"),
        "left": _choice("left", views, "blurred"),
        "right": _choice("right", views, examples.plain[-1]),
        "border": _control(widgets.IntSlider, "border (%)", value=50),
    }
    return Panel(show, {"before and after": LARGE}, controls)


# 4. What does the generator do with the tree?


@dataclass(frozen=True)
class Change:
    """What is done to the tree before the generator sees it, in this order.

    `tree_of`: another example whose tree is taken ("" for its own); `leaves`: two (0-3) that swap `swap`, their "labels"
    or "places"; the maps of the nodes `off` are zeros.
    """

    tree_of: str = ""
    swap: str = ""
    leaves: tuple[int, int] = (0, 1)
    off: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Outcome:
    """A photo restored with a changed tree, what the tree reads then, and the change of PSNR in dB."""

    changed: np.ndarray
    reading: Reading
    gain: float


def outcome(examples: Examples, name: str, severity: str, change: Change) -> Outcome:
    """Restore an example with a changed tree."""
    restorer, sharp = examples.restorer, examples.sharp(name)
    reading = examples.reading(change.tree_of or name, severity)
    if change.swap:
        reading = restorer.swap(reading, *change.leaves, places=change.swap == "places")
    maps = reading.maps.clone()
    maps[:, sorted(change.off)] = 0
    changed = restorer.restore(examples.blurred(name, severity), maps=maps)
    gain = psnr(changed, sharp) - psnr(examples.restored(name, severity, "full"), sharp)
    return Outcome(changed, reading, gain)


def changes(examples: Examples, name: str, severity: str) -> dict[str, Change]:
    """The changes of the static figure by name: nodes off, the next example's tree, two leaves swapped.

    The two leaves are the first in which the tree read different entities.
    """
    read, names = examples.reading(name, severity).nodes, examples.names
    off = {f"{words} off": [node] for node, words in enumerate(NODE_NAMES)}
    leaves, nodes = range(LEAVES), range(NODES)
    off |= {"leaves off": leaves, "relations off": nodes[LEAVES:], "all nodes off": nodes}
    found = {words: Change(off=frozenset(nodes)) for words, nodes in off.items()}
    found["tree of another"] = Change(tree_of=names[(names.index(name) + 1) % len(names)])
    pairs = [
        (a, b)
        for a, b in combinations(leaves, 2)
        if read[a] != read[b] and NULL not in (read[a], read[b])
    ]
    pair = pairs[0] if pairs else (0, 1)
    return found | {f"{what} swapped": Change("", what, pair) for what in ("labels", "places")}


def effects(examples: Examples, severity: str) -> pd.DataFrame:
    """What each of `changes` does to PSNR (dB) over all examples: mean, worst and best; rows are the changes."""
    rows = [
        {
            words: outcome(examples, name, severity, change).gain
            for words, change in changes(examples, name, severity).items()
        }
        for name in examples.names
    ]
    return pd.DataFrame(rows).agg(["mean", "min", "max"]).T


def ablation(examples: Examples) -> Panel:
    """Nodes to switch off, another photo's tree, two leaves that swap: restored with the whole tree and the changed one."""

    def show(
        photo: str, severity: str, tree_of: str, swap: str, leaf: int, other: int, **nodes: bool
    ) -> tuple[dict[str, np.ndarray], str]:
        off = frozenset(node for node, kept in enumerate(nodes.values()) if not kept)
        found = outcome(examples, photo, severity, Change(tree_of, swap, (leaf, other), off))
        reading, intact = (
            examples.reading(photo, severity),
            examples.restored(photo, severity, "full"),
        )
        images = (
            examples.blurred(photo, severity),
            intact,
            found.changed,
            style.strengthened(found.changed, intact, 2 * GAIN),
        )
        values = [psnr(image, examples.sharp(photo)) for image in images[:3]]
        text = "PSNR: blurred {:.2f} dB, whole tree {:.2f} dB, changed tree {:.2f} dB".format(
            *values
        )
        table = pd.DataFrame(
            {
                "read": map(_name, reading.nodes),
                "after the change": map(_name, found.reading.nodes),
                "generator sees it": ["no" if node in off else "yes" for node in range(NODES)],
            },
            index=NODE_NAMES,
        )
        said = f"{text} ({found.gain:+.2f} dB). The caption is now: “{found.reading.caption}”."
        return dict(zip(sides, images, strict=True)), _line(said) + table.to_html(border=0)

    sides = dict.fromkeys(
        ("blurred", "whole tree", "changed tree", f"difference x {2 * GAIN}"), 192
    )
    leaves = [(name, leaf) for leaf, name in enumerate(NODE_NAMES[:LEAVES])]
    controls = {
        "photo": _choice("photo", examples.names),
        "severity": _choice("severity", SEVERITIES, "severe"),
        "tree_of": _choice("tree of", [("its own", ""), *_same(examples.names)]),
        "swap": _choice("swap", [("nothing", ""), *_same(("labels", "places"))]),
        "leaf": _choice("of", leaves, 0),
        "other": _choice("and", leaves, 1),
    }
    boxes = {
        name: _control(widgets.Checkbox, name, value=True, indent=False) for name in NODE_NAMES
    }
    panel = Panel(show, sides, controls | boxes)
    _buttons(panel, {f"all {w}": dict.fromkeys(NODE_NAMES, w == "on") for w in ("on", "off")})
    return panel


# 5. Your own photo


def process(
    restorer: Restorer, photo: np.ndarray, variant: str = "full", severity: str = "", **options: Any
) -> tuple[dict[str, np.ndarray], Reading, str]:  # fmt: skip
    """Blur a photo by a `severity` ("": not), read it, restore it: images by title, the reading, and scores in words."""
    height, width = photo.shape[:2]
    text, images = f"{width} x {height} pixels. ", {"as given": photo}
    if severity:
        images["blurred"] = blur_batch(photo[None], ["own photo"], severity)[0][0]
    *_, given = images.values()
    reading = restorer.read(given)
    own = reading if variant == "full" else None
    images["restored"] = restorer.restore(given, variant, reading=own, **options)
    if not severity:
        return images, reading, text + "No sharp photo to compare with, so no PSNR."
    values = psnr(given, photo), psnr(images["restored"], photo)
    text += "PSNR against the photo as given: blurred {:.2f} dB, restored {:.2f} dB.".format(
        *values
    )
    return images, reading, text


def own_photo(restorer: Restorer) -> Panel:
    """Upload a photo or name its path: restored, with tree and caption, and saved under a new name."""
    latest: dict[str, Any] = {}

    def show(upload: tuple, path: str, severity: str, variant: str) -> tuple[dict[str, Any], str]:
        save.disabled, saved.value = True, ""
        if path.strip():
            photo = read_photo(Path(path.strip().strip("\"'")).expanduser())
        elif upload:
            photo = _received(upload[-1])
        else:
            return {}, ""
        images, reading, text = process(restorer, photo.pixels, variant, severity, progress=steps)
        end = photo.path.suffix if photo.path.suffix.lower() in SAVED else ".png"
        target.value = str(photo.path.with_name(f"{photo.path.stem}-restored{end}"))
        latest.update(photo=photo, restored=images["restored"])
        save.disabled, notes = False, "".join(f" {note}." for note in photo.notes)
        said = f"{photo.path.name}: {text}{notes} Caption: “{reading.caption}”."
        return images | {"tree": diagram.tree(reading.nodes, reading.confidence)}, _line(said)

    def steps(tiles: list) -> Any:
        bar.max, bar.value = len(tiles), 0
        for tile in tiles:
            yield tile
            bar.value += 1

    def forget_path(_: Any) -> None:
        panel.quiet, controls["path"].value = True, ""
        panel.quiet = False

    def write(_: Any) -> None:
        path = Path(target.value.strip()).expanduser()
        try:
            if path.exists():
                raise S3EError(f"{path} is there already: choose another name.")
            write_photo(latest["restored"], latest["photo"], path)
            saved.value = _line(f"Saved as {path.resolve()}.")
        except S3EError as error:
            saved.value = _fault(str(error))

    target, saved = _control(widgets.Text, "save as"), widgets.HTML()
    save = widgets.Button(description="save", disabled=True)
    bar = _control(widgets.IntProgress, "progress", min=0, max=1)
    save.on_click(write)
    upload = _control(widgets.FileUpload, "upload a photo", accept="image/*")
    upload.observe(forget_path, "value")  # before the panel draws
    variants = [(label(name), name) for name in reversed(restorer.variants)]
    controls = {
        "upload": upload,
        "path": _control(widgets.Text, "or its path", continuous_update=False),
        "severity": _choice("blur it first", [("no", ""), *_same(SEVERITIES)]),
        "variant": _choice("restore with", variants),
    }
    sides = {"as given": 272, "blurred": 272, "restored": 272, "tree": LARGE}
    panel = Panel(show, sides, controls)
    panel.widget.children = (*panel.widget.children, bar, _row(target, save), saved)
    return panel


def _received(item: Mapping[str, Any]) -> Any:
    """The photo of an uploaded file (`name`, `content`), as `read_photo` reads it from disk; same errors."""
    name = Path(item["name"]).name or "photo"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(item["content"])
        try:
            return read_photo(path)._replace(path=Path(name))
        except S3EError as error:
            raise S3EError(str(error).replace(f"{path.parent}/", "")) from None
