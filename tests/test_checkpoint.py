"""Checkpoints that are cut, altered or foreign; losses that leave all bounds; memory, disk and doubles that run out."""

import errno
import hashlib
import io
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from s3e.config import Runtime, Training, load_config
from s3e.models.build import build_critic, build_model
from s3e.training import checkpoint
from s3e.training.loop import SETTLED, Trainer
from s3e.training.stages import train_deblurrer
from s3e.utils import ROOT, S3EError, rng
from tests.conftest import TINY


class Toy:
    """A training of one layer. `spoil(step, loss)` may change a loss, raise or do whatever it likes."""

    def __init__(self, folder, steps=8, spoil=None, width=3, sampler=None, **settings):
        torch.manual_seed(0)
        self.layer, self.before = nn.Linear(width, width), {}
        self.optimizer = torch.optim.Adam(self.layer.parameters(), 0.01)
        self.trainer = Trainer(
            folder, "toy", {"layer": self.layer}, {"adam": self.optimizer}, Training(steps=steps, **settings),
            Runtime(save_every=2, log_every=2), (0,), sampler=sampler,
            validate=lambda: -float(self.layer.weight.square().sum()),
        )  # fmt: skip
        self.spoil = spoil or (lambda step, loss: loss)

    def step(self, step):
        self.before = {name: value.clone() for name, value in self.layer.state_dict().items()}
        self.trainer.engine.ids = [f"photo{step}", "other"]
        loss = self.layer(torch.randn(4, self.layer.in_features)).square().mean()
        terms = {"pixel": self.spoil(step, loss)}
        return self.trainer.engine.descend(self.optimizer, self.trainer.settings, [terms])

    def run(self):
        self.trainer.fit(self.step)
        return self.layer.state_dict()


def same(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The newest and the previous checkpoint of a finished training, in bytes, and its weights."""
    folder = tmp_path_factory.mktemp("trained")
    weights = Toy(folder).run()
    path = folder / "toy.ckpt"
    return path.read_bytes(), checkpoint.previous(path).read_bytes(), weights


def damaged(content):
    """The content, cut at many lengths and with one bit flipped in many places: format, hash, payload, end."""
    lengths = {0, 1, len(checkpoint.FORMAT), checkpoint.HEAD, checkpoint.HEAD + 1, len(content) - 1}
    lengths |= set(rng("cut").integers(0, len(content), 40).tolist())
    places = {
        0,
        len(checkpoint.FORMAT) - 1,
        len(checkpoint.FORMAT),
        checkpoint.HEAD - 1,
        checkpoint.HEAD,
    }
    places |= {len(content) - 1, *rng("flip").integers(0, len(content), 60).tolist()}
    yield from (content[:length] for length in sorted(lengths))
    for place in sorted(places):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        yield bytes(flipped)
    yield content + b"\0"
    yield content[: checkpoint.HEAD] + content


def test_every_damage_is_seen_before_anything_is_unpickled(trained, tmp_path, monkeypatch):
    path = tmp_path / "toy.ckpt"
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a damaged file was unpickled"))
    for content in damaged(trained[0]):
        path.write_bytes(content)
        with pytest.raises(checkpoint.Damaged, match="toy.ckpt"):
            checkpoint.read(path)


def test_after_damage_training_goes_on_from_the_one_before(trained, tmp_path, capsys):
    newest, before, weights = trained
    path = tmp_path / "toy.ckpt"
    for content in (b"", newest[:100], newest[:-1], newest[:-40] + bytes(40)):
        path.write_bytes(content)
        checkpoint.previous(path).write_bytes(before)
        assert same(Toy(tmp_path).run(), weights)
        told = capsys.readouterr().out
        assert (
            f"{path} is" in told
            and "going on from the one before it" in told
            and "from update 6 of 8" in told
        )
        assert path.with_name("toy.ckpt.damaged").read_bytes() == content
        assert checkpoint.read(checkpoint.previous(path))["step"] == 6, (
            "the good one before is not pushed out"
        )


def test_a_checkpoint_that_was_lost_is_replaced_by_the_one_before(trained, tmp_path):
    checkpoint.previous(tmp_path / "toy.ckpt").write_bytes(trained[1])
    assert same(Toy(tmp_path).run(), trained[2])


def test_without_any_good_checkpoint_the_error_names_both_and_the_remedy(trained, tmp_path):
    path = tmp_path / "toy.ckpt"
    path.write_bytes(trained[0][:50])
    checkpoint.previous(path).write_bytes(b"something else")
    with pytest.raises(
        S3EError, match=r"toy.ckpt is damaged .*toy.ckpt.previous is not a checkpoint.*delete it"
    ):
        Toy(tmp_path).run()


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def hashed(payload):
    return checkpoint.FORMAT + hashlib.sha256(payload).digest() + payload


def bombs(target):
    """Files that would run code when unpickled, bare and behind the right hash."""
    buffer = io.BytesIO()
    torch.save({"key": ["0", "toy"], "modules": Bomb(target)}, buffer)
    for payload in (pickle.dumps(Bomb(target)), buffer.getvalue()):
        yield payload
        yield hashed(payload)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("number", range(4))
def test_code_in_a_checkpoint_is_never_run(number, tmp_path):
    target = tmp_path / "touched"
    (tmp_path / "toy.ckpt").write_bytes(list(bombs(target))[number])
    with pytest.raises(S3EError, match=r"toy.ckpt .*delete it"):
        Toy(tmp_path).run()
    assert not target.exists()
    pickle.loads(pickle.dumps(Bomb(target)))
    assert target.exists(), "the bomb is a real one"


@pytest.mark.parametrize("payload", [b"", b"PK", b"noise" * 50])
def test_a_right_hash_of_something_else_is_refused(payload, tmp_path):
    (tmp_path / "toy.ckpt").write_bytes(hashed(payload))
    with pytest.raises(S3EError, match="something else"):
        Toy(tmp_path).run()


def test_a_folder_in_the_place_of_a_checkpoint_is_refused(tmp_path):
    (tmp_path / "toy.ckpt").mkdir()
    with pytest.raises(S3EError, match="toy.ckpt cannot be read"):
        Toy(tmp_path).run()


def test_states_of_other_trainings_and_networks_are_refused(tmp_path):
    Toy(tmp_path).run()
    path = tmp_path / "toy.ckpt"
    state = checkpoint.read(path)
    checkpoint.save(path, {**state, "key": ["1", "toy"]})
    with pytest.raises(S3EError, match=r"another training \['1', 'toy'\].*delete it"):
        Toy(tmp_path).run()
    checkpoint.save(
        path, {"layer": state["modules"]["layer"]}
    )  # weights alone, as a launched training starts from
    toy = Toy(tmp_path)
    assert not toy.trainer.finished()
    with pytest.raises(S3EError, match="another training"):
        toy.run()
    for name in ("modules", "optimizers"):
        checkpoint.save(path, {**state, name: {}})
        with pytest.raises(S3EError, match="made by other networks"):
            Toy(tmp_path).run()
    checkpoint.save(path, state)
    with pytest.raises(S3EError, match="made by other networks"):
        Toy(tmp_path, width=4).run()
    with pytest.raises(S3EError, match="made by other networks"):  # it was not averaged
        Toy(tmp_path, ema=0.5).run()


def test_the_best_weights_are_the_best_or_none(tmp_path):
    settings = {"validate_every": 2, "patience": 2}
    weights = Toy(tmp_path, **settings).run()
    best = tmp_path / "toy.best"
    good, before = best.read_bytes(), checkpoint.previous(best).read_bytes()
    for newest, older in ((b"", before), (before, before), (None, None), (good[:-1], good[:-1])):
        for path, content in ((best, newest), (checkpoint.previous(best), older)):
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
        with pytest.raises(S3EError, match=r"toy.best.* delete"):
            Toy(tmp_path, **settings).run()
    best.write_bytes(good)
    checkpoint.previous(best).unlink()
    assert same(Toy(tmp_path, **settings).run(), weights)


def test_the_final_sample_is_made_up_for_after_a_kill(tmp_path):
    def sampler():
        return {"ids": np.array(["a"])}

    Toy(tmp_path, sampler=sampler).run()
    assert len(list((tmp_path / "progress").iterdir())) == 4
    (tmp_path / "progress" / "toy_0000008.npz").unlink()
    Toy(tmp_path, sampler=sampler).run()
    assert (tmp_path / "progress" / "toy_0000008.npz").exists()


def test_a_nan_stops_before_it_is_learned_and_leaves_the_state(tmp_path):
    toy = Toy(tmp_path, spoil=lambda step, loss: loss * float("nan") if step == 5 else loss)
    told = r"'toy' diverged at update 5: loss 'pixel' is nan \(images: photo5, other; .*toy.postmortem.*toy.ckpt"
    with pytest.raises(S3EError, match=told):
        toy.run()
    state = checkpoint.read(tmp_path / "toy.postmortem")
    assert (state["step"], state["ids"]) == (5, ["photo5", "other"]) and "nan" in state["why"]
    assert same(toy.before, toy.layer.state_dict()) and same(toy.before, state["modules"]["layer"])
    assert state["optimizers"]["adam"]["state"][0]["step"] == 5
    assert checkpoint.read(tmp_path / "toy.ckpt")["step"] == 4
    assert same(Toy(tmp_path).run(), Toy(tmp_path / "whole").run()), (
        "the last good checkpoint is good"
    )


def test_a_nan_in_one_part_of_an_update_spoils_none(tmp_path):
    toy = Toy(tmp_path, accumulate=2)
    engine, settings = toy.trainer.engine, toy.trainer.settings
    before = {name: value.clone() for name, value in toy.layer.state_dict().items()}
    good, bad = toy.layer.weight.sum(), toy.layer.weight.sum() * float("inf")
    with pytest.raises(S3EError, match="loss 'pixel' is -?inf"):
        toy.trainer.fit(
            lambda _: engine.descend(toy.optimizer, settings, [{"pixel": good}, {"pixel": bad}])
        )
    assert same(before, toy.layer.state_dict())


def test_an_exploding_loss_stops(tmp_path):
    toy = Toy(
        tmp_path, SETTLED + 9, spoil=lambda step, loss: loss * 1e7 if step == SETTLED + 3 else loss
    )
    with pytest.raises(
        S3EError, match=rf"diverged at update {SETTLED + 3}: loss 'pixel' is .* in the mean"
    ):
        toy.run()
    assert checkpoint.read(tmp_path / "toy.postmortem")["ids"] == [f"photo{SETTLED + 3}", "other"]
    assert checkpoint.read(tmp_path / "toy.ckpt")["step"] == SETTLED + 2


def test_losses_that_are_checked_late_still_name_their_update(tmp_path):
    """As on a GPU, where a check of each update would wait for the device."""
    toy = Toy(tmp_path, spoil=lambda step, loss: loss * float("nan") if step == 4 else loss)
    toy.trainer.engine.whole = False
    with pytest.raises(S3EError, match=r"diverged at update 4: .*images: photo4, other"):
        toy.run()
    assert checkpoint.read(tmp_path / "toy.ckpt")["step"] == 4
    assert [row["step"] for row in checkpoint.read(tmp_path / "toy.postmortem")["rows"]] == [2, 4]


def test_photos_of_a_divergence_are_those_of_the_update(corpus, tmp_path, monkeypatch):
    config = load_config("smoke", overrides={**TINY, "train_b.steps": 4})
    model, critic = build_model(config, corpus, "baseline"), build_critic(config)
    forward = type(model.generator).forward
    seen = []

    def broken(self, blurred, maps=None):
        seen.append(blurred)
        return forward(self, blurred, maps) * (
            float("nan") if self.training and len(seen) > 2 else 1.0
        )

    monkeypatch.setattr(type(model.generator), "forward", broken)
    with pytest.raises(S3EError, match="diverged at update") as error:
        train_deblurrer(tmp_path, "deblurrer", model, critic, corpus, config, "b")
    state = checkpoint.read(tmp_path / "deblurrer.postmortem")
    drawn = corpus.train.draw(8, "severe", state["step"], config.seed, "deblurring", "deblurrer")
    assert state["ids"] == drawn.ids and all(photo in str(error.value) for photo in drawn.ids)
    values = [*state["modules"]["model"].values(), *state["modules"]["critic"].values()]
    assert all(value.isfinite().all() for value in values)


def out_of_memory(step, loss):
    torch.empty(10**15)


def out_of_gpu_memory(step, loss):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore lines")


def out_of_numpy_memory(step, loss):
    np.empty(10**15)


@pytest.mark.parametrize("spoil", [out_of_memory, out_of_gpu_memory, out_of_numpy_memory])
def test_too_little_memory_names_what_to_lower(spoil, tmp_path):
    with pytest.raises(
        S3EError,
        match=r"'toy' does not fit into memory with 8 images at a time .*accumulate .now 2",
    ):
        Toy(tmp_path, spoil=spoil, batch=16, accumulate=2).run()


def test_other_errors_stay_what_they_are(tmp_path):
    def spoil(step, loss):
        raise RuntimeError("a mistake in the code")

    with pytest.raises(RuntimeError, match="a mistake in the code"):
        Toy(tmp_path, spoil=spoil).run()


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", [(os, "fsync"), (os, "replace"), (pd.DataFrame, "to_csv")])
def test_a_full_disk_leaves_the_last_good_checkpoint(where, tmp_path, monkeypatch):
    def spoil(step, loss):
        if step == 5:
            monkeypatch.setattr(*where, no_space)
        return loss

    path = tmp_path / "toy.ckpt"
    with pytest.raises(
        S3EError, match=r"the disk is full\): make room .*last good checkpoint.*toy.ckpt"
    ):
        Toy(tmp_path, spoil=spoil).run()
    monkeypatch.undo()
    assert checkpoint.read(path)["step"] == 4 and not list(tmp_path.glob(".*"))
    assert same(Toy(tmp_path).run(), Toy(tmp_path / "whole").run())


def test_a_full_disk_at_a_sample_is_told_too(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "savez_compressed", no_space)
    with pytest.raises(S3EError, match="toy_0000000.npz cannot be written .the disk is full"):
        Toy(tmp_path, sampler=lambda: {"ids": np.zeros(1)}).run()


LIMITED = """
import resource, signal, sys
from pathlib import Path
from s3e.utils import S3EError
from tests.test_checkpoint import Toy
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def spoil(step, loss):
    if step == 5:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    return loss
try:
    Toy(Path(sys.argv[1]), spoil=spoil, width=100).run()
except S3EError as error:
    print("told:", error)
"""


def test_a_file_that_the_system_refuses_leaves_the_last_good_checkpoint(tmp_path):
    """A real write that ends in the middle, by a limit of the operating system."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "told:" in done.stdout and "cannot be written (the disk is full)" in done.stdout, (
        done.stderr[-2000:]
    )
    assert checkpoint.read(tmp_path / "toy.ckpt")["step"] == 4 and not list(tmp_path.glob(".*"))
    assert same(Toy(tmp_path, width=100).run(), Toy(tmp_path / "whole", width=100).run())


def test_two_trainings_in_one_folder_are_refused(tmp_path):
    def spoil(step, loss):
        if step == 3:
            with pytest.raises(S3EError) as error:
                Toy(tmp_path).run()
            assert f"process {os.getpid()} on {socket.gethostname()}" in str(error.value)
            assert "wait until it ends" in str(error.value)
        return loss

    assert same(Toy(tmp_path, spoil=spoil).run(), Toy(tmp_path).run()), "and the lock is free again"


def test_a_lock_of_a_killed_process_is_free(tmp_path):
    code = "import sys; from pathlib import Path; from s3e.training.checkpoint import hold; h = hold(Path(sys.argv[1]))"
    command = [
        sys.executable,
        "-c",
        f"{code}; print('held', flush=True); input()",
        str(tmp_path / "toy.lock"),
    ]
    other = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    with pytest.raises(S3EError, match=f"process {other.pid} on "):
        Toy(tmp_path).run()
    other.kill()
    other.communicate()
    Toy(tmp_path).run()


def test_a_checkpoint_on_a_file_system_without_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: no_space())
    Toy(tmp_path).run()
    path = tmp_path / "toy.ckpt"
    assert [checkpoint.read(file)["step"] for file in (path, checkpoint.previous(path))] == [8, 6]
