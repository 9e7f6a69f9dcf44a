"""Losses against closed forms; schedules; phases, variants, precisions; what a term reaches."""

import math
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from s3e.captions.tree import IGNORE
from s3e.config import TRUTH, VARIANTS, Training, load_config
from s3e.models.build import build_critic, build_model, build_semantics, save_weights
from s3e.models.tree import TreeOutput
from s3e.training import checkpoint
from s3e.training.loop import rate
from s3e.training.losses import caption_loss, critic_terms, gradient_penalty, image_terms, tree_loss
from s3e.training.stages import (
    PHASES,
    CoTraining,
    PretrainSemantics,
    save_model,
    start_model,
)
from tests.conftest import TINY

WGAN = {"loss.gan": "wgan-gp", "loss.critic_steps": 3}
BOTH = {"tree": True, "caption": True}


@pytest.mark.parametrize("slope", [0.0, 1.0, 3.0])
def test_gradient_penalty_of_a_linear_critic(slope):
    direction = torch.zeros(3, 4, 4)
    direction[0, 0, 0] = slope  # |grad D| = slope everywhere
    real, fake = torch.randn(2, 5, 3, 4, 4)
    penalty = gradient_penalty(lambda x: (x * direction).sum((1, 2, 3)), real, fake, torch.rand(5))
    assert float(penalty) == pytest.approx((slope - 1) ** 2, abs=1e-5)


class Mean(nn.Module):
    """A critic with |grad| = 1 / sqrt(n)."""

    def forward(self, image):
        return image.flatten(1).mean(1)


def test_wgan_critic_loss_has_the_closed_form():
    loss = load_config("smoke", overrides={"loss.gan": "wgan-gp"}).loss
    batch = SimpleNamespace(sharp=torch.ones(2, 3, 4, 4), uniform=lambda _: torch.rand(2))
    terms = critic_terms(loss, Mean(), batch, torch.zeros(2, 3, 4, 4))
    assert float(terms["critic"]) == pytest.approx(-1.0)
    assert float(terms["penalty"]) == pytest.approx(10 * (1 / math.sqrt(48) - 1) ** 2, rel=1e-5)


def test_lsgan_losses_have_the_closed_form():
    loss = load_config("smoke", overrides={"loss.gan": "lsgan", "loss.adversarial": 1.0}).loss
    zero, half = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5)
    terms = critic_terms(loss, Mean(), SimpleNamespace(sharp=half), half)
    assert float(terms["critic"]) == 0.25  # (0.5 - 1)^2 / 2 + 0.5^2 / 2
    assert float(image_terms(loss, Mean(), None, half, zero)["adversarial"]) == 0.25


def test_tree_loss_weighs_null_and_ignores_unknown():
    entity, relation = torch.zeros(1, 4, 5), torch.zeros(1, 3, 5)
    entity[0, 0, 2] = 3.0
    tree = TreeOutput(*[torch.empty(0)] * 3, entity, relation)
    target = torch.tensor([[2, 0, *[IGNORE] * 5]])
    unknown = torch.full((1, 7), IGNORE)
    named = -float(torch.log_softmax(entity[0, 0], 0)[2])
    expected = (named + 0.1 * math.log(5)) / 1.1
    assert float(tree_loss(tree, target, 0.1, target)) == pytest.approx(expected, rel=1e-5)
    assert float(tree_loss(tree, unknown, 0.1, unknown)) == 0


def test_caption_loss_is_per_word_and_skips_padding():
    words = torch.tensor([[1, 5, 2, 0, 0], [1, 5, 6, 7, 2]])
    loss = float(caption_loss(torch.zeros(2, 4, 10), words, words))
    assert loss == pytest.approx(math.log(10), rel=1e-6)


def test_schedules():
    def at(*steps, **settings):
        return [rate(Training(steps=10, **settings), step) for step in steps]

    assert at(0, 9, schedule="constant") == [1, 1]
    assert at(0, 9, schedule="linear") == pytest.approx([1, 0.1])
    assert at(5, 9, schedule="half_linear") == pytest.approx([1, 0.2])
    assert at(0, 5, schedule="cosine") == pytest.approx([1, 0.5])


def test_batches_depend_on_the_step_alone_and_cover_every_image(corpus):
    first = [corpus.train.draw(8, "severe", step, "k").ids for step in range(6)]
    assert first[4] == corpus.train.draw(8, "severe", 4, "k").ids
    assert sorted(sum(first[:3], [])) == sorted(corpus.train.ids) == sorted(sum(first[3:], []))


@pytest.mark.parametrize("phase", PHASES)
def test_semantic_phases_have_their_losses(corpus, tmp_path, phase):
    config = load_config("smoke", overrides=TINY)
    source = build_semantics(config, corpus.sizes, "tree")
    log = PretrainSemantics(tmp_path, "own", phase, source, corpus, config, **BOTH).fit()
    assert list(log)[1:] == (["tree"] if phase == "tree" else ["tree", "caption"])


@pytest.fixture(scope="module")
def pretrained(tiny, corpus, tmp_path_factory):
    """Stage B and a captioner, as notebooks 03 and 04 leave them."""
    folder = tmp_path_factory.mktemp("pretrained")
    model, critic = build_model(tiny, corpus.sizes, "baseline"), build_critic(tiny)
    CoTraining(folder, "deblurrer", model, critic, corpus, tiny, "b").fit()
    save_model(folder, model, critic)
    save_weights(build_semantics(tiny, corpus.sizes, "tree"), folder / "tree_captioner.safetensors")
    return folder


def start(variant, config, corpus, pretrained, folder):
    places = {"deblurrer": pretrained, "captioner": pretrained, "folder": folder}
    return start_model(variant, config, corpus, **places)


def co_train(variant, config, corpus, pretrained, folder):
    """Networks after stage C, the names of the weights that it changed, and of its losses."""
    networks = start(variant, config, corpus, pretrained, folder)
    before = deepcopy(networks[0].state_dict())
    log = CoTraining(folder, "cotrain", *networks, corpus, config, "c", variant).fit()
    after = networks[0].state_dict()
    moved = [name for name, value in after.items() if not torch.equal(value, before[name])]
    return networks, moved, list(log)[1:]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains_with_its_own_losses(tiny, corpus, pretrained, tmp_path, variant):
    rules = VARIANTS[variant]
    _, moved, terms = co_train(variant, tiny, corpus, pretrained, tmp_path)
    own = ["tree"] * rules.tree_loss + ["caption"] * rules.caption_loss
    assert terms == ["pixel", "adversarial", *own, "critic"]
    assert any(name.startswith("generator.trunk") for name in moved)
    learns = rules.trained and rules.kind not in (None, *TRUTH)
    assert any(name.startswith("semantics") for name in moved) is learns


@pytest.mark.parametrize("variant", ["baseline", "full", "no_semantics_loss", "shuffled"])
def test_without_captions_only_the_deblurring_loss_trains_and_pretrained_semantics_are_frozen(
    tiny, corpus, pretrained, tmp_path, variant
):
    silent = deepcopy(corpus)
    silent.captioned = False
    _, moved, terms = co_train(variant, tiny, silent, pretrained, tmp_path)
    assert terms == ["pixel", "adversarial", "critic"]
    assert any(name.startswith("generator.trunk") for name in moved)
    assert any(name.startswith("generator.embed") for name in moved) is (variant != "baseline")
    changed = any(name.startswith("semantics") for name in moved)  # buffers included
    assert changed is (variant == "no_semantics_loss")


def test_variants_of_one_seed_start_from_the_same_deblurrer(tiny, corpus, pretrained, tmp_path):
    variants = ("baseline", "full", "oracle_map")
    models = [start(variant, tiny, corpus, pretrained, tmp_path)[0] for variant in variants]
    batch = corpus.val.batch(np.arange(4), "severe")
    with torch.no_grad():
        outputs = [model.eval()(batch)[0] for model in models]
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def test_wgan_gp_with_several_critic_steps(corpus, pretrained, tmp_path):
    config = load_config("smoke", overrides={**TINY, **WGAN, "train_c.steps": 2})
    _, _, terms = co_train("full", config, corpus, pretrained, tmp_path)
    assert terms == ["pixel", "adversarial", "tree", "caption", "critic", "penalty"]
    state = checkpoint.read(tmp_path / "cotrain.ckpt")["optimizers"]
    steps = {name: int(item["state"][0]["step"]) for name, item in state.items()}
    assert steps == {"generator": 2, "critic": 6}


def test_same_seed_same_bits_other_seed_other_bits(tiny, corpus, pretrained, tmp_path):
    other = load_config("smoke", seed=1, overrides=TINY)
    states = [
        co_train("full", config, corpus, pretrained, tmp_path / str(number))[0][0].state_dict()
        for number, config in enumerate((tiny, tiny, other))
    ]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())


@pytest.mark.parametrize("precision, rtol", [("bf16", 0.05), ("64", 1e-3)])
def test_other_precisions_train_alike(corpus, tmp_path, precision, rtol):
    logs = []
    for bits in ("32", precision):
        own = {"model.dropout": 0.0, "train_c.learning_rate": 1e-5, "train_c.steps": 2}
        own["runtime.precision"] = bits
        config = load_config("smoke", overrides={**TINY, **WGAN, **own})
        networks = build_model(config, corpus.sizes, "full"), build_critic(config)
        folder = tmp_path / str(len(logs))
        logs.append(CoTraining(folder, "c", *networks, corpus, config, "c", "full").fit())
    assert not logs[0].equals(logs[1])
    for name in ("pixel", "tree", "caption", "penalty"):
        allowed = max(rtol, 0.1) if name == "penalty" else rtol  # its gradient has kinks
        np.testing.assert_allclose(logs[1][name], logs[0][name], rtol=allowed)


def training_of(corpus, folder, variant="full", **overrides):
    """A co-training whose embedding has left zero, and a batch of two images."""
    config = load_config("smoke", overrides={**TINY, **overrides})
    model = build_model(config, corpus.sizes, variant)
    for embed in model.generator.embed.values():
        nn.init.normal_(embed.mix.weight, std=0.1)
    networks = model, build_critic(config)
    training = CoTraining(folder, "c", *networks, corpus, config, "c", variant)
    return training, corpus.val.batch(np.arange(2), "severe")


def reached(terms, parts):
    """Which of the parts (networks by name) the gradient of each term reaches."""
    found = {}
    for term, value in terms.items():
        for name, part in parts.items():
            weights = [*part.parameters()]
            given = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
            if any(gradient is not None and gradient.any() for gradient in given):
                found.setdefault(term, set()).add(name)
    return found


def test_semantic_losses_reach_what_they_can(corpus, tmp_path):
    config, batch = load_config("smoke", overrides=TINY), corpus.val.batch(np.arange(2), "severe")
    source = build_semantics(config, corpus.sizes, "tree")
    training = PretrainSemantics(tmp_path, "a", "a2", source, corpus, config, **BOTH)
    parts = dict(source.named_children())
    found = reached(training.terms(batch), parts)
    assert found == {"tree": {"encoder", "tree"}, "caption": {"encoder", "tree", "decoder"}}
    training = PretrainSemantics(tmp_path, "t", "tree", source, corpus, config, **BOTH)
    assert [*training.terms(batch)] == ["tree"]


@pytest.mark.parametrize("detached", [False, True])
def test_the_deblurring_loss_reaches_tree_and_encoder_unless_detached(corpus, tmp_path, detached):
    training, batch = training_of(corpus, tmp_path, "oracle" if detached else "full")
    generator = training.model.generator
    parts = dict(training.source.named_children()) | {"generator": generator}
    found = reached(training.terms(*training.read_and_restore(batch)), parts)
    assert found["pixel"] == found["adversarial"]
    assert found["pixel"] == {"generator"} | ({"encoder", "tree"} if not detached else set())
    assert found["caption"] == {"encoder", "tree", "decoder"}


def test_gradient_norms_by_term_leave_the_training_as_it_was(corpus, tmp_path):
    training, _ = training_of(corpus, tmp_path)
    modules = nn.ModuleList([training.model, training.critic])
    state, random = deepcopy(modules.state_dict()), torch.get_rng_state()
    table = training.gradient_norms().set_index("loss")
    reaches = {"pixel": [True, True], "adversarial": [True, True]}
    reaches |= {"tree": [False, True], "caption": [False, True]}  # generator, semantics
    assert (table[["generator", "semantics"]] > 0).T.to_dict("list") == reaches
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in modules.state_dict().items())
    assert all(part.training for part in modules.modules())


def test_the_critic_has_a_rate_of_its_own_and_noise_in_training_alone(corpus, tmp_path):
    own = {"loss.critic_rate": 0.5, "loss.critic_noise": 0.1}
    training, batch = training_of(corpus, tmp_path, **own)
    rates = {name: item.param_groups[0]["lr"] for name, item in training.optimizers.items()}
    assert rates["critic"] == rates["generator"] / 2
    for trains in (True, False):
        critic = training.critic.train(trains)
        assert torch.equal(critic(batch.sharp), critic(batch.sharp)) is not trains
