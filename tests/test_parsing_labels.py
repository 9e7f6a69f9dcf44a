"""The parser against trees labelled by hand (rules: tests/PARSING_LABELS.md), and the measures it is scored with."""

import json
from pathlib import Path

import pytest

from s3e.captions.parser import parse_caption
from s3e.captions.tree import NULL, CaptionTree
from tests.conftest import PHOTOS
from tests.parsing_score import score

FILE = Path(__file__).with_name("parsing_labels.json")
LABELS = json.loads(FILE.read_text(encoding="utf-8"))
CAPTIONS = PHOTOS / "annotations" / "captions_train.json"
REQUIRED = {"entity_f1": 0.90, "relation_f1": 0.80, "root_accuracy": 0.75}
PARTS = ("development", "held_out")


@pytest.fixture(scope="module")
def captions() -> dict[int, str]:
    """Training captions by annotation id."""
    if not CAPTIONS.is_file():
        pytest.skip(f"no captioned photos at {PHOTOS} (set S3E_PHOTOS)")
    return {
        record["id"]: record["caption"]
        for record in json.loads(CAPTIONS.read_text())["annotations"]
    }


@pytest.mark.parametrize("part", PARTS)
def test_labelled_captions(captions, part):
    rows = LABELS[part]
    if not rows:
        pytest.skip(f"{FILE.name} holds no {part} rows yet")
    labelled = [CaptionTree(tuple(row["entities"]), tuple(row["relations"])) for row in rows]
    result = score([parse_caption(captions[row["id"]]) for row in rows], labelled)
    assert all(result[name] >= least for name, least in REQUIRED.items()), result


@pytest.mark.parametrize("part", PARTS)
def test_rows_are_sound_and_hold_no_captions(part):
    ids = [row["id"] for row in LABELS[part]]
    assert len(set(ids)) == len(ids)
    for row in LABELS[part]:
        assert row.keys() == {"id", "entities", "relations"} and isinstance(row["id"], int)
        assert (len(row["entities"]), len(row["relations"])) == (4, 3)
        words = row["entities"] + row["relations"]
        assert all(
            word and word == word.lower() and not any(c.isspace() for c in word) for word in words
        )


def test_parts_are_disjoint():
    assert LABELS.keys() == {"about", *PARTS}
    assert not {row["id"] for row in LABELS["development"]} & {
        row["id"] for row in LABELS["held_out"]
    }


RIGHT = CaptionTree(("dog", "cup", "house", NULL), ("hold", NULL, "left_of"))


def test_score_of_equal_trees_is_one():
    assert set(score([RIGHT, None], [RIGHT, None]).values()) == {1.0}
    assert set(score([], []).values()) == {1.0}


def test_score_by_hand():
    turned = CaptionTree(("house", NULL, "dog", "cat"), (NULL, "hold", "near"))
    result = score([turned, None], [RIGHT, RIGHT])
    # entities: 2 of 3 predicted are right, 6 are labelled; none stands in its place; relations: 1 of 2, 4 labelled
    assert result == {
        "entity_f1": pytest.approx(4 / 9),
        "entity_f1_by_slot": 0.0,
        "relation_f1": pytest.approx(2 / 6),
        "relation_f1_by_slot": 0.0,
        "root_accuracy": 0.0,
    }


def test_repeated_labels_count_as_often_as_they_are_there():
    dogs = CaptionTree(("dog", "dog", "dog", NULL), ("and", NULL, "chase"))
    dog = CaptionTree(("dog", NULL, NULL, NULL), (NULL, NULL, "chase"))
    result = score([dogs], [dog])
    assert result["entity_f1"] == result["entity_f1_by_slot"] == pytest.approx(2 / 4)
    assert result["root_accuracy"] == 1.0


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="1 predicted trees, 2 labelled"):
        score([RIGHT], [RIGHT, RIGHT])
