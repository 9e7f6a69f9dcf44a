"""The training stages of specification 6.7.

tree, A1, A2: the semantic source alone, on sharp and then on severely blurred images. B: generator
and critic alone. C: co-training of everything. The baseline is B continued through C's schedule. D:
C on data without captions, with the tree and the encoder of a captioned study, frozen.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
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
from s3e.models.semantics import S3EDeblur, Semantics
from s3e.training import parallel
from s3e.training.loop import Batches, Terms, Trainer
from s3e.training.losses import critic_terms, semantic_terms, total_terms
from s3e.utils import S3EError, seed_everything

PHASES = ("tree", "a1", "a2")  # tree alone (02), with the decoder, on blurred images (03)
VALIDATED = 256  # validation images at most that a validation looks at
Output = tuple[Batch, Tensor, Semantics | None]  # I_b and the rest, I_r, what was read


class Stage(Trainer):
    """What pretraining and co-training share: the data, and how they are described to processes of
    their own.
    """

    def __init__(
        self, folder: Path, name: str, corpus: Corpus, config: Config, stage: str, severity: str,
        key: tuple[object, ...], modules: dict[str, nn.Module], **job: object,
    ):  # fmt: skip
        settings = getattr(config, f"train_{stage}")
        super().__init__(folder, name, key, settings, config.runtime, **modules)
        self.corpus, self.config, self.stage, self.severity = corpus, config, stage, severity
        vocabulary = str(corpus.vocabulary) if corpus.vocabulary else None
        self.job = {"corpus": str(corpus.folder), "vocabulary": vocabulary, "stage": stage, **job}
        self.job["config"] = config.model_dump(mode="json")

    def drawn(self, *key: object) -> Batches:
        """The training batches of a key."""
        key = (self.config.seed, *key)
        return Batches(self.corpus.train, self.severity, self.settings, *key)

    def validation(self, most: int = VALIDATED) -> Iterator[Batch]:
        """The first validation images, each once; the same in every process."""
        split, size = self.corpus.val, self.config.evaluation.batch
        for rows in split.chunks(size, self.severity, most):
            yield split.batch(rows, self.severity)


class CoTraining(Stage):
    """Stages B ("b", with the variant "baseline"), C and D ("c").

    Semantics that start from scratch learn at the generator's rate, pretrained ones at
    `semantics_learning_rate`.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        model: S3EDeblur,
        critic: nn.Module,
        corpus: Corpus,
        config: Config,
        stage: str,
        variant: str = "baseline",
    ):
        severity, key = config.blur.severity, (config.seed, variant)
        modules = {"model": model, "critic": critic}
        super().__init__(
            folder, name, corpus, config, stage, severity, key, modules, variant=variant
        )
        self.model, self.critic, self.perceptual = model, critic, build_perceptual(config)
        self.loss, self.rules = config.loss.effective, variant_rules(variant, corpus.captioned)
        self.extra = self.loss.critic_steps - 1 if self.loss.adversarial else 0
        self.batches = self.drawn("deblurring", name)
        self.critic_batches = self.drawn("deblurring", name, "critic")
        if self.perceptual is not None:
            self.prepare(self.perceptual)

        fast, source = self.settings.learning_rate, model.semantics
        groups = [{"params": list(model.generator.parameters())}]
        if source is not None and not self.rules.trained:
            source.eval().requires_grad_(False)
        elif source is not None and list(source.parameters()):
            slow = self.settings.semantics_learning_rate
            own = fast if self.rules.start == "scratch" else slow
            groups.append({"params": list(source.parameters()), "lr": own})
        adam = {"lr": fast, "betas": (0.5, 0.999), "fused": True}
        self.optimizer = torch.optim.Adam(groups, **adam)
        self.critic_optimizer = torch.optim.Adam(critic.parameters(), **adam)
        self.optimizers = {"generator": self.optimizer, "critic": self.critic_optimizer}

    def step(self, number: int) -> Terms:
        """One co-training step: read and restore, critic, then generator and semantics; the losses
        of all.
        """
        # Extra critic steps see images of their own.
        for extra in range(self.extra):
            batches = self.critic_batches(number * self.extra + extra)
            self.critic_step(self.read_and_restore(batches))

        # Read I_b, restore I_r. A batch in one part passes the model once, for the critic and the
        # generator; one that
        # is accumulated passes twice, so that only one part is in memory.
        once = self.settings.accumulate == 1
        outputs = self.read_and_restore(self.batches(number), learn=True)
        outputs = list(outputs) if once else outputs

        # Critic: L_D on sharp and restored images.
        losses = {}
        if self.loss.adversarial:
            again = outputs if once else self.read_and_restore(self.batches(number))
            losses = self.critic_step(again)

        # Generator and semantics: L_total = L_ImD + L_cap + L_tree.
        networks = (self.model, self.critic, self.perceptual)
        terms = (total_terms(self.loss, self.rules, *networks, *output) for output in outputs)
        return self.optimizer_step(self.optimizer, terms) | losses

    def read_and_restore(self, batches: Iterable[Batch], learn: bool = False) -> Iterator[Output]:
        """Each batch with its restored images and its semantics; with `learn`, to be
        differentiated.
        """
        for batch in map(self.place, batches):
            with torch.set_grad_enabled(learn), self.autocast():
                semantics = self.model.read(batch)  # B x 3 x H x W -> maps B x 7D x 16 x 16
                restored = self.model.restore(batch.blurred, semantics)  # -> B x 3 x H x W
            yield batch, restored.to(batch.sharp.dtype), semantics

    def critic_step(self, outputs: Iterable[Output]) -> Terms:
        """One step of the critic."""
        self.critic.requires_grad_(True)
        terms = (critic_terms(self.loss, self.critic, *output[:2]) for output in outputs)
        losses = self.optimizer_step(self.critic_optimizer, terms)
        self.critic.requires_grad_(False)
        return losses

    def validate(self) -> float:
        """Mean PSNR in dB."""
        count, psnr = 0, 0.0
        for batch, restored, _ in self.read_and_restore(self.validation()):
            error = (restored - batch.sharp).square().mean((1, 2, 3)).clamp_min(1e-10)
            psnr += (10 * torch.log10(4 / error)).sum()  # images in [-1, 1]
            count += len(error)
        return float(psnr) / count


class PretrainSemantics(Stage):
    """One phase of a semantic source: "tree", "a1" (sharp) or "a2" (blurred; fewer and fewer sharp
    images at first).

    In the phase "tree" the caption loss rests, unless it is the only one.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        phase: str,
        source: nn.Module,
        corpus: Corpus,
        config: Config,
        *,
        tree: bool,
        caption: bool,
    ):
        severity, key = config.blur.severity if phase == "a2" else "sharp", (config.seed,)
        job = {"kind": source.kind, "tree": tree, "caption": caption}
        super().__init__(
            folder, name, corpus, config, phase, severity, key, {"source": source}, **job
        )
        caption = caption and (phase != "tree" or not tree)
        self.switches = {"tree": tree, "caption": caption}
        self.source, self.batches = source, self.drawn("semantics", phase)
        rate = self.settings.learning_rate
        self.optimizers = {"adam": torch.optim.Adam(source.parameters(), rate, fused=True)}

    def step(self, number: int) -> Terms:
        """One step of pretraining: read, terms, step; the losses."""
        share = self.settings.sharp_share * max(0.0, 1 - 2 * number / self.settings.steps)
        terms = (self.terms(batch, share) for batch in self.batches(number))
        return self.optimizer_step(self.optimizers["adam"], terms)

    def terms(self, batch: Batch, sharp_share: float = 0.0) -> Terms:
        """Weighted terms of what is read in a batch, of which a random share is shown sharp."""
        batch = self.place(batch)
        image = batch.blurred  # B x 3 x H x W; that of the severity "sharp" is sharp
        if sharp_share:
            sharp = batch.uniform("sharp") < sharp_share
            image = torch.where(sharp[:, None, None, None], batch.sharp, image)
        semantics = self.source(image)
        return semantic_terms(self.config.loss, self.source, semantics, batch, **self.switches)

    def validate(self) -> float:
        """Minus the mean loss."""
        count, loss = 0, 0.0
        for batch in self.validation():
            loss += float(sum(self.terms(batch).values())) * len(batch.ids)
            count += len(batch.ids)
        return -loss / count


def pretrain_own(
    folder: Path, source: nn.Module, corpus: Corpus, config: Config, **losses: bool
) -> None:
    """All three phases for a variant that may not share the weights of notebooks 02 and 03."""
    for phase in PHASES:
        name = f"own_{phase}"
        PretrainSemantics(folder, name, phase, source, corpus, config, **losses).fit()


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
    """Model and critic of a variant at the start of stage C.

    Every variant of one seed starts from the same B weights (`deblurrer`, notebook 04). Semantics
    start from notebook 03 (`captioner`), from an own pretraining with the variant's own losses, or
    from scratch (specification 6.7).
    """
    rules = variant_rules(variant, corpus.captioned)
    model, critic = build_model(config, corpus, variant), build_critic(config)
    load_weights(model.generator, deblurrer / "generator.safetensors", ignore=("embed.",))
    load_weights(critic, deblurrer / "critic.safetensors")
    if rules.start == "shared":
        load_weights(model.semantics, captioner / "tree_captioner.safetensors")
    elif rules.start == "own":
        losses = {"tree": rules.tree_loss, "caption": rules.caption_loss}
        pretrain_own(folder, model.semantics, corpus, config, **losses)
    return model.to(config.runtime.device), critic.to(config.runtime.device)


def save_model(folder: Path, model: S3EDeblur, critic: nn.Module) -> None:
    """Write the final weights of a deblurring run."""
    save_weights(model.generator, folder / "generator.safetensors")
    save_weights(critic, folder / "critic.safetensors")
    if model.semantics is not None and list(model.semantics.parameters()):
        save_weights(model.semantics, folder / "semantics.safetensors")


def train(job: dict[str, Any]) -> None:
    """One process's part of a training whose first checkpoint exists; `job`: that of its `Stage`,
    folder and name.
    """
    config = Config.model_validate(job["config"])
    corpus = load_corpus(job["corpus"], job["vocabulary"])
    folder, name, stage = Path(job["folder"]), job["name"], job["stage"]
    if stage in PHASES:
        source = new_source(config, corpus, job["kind"])
        losses = {"tree": job["tree"], "caption": job["caption"]}
        trainer = PretrainSemantics(folder, name, stage, source, corpus, config, **losses)
    else:
        networks = build_model(config, corpus, job["variant"]), build_critic(config)
        trainer = CoTraining(folder, name, *networks, corpus, config, stage, job["variant"])
    if not trainer.checkpoint.exists():
        raise S3EError(
            f"{trainer.checkpoint} does not exist: start this training from its notebook."
        )
    trainer.fit()


if __name__ == "__main__":
    sys.exit(parallel.member(train, sys.argv[1]))
