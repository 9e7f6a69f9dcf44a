"""The training stages of specification 6.7, each a step function handed to the one loop.

tree, A1, A2: the semantic source alone, on sharp and then on severely blurred photos. B: generator and critic alone.
C: co-training of everything. The baseline is B continued through C's schedule. D: C on data without captions, with the
tree and the encoder of a captioned study, frozen.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from s3e.config import VARIANTS, Config, Training
from s3e.data.corpus import Batch, Corpus
from s3e.models.build import arm_of, build_critic, build_model, build_semantics, load_weights, save_weights
from s3e.models.s3e import S3EDeblur
from s3e.models.semantics import Semantics
from s3e.seeds import rng, seed_everything
from s3e.training.loop import Trainer
from s3e.training.losses import (
    PerceptualLoss,
    caption_loss,
    critic_loss,
    distillation_loss,
    generator_adversarial,
    tree_loss,
)

PHASES = ("tree", "a1", "a2")  # notebooks 02, 03 and 03: tree alone, with the decoder, on blurred photos


@dataclass(frozen=True)
class Trained:
    """A finished training: its log (step and losses) and the mean milliseconds of an update."""

    log: pd.DataFrame
    milliseconds: float


def _finish(trainer: Trainer, step_fn) -> Trained:
    log = trainer.fit(step_fn)
    return Trained(log, 1000 * trainer.seconds / trainer.timed)


def _update(optimizer: torch.optim.Optimizer, terms: dict[str, Tensor], clip: float = 0.0) -> dict[str, float]:
    optimizer.zero_grad(set_to_none=True)
    sum(terms.values()).backward()
    if clip:
        groups = optimizer.param_groups
        nn.utils.clip_grad_value_([parameter for group in groups for parameter in group["params"]], clip)
    optimizer.step()
    return {name: float(value.detach()) for name, value in terms.items()}


def semantic_terms(
    semantics: Semantics, source: nn.Module, batch: Batch, config: Config, *, tree: bool, caption: bool
) -> dict[str, Tensor]:
    """Weighted L_tree and L_cap of a batch, as far as they are switched on."""
    terms = {}
    if tree:
        terms["tree"] = config.loss.tree * tree_loss(semantics.tree, batch.tree, config.loss.null_weight)
    if caption:
        logits = source.decoder(batch.words, semantics.context, semantics.items)
        terms["caption"] = config.loss.caption * caption_loss(logits, batch.words)
    return terms


def _distil(source: nn.Module, semantics: Semantics, batch: Batch) -> Tensor:
    with torch.no_grad():
        sharp = source(batch.sharp)
    return distillation_loss(semantics, sharp)


def mixed_view(batch: Batch, share: float, *key: object) -> Tensor:
    """The blurred photos, a random `share` of them replaced by the sharp ones."""
    sharp = torch.from_numpy(rng("sharp", *key).random(len(batch.ids)) < share)
    return torch.where(sharp[:, None, None, None].to(batch.sharp.device), batch.sharp, batch.blurred)


def train_semantics(
    folder: Path, name: str, phase: str, source: nn.Module, corpus: Corpus, config: Config, *, tree: bool, caption: bool
) -> Trained:
    """One phase of "tree", "a1" (sharp) or "a2" (blurred; the share of sharp photos falls to 0 over the first half).

    In the phase "tree" the caption loss rests, unless it is the only one. Source: specification 6.7.
    """
    settings: Training = getattr(config, f"train_{phase}")
    caption = caption and (phase != "tree" or not tree)
    optimizer = torch.optim.Adam(source.parameters(), settings.learning_rate)
    severity = config.blur.severity if phase == "a2" else "sharp"
    key = (config.seed, "semantics", phase)
    source.to(config.runtime.device).train()

    def step_fn(step: int) -> dict[str, float]:
        batch = corpus.train.draw(settings.batch, severity, step, *key).to(config.runtime.device)
        share = settings.sharp_share * max(0.0, 1 - 2 * step / settings.updates)
        image = mixed_view(batch, share, *key, step) if phase == "a2" else batch.sharp
        semantics = source(image)
        terms = semantic_terms(semantics, source, batch, config, tree=tree, caption=caption)
        if phase == "a2" and config.loss.distillation:
            terms["distillation"] = config.loss.distillation * _distil(source, semantics, batch)
        return _update(optimizer, terms, settings.clip)

    name = name if name == phase else f"{name}_{phase}"
    trainer = Trainer(folder, name, {"source": source}, {"adam": optimizer}, settings, config.runtime, (config.seed,))
    return _finish(trainer, step_fn)


def pretrain_own(folder: Path, source: nn.Module, corpus: Corpus, config: Config, *, tree: bool, caption: bool) -> None:
    """All three phases for a variant that may not share the weights of notebooks 02 and 03."""
    for phase in PHASES:
        train_semantics(folder, "own", phase, source, corpus, config, tree=tree, caption=caption)


def new_source(config: Config, corpus: Corpus, kind: str = "tree") -> nn.Module:
    """A freshly initialised semantic source; the seed decides its weights."""
    seed_everything(config.seed, "semantics")
    return build_semantics(config, corpus, kind)


def why_skipped(variant: str, corpus: Corpus) -> str:
    """Why the data cannot have an arm; "" if they can."""
    arm = VARIANTS[variant]
    if arm.semantics == "labels" and not corpus.categories:
        return "these data have no true label maps"
    if arm.start == "own" and not corpus.captioned:
        return "these data have no captions, with which the arm would pretrain semantics of its own"
    if variant == "frozen" and not corpus.captioned:
        return "without captions the semantics of 'full' are frozen already"
    return ""


def start_model(
    variant: str, config: Config, corpus: Corpus, *, deblurrer: Path, captioner: Path | None, folder: Path
) -> tuple[S3EDeblur, nn.Module]:
    """Model and critic of an ablation arm at the start of stage C.

    Every arm of one seed starts from the same B weights (`deblurrer`, notebook 04). Semantics start from notebook 03
    (`captioner`), from an own pretraining with the arm's own losses, or from scratch (specification 6.7).
    """
    arm = arm_of(variant, corpus.captioned)
    model, critic = build_model(config, corpus, variant), build_critic(config)
    load_weights(model.generator, deblurrer / "generator.safetensors", ignore=("embed.",))
    load_weights(critic, deblurrer / "critic.safetensors")
    if arm.start == "shared":
        load_weights(model.semantics, captioner / "tree_captioner.safetensors")
    elif arm.start == "own":
        pretrain_own(folder, model.semantics, corpus, config, tree=arm.tree_loss, caption=arm.caption_loss)
    if model.semantics is not None and not arm.trained:
        model.semantics.requires_grad_(False)
    return model.to(config.runtime.device), critic.to(config.runtime.device)


def train_deblurrer(
    folder: Path, name: str, model: S3EDeblur, critic: nn.Module, corpus: Corpus, config: Config, settings: Training,
    variant: str = "baseline",
) -> Trained:  # fmt: skip
    """Stages B (`variant="baseline"`, no semantics), C and D: L_ImD, and L_cap and L_tree where the arm has them.

    With more than one critic update a generator update, the extra ones see batches of their own. Semantics that start
    from scratch learn at the generator's rate, pretrained ones at `semantics_learning_rate`.
    """
    arm, loss, device = arm_of(variant, corpus.captioned), config.loss, config.runtime.device
    model.to(device).train()
    critic.to(device).train()
    if model.semantics is not None and not arm.trained:
        model.semantics.eval()
    own_rate = settings.learning_rate if arm.start == "scratch" else settings.semantics_learning_rate
    groups = [{"params": list(model.generator.parameters()), "lr": settings.learning_rate}]
    if model.semantics is not None and any(True for _ in model.semantics.parameters()) and arm.trained:
        groups.append({"params": list(model.semantics.parameters()), "lr": own_rate})
    optimizer = torch.optim.Adam(groups, settings.learning_rate, betas=(0.5, 0.999))
    critic_optimizer = torch.optim.Adam(critic.parameters(), settings.learning_rate, betas=(0.5, 0.999))
    perceptual = PerceptualLoss(loss.vgg19_weights).to(device) if loss.perceptual else None
    key, severity = (config.seed, "deblurring", name), config.blur.severity

    def criticise(batch: Batch, restored: Tensor) -> dict[str, float]:
        critic.requires_grad_(True)
        return _update(critic_optimizer, critic_loss(loss, critic, batch.sharp, restored))

    def extra_critic_updates(step: int) -> None:
        for extra in range(loss.critic_updates - 1):
            place = step * (loss.critic_updates - 1) + extra
            batch = corpus.train.draw(settings.batch, severity, place, *key, "critic").to(device)
            with torch.no_grad():
                restored, _ = model(batch)
            criticise(batch, restored)

    def step_fn(step: int) -> dict[str, float]:
        values = {}
        if loss.adversarial:
            extra_critic_updates(step)
        batch = corpus.train.draw(settings.batch, severity, step, *key).to(device)
        restored, semantics = model(batch)
        terms = {"pixel": loss.pixel * (restored - batch.sharp).abs().mean()} if loss.pixel else {}
        if loss.adversarial:
            values = criticise(batch, restored)
            critic.requires_grad_(False)
            terms["adversarial"] = loss.adversarial * generator_adversarial(loss.gan, critic, restored)
        if perceptual is not None:
            terms["perceptual"] = loss.perceptual * perceptual(restored, batch.sharp)
        if loss.distillation and (arm.tree_loss or arm.caption_loss):
            terms["distillation"] = loss.distillation * _distil(model.semantics, semantics, batch)
        if semantics is not None and (arm.tree_loss or arm.caption_loss):
            terms |= semantic_terms(
                semantics, model.semantics, batch, config, tree=arm.tree_loss, caption=arm.caption_loss
            )
        return _update(optimizer, terms, settings.clip) | values

    modules = {"model": model, "critic": critic}
    optimizers = {"generator": optimizer, "critic": critic_optimizer}
    trainer = Trainer(folder, name, modules, optimizers, settings, config.runtime, (config.seed, variant))
    return _finish(trainer, step_fn)


def save_model(folder: Path, model: S3EDeblur, critic: nn.Module) -> None:
    """Write the final weights of a deblurring run."""
    save_weights(model.generator, folder / "generator.safetensors")
    save_weights(critic, folder / "critic.safetensors")
    if model.semantics is not None and any(True for _ in model.semantics.parameters()):
        save_weights(model.semantics, folder / "semantics.safetensors")
