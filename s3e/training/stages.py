"""The training stages of specification 6.7, each a step function handed to the one loop.

tree, A1, A2: the semantic source alone, on sharp and then on severely blurred photos. B: generator and critic alone.
C: co-training of everything. The baseline is B continued through C's schedule. D: C on data without captions, with the
tree and the encoder of a captioned study, frozen.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from s3e import models as ranks
from s3e.config import Config, Training
from s3e.data.corpus import Batch, Corpus, Split
from s3e.evaluation.score import predicted_nodes, to_images
from s3e.models.build import (
    build_critic,
    build_model,
    build_perceptual,
    build_semantics,
    load_weights,
    save_weights,
    variant_rules,
)
from s3e.models.semantics import S3EDeblur, Semantics
from s3e.training import parallel
from s3e.training.loop import Engine, Trainer
from s3e.training.losses import (
    caption_loss,
    critic_loss,
    distillation_loss,
    image_terms,
    tree_loss,
)
from s3e.utils import seed_everything

PHASES = (
    "tree",
    "a1",
    "a2",
)  # notebooks 02, 03 and 03: tree alone, with the decoder, on blurred photos
SHOWN = 3  # validation photos whose progress is kept
VALIDATED = 256  # validation photos at most that early stopping looks at
Watch = Callable[[int], None] | None  # told the steps whose losses are on disk
Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Trained:
    """A finished training: its log (step and losses) and the mean milliseconds of an update."""

    log: pd.DataFrame
    milliseconds: float


class Feed:
    """The batches of a training by step, cut for gradient accumulation and processes; on a GPU loaded one ahead."""

    def __init__(
        self,
        split: Split,
        settings: Training,
        severity: str,
        key: tuple[object, ...],
        engine: Engine,
    ):
        self.split, self.settings, self.severity, self.key, self.engine = (
            split,
            settings,
            severity,
            key,
            engine,
        )
        self.parts = settings.accumulate * ranks.world()
        self.ahead: dict[tuple[int, int], Future[Batch]] = {}
        self.loader = None if engine.whole else ThreadPoolExecutor(1)

    def __call__(self, step: int) -> Iterator[Batch]:
        """This process's parts of batch number `step`, one after the other."""
        for part in range(self.settings.accumulate):
            yield self.engine.place(self._part(step, part))

    def _part(self, step: int, part: int) -> Batch:
        if self.loader is None:
            return self._draw(step, part)
        number = step * self.settings.accumulate + part
        now = self.ahead.pop((step, part), None) or self.loader.submit(self._draw, step, part)
        following = divmod(number + 1, self.settings.accumulate)
        self.ahead[following] = self.loader.submit(self._draw, *following)
        return now.result()

    def _draw(self, step: int, part: int) -> Batch:
        place = ranks.rank() * self.settings.accumulate + part
        return self.split.draw(
            self.settings.batch, self.severity, step, *self.key, part=place, parts=self.parts
        )


def _train(trainer: Trainer, step_fn, job: dict, watch: Watch) -> Trained:
    """Run a training here, or in processes of its own where the settings ask for several."""
    if parallel.wanted(trainer.runtime) and not trainer.finished():
        parallel.spread(trainer, job, watch)
    log = trainer.fit(step_fn)
    return Trained(log, 1000 * trainer.seconds / trainer.timed)


def semantic_terms(
    semantics: Semantics,
    source: nn.Module,
    batch: Batch,
    config: Config,
    *,
    tree: bool,
    caption: bool,
) -> Terms:
    """Weighted L_tree and L_cap of a batch, as far as they are switched on."""
    terms = {}
    if tree:
        loss = tree_loss(semantics.tree, batch.tree, config.loss.null_weight, batch.all_trees)
        terms["tree"] = config.loss.tree * loss
    if caption:
        logits = source.decoder(batch.words, semantics.context, semantics.items)
        terms["caption"] = config.loss.caption * caption_loss(logits, batch.words, batch.all_words)
    return terms


def distillation_terms(
    semantics: Semantics, source: nn.Module, batch: Batch, config: Config
) -> Terms:
    """The weighted distance to what the source says of the sharp photos, if it is switched on.

    That teacher is at rest: the source's normalisation statistics stay as they are.
    """
    if not config.loss.distillation:
        return {}
    mode = source.training
    with torch.no_grad():
        sharp = source.eval()(batch.sharp)
    source.train(mode)
    return {"distillation": config.loss.distillation * distillation_loss(semantics, sharp)}


def mixed_view(batch: Batch, share: float) -> Tensor:
    """The blurred photos, a random `share` of them replaced by the sharp ones."""
    sharp = batch.uniform("sharp") < share
    return torch.where(sharp[:, None, None, None], batch.sharp, batch.blurred)


def _judged(split: Split, severity: str, config: Config) -> list[np.ndarray]:
    """The validation photos that early stopping looks at, in chunks; the same in every process, each counted once."""
    return split.chunks(config.evaluation.batch, severity, VALIDATED)


def train_semantics(
    folder: Path, name: str, phase: str, source: nn.Module, corpus: Corpus, config: Config, *, tree: bool,
    caption: bool, watch: Watch = None,
) -> Trained:  # fmt: skip
    """One phase of "tree", "a1" (sharp) or "a2" (blurred; the share of sharp photos falls to 0 over the first half).

    In the phase "tree" the caption loss rests, unless it is the only one. Source: specification 6.7.
    """
    settings: Training = getattr(config, f"train_{phase}")
    job = {"kind": source.kind, "phase": phase, "tree": tree, "caption": caption}
    caption = caption and (phase != "tree" or not tree)
    engine, name = Engine(config.runtime), name if name == phase else f"{name}_{phase}"
    engine.prepare(source.train())
    engine.compile(source.encoder, getattr(source, "tree", None))
    optimizer = torch.optim.Adam(source.parameters(), settings.learning_rate, fused=True)
    severity, key = (
        config.blur.severity if phase == "a2" else "sharp",
        (config.seed, "semantics", phase),
    )
    feed = Feed(corpus.train, settings, severity, key, engine)
    judged = _judged(corpus.val, severity, config)

    def terms(batch: Batch, share: float) -> Terms:
        with engine.autocast():
            semantics = source(mixed_view(batch, share) if phase == "a2" else batch.sharp)
            found = semantic_terms(semantics, source, batch, config, tree=tree, caption=caption)
            if phase == "a2":
                found |= distillation_terms(semantics, source, batch, config)
        return found

    def step_fn(step: int) -> Terms:
        share = settings.sharp_share * max(0.0, 1 - 2 * step / settings.steps)
        return engine.descend(optimizer, settings, map(terms, feed(step), repeat(share)))

    def validate() -> float:
        batches = (engine.place(corpus.val.batch(rows, severity)) for rows in judged)
        losses = [float(sum(terms(batch, 0.0).values())) * len(batch.ids) for batch in batches]
        return -sum(losses) / sum(map(len, judged))

    def sampler() -> dict[str, np.ndarray]:
        return _sample_semantics(source, corpus, severity, engine)

    trainer = Trainer(
        folder, name, {"source": source}, {"adam": optimizer}, settings, config.runtime, (config.seed,), engine,
        validate, sampler, watch,
    )  # fmt: skip
    return _train(trainer, step_fn, parallel.job_of(corpus, config, **job), watch)


def _sample_semantics(
    source: nn.Module, corpus: Corpus, severity: str, engine: Engine
) -> dict[str, np.ndarray]:
    """What a source says of the first validation photos: captions, and node attention and classes of a tree."""
    batch = engine.place(corpus.val.batch(corpus.val.rows(severity)[:SHOWN], severity))
    semantics = source(batch.blurred)
    words, _ = source.decoder.greedy(
        semantics.context, semantics.items, corpus.train.words.shape[-1]
    )
    found = {
        "ids": np.array(batch.ids),
        "captions": np.array([corpus.words.decode(row) for row in words.tolist()]),
    }
    if semantics.tree is not None:
        found["attention"] = semantics.tree.attention.float().cpu().numpy()
        found["nodes"] = predicted_nodes(semantics.tree).cpu().numpy()
    return found


def pretrain_own(
    folder: Path, source: nn.Module, corpus: Corpus, config: Config, *, tree: bool, caption: bool
) -> None:
    """All three phases for a variant that may not share the weights of notebooks 02 and 03."""
    for phase in PHASES:
        train_semantics(folder, "own", phase, source, corpus, config, tree=tree, caption=caption)


def new_source(config: Config, corpus: Corpus, kind: str = "tree") -> nn.Module:
    """A freshly initialised semantic source; the seed decides its weights."""
    seed_everything(config.seed, "semantics")
    return build_semantics(config, corpus, kind)


def start_model(
    variant: str,
    config: Config,
    corpus: Corpus,
    *,
    deblurrer: Path,
    captioner: Path | None,
    folder: Path,
) -> tuple[S3EDeblur, nn.Module]:
    """Model and critic of an ablation arm at the start of stage C.

    Every arm of one seed starts from the same B weights (`deblurrer`, notebook 04). Semantics start from notebook 03
    (`captioner`), from an own pretraining with the arm's own losses, or from scratch (specification 6.7).
    """
    arm = variant_rules(variant, corpus.captioned)
    model, critic = build_model(config, corpus, variant), build_critic(config)
    load_weights(model.generator, deblurrer / "generator.safetensors", ignore=("embed.",))
    load_weights(critic, deblurrer / "critic.safetensors")
    if arm.start == "shared":
        load_weights(model.semantics, captioner / "tree_captioner.safetensors")
    elif arm.start == "own":
        pretrain_own(
            folder, model.semantics, corpus, config, tree=arm.tree_loss, caption=arm.caption_loss
        )
    if model.semantics is not None and not arm.trained:
        model.semantics.requires_grad_(False)
    return model.to(config.runtime.device), critic.to(config.runtime.device)


def train_deblurrer(
    folder: Path, name: str, model: S3EDeblur, critic: nn.Module, corpus: Corpus, config: Config, stage: str,
    variant: str = "baseline", watch: Watch = None,
) -> Trained:  # fmt: skip
    """Stages "b" (`variant="baseline"`, no semantics), "c" and D: L_ImD, and L_cap and L_tree where the arm has them.

    With more than one critic update a generator update, the extra ones see batches of their own (unless
    `loss.critic_reuse`). Semantics that start from scratch learn at the generator's rate, pretrained ones at
    `semantics_learning_rate`.
    """
    settings: Training = getattr(config, f"train_{stage}")
    arm, loss, severity = (
        variant_rules(variant, corpus.captioned),
        config.loss.effective,
        config.blur.severity,
    )
    speaks = arm.tree_loss or arm.caption_loss
    learns = (
        model.semantics is not None
        and arm.trained
        and any(True for _ in model.semantics.parameters())
    )
    engine = Engine(config.runtime)
    engine.prepare(model.train(), critic.train())
    if model.semantics is not None and not arm.trained:
        model.semantics.eval().requires_grad_(False)
    engine.compile(
        model.generator,
        critic,
        *(getattr(model.semantics, part, None) for part in ("encoder", "tree")),
    )
    own_rate = (
        settings.learning_rate if arm.start == "scratch" else settings.semantics_learning_rate
    )
    groups = [{"params": list(model.generator.parameters()), "lr": settings.learning_rate}]
    groups += [{"params": list(model.semantics.parameters()), "lr": own_rate}] if learns else []
    optimizer = torch.optim.Adam(groups, settings.learning_rate, betas=(0.5, 0.999), fused=True)
    critic_optimizer = torch.optim.Adam(
        critic.parameters(), settings.learning_rate, betas=(0.5, 0.999), fused=True
    )
    perceptual = build_perceptual(config)
    if perceptual is not None:
        engine.prepare(perceptual)
    key = (config.seed, "deblurring", name)
    feed = Feed(corpus.train, settings, severity, key, engine)
    extra_feed = Feed(corpus.train, settings, severity, (*key, "critic"), engine)
    extra = loss.critic_steps - 1 if loss.adversarial else 0
    judged = _judged(corpus.val, severity, config)

    def restore(batch: Batch) -> tuple[Tensor, Semantics | None]:
        with engine.autocast():
            restored, semantics = model(batch)
        return restored.to(batch.sharp.dtype), semantics

    def unseen(batches: Iterable[Batch]) -> Iterator[tuple[Batch, Tensor]]:
        for batch in batches:
            with torch.no_grad():
                restored, _ = restore(batch)
            yield batch, restored

    def criticise(pairs: Iterable[tuple[Batch, Tensor]], number: int = 0) -> Terms:
        def terms(batch: Batch, restored: Tensor) -> Terms:
            with engine.autocast():
                share = batch.uniform(f"penalty{number}") if loss.gan == "wgan-gp" else None
                return critic_loss(loss, critic, batch.sharp, restored, share)

        critic.requires_grad_(True)
        return engine.descend(critic_optimizer, settings, (terms(*pair) for pair in pairs))

    def generator_terms(batch: Batch, restored: Tensor, semantics: Semantics | None) -> Terms:
        with engine.autocast():
            terms = image_terms(loss, critic, perceptual, restored, batch.sharp)
            if speaks:
                terms |= distillation_terms(semantics, model.semantics, batch, config)
                wanted = {"tree": arm.tree_loss, "caption": arm.caption_loss}
                terms |= semantic_terms(semantics, model.semantics, batch, config, **wanted)
        return terms

    def step_fn(step: int) -> Terms:
        for number in range(0 if loss.critic_reuse else extra):
            criticise(unseen(extra_feed(step * extra + number)))
        if settings.accumulate == 1:  # what is restored serves critic and generator
            (batch,) = feed(step)
            restored, semantics = restore(batch)
            pairs, parts = [(batch, restored)], iter([(batch, restored, semantics)])
        else:
            pairs, parts = None, ((batch, *restore(batch)) for batch in feed(step))
        values = {}
        for number in range((extra if loss.critic_reuse else 0) + 1) if loss.adversarial else ():
            values = criticise(pairs or unseen(feed(step)), number)
        critic.requires_grad_(False)
        return (
            engine.descend(optimizer, settings, (generator_terms(*part) for part in parts)) | values
        )

    def validate() -> float:
        batches = (engine.place(corpus.val.batch(rows, severity)) for rows in judged)
        errors = [(restore(batch)[0] - batch.sharp).square().mean((1, 2, 3)) for batch in batches]
        psnr = [10 * torch.log10(4 / error.clamp_min(1e-10)) for error in errors]
        return float(sum(values.sum() for values in psnr)) / sum(map(len, judged))

    def sampler() -> dict[str, np.ndarray]:
        batch = engine.place(corpus.val.batch(corpus.val.rows(severity)[:SHOWN], severity))
        images = {"restored": restore(batch)[0], "blurred": batch.blurred, "sharp": batch.sharp}
        return {
            "ids": np.array(batch.ids),
            **{name: to_images(image) for name, image in images.items()},
        }

    modules = {"model": model, "critic": critic}
    optimizers = {"generator": optimizer, "critic": critic_optimizer}
    trainer = Trainer(
        folder, name, modules, optimizers, settings, config.runtime, (config.seed, variant), engine, validate, sampler,
        watch,
    )  # fmt: skip
    return _train(
        trainer, step_fn, parallel.job_of(corpus, config, stage=stage, variant=variant), watch
    )


def save_model(folder: Path, model: S3EDeblur, critic: nn.Module) -> None:
    """Write the final weights of a deblurring run."""
    save_weights(model.generator, folder / "generator.safetensors")
    save_weights(critic, folder / "critic.safetensors")
    if model.semantics is not None and any(True for _ in model.semantics.parameters()):
        save_weights(model.semantics, folder / "semantics.safetensors")
