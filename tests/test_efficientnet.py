"""EfficientNet-Lite: its arithmetic, its files of weights, and its three uses."""

import shutil
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from s3e.blur import blur_batch
from s3e.config import load_config
from s3e.data.corpus import Sizes
from s3e.data.photos import photograph
from s3e.evaluation.images import recognised, score_recognised
from s3e.models import BatchNorm, build
from s3e.models.efficientnet import EfficientNet
from s3e.pipeline.runner import check_files
from s3e.training.stages import learned
from s3e.utils import S3EError

CATS, DRINKS = {281, 282, 283, 284, 285}, {504, 967, 968}  # classes of ImageNet
PRETRAINED = {"model.encoder": "efficientnet_lite0"}
KNOWN = build.PACKAGED["efficientnet_lite0"]
FOLDER = build.find_spec(KNOWN["module"]).submodule_search_locations[0]


def public_maps(image: torch.Tensor) -> list[torch.Tensor]:
    """lite0's output after each block, written out with the names of the public file."""
    halving = {1, 3, 5, 11}  # blocks
    state = torch.load(f"{FOLDER}/models/{KNOWN['file']}", weights_only=True)
    state = {name: value.double() for name, value in state.items()}

    def conv(name, image, stride=1, groups=1):
        weight = state[f"{name}.weight"]
        zeros = weight.shape[-1] - stride  # as TensorFlow pads even sides
        image = F.pad(image, (zeros // 2, zeros - zeros // 2) * 2)
        return F.conv2d(image, weight, None, stride, groups=groups)

    def norm(name, image):
        mean, var, scale, shift = (
            state[f"{name}.{part}"].view(-1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (image - mean) / (var + 1e-3).sqrt() * scale + shift

    maps, image = [], norm("_bn0", conv("_conv_stem", image.double(), 2)).clamp(0, 6)
    for block in range(16):
        place, wide = f"_blocks.{block}.", image
        if block:
            wide = norm(place + "_bn0", conv(place + "_expand_conv", wide)).clamp(0, 6)
        args = wide, 1 + (block in halving), wide.shape[1]
        wide = norm(place + "_bn1", conv(place + "_depthwise_conv", *args)).clamp(0, 6)
        narrow = norm(place + "_bn2", conv(place + "_project_conv", wide))
        image = image + narrow if image.shape == narrow.shape else narrow
        maps.append(image)
    return maps


def test_groups_of_blocks_are_the_public_arithmetic():
    image = torch.rand(2, 3, 64, 96) * 2 - 1
    network = build.pretrained(EfficientNet, "efficientnet_lite0").double().eval()
    with torch.no_grad():
        ours, public = [*network(image.double())], public_maps(image)
    for own, block in zip(ours, (0, 2, 4, 7, 10, 14, 15), strict=True):
        torch.testing.assert_close(own, public[block])
    assert all(isinstance(part, BatchNorm) for part in network.modules() if hasattr(part, "eps"))


@pytest.mark.parametrize("side", [64, 128, 256])
def test_a_cat_and_a_cup_are_recognised(side):
    images = np.stack([photograph(name, side) for name in ("chelsea", "coffee")])
    for row, classes in zip(recognised(images)[1].tolist(), (CATS, DRINKS), strict=True):
        assert row[0] in classes and len({*row} & classes) > 1


def test_recognition_falls_with_blur_and_is_whole_of_the_same():
    names = ["chelsea", "coffee", "astronaut", "rocket"]
    sharp = np.stack([photograph(name, 64) for name in names])
    seen, blurred = recognised(sharp), blur_batch(sharp, names, "severe")[0]
    same, worse = (score_recognised(recognised(images), seen) for images in (sharp, blurred))
    assert (same["recognition"] == 1).all() and np.abs(same["feature_distance"]).max() < 1e-5
    assert worse["recognition"].mean() < 0.9 and (worse["feature_distance"] > 0.05).all()


@pytest.mark.parametrize("size, sides", [(32, (32, 32)), (64, (64, 84)), (256, (256, 256))])
def test_the_pretrained_encoder_fills_the_grid(size, sides):
    config = load_config("smoke", overrides=PRETRAINED | {"data.size": size})
    encoder = build.build_semantics(config, Sizes(9, 5, 5), "flat").encoder.eval()
    with torch.no_grad():
        found = encoder(torch.zeros(2, 3, *sides))
    grid = tuple(16 * side // size for side in sides)
    assert found.shape == (2, encoder.channels, *grid) and found.min() >= 0


def test_imagenet_weights_learn_at_a_tenth_of_the_rate():
    config = load_config("smoke", overrides=PRETRAINED)
    source = build.build_semantics(config, Sizes(9, 5, 5), "tree")
    fast, slow = learned(source, 0.5)
    assert (fast["lr"], slow["lr"]) == (0.5, 0.05)
    backbone = {id(weight) for weight in source.encoder.backbone.parameters()}
    assert {id(weight) for weight in slow["params"]} == backbone
    assert len(fast["params"]) + len(slow["params"]) == len([*source.parameters()])
    assert len(learned(build.build_semantics(load_config("smoke"), Sizes(9, 5, 5), "tree"), 1)) == 1


def test_features_of_lite0_are_a_perceptual_loss():
    config = load_config("smoke", overrides={"loss.perceptual": 2.0})
    loss = build.build_perceptual(config)
    sharp, restored = torch.rand(2, 2, 3, 32, 48) * 2 - 1
    restored.requires_grad_()
    loss(restored, sharp).backward()
    assert restored.grad.abs().sum() > 0 and loss(sharp, sharp) == 0
    assert not any(weight.requires_grad for weight in loss.parameters())
    assert config.about_weights() == ["perceptual loss by features of EfficientNet-Lite0"]


def test_a_missing_or_damaged_package_is_said_before_a_study(tmp_path, monkeypatch):
    config, copy = load_config("smoke", overrides=PRETRAINED), tmp_path / KNOWN["module"]
    shutil.copytree(FOLDER, copy)
    monkeypatch.syspath_prepend(tmp_path)
    check_files(config)
    with open(copy / "models" / KNOWN["file"], "r+b") as stream:
        stream.seek(1000), stream.write(b"damage")
    for _ in range(2):
        with pytest.raises(S3EError, match=f"^{KNOWN['file']} is .*install.* {KNOWN['package']}"):
            check_files(config)
        monkeypatch.setattr(build, "find_spec", lambda name: None)  # not installed
    assert KNOWN["module"] not in sys.modules  # its code is never run
