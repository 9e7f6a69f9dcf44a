"""The laboratories of notebook 09: each is a `Laboratory`, controls and a function that makes a
page of images and text.

Images are uint8 (H, W, 3). Sources: specification 3.7 (paths and kernels), 6.2 (trees of captions),
6.3 and 6.4.
"""

import tempfile
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from itertools import combinations
from pathlib import Path
from textwrap import shorten
from typing import Any

import cv2
import ipywidgets
import numpy as np
import pandas as pd
from IPython.display import HTML

from s3e.blur import SEVERITIES, blur_batch, blur_image, exposed, extent, psf, trajectories
from s3e.captions.parser import explain
from s3e.captions.tree import NODE_NAMES, NULL
from s3e.evaluation.images import psnr, ssim, to_uint8
from s3e.inference.photos import Photograph, read_photo, write_photo
from s3e.inference.restorer import Reading, Restorer
from s3e.models.tree import LEAVES, NODES
from s3e.report import diagram, style
from s3e.report.style import label
from s3e.utils import S3EError, rng

LARGE, SMALL = 448, 176  # pixels of the longer side of a large image and of a small one
GAIN = 4  # errors are shown four times as strong
ERROR = "error: "  # what the name of an error's image starts with
SHARP = "sharp"
WORDS = 60  # of a typed caption are drawn at most
RANGES = {  # setting of a shake -> smallest, largest, step of its slider
    "length": (0.05, 1.0, 0.002), "exploration": (0.0, 0.02, 0.0005), "exposure": (0.01, 1.0, 0.01),
    "noise": (0.0, 0.1, 0.005), "seed": (0, 99, 1),
}  # fmt: skip


class Laboratory(ipywidgets.VBox):
    """Controls (or what ipywidgets makes them of), and below them the page that `make` returns.

    A mistake of the user (`S3EError`) becomes a line that screen readers read out. The page is an
    `ipywidgets.HTML`: an `Output` would exchange messages with the kernel while a cell runs.
    """

    def __init__(self, make: Callable[..., HTML], **controls: Any):
        self.make, self.page = make, ipywidgets.HTML()
        self.controls = {
            name: ipywidgets.interactive.widget_from_abbrev(control)
            for name, control in controls.items()
        }
        for name, control in self.controls.items():
            control.description = control.description or name
            control.observe(self.show, "value")
        super().__init__([*self.controls.values(), self.page])
        self.show()

    def show(self, _: Any = None) -> None:
        """Make the page for the values of the controls."""
        try:
            values = {name: control.value for name, control in self.controls.items()}
            self.result = self.make(**values)
        except S3EError as error:
            self.result = HTML(f'<div role="alert">{escape(str(error))}</div>')
        self.page.value = self.result.data


def page(
    images: Mapping[str, np.ndarray], text: str, side: int = style.SIDE, more: str = ""
) -> HTML:
    """Images `side` pixels wide under their titles, wrapped where the screen is narrow; a line of
    text; more HTML.
    """
    cells = []
    for title, image in images.items():
        coded = cv2.cvtColor(style.enlarged(image, side), cv2.COLOR_RGB2BGR)
        data = b64encode(cv2.imencode(".png", coded)[1].tobytes()).decode()
        source = f'style="width:100%" alt="{escape(title)}" src="data:image/png;base64,{data}"'
        look = f"margin:4px;flex:0 1 {side}px"
        cells.append(
            f'<figure style="{look}"><figcaption>{escape(title)}</figcaption>'
            f"<img {source}></figure>"
        )
    row = f'<div style="display:flex;flex-wrap:wrap">{"".join(cells)}</div>'
    return HTML(f'{row}<div style="overflow-wrap:anywhere">{escape(text)}</div>{more}')


def _drawn(figure: Any) -> np.ndarray:
    data = np.frombuffer(style.show(figure).data, np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def _name(node: str) -> str:
    return "∅" if node == NULL else node.replace("_", " ")


class Examples:
    """Sharp photos by name, and what the networks of `restorer` make of them at each severity,
    computed once.

    A photo's name keys its blur: a scene under its own id is blurred as the study blurs it.
    """

    def __init__(self, restorer: Restorer, photos: Mapping[str, np.ndarray]):
        self.restorer, self.photos, self.names = restorer, dict(photos), list(photos)
        self.image, self.reading = cache(self._image), cache(self._reading)
        self.scores, self.plain = cache(self._scores), ("blurred", *restorer.variants)

    def _image(self, name: str, severity: str, view: str) -> np.ndarray:
        """`view`: "sharp", "blurred" (not so by the severity "sharp"), a variant, or "error: " and
        one of these.
        """
        sharp, blur = self.photos[name], self.restorer.config.blur
        if view.startswith(ERROR):
            found = self.image(name, severity, view.removeprefix(ERROR))
            return style.strengthened(found, sharp, GAIN)
        if SHARP in (view, severity):
            return sharp
        if view == "blurred":
            settings = (severity, blur.seed, blur.gamma, blur.noise)
            return blur_batch(sharp[None], [name], *settings)[0][0]
        maps = self.reading(name, severity).tree.maps if view == "full" else None
        return self.restorer.restore(self.image(name, severity, "blurred"), view, maps)

    def _reading(self, name: str, severity: str, reader: str = "full") -> Reading:
        return self.restorer.read(self.image(name, severity, "blurred"), reader)

    def _scores(self, name: str, severity: str) -> pd.DataFrame:
        images = [self.image(name, severity, view) for view in self.plain]
        pairs = [(image, self.photos[name]) for image in images]
        rows = [{"PSNR": psnr(*pair), "SSIM": ssim(*pair)} for pair in pairs]
        return pd.DataFrame(rows, index=[label(view) for view in self.plain])

    def table(self) -> pd.DataFrame:
        """PSNR (dB) and SSIM of every example under every severity; columns: metric, and blurred or
        variant.
        """
        rows = {(n, s): self.scores(n, s).unstack() for n in self.names for s in SEVERITIES}
        return pd.DataFrame(rows).T.rename_axis(["photo", "severity"])


# 1. What does a shaking camera do to a photo?


@dataclass(frozen=True, eq=False)
class Exposure:
    """What a shake does to a photo.

    `path`: complex (2000,), pixels, 0 at the centre of its exposed part, which is the first `seen`
    samples; `window`: pixels of the square in which path and kernel are drawn; `extent` of the
    exposed part in pixels; `psnr` in dB.
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
    return dict(zip(("length", "exploration", "exposure"), map(float, middle), strict=True))


def expose(photo: np.ndarray, noise: float = 0.0, seed: int = 0, **path: float) -> Exposure:
    """Blur a photo, uint8 (H, W, 3), by a path and noise, its standard deviation in units of white.

    `path`: its length in shorter sides, exploration and exposure, those of `moderate` where nothing
    else is said (specification 3.7). One seed has one path: the settings stretch, bend and cut it.
    """
    settings = preset("moderate") | path
    drawn = rng("laboratory", seed)
    length = settings["length"] * min(photo.shape[:2])
    moved = trajectories(1, length, settings["exploration"], drawn)[0]
    seen = exposed(moved, settings["exposure"])
    kernel, noisy = psf(seen), rng("noise", "laboratory", seed)
    blurred = blur_image(photo / np.float32(255), kernel, sigma=noise, generator=noisy)
    blurred = to_uint8(blurred, 0.0)
    moved = moved - seen.mean()
    settings |= {"noise": noise, "seed": seed}
    words = ", ".join(f"{name} {value:g}" for name, value in settings.items())
    window = style.window_for(moved, min(photo.shape[:2]))
    wide, decibels = extent(seen), psnr(blurred, photo)
    return Exposure(words, moved, len(seen), kernel, photo, blurred, window, wide, decibels)


def blur_lab(photo: np.ndarray) -> ipywidgets.VBox:
    """Sliders for a shake of one photo, and its path, kernel, spectrum and blurred photo."""
    brightest = style.top(photo)

    def make(**settings: float) -> HTML:
        found = expose(photo, **settings)
        images = {
            "path": style.trajectory(found.path, found.seen, found.window),
            "kernel": style.kernel_image(found.kernel, found.window),
            "log spectrum": style.spectrum(found.blurred, brightest),
            "blurred photo": found.blurred,
        }
        text = (
            f"The kernel extends {found.extent:.1f} px, {found.extent / min(photo.shape[:2]):.0%}"
            f" of the side; path and kernel are drawn {found.window} px wide. PSNR {found.psnr:.2f}"
            " dB. Dot: where the path starts; grey: what the shutter does not see. The spectrum"
            " has frequency 0 in the middle."
        )
        return page(images, text)

    lab = Laboratory(make, **RANGES)
    lab.children[3].value = lab.children[4].value = 0  # noise, seed
    start = ipywidgets.ToggleButtons(options=list(SEVERITIES), description="start from")

    def move(_: Any) -> None:
        for control in lab.children[:3]:
            control.value = preset(start.value)[control.description]

    start.observe(move, "value")
    start.value = "moderate"
    return ipywidgets.VBox([start, lab])


# 2. What does the tree know?


def caption_lab(captions: Sequence[str]) -> Laboratory:
    """A caption to type, or to pick from `captions`: the parts of speech of its words, its entities
    and its tree.
    """

    def make(caption: str) -> HTML:
        parse = explain(caption)
        if not parse["tokens"]:
            return page(
                {}, "No words yet: type a caption in English, such as “a dog chases a cat”."
            )
        chunks = [f"{shorten(text, 60)} → {_name(name)}" for text, name in parse["chunks"]]
        text = f"Entities: {'; '.join(chunks[:LEAVES]) or 'none, so that it has no tree'}"
        if len(chunks) > LEAVES:
            text += f"; {len(chunks) - LEAVES} more, for which the tree has no room"
        if parse["tree"]:
            text += f". Tree: {', '.join(map(_name, parse['tree'].nodes))}"
        shown = parse | {name: parse[name][:WORDS] for name in ("tokens", "tags")}
        return page({"tree": _drawn(diagram.forest([shown]))}, text, LARGE)

    start, layout = captions[0] if captions else "", ipywidgets.Layout(width="95%")
    typed = ipywidgets.Combobox(value=start, options=list(captions), layout=layout)
    return Laboratory(make, caption=typed)


def tree_lab(examples: Examples) -> Laboratory:
    """A photo, sharp or blurred: the tree that is read in it, where each node looks, and the
    caption word by word.
    """

    def make(photo: str, severity: str, read_by: str, word: int) -> HTML:
        seen = examples.image(photo, severity, "blurred")
        reading = examples.reading(photo, severity, read_by)
        rows = [
            [f"{_name(guess)} {share:.0%}" for guess, share in reading.rankings[node][:3]]
            for node in range(NODES)
        ]
        table = pd.DataFrame(rows, index=NODE_NAMES, columns=["first", "second", "third"])
        images, said = {"what is read": seen}, list(reading.words)
        if said:
            place = min(word, len(said)) - 1
            shares = reading.word_attention[place]
            looked = np.tensordot(shares, reading.attention, 1)
            images[f"where “{said[place]}” looks"] = style.lit(seen, looked)
            table[f"share of “{said[place]}”"] = [f"{share:.0%}" for share in shares]
            said[place] = f"[{said[place]}]"
        images |= dict(
            zip(NODE_NAMES, (style.lit(seen, m) for m in reading.attention), strict=True)
        )
        return page(images, f"Caption: {' '.join(said)}", SMALL, table.to_html(border=0))

    severities, readers = [SHARP, *SEVERITIES][::-1], [*examples.restorer.readers]
    options = {"photo": examples.names, "severity": severities, "read_by": readers}
    return Laboratory(make, **options, word=ipywidgets.IntSlider(1, 1, 24))


# 3. Is it better?


def compare(examples: Examples) -> Laboratory:
    """Before and after: two images of a photo under a border that moves; a table of scores."""

    def make(photo: str, severity: str, left: str, right: str, border: int) -> HTML:
        first, second = (
            style.enlarged(examples.image(photo, severity, view), LARGE) for view in (left, right)
        )
        column = round(border / 100 * first.shape[1])
        both = np.concatenate([first[:, :column], second[:, column:]], 1)
        if 0 < border < 100:
            both[:, max(0, column - 1) : column + 1] = 255
        scores = examples.scores(photo, severity).round({"PSNR": 2, "SSIM": 3})
        text = f"Left: {left}. Right: {right}. Errors are {GAIN} times as strong; black means none."
        return page({"before and after": both}, text, LARGE, scores.to_html(border=0))

    views = [*examples.plain, SHARP, *(ERROR + view for view in examples.plain)]
    options = {"photo": examples.names, "severity": list(SEVERITIES)[::-1], "left": views}
    right = ipywidgets.Dropdown(options=views, value=examples.plain[-1])
    return Laboratory(make, **options, right=right, border=(0, 100))


# 4. What does the generator do with the tree?


@dataclass(frozen=True)
class Change:
    """What is done to the tree before the generator sees it, in this order.

    `tree_of`: another example whose tree is taken ("" for its own); `leaves`: two (0-3) that swap
    `swap`, their "labels" or "places"; the maps of the nodes `off` are zeros.
    """

    tree_of: str = ""
    swap: str = ""
    leaves: tuple[int, int] = (0, 1)
    off: frozenset[int] = frozenset()


def outcome(
    examples: Examples, name: str, severity: str, change: Change
) -> tuple[np.ndarray, Reading, float]:
    """An example restored with a changed tree, what the tree reads then, and the change of PSNR in
    dB.
    """
    sharp, restorer = examples.photos[name], examples.restorer
    reading = examples.reading(change.tree_of or name, severity)
    if change.swap:
        reading = restorer.swap(reading, *change.leaves, places=change.swap == "places")
    maps = reading.tree.maps.clone()
    maps[:, sorted(change.off)] = 0
    changed = restorer.restore(examples.image(name, severity, "blurred"), maps=maps)
    gain = psnr(changed, sharp) - psnr(examples.image(name, severity, "full"), sharp)
    return changed, reading, gain


def changes(examples: Examples, name: str, severity: str) -> dict[str, Change]:
    """The changes of the static figure by name: nodes off, the next example's tree, two leaves
    swapped.

    The two leaves are the first in which the tree read different entities.
    """
    read, names, nodes = examples.reading(name, severity).nodes, examples.names, range(NODES)
    off = {words: [node] for node, words in enumerate(NODE_NAMES)}
    off |= {"leaves": nodes[:LEAVES], "relations": nodes[LEAVES:], "all nodes": nodes}
    found = {f"{words} off": Change(off=frozenset(some)) for words, some in off.items()}
    found["tree of another"] = Change(tree_of=names[(names.index(name) + 1) % len(names)])
    pairs = combinations([leaf for leaf in range(LEAVES) if read[leaf] != NULL], 2)
    pair = next(((a, b) for a, b in pairs if read[a] != read[b]), (0, 1))
    return found | {f"{what} swapped": Change("", what, pair) for what in ("labels", "places")}


def effects(examples: Examples, severity: str) -> pd.DataFrame:
    """What each of `changes` does to PSNR (dB) over all examples: mean, worst and best; rows are
    the changes.
    """
    gains = {
        name: {
            words: outcome(examples, name, severity, change)[2]
            for words, change in changes(examples, name, severity).items()
        }
        for name in examples.names
    }
    return pd.DataFrame(gains).agg(["mean", "min", "max"], axis=1)


def ablation(examples: Examples) -> Laboratory:
    """Nodes to switch off, another photo's tree, two leaves that swap: restored with the whole tree
    and the changed one.
    """

    def make(
        photo: str, severity: str, tree_of: str, swap: str, leaf: int, other: int, **nodes: bool
    ) -> HTML:
        off = frozenset(node for node, kept in enumerate(nodes.values()) if not kept)
        change = Change(tree_of, swap, (leaf - 1, other - 1), off)
        changed, reading, gain = outcome(examples, photo, severity, change)
        images = {
            "blurred": examples.image(photo, severity, "blurred"),
            "whole tree": examples.image(photo, severity, "full"),
            "changed tree": changed,
        }
        values = [
            f"{words} {psnr(i, examples.photos[photo]):.2f} dB" for words, i in images.items()
        ]
        apart = style.strengthened(changed, images["whole tree"], 2 * GAIN)
        images[f"difference x {2 * GAIN}"] = apart
        table = pd.DataFrame(
            {
                "read": map(_name, examples.reading(photo, severity).nodes),
                "after the change": map(_name, reading.nodes),
                "generator sees it": ["no" if node in off else "yes" for node in range(NODES)],
            },
            index=NODE_NAMES,
        )
        text = (
            f"PSNR: {', '.join(values)} ({gain:+.2f} dB). The caption is now: “{reading.caption}”."
        )
        return page(images, text, more=table.to_html(border=0))

    return Laboratory(
        make,
        photo=examples.names,
        severity=list(SEVERITIES)[::-1],
        tree_of=[("its own", ""), *zip(examples.names, examples.names, strict=True)],
        swap=[("nothing", ""), ("labels", "labels"), ("places", "places")],
        leaf=(1, LEAVES),
        other=(1, LEAVES),
        **dict.fromkeys(NODE_NAMES, True),
    )


# 5. Your own photo


def process(
    restorer: Restorer, photo: np.ndarray, variant: str = "full", severity: str = "", **options: Any
) -> tuple[dict[str, np.ndarray], Reading, str]:  # fmt: skip
    """Blur a photo by a `severity` ("": not), read it, restore it: images by title, the reading,
    and scores in words.
    """
    height, width = photo.shape[:2]
    text, images, given = f"{width} x {height} pixels.", {"as given": photo}, photo
    if severity:
        given = images["blurred"] = blur_batch(photo[None], ["own photo"], severity)[0][0]
    reading = restorer.read(given)
    images["restored"] = restorer.restore(given, variant, reading.tree.maps, **options)
    for name, image in images.items():
        if severity and name != "as given":
            text += f" PSNR against the photo as given: {name} {psnr(image, photo):.2f} dB."
    return images, reading, text


def own_photo(restorer: Restorer) -> Laboratory:
    """Upload a photo or name its path: restored, with tree and caption; saved where `save_as` names
    a new file.
    """

    def make(upload: tuple, path: str, blur_it_first: str, variant: str, save_as: str) -> HTML:
        if not upload and not path.strip():
            return page({}, "No photo yet.")
        name = Path(path.strip().strip("\"'")).expanduser()
        photo = read_photo(name) if path.strip() else _received(upload[-1])
        bar = photo.path.name
        images, reading, text = process(restorer, photo.pixels, variant, blur_it_first, bar=bar)
        text = " ".join([f"{photo.path.name}: {text}", *(f"{note}." for note in photo.notes)])
        target = Path(save_as.strip()).expanduser()
        if save_as.strip() and target.exists():
            text += f" {target} is there already: choose another name."
        elif save_as.strip():
            write_photo(images["restored"], photo, target)
            text += f" Saved as {target.resolve()}."
        images["tree"] = _drawn(diagram.tree(reading.nodes, reading.confidence))
        return page(images, f"{text} Caption: “{reading.caption}”.", 272)

    return Laboratory(
        make,
        upload=ipywidgets.FileUpload(accept="image/*", description="upload"),
        path=ipywidgets.Text(continuous_update=False),
        blur_it_first=[("no", ""), *zip(SEVERITIES, SEVERITIES, strict=True)],
        variant=[*restorer.variants][::-1],
        save_as=ipywidgets.Text(continuous_update=False),
    )


def _received(item: Mapping[str, Any]) -> Photograph:
    """The photo of an uploaded file (`name`, `content`), as `read_photo` reads it from disk; same
    errors.
    """
    name = Path(item["name"]).name or "photo"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(item["content"])
        try:
            return read_photo(path)._replace(path=Path(name))
        except S3EError as error:
            raise S3EError(str(error).replace(f"{path.parent}/", "")) from None
