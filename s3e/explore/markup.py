"""HTML and SVG for widgets: trees, captions, small tables, messages.

Every text is escaped. Colours of text, lines and ground are JupyterLab's variables, so that light and dark themes both
work; elsewhere the values after the comma hold.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

from s3e.report.diagram import EDGES, ENTITY, NODE_NAMES, NODES, NULL, OTHER, RELATION, TAG_COLOURS
from s3e.utils import S3EError

INK, SOFT = "var(--jp-ui-font-color1, #333)", "var(--jp-ui-font-color2, #666)"
RULE, FAULT = "var(--jp-border-color2, #bbb)", "var(--jp-error-color1, #b71c1c)"
FAMILY = "font-family:var(--jp-ui-font-family, sans-serif)"
FONT = f"{FAMILY};font-size:var(--jp-ui-font-size1, 13px)"
TABLE = f"border-collapse:collapse;line-height:1.3;color:{INK};{FONT}"
TAG_WORDS = {
    "DET": "article", "ADJ": "adjective", "NUM": "number", "POSS": "possessive", "PRON": "pronoun",
    "REL": "relative", "SUB": "subordinate", "CONJ": "conjunction", "BE": "be", "HAVE": "have", "MODAL": "auxiliary",
    "ADV": "adverb", "PREP": "preposition", "PUNCT": "punctuation", "NOUN": "noun", "VERB": "verb",
}  # fmt: skip
WIDTH, HEIGHT, BOX = 440, 216, (106, 40)  # of the tree's drawing and of its boxes
WORDS = 60  # of a caption are shown at most


def label(name: str) -> str:
    """A label of the tree as people read it, not escaped: "fire hydrant", "∅" for an empty slot."""
    return "∅" if name == NULL else name.replace("_", " ")


def short(name: str) -> str:
    """`label`, cut to 13 characters."""
    words = label(name)
    return words if len(words) <= 13 else words[:12] + "…"


def percent(share: float) -> str:
    """A share in [0, 1] as whole percents."""
    return f"{100 * share:.0f} %"


def tree(labels: Sequence[str], confidence: Sequence[float] | None = None) -> str:
    """The seven-node tree as SVG, leaves below and the root on top; empty slots are faint.

    `labels`: leaf 1-4, node 5, node 6, root ("null" = empty). `confidence`: in [0, 1], written below each label.
    """
    spots = {node: (x * WIDTH, 26 + (1 - y) * (HEIGHT - 26)) for node, (x, y) in NODES.items()}
    notes = [""] * 7 if confidence is None else [percent(share) for share in confidence]
    edges = "".join(
        _edge(*spots[child], *spots[parent], labels[child] == NULL) for child, parent in EDGES
    )
    boxes = "".join(_node(node, *spots[node], labels[node], notes[node]) for node in NODES)
    said = "; ".join(
        f"{name}: {label(own)} {note}".strip()
        for name, own, note in zip(NODE_NAMES, labels, notes, strict=True)
    )
    style = f"display:block;width:100%;max-width:{1.2 * WIDTH:.0f}px;height:auto;{FAMILY}"
    start = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 0 {WIDTH + 16} {HEIGHT}" role="img"'
    )
    return f'{start} aria-label="{escape(said)}" style="{style}">{edges}{boxes}</svg>'


def _edge(x0: float, y0: float, x1: float, y1: float, faint: bool) -> str:
    style = f"stroke:{RULE if faint else INK};stroke-width:{1 if faint else 1.4}"
    return f'<line x1="{x0:.0f}" y1="{y0:.0f}" x2="{x1:.0f}" y2="{y1:.0f}" style="{style}"/>'


def _node(node: int, x: float, y: float, name: str, note: str) -> str:
    (width, height), empty = BOX, name == NULL
    colour = OTHER if empty else ENTITY if node < 4 else RELATION
    ground = "var(--jp-layout-color1, #fff)"
    frame = (
        f'x="{x - width / 2:.0f}" y="{y - height / 2:.0f}" width="{width}" height="{height}" rx="7"'
    )
    tint = f"fill:{colour};fill-opacity:{0 if empty else 0.22};stroke:{colour};stroke-opacity:{0.5 if empty else 1}"
    lift = -2 if note else 5
    return (
        f'<g><title>{NODE_NAMES[node]}: {escape(label(name))}</title><rect {frame} style="fill:{ground}"/>'
        f'<rect {frame} style="{tint}"/>'
        + _write(x, y - height / 2 - 5, NODE_NAMES[node], 11, SOFT)
        + _write(x, y + lift, short(name), 14, INK, empty)
        + (_write(x, y + 14, note, 11, SOFT) if note else "")
        + "</g>"
    )


def _write(x: float, y: float, words: str, size: int, colour: str, faint: bool = False) -> str:
    style = f"fill:{colour};font-size:{size}px;text-anchor:middle" + (
        ";fill-opacity:0.55" if faint else ""
    )
    return f'<text x="{x:.0f}" y="{y:.0f}" style="{style}">{escape(words)}</text>'


def chips(words: Sequence[str], notes: Sequence[str], colours: Sequence[str] = ()) -> str:
    """Words as chips, each with a small note below it, wrapped to the width there is.

    `colours`: one `#rrggbb` a word; grey where none is given. Of many words the first `WORDS` are shown.
    """
    colours = list(colours) or [OTHER] * len(words)
    found = [
        _chip(*chip) for chip in zip(words[:WORDS], notes[:WORDS], colours[:WORDS], strict=True)
    ]
    if len(words) > WORDS:
        found.append(
            f'<span style="color:{SOFT};align-self:center">and {len(words) - WORDS} more words</span>'
        )
    return f'<div style="display:flex;flex-wrap:wrap;gap:6px 12px;line-height:1.3;{FONT}">{"".join(found)}</div>'


def _chip(word: str, note: str, colour: str) -> str:
    outer = "display:inline-flex;flex-direction:column;align-items:center;max-width:100%;overflow-wrap:anywhere"
    inner = f"padding:1px 7px;border-radius:5px;background:{colour}33;border:1px solid {colour}"
    return (
        f'<span style="{outer};color:{INK}"><span style="{inner}">{escape(word[:80])}</span>'
        f'<small style="color:{SOFT}">{escape(note)}</small></span>'
    )


def tagged(words: Sequence[str], tags: Sequence[str]) -> str:
    """Words with their parts of speech, as `s3e.captions.parser.explain` names them, in the colours of figure 3."""
    notes = [TAG_WORDS.get(tag, tag.lower()) for tag in tags]
    return chips(words, notes, [TAG_COLOURS.get(tag, OTHER) for tag in tags])


def bars(names: Sequence[str], shares: Sequence[float]) -> str:
    """A row a name with its share in [0, 1] as a bar and in percent."""
    rows = "".join(
        f'<tr><th scope="row" style="{_cell("left")}">{escape(name)}</th>'
        f'<td style="width:100%;padding:2px 6px"><div style="width:{100 * share:.1f}%;min-width:1px;height:0.8em;'
        f'background:{ENTITY}"></div></td><td style="{_cell("right")}">{percent(share)}</td></tr>'
        for name, share in zip(names, shares, strict=True)
    )
    return f'<table style="width:100%;max-width:420px;{TABLE}">{rows}</table>'


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A small table: first column left, others right; values are written as `str` gives them."""
    lines = [
        _row("th", head, f";border-bottom:1px solid {RULE}"),
        *(_row("td", row) for row in rows),
    ]
    grid = f'<table style="{TABLE}">{"".join(lines)}</table>'
    return f'<div style="overflow-x:auto;max-width:100%">{grid}</div>'


def _row(tag: str, cells: Sequence[Any], rule: str = "") -> str:
    styles = [_cell("right" if place else "left") + rule for place in range(len(cells))]
    row = [
        f'<{tag} style="{style}">{escape(str(cell))}</{tag}>'
        for style, cell in zip(styles, cells, strict=True)
    ]
    return f"<tr>{''.join(row)}</tr>"


def _cell(side: str) -> str:
    return f"padding:2px 8px;text-align:{side};font-weight:normal;white-space:nowrap"


def line(words: str) -> str:
    """A line of plain text."""
    return f'<div style="color:{INK};line-height:1.4;overflow-wrap:anywhere;{FONT}">{escape(words)}</div>'


def heading(words: str) -> str:
    """The title above a picture or a group of controls."""
    return f'<div style="color:{INK};font-weight:bold;line-height:1.4;{FONT}">{escape(words)}</div>'


def fault(words: str) -> str:
    """A line that says what is wrong; screen readers read it out."""
    return f'<div role="alert" style="color:{FAULT};line-height:1.4;overflow-wrap:anywhere;{FONT}">{escape(words)}</div>'


@contextmanager
def reported(place: Any) -> Iterator[None]:
    """Show what goes wrong inside the block in `place`, an `ipywidgets.HTML`; it is emptied where nothing does.

    A mistake of the user (`S3EError`) is only shown; anything else is a fault of the code: shown and raised.
    """
    try:
        yield
        place.value = ""
    except S3EError as error:
        place.value = fault(str(error))
    except Exception as error:
        place.value = fault(f"{type(error).__name__}: {error}")
        raise
