"""Several processes with a part of each batch train as one process with the whole batch."""

import multiprocessing
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pandas as pd
import psutil
import pytest
import torch
import torch.distributed as dist

from s3e import models
from s3e.config import load_config
from s3e.data.prepare import prepare_corpus
from s3e.models.build import build_critic, build_model, build_semantics
from s3e.training import checkpoint
from s3e.training.stages import CoTraining, PretrainSemantics
from s3e.utils import ROOT, S3EError
from tests.test_resume import SMALL

SMOOTH = {"learning_rate": 1e-5, "semantics_learning_rate": 1e-5}  # rounding grows with the rate
EXACT = {**SMALL, "model.dropout": 0.0, "model.caption_dropout": 0.0, "runtime.precision": "64"}
EXACT |= {"runtime.save_every": 10, "runtime.log_every": 5}


def member(number, port, work, results):
    """One of two processes that compute `work()` together."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=number, world_size=2)
    results.put((number, {name: value.numpy() for name, value in work().items()}))
    dist.destroy_process_group()


def in_two(work):
    """What `work` gives in each of two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=member, args=(n, port, work, results)) for n in range(2)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=600) for _ in processes)
    for process in processes:
        process.join(60)
    return [{name: torch.from_numpy(v) for name, v in found[n].items()} for n in range(2)]


def mine(items):
    """This process's part of a batch."""
    count = len(items) // models.world()
    return items[models.rank() * count : (models.rank() + 1) * count]


def layers():
    """Outputs, gradients and statistics of what processes share, for their part of 6 images."""
    torch.manual_seed(0)
    image = torch.randn(6, 3, 4, 4, dtype=torch.float64)
    target, vector = torch.randn_like(image), torch.randn(6, 3, dtype=torch.float64)
    two, one = models.BatchNorm(3).double(), models.BatchNorm(3).double()
    torch.nn.init.normal_(two.weight)
    image, target, vector = (mine(item).clone() for item in (image, target, vector))
    image.requires_grad_(True)
    normal = two(image)
    rolled = models.roll(normal * image)
    loss = (rolled * target).square().mean() + (one(vector) * normal.mean((2, 3))).sin().mean()
    loss.backward()
    parameters = [*two.parameters(), *one.parameters()]
    without = torch.nn.Parameter(torch.zeros(1))  # without a gradient
    models.average_gradients([*parameters, without])
    shared = {f"gradient {place}": item.grad for place, item in enumerate(parameters)}
    shared |= {f"two {name}": value for name, value in two.named_buffers()}
    shared |= {f"one {name}": value for name, value in one.named_buffers()}
    own = {"normal": normal.detach(), "rolled": rolled.detach()}
    return {**own, "of image": image.grad / models.world(), **shared}


def test_layers_of_two_processes_are_those_of_one():
    whole, (first, second) = layers(), in_two(layers)
    for name, value in whole.items():
        halves = [first[name], second[name]]
        parts = torch.cat(halves) if name in ("normal", "rolled", "of image") else halves[0]
        torch.testing.assert_close(parts, value, rtol=0, atol=1e-13, msg=name)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    return prepare_corpus(load_config("smoke", overrides=EXACT), folder)


def settings(stage, devices=1, **others):
    training = {"steps": 10, "batch": 8, "validate_every": 5, **SMOOTH}
    own = {f"train_{stage}.{name}": value for name, value in training.items()}
    return load_config("smoke", overrides={**EXACT, **own, "runtime.devices": devices, **others})


def trained(folder, corpus, config, stage, variant="baseline"):
    """Train a stage; its final weights."""
    if stage == "a2":
        module = build_semantics(config, corpus.sizes, "tree")
        losses = {"tree": True, "caption": True}
        PretrainSemantics(folder, "own", "a2", module, corpus, config, **losses).fit()
        return module.state_dict()
    model, critic = build_model(config, corpus.sizes, variant), build_critic(config)
    CoTraining(folder, "own", model, critic, corpus, config, stage, variant).fit()
    return model.state_dict()


def numbers(state, place=""):
    """All numbers of a state by their place in it: tensors and numbers, in float64."""
    if isinstance(state, dict | list | tuple):
        for name, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from numbers(value, f"{place}/{name}")
    elif state is not None:
        yield place, torch.as_tensor(state, dtype=torch.float64)


def assert_same_training(whole, parts):
    """Two folders hold the same training to rounding: weights, moments, log and validation."""
    states = [checkpoint.read(folder / "own.ckpt") for folder in (whole, parts)]
    for name in ("step", "modules", "optimizers", "rows", "scores"):
        first, second = (dict(numbers(state[name])) for state in states)
        assert first.keys() == second.keys()
        for place, value in first.items():
            atol = 1e-7 * max(1.0, float(value.abs().max()) if value.numel() else 0.0)
            torch.testing.assert_close(second[place], value, rtol=0, atol=atol, msg=name + place)
    for table in ("log_own.csv", "validation_own.csv"):
        pd.testing.assert_frame_equal(pd.read_csv(whole / table), pd.read_csv(parts / table))


WGAN = {"loss.gan": "wgan-gp", "loss.critic_steps": 2}
CASES = {
    "c full wgan-gp": ("c", "full", {**WGAN, "train_c.clip_norm": 1.0}),
    "a2": ("a2", "full", {"train_a2.sharp_share": 0.5}),
    "a2 pretrained": ("a2", "full", {"model.encoder": "efficientnet_lite0"}),
    "c shuffled": ("c", "shuffled", {}),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "c full wgan-gp")) for n in CASES]
)
def test_two_processes_with_half_the_batch_are_one_with_the_whole(name, corpus, tmp_path):
    stage, variant, others = CASES[name]
    trained(tmp_path / "one", corpus, settings(stage, **others), stage, variant)
    weights = trained(tmp_path / "two", corpus, settings(stage, 2, **others), stage, variant)
    assert_same_training(tmp_path / "one", tmp_path / "two")
    modules = checkpoint.read(tmp_path / "two" / "own.ckpt")["modules"]
    state = modules["source" if stage == "a2" else "model"]
    assert all(torch.equal(value, weights[key]) for key, value in state.items())


def test_a_failing_process_names_the_reason(corpus, tmp_path):
    gone = replace(corpus, folder=tmp_path / "gone")
    with pytest.raises(S3EError, match=r"corpus.json does not exist"):
        trained(tmp_path / "run", gone, settings("b", 2), "b")


PARENT = """
import sys
from pathlib import Path
from s3e.data.corpus import load_corpus
from tests.test_ranks import settings, trained
steps = {"train_b.steps": int(sys.argv[3]), "runtime.save_every": 5}
trained(Path(sys.argv[1]), load_corpus(sys.argv[2]), settings("b", 2, **steps), "b")
"""


def orphans(folder, corpus, steps):
    """Processes of a training in two that has logged steps, when who asked for it was killed."""
    command = [sys.executable, "-c", PARENT, str(folder), str(corpus.folder), str(steps)]
    parent = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while not (folder / "log_own.csv").exists():
        assert parent.poll() is None, "the training has started"
        time.sleep(0.05)
    family = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.wait()
    return family


def test_no_process_survives_the_one_that_asked_for_it(corpus, tmp_path):
    family = orphans(tmp_path, corpus, 100_000)
    assert len(family) >= 3, "one that launches, two that train"
    _, alive = psutil.wait_procs(family, timeout=300)
    assert not alive


@pytest.mark.slow
def test_two_processes_that_were_killed_resume_in_the_same_bits(corpus, tmp_path):
    steps = {"train_b.steps": 60, "runtime.save_every": 5}
    psutil.wait_procs(orphans(tmp_path / "cut", corpus, 60), timeout=300)
    settled = settings("b", 2, **steps)
    weights = [trained(tmp_path / name, corpus, settled, "b") for name in ("cut", "whole")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    for name in ("log_own.csv", "validation_own.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
