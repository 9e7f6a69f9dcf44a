"""Several processes with a part of each batch train as one with the whole: layers, gradients, trainings, validation."""

import multiprocessing
import shutil
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

from s3e import models as ranks
from s3e.config import load_config
from s3e.data.prepare import prepare_corpus
from s3e.models.build import build_critic, build_model
from s3e.training import checkpoint
from s3e.training.stages import new_source, train_deblurrer, train_semantics
from s3e.utils import ROOT, S3EError
from tests.test_resume import SMALL

UPDATES = 20
SMOOTH = {
    "learning_rate": 1e-5,
    "semantics_learning_rate": 1e-5,
    "schedule": "linear",
}  # rounding grows with the rate
EXACT = {
    **SMALL, "model.dropout": 0.0, "model.caption_dropout": 0.0, "runtime.precision": "64", "data.val": 5,
    "runtime.save_every": 10, "runtime.log_every": 5,
}  # fmt: skip


def member(number, port, work, results):
    """One of two processes that compute `work()` together."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=number, world_size=2)
    try:
        results.put((number, {name: value.numpy() for name, value in work().items()}))
    finally:
        dist.destroy_process_group()


def in_two(work):
    """What `work` gives in each of two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_ranks", "tests.test_resume", "lightning_fabric"])
    results = context.Queue()
    processes = [
        context.Process(target=member, args=(number, port, work, results)) for number in range(2)
    ]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(60)
    return [
        {name: torch.from_numpy(value) for name, value in found[number].items()}
        for number in range(2)
    ]


def mine(items):
    """This process's part of a batch."""
    count = len(items) // ranks.world()
    return items[ranks.rank() * count : (ranks.rank() + 1) * count]


def layers():
    """Outputs, gradients and statistics of everything in s3e.models for a batch of 6, of which this is a part."""
    torch.manual_seed(0)
    image = torch.randn(6, 3, 4, 4, dtype=torch.float64)
    target, vector = torch.randn_like(image), torch.randn(6, 3, dtype=torch.float64)
    two, one = ranks.BatchNorm2d(3).double(), ranks.BatchNorm1d(3).double()
    torch.nn.init.normal_(two.weight)
    image, target, vector = (mine(item).clone() for item in (image, target, vector))
    image.requires_grad_(True)
    normal = two(image)
    rolled = ranks.roll(normal * image)
    loss = (rolled * target).square().mean() + (one(vector) * normal.mean((2, 3))).sin().mean()
    loss.backward()
    parameters = [*two.parameters(), *one.parameters()]
    ranks.average_gradients(
        [*parameters, torch.nn.Parameter(torch.zeros(1))]
    )  # one without gradient
    gradients = {f"gradient {place}": item.grad for place, item in enumerate(parameters)}
    with ranks.alone():
        apart = torch.tensor([ranks.world(), ranks.rank()])
    statistics = {f"two {name}": value for name, value in two.named_buffers()}
    statistics |= {f"one {name}": value for name, value in one.named_buffers()}
    return {
        "normal": normal.detach(), "rolled": rolled.detach(), "of image": image.grad / ranks.world(), **gradients,
        **statistics, "apart": apart,
    }  # fmt: skip


def test_layers_of_two_processes_are_those_of_one():
    whole, (first, second) = layers(), in_two(layers)
    assert whole["apart"].tolist() == [1, 0]
    for name in ("normal", "rolled", "of image"):
        torch.testing.assert_close(
            torch.cat([first.pop(name), second.pop(name)]), whole.pop(name), rtol=0, atol=1e-14
        )
    for name, value in whole.items():
        torch.testing.assert_close(first[name], value, rtol=0, atol=1e-13, msg=name)
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-13, msg=name)


def test_batch_normalisation_of_one_process_is_that_of_pytorch():
    torch.manual_seed(0)
    image = torch.randn(6, 3, 4, 4)
    own, plain = ranks.BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    assert torch.equal(own(image), plain(image)) and torch.equal(own.running_var, plain.running_var)
    assert torch.equal(own.eval()(image), plain.eval()(image))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    return prepare_corpus(load_config("smoke", overrides=EXACT), folder)


def settings(stage, devices=1, **others):
    training = {"steps": UPDATES, "batch": 8, "validate_every": 10, **SMOOTH}
    own = {f"train_{stage}.{name}": value for name, value in training.items()}
    return load_config("smoke", overrides={**EXACT, **own, "runtime.devices": devices, **others})


def trained(folder, corpus, config, stage, variant="baseline"):
    """Train a stage; its final weights."""
    if stage == "a2":
        module = new_source(config, corpus)
        train_semantics(folder, "own", "a2", module, corpus, config, tree=True, caption=True)
        return module.state_dict()
    model, critic = build_model(config, corpus, variant), build_critic(config)
    train_deblurrer(folder, "cotrain", model, critic, corpus, config, stage, variant=variant)
    return model.state_dict()


def numbers(state, place=""):
    """All numbers of a state by their place in it: tensors and numbers, in float64."""
    if isinstance(state, dict | list | tuple):
        for name, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from numbers(value, f"{place}/{name}")
    elif state is not None:
        yield place, torch.as_tensor(state, dtype=torch.float64)


def assert_close(first, second, what):
    """Equal to 1e-9, of the largest number of its kind where that is above 1 (moments of an order, losses, scores)."""
    first, second = dict(numbers(first)), dict(numbers(second))
    assert first.keys() == second.keys(), what
    scales = {}
    for place, value in first.items():
        kind = place.rpartition("/")[2] if what in ("optimizers", "rows", "scores") else ""
        scales[kind] = max(
            scales.get(kind, 1.0), float(value.abs().max()) if value.numel() else 0.0
        )
        first[place] = (value, kind)
    for place, (value, kind) in first.items():
        torch.testing.assert_close(
            second[place], value, rtol=0, atol=1e-9 * scales[kind], msg=f"{what}{place}"
        )


def assert_same_training(whole, parts):
    """Two folders hold the same training: weights, moments of the optimizers, log and validation."""
    (file,) = whole.glob("*.ckpt")
    states = [checkpoint.read(folder / file.name) for folder in (whole, parts)]
    for name in ("step", "modules", "optimizers", "averaged", "rows", "scores"):
        assert_close(states[0][name], states[1][name], name)
    for table in whole.glob("*.csv"):
        rows = "scores" if table.name.startswith("validation") else "rows"
        assert_close(
            *(pd.read_csv(folder / table.name).to_dict("records") for folder in (whole, parts)),
            rows,
        )


WGAN = {"loss.gan": "wgan-gp", "loss.critic_steps": 2}
CASES = {
    "c full wgan-gp": ("c", "full", {**WGAN, "train_c.ema": 0.9, "train_c.clip_norm": 1.0}),
    "a2": ("a2", "full", {"train_a2.sharp_share": 0.5, "loss.distillation": 0.5}),
    "c shuffled": ("c", "shuffled", {}),
    "c noise": ("c", "noise_maps", {}),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "c full wgan-gp")) for n in CASES]
)
def test_two_processes_with_half_the_batch_are_one_with_the_whole(name, corpus, tmp_path):
    stage, variant, others = CASES[name]
    whole = trained(tmp_path / "one", corpus, settings(stage, **others), stage, variant)
    parts = trained(tmp_path / "two", corpus, settings(stage, 2, **others), stage, variant)
    assert_close(whole, parts, "weights")
    assert_same_training(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("others", [{}, WGAN], ids=["lsgan", "wgan-gp"])
def test_accumulated_parts_are_the_whole_batch(others, corpus, tmp_path):
    whole = trained(tmp_path / "one", corpus, settings("b", **others), "b")
    parts = trained(
        tmp_path / "two", corpus, settings("b", **others, **{"train_b.accumulate": 2}), "b"
    )
    assert_close(whole, parts, "weights")
    assert_same_training(tmp_path / "one", tmp_path / "two")


def test_a_failing_process_names_the_reason(corpus, tmp_path):
    gone = replace(corpus, folder=tmp_path / "gone")
    with pytest.raises(S3EError, match=r"gone/corpus.json does not exist"):
        trained(tmp_path / "run", gone, settings("b", 2), "b")


@pytest.mark.slow
def test_a_process_that_fails_by_a_mistake_names_its_output(corpus, tmp_path):
    broken = shutil.copytree(corpus.folder, tmp_path / "broken")
    (broken / "train_sharp.npy").write_bytes(b"noise")
    with pytest.raises(
        S3EError, match=r"'cotrain' ended in one of its processes: .*cotrain.launch.log"
    ):
        trained(tmp_path / "run", replace(corpus, folder=broken), settings("b", 2), "b")


PARENT = """
import sys
from pathlib import Path
from s3e.data.corpus import load_corpus
from tests.test_ranks import settings, trained
steps = {"train_b.steps": int(sys.argv[3]), "runtime.save_every": 5}
trained(Path(sys.argv[1]), load_corpus(sys.argv[2]), settings("b", 2, **steps), "b")
"""


def orphans(folder, corpus, steps):
    """Processes of a training in two, once its first checkpoint is written and the one that asked for it was killed."""
    command = [sys.executable, "-c", PARENT, str(folder), str(corpus.folder), str(steps)]
    parent = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while not (folder / "cotrain.ckpt").exists():
        assert parent.poll() is None, "the training has started"
        time.sleep(0.05)
    family = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.wait()
    return family


def test_no_process_survives_the_one_that_asked_for_it(corpus, tmp_path):
    family = orphans(tmp_path, corpus, 100_000)
    assert len(family) >= 3, "one that launches, two that train"
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive


@pytest.mark.slow
def test_two_processes_that_were_killed_go_on_in_the_same_bits(corpus, tmp_path):
    settled = settings("b", 2, **{"train_b.steps": 60, "runtime.save_every": 5})
    psutil.wait_procs(orphans(tmp_path / "cut", corpus, 60), timeout=60)
    assert checkpoint.load(tmp_path / "cut" / "cotrain.ckpt")["step"] < 60
    weights = [trained(tmp_path / name, corpus, settled, "b") for name in ("cut", "whole")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    for name in ("log_cotrain.csv", "validation_cotrain.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
