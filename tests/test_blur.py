"""Blur: walk, kernels and convolution against plain double-precision references."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from s3e.blur import (
    MIX,
    SEVERITIES,
    blur_batch,
    blur_image,
    convolve,
    extent,
    kernels_for,
    psf,
    trajectories,
)
from s3e.data.photos import PHOTOS, photograph
from s3e.utils import rng


def kernel_for(name, severity, size, seed=0):
    return kernels_for([name], severity, size, seed)[0][0]


def reference(image, kernel):
    """Double precision: reflected border, then a sum over all cells of the kernel."""
    margins = [(side // 2, side // 2) for side in kernel.shape]
    padded = np.pad(np.asarray(image, float), [*margins, (0, 0)], mode="reflect")
    return signal.fftconvolve(padded, kernel[..., None], "valid", axes=(0, 1))


def textbook_trajectory(length, exploration, generator, steps):
    """Specification 3.7 line by line in complex arithmetic, draws in the order of `s3e.blur`."""
    s = length / (steps - 1)
    c, p_b, g = generator.uniform(0, (0.7, 0.2, 10.0))
    v = (exploration or s) * np.exp(1j * generator.uniform(0, 2 * math.pi))
    n = generator.standard_normal((steps - 1, 2)) @ [1, 1j]
    hit = generator.random(steps - 1) < p_b * exploration
    turn = iter(generator.random(hit.sum()))
    x = [0j]
    for t in range(steps - 1):
        jump = 2 * v * np.exp(1j * (math.pi + next(turn) - 0.5)) if hit[t] else 0
        v = v + jump + exploration * (g * n[t] - c * x[-1]) * s
        v = v / abs(v) * s
        x.append(x[-1] + v)
    return np.array(x)


@pytest.mark.parametrize("exploration", [0.005, 0.9, 0])  # 0.9 shakes hard in every path
def test_walk_follows_the_specification(exploration):
    batch = trajectories(3, 40, exploration, np.random.default_rng(5), steps=400)
    generator = np.random.default_rng(5)
    for path in batch:
        expected = textbook_trajectory(40, exploration, generator, 400)
        np.testing.assert_allclose(path, expected, atol=1e-9)


def test_paths_have_constant_speed_and_do_not_depend_on_the_batch():
    paths = trajectories(300, 60, 0.005, rng("test"))
    np.testing.assert_allclose(np.abs(np.diff(paths)), 60 / 1999, rtol=1e-9)
    assert paths.shape == (300, 2000) and (paths[:, 0] == 0).all()
    assert np.array_equal(trajectories(7, 60, 0.005, rng("test")), paths[:7])


# Specification 3.8. Path length, explorations; mean extent, of the first half, RMS radius (pixels)
EXTENTS = [
    (60, MIX, 17.0, 12.7, 5.6),
    (60, (0.003,), 24.5, 16.5, 8.4),
    (60, (0.01,), 13.3, 10.6, 4.4),
    (96, MIX, 22.2, 18.1, 7.3),
    (128, MIX, 28.7, 23.4, 9.4),
    (128, (0.005,), 32.2, 26.5, 10.6),
    (128, (0.003,), 41.6, 31.8, 13.6),
    (192, (0.003,), 55.0, 42.4, 18.3),
]
# Image side, path length, explorations, exposure fractions; mean input PSNR (dB)
LEVELS = [
    (256, 60, MIX, (0.1, 0.5, 1), 25.1),
    (256, 60, MIX, (1,), 22.6),
    (256, 128, (0.003, 0.005), (1,), 19.9),
    (128, 30, MIX, (0.1, 0.5, 1), 26.8),
    (64, 15, MIX, (0.1, 0.5, 1), 28.9),
    (64, 48, (0.003, 0.005), (1,), 18.9),
]


def paths_of(length, explorations, count, *key):
    """Trajectories in which every exploration has its share."""
    shares = zip(np.array_split(range(count), len(explorations)), explorations, strict=True)
    return np.concatenate(
        [trajectories(len(own), length, value, rng(*key, length, value)) for own, value in shares]
    )


@pytest.mark.parametrize(("length", "explorations", "whole", "half", "radius"), EXTENTS)
def test_extents_agree_with_the_specification(length, explorations, whole, half, radius):
    paths = paths_of(length, explorations, 600, "extent table", 0)
    assert np.mean([extent(path) for path in paths]) == pytest.approx(whole, rel=0.12)
    halves = [extent(path[: len(path) // 2]) for path in paths]
    assert np.mean(halves) == pytest.approx(half, rel=0.12)
    assert paths.std(axis=1).mean() == pytest.approx(radius, rel=0.12)


@pytest.mark.parametrize(("size", "length", "explorations", "shares", "level"), LEVELS)
def test_input_psnr_agrees_with_the_specification(size, length, explorations, shares, level):
    paths = paths_of(length, explorations, 120, "psnr table", 0, size)
    kernels = [psf(path, shares[i % len(shares)]) for i, path in enumerate(paths)]
    views = [photograph(name, size) / np.float32(255) for name in PHOTOS]
    errors = [np.mean((blur_image(v, kernel) - v) ** 2) for v in views for kernel in kernels]
    assert np.mean(-10 * np.log10(errors)) == pytest.approx(level, abs=1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(2, 200), st.sampled_from(MIX + (0.0,)), st.floats(0.001, 1))
def test_every_kernel_is_centred_with_unit_sum(seed, length, exploration, fraction):
    path = trajectories(1, length, exploration, np.random.default_rng(seed), steps=500)[0]
    kernel = psf(path, fraction)
    assert kernel.shape[0] == kernel.shape[1] and len(kernel) % 2 == 1 and kernel.min() >= 0
    assert kernel.sum() == pytest.approx(1, abs=1e-9)
    offsets = np.indices(kernel.shape) - len(kernel) // 2
    assert np.abs((offsets * kernel).sum(axis=(1, 2))).max() < 1e-2


def test_psf_of_simple_paths():
    assert psf(np.zeros(10, complex)).tolist() == [[1.0]]
    line = psf(np.linspace(0, 4, 5) + 0j)  # five whole pixels to the right
    np.testing.assert_allclose(line[2], [0.2] * 5, atol=1e-12)
    assert extent(np.linspace(0, 4, 5) + 0j) == 4


def test_kernels_are_keyed_and_fit_the_image():
    kernels, extents = kernels_for(range(300), "severe", 64)
    assert max(len(k) // 2 for k in kernels) < 32
    assert np.array_equal(kernel_for(17, "severe", 64), kernels[17])
    assert np.array_equal(kernel_for("17", "severe", 64), kernels[17])  # an id read back from JSON
    assert not np.array_equal(kernel_for(17, "severe", 64, seed=1), kernels[17])
    assert (extents > 0).all()
    means = [kernels_for(range(100), name, 64)[1].mean() for name in SEVERITIES]
    assert means == sorted(means) and list(SEVERITIES) == ["light", "moderate", "severe"]


def test_random_draws_have_not_changed():
    """Stored results rest on these extents of keys (id, severity, size, seed)."""
    known = [
        ("light", 1.4602, 6.6890),
        ("moderate", 17.5209, 19.0822),
        ("severe", 35.8193, 29.5259),
    ]
    for severity, *extents in known:
        np.testing.assert_allclose(kernels_for(["a", 7], severity, 64)[1], extents, atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 24), st.integers(1, 24), st.integers(1, 4)),
    st.tuples(st.integers(0, 20), st.integers(0, 20)),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_convolution_agrees_with_double_precision(shape, radii, density, seed):
    """Any size, kernels of any extent (also wider than the image), full or empty; bytes, floats."""
    generator = np.random.default_rng(seed)
    kernel = generator.random((2 * radii[0] + 1, 2 * radii[1] + 1))
    kernel *= generator.random(kernel.shape) < density
    kernel /= max(kernel.sum(), 1)
    image = generator.integers(0, 256, shape, dtype=np.uint8)
    for values in (image, image / 255):
        scale = values.max() or 1
        expected = reference(values, kernel) / scale
        np.testing.assert_allclose(convolve(values, kernel) / scale, expected, atol=1e-5)


def test_blur_keeps_constants_and_single_pixels():
    kernel = kernel_for("x", "moderate", 64)
    np.testing.assert_allclose(blur_image(np.full((64, 64, 3), 0.3), kernel), 0.3, atol=1e-6)
    point = np.zeros((65, 65))
    point[32, 32] = 1
    window = slice(32 - len(kernel) // 2, 33 + len(kernel) // 2)
    np.testing.assert_allclose(blur_image(point, kernel)[window, window], kernel, atol=1e-6)
    image = rng("image").random((64, 64, 3))
    np.testing.assert_allclose(blur_image(image, np.ones((1, 1))), image, atol=1e-6)


def test_extreme_levels_do_not_wrap_around():
    """Float noise around 0 and 255 must not turn black into white."""
    images = np.zeros((2, 64, 64, 3), np.uint8)
    images[1] = 255
    assert np.array_equal(blur_batch(images, ["a", "b"], "severe")[0], images)
    noisy = blur_batch(images, ["a", "b"], "severe", sigma=0.1)[0]
    assert (noisy[0] == 0).mean() > 0.45 and (noisy[1] == 255).mean() > 0.45
    halves = np.repeat([[0.0], [1.0]], 64, axis=0).repeat(128, axis=1)
    for i in range(20):
        blurred = blur_image(halves, kernel_for(i, "severe", 128))
        assert blurred.min() >= 0 and blurred.max() <= 1
        assert np.isfinite(blur_image(halves, kernel_for(i, "severe", 128), gamma=2.2)).all()


def test_linear_light_and_noise():
    image = rng("image").random((32, 32, 3))
    kernel = kernel_for("x", "light", 64)
    expected = reference(image**2.2, kernel) ** (1 / 2.2)
    np.testing.assert_allclose(blur_image(image, kernel, gamma=2.2), expected, atol=1e-5)
    noisy = blur_image(np.full((200, 200, 3), 0.5), kernel, sigma=0.02, generator=rng("noise"))
    assert noisy.std() == pytest.approx(0.02, rel=0.02)
    bytes_ = np.rint(255 * image).astype(np.uint8)
    batch = blur_batch(bytes_[None], ["x"], "severe", gamma=2.2, sigma=0.02)[0][0]
    noise = rng("noise", 0, "severe", "x")
    single = blur_image(bytes_ / 255, kernel_for("x", "severe", 32), 2.2, 0.02, noise)
    assert np.abs(batch - 255 * single).max() <= 0.5 + 1e-3


def test_batch_equals_single_images_in_any_company():
    images = rng("images").integers(0, 256, (6, 48, 64, 3), dtype=np.uint8)
    ids = [f"test-0-{i:06d}" for i in range(6)]
    blurred, extents, kernels = blur_batch(images, ids, "severe")
    single = 255 * reference(images[3] / 255, kernels[3])
    assert np.abs(blurred[3] - single).max() <= 0.5 + 1e-3 and blurred.dtype == np.uint8
    assert np.array_equal(kernels[3], kernel_for(ids[3], "severe", 48)) and (extents > 0).all()
    order = [5, 3, 0]
    for options in ({}, {"sigma": 0.05, "gamma": 2.2}):
        blurred, extents, _ = blur_batch(images, ids, "severe", **options)
        again, other, _ = blur_batch(images[order], [ids[i] for i in order], "severe", **options)
        assert np.array_equal(again, blurred[order]) and np.array_equal(other, extents[order])


def test_result_does_not_depend_on_the_number_of_threads():
    images = rng("threads").integers(0, 256, (3, 128, 100, 3), dtype=np.uint8)
    one, threads = blur_batch(images, range(3), "severe")[0], cv2.getNumThreads()
    cv2.setNumThreads(3)
    again = blur_batch(images, range(3), "severe")[0]
    cv2.setNumThreads(threads)
    assert np.array_equal(again, one)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="Unknown severity 'heavy': choose one of light"):
        kernel_for("x", "heavy", 64)
    wrongs = np.full((8, 8, 3), 128.0), np.full((8, 8), np.nan), np.zeros((0, 8)), -np.ones((8, 8))
    for wrong in wrongs:
        with pytest.raises(ValueError, match="divide uint8 by 255"):
            blur_image(wrong, np.ones((1, 1)))
    with pytest.raises(ValueError, match="odd sides"):
        blur_image(np.zeros((8, 8, 3)), np.ones((2, 2)) / 4)
    with pytest.raises(ValueError, match="uint8"):
        blur_batch(np.zeros((1, 8, 8, 3)), ["x"], "light")
    with pytest.raises(ValueError, match="fraction is 0"):
        psf(np.zeros(5, complex), 0)
    with pytest.raises(ValueError, match="length > 0"):
        trajectories(1, 0, 0.01, rng("x"))
