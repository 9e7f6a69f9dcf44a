"""Widgets that the parts of the exploration share; all of them shrink with the screen."""

import ipywidgets as widgets

from s3e.explore import markup

SIDE = 448  # pixels of a large picture's longer side


def fluid(**more: str) -> widgets.Layout:
    """A layout that shrinks with the screen."""
    return widgets.Layout(**{"min_width": "0", "max_width": "100%", **more})


def controls(*items: widgets.Widget) -> widgets.HBox:
    """Controls side by side, on more lines where the screen is narrow."""
    return widgets.HBox(list(items), layout=widgets.Layout(flex_flow="row wrap"))


def frame(side: int = SIDE) -> widgets.Image:
    """A place for a picture of `side` pixels that shrinks with the screen."""
    layout = widgets.Layout(
        width="100%", max_width=f"{side}px", height="auto", border=f"1px solid {markup.RULE}"
    )
    return widgets.Image(format="png", layout=layout)


def titled(words: str, picture: widgets.Image, side: int) -> widgets.VBox:
    """A picture of `side` pixels below its title."""
    layout = widgets.Layout(
        margin="0 8px 8px 0", flex=f"1 1 {side * 2 // 3}px", max_width=f"{side}px"
    )
    return widgets.VBox([widgets.HTML(markup.heading(words)), picture], layout=layout)


def choice(words: str, options: list, value: object = None) -> widgets.Dropdown:
    """A labelled list to choose from; its first option is chosen unless `value` is given."""
    layout, style = fluid(width="auto", margin="2px 12px 2px 0"), {"description_width": "initial"}
    chosen = {} if value is None else {"value": value}
    return widgets.Dropdown(
        description=words, options=options, layout=layout, style=style, **chosen
    )
