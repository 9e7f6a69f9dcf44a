"""Networks: sizes of the published baseline, shapes, zero-initialised embedding, where gradients go, decoding."""

import pytest
import torch

from s3e.config import VARIANTS, load_config
from s3e.data.text import BOS, EOS, PAD, UNK
from s3e.models.build import (
    build_critic,
    build_generator,
    build_model,
    build_semantics,
    count_parameters,
    load_weights,
    save_weights,
)
from s3e.models.captioner import CaptionDecoder
from s3e.models.encoder import ConvEncoder
from s3e.models.generator import Generator
from s3e.models.tree import S3Tree, VectorTree
from s3e.paths import S3EError


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    return load_config("paper", data=str(tmp_path_factory.mktemp("photos")))


def test_paper_size_parameter_counts(paper):
    assert count_parameters(build_generator(paper)) == 11_378_179  # specification 3.1
    assert count_parameters(build_critic(paper)) == 2_764_737  # specification 3.2


def test_paper_size_tree_has_three_million_parameters():
    tree = S3Tree(channels=512, width=128, entities=800, relations=250)
    assert 2.9e6 < count_parameters(tree) < 3.15e6  # specification 6.3


def test_critic_output_is_35_by_35_at_256(paper):
    with torch.no_grad():
        assert build_critic(paper)(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 35, 35)


@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_encoder_grid_is_16_at_every_size(size):
    encoder = ConvEncoder(size=size, widths=[8, 8, 8, 8, 8]).eval()
    with torch.no_grad():
        assert encoder(torch.zeros(1, 3, size, size)).shape == (1, 8, 16, 16)


def test_encoder_refuses_other_sizes():
    with pytest.raises(ValueError, match="32, 64, 128 or 256"):
        ConvEncoder(size=80, widths=[8] * 5)


@pytest.mark.parametrize("kind", [S3Tree, VectorTree])
def test_tree_shapes_and_attention(kind):
    tree = kind(channels=12, width=8, entities=5, relations=3)
    out = tree(torch.randn(2, 12, 16, 16))
    assert out.maps.shape == (2, 7, 8, 16, 16) and out.vectors.shape == (2, 7, 8)
    assert out.entity_logits.shape == (2, 4, 5) and out.relation_logits.shape == (2, 3, 3)
    torch.testing.assert_close(out.attention.sum((2, 3)), torch.ones(2, 7))


def test_vector_tree_knows_no_place():
    tree = VectorTree(channels=12, width=8, entities=5, relations=3).eval()
    features = torch.randn(2, 12, 16, 16)
    torch.testing.assert_close(tree(features).maps, tree(features.flip(-1)).maps)


def test_generator_is_bounded_and_needs_valid_places():
    generator = Generator(width=4, blocks=2, dropout=0.5)
    out = generator(torch.randn(1, 3, 32, 48).clamp(-1, 1))
    assert out.shape == (1, 3, 32, 48) and out.abs().max() <= 1
    with pytest.raises(ValueError, match="embed_at"):
        Generator(width=4, blocks=2, dropout=0.5, map_channels=3, embed_at=[2])


@pytest.mark.parametrize("fuse", ["concat", "sft"])
@pytest.mark.parametrize("places", [[0], [0, 1]])
def test_embedding_changes_nothing_at_first_and_something_later(fuse, places):
    generator = Generator(width=4, blocks=2, dropout=0.0, map_channels=6, embed_at=places, fuse=fuse).eval()
    blurred, maps = torch.rand(2, 3, 32, 32) * 2 - 1, torch.randn(2, 6, 16, 16)
    with torch.no_grad():
        assert torch.equal(generator(blurred, maps), generator(blurred))
        for embed in generator.embed.values():
            embed.mix.weight.normal_()
        assert not torch.allclose(generator(blurred, maps), generator(blurred))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_builds_and_starts_at_the_baseline(tiny, corpus, variant):
    batch = corpus.train.draw(4, "severe", 0, "test")
    model, baseline = build_model(tiny, corpus, variant).eval(), build_model(tiny, corpus, "baseline").eval()
    baseline.generator.load_state_dict(model.generator.state_dict(), strict=False)
    with torch.no_grad():
        assert torch.equal(model(batch)[0], baseline(batch)[0])


def embedded_gradient(tiny, corpus, **switches):
    model = build_model(tiny, corpus, "full")
    for name, value in switches.items():
        setattr(model, name, value)
    for embed in model.generator.embed.values():
        torch.nn.init.normal_(embed.mix.weight)
    batch = corpus.train.draw(4, "severe", 0, "test")
    restored, _ = model(batch)
    (restored - batch.sharp).abs().mean().backward()
    return sum(float(p.grad.abs().sum()) for p in model.semantics.tree.parameters() if p.grad is not None)


def test_deblurring_loss_reaches_the_tree_unless_detached(tiny, corpus):
    assert embedded_gradient(tiny, corpus) > 0
    assert embedded_gradient(tiny, corpus, detach=True) == 0


def test_shuffled_embeds_the_next_photos_maps(tiny, corpus):
    model = build_model(tiny, corpus, "shuffled").eval()
    batch = corpus.train.draw(3, "severe", 0, "test")
    semantics = model.read(batch)
    torch.testing.assert_close(model._embedded(semantics).maps[1], semantics.maps[0])


def test_oracle_reads_the_sharp_photo_and_full_does_not(tiny, corpus):
    batch = corpus.train.draw(3, "severe", 0, "test")
    for variant, same in (("oracle", False), ("full", True)):
        model = build_model(tiny, corpus, variant).eval()
        maps = model.read(batch).maps
        sharpened = type(batch)(batch.ids, torch.zeros_like(batch.sharp), batch.blurred, batch.words, batch.tree, None)
        assert torch.equal(maps, model.read(sharpened).maps) is same


def test_label_maps_are_class_shares(tiny, corpus):
    source = build_semantics(tiny, corpus, "labels")
    maps = source(corpus.train.draw(2, "severe", 0, "test").labels).maps
    assert maps.shape == (2, len(corpus.categories) + 1, 16, 16)
    torch.testing.assert_close(maps.sum(1), torch.ones(2, 16, 16))


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return CaptionDecoder(
        words=12, context_width=5, item_width=6, items=7, word_width=8, lstm_width=8, attention_width=8, dropout=0.5
    ).eval()


def test_beam_of_one_is_greedy(decoder):
    context, items = torch.randn(5, 5), torch.randn(5, 7, 6)
    greedy, attention = decoder.greedy(context, items, 9)
    beam = decoder.beam(context, items, 9, 1)
    for row, other in zip(greedy.tolist(), beam.tolist(), strict=True):
        cut = row.index(EOS) + 1 if EOS in row else len(row)
        assert row[:cut] == other[:cut]
    torch.testing.assert_close(attention.sum(-1), torch.ones(5, 9))


def log_likelihood(decoder, context, items, words):
    state, keys = decoder.begin(context, items)
    total, word, count = 0.0, torch.tensor([BOS]), 0
    for target in words:
        logits, state, _ = decoder.step(word, state, items, keys)
        logits[:, [PAD, BOS, UNK]] = -torch.inf
        total, word, count = total + logits.log_softmax(-1)[0, target].item(), torch.tensor([target]), count + 1
        if target == EOS:
            break
    return total / count


def test_wide_beam_is_at_least_as_likely_as_greedy(decoder):
    for _ in range(10):
        context, items = torch.randn(1, 5), torch.randn(1, 7, 6)
        greedy, beam = decoder.greedy(context, items, 6)[0][0], decoder.beam(context, items, 6, 12)[0]
        assert (
            log_likelihood(decoder, context, items, beam.tolist())
            >= log_likelihood(decoder, context, items, greedy.tolist()) - 1e-5
        )


def test_beam_does_not_depend_on_the_batch(decoder):
    context, items = torch.randn(4, 5), torch.randn(4, 7, 6)
    together = decoder.beam(context, items, 8, 3)
    for i in range(4):
        assert torch.equal(decoder.beam(context[i : i + 1], items[i : i + 1], 8, 3)[0], together[i])


def test_weights_survive_the_disk_and_foreign_files_are_refused(tiny, corpus, tmp_path):
    model = build_model(tiny, corpus, "full")
    save_weights(model.semantics, tmp_path / "a.safetensors")
    other = build_semantics(load_config("smoke", seed=3, overrides={"data.size": 32}), corpus, "tree")
    load_weights(other, tmp_path / "a.safetensors")
    for name, value in model.semantics.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    with pytest.raises(S3EError, match="another network"):
        load_weights(model.generator, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"nonsense")
    with pytest.raises(S3EError, match="cannot be read"):
        load_weights(model.generator, tmp_path / "b.safetensors")
