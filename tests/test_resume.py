"""Killed anywhere, nothing is lost: every training, cut by SIGKILL and resumed, ends in the bits of an unbroken one."""

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from s3e.config import Config, Runtime, Training, load_config
from s3e.data.corpus import load_corpus
from s3e.data.prepare import prepare_corpus
from s3e.models.build import build_critic, build_model
from s3e.training import checkpoint
from s3e.training.loop import Trainer
from s3e.training.stages import new_source, pretrain_own, train_deblurrer, train_semantics
from s3e.utils import ROOT, rng, seed_everything
from tests.conftest import TINY

SMALL = {
    **TINY, "data.train": 12, "data.val": 5, "data.test": 3, "model.generator_width": 4, "model.blocks": 1,
    "model.critic_width": 4, "model.encoder_widths": [4, 4, 4, 4, 8], "model.node_width": 4, "model.word_width": 8,
    "model.lstm_width": 8, "model.attention_width": 8, "runtime.save_every": 2, "runtime.log_every": 2,
}  # fmt: skip
UPDATES, KILLED = 8, 5
MODERN = {
    "ema": 0.9, "accumulate": 2, "clip_norm": 0.5, "schedule": "cosine", "warmup": 3, "validate_every": 2,
    "patience": 9,
}  # fmt: skip
STEPS = {
    "schedule": "steps",
    "decay": 0.5,
    "decay_every": 3,
    "clip": 0.01,
    "validate_every": 2,
    "patience": 1,
}


@dataclass(frozen=True)
class Case:
    """One training: a phase of the semantics (of a kind) or a stage of the deblurrer (of a variant)."""

    stage: str
    kind: str = "tree"
    variant: str = "baseline"
    settings: dict[str, Any] = field(default_factory=dict)  # of the training
    others: dict[str, Any] = field(default_factory=dict)  # of the rest
    captioned: bool = True

    def config(self) -> Config:
        training = {"steps": UPDATES, "batch": 4, **self.settings}
        own = {f"train_{self.stage}.{name}": value for name, value in training.items()}
        return load_config("smoke", overrides={**SMALL, **own, **self.others})


WGAN = {"loss.gan": "wgan-gp", "loss.critic_steps": 5}
CASES = {
    "tree": Case("tree"),
    "a1": Case("a1"),
    "a1 global": Case("a1", kind="global"),
    "a1 flat modern": Case("a1", kind="flat", settings=MODERN),
    "a2": Case("a2", settings={"sharp_share": 0.5}, others={"loss.distillation": 1.0}),
    "a2 steps": Case("a2", settings={"sharp_share": 0.5, **STEPS}),
    "b": Case("b"),
    "b modern": Case("b", settings=MODERN),
    "c full": Case("c", variant="full", settings={"validate_every": 4}),
    "c full modern": Case("c", variant="full", settings=MODERN),
    "c full wgan-gp": Case("c", variant="full", others=WGAN, settings={**STEPS, "ema": 0.5}),
    "c wgan-gp modern": Case("c", variant="no_semantics_loss", others=WGAN, settings=MODERN),
    "c noise": Case("c", variant="noise_maps"),
    "d": Case("c", variant="full", captioned=False),
}
FAST = ("tree", "a2", "a2 steps", "b modern", "c full", "c full wgan-gp", "d")


def train(case: Case, folder: Path, data: Path) -> torch.nn.Module:
    """Train a case from its start or its checkpoint; what it leaves in memory."""
    config, corpus = (
        case.config(),
        load_corpus(data / "corpus", None if case.captioned else data / "lender"),
    )
    corpus.captioned = case.captioned
    if case.stage in ("tree", "a1", "a2"):
        module = new_source(config, corpus, case.kind)
        flags = {"tree": case.kind == "tree", "caption": True}
        train_semantics(folder, "own", case.stage, module, corpus, config, **flags)
        return module
    module, critic = build_model(config, corpus, case.variant), build_critic(config)
    train_deblurrer(
        folder, "cotrain", module, critic, corpus, config, case.stage, variant=case.variant
    )
    return torch.nn.ModuleList([module, critic])


def killed_at(step: int) -> None:
    """This process is killed when update number `step` is done, before anything is written."""
    update = Trainer._update

    def last(self, step_fn, number):
        update(self, step_fn, number)
        if number == step:
            os.kill(os.getpid(), signal.SIGKILL)

    Trainer._update = last


def killed_in(name: str, count: int) -> None:
    """This process is killed before its call number `count` of `os.<name>` for a checkpoint, or (minus) after it."""
    function, calls = getattr(os, name), [0]

    def last(*arguments):
        calls[0] += name == "fsync" or str(arguments[1]).endswith((".ckpt", ".ckpt.previous"))
        if calls[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        function(*arguments)
        if calls[0] == -count:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(os, name, last)


def life(kill, arguments, work, *its) -> None:
    """A process of a training that is killed."""
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(1)
    kill(*arguments)
    work(*its)


@pytest.fixture(scope="module")
def processes():
    """Processes that start from a clean one, in which everything is imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_resume", "lightning_fabric"])
    before, os.environ["PYTHONPATH"] = os.environ.get("PYTHONPATH"), str(ROOT)
    yield context
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


def dies(processes, kill, arguments, work, *its) -> None:
    process = processes.Process(target=life, args=(kill, arguments, work, *its))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A prepared corpus, and the same again that lends its vocabularies."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("corpus", "lender"):
        prepare_corpus(Case("b").config(), folder / name)
    return folder


def assert_equal(first: object, second: object, place: str = "state") -> None:
    """Equal to the bit, tensors and everything around them."""
    assert type(first) is type(second), place
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype and torch.equal(first, second), place
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), place
        for name, value in first.items():
            assert_equal(value, second[name], f"{place}/{name}")
    elif isinstance(first, list | tuple):
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
        if file.suffix == ".ckpt" or file.name.endswith(".ckpt.previous"):
            states = [checkpoint.read(folder / file) for folder in (whole, cut)]
            assert len(states[0].pop("spent")) == len(states[1].pop("spent"))
            assert_equal(*states, str(file))
        elif file.suffix != ".lock":
            assert (whole / file).read_bytes() == (cut / file).read_bytes(), file


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in CASES]
)
def test_killed_and_resumed_is_the_same_as_unbroken(name, processes, data, tmp_path):
    case, whole, cut = CASES[name], tmp_path / "whole", tmp_path / "cut"
    weights = train(case, whole, data).state_dict()
    dies(processes, killed_at, (KILLED,), train, case, cut, data)
    (state,) = [checkpoint.load(path) for path in cut.glob("*.ckpt")]
    assert state["step"] == KILLED - KILLED % 2, "it was killed between two checkpoints"
    assert_equal(weights, train(case, cut, data).state_dict())
    assert_same_files(whole, cut)


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    """A short co-training that nobody killed."""
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, train(CASES["b modern"], folder, data).state_dict()


@pytest.mark.parametrize("call", [("fsync", 1), ("fsync", 2), ("fsync", -3), ("replace", 1), ("replace", 2),
                                  ("replace", 3), ("replace", -2), ("replace", -3)])  # fmt: skip
def test_killed_while_a_checkpoint_is_written(call, processes, data, unbroken, tmp_path):
    whole, weights = unbroken
    dies(processes, killed_in, call, train, CASES["b modern"], tmp_path, data)
    assert_equal(weights, train(CASES["b modern"], tmp_path, data).state_dict())
    assert_same_files(whole, tmp_path)


@pytest.mark.slow
def test_own_pretraining_is_resumed_in_the_phase_where_it_was_killed(processes, data, tmp_path):
    dies(processes, killed_at, (3,), pretrain, tmp_path / "cut", data)
    dies(processes, killed_in, ("replace", 7), pretrain, tmp_path / "cut", data)
    assert_equal(pretrain(tmp_path / "whole", data), pretrain(tmp_path / "cut", data))
    assert_same_files(tmp_path / "whole", tmp_path / "cut")


def pretrain(folder: Path, data: Path) -> dict:
    """The three phases that an arm with semantics of its own trains first."""
    config, corpus = Case("a1").config(), load_corpus(data / "corpus")
    source = new_source(config, corpus, "vectors")
    pretrain_own(folder, source, corpus, config, tree=True, caption=True)
    return source.state_dict()


def scribble(folder: Path, steps: int, began=None) -> dict:
    """A training of one layer that writes a checkpoint after every update, and so most of its time."""
    seed_everything("layer")
    layer = torch.nn.Sequential(torch.nn.Linear(200, 200), torch.nn.Dropout(0.5))
    optimizer = torch.optim.Adam(layer.parameters(), 0.01)
    settings = Training(steps=steps, schedule="constant", ema=0.9, validate_every=5, patience=steps)
    runtime = Runtime(save_every=1, log_every=1)

    def step_fn(step):
        if began is not None:
            began.set()
        loss = layer(torch.randn(4, 200)).square().mean()
        return trainer.engine.descend(optimizer, settings, [{"loss": loss}])

    def validate():
        return -float(layer[0].weight.square().sum())

    trainer = Trainer(
        folder, "toy", {"layer": layer}, {"adam": optimizer}, settings, runtime, (0,), validate=validate
    )  # fmt: skip
    trainer.fit(step_fn)
    return layer.state_dict()


def cut_short(processes, number: int, folder: Path, work, *its) -> bool:
    """Run a life and kill it at a random moment after its first update; False if it ended before."""
    began = processes.Event()
    process = processes.Process(target=life, args=(tuple, (), work, *its, began))
    process.start()
    assert began.wait(120)
    time.sleep(rng("kill", folder.name, number).uniform(0, 0.12))
    process.kill()
    process.join(60)
    return process.exitcode == -signal.SIGKILL


def test_killed_at_twenty_random_moments(processes, tmp_path):
    steps, whole, cut = 1500, tmp_path / "whole", tmp_path / "cut"
    for number in range(
        20
    ):  # how many of them hit the writing of a checkpoint hangs on the machine
        assert cut_short(processes, number, cut, scribble, cut, steps), "killed before its end"
    reached = checkpoint.load(cut / "toy.ckpt")["step"]
    assert 0 < reached < steps
    ends = reached + 20
    assert_equal(scribble(whole, ends), scribble(cut, ends))
    assert_same_files(whole, cut)
