"""Compare parsed caption trees with trees labelled by hand: F1 of entities and relations, root accuracy.

How the captions in `tests/parsing_labels.json` were labelled is written down in `tests/PARSING_LABELS.md`.
"""

from collections import Counter
from collections.abc import Sequence

from s3e.captions.tree import NULL, CaptionTree

ROOT = 2  # place of the root among the three relations

Labels = tuple[Sequence[str], Sequence[str]]  # four entities, three relations


def _labels(tree: CaptionTree | None) -> Labels:
    """The entities and relations of a tree; all `NULL` if there is none."""
    return (tree.entities, tree.relations) if tree else ((NULL,) * 4, (NULL,) * 3)


def f1(right: int, predicted: int, labelled: int) -> float:
    """Micro F1 in [0, 1] from counts; 1 if nothing was predicted and nothing labelled."""
    return 2 * right / (predicted + labelled) if predicted + labelled else 1.0


def matches(
    predicted: Sequence[str], labelled: Sequence[str], by_slot: bool = False
) -> tuple[int, int, int]:
    """(right, predicted, labelled) labels of one caption, `NULL` left out; `by_slot`: only in the same place."""
    found, wanted = (
        Counter(word for word in words if word != NULL) for words in (predicted, labelled)
    )
    if by_slot:
        right = sum(a == b != NULL for a, b in zip(predicted, labelled, strict=True))
    else:
        right = (found & wanted).total()
    return right, found.total(), wanted.total()


def score(
    predicted: Sequence[CaptionTree | None], labelled: Sequence[CaptionTree | None]
) -> dict[str, float]:
    """Agreement of `predicted` with `labelled` trees of the same captions in the same order, each value in [0, 1].

    `entity_f1` and `relation_f1` compare the labels of a caption as a multiset, whatever their place; the same with
    `_by_slot` counts a label only in its place; `root_accuracy` is the share of captions with the right root (`NULL`
    included). None, "no entity", counts as a tree of `NULL`. ValueError: the lengths differ.
    """
    if len(predicted) != len(labelled):
        raise ValueError(f"score: {len(predicted)} predicted trees, {len(labelled)} labelled ones.")
    pairs = [(_labels(p), _labels(q)) for p, q in zip(predicted, labelled, strict=True)]
    result = {}
    for name, part in (("entity", 0), ("relation", 1)):
        for suffix, by_slot in (("", False), ("_by_slot", True)):
            counts = [matches(p[part], q[part], by_slot) for p, q in pairs]
            result[f"{name}_f1{suffix}"] = (
                f1(*(sum(column) for column in zip(*counts, strict=True))) if counts else 1.0
            )
    roots = sum(p[1][ROOT] == q[1][ROOT] for p, q in pairs)
    return result | {"root_accuracy": roots / len(pairs) if pairs else 1.0}
