"""What networks and trainings cost, counted on shapes alone, and `python -m s3e info`."""

import subprocess
import sys
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from s3e import __main__ as command_line
from s3e import costs, info
from s3e.config import load_config
from s3e.costs import Meter, TrainingCost, network_costs, training_cost, training_costs
from s3e.models.build import build_semantics, count_parameters
from s3e.models.encoders import vgg_features
from s3e.utils import S3EError
from tests.fixtures_data import write_coco, write_gopro

SMALL = SimpleNamespace(entities=range(25), relations=range(14))
SIZES, UNCAPTIONED = (
    info.Vocabularies(range(127), SMALL, (), told, "made up") for told in (True, False)
)

REAL_UPDATES = """
import torch
from s3e.config import load_config
from s3e.models.build import build_critic, build_generator
from s3e.training.losses import critic_loss, generator_adversarial

config = load_config("laptop")
generator, critic = build_generator(config), build_critic(config)
adams = [torch.optim.Adam(module.parameters()) for module in (generator, critic)]

def update(count):
    blurred, sharp, share = torch.rand(count, 3, 64, 64), torch.rand(count, 3, 64, 64), torch.rand(count)
    restored = generator(blurred)
    adams[1].zero_grad()
    sum(critic_loss(config.loss, critic, sharp, restored, share).values()).backward()
    adams[1].step()
    adams[0].zero_grad()
    (generator_adversarial("lsgan", critic, restored) + (restored - sharp).abs().mean()).backward()
    adams[0].step()

def peak():
    lines = open("/proc/self/status").read().splitlines()  # getrusage would count the process that started this one
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

update(2)
before = peak()
update(24)
print(peak() - before)
"""


@pytest.fixture(scope="module")
def paper():
    return load_config("paper", data=".")


@cache
def training(name, captioned=True, **overrides):
    """Cost of a training of the laptop's with short captions; `loss__pixel=0.0` sets loss.pixel."""
    settings = {
        "text.max_words": 4,
        **{key.replace("__", "."): value for key, value in overrides.items()},
    }
    return training_cost(
        name, load_config("laptop", overrides=settings), SIZES if captioned else UNCAPTIONED
    )


def networks(**overrides):
    """Costs of the same networks by name."""
    settings = {
        "text.max_words": 4,
        **{key.replace("__", "."): value for key, value in overrides.items()},
    }
    return {
        cost.name: cost for cost in network_costs(load_config("laptop", overrides=settings), SIZES)
    }


def test_multiply_adds_of_one_convolution_and_one_product():
    with Meter() as meter:
        nn.Conv2d(3, 8, 5, stride=2, padding=2)(torch.zeros(2, 3, 16, 16))
        nn.Linear(10, 7)(torch.zeros(4, 10))
    assert meter.macs == 2 * 8 * 8 * 8 * 3 * 25 + 4 * 10 * 7


def test_multiply_adds_of_a_double_backward():
    layer, inputs = nn.Linear(10, 7, bias=False), torch.ones(4, 10, requires_grad=True)
    with Meter() as meter:
        (gradient,) = torch.autograd.grad(layer(inputs).sum(), inputs, create_graph=True)
        gradient.square().sum().backward()
    assert (
        meter.macs == 3 * 4 * 10 * 7
    )  # forward, gradient of the inputs, and its gradient to the weights


def test_peak_counts_what_lives_at_once_and_shared_memory_once():
    held = torch.zeros(100)
    with Meter([held]) as meter:
        for _ in range(3):
            other = torch.zeros(1000)
            view = other.view(10, 100)
            del other, view
        assert meter.peak == 4 * (100 + 1000)
        held.add_(1)
        kept = torch.zeros(2000), torch.zeros(500).view(5, 100)
    assert meter.peak == 4 * (100 + 2000 + 500) and len(kept) == 2


def test_networks_of_the_paper_size(paper):
    sizes = info.assumed(paper)
    found = {cost.name: cost for cost in network_costs(paper, sizes)}
    assert found["generator"].parameters == 11_378_179 and found["critic"].parameters == 2_764_737
    assert found["generator"].macs / 1e9 == pytest.approx(49.6, abs=0.1)  # specification 3.1
    shapes = {name: cost.shape for name, cost in found.items()}
    assert shapes == {
        "generator": (3, 256, 256), "critic": (1, 35, 35), "encoder": (512, 16, 16), "tree": (7, 128, 16, 16),
        "decoder": (17, 9490), "embedding": (7 * 128, 16, 16),
    }  # fmt: skip
    assert found["encoder"].macs == 9 * (  # five convolutions of 3 x 3, strides 2, 2, 2, 2, 1
        128**2 * 3 * 64 + 64**2 * 64 * 128 + 32**2 * 128 * 256 + 16**2 * (256 * 512 + 512 * 512)
    )
    attention = 17 * (512 * 512 + 7 * 512 + 7 * 128) + 7 * 128 * 512
    lstm = 17 * 4 * 512 * (512 + 128 + 512)
    assert found["decoder"].macs == attention + lstm + 17 * (512 + 128) * 9490 + (128 + 512) * 1024
    with torch.device("meta"):
        source = build_semantics(paper, sizes, "tree")
    assert found["tree"].parameters == count_parameters(source.tree)
    assert found["decoder"].parameters == count_parameters(source.decoder)


def test_features_of_vgg_count_where_a_loss_uses_them():
    used = {
        "loss__perceptual": 1.0,
        "loss__vgg19_weights": "vgg19-dcbb9e9d.pth",
    }  # a file that need not be there
    vgg = networks(**used)["VGG19"]
    assert vgg.parameters == count_parameters(vgg_features()) and vgg.shape == (256, 16, 16)
    with_it, without = training("train_b", **used), training("train_b")
    assert (
        with_it.macs - without.macs == 16 * 3 * vgg.macs
    )  # of two photos, and back to one of them
    assert with_it.states - without.states == 4 * vgg.parameters
    assert "VGG19" not in networks() and training("train_b", loss__perceptual=1.0) == without


def test_weight_files_of_an_encoder_need_not_be_there():
    asked = {"model__encoder": "resnet50", "model__encoder_weights": "resnet50-11ad3fa6.pth"}
    encoder = networks(**asked)["encoder"]
    assert encoder.shape == (64, 16, 16) and encoder.parameters > 8e6


def test_no_embedding_no_row():
    embedding = networks()["embedding"]
    assert embedding.shape == (7 * 32, 16, 16) and embedding.parameters == 4 * (
        (7 * 32 + 1) * 64 + (128 + 1) * 64
    )
    config = load_config("laptop", overrides={"text.max_words": 4, "model.embed_at": []})
    assert "embedding" not in [cost.name for cost in network_costs(config, SIZES)]


def test_updates_cost_three_times_their_forward_pass():
    part = {name: cost.macs for name, cost in networks().items()}
    forward, tree = 32 * (part["encoder"] + part["tree"]), training("train_tree").macs
    assert 2.85 * forward < tree < 3 * forward  # nothing goes back to the photo
    assert training("train_a1").macs - tree == pytest.approx(3 * 32 * part["decoder"], rel=0.02)
    assert training("train_a2").macs == training("train_a1").macs


def test_every_update_of_the_critic_is_counted():
    part = {name: cost.macs for name, cost in networks().items()}
    few, many = (
        training("train_b", loss__gan="wgan-gp", loss__critic_updates=n).macs / 16 for n in (1, 3)
    )
    more = (many - few) / 2 - part["generator"]
    assert (
        11.5 * part["critic"] < more < 12.5 * part["critic"]
    )  # real and fake 3 each, the penalty 6
    reused = (
        training(
            "train_b", loss__gan="wgan-gp", loss__critic_updates=3, loss__critic_reuse=True
        ).macs
        / 16
    )
    assert many - reused == 2 * part["generator"]
    lsgan, none = (training("train_b", loss__adversarial=weight).macs / 16 for weight in (1.0, 0.0))
    assert 5.5 * part["critic"] < few - lsgan < 6.5 * part["critic"]
    assert (
        7.5 * part["critic"] < lsgan - none < 8 * part["critic"]
    )  # 6, and 2 for the generator's own term


def test_distillation_reads_the_sharp_photo_too():
    part = {name: cost.macs for name, cost in networks().items()}
    for name, photos in (("train_a1", 0), ("train_a2", 32), ("train_c", 16)):
        more = training(name, loss__distillation=1.0).macs - training(name).macs
        assert more == photos * (part["encoder"] + part["tree"])


def test_memory_grows_with_the_batch_and_shrinks_in_parts():
    small, usual = training("train_b", train_b__batch=8), training("train_b")
    assert usual.states == small.states and usual.macs == 2 * small.macs
    assert 1.9 < (usual.memory - usual.states) / (small.memory - small.states) <= 2
    assert training("train_b", runtime__devices=2) == TrainingCost(
        "train_b", usual.macs, small.states, small.memory
    )
    in_turn = training("train_b", train_b__accumulate=2)
    assert (
        in_turn.macs - usual.macs == 16 * networks()["generator"].macs
    )  # restored anew after the critic's update
    assert in_turn.memory < small.memory  # the critic's activations are gone by then


def test_states_are_weights_moments_and_averages():
    part = {name: 4 * cost.parameters for name, cost in networks().items()}
    plain, averaged = training("train_b"), training("train_b", train_b__ema=0.99)
    assert plain.states == 3 * (part["generator"] + part["critic"])
    assert (
        averaged.states - plain.states == averaged.memory - plain.memory == part["generator"]
    )  # not of the critic


def test_precision_changes_memory_but_not_multiply_adds():
    half, single, double = (
        training("train_b", runtime__precision=name) for name in ("bf16", "32", "64")
    )
    assert half.macs == single.macs == double.macs and torch.get_default_dtype() == torch.float32
    assert half.states == single.states and 0.5 < half.memory / single.memory < 0.9
    assert 1.9 < double.memory / single.memory <= 2.01


def test_without_captions_semantics_are_frozen(monkeypatch):
    monkeypatch.setattr(costs, "training_cost", lambda name, *_: name)
    deblurring = ["train_b", "train_c"]
    assert training_costs(None, SIZES) == ["train_tree", "train_a1", "train_a2", *deblurring]
    assert training_costs(None, UNCAPTIONED) == deblurring
    taught, borrowed = training("train_c"), training("train_c", captioned=False)
    part = networks()
    learned = sum(part[name].parameters for name in ("encoder", "tree", "decoder"))
    assert taught.states - borrowed.states == 2 * 4 * learned  # moments
    read = (
        part["encoder"].macs
        + part["tree"].macs
        + 3 * part["embedding"].macs
        - 4 * (7 * 32 * 64 * 16 * 16)
    )
    assert (
        borrowed.macs - training("train_b").macs == 16 * read
    )  # forward only, no decoder, nothing back to the maps
    assert borrowed.macs < taught.macs and borrowed.memory < taught.memory


@pytest.mark.skipif(
    sys.platform != "linux", reason="the peak of a process is read as Linux reports it"
)
def test_memory_is_near_what_an_update_takes():
    done = subprocess.run(
        [sys.executable, "-c", REAL_UPDATES], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    estimate = training("train_b", train_b__batch=24).memory
    assert 0.5 < int(done.stdout) / estimate < 2


def test_paper_is_printed_without_data(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    short = ["train_c.batch=16", "loss.critic_steps=1", "text.max_words=4"]
    assert command_line.main(["info", "--profile", "paper", "--set", *short]) == 0
    printed = capsys.readouterr().out
    for text in (
        "11,378,179", "2,764,737", "49.552 G", "9,490 words, 801 entities, 251 relations, assumed", "precision 32",
        "fallback    no VGG19 weights", "time: not known, for the device of this profile (cuda) is not here",
    ):  # fmt: skip
        assert text in printed
    rows = {
        line.split()[0]: line.split() for line in printed.splitlines() if line.startswith("train_")
    }
    assert list(rows) == ["train_tree", "train_a1", "train_a2", "train_b", "train_c"]
    assert rows["train_c"][1:3] == ["150,000", "16"] and rows["train_c"][-2:] == ["-", "-"]


def test_vocabularies_are_those_of_the_corpus(tiny, corpus):
    sizes = info.counted(tiny, {})
    assert (
        sizes.words.words == corpus.words.words
        and sizes.labels.to_dict() == corpus.labels.to_dict()
    )
    assert (
        sizes.captioned
        and list(sizes.categories) == corpus.categories
        and sizes.origin.endswith("of scenes")
    )


def test_photos_are_counted_and_timed(tmp_path, capsys):
    write_coco(tmp_path)
    small = ["data.size=32", "train_b.batch=4", "text.min_count=6", "text.max_words=4"]
    assert (
        command_line.main(["info", "--profile", "smoke", "--data", str(tmp_path), "--set", *small])
        == 0
    )
    printed = capsys.readouterr().out
    assert (
        f"counted in the training captions of {tmp_path}" in printed and "fallback" not in printed
    )
    assert "measured now on this machine (cpu)" in printed
    assert any(line.startswith("train_b") and line.endswith("s") for line in printed.splitlines())
    more = info.counted(load_config("smoke", str(tmp_path)), {})
    words = int(printed.split("vocabulary")[1].split()[0])
    assert 4 < words < len(more.words)  # rarer words are left out


def test_borrowed_trees_bring_the_vocabulary_of_their_data(tmp_path):
    write_gopro(
        tmp_path / "gopro",
        {"train/GOPR0001_07_00": 6, "train/GOPR0002_07_00": 6, "test/GOPR0003_07_00": 6},
    )
    few = {"data.captioned": str(write_coco(tmp_path / "coco"))}
    sizes = info.counted(load_config("smoke", str(tmp_path / "gopro"), overrides=few), few)
    assert (
        not sizes.captioned
        and sizes.origin.endswith(str(tmp_path / "coco"))
        and sizes.categories == ()
    )
    lost = {"data.captioned": str(tmp_path / "nowhere")}
    with pytest.raises(S3EError, match="data.captioned = .* is no folder"):
        info.counted(load_config("smoke", str(tmp_path / "gopro"), overrides=lost), lost)


@pytest.mark.parametrize("precision", ["32", "bf16", "64"])
def test_rate_is_measured_in_the_precision_of_the_settings(precision):
    overrides = {"data.size": 32, "train_b.batch": 2, "runtime.precision": precision}
    assert info.rate(load_config("smoke", overrides=overrides)) > 1e6


def test_wrong_requests_are_refused(tmp_path, capsys):
    assert command_line.main(["info", "--data", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert command_line.main(["info", "--set", "model.wide=3"]) == 2
    assert "unknown setting 'model.wide'" in capsys.readouterr().err
    for wrong in (["info", "--profile", "big"], ["info", "now"], ["inform"], ["weights"], []):
        with pytest.raises(SystemExit, match="2"):
            command_line.main(wrong)


def test_durations_are_readable():
    assert [info.duration(seconds) for seconds in (0.0123, 1.5, 2, 119, 5400, 7200, 4e5)] == [
        "12.3 ms", "1.5e+03 ms", "2 s", "119 s", "90 min", "2 h", "4.63 d",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "command, loaded",
    [
        (["data", "check", "FOLDER"], "s3e.data.check"),
        (["weights", "download", "vgg19-dcbb9e9d.pth"], "s3e.models.build"),
        (["info"], "s3e.info"),
        (["data"], None),
    ],
)
def test_only_the_module_of_the_command_is_imported(command, loaded, monkeypatch):
    names = []
    module = SimpleNamespace(
        configure=lambda parser: parser.add_argument("rest", nargs="*"), execute=len
    )
    monkeypatch.setattr(
        command_line.importlib, "import_module", lambda name: names.append(name) or module
    )
    parser = command_line.parser(command)
    assert names == ([loaded] if loaded else [])
    if loaded:
        assert parser.parse_args(command).execute is len


def test_checking_data_does_not_wait_for_torch():
    script = "import sys; from s3e.__main__ import parser; parser(['data', 'check']); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "False\n", done.stderr
