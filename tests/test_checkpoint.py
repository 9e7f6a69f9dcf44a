"""Checkpoints that are cut, altered or foreign; losses out of bounds; memory, disk and locks."""

import errno
import hashlib
import io
import os
import pickle
import socket
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import nn

from s3e.config import load_config
from s3e.models.build import build_critic, build_model
from s3e.training import checkpoint
from s3e.training.loop import Trainer
from s3e.training.stages import CoTraining
from s3e.utils import S3EError, rng
from tests.conftest import TINY
from tests.fixtures_data import Bomb


class Toy(Trainer):
    """A training of one layer. `spoil(step, loss)` may change a loss, raise or do what it likes."""

    def __init__(self, folder, steps=8, spoil=lambda step, loss: loss, width=3, **settings):
        torch.manual_seed(0)
        layer = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.5))
        runtime = {"runtime.save_every": 2, "runtime.log_every": 2, "train_b.steps": steps}
        own = {f"train_b.{name}": value for name, value in settings.items()}
        corpus = SimpleNamespace(folder="", vocabulary=None)
        config = load_config("laptop", overrides={**runtime, **own})
        super().__init__(folder, "toy", "b", corpus, config, {"layer": layer}, "severe", {})
        self.optimizers = {"adam": torch.optim.Adam(layer.parameters(), 0.01)}
        self.layer, self.spoil, self.width, self.before = layer, spoil, width, {}

    def step(self, number):
        self.before = {name: value.clone() for name, value in self.layer.state_dict().items()}
        self.ids = [f"image{number}", "other"]
        loss = self.spoil(number, self.layer(torch.randn(4, self.width)).square().mean())
        return self.optimizer_step(self.optimizers["adam"], {"pixel": loss})

    def run(self):
        self.fit()
        return self.layer.state_dict()


def same(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


def at(bad, change):
    """What spoils a training at one step."""
    return lambda step, loss: change(loss) if step == bad else loss


def test_interrupted_between_gradients_and_step_then_fitted_again(tmp_path, monkeypatch):
    whole, toy = Toy(tmp_path / "whole").run(), Toy(tmp_path)

    def stop(parameters):
        if toy.number == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("s3e.training.loop.average_gradients", stop)
        toy.fit()
    assert same(toy.run(), whole)


def not_a_number(loss):
    return loss * float("nan")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The checkpoint of a finished training, in bytes."""
    folder = tmp_path_factory.mktemp("trained")
    Toy(folder).run()
    return (folder / "toy.ckpt").read_bytes()


def damaged(content):
    """The content, cut at many lengths and with one bit flipped in many places, edges included."""
    edges = {0, len(checkpoint.FORMAT), checkpoint.HEAD, len(content) - 1}
    for length in edges | set(rng("cut").integers(0, len(content), 20)):
        yield content[:length]
    for place in edges | set(rng("flip").integers(0, len(content), 40)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(place) % 8
        yield bytes(flipped)
    yield content + b"\0"


def test_every_damage_is_seen_before_anything_is_unpickled(trained, tmp_path, monkeypatch):
    path = tmp_path / "toy.ckpt"
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a damaged file was unpickled"))
    for content in damaged(trained):
        path.write_bytes(content)
        with pytest.raises(S3EError, match="toy.ckpt is .*: delete it to train from the start"):
            checkpoint.read(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [False, True])
def test_code_in_a_checkpoint_is_never_run(zipped, tmp_path):
    target, buffer = tmp_path / "touched", io.BytesIO()
    torch.save({"key": ["0", "toy"], "modules": Bomb(target)}, buffer)
    payload = buffer.getvalue() if zipped else pickle.dumps(Bomb(target))
    hashed = checkpoint.FORMAT + hashlib.sha256(payload).digest() + payload
    (tmp_path / "toy.ckpt").write_bytes(hashed)
    with pytest.raises(S3EError, match=r"toy.ckpt holds something else.*delete it"):
        Toy(tmp_path).run()
    assert not target.exists()
    pickle.loads(pickle.dumps(Bomb(target)))
    assert target.exists(), "the bomb is a real one"


def test_states_of_other_trainings_and_networks_are_refused(tmp_path):
    Toy(tmp_path).run()
    path = tmp_path / "toy.ckpt"
    state = checkpoint.read(path)
    checkpoint.save(path, {**state, "key": ["1", "toy"]})
    with pytest.raises(S3EError, match=r"another training \['1', 'toy'\].*delete it"):
        Toy(tmp_path).run()
    checkpoint.save(path, state)
    with pytest.raises(S3EError, match="made by other networks"):
        Toy(tmp_path, width=4).run()


def test_a_finished_training_is_not_repeated(tmp_path):
    weights = Toy(tmp_path).run()
    again = Toy(tmp_path, spoil=lambda *_: pytest.fail("it was trained again"))
    assert same(again.run(), weights)


def test_a_nan_stops_before_it_is_learned(tmp_path):
    toy = Toy(tmp_path, spoil=at(5, not_a_number))
    message = r"'toy' diverged at step 5: loss 'pixel' is nan .*images: image5, other.*toy.ckpt"
    with pytest.raises(S3EError, match=message):
        toy.run()
    assert same(toy.before, toy.layer.state_dict())
    whole = Toy(tmp_path / "whole").run()
    assert same(Toy(tmp_path).run(), whole), "the last good checkpoint is good"


def test_an_exploding_loss_stops(tmp_path):
    toy = Toy(tmp_path, spoil=at(5, lambda loss: loss * 1e7))
    with pytest.raises(S3EError, match=r"diverged at step 5: loss 'pixel' is .* in the mean"):
        toy.run()
    assert checkpoint.read(tmp_path / "toy.ckpt")["step"] == 4


def test_images_of_a_divergence_are_those_of_the_step(corpus, tmp_path, monkeypatch):
    config = load_config("smoke", overrides={**TINY, "train_b.steps": 1})
    model, critic = build_model(config, corpus.sizes, "baseline"), build_critic(config)
    kind, forward = type(model.generator), type(model.generator).forward
    monkeypatch.setattr(kind, "forward", lambda *inputs: not_a_number(forward(*inputs)))
    drawn = corpus.train.draw(8, "severe", 0, config.seed, "deblurring", "deblurrer")
    with pytest.raises(S3EError, match=f"diverged at step 0: .*{', '.join(drawn.ids)}"):
        CoTraining(tmp_path, "deblurrer", model, critic, corpus, config, "b").fit()


def out_of_memory(loss):
    torch.empty(10**15)


def out_of_gpu_memory(loss):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore lines")


@pytest.mark.parametrize("fails", [out_of_memory, out_of_gpu_memory])
def test_too_little_memory_names_what_to_lower(fails, tmp_path):
    message = r"'toy' does not fit into memory .*lower .*batch .now 16.*raise runtime.devices"
    with pytest.raises(S3EError, match=message):
        Toy(tmp_path, spoil=at(0, fails), batch=16).run()


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", [(os, "fsync"), (os, "replace"), (pd.DataFrame, "to_csv")])
def test_a_full_disk_leaves_the_last_good_checkpoint(where, tmp_path, monkeypatch):
    def fill(loss):
        monkeypatch.setattr(*where, no_space)
        return loss

    path = tmp_path / "toy.ckpt"
    with pytest.raises(S3EError, match=r"disk is full\): make room .*good checkpoint.*toy.ckpt"):
        Toy(tmp_path, spoil=at(5, fill)).run()
    monkeypatch.undo()
    assert checkpoint.read(path)["step"] >= 4 and not list(tmp_path.glob(".*"))
    assert same(Toy(tmp_path).run(), Toy(tmp_path / "whole").run())


def test_two_trainings_in_one_folder_are_refused(tmp_path):
    def train_again(loss):
        with pytest.raises(S3EError, match="wait until it ends") as error:
            Toy(tmp_path).run()
        assert f"process {os.getpid()} on {socket.gethostname()}" in str(error.value)
        return loss

    weights = Toy(tmp_path, spoil=at(3, train_again)).run()
    assert same(weights, Toy(tmp_path).run()), "and the lock is free again"
