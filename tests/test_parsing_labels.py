"""The parser against trees labelled by hand (rules: tests/PARSING_LABELS.md)."""

import json
from collections import Counter
from pathlib import Path

import pytest

from s3e.captions.parser import parse_caption
from s3e.captions.tree import NULL
from tests.conftest import PHOTOS

LABELS = json.loads(Path(__file__).with_name("parsing_labels.json").read_text(encoding="utf-8"))
CAPTIONS = PHOTOS / "annotations" / "captions_train.json"
REQUIRED = {"entities": 0.92, "relations": 0.90, "root": 0.88}
PARTS = ("development", "held_out")
EMPTY = {"entities": [NULL] * 4, "relations": [NULL] * 3}


def score(predicted: list[dict], labelled: list[dict]) -> dict[str, float]:
    """Micro F1 of the labels but `NULL`, as a multiset a caption, and the share of right roots."""
    result = {}
    for part in ("entities", "relations"):
        right = total = 0
        for rows in zip(predicted, labelled, strict=True):
            found, wanted = (Counter(word for word in row[part] if word != NULL) for row in rows)
            right += 2 * (found & wanted).total()
            total += found.total() + wanted.total()
        result[part] = right / total
    pairs = [
        (a["relations"][2], b["relations"][2]) for a, b in zip(predicted, labelled, strict=True)
    ]
    return result | {"root": sum(a == b for a, b in pairs) / len(pairs)}


@pytest.mark.parametrize("part", PARTS)
def test_labelled_captions(part):
    if not CAPTIONS.is_file():
        pytest.skip(f"no captioned photos at {PHOTOS} (set S3E_PHOTOS)")
    records = json.loads(CAPTIONS.read_text())["annotations"]
    captions = {record["id"]: record["caption"] for record in records}
    trees = [parse_caption(captions[row["id"]]) for row in LABELS[part]]
    result = score([vars(tree) if tree else EMPTY for tree in trees], LABELS[part])
    assert all(result[name] >= least for name, least in REQUIRED.items()), result


def test_rows_are_sound_and_parts_disjoint():
    ids = [row["id"] for part in PARTS for row in LABELS[part]]
    assert LABELS.keys() == {"about", *PARTS} and len(set(ids)) == len(ids) == 300
    for row in (row for part in PARTS for row in LABELS[part]):
        assert row.keys() == {"id", "entities", "relations"}  # no captions
        assert (len(row["entities"]), len(row["relations"])) == (4, 3)


def test_score_by_hand():
    right = {"entities": ["dog", "cup", "house", NULL], "relations": ["hold", NULL, "left_of"]}
    other = {"entities": ["house", NULL, "dog", "cat"], "relations": [NULL, "hold", "near"]}
    assert set(score([right, right], [right, right]).values()) == {1.0}
    # entities: 2 of 3 predicted are right, 6 are labelled; relations: 1 of 2, 4 labelled
    expected = {"entities": 4 / 9, "relations": 2 / 6, "root": 0.0}
    assert score([other, EMPTY], [right, right]) == pytest.approx(expected)
