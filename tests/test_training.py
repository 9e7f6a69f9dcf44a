"""Losses against closed forms; the loop: logs, resume to the bit, guards; both GAN recipes; fairness of the arms."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from s3e.captions.tree import IGNORE
from s3e.config import VARIANTS, Runtime, Training, load_config
from s3e.models.build import build_critic, build_model
from s3e.models.tree import TreeOutput
from s3e.training.loop import Trainer, rate
from s3e.training.losses import (
    caption_loss,
    critic_loss,
    gradient_penalty,
    lsgan_critic,
    lsgan_generator,
    tree_loss,
)
from s3e.training.stages import (
    PHASES,
    mixed_view,
    new_source,
    save_model,
    start_model,
    train_deblurrer,
    train_semantics,
)
from s3e.utils import S3EError
from tests.conftest import TINY


@pytest.mark.parametrize("slope", [0.0, 1.0, 3.0])
def test_gradient_penalty_of_a_linear_critic(slope):
    direction = torch.zeros(3, 4, 4)
    direction[0, 0, 0] = slope  # |grad D| = slope everywhere

    def critic(x):
        return (x * direction).flatten(1).sum(1)

    penalty = gradient_penalty(
        critic, torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4), torch.rand(5)
    )
    assert float(penalty) == pytest.approx((slope - 1) ** 2, abs=1e-5)


def test_wgan_critic_loss_has_the_closed_form(tiny):
    config = load_config("smoke", overrides={"loss.gan": "wgan-gp"})

    class Mean(nn.Module):  # |grad| = 1 / sqrt(n)
        def forward(self, x):
            return x.flatten(1).mean(1)

    sharp, fake = torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    terms = critic_loss(config.loss, Mean(), sharp, fake, torch.rand(2))
    assert float(terms["critic"]) == pytest.approx(-1.0)
    assert float(terms["penalty"]) == pytest.approx(10 * (1 / math.sqrt(48) - 1) ** 2, rel=1e-5)


def test_lsgan_losses():
    one, zero = torch.ones(4), torch.zeros(4)
    assert float(lsgan_critic(one, zero)) == 0 and float(lsgan_generator(zero)) == 1


def tree_output(entity, relation):
    return TreeOutput(torch.empty(0), torch.empty(0), torch.empty(0), entity, relation)


def test_tree_loss_weighs_null_and_ignores_unknown():
    entity, relation = torch.zeros(1, 4, 5), torch.zeros(1, 3, 5)
    entity[0, 0, 2] = 3.0
    target = torch.tensor([[2, 0, IGNORE, IGNORE, IGNORE, IGNORE, IGNORE]])
    named = -float(torch.log_softmax(entity[0, 0], 0)[2])
    expected = (named + 0.1 * math.log(5)) / 1.1
    assert float(tree_loss(tree_output(entity, relation), target, 0.1)) == pytest.approx(
        expected, rel=1e-5
    )


def test_tree_loss_of_an_unknown_tree_is_zero():
    loss = tree_loss(
        tree_output(torch.zeros(1, 4, 5), torch.zeros(1, 3, 5)), torch.full((1, 7), IGNORE), 0.1
    )
    assert float(loss) == 0


def test_caption_loss_is_per_word_and_skips_padding():
    words = torch.tensor([[1, 5, 2, 0, 0], [1, 5, 6, 7, 2]])
    assert float(caption_loss(torch.zeros(2, 4, 10), words)) == pytest.approx(
        math.log(10), rel=1e-6
    )


def test_schedules():
    def at(*steps, **settings):
        return [rate(Training(steps=10, **settings), step) for step in steps]

    assert at(0, 9, schedule="constant") == [1, 1]
    assert at(0, 9, schedule="linear") == pytest.approx([1, 0.1])
    assert at(5, 9, schedule="half_linear") == pytest.approx([1, 0.2])
    assert at(0, 5, schedule="cosine") == pytest.approx([1, 0.5])
    assert at(2, 3, 6, schedule="steps", decay=0.5, decay_every=3) == pytest.approx([1, 0.5, 0.25])
    assert at(0, 1, 4, schedule="constant", warmup=4) == pytest.approx([0.25, 0.5, 1])


class Toy:
    """A training of one small layer whose loss is random but keyed."""

    def __init__(self, folder, steps=8, stop_at=None, broken_at=None):
        torch.manual_seed(0)
        self.layer = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
        self.optimizer = torch.optim.Adam(self.layer.parameters(), 0.1)
        runtime = Runtime(save_every=2, log_every=2)
        settings = Training(steps=steps, learning_rate=0.1)
        self.trainer = Trainer(
            folder,
            "toy",
            {"layer": self.layer},
            {"adam": self.optimizer},
            settings,
            runtime,
            ("key",),
        )
        self.stop_at, self.broken_at = stop_at, broken_at

    def step(self, step):
        if step == self.stop_at:
            raise KeyboardInterrupt
        loss = self.layer(torch.randn(4, 3)).square().mean()
        self.trainer.engine.ids = ["a", "b"]
        broken = {"loss": loss * float("nan")} if step == self.broken_at else {"loss": loss}
        return self.trainer.engine.descend(self.optimizer, self.trainer.settings, [broken])

    def run(self):
        return self.trainer.fit(self.step)


@pytest.mark.parametrize("stop_at", [1, 4, 5, 7])
def test_an_interrupted_training_ends_in_the_same_bits(tmp_path, stop_at):
    whole = Toy(tmp_path / "whole")
    log = whole.run()
    with pytest.raises(KeyboardInterrupt):
        Toy(tmp_path / "cut", stop_at=stop_at).run()
    resumed = Toy(tmp_path / "cut")
    pd.testing.assert_frame_equal(resumed.run(), log)
    assert (tmp_path / "cut" / "log_toy.csv").read_bytes() == (
        tmp_path / "whole" / "log_toy.csv"
    ).read_bytes()
    for name, value in whole.layer.state_dict().items():
        assert torch.equal(value, resumed.layer.state_dict()[name])


def test_a_finished_training_is_not_repeated(tmp_path):
    log = Toy(tmp_path).run()
    again = Toy(tmp_path, stop_at=0)  # would raise at its first update
    pd.testing.assert_frame_equal(again.run(), log)


def test_divergence_is_named(tmp_path):
    with pytest.raises(S3EError, match=r"'toy' diverged at update 3: loss 'loss' is nan"):
        Toy(tmp_path, broken_at=3).run()


def test_checkpoint_of_another_training_is_refused(tmp_path):
    Toy(tmp_path).run()
    other = Toy(tmp_path)
    other.trainer.key = ("another",)
    with pytest.raises(S3EError, match="another training"):
        other.run()


def test_mixed_view_takes_the_given_share(corpus):
    batch = corpus.train.draw(16, "severe", 0, "x")
    assert torch.equal(mixed_view(batch, 0.0), batch.blurred)
    assert torch.equal(mixed_view(batch, 1.0), batch.sharp)


def test_batches_depend_on_the_step_alone_and_cover_every_photo(corpus):
    first = [corpus.train.draw(8, "severe", step, "k").ids for step in range(6)]
    assert first[4] == corpus.train.draw(8, "severe", 4, "k").ids
    assert sorted(sum(first[:3], [])) == sorted(corpus.train.ids) == sorted(sum(first[3:], []))


@pytest.mark.parametrize("phase", PHASES)
def test_semantic_phases_have_their_losses(tiny, corpus, tmp_path, phase):
    source = new_source(tiny, corpus)
    trained = train_semantics(tmp_path, "own", phase, source, corpus, tiny, tree=True, caption=True)
    expected = {"step", "tree"} if phase == "tree" else {"step", "tree", "caption"}
    assert set(trained.log.columns) == expected


def test_distillation_is_a_term_of_its_own(corpus, tmp_path):
    config = load_config("smoke", overrides={**TINY, "loss.distillation": 1.0})
    trained = train_semantics(
        tmp_path, "own", "a2", new_source(config, corpus), corpus, config, tree=True, caption=True
    )
    assert (trained.log["distillation"] > 0).all()


def test_distillation_joins_co_training(corpus, pretrained, tmp_path):
    config = load_config("smoke", overrides={**TINY, "loss.distillation": 1.0})
    assert "distillation" in terms_of("full", config, corpus, pretrained, tmp_path)[2]


@pytest.fixture(scope="module")
def pretrained(tiny, corpus, tmp_path_factory):
    """Stage B and a captioner, as notebooks 03 and 04 leave them."""
    from s3e.models.build import save_weights

    folder = tmp_path_factory.mktemp("pretrained")
    model, critic = build_model(tiny, corpus, "baseline"), build_critic(tiny)
    train_deblurrer(folder, "deblurrer", model, critic, corpus, tiny, "b")
    save_model(folder, model, critic)
    save_weights(new_source(tiny, corpus), folder / "tree_captioner.safetensors")
    return folder


def terms_of(variant, config, corpus, pretrained, folder):
    model, critic = start_model(
        variant, config, corpus, deblurrer=pretrained, captioner=pretrained, folder=folder
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    log = train_deblurrer(
        folder, "cotrain", model, critic, corpus, config, "c", variant=variant
    ).log
    return model, before, set(log.columns) - {"step"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_arm_trains_with_its_own_losses(tiny, corpus, pretrained, tmp_path, variant):
    arm = VARIANTS[variant]
    model, before, terms = terms_of(variant, tiny, corpus, pretrained, tmp_path)
    assert terms == {
        "pixel",
        "adversarial",
        "critic",
        *["tree"] * arm.tree_loss,
        *["caption"] * arm.caption_loss,
    }
    moved = [
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    ]
    assert any(name.startswith("generator.trunk") for name in moved)
    learns = arm.trained and arm.semantics not in (None, "noise", "labels", "silhouettes")
    assert any(name.startswith("semantics") for name in moved) is learns


@pytest.fixture(scope="module")
def silent(corpus):
    """The same photos without captions and label maps."""
    return replace(corpus, captioned=False, categories=[])


@pytest.mark.parametrize(
    "variant", ["baseline", "full", "no_semantics_loss", "shuffled", "oracle", "noise_maps"]
)
def test_without_captions_only_the_deblurring_loss_trains_and_borrowed_semantics_are_frozen(
    tiny, silent, pretrained, tmp_path, variant
):
    model, before, terms = terms_of(variant, tiny, silent, pretrained, tmp_path)
    assert terms == {"pixel", "adversarial", "critic"}
    moved = [
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    ]
    assert any(name.startswith("generator.trunk") for name in moved)
    assert any(name.startswith("generator.embed") for name in moved) is (variant != "baseline")
    assert any(name.startswith("semantics") for name in moved) is (
        variant == "no_semantics_loss"
    )  # buffers included


def test_arms_of_one_seed_start_from_the_same_deblurrer_and_batches(
    tiny, corpus, pretrained, tmp_path
):
    models = [
        start_model(
            variant, tiny, corpus, deblurrer=pretrained, captioner=pretrained, folder=tmp_path
        )[0]
        for variant in ("baseline", "full", "oracle_map")
    ]
    batch = corpus.val.batch(np.arange(4), "severe")
    with torch.no_grad():
        outputs = [model.eval()(batch)[0] for model in models]
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def test_wgan_gp_trains_with_five_critic_updates(corpus, pretrained, tmp_path):
    config = load_config("smoke", overrides={**TINY, "loss.gan": "wgan-gp", "loss.critic_steps": 5})
    _, _, terms = terms_of("full", config, corpus, pretrained, tmp_path)
    assert "penalty" in terms and "adversarial" in terms


def test_same_seed_same_bits_other_seed_other_bits(tiny, corpus, pretrained, tmp_path):
    first = terms_of("full", tiny, corpus, pretrained, tmp_path / "a")[0].state_dict()
    again = terms_of("full", tiny, corpus, pretrained, tmp_path / "b")[0].state_dict()
    reseeded = load_config("smoke", seed=1, overrides=TINY)
    other = terms_of("full", reseeded, corpus, pretrained, tmp_path / "c")[0].state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


@pytest.mark.parametrize("detached", [False, True])
def test_the_deblurring_loss_reaches_tree_and_encoder_after_the_first_update(
    corpus, pretrained, tmp_path, detached
):
    from s3e.training import effects

    overrides = {**TINY, "train_c.steps": 1, "loss.detach_semantics": detached}
    config = load_config("smoke", overrides=overrides)
    model, critic = start_model(
        "full", config, corpus, deblurrer=pretrained, captioner=pretrained, folder=tmp_path
    )
    batch = corpus.val.batch(np.arange(4), "severe")
    before = effects.of_deblurring(model, critic, batch, config, VARIANTS["full"])
    train_deblurrer(tmp_path, "cotrain", model, critic, corpus, config, "c", "full")
    after = effects.of_deblurring(model, critic, batch, config, VARIANTS["full"])
    assert (before.loc["pixel", ["encoder", "tree"]] == 0).all() and before.loc[
        "pixel", "embedding"
    ] > 0
    assert ((after.loc["pixel", ["encoder", "tree"]] > 0) != detached).all()


@pytest.mark.parametrize(
    "changes", [{"precision": "bf16"}, {"precision": "64"}, {"channels_last": True}]
)
def test_other_precisions_and_layouts_train_alike(corpus, tmp_path, changes):
    logs = []
    for number, settings in enumerate(({}, changes)):
        runtime = {f"runtime.{name}": value for name, value in settings.items()}
        config = load_config(
            "smoke",
            overrides={**TINY, "loss.gan": "wgan-gp", "train_c.learning_rate": 1e-5, **runtime},
        )
        model, critic = build_model(config, corpus, "full"), build_critic(config)
        logs.append(
            train_deblurrer(
                tmp_path / str(number), "c", model, critic, corpus, config, "c", "full"
            ).log
        )
    assert len(logs[0]) == len(logs[1]) and not logs[0].equals(logs[1])
    rough = 0.05 if "bf16" in changes.values() else 1e-3
    for name in (
        "pixel",
        "tree",
        "caption",
    ):  # dropout draws are the same in 32 bits; in the critic's sums they differ
        np.testing.assert_allclose(logs[1][name], logs[0][name], rtol=rough)


@pytest.mark.slow
def test_compiled_networks_train_alike(corpus, tmp_path):
    logs = []
    for compiled in (False, True):
        overrides = {**TINY, "loss.gan": "wgan-gp", "model.dropout": 0.0, "train_c.steps": 2}
        config = load_config(
            "smoke",
            overrides={**overrides, "runtime.compile": compiled, "train_c.learning_rate": 1e-5},
        )
        model, critic = build_model(config, corpus, "full"), build_critic(config)
        logs.append(
            train_deblurrer(
                tmp_path / str(compiled), "c", model, critic, corpus, config, "c", "full"
            ).log
        )
    np.testing.assert_allclose(logs[1]["pixel"], logs[0]["pixel"], rtol=1e-3)
    np.testing.assert_allclose(logs[1]["penalty"], logs[0]["penalty"], rtol=1e-2)
