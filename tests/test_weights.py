"""Files of weights: found, fetched, checked and never trusted; VGG19 from such a file."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from s3e.config import load_config
from s3e.models.build import build_perceptual, load_weights, locate
from s3e.models.encoders import vgg_features
from s3e.utils import S3EError, rng


def test_a_missing_file_of_vgg19_names_its_address(tmp_path):
    with pytest.raises(
        S3EError, match=r"none\.pth does not exist: fetch https.*vgg19-dcbb9e9d\.pth"
    ):
        locate(str(tmp_path / "none.pth"))


class Bomb:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(4))


def write(folder: Path, state: dict, format: str) -> Path:
    path = folder / f"a.{'safetensors' if format == 'safetensors' else 'pth'}"
    if format == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=format == "zip")
    return path


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("format", ["zip", "legacy", "safetensors"])
def test_every_format_is_read_and_damage_is_refused(tmp_path, format):
    state, module = {"a": torch.randn(3, 2), "b": torch.randn(4)}, Pair()
    path = write(tmp_path, state, format)
    load_weights(module, path)
    assert torch.equal(module.a, state["a"]) and torch.equal(module.b, state["b"])
    content, draw = path.read_bytes(), rng("weights", format)
    for cut in draw.integers(0, len(content), 15):
        path.write_bytes(content[:cut])
        with pytest.raises(S3EError, match="give another file"):
            load_weights(Pair(), path)
    for place in draw.integers(0, len(content), 40):
        path.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        try:
            load_weights(Pair(), path)
        except S3EError as error:
            assert str(error).startswith(str(path))


@pytest.mark.parametrize("format", ["zip", "legacy", "pickle"])
def test_code_in_a_file_is_not_run(tmp_path, format):
    bomb = Bomb(tmp_path / "run")
    if format == "pickle":
        (tmp_path / "a.pth").write_bytes(pickle.dumps(bomb, protocol=2))
    else:
        write(tmp_path, {"a": torch.ones(1), "b": bomb}, format)
    with pytest.raises(S3EError, match=r"a\.pth cannot be read as plain weights .*give another"):
        load_weights(Pair(), tmp_path / "a.pth")
    assert not (tmp_path / "run").exists()


A, B = torch.ones(3, 2), torch.ones(4)


@pytest.mark.parametrize(
    "content", [[A], {"a": [1.0], "b": B}, {"b": B}, {"a": A, "b": A}, {"a": A, "b": B, "z.1": B}]
)
def test_other_contents_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(S3EError, match=r"a\.pth (cannot be read|was made by another network)"):
        load_weights(Pair(), tmp_path / "a.pth")


def vgg_file(path: Path, extra: tuple[str, ...] = ()) -> Path:
    torch.manual_seed(0)
    state = {f"features.{name}": value for name, value in vgg_features().state_dict().items()}
    state = {
        name: 2 * value if value.dim() == 4 else value for name, value in state.items()
    }  # features of size 1
    torch.save({**state, **{name: torch.zeros(1) for name in extra}}, path)
    return path


def perceptual(path):
    settings = {"loss.vgg19_weights": str(path), "loss.perceptual": 1}
    return build_perceptual(load_config("smoke", overrides=settings))


def test_perceptual_loss_is_the_distance_of_normalised_features(tmp_path):
    path = vgg_file(tmp_path / "vgg.pth", extra=("features.16.weight", "classifier.0.weight"))
    sharp, restored = torch.rand(2, 1, 3, 16, 24) * 2 - 1
    public = [(0, 2), (5, 7), (10, 12, 14)]  # conv1_1 ... conv3_3 in torchvision's VGG19
    state = torch.load(path, weights_only=True)
    mean, std = (
        torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1),
        torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1),
    )

    def features(image):
        image = ((image + 1) / 2 - mean) / std
        for group in public:
            for index in group:
                layer = state[f"features.{index}.weight"], state[f"features.{index}.bias"]
                image = torch.conv2d(image.relu() if index else image, *layer, padding=1)
            image = torch.max_pool2d(image.relu(), 2) if group != public[-1] else image
        return image

    expected = (features(restored) - features(sharp)).square().mean()
    loss = perceptual(path)
    torch.testing.assert_close(loss(restored, sharp), expected, rtol=1e-4, atol=0)
    restored.requires_grad_(), sharp.requires_grad_()
    loss(restored, sharp).backward()
    assert sharp.grad is None and restored.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in loss.parameters())


def test_vgg16_and_cut_files_are_not_vgg19(tmp_path):
    with pytest.raises(S3EError, match=r"belongs to another network: give the file of VGG19"):
        perceptual(vgg_file(tmp_path / "vgg16.pth", extra=("features.17.weight",)))
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "cut.pth")
    with pytest.raises(S3EError, match=r"another network \(Missing key.*0\.bias"):
        perceptual(tmp_path / "cut.pth")
