"""The training stages of specification 6.7.

tree, A1, A2: the semantic source alone, on sharp and then on severely blurred images. B: generator
and critic alone. C: co-training of everything. The baseline is B continued through C's schedule. D:
C on data without captions, with the tree and the encoder of a captioned study, frozen.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from pandas import DataFrame
from torch import Tensor, nn

from s3e.config import Config
from s3e.data.corpus import Batch, Corpus, load_corpus
from s3e.models.build import (
    build_critic,
    build_model,
    build_perceptual,
    build_semantics,
    load_weights,
    save_weights,
    variant_rules,
)
from s3e.models.semantics import S3EDeblur, SemanticOutput
from s3e.training import parallel
from s3e.training.loop import Terms, Trainer
from s3e.training.losses import critic_terms, image_terms, semantic_terms
from s3e.utils import S3EError

PHASES = ("tree", "a1", "a2")  # tree alone (02), with the decoder, on blurred images (03)
BACKBONE_RATE = 0.1  # times the rate of all else: ImageNet weights are tuned, not replaced


def learned(source: nn.Module, rate: float) -> list[dict[str, Any]]:
    """Groups of a semantic source's parameters for an optimizer, with their learning rates."""
    groups = {rate: [], rate * BACKBONE_RATE: []}
    for name, weight in source.named_parameters():
        groups[rate * BACKBONE_RATE if ".backbone." in name else rate].append(weight)
    return [{"params": own, "lr": speed} for speed, own in groups.items() if own]


class CoTraining(Trainer):
    """Stages B ("b", with the variant "baseline"), C and D ("c").

    Semantics that start from scratch learn at the generator's rate, pretrained ones at
    `semantics_learning_rate`.
    """

    def __init__(
        self, folder: Path, name: str, model: S3EDeblur, critic: nn.Module, corpus: Corpus,
        config: Config, stage: str, variant: str = "baseline"
    ):  # fmt: skip
        super().__init__(
            folder, name, stage, corpus, config, {"model": model, "critic": critic},
            config.blur.severity, {"variant": variant}, (variant,)
        )  # fmt: skip
        self.model, self.critic, self.source = model, critic, model.semantics
        self.loss, self.rules = config.loss, variant_rules(variant, corpus.captioned)
        self.perceptual = build_perceptual(config)
        if self.perceptual:
            self.perceptual.to(self.device, self.dtype)
        self.batches = self.drawn("deblurring", name)
        self.critic_batches = self.drawn("deblurring", name, "critic")

        rate, groups = self.settings.learning_rate, [{"params": [*model.generator.parameters()]}]
        if self.source and self.rules.trained:
            fresh = self.rules.start == "scratch"
            groups += learned(self.source, rate if fresh else self.settings.semantics_learning_rate)
        elif self.source:
            self.source.eval().requires_grad_(False)
        adam = {"lr": rate, "betas": (0.5, 0.999), "fused": True}
        self.optimizers = {
            "generator": torch.optim.Adam(groups, **adam),
            "critic": torch.optim.Adam(
                critic.parameters(), **adam | {"lr": rate * self.loss.critic_rate}
            ),
        }

    def step(self, number: int) -> Terms:
        """One co-training step: read and restore, critic, generator and semantics; all losses."""
        # Steps of the critic beyond its first one have images of their own.
        extra = self.loss.critic_steps - 1 if self.loss.adversarial else 0
        for place in range(number * extra, (number + 1) * extra):
            with torch.no_grad():
                batch, restored, _ = self.read_and_restore(self.critic_batches(place))
            self.critic_step(batch, restored)

        # Read and restore, once for both optimizers.
        batch, restored, read = self.read_and_restore(self.batches(number))

        # Critic: L_D on sharp and restored images.
        losses = self.critic_step(batch, restored) if self.loss.adversarial else {}

        # Generator and semantics: L_total = L_ImD + L_tree + L_cap, one gradient step on the sum.
        terms = self.terms(batch, restored, read)
        return self.optimizer_step(self.optimizers["generator"], terms) | losses

    def read_and_restore(self, batch: Batch) -> tuple[Batch, Tensor, SemanticOutput | None]:
        """The batch on the device, its restored images I_r, and what the semantics read in I_b."""
        batch = self.place(batch)  # I_b, I_s: B x 3 x H x W in [-1, 1]
        with self.autocast():  # I_r: B x 3 x H x W; node maps M: B x 7D x 16 x 16; tree; context
            restored, read = self.model(batch)
        return batch, restored.to(batch.sharp.dtype), read

    def terms(self, batch: Batch, restored: Tensor, read: SemanticOutput | None) -> Terms:
        """L_total of a batch: L_ImD, and L_tree and L_cap where the variant has them."""
        losses = {"tree": self.rules.tree_loss, "caption": self.rules.caption_loss}
        with self.autocast():
            terms = image_terms(self.loss, self.critic, self.perceptual, restored, batch.sharp)
            return terms | semantic_terms(self.loss, self.source, read, batch, **losses)

    def critic_step(self, batch: Batch, restored: Tensor) -> Terms:
        """One step of the critic."""
        self.critic.requires_grad_(True)
        with self.autocast():
            terms = critic_terms(self.loss, self.critic, batch, restored)
        losses = self.optimizer_step(self.optimizers["critic"], terms)
        self.critic.requires_grad_(False)
        return losses

    def gradient_norms(self) -> DataFrame:
        """Norm of each weighted term's gradient (rows) in generator and trained semantics.

        Of the first batch, with networks in eval mode.
        """
        with self.evaluating(), torch.enable_grad():
            terms = self.terms(*self.read_and_restore(self.batches(0)))
        rows, groups = [], self.optimizers["generator"].param_groups
        for name, value in terms.items():
            rows.append({"loss": name})
            for part, group in zip(("generator", "semantics"), groups, strict=False):
                found = torch.autograd.grad(value, group["params"], None, True, allow_unused=True)
                norm = nn.utils.get_total_norm([own for own in found if own is not None])
                rows[-1][part] = float(norm)
        return DataFrame(rows)

    def validate(self) -> float:
        """Mean PSNR in dB."""
        psnr = []
        for batch, restored, _ in map(self.read_and_restore, self.validation()):
            error = (restored - batch.sharp).square().mean((1, 2, 3)).clamp_min(1e-10)
            psnr.append(10 * torch.log10(4 / error))  # images in [-1, 1]
        return float(torch.cat(psnr).mean())


class PretrainSemantics(Trainer):
    """One phase of a semantic source: "tree", "a1" (sharp), "a2" (blurred, at first some sharp).

    In the phase "tree" the caption loss rests, unless it is the only one.
    """

    def __init__(
        self, folder: Path, name: str, phase: str, source: nn.Module, corpus: Corpus,
        config: Config, *, tree: bool, caption: bool
    ):  # fmt: skip
        severity = config.blur.severity if phase == "a2" else "sharp"
        job = {"kind": source.kind, "losses": {"tree": tree, "caption": caption}}
        super().__init__(folder, name, phase, corpus, config, {"source": source}, severity, job)
        self.source, self.batches = source, self.drawn("semantics", phase)
        self.losses = {"tree": tree, "caption": caption and (phase != "tree" or not tree)}
        groups = learned(source, self.settings.learning_rate)
        self.optimizers = {"adam": torch.optim.Adam(groups, fused=True)}

    def step(self, number: int) -> Terms:
        """One step of pretraining: read, terms, step; the losses."""
        share = self.settings.sharp_share * max(0.0, 1 - 2 * number / self.settings.steps)
        return self.optimizer_step(self.optimizers["adam"], self.terms(self.batches(number), share))

    def terms(self, batch: Batch, sharp_share: float = 0.0) -> Terms:
        """Weighted terms of what is read in a batch, of which a random share is shown sharp."""
        batch = self.place(batch)
        image = batch.blurred  # B x 3 x H x W; that of the severity "sharp" is sharp
        if sharp_share:
            sharp = batch.uniform("sharp") < sharp_share
            image = torch.where(sharp[:, None, None, None], batch.sharp, image)
        with self.autocast():
            read = self.source(image)
            return semantic_terms(self.config.loss, self.source, read, batch, **self.losses)

    def validate(self) -> float:
        """Minus the mean loss."""
        count, loss = 0, 0.0
        for batch in self.validation():
            loss += float(sum(self.terms(batch).values())) * len(batch.ids)
            count += len(batch.ids)
        return -loss / count


def start_model(
    variant: str, config: Config, corpus: Corpus, *, deblurrer: Path, captioner: Path | None,
    folder: Path
) -> tuple[S3EDeblur, nn.Module]:  # fmt: skip
    """Model and critic of a variant at the start of stage C.

    Every variant of one seed starts from the same B weights (`deblurrer`, notebook 04). Semantics
    start from notebook 03 (`captioner`), from an own pretraining with the variant's own losses, or
    from scratch (specification 6.7).
    """
    rules = variant_rules(variant, corpus.captioned)
    model, critic = build_model(config, corpus.sizes, variant), build_critic(config)
    load_weights(model.generator, deblurrer / "generator.safetensors", ignore=("embed.",))
    load_weights(critic, deblurrer / "critic.safetensors")
    if rules.start == "shared":
        load_weights(model.semantics, captioner / "tree_captioner.safetensors")
    elif rules.start == "own":
        args = model.semantics, corpus, config
        losses = {"tree": rules.tree_loss, "caption": rules.caption_loss}
        for phase in PHASES:
            PretrainSemantics(folder, f"own_{phase}", phase, *args, **losses).fit()
    return model.to(config.runtime.device), critic.to(config.runtime.device)


def save_model(folder: Path, model: S3EDeblur, critic: nn.Module) -> None:
    """Write the final weights of a deblurring run."""
    networks = {"generator": model.generator, "critic": critic, "semantics": model.semantics}
    for name, network in networks.items():
        if network is not None and list(network.parameters()):
            save_weights(network, folder / f"{name}.safetensors")


def train(job: dict[str, Any]) -> None:
    """One process's part of a training whose first checkpoint exists; `job`: see `Trainer`."""
    config = Config.model_validate(job["config"])
    corpus = load_corpus(job["corpus"], job["vocabulary"])
    folder, name, stage = Path(job["folder"]), job["name"], job["stage"]
    if stage in PHASES:
        source = build_semantics(config, corpus.sizes, job["kind"])
        args = source, corpus, config
        trainer = PretrainSemantics(folder, name, stage, *args, **job["losses"])
    else:
        networks = build_model(config, corpus.sizes, job["variant"]), build_critic(config)
        trainer = CoTraining(folder, name, *networks, corpus, config, stage, job["variant"])
    if not trainer.checkpoint.exists():
        raise S3EError(
            f"{trainer.checkpoint} does not exist: start this training from its notebook."
        )
    trainer.fit()


if __name__ == "__main__":
    sys.exit(parallel.member(train, sys.argv[1]))
