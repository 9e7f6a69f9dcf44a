"""Beam search of the soft-attention decoder beside a plain one, on one thread: `python
benchmarks/decoding.py`.

Both read the same random weights: 196 places of 2,048 features, 9,490 words, widths of 512, beam 5,
20 words. The plain one decodes as the common public tutorial
(sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning) does: features are copied for every beam, moved
along with the beams and projected again at every word; weights times features are written out
before they are summed; the best words are sought among all words of all beams. It takes a batch at
once, which the tutorial does not. The end of a caption is made impossible, so that nobody gains by
stopping early.
"""

import argparse
import os
import time
from collections.abc import Callable

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from s3e.captions.tree import BOS, EOS, PAD, UNK  # noqa: E402
from s3e.models.captioner import CaptionDecoder  # noqa: E402
from s3e.utils import seed_everything  # noqa: E402

PLACES, FEATURES, WORDS, WIDTH = 196, 2048, 9490, 512
BEAM, STEPS = 5, 20
REQUIRED = 4


def make_decoder() -> CaptionDecoder:
    """Random weights that prefer some words clearly (no ties), let the last word count, and never
    end a caption.
    """
    seed_everything("benchmark", "decoder")
    decoder = CaptionDecoder(
        words=WORDS,
        context_width=FEATURES,
        item_width=FEATURES,
        items=PLACES,
        word_width=WIDTH,
        lstm_width=WIDTH,
        attention_width=WIDTH,
        dropout=0.5,
    )
    with torch.no_grad():
        decoder.output.weight[:, :WIDTH].mul_(40)
        decoder.embedding.weight.mul_(8)
        decoder.output.bias[EOS] = -1e4
    return decoder.eval()


def plain_attention(decoder: CaptionDecoder, hidden: Tensor, features: Tensor) -> Tensor:
    """Attended features R x F of R beams with features R x K x F of their own."""
    keys = decoder.item_key(features) + decoder.place_key
    scores = decoder.score(torch.tanh(keys + decoder.query(hidden).unsqueeze(1))).squeeze(2)
    return (features * scores.softmax(1).unsqueeze(2)).sum(1)


@torch.no_grad()
def plain_beam(decoder: CaptionDecoder, context: Tensor, features: Tensor) -> Tensor:
    """The best caption of each photo, B x STEPS, every caption being STEPS words long."""
    batch, device = len(context), context.device
    features = features.unsqueeze(1).expand(-1, BEAM, -1, -1).flatten(0, 1)
    hidden, cell = decoder.start(context).tanh().repeat_interleave(BEAM, 0).chunk(2, 1)
    first = torch.arange(batch, device=device).unsqueeze(1) * BEAM
    scores = torch.full((batch, BEAM), -torch.inf, device=device)
    scores[:, 0] = 0
    word = torch.full((batch * BEAM,), BOS, device=device)
    said = torch.empty(batch * BEAM, 0, dtype=torch.long, device=device)
    for _ in range(STEPS):
        glimpse = plain_attention(decoder, hidden, features)
        hidden, cell = decoder.lstm(
            torch.cat([decoder.embedding(word), glimpse], 1), (hidden, cell)
        )
        logits = decoder.output(torch.cat([hidden, glimpse], 1))
        logits[:, [PAD, BOS, UNK]] = -torch.inf
        total = scores.view(-1, 1) + logits.log_softmax(1)
        scores, best = total.view(batch, -1).topk(BEAM, 1)
        rows, word = (first + best // WORDS).flatten(), (best % WORDS).flatten()
        said = torch.cat([said[rows], word.unsqueeze(1)], 1)
        hidden, cell, features = hidden[rows], cell[rows], features[rows]
    return said[first.squeeze(1) + scores.argmax(1)]


def clock(work: Callable[[], Tensor], device: str) -> float:
    """Milliseconds of one call: this thread's processor time, or by the clock until a GPU has said
    the last word.
    """
    now = time.thread_time if device == "cpu" else time.perf_counter
    start = now()
    work().cpu()
    return 1e3 * (now() - start)


def compare(decoder: CaptionDecoder, batch: int, repeats: int, device: str) -> None:
    """Check that both say the same, then let them take turns and print their medians."""
    seed_everything("benchmark", "photos")
    features = torch.randn(batch, PLACES, FEATURES).relu().to(device)
    context = features.mean(1)
    works = [
        lambda: plain_beam(decoder, context, features),
        lambda: decoder.beam(context, features, STEPS, BEAM),
    ]
    plain, ours = (work() for work in works)
    if not torch.equal(plain, ours):
        raise SystemExit(
            f"batch {batch} on {device}: the two decoders say different words; nothing was"
            " measured."
        )
    times = np.array([[clock(work, device) for work in works] for _ in range(repeats)]) / batch
    slow, fast = np.median(times, 0)
    print(f"  {device}, batch {batch}: equal captions, {len(ours.unique())} different words")
    print(f"    plain {slow:8.1f} ms a photo   (min {times[:, 0].min():.1f})")
    print(
        f"    suite {fast:8.1f} ms a photo   (min {times[:, 1].min():.1f}): {slow / fast:.1f} times"
        " as fast"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    decoder = make_decoder()
    sizes = f"beam {BEAM}, {STEPS} words of {WORDS:,}, {PLACES} x {FEATURES:,} features"
    print(f"{sizes}; float32, one thread, medians of {repeats} turns, torch {torch.__version__}")
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        decoder.to(device)
        for batch in (1, 8):
            compare(decoder, batch, repeats, device)
    print(f"at least {REQUIRED} times as fast is required on the CPU for batches of 8")


if __name__ == "__main__":
    main()
