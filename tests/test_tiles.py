"""Large photos in tiles: the result of one piece, whatever the size, the backbone and the maps; no seams."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from s3e.inference import tiles
from s3e.inference.tiles import cut, halo, run_tiled
from s3e.models.generator import Generator
from s3e.models.nafnet import NAFBlock, NAFNet, _gate
from s3e.utils import S3EError
from tests.fixtures_data import picture

MAPS = 6
NETWORKS = {
    "baseline": (Generator, {}),
    "resize": (Generator, {"upsampling": "resize"}),
    "concat": (Generator, {"map_channels": MAPS, "embed_at": [0, 2]}),
    "sft": (Generator, {"map_channels": MAPS, "fuse": "sft"}),
    "nafnet": (NAFNet, {}),
    "nafnet with maps": (NAFNet, {"map_channels": MAPS, "embed_at": [1]}),
}


@torch.no_grad()
def network(name, **changes):
    """A small network whose every part has a say (those that start at zero, too)."""
    torch.manual_seed(0)
    kind, options = NETWORKS[name]
    options = (
        options | ({"dropout": 0.5, "blocks": 3} if kind is Generator else {"blocks": 2}) | changes
    )
    made = kind(width=4, **options).eval()
    for key, values in made.named_parameters():
        if "mix" in key or "beta" in key or "gamma" in key:
            values.normal_(0, 0.5)
    return made


def photo(height, width):
    """A photo as networks take it, with light and structure that differ from corner to corner."""
    pixels = (
        torch.from_numpy(picture("tiles", size=(width, height)).copy()).permute(2, 0, 1)[None]
        / 127.5
        - 1
    )
    return (pixels * torch.linspace(0.2, 1, width)).contiguous()


def node_maps(made, height=16, width=20):
    return (
        torch.randn(1, MAPS, height, width, generator=torch.Generator().manual_seed(1))
        if made.embed
        else None
    )


@torch.no_grad()
def one_piece(made, image, maps=None):
    return made(image, maps)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "shape, tile", [((256, 304), 64), ((304, 96), 100), ((48, 400), 160), ((160, 160), 159)]
)
def test_tiles_give_the_result_of_one_piece(name, shape, tile):
    made, image = network(name), photo(*shape)
    maps = node_maps(made)
    whole = one_piece(made, image, maps)
    assert (run_tiled(made, image, maps, tile) - whole).abs().max() < 1e-4
    assert float((whole - image).abs().mean()) > 0.02, (
        "the network does nothing, so nothing was compared"
    )


@pytest.mark.parametrize("name", ["concat", "nafnet with maps"])
def test_maps_and_statistics_matter_to_that_result(name):
    made, image = network(name), photo(256, 304)
    maps = node_maps(made)
    whole = one_piece(made, image, maps)
    assert (one_piece(made, image, maps.flip(3)) - whole).abs().max() > 1e-3
    assert (run_tiled(made, image, maps, 64, "tile") - whole).abs().max() > 1e-3


@pytest.mark.parametrize("tile", [0, 304, 4000])
def test_a_photo_in_one_piece_has_the_same_bits(tile):
    made, image = network("concat"), photo(256, 304)
    maps = node_maps(made)
    assert torch.equal(run_tiled(made, image, maps, tile), one_piece(made, image, maps))


def test_tiles_with_statistics_of_their_own_are_the_network_on_each_window():
    made, image = network("baseline"), photo(256, 304)
    tiled, margin = run_tiled(made, image, None, 96, "tile"), halo(made)
    for rows in cut(256, 96, margin):
        for columns in cut(304, 96, margin):
            window = one_piece(
                made, image[..., rows.start : rows.stop, columns.start : columns.stop]
            )
            core = tiled[..., rows.first : rows.last, columns.first : columns.last]
            assert torch.equal(core, window[..., rows.core, columns.core])


def test_a_second_run_has_the_same_bits():
    made, image = network("concat"), photo(256, 304)
    maps = node_maps(made)
    assert torch.equal(run_tiled(made, image, maps, 64), run_tiled(made, image, maps, 64))


def jumps(image, border):
    """Mean difference of the pixels on both sides of a vertical border."""
    return float((image[..., border] - image[..., border - 1]).abs().mean())


def seam(made, image):
    """How much stronger an error jumps at borders of tiles than one to six pixels beside them, in steps of 1/255."""
    error = 127.5 * (run_tiled(made, image, None, 64) - one_piece(made, image))
    borders = [span.first for span in cut(image.shape[3], 64, 0)[1:]]
    beside = [jumps(error, border + step) for border in borders for step in (-6, -4, -2, 2, 4, 6)]
    return np.mean([jumps(error, border) for border in borders]) - np.mean(beside)


def test_no_seams(monkeypatch):
    made, image = network("baseline"), photo(256, 304)
    assert abs(seam(made, image)) < 0.01
    monkeypatch.setattr(tiles, "halo", lambda made: 0)
    assert seam(made, image) > 0.1, "the measure does not see the seams of tiles without a halo"


def without_attention(self, pixels):
    """`NAFBlock._mix` less the mean over the photo, which looks everywhere."""
    return self.narrow[0](_gate(self.spread(self.widen[0](pixels).movedim(-1, 1)).movedim(1, -1)))


@pytest.mark.parametrize("blocks", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["baseline", "resize", "nafnet"])
def test_the_halo_covers_all_that_a_network_reaches(name, blocks, monkeypatch):
    made = network(name, blocks=blocks)
    margin, image = halo(made), torch.zeros(1, 3, 256, 256)
    for parent in list(made.modules()):
        for key, layer in parent.named_children():
            if isinstance(layer, nn.InstanceNorm2d):
                setattr(parent, key, nn.Identity())
    monkeypatch.setattr(NAFBlock, "_mix", without_attention)
    for outside, flipped in ((slice(0, tiles.STRIDE), False), (slice(-tiles.STRIDE, None), True)):
        image.zero_()[..., outside] = torch.nan
        reached = torch.isnan(one_piece(made, image)).any(1).any(1)[0]
        depth = int((reached.flip(0) if flipped else reached).nonzero().max()) + 1 - tiles.STRIDE
        assert margin - 2 * tiles.STRIDE < depth <= margin


def test_the_probe_leaves_no_hooks_behind(monkeypatch):
    made = network("baseline")
    monkeypatch.setattr(
        Generator, "forward", lambda self, image, maps=None: self.encoder(image) and 1 / 0
    )
    with pytest.raises((ZeroDivisionError, RuntimeError)):
        halo(made)
    assert not any(layer._forward_pre_hooks for layer in made.modules())


@given(st.integers(1, 400), st.integers(1, 700), st.integers(0, 8))
def test_cores_cover_a_side_once(cells, tile, margin):
    side, margin = cells * tiles.STRIDE, margin * tiles.STRIDE
    spans = cut(side, tile, margin)
    assert [span.first for span in spans] == [0, *(span.last for span in spans[:-1])] and spans[
        -1
    ].last == side
    for span in spans:
        assert 0 < span.last - span.first <= max(tiles.STRIDE, tile + tiles.STRIDE - 1)
        assert span.start == max(0, span.first - margin) and span.stop == min(
            side, span.last + margin
        )
        assert not any(place % tiles.STRIDE for place in span)


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("start, stop, side", [(0, 9, 60), (13, 60, 60), (2, 5, 7)])
def test_maps_are_sampled_as_for_the_whole_photo(axis, start, stop, side):
    maps, span = torch.randn(1, 2, 11, 16), tiles.Span(start, stop, start, stop, side)
    size = [*maps.shape[2:]]
    size[axis - 2] = side
    expected = F.interpolate(maps, size, mode="bilinear", align_corners=False).narrow(
        axis, start, stop - start
    )
    sampled = torch.tensordot(maps, tiles._bilinear(maps, axis, span), ([axis], [1])).movedim(
        -1, axis
    )
    assert torch.allclose(sampled, expected, atol=1e-6)


def test_moments_of_cores_are_those_of_all_pixels():
    values = torch.randn(3, 1000, dtype=torch.float64) * 0.01 + 1e6
    parts = values.split([700, 100, 200], 1)
    found = [
        (part.new_tensor(part.shape[1]), part.mean(1), part.var(1, correction=0)) for part in parts
    ]
    mean, variance = tiles._pooled(found)
    assert torch.allclose(mean, values.mean(1), rtol=1e-14)
    assert torch.allclose(variance, values.var(1, correction=0), rtol=1e-6)


@pytest.mark.parametrize("statistics", tiles.STATISTICS)
def test_progress_counts_every_step_to_the_end(statistics):
    told = []
    run_tiled(
        network("baseline"),
        photo(128, 192),
        None,
        64,
        statistics,
        lambda *state: told.append(state),
    )
    done, totals = zip(*told, strict=True)
    assert len(set(totals)) == 1 and done == tuple(range(1, totals[0] + 1))
    assert totals[0] == 6 * (1 if statistics == "tile" else 1 + 3 + 6 + 2)


@pytest.mark.parametrize("options", [{"tile": -1}, {"tile": 64, "statistics": "both"}])
def test_wrong_settings_are_named(options):
    with pytest.raises(S3EError, match="give 0 or more pixels, and whole or tile"):
        run_tiled(network("baseline"), photo(128, 128), **options)
