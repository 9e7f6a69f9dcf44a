"""BLEU, ROUGE-L and CIDEr-D equal pycocoevalcap's on the same tokens, also of resamples and with frozen frequencies."""

import json
from collections import defaultdict

import numpy as np
import pytest

from s3e.evaluation.captions import NAMES
from s3e.evaluation.captions import NgramStatistics as Statistics
from tests.conftest import PHOTOS

CAPTIONS = PHOTOS / "annotations" / "captions_val.json"


def package(references, captions):
    """The values of pycocoevalcap's own scorers, in the order of `NAMES`."""
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu").Bleu(4)
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    gts, res = (
        dict(enumerate(map(list, references))),
        {i: [text] for i, text in enumerate(captions)},
    )
    values = [*bleu.compute_score(gts, res, verbose=0)[0], Rouge().compute_score(gts, res)[0]]
    return [*values, Cider().compute_score(gts, res)[0]]


def per_image(references, captions):
    """The package's CIDEr-D of each image, with the document frequencies of all references."""
    cider = pytest.importorskip("pycocoevalcap.cider.cider").Cider()
    gts, res = (
        dict(enumerate(map(list, references))),
        {i: [text] for i, text in enumerate(captions)},
    )
    return cider.compute_score(gts, res)[1]


def some(generator, images, words=12):
    """Random references (one to five an image) and captions, some of them empty, some of them references."""

    def text():
        return " ".join(f"w{i}" for i in generator.integers(words, size=generator.integers(0, 14)))

    references = [[text() for _ in range(generator.integers(1, 6))] for _ in range(images)]
    return references, [
        text() if generator.random() < 0.5 else str(generator.choice(group)) for group in references
    ]


def test_random_captions_equal_the_package():
    generator = np.random.default_rng(0)
    for _ in range(60):
        references, captions = some(generator, generator.integers(3, 15), generator.integers(4, 40))
        found = Statistics.of(references, captions).scores()
        assert list(found) == list(NAMES)
        assert list(found.values()) == pytest.approx(package(references, captions), abs=1e-9)


@pytest.mark.skipif(not CAPTIONS.exists(), reason=f"no {CAPTIONS} (set S3E_PHOTOS)")
def test_real_captions_equal_the_package():
    groups = defaultdict(list)
    for item in json.loads(CAPTIONS.read_text(encoding="utf-8"))["annotations"]:
        groups[item["image_id"]].append(" ".join(item["caption"].lower().split()))
    said = [group[0] for group in groups.values()]
    references = [group[1:] for group in groups.values()]
    generator = np.random.default_rng(0)
    systems = {
        "human": said,
        "wrong image": said[1:] + said[:1],
        "shuffled words": [" ".join(generator.permutation(text.split())) for text in said],
    }
    values = {}
    for name, captions in systems.items():
        values[name] = list(Statistics.of(references, captions).scores().values())
        assert values[name] == pytest.approx(package(references, captions), abs=1e-9), name
    assert values["human"][3] > max(values["wrong image"][3], values["shuffled words"][3]) > 0


def test_a_resample_is_the_set_with_images_repeated():
    references, captions = some(np.random.default_rng(1), 12)
    counts = np.random.default_rng(2).multinomial(12, np.full(12, 1 / 12), 5).astype(float)
    found = Statistics.of(references, captions).resample(counts)
    frozen = per_image(references, captions)
    for number, row in enumerate(counts.astype(int)):
        rows = np.repeat(np.arange(12), row)
        expected = package([references[i] for i in rows], [captions[i] for i in rows])[:-1] + [
            frozen[rows].mean()
        ]
        assert [found[name][number] for name in NAMES] == pytest.approx(expected, abs=1e-9)


def test_frozen_document_frequencies_serve_parts_single_images_and_other_sets():
    references, captions = some(np.random.default_rng(3), 12)
    frozen = per_image(references, captions)
    assert frozen[:3].min() >= 0 and frozen.max() > 0.1
    for rows in ([4], [0, 7], range(6)):
        part = Statistics.of([references[i] for i in rows], [captions[i] for i in rows], references)
        assert part.scores()["CIDEr"] == pytest.approx(frozen[list(rows)].mean(), abs=1e-9)
    new = Statistics.of([["w1 w2 zebra"], ["w3"]], ["w1 zebra", "w3"], references)
    known = [
        sum(any(word in text.split() for text in group) for group in references)
        for word in ("w1", "w2")
    ]
    weights = np.log(
        len(references) / np.array([*known, 1])
    )  # a word that no document has weighs as if one had it
    cosine = (weights[[0, 2]] ** 2).sum() / np.sqrt(
        (weights**2).sum() * (weights[[0, 2]] ** 2).sum()
    )
    assert new.table[0, -1] == pytest.approx(10 / 4 * cosine * np.exp(-1 / 72), abs=1e-9)


def test_frequencies_that_tell_nothing_apart_give_no_cider():
    for references, captions in (
        ([["a dog runs"]], ["a dog runs"]),
        ([["a dog", "it runs"]] * 3, ["a dog", "a cat", "it runs"]),
    ):
        found = Statistics.of(references, captions).scores()
        assert np.isnan(found["CIDEr"]) and not np.isnan([found[name] for name in NAMES[:-1]]).any()


def test_long_and_empty_texts():
    long = " ".join(f"w{i % 7}" for i in range(300))
    references, captions = [[long, "w1"], [""], ["w2 w3"]], [long + " w1 w9", "", ""]
    assert list(Statistics.of(references, captions).scores().values()) == pytest.approx(
        package(references, captions), abs=1e-9
    )
    nothing = list(Statistics.of([[""], [""]], ["", ""]).scores().values())
    assert nothing[4] == 1 and np.isnan(
        nothing[5]
    )  # as the package: two empty texts agree; nothing can be told apart
