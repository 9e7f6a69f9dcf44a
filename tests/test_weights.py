"""Files of weights: found, checked and never trusted; VGG19 and public deblurrers from such."""

import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from s3e.config import load_config
from s3e.data.corpus import to_images
from s3e.evaluation import gains
from s3e.evaluation.images import score_batch
from s3e.evaluation.score import score_deblurrer
from s3e.models.build import build_deblurrer, build_model, build_perceptual, load_weights
from s3e.models.encoders import vgg_features
from s3e.report.manifest import context
from s3e.report.tables import study_table
from s3e.utils import NOTEBOOKS, S3EError, rng
from tests.conftest import TINY
from tests.fixtures_data import Bomb


@pytest.mark.parametrize("place", ["none.pth", ""])
def test_a_missing_file_of_vgg19_names_its_address(tmp_path, place):
    with pytest.raises(S3EError, match=r" is no file: fetch https.*vgg19-dcbb9e9d\.pth"):
        perceptual(tmp_path / place)


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


# ------------------------------------------------------------------ public deblurrers, as published


class Published(dict):
    """The arithmetic of the public codes in float64, and the weights that it uses by their public
    names, drawn when they are first used.
    """

    def drawn(self, name, *shape):
        size = max(1, torch.Size(shape[1:]).numel()) ** 0.5
        return self.setdefault(name, 0.3 * torch.randn(shape) / size).double()

    def conv(self, name, x, width, side, groups=1, bias=True, **how):
        weight = self.drawn(f"{name}.weight", width, x.shape[1] // groups, side, side)
        bias = self.drawn(f"{name}.bias", width) if bias else None
        return torch.conv2d(x, weight, bias, groups=groups, **how)

    def naf_block(self, name, x):
        def norm(number, x):
            parts = [self.drawn(f"{name}.norm{number}.{n}", channels) for n in ("weight", "bias")]
            return F.layer_norm(x.movedim(1, -1), (channels,), *parts, 1e-6).movedim(-1, 1)

        def conv(part, x, width):
            return self.conv(f"{name}.{part}", x, width, 1)

        def gate(x):
            return x[:, :channels] * x[:, channels:]

        channels, wide = x.shape[1], 2 * x.shape[1]
        mixed = conv("conv1", norm(1, x), wide)
        mixed = gate(self.conv(f"{name}.conv2", mixed, wide, 3, groups=wide, padding=1))
        mixed = mixed * conv("sca.1", mixed.mean((2, 3), keepdim=True), channels)
        x = x + conv("conv3", mixed, channels) * self.drawn(f"{name}.beta", 1, channels, 1, 1)
        feed = conv("conv5", gate(conv("conv4", norm(2, x), wide)), channels)
        return x + feed * self.drawn(f"{name}.gamma", 1, channels, 1, 1)

    def nafnet(self, image, stages=(1, 1, 1, 3)):
        x, skips, photo = self.conv("intro", (image + 1) / 2, 4, 3, padding=1), [], (image + 1) / 2
        for stage, blocks in enumerate(stages):
            for number in range(blocks):
                x = self.naf_block(f"encoders.{stage}.{number}", x)
            skips.append(x)
            x = self.conv(f"downs.{stage}", x, 2 * x.shape[1], 2, stride=2)
        x = self.naf_block("middle_blks.0", x)
        for stage, skip in enumerate(reversed(skips)):
            x = self.conv(f"ups.{stage}.0", x, 2 * x.shape[1], 1, bias=False)
            x = self.naf_block(f"decoders.{stage}.0", F.pixel_shuffle(x, 2) + skip)
        return (photo + self.conv("ending", x, 3, 3, padding=1)).clamp(0, 1) * 2 - 1

    def deblurgan(self, image, second=6, blocks=3):
        def norm(name, x):
            self.drawn(f"{name}.running_mean", x.shape[1])  # in the file, but never used
            return F.instance_norm(x)

        def conv(name, x, width, side):
            return self.conv(name, F.pad(x, (side // 2,) * 4, "reflect"), width, side)

        x = norm("model.2", conv("model.1", image, 4, 7)).relu()
        for place, width in ((4, 8), (7, 16)):
            x = self.conv(f"model.{place}", x, width, 3, stride=2, padding=1)
            x = norm(f"model.{place + 1}", x).relu()
        for name in (f"model.{10 + number}.conv_block" for number in range(blocks)):
            inside = norm(f"{name}.2", conv(f"{name}.1", x, 16, 3)).relu()
            if second:
                inside = norm(f"{name}.{second + 1}", conv(f"{name}.{second}", inside, 16, 3))
            x = x + inside
        for place, width in ((10 + blocks, 8), (13 + blocks, 4)):
            weight = self.drawn(f"model.{place}.weight", 2 * width, width, 3, 3)
            x = F.conv_transpose2d(x, weight, self.drawn(f"model.{place}.bias", width), 2, 1, 1)
            x = norm(f"model.{place + 1}", x).relu()
        return (image + conv(f"model.{17 + blocks}", x, 3, 7).tanh()).clamp(-1, 1)


def public(path, backbone, **settings):
    """The deblurrer that starts from a file, with settings that fit the networks above."""
    fitting = {"pretrained": str(path), "backbone": backbone, "generator_width": 4, "blocks": 3}
    overrides = {f"model.{name}": value for name, value in (fitting | settings).items()}
    return build_deblurrer(load_config("smoke", overrides=overrides | TINY))


FORMS = {
    "weights.pth": dict,
    "params.pth": lambda state: {"params": dict(state)},
    "averaged.pth": lambda state: {"params": {}, "params_ema": dict(state)},
    "lightning.ckpt": lambda state: {"epoch": 3, "state_dict": dict(state)},
    "parallel.pth": lambda state: {f"module.{name}": value for name, value in state.items()},
    "half.safetensors": lambda state: {name: value.half() for name, value in state.items()},
}
FITS = "--set model.backbone={} model.generator_width=4 model.blocks=3"
NAF, DEBLUR = FITS.format("nafnet"), FITS.format("deblurgan")


def save_public(folder, state, form="weights.pth"):
    path = folder / form
    (save_file if path.suffix == ".safetensors" else torch.save)(FORMS[form](state), path)
    return path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("backbone", "how"),
    [("nafnet", {}), ("deblurgan", {}), ("deblurgan", {"second": 5}), ("deblurgan", {"blocks": 9})],
)
def test_public_weights_give_what_the_public_code_gives(tmp_path, backbone, how, form):
    image, net = torch.rand(2, 3, 48, 32, dtype=torch.float64) - 0.5, Published()
    getattr(net, backbone)(image, **how)
    for name, value in net.items():
        net[name] = value.half().float()
    expected = getattr(net, backbone)(image, **how)
    model = public(save_public(tmp_path, net, form), backbone, blocks=how.get("blocks", 3))
    with torch.no_grad():
        restored = model.generator.double().eval()(image)
    torch.testing.assert_close(restored, expected, rtol=0, atol=1e-9)
    assert 0.2 < (expected.abs() < 1).double().mean() and not torch.allclose(expected, image)


@pytest.mark.parametrize(
    ("kind", "how", "settings", "says"),
    [
        ("nafnet", {}, {"generator_width": 8}, NAF),
        ("nafnet", {}, {"blocks": 28}, NAF),
        ("nafnet", {}, {"backbone": "deblurgan"}, NAF),
        ("deblurgan", {}, {"backbone": "nafnet"}, DEBLUR),
        ("nafnet", {"stages": (2, 2, 4, 3)}, {}, r"encoders\.0\.1.*: give NAFNet-GoPro"),  # SIDD
        ("deblurgan", {"second": 0}, {}, r"trunk\.0\.body\.6.*: give latest_net_G"),  # of 2019
    ],
)
def test_other_public_files_are_refused_with_what_they_need(tmp_path, kind, how, settings, says):
    net = Published()
    getattr(net, kind)(torch.zeros(1, 3, 32, 32, dtype=torch.float64), **how)
    with pytest.raises(S3EError, match=rf"weights\.pth .* another network .*{says}.*\.$"):
        public(save_public(tmp_path, net), **{"backbone": kind} | settings)


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"module.fpn.td1.0.weight": A}},  # DeblurGAN-v2's fpn_inception.h5
        {"model.1.weight": A, "model.4.weight": A},  # another network in one row
        {"optimizers": [], "iter": 3},  # a .state of a training
    ],
)
def test_unknown_networks_and_missing_files_name_the_file_to_fetch(tmp_path, content):
    torch.save(content, tmp_path / "net.h5")
    for path, why in ((tmp_path / "net.h5", "another network"), (tmp_path / "no.pth", "no file")):
        with pytest.raises(S3EError, match=rf"{why}.*NAFNet-GoPro-width32\.pth .*docs/GoPro"):
            public(path, "nafnet")


def test_public_weights_as_they_are_are_a_row_and_no_variant(tmp_path, tiny, corpus):
    net, split = Published(), corpus.test
    net.deblurgan(torch.zeros(1, 3, 32, 32, dtype=torch.float64))
    path = save_public(tmp_path, net)
    used = {"pretrained": str(path), "generator_width": 4, "blocks": 3}
    config = tiny.model_copy(update={"model": tiny.model.model_copy(update=used)})
    runs, model = [tmp_path / "baseline-s0"], build_model(tiny, corpus.sizes, "baseline")
    score_deblurrer(*runs, model, "baseline", corpus, tiny)
    cells = json.loads((NOTEBOOKS / "07_evaluation.ipynb").read_text("utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    found = {"run": SimpleNamespace(config=config, path=tmp_path), "runs": runs, "corpus": corpus}
    exec(code[code.index("import pandas") : code.index("study =")], found)
    exec(code[code.index("resamples, scored") : code.index("image_scores[")], found)
    table = study_table("table1_deblurring", found, context(config))
    assert "public weights, weights.pth" in table.caption and str(path) not in table.caption
    assert "public weights (as they are)" in set(table.cells.method)
    assert set(table.data.query("variant == 'public'").severity) == {*corpus.severities}
    assert "public" not in set(gains.differences(found["scores"], 99).variant)
    restored, _ = public(path, "deblurgan").eval()(split.batch([0], "light"))
    wanted = score_batch(to_images(restored.detach()), split.sharp[:1])["psnr"][0]
    own = found["scores"].query("variant == 'public' and severity == 'light' and metric == 'psnr'")
    assert own[own.id == split.ids[0]].value.item() == pytest.approx(wanted)
