"""A step of stage C, of the baseline and of S3E-Deblur: this suite against the same networks
written plainly.

    python benchmarks/training.py   the profile laptop (64 px, batch 16, LSGAN), two threads
    python benchmarks/training.py --profile paper   256 px, batch 2, WGAN-GP 5:1
    python benchmarks/training.py --profile paper --gpu   batch 8, bf16

Both start from the same weights and see the same batches. First their restored photos and first
losses are compared; then they take turns, and the medians are printed. On a GPU also images a
second, memory, and the share of the chip's peak matrix rate (`--peak` teraflops).
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from s3e.config import Config, load_config
from s3e.data.corpus import Corpus
from s3e.data.prepare import prepare_corpus
from s3e.models.build import build_critic, build_model, count_parameters
from s3e.models.semantics import S3EDeblur
from s3e.training.stages import CoTraining
from s3e.utils import seed_everything

sys.path.insert(0, str(Path(__file__).parent))
from plain import PlainTraining  # noqa: E402

ARMS = ("baseline", "full")
DATA = {
    "data.train": 64,
    "data.val": 4,
    "data.test": 2,
    "text.max_words": 24,
    "model.embed_at": [0],
}
STEADY = {"runtime.save_every": 1000, "runtime.log_every": 1000, "train_c.schedule": "constant"}
GPU = {"runtime.device": "cuda", "runtime.precision": "bf16"}


def settings(chosen: argparse.Namespace) -> Config:
    """The profile on scenes, with its sizes and losses, few photos and a constant learning rate."""
    own = {
        "runtime.device": "cpu",
        "runtime.threads": chosen.threads,
        "train_c.steps": chosen.steps,
    }
    sizes = {"train_c.batch": chosen.batch} if chosen.batch else {}
    overrides = {**DATA, **STEADY, **own, **sizes, **(GPU if chosen.gpu else {})}
    with tempfile.TemporaryDirectory() as folder:
        data = folder if chosen.profile == "paper" else "scenes"
        config = load_config(chosen.profile, data, overrides=overrides)
    return config.model_copy(update={"data": config.data.model_copy(update={"source": "scenes"})})


def networks(config: Config, corpus: Corpus, variant: str) -> tuple[S3EDeblur, nn.Module]:
    """Freshly initialised, the embedding with weights that let maps through; the same at every
    call.
    """
    model = build_model(config, corpus.sizes, variant)
    seed_everything("benchmark")
    for embed in model.generator.embed.values():
        nn.init.normal_(embed.mix.weight, std=0.02)
    return model, build_critic(config)


def suite(config: Config, corpus: Corpus, variant: str) -> float:
    """Milliseconds a step of the suite's own training, logging included."""
    model, critic = networks(config, corpus, variant)
    with tempfile.TemporaryDirectory() as folder:
        training = CoTraining(Path(folder), "timed", model, critic, corpus, config, "c", variant)
        training.fit()
        return training.milliseconds


def plain(config: Config, corpus: Corpus, variant: str) -> float:
    """Milliseconds a step of the plain training, with the same batches."""
    training = PlainTraining(config, *networks(config, corpus, variant))
    extra, key = config.loss.critic_steps - 1, (config.seed, "deblurring", "timed")
    start = time.perf_counter()
    for step in range(config.train_c.steps):
        batches = [
            corpus.train.draw(config.train_c.batch, config.blur.severity, place, *name).to(
                config.runtime.device
            )
            for place, *name in (
                (step, *key),
                *((step * extra + n, *key, "critic") for n in range(extra)),
            )
        ]
        training.update(batches[0], batches[1:])
    return 1000 * (time.perf_counter() - start) / config.train_c.steps


def agree(config: Config, corpus: Corpus, variant: str) -> float:
    """Largest difference of photos restored by both, in parts of the range; dropout off."""
    model, critic = networks(config, corpus, variant)
    training = PlainTraining(config, model, critic)
    batch = corpus.train.draw(2, config.blur.severity, 0, "agree").to(config.runtime.device)
    model.to(config.runtime.device).eval(), training.generator.eval()
    if training.semantics is not None:
        training.semantics.eval()
    with torch.no_grad():
        return float((model(batch)[0] - training.restore(batch)[0]).abs().max()) / 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="laptop", choices=("laptop", "paper"))
    parser.add_argument("--gpu", action="store_true", help="bf16 on a GPU")
    parser.add_argument("--batch", type=int, default=0, help="images a step (paper on the CPU: 2)")
    parser.add_argument(
        "--steps", type=int, default=0, help="steps a turn (default: 20; paper on the CPU: 2)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each candidate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--peak", type=float, default=989.0, help="peak of the GPU's matrix units, TFLOP/s in bf16"
    )
    chosen = parser.parse_args()
    large = chosen.profile == "paper" and not chosen.gpu
    chosen.steps, chosen.batch = (
        chosen.steps or (2 if large else 20),
        chosen.batch or (2 if large else 0),
    )
    torch.set_num_threads(chosen.threads)
    config = settings(chosen)
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepare_corpus(config, Path(folder))
        measure(config, corpus, chosen)


def measure(config: Config, corpus: Corpus, chosen: argparse.Namespace) -> None:
    """Print agreement, then medians of turns."""
    device = torch.cuda.get_device_name() if chosen.gpu else f"CPU, {chosen.threads} threads"
    batch, times = config.train_c.batch, {}
    print(f"{config.profile}: {config.data.size} px, batch {batch}, {config.loss.gan}, {device}")
    for variant in ARMS:
        difference = agree(config, corpus, variant)
        print(f"{variant}: restored photos of both differ by at most {difference:.1e} of the range")
        assert difference < (2e-2 if chosen.gpu else 1e-5)
    for _ in range(chosen.rounds):
        for variant in ARMS:
            for who, run in (("plain", plain), ("suite", suite)):
                times.setdefault((variant, who), []).append(run(config, corpus, variant))
    middle = {name: statistics.median(values) for name, values in times.items()}
    for variant in ARMS:
        ratios = [
            a / b for a, b in zip(times[variant, "plain"], times[variant, "suite"], strict=True)
        ]
        print(
            f"{variant:9} plain {middle[variant, 'plain']:9.1f} ms   suite"
            f" {middle[variant, 'suite']:9.1f} ms   x {statistics.median(ratios):.2f}"
            f" ({min(ratios):.2f}-{max(ratios):.2f})  "
            f" {1000 * batch / middle[variant, 'suite']:.1f} images a second"
        )
    model, _ = networks(config, corpus, "full")
    share = middle["full", "suite"] / middle["baseline", "suite"] - 1
    parts = {name: getattr(model.semantics, name) for name in ("encoder", "tree", "decoder")}
    sizes = {
        name: count_parameters(part)
        for name, part in ({"generator": model.generator} | parts).items()
    }
    print(
        f"semantic branch: {100 * share:+.0f} % of the baseline's step; parameters: "
        + ", ".join(f"{name} {count:,}" for name, count in sizes.items())
    )
    if chosen.gpu:
        print(f"memory: at most {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
