"""The tree browser: a caption's parse and tree as it is typed; a photo's tree, node maps and caption, word by word.

Source: specification 6.2 (trees of captions), 6.3 (trees of photos), 6.4 (captions).
"""

from collections.abc import Mapping, Sequence
from functools import cache
from textwrap import shorten
from typing import Any

import ipywidgets as widgets
import numpy as np

from s3e.blur import SEVERITIES
from s3e.captions.parser import explain
from s3e.explore import markup, pictures
from s3e.explore.controls import choice, controls, fluid, frame
from s3e.explore.examples import Examples
from s3e.inference import Reading, Restorer
from s3e.models.tree import LEAVES
from s3e.report.diagram import ENTITY, NODE_NAMES, OTHER
from s3e.report.photos import word_maps

SHARP = "sharp"
READERS = {"full": "S3E-Deblur, after co-training", "captioner": "S3-tree, before co-training"}
THUMBNAIL = 160  # pixels of a node's picture


def parsed(caption: str) -> str:
    """HTML of a caption's parts of speech, its entities and its canonical tree; any string is accepted."""
    parse = explain(caption)
    if not parse["tokens"]:
        return markup.line("No words yet: type a caption in English, such as “a dog chases a cat”.")
    words = markup.tagged(parse["tokens"], parse["tags"])
    if parse["tree"] is None:
        return words + markup.line("It names no entity, so that it has no tree.")
    chunks = parse["chunks"]
    said = "; ".join(f"{text} → {markup.label(name)}" for text, name in chunks[:LEAVES])
    more = (
        f"; {len(chunks) - LEAVES} more, for which the tree has no room"
        if len(chunks) > LEAVES
        else ""
    )
    return words + markup.line(f"Entities: {said}{more}") + markup.tree(parse["tree"].nodes)


def spoken(reading: Reading, place: int | None = None) -> str:
    """HTML of a caption, below each word the node that it hears most and its share; the word at `place` stands out."""
    if not reading.words:
        return markup.line("It says nothing.")
    notes = [
        f"{NODE_NAMES[int(row.argmax())]} {markup.percent(row.max())}"
        for row in reading.word_attention
    ]
    colours = [ENTITY if here == place else OTHER for here in range(len(notes))]
    return markup.chips(reading.words, notes, colours)


def guesses(reading: Reading, node: int) -> str:
    """HTML of a node's likeliest labels with their probabilities, a line each."""
    ranks = [
        f"{markup.label(name)} {markup.percent(share)}" for name, share in reading.ranking(node)
    ]
    return "".join(markup.line(rank) for rank in ranks)


class TreeBrowser:
    """Captions and photos as trees; show `widget`.

    `photos`: sharp, uint8 (H, W, 3), by name (the name keys the blur); `captions`: examples to pick from, by name.
    """

    def __init__(
        self,
        restorer: Restorer,
        photos: Mapping[str, np.ndarray],
        captions: Mapping[str, Sequence[str]],
    ):
        self.examples, self.restorer = Examples(restorer, photos), restorer
        self._reading = cache(lambda *chosen: restorer.read(self.view(*chosen[:2]), chosen[2]))
        self._captions(captions)
        self._photos()
        self.widget = self._laid_out()
        self._parse()
        self._read()

    def view(self, name: str, severity: str) -> np.ndarray:
        """A photo sharp ("sharp") or blurred by a severity: uint8 (H, W, 3)."""
        return (
            self.examples.sharp(name)
            if severity == SHARP
            else self.examples.blurred(name, severity)
        )

    def reading(self, name: str, severity: str, reader: str = "full") -> Reading:
        """What `reader` reads in that view; computed once."""
        return self._reading(name, severity, reader)

    def _captions(self, captions: Mapping[str, Sequence[str]]) -> None:
        said = [
            (shorten(f"{name}: {text}", 120), text)
            for name, group in captions.items()
            for text in group
        ]
        wide = fluid(width="640px", max_width="calc(100% - 4px)")  # less its margins
        self.picker = choice("pick", said)
        self.picker.layout = wide
        self.caption = widgets.Textarea(
            self.picker.value, description="caption", rows=2, layout=wide
        )
        self.caption.style.description_width = "initial"
        self.parse, self.parse_message = widgets.HTML(), widgets.HTML()
        self.picker.observe(self._pick, "value")
        self.caption.observe(self._parse, "value")

    def _photos(self) -> None:
        self.photo = choice("photo", list(self.examples.names))
        self.severity = choice("severity", [SHARP, *SEVERITIES], "severe")
        self.reader = choice("read by", [(READERS[name], name) for name in self.restorer.readers])
        self.word = widgets.IntSlider(1, 1, 1, description="word", layout=fluid(width="auto"))
        self.tree, self.words, self.heard, self.message = (widgets.HTML() for _ in range(4))
        self.seen, self.listening = frame(pictures.SIDE), frame(pictures.SIDE)
        self.maps, self.guesses = (
            [frame(THUMBNAIL) for _ in NODE_NAMES],
            [widgets.HTML() for _ in NODE_NAMES],
        )
        for control in (self.photo, self.severity, self.reader):
            control.observe(self._read, "value")
        self.word.observe(self._listen, "value")

    def _pick(self, change: Any) -> None:
        self.caption.value = change.new

    def _parse(self, _: Any = None) -> None:
        with markup.reported(self.parse_message):
            self.parse.value = parsed(self.caption.value)

    def _chosen(self) -> tuple[np.ndarray, Reading]:
        name, severity = self.photo.value, self.severity.value
        return self.view(name, severity), self.reading(name, severity, self.reader.value)

    def _read(self, _: Any = None) -> None:
        with markup.reported(self.message):
            photo, reading = self._chosen()
            self.seen.value = pictures.shown(photo)
            self.tree.value = markup.tree(reading.nodes, reading.confidence)
            for node, (place, text) in enumerate(zip(self.maps, self.guesses, strict=True)):
                place.value = pictures.png(pictures.lit(photo, reading.attention[node], THUMBNAIL))
                text.value = guesses(reading, node)
            self.word.max = max(1, len(reading.words))
            self.word.disabled = not reading.words
        self._listen()

    def _listen(self, _: Any = None) -> None:
        with markup.reported(self.message):
            photo, reading = self._chosen()
            place = self.word.value - 1
            self.words.value = spoken(reading, place)
            self.heard.value, self.listening.value = "", self.seen.value
            if reading.words:
                looked = word_maps(reading.word_attention[None], reading.attention[None])[0, place]
                self.heard.value = markup.bars(NODE_NAMES, reading.word_attention[place])
                self.listening.value = pictures.png(pictures.lit(photo, looked))

    def _laid_out(self) -> widgets.Widget:
        nodes = [
            _cell(name, picture, text, size=THUMBNAIL)
            for name, picture, text in zip(NODE_NAMES, self.maps, self.guesses, strict=True)
        ]
        shown = widgets.VBox(
            [self.tree, self.words, self.word, self.heard], layout=fluid(flex="2 1 380px")
        )
        views = [_cell("what is read", self.seen), _cell("where the word looks", self.listening)]
        rows = [
            widgets.Box(row, layout=fluid(flex_flow="row wrap")) for row in ([shown, *views], nodes)
        ]
        above = [
            _title("From a caption to its tree"),
            self.picker,
            self.caption,
            self.parse,
            self.parse_message,
        ]
        choices = controls(self.photo, self.severity, self.reader)
        below = [_title("From a photo to its tree and caption"), choices, *rows, self.message]
        return widgets.VBox([*above, *below], layout=fluid())


def _title(words: str) -> widgets.HTML:
    return widgets.HTML(markup.heading(words))


def _cell(words: str, *children: widgets.Widget, size: int = pictures.SIDE) -> widgets.VBox:
    layout = fluid(flex=f"1 1 {0.6 * size:.0f}px", max_width=f"{size}px", margin="0 8px 8px 0")
    return widgets.VBox([_title(words), *children], layout=layout)
