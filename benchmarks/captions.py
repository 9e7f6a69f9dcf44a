"""Scoring and resampling captions beside pycocoevalcap: `python benchmarks/captions.py`.

5,000 images with five references each, made of words drawn by Zipf's law; two systems. First BLEU, ROUGE-L and CIDEr-D
of one system, by the package and here in turns, on the same tokens; the values must be equal to 1e-9. Then the paired
bootstrap of the two systems: every metric of both on 10,000 resamples of the images.
"""

import argparse
import os
import time

import numpy as np

from s3e.evaluation import captions as caption

IMAGES, REFERENCES, LENGTH, WORDS = 5000, 5, (8, 14), 6000
REQUIRED = 10.0  # seconds for the bootstrap on two cores


def make(seed: int = 0) -> tuple[list[list[str]], list[list[str]]]:
    """References of every image, and the captions of two systems that repeat parts of them."""
    generator = np.random.default_rng(seed)
    chances = 1 / np.arange(1, WORDS + 1)
    chances /= chances.sum()

    def words(count: int) -> list[str]:
        return [f"w{i}" for i in generator.choice(WORDS, count, p=chances)]

    references = [
        [words(generator.integers(*LENGTH)) for _ in range(REFERENCES)] for _ in range(IMAGES)
    ]
    systems = []
    for kept in (0.4, 0.5):
        right = (group[generator.integers(REFERENCES)] for group in references)
        said = [
            [
                w if generator.random() < kept else new
                for w, new in zip(t, words(len(t)), strict=True)
            ]
            for t in right
        ]
        systems.append([" ".join(text) for text in said])
    return [[" ".join(text) for text in group] for group in references], systems


def package(references: list[list[str]], captions: list[str]) -> list[float]:
    """The package's scorers, in the order of `caption.NAMES`."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    gts, res = dict(enumerate(references)), {i: [text] for i, text in enumerate(captions)}
    bleu = Bleu(4).compute_score(gts, res, verbose=0)[0]
    return [*bleu, Rouge().compute_score(gts, res)[0], Cider().compute_score(gts, res)[0]]


def timed(work, *arguments):
    """Result and seconds by the clock."""
    start = time.perf_counter()
    return work(*arguments), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    references, (first, second) = make()
    print(
        f"{IMAGES} images, {REFERENCES} references; NumPy {np.__version__}; {len(os.sched_getaffinity(0))} cores"
    )
    slow, fast = [], []
    for _ in range(arguments.repeats):  # in turns
        theirs, seconds = timed(package, references, first)
        slow.append(seconds)
        ours, seconds = timed(caption.NgramStatistics.of, references, first)
        fast.append(seconds)
    difference = np.abs(np.array(theirs) - list(ours.scores().values())).max()
    if difference > 1e-9:
        raise SystemExit(f"the values differ by {difference:.1e}: nothing was measured.")
    seconds = f"package {np.median(slow):5.2f} s, suite {np.median(fast):5.2f} s"
    print(
        f"  scoring, medians of {arguments.repeats} turns: {seconds}; largest difference {difference:.0e}"
    )
    ids = [str(i) for i in range(IMAGES)]
    sets = [
        caption.Statistics(ids, caption.NgramStatistics.of(references, said), None, "")
        for said in (first, second)
    ]
    found, seconds = timed(caption.intervals, sets[1:], sets[:1], arguments.resamples)
    print(
        f"  {arguments.resamples} paired resamples of all six: {seconds:5.2f} s ({REQUIRED:g} s are allowed)"
    )
    print(
        f"  by the package, scored again each time: about {2 * arguments.resamples * np.median(slow) / 3600:.0f} hours"
    )
    for name in ("BLEU-4", "CIDEr"):
        print(f"  {name}: {found[name].mean:.4f} ({found[name].low:.4f} to {found[name].high:.4f})")


if __name__ == "__main__":
    main()
