"""The training stages of specification 6.7.

tree, A1, A2: the semantic source alone, on sharp and then on severely blurred images. B: generator and critic alone. C:
co-training of everything. The baseline is B continued through C's schedule. D: C on data without captions, with the
tree and the encoder of a captioned study, frozen.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from s3e.config import Config
from s3e.data.corpus import Batch, Corpus, load_corpus, to_images
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
from s3e.models.tree import predicted_nodes
from s3e.training import parallel
from s3e.training.loop import Batches, Terms, Trainer
from s3e.training.losses import critic_terms, semantic_terms, total_terms
from s3e.utils import S3EError, seed_everything

PHASES = (
    "tree",
    "a1",
    "a2",
)  # notebooks 02, 03, 03: tree alone, with the decoder, on blurred images
SHOWN = 3  # validation images whose progress is kept
VALIDATED = 256  # validation images at most that a validation looks at
Output = tuple[Batch, Tensor, Semantics | None]  # I_b and the rest, I_r, what was read


class Stage(Trainer):
    """What pretraining and co-training share: a corpus, its configuration and the severity that is trained on."""

    corpus: Corpus
    config: Config
    severity: str

    def validation(self) -> Iterator[Batch]:
        """At most 256 validation images, each once; the same in every process."""
        split, size = self.corpus.val, self.config.evaluation.batch
        for rows in split.chunks(size, self.severity, VALIDATED):
            yield split.batch(rows, self.severity)

    def shown(self) -> Batch:
        """The images whose progress is kept."""
        split = self.corpus.val
        return split.batch(split.rows(self.severity)[:SHOWN], self.severity)

    def compile(self, source: nn.Module | None, *others: nn.Module) -> None:
        """Let networks run compiled, if the settings say so; their `forward` stays eager."""
        for part in (getattr(source, "encoder", None), getattr(source, "tree", None), *others):
            if self.runtime.compile and part is not None:
                part.compile()

    def job(self) -> dict[str, Any]:
        vocabulary = self.corpus.vocabulary
        return {
            "corpus": str(self.corpus.folder),
            "vocabulary": str(vocabulary) if vocabulary else None,
            "config": self.config.model_dump(mode="json"),
        }


class CoTraining(Stage):
    """Stages B ("b", with the variant "baseline"), C and D ("c").

    Semantics that start from scratch learn at the generator's rate, pretrained ones at `semantics_learning_rate`.
    """

    def __init__(
        self, folder: Path, name: str, model: S3EDeblur, critic: nn.Module, corpus: Corpus, config: Config, stage: str,
        variant: str = "baseline",
    ):  # fmt: skip
        settings = getattr(config, f"train_{stage}")
        modules = {"model": model, "critic": critic}
        super().__init__(folder, name, (config.seed, variant), settings, config.runtime, **modules)
        self.model, self.critic, self.corpus, self.config = model, critic, corpus, config
        self.stage, self.variant, self.severity = stage, variant, config.blur.severity
        self.loss, self.rules = config.loss.effective, variant_rules(variant, corpus.captioned)
        self.extra = self.loss.critic_steps - 1 if self.loss.adversarial else 0

        fast, slow = settings.learning_rate, settings.semantics_learning_rate
        groups = [{"params": list(model.generator.parameters())}]
        if model.semantics is not None and not self.rules.trained:
            model.semantics.eval().requires_grad_(False)
        elif model.semantics is not None and list(model.semantics.parameters()):
            own = fast if self.rules.start == "scratch" else slow
            groups.append({"params": list(model.semantics.parameters()), "lr": own})
        self.optimizer = torch.optim.Adam(groups, fast, betas=(0.5, 0.999), fused=True)
        self.critic_optimizer = torch.optim.Adam(
            critic.parameters(), fast, betas=(0.5, 0.999), fused=True
        )
        self.optimizers = {"generator": self.optimizer, "critic": self.critic_optimizer}

        self.perceptual = build_perceptual(config)
        if self.perceptual is not None:
            self.prepare(self.perceptual)
        key = (config.seed, "deblurring", name)
        self.batches = Batches(corpus.train, self.severity, settings, *key)
        self.critic_batches = Batches(corpus.train, self.severity, settings, *key, "critic")
        self.compile(model.semantics, model.generator, critic)

    def step(self, number: int) -> Terms:
        """One co-training step: read and restore, critic, then generator and semantics; the losses of all."""
        # Extra critic steps see images of their own, or (critic_reuse) those of this step again.
        for extra in range(0 if self.loss.critic_reuse else self.extra):
            batches = self.critic_batches(number * self.extra + extra)
            self.critic_step(self.read_and_restore(batches))

        # Read I_b, restore I_r. A batch in one part passes the model once, for the critic and the generator; one that
        # is accumulated passes twice, so that only one part is in memory.
        once = self.settings.accumulate == 1
        outputs = self.read_and_restore(self.batches(number), learn=True)
        outputs = list(outputs) if once else outputs

        # Critic: L_D on sharp and restored images.
        losses = {}
        for turn in range(1 + self.extra * self.loss.critic_reuse if self.loss.adversarial else 0):
            shown = outputs if once else self.read_and_restore(self.batches(number))
            losses = self.critic_step(shown, turn)

        # Generator and semantics: L_total = L_ImD + L_cap + L_tree.
        terms = (
            total_terms(self.loss, self.rules, self.model, self.critic, self.perceptual, *output)
            for output in outputs
        )
        return self.optimizer_step(self.optimizer, terms) | losses

    def read_and_restore(self, batches: Iterable[Batch], learn: bool = False) -> Iterator[Output]:
        """Each batch with its restored images and semantics, `learn`: to be differentiated."""
        for batch in map(self.place, batches):
            with torch.set_grad_enabled(learn), self.autocast():
                semantics = self.model.read(batch)  # B x 3 x H x W -> maps B x 7D x 16 x 16
                restored = self.model.restore(batch.blurred, semantics)  # -> B x 3 x H x W
            yield batch, restored.to(batch.sharp.dtype), semantics

    def critic_step(self, outputs: Iterable[Output], turn: int = 0) -> Terms:
        """One step of the critic; `turn` counts its steps on the same images."""
        self.critic.requires_grad_(True)
        terms = (
            critic_terms(self.loss, self.critic, batch, restored, turn)
            for batch, restored, _ in outputs
        )
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

    def sample(self) -> dict[str, np.ndarray]:
        """Ids and uint8 images restored, blurred, sharp (n x H x W x 3)."""
        ((batch, restored, _),) = self.read_and_restore([self.shown()])
        images = {"restored": restored, "blurred": batch.blurred, "sharp": batch.sharp}
        return {"ids": np.array(batch.ids)} | {n: to_images(image) for n, image in images.items()}

    def job(self) -> dict[str, Any]:
        return super().job() | {"stage": self.stage, "variant": self.variant}


class PretrainSemantics(Stage):
    """One phase of a semantic source: "tree", "a1" (sharp) or "a2" (blurred; fewer and fewer sharp images at first).

    In the phase "tree" the caption loss rests, unless it is the only one. Source: specification 6.7.
    """

    def __init__(
        self, folder: Path, name: str, phase: str, source: nn.Module, corpus: Corpus, config: Config, *, tree: bool,
        caption: bool,
    ):  # fmt: skip
        settings = getattr(config, f"train_{phase}")
        super().__init__(folder, name, (config.seed,), settings, config.runtime, source=source)
        self.source, self.corpus, self.config = source, corpus, config
        self.phase, self.tree, self.caption = phase, tree, caption
        self.severity = config.blur.severity if phase == "a2" else "sharp"
        adam = torch.optim.Adam(source.parameters(), settings.learning_rate, fused=True)
        self.optimizers = {"adam": adam}
        key = (config.seed, "semantics", phase)
        self.batches = Batches(corpus.train, self.severity, settings, *key)
        self.compile(source)

    def step(self, number: int) -> Terms:
        """One step of pretraining: read, terms, step; the losses."""
        share = self.settings.sharp_share * max(0.0, 1 - 2 * number / self.settings.steps)
        terms = (self.terms(batch, share) for batch in self.batches(number))
        return self.optimizer_step(self.optimizers["adam"], terms)

    def terms(self, batch: Batch, sharp_share: float = 0.0) -> Terms:
        """Weighted L_tree and L_cap of what is read in a batch, of which a share is shown sharp."""
        batch = self.place(batch)
        image = mixed_view(batch, sharp_share) if self.phase == "a2" else batch.sharp
        semantics = self.source(image)
        switches = {
            "tree": self.tree,
            "caption": self.caption and (self.phase != "tree" or not self.tree),
            "distillation": self.phase == "a2",
        }
        return semantic_terms(self.config.loss, self.source, semantics, batch, **switches)

    def validate(self) -> float:
        """Minus the mean loss."""
        count, loss = 0, 0.0
        for batch in self.validation():
            loss += float(sum(self.terms(batch).values())) * len(batch.ids)
            count += len(batch.ids)
        return -loss / count

    def sample(self) -> dict[str, np.ndarray]:
        """Ids and captions, and for a tree attention (n x 7 x h x w) and nodes (n x 7)."""
        batch = self.place(self.shown())
        semantics = self.source(batch.blurred)
        length = self.corpus.train.words.shape[-1]
        words = self.source.decoder.beam(semantics.context, semantics.items, length, 1)
        captions = [self.corpus.words.decode(row) for row in words.tolist()]
        found = {"ids": np.array(batch.ids), "captions": np.array(captions)}
        if semantics.tree is not None:
            found["attention"] = semantics.tree.attention.float().cpu().numpy()
            found["nodes"] = predicted_nodes(semantics.tree).cpu().numpy()
        return found

    def job(self) -> dict[str, Any]:
        own = {"phase": self.phase, "tree": self.tree, "caption": self.caption}
        return super().job() | {"kind": self.source.kind} | own


def mixed_view(batch: Batch, share: float) -> Tensor:
    """The blurred images, a random `share` of them replaced by the sharp ones: B x 3 x H x W."""
    sharp = batch.uniform("sharp") < share
    return torch.where(sharp[:, None, None, None], batch.sharp, batch.blurred)


def pretrain_own(
    folder: Path, source: nn.Module, corpus: Corpus, config: Config, *, tree: bool, caption: bool
) -> None:
    """All three phases for a variant that may not share the weights of notebooks 02 and 03."""
    for phase in PHASES:
        PretrainSemantics(
            folder, f"own_{phase}", phase, source, corpus, config, tree=tree, caption=caption
        ).fit()


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

    Every variant of one seed starts from the same B weights (`deblurrer`, notebook 04). Semantics start from notebook
    03 (`captioner`), from an own pretraining with the variant's own losses, or from scratch (specification 6.7).
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


def from_job(job: dict[str, Any]) -> Stage:
    """The training that a job file describes."""
    config = Config.model_validate(job["config"])
    corpus = load_corpus(job["corpus"], job["vocabulary"])
    folder, name = Path(job["folder"]), job["name"]
    if "phase" in job:
        source = new_source(config, corpus, job["kind"])
        losses = {"tree": job["tree"], "caption": job["caption"]}
        return PretrainSemantics(folder, name, job["phase"], source, corpus, config, **losses)
    networks = build_model(config, corpus, job["variant"]), build_critic(config)
    return CoTraining(folder, name, *networks, corpus, config, job["stage"], job["variant"])


def train(job: dict[str, Any]) -> None:
    """One process's part of a training whose first checkpoint exists."""
    trainer = from_job(job)
    if not trainer.checkpoint.exists():
        raise S3EError(
            f"{trainer.checkpoint} does not exist: start this training from its notebook."
        )
    trainer.fit()


if __name__ == "__main__":
    sys.exit(parallel.member(train, sys.argv[1]))
