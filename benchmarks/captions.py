"""Scoring and resampling captions: `python benchmarks/captions.py`.

5,000 images with five references each, made of words drawn by Zipf's law; two systems. First BLEU,
ROUGE-L and CIDEr-D of both, then their paired bootstrap: every metric of both on 10,000 resamples
of the images.
"""

import argparse
import os
import time

import numpy as np

from s3e.evaluation import captions

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


def timed(work, *arguments):
    """Result and seconds by the clock."""
    start = time.perf_counter()
    return work(*arguments), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resamples", type=int, default=10_000)
    arguments = parser.parse_args()
    references, (first, second) = make()
    print(
        f"{IMAGES} images, {REFERENCES} references; NumPy {np.__version__};"
        f" {len(os.sched_getaffinity(0))} cores"
    )
    systems = {
        name: list(zip(said, references, strict=True))
        for name, said in (("first", first), ("second", second))
    }
    os.environ["S3E_NO_JAVA"] = "1"
    measured, seconds = timed(captions.measure, systems)
    print(f"  scoring both without Java: {seconds:5.2f} s")
    sets = list(measured.values())
    found, seconds = timed(captions.intervals, sets[1:], sets[:1], arguments.resamples)
    print(
        f"  {arguments.resamples} paired resamples of all six: {seconds:5.2f} s ({REQUIRED:g} s are"
        " allowed)"
    )
    for name in ("BLEU-4", "CIDEr"):
        print(f"  {name}: {found[name].mean:.4f} ({found[name].low:.4f} to {found[name].high:.4f})")


if __name__ == "__main__":
    main()
