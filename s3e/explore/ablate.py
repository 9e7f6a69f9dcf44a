"""What does the generator do with the tree? Switch nodes off, borrow another photo's tree, edit an entity."""

from dataclasses import dataclass

import ipywidgets as widgets
import numpy as np
import pandas as pd

from s3e.blur import SEVERITIES
from s3e.captions.tree import NULL
from s3e.evaluation.images import psnr
from s3e.explore import markup, pictures
from s3e.explore.controls import choice, controls, frame, titled
from s3e.explore.examples import Examples, strengthened
from s3e.inference import Reading
from s3e.models.tree import LEAVES, NODES
from s3e.report.diagram import NODE_NAMES

GAIN = 8  # differences are shown eight times as strong
SIDE = 192  # pixels of each of the four pictures
KEPT, OWN = "as it is", "its own"
SHOWN = ("blurred", "whole tree", "changed tree", f"difference x {GAIN}")


@dataclass(frozen=True)
class Change:
    """What is done to the tree before the generator sees it, in this order.

    `tree_of`: another example whose tree is taken ("" for its own); `leaf` (0-3) is moved towards the entity `label`
    ("" for none); the maps of the nodes `off` are zeros.
    """

    tree_of: str = ""
    leaf: int = 0
    label: str = ""
    off: frozenset[int] = frozenset()


WHOLE = frozenset(range(NODES))


@dataclass(frozen=True)
class Outcome:
    """One photo restored with its tree as read (`intact`) and with a changed one (`changed`); pictures uint8 (H, W, 3).

    `reading`: what the tree said of the blurred photo, `edited`: what it says after the change.
    """

    sharp: np.ndarray
    blurred: np.ndarray
    intact: np.ndarray
    changed: np.ndarray
    reading: Reading
    edited: Reading

    @property
    def difference(self) -> np.ndarray:
        """|changed - intact|, `GAIN` times as strong."""
        return strengthened(self.changed, self.intact, GAIN)

    @property
    def gain(self) -> float:
        """PSNR of `changed` minus that of `intact`, in dB."""
        return psnr(self.changed, self.sharp) - psnr(self.intact, self.sharp)


def outcome(examples: Examples, name: str, severity: str, change: Change) -> Outcome:
    """Apply `change` to the tree of an example and restore with it; an impossible edit raises `S3EError`."""
    restorer, reading = examples.restorer, examples.reading(name, severity)
    edited = examples.reading(change.tree_of, severity) if change.tree_of else reading
    if change.label:
        edited = restorer.relabel(edited, change.leaf, change.label)
    maps = edited.maps.clone()
    maps[:, sorted(change.off)] = 0
    blurred = examples.blurred(name, severity)
    changed = restorer.restore(blurred, "full", maps=maps)
    intact = examples.restored(name, severity, "full")
    return Outcome(examples.sharp(name), blurred, intact, changed, reading, edited)


def switches(examples: Examples, name: str, severity: str, label: str) -> dict[str, Change]:
    """The changes of the static figure by name: nodes off, the next example's tree, one entity edited to `label`.

    The edited leaf is the first in which the tree read another entity. There is no edit where these weights do not know
    how the entity looks.
    """
    read, names = examples.reading(name, severity).nodes, examples.names
    leaf = next((leaf for leaf in range(LEAVES) if read[leaf] not in (NULL, label)), 0)
    found = {f"{NODE_NAMES[node]} off": Change(off=frozenset({node})) for node in range(NODES)}
    groups = {
        "leaves off": range(LEAVES),
        "relations off": range(LEAVES, NODES),
        "all nodes off": range(NODES),
    }
    found |= {words: Change(off=frozenset(nodes)) for words, nodes in groups.items()}
    found["tree of another"] = Change(tree_of=names[(names.index(name) + 1) % len(names)])
    known = label in examples.restorer.editable
    return found | ({f"an entity → {label}": Change(leaf=leaf, label=label)} if known else {})


def table(examples: Examples, severity: str, label: str) -> pd.DataFrame:
    """What each of `switches` changes in PSNR (dB) over all examples: mean, worst and best; rows are the changes."""
    found = [
        {words: outcome(examples, name, severity, change).gain for words, change in changes.items()}
        for name in examples.names
        for changes in (switches(examples, name, severity, label),)
    ]
    return pd.DataFrame(found).agg(["mean", "min", "max"]).T


class Ablation:
    """The panel: photo, severity, seven nodes, whole tree, another photo's tree, one edited entity; see `widget`."""

    def __init__(self, examples: Examples):
        self.examples = examples
        self.example = choice("photo", list(examples.names))
        self.severity = choice("severity", list(SEVERITIES), "severe")
        self.nodes = [_box(name) for name in NODE_NAMES]
        self.whole = _box("whole tree")
        self.tree_of = choice("tree of", [(OWN, ""), *((name, name) for name in examples.names)])
        self.leaf = choice("edit", [(name, leaf) for leaf, name in enumerate(NODE_NAMES[:LEAVES])])
        entities = [name for name in examples.restorer.editable if name != NULL]
        self.label = choice(
            "into", [(KEPT, ""), *((markup.label(name), name) for name in sorted(entities))]
        )
        self.pictures = {words: frame(SIDE) for words in SHOWN}
        self.told, self.table, self.message = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.widget = widgets.VBox(self._rows())
        for control in (
            self.example,
            self.severity,
            *self.nodes,
            self.whole,
            self.tree_of,
            self.leaf,
            self.label,
        ):
            control.observe(self._show, "value")
        self._show()

    def _rows(self) -> list[widgets.Widget]:
        shown = [titled(words, picture, SIDE) for words, picture in self.pictures.items()]
        return [
            controls(self.example, self.severity),
            controls(widgets.HTML(markup.line("The generator sees:")), *self.nodes, self.whole),
            controls(self.tree_of, self.leaf, self.label),
            controls(*shown), self.told, self.table, self.message,
        ]  # fmt: skip

    @property
    def change(self) -> Change:
        """What the controls ask for."""
        off = (
            frozenset(node for node, box in enumerate(self.nodes) if not box.value)
            if self.whole.value
            else WHOLE
        )
        return Change(self.tree_of.value, self.leaf.value, self.label.value, off)

    def _show(self, _: object = None) -> None:
        with markup.reported(self.message):
            change = self.change
            found = outcome(self.examples, self.example.value, self.severity.value, change)
            shown = (found.blurred, found.intact, found.changed, found.difference)
            for place, picture in zip(self.pictures.values(), shown, strict=True):
                place.value = pictures.shown(picture, SIDE)
            values = [psnr(picture, found.sharp) for picture in shown[:3]]
            self.told.value = markup.line(
                "PSNR: blurred {:.2f} dB, whole tree {:.2f} dB, changed tree {:.2f} dB".format(
                    *values
                )
                + f" ({found.gain:+.2f} dB). The tree now says: “{found.edited.caption}”."
            )
            self.table.value = _labels(found, change.off)


def _box(words: str) -> widgets.Checkbox:
    return widgets.Checkbox(
        True,
        description=words,
        indent=False,
        layout=widgets.Layout(width="auto", margin="2px 14px 2px 2px"),
    )


def _labels(found: Outcome, off: frozenset[int]) -> str:
    """A row a node: what it read, what the changed tree reads, and whether the generator gets it."""
    rows = [
        (
            name,
            markup.label(found.reading.nodes[node]),
            f"{markup.label(found.edited.nodes[node])}, {markup.percent(found.edited.confidence[node])}",
            "no" if node in off else "yes",
        )
        for node, name in enumerate(NODE_NAMES)
    ]
    return markup.table(("node", "read", "after the change", "generator sees it"), rows)
