"""Every training, cut by SIGKILL anywhere and resumed, ends in the bits of an unbroken one."""

import multiprocessing
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from s3e.config import Config, load_config
from s3e.data.corpus import load_corpus
from s3e.data.prepare import prepare_corpus
from s3e.models.build import build_critic, build_model, build_semantics
from s3e.training import checkpoint
from s3e.training.loop import Trainer
from s3e.training.stages import PHASES, CoTraining, PretrainSemantics
from s3e.utils import ROOT
from tests.conftest import TINY

SMALL = {**TINY, "data.train": 12, "data.val": 5, "data.test": 3, "model.blocks": 1}
SMALL |= dict.fromkeys(("model.generator_width", "model.critic_width", "model.node_width"), 4)
SMALL |= dict.fromkeys(("model.word_width", "model.lstm_width", "model.attention_width"), 8)
SMALL |= {"model.encoder_widths": [4, 4, 4, 4, 8], "runtime.save_every": 2, "runtime.log_every": 2}
STEPS, KILLED = 8, 5
MODERN = {"clip_norm": 0.5, "schedule": "cosine", "validate_every": 2}
FALLING = {"schedule": "half_linear", "clip": 0.01, "validate_every": 2}


@dataclass(frozen=True)
class Case:
    """A training: a phase of the semantics (of a kind) or a stage of the deblurrer (a variant)."""

    stage: str
    kind: str = "tree"
    variant: str = "baseline"
    settings: dict[str, Any] = field(default_factory=dict)  # of the training
    others: dict[str, Any] = field(default_factory=dict)  # of the rest

    def config(self) -> Config:
        training = {"steps": STEPS, "batch": 4, **self.settings}
        own = {f"train_{self.stage}.{name}": value for name, value in training.items()}
        return load_config("smoke", overrides={**SMALL, **own, **self.others})


WGAN = {"loss.gan": "wgan-gp", "loss.critic_steps": 5}
A2 = {"sharp_share": 0.5, **FALLING}
CASES = {
    "tree": Case("tree"),
    "a2": Case("a2", settings=A2),
    "b modern": Case("b", settings=MODERN),
    "c full wgan-gp": Case("c", variant="full", others=WGAN, settings=FALLING),
}
SLOW = {
    "a1 global": Case("a1", kind="global"),
    "a1 flat modern": Case("a1", kind="flat", settings=MODERN),
    "c full modern": Case("c", variant="full", settings=MODERN),
    "c wgan-gp modern": Case("c", variant="no_semantics_loss", others=WGAN, settings=MODERN),
    "c pretrained": Case("c", variant="full", others={"model.encoder": "efficientnet_lite0"}),
}


def train(case: Case, folder: Path, data: Path) -> dict:
    """Train a case from its start or its checkpoint; its weights."""
    config, corpus = case.config(), load_corpus(data)
    if case.stage in ("tree", "a1", "a2"):
        module, losses = (
            build_semantics(config, corpus.sizes, case.kind),
            {"tree": case.kind == "tree"},
        )
        args = module, corpus, config
        PretrainSemantics(folder, "own", case.stage, *args, **losses, caption=True).fit()
        return module.state_dict()
    model, critic = build_model(config, corpus.sizes, case.variant), build_critic(config)
    CoTraining(folder, "own", model, critic, corpus, config, case.stage, case.variant).fit()
    return torch.nn.ModuleList([model, critic]).state_dict()


def pretrain(folder: Path, data: Path) -> dict:
    """The three phases that a variant with semantics of its own trains first."""
    config, corpus = Case("a1").config(), load_corpus(data)
    source = build_semantics(config, corpus.sizes, "vectors")
    for phase in PHASES:
        args = source, corpus, config
        PretrainSemantics(folder, f"own_{phase}", phase, *args, tree=True, caption=True).fit()
    return source.state_dict()


def die() -> None:
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def killed_at(step: int) -> None:
    """This process is killed when step number `step` is done, before anything is written."""
    whole = Trainer._step

    def last(self, number):
        done = whole(self, number)
        return die() if number == step else done

    Trainer._step = last


def killed_in(name: str, count: int) -> None:
    """This process is killed before call `count` of `os.<name>` for a checkpoint (minus: after)."""
    function, calls = getattr(os, name), [0]

    def last(*arguments):
        calls[0] += name == "fsync" or str(arguments[1]).endswith(".ckpt")
        if calls[0] == count:
            die()
        function(*arguments)
        if calls[0] == -count:
            die()

    setattr(os, name, last)


def life(kill, arguments, work, *its) -> None:
    """A process of a training that is killed."""
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(1)
    kill(*arguments)
    work(*its)


@pytest.fixture(scope="module")
def dies():
    """Lets a process do work until it is killed; it has imported all before, where possible."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload(["tests.test_resume"])

    def run(kill, arguments, work, *its):
        process = context.Process(target=life, args=(kill, arguments, work, *its))
        process.start()
        process.join(600)
        assert process.exitcode == -getattr(signal, "SIGKILL", -signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        yield run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A prepared corpus."""
    folder = tmp_path_factory.mktemp("data")
    prepare_corpus(Case("b").config(), folder)
    return folder


def assert_equal(first: object, second: object, place: str = "state") -> None:
    """Equal to the bit, tensors and everything around them."""
    assert type(first) is type(second), place
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype and torch.equal(first, second), place
    elif isinstance(first, dict):
        assert_equal(list(first), list(second), place)
        assert_equal(list(first.values()), list(second.values()), place)
    elif isinstance(first, list):
        assert len(first) == len(second), place
        for number, values in enumerate(zip(first, second, strict=True)):
            assert_equal(*values, f"{place}/{number}")
    else:
        assert first == second, place


def assert_same_files(whole: Path, cut: Path) -> None:
    """The same files with the same bytes; of checkpoints everything but the time that was spent."""
    files = {path.relative_to(whole) for path in whole.rglob("*") if path.is_file()}
    assert files == {path.relative_to(cut) for path in cut.rglob("*") if path.is_file()}
    for file in files:
        if ".ckpt" in file.name:
            states = [checkpoint.read(folder / file) for folder in (whole, cut)]
            assert_equal(*({**state, "seconds": 0} for state in states), str(file))
        elif file.suffix != ".lock":
            assert (whole / file).read_bytes() == (cut / file).read_bytes(), file


@pytest.mark.parametrize("name", [*CASES, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_killed_and_resumed_is_the_same_as_unbroken(name, dies, data, tmp_path):
    case, whole, cut = (CASES | SLOW)[name], tmp_path / "whole", tmp_path / "cut"
    weights = train(case, whole, data)
    dies(killed_at, (KILLED,), train, case, cut, data)
    state = checkpoint.read(cut / "own.ckpt")
    assert state["step"] == KILLED - KILLED % 2, "it was killed between two checkpoints"
    assert_equal(weights, train(case, cut, data))
    assert_same_files(whole, cut)


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    """A short training that nobody killed."""
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, train(CASES["b modern"], folder, data)


@pytest.mark.parametrize(
    "call", [("fsync", 1), ("fsync", -3), *(("replace", n) for n in (1, 2, 3, -2, -3))]
)
def test_killed_while_a_checkpoint_is_written(call, dies, data, unbroken, tmp_path):
    whole, weights = unbroken
    dies(killed_in, call, train, CASES["b modern"], tmp_path, data)
    assert_equal(weights, train(CASES["b modern"], tmp_path, data))
    assert_same_files(whole, tmp_path)


@pytest.mark.slow
def test_own_pretraining_is_resumed_in_the_phase_where_it_was_killed(dies, data, tmp_path):
    dies(killed_at, (3,), pretrain, tmp_path / "cut", data)
    dies(killed_in, ("replace", 7), pretrain, tmp_path / "cut", data)
    assert_equal(pretrain(tmp_path / "whole", data), pretrain(tmp_path / "cut", data))
    assert_same_files(tmp_path / "whole", tmp_path / "cut")
