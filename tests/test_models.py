"""Networks: published sizes, shapes, zero-initialised embedding, where gradients go."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from s3e.captions.tree import IGNORE
from s3e.config import VARIANTS, load_config
from s3e.models.build import (
    build_critic,
    build_generator,
    build_model,
    build_semantics,
    count_parameters,
    load_weights,
    save_weights,
)
from s3e.models.encoders import ConvEncoder
from s3e.models.generator import Generator
from s3e.models.nafnet import NAFBlock, NAFNet
from s3e.models.tree import S3Tree
from s3e.utils import S3EError

PLAIN = {"width": 4, "blocks": 2, "embed_at": [0], "fuse": "concat"}


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    return load_config("paper", data=str(tmp_path_factory.mktemp("photos")))


def test_paper_size_parameter_counts(paper):
    assert count_parameters(build_generator(paper, 0)) == 11_378_179  # specification 3.1
    assert count_parameters(build_critic(paper)) == 2_764_737  # specification 3.2


def test_paper_size_tree_has_three_million_parameters():
    tree = S3Tree(channels=512, width=128, entities=800, relations=250, spatial=True)
    assert 2.9e6 < count_parameters(tree) < 3.15e6  # specification 6.3


def shapes(network, layers, *sides):
    """Output C, H, W of every one of `layers` of a network without numbers (device meta)."""
    found = []
    for layer in layers:
        layer.register_forward_hook(lambda _, __, output: found.append(tuple(output.shape[1:])))
    network.to("meta")(torch.zeros(1, 3, *sides, device="meta"))
    return found


def convolutions(layers):
    kinds = torch.nn.Conv2d | torch.nn.ConvTranspose2d
    return [layer for layer in layers if isinstance(layer, kinds)]


def test_generator_shapes_by_layer_are_those_of_the_paper(paper):
    generator = build_generator(paper, 0)
    outer = [convolutions(part) for part in (generator.encoder, generator.decoder)]
    layers = [*outer[0], *generator.trunk, *outer[1], generator]
    outside = [(64, 256, 256), (128, 128, 128), (256, 64, 64)]
    inside = [(256, 64, 64)] * 9
    expected = [*outside, *inside, *outside[1::-1], *[(3, 256, 256)] * 2]  # specification 3.1
    assert shapes(generator, layers, 256, 256) == expected
    for block in generator.trunk:
        assert [layer.weight.shape for layer in convolutions(block.body)] == [(256, 256, 3, 3)] * 2
    assert generator.encoder[1].kernel_size == generator.decoder[-2].kernel_size == (7, 7)


def test_critic_shapes_by_layer_are_those_of_the_paper(paper):
    critic = build_critic(paper)
    layers = convolutions(critic.modules())
    sizes = [(64, 129), (128, 65), (256, 33), (512, 34), (1, 35)]  # specification 3.2
    assert shapes(critic, layers, 256, 256) == [(width, side, side) for width, side in sizes]


@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_encoder_grid_is_16_at_every_size(size):
    encoder = ConvEncoder(size=size, widths=[8, 8, 8, 8, 8]).eval()
    with torch.no_grad():
        assert encoder(torch.zeros(1, 3, size, size)).shape == (1, 8, 16, 16)


@pytest.mark.parametrize("spatial", [True, False])
def test_tree_shapes_and_attention(spatial):
    tree = S3Tree(channels=12, width=8, entities=5, relations=3, spatial=spatial)
    out = tree(torch.randn(2, 12, 16, 16))
    assert out.maps.shape == (2, 7, 8, 16, 16) and out.vectors.shape == (2, 7, 8)
    assert out.entity_logits.shape == (2, 4, 5) and out.relation_logits.shape == (2, 3, 3)
    torch.testing.assert_close(out.attention.sum((2, 3)), torch.ones(2, 7))


def test_vector_tree_knows_no_place():
    tree = S3Tree(channels=12, width=8, entities=5, relations=3, spatial=False).eval()
    features = torch.randn(2, 12, 16, 16)
    torch.testing.assert_close(tree(features).maps, tree(features.flip(-1)).maps)


def test_generator_is_bounded():
    generator = Generator(**PLAIN, dropout=0.5, map_channels=0)
    out = generator(torch.randn(1, 3, 32, 48).clamp(-1, 1))
    assert out.shape == (1, 3, 32, 48) and out.abs().max() <= 1


@pytest.mark.parametrize("backbone", [Generator, NAFNet])
@pytest.mark.parametrize("fuse", ["concat", "sft"])
@pytest.mark.parametrize("places", [[0], [0, 1]])
def test_embedding_changes_nothing_at_first_and_something_later(backbone, fuse, places):
    dropout = {"dropout": 0.0} if backbone is Generator else {}
    sizes = PLAIN | {"embed_at": places, "fuse": fuse} | dropout
    generator = backbone(map_channels=6, **sizes).eval()
    awaken(generator)
    blurred, maps = torch.rand(2, 3, 32, 32) * 2 - 1, torch.randn(2, 6, 16, 16)
    with torch.no_grad():
        assert list(generator.embed) == [str(place) for place in places]
        assert torch.equal(generator(blurred, maps), generator(blurred))
        for place in generator.embed:
            before = generator(blurred, maps)
            generator.embed[place].mix.weight.normal_()
            assert not torch.allclose(generator(blurred, maps), before)


@pytest.mark.parametrize("fuse", ["concat", "sft"])
def test_maps_that_are_the_same_everywhere_count_with_sft(fuse):
    generator = Generator(**PLAIN | {"fuse": fuse}, dropout=0.0, map_channels=6).eval()
    embed, block = generator.embed["0"], generator.trunk[0]
    torch.nn.init.normal_(embed.mix.weight)
    blurred, maps = torch.rand(2, 3, 32, 32) * 2 - 1, torch.randn(2, 6, 1, 1).expand(-1, -1, 16, 16)
    with torch.no_grad():
        features = generator.encoder(blurred)
        inside = [block.body(embed(features, given)) for given in (maps, 0 * maps)]
        images = [generator(blurred, given) for given in (maps, 0 * maps)]
    near = [torch.allclose(*pair, atol=1e-3) for pair in (inside, images)]
    assert near == ([False, False] if fuse == "sft" else [True, near[1]])  # or by the skip alone


def awaken(network):
    """NAFNet's blocks start as the identity: let them do something."""
    for block in network.modules():
        if isinstance(block, NAFBlock):
            torch.nn.init.normal_(block.beta, std=0.5), torch.nn.init.normal_(block.gamma, std=0.5)


def test_nafnet_is_the_published_network():
    settings = {"model.backbone": "nafnet", "model.generator_width": 32, "model.blocks": 28}
    with torch.device("meta"):
        network = build_generator(load_config("smoke", overrides=settings), 0)
    blocks = [layer for layer in network.modules() if isinstance(layer, NAFBlock)]
    counts = Counter(block.beta.numel() for block in blocks)
    assert counts == {32: 2, 64: 2, 128: 2, 256: 29, 512: 1}
    by_hand = sum(count * (7 * width**2 + 33 * width) for width, count in counts.items())  # blocks
    by_hand += sum(8 * width**2 + 2 * width for width in (32, 64, 128, 256))  # halving the side
    by_hand += sum(2 * width**2 for width in (512, 256, 128, 64))  # doubling it
    by_hand += 896 + 867  # first and last convolution
    assert count_parameters(network) == by_hand == 17_111_907
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 256, 256, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(15.96, abs=0.01)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_builds_and_starts_at_the_baseline(tiny, corpus, variant):
    batch = corpus.train.draw(4, "severe", 0, "test")
    names = variant, "baseline"
    model, baseline = (build_model(tiny, corpus.sizes, name).eval() for name in names)
    baseline.generator.load_state_dict(model.generator.state_dict(), strict=False)
    with torch.no_grad():
        assert torch.equal(model(batch)[0], baseline(batch)[0])


def embedded_gradient(tiny, corpus, **switches):
    model = build_model(tiny, corpus.sizes, "full")
    model.rules = model.rules.model_copy(update=switches)
    for embed in model.generator.embed.values():
        torch.nn.init.normal_(embed.mix.weight)
    batch = corpus.train.draw(4, "severe", 0, "test")
    restored, _ = model(batch)
    (restored - batch.sharp).abs().mean().backward()
    gradients = (weight.grad for weight in model.semantics.tree.parameters())
    return sum(float(gradient.abs().sum()) for gradient in gradients if gradient is not None)


def test_deblurring_loss_reaches_the_tree_unless_detached(tiny, corpus):
    assert embedded_gradient(tiny, corpus) > 0
    assert embedded_gradient(tiny, corpus, detached=True) == 0


def test_oracle_reads_the_sharp_photo_and_full_does_not(tiny, corpus):
    batch = corpus.train.draw(3, "severe", 0, "test")
    for variant, same in (("oracle", False), ("full", True)):
        model = build_model(tiny, corpus.sizes, variant).eval()
        maps = model.read(batch).maps
        sharpened = replace(batch, sharp=torch.zeros_like(batch.sharp))
        assert torch.equal(maps, model.read(sharpened).maps) is same


def test_label_maps_are_class_shares(tiny, corpus):
    batch = corpus.train.draw(2, "severe", 0, "test")
    maps = build_semantics(tiny, corpus.sizes, "labels")(batch).maps
    assert maps.shape == (2, len(corpus.categories) + 1, 16, 16)
    torch.testing.assert_close(maps.sum(1), torch.ones(2, 16, 16))
    outline = build_model(tiny, corpus.sizes, "oracle_silhouette").read(batch).maps
    torch.testing.assert_close(outline, torch.stack([maps[:, 0], maps[:, 1:].sum(1)], 1))


def test_told_labels_are_vectors_without_places(tiny, corpus):
    scenes, source = corpus.val, build_semantics(tiny, corpus.sizes, "caption")
    photos = replace(scenes, label_maps=None)  # which have no true tree
    told = [split.batch(np.arange(8), "severe", 1).told for split in (scenes, photos)]
    assert torch.equal(told[0], scenes.targets) and torch.equal(told[1], scenes.trees[:, 1])
    batch = replace(scenes.batch(np.arange(2), "severe"), told=torch.tensor([[3] * 7, [3] * 7]))
    batch.told[0, [0, 4]], batch.told[1, 6] = IGNORE, 0
    nodes = source(batch).maps.unflatten(1, (7, -1))
    assert nodes.shape == (2, 7, tiny.model.node_width, 16, 16)
    assert torch.equal(nodes, nodes[..., :1, :1].expand_as(nodes))
    unknown, null = (torch.cat([v.weight[row] for v in source.vectors]) for row in (0, 1))
    torch.testing.assert_close(nodes[0, [0, 4], :, 0, 0].flatten(), unknown)
    torch.testing.assert_close(nodes[1, 6, :, 0, 0], null.chunk(2)[1])
    assert torch.equal(nodes[1, 1], nodes[0, 3]) and not torch.equal(nodes[0, 3], nodes[0, 5])


def test_weights_survive_the_disk_and_foreign_files_are_refused(tiny, corpus, tmp_path):
    model = build_model(tiny, corpus.sizes, "full")
    save_weights(model.semantics, tmp_path / "a.safetensors")
    config = load_config("smoke", seed=3, overrides={"data.size": 32})
    other = build_semantics(config, corpus.sizes, "tree")
    load_weights(other, tmp_path / "a.safetensors")
    for name, value in model.semantics.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    with pytest.raises(S3EError, match="another network"):
        load_weights(model.generator, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"nonsense")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1  # that of umask
    with pytest.raises(S3EError, match="cannot be read"):
        load_weights(model.generator, tmp_path / "b.safetensors")
