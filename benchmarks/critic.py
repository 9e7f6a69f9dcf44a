"""Stage B with several settings of the critic: `python benchmarks/critic.py [--data FOLDER]`.

Each setting trains the same deblurrer on the same batches for so many steps. Printed for each: mean
PSNR (dB) of validation images at each severity, the adversarial and the critic's loss (unweighted,
mean of the last tenth of the steps), the norm of each weighted term's gradient in the generator at
the end, and minutes. LSGAN: a critic that has won is at 0 and leaves the generator at 1, one that
cannot tell is at 0.25.

    python benchmarks/critic.py --settings loss.adversarial=1 loss.critic_rate=0.1
"""

import argparse
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from s3e.config import Config, load_config, parse_setting
from s3e.data.corpus import Corpus, load_corpus
from s3e.data.prepare import prepare_corpus
from s3e.evaluation.score import score_images
from s3e.models.build import build_critic, build_deblurrer
from s3e.training.stages import CoTraining
from s3e.utils import seed_everything

SETTINGS = [
    "loss.adversarial=0",
    "loss.adversarial=1",
    "loss.adversarial=10",
    "loss.adversarial=10,loss.critic_rate=0.1",
    "loss.adversarial=10,loss.critic_noise=0.2",
    "loss.adversarial=10,loss.critic_rate=0.1,loss.critic_noise=0.2",
]


def trained(config: Config, corpus: Corpus, folder: Path) -> dict[str, float]:
    """What there is to say of one setting."""
    seed_everything(config.seed, "critic")
    critic, model, start = build_critic(config), build_deblurrer(config), time.perf_counter()
    training = CoTraining(folder, "deblurrer", model, critic, corpus, config, "b")
    log, minutes = training.fit(), (time.perf_counter() - start) / 60
    found = {}
    for severity in corpus.severities:
        scores = score_images(model, corpus.val, severity, config)
        found[severity] = scores.psnr.mean()
        found[f"{severity} input"] = scores.psnr_blurred.mean()
    last = log[log.step > 0.9 * config.train_b.steps].mean()
    if weight := config.loss.adversarial:
        found |= {"adversarial": last.adversarial / weight, "critic": last.critic}
    norms = training.gradient_norms().set_index("loss").generator
    return found | {f"|{name}|": norm for name, norm in norms.items()} | {"minutes": minutes}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="scenes", help="'scenes', or a folder of photos")
    parser.add_argument("--profile", default="", help="default: laptop, photos-cpu of a folder")
    parser.add_argument("--corpus", type=Path, help="a prepared corpus of that profile and data")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--settings", nargs="+", default=SETTINGS, help="NAME=VALUE,NAME=VALUE ...")
    parser.add_argument("--set", nargs="+", default=[], help="for all of them")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    profile = chosen.profile or ("laptop" if chosen.data == "scenes" else "photos-cpu")
    shared = {"train_b.steps": chosen.steps, "runtime.log_every": 10, "runtime.save_every": 10**5}
    shared |= dict(map(parse_setting, chosen.set))
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, words in enumerate(chosen.settings):
            own = shared | dict(map(parse_setting, words.split(",")))
            config = load_config(profile, chosen.data, overrides=own)
            place = chosen.corpus or Path(folder) / "corpus"
            known = (place / "corpus.json").is_file()
            corpus = load_corpus(place) if known else prepare_corpus(config, place)
            rows[words] = trained(config, corpus, Path(folder) / str(number))
            print(
                words, *(f"{name} {value:.3f}" for name, value in rows[words].items()), flush=True
            )
    print(pd.DataFrame(rows).T.round(3).to_markdown())


if __name__ == "__main__":
    main()
