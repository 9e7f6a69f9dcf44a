import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3e.blur import MIX, SEVERITIES, blur_batch, blur_image, extent, kernel_for, kernels_for, psf, trajectories
from s3e.seeds import rng


def centroid_offset(kernel):
    rows, columns = np.indices(kernel.shape) - len(kernel) // 2
    return abs((rows * kernel).sum()), abs((columns * kernel).sum())


def direct_convolution(image, kernel):
    """The plain definition in double precision: a sum over kernel cells of shifted, reflected images."""
    radius = len(kernel) // 2
    padded = np.pad(image, [(radius, radius), (radius, radius), (0, 0)], mode="reflect")
    height, width = image.shape[:2]
    cells = ((i, j) for i in range(len(kernel)) for j in range(len(kernel)))
    return sum(
        kernel[i, j] * padded[2 * radius - i :, 2 * radius - j :][:height, :width] for i, j in cells if kernel[i, j]
    )


def textbook_trajectory(length, exploration, generator, steps):
    """Specification 3.7 line by line in complex arithmetic, with the draws in the order of `s3e.blur`."""
    s = length / (steps - 1)
    c, p_b, g = generator.uniform(0, (0.7, 0.2, 10.0))
    v = exploration * np.exp(1j * generator.uniform(0, 2 * math.pi))
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


@pytest.mark.parametrize("exploration", [0.005, 0.9])  # the second one shakes hard in every path
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


@pytest.mark.parametrize(
    "length, explorations, mean, half",
    [(60, MIX, 17.0, 12.7), (60, (0.003,), 24.5, 16.5), (60, (0.01,), 13.3, 10.6), (128, (0.003,), 41.6, 31.8)],
)
def test_extents_agree_with_the_table_of_the_specification(length, explorations, mean, half):
    each = 300 // len(explorations)
    paths = np.concatenate([trajectories(each, length, e, rng("table", e)) for e in explorations])
    assert np.mean([extent(p) for p in paths]) == pytest.approx(mean, rel=0.15)
    assert np.mean([extent(p[:1000]) for p in paths]) == pytest.approx(half, rel=0.15)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(2, 200), st.sampled_from(MIX + (0.0,)), st.floats(0.001, 1))
def test_every_kernel_is_centred_with_unit_sum(seed, length, exploration, fraction):
    path = trajectories(1, length, exploration, np.random.default_rng(seed), steps=500)[0]
    kernel = psf(path, fraction)
    assert kernel.shape[0] == kernel.shape[1] and len(kernel) % 2 == 1 and kernel.min() >= 0
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    assert max(centroid_offset(kernel)) < 1e-2


def test_psf_of_simple_paths():
    assert psf(np.zeros(10, complex)).tolist() == [[1.0]]
    line = psf(np.linspace(0, 4, 5) + 0j)  # five whole pixels to the right
    np.testing.assert_allclose(line[2], [0.2] * 5, atol=1e-12)
    assert extent(line) == pytest.approx(4, abs=1) and extent(np.linspace(0, 4, 5) + 0j) == 4


def test_kernels_are_keyed_and_fit_the_image():
    kernels, extents = kernels_for(range(300), "severe", 64)
    assert max(len(k) // 2 for k in kernels) < 32
    assert np.array_equal(kernel_for(17, "severe", 64), kernels[17])
    assert np.array_equal(kernel_for("17", "severe", 64), kernels[17])  # an id read back from JSON
    assert not np.array_equal(kernel_for(17, "severe", 64, seed=1), kernels[17])
    assert np.mean([extent(k) for k in kernels]) == pytest.approx(extents.mean(), abs=1)
    means = [kernels_for(range(100), name, 64)[1].mean() for name in SEVERITIES]
    assert means == sorted(means) and list(SEVERITIES) == ["light", "moderate", "severe"]


def test_too_large_kernels_are_drawn_again():
    assert max(len(k) // 2 for k in kernels_for(range(400), "severe", 16)[0]) < 8


def test_blur_equals_direct_convolution():
    image = rng("image").random((40, 56, 3))
    kernel = kernel_for("x", "severe", 40)
    assert not np.allclose(kernel, kernel[::-1, ::-1])  # so that convolution differs from correlation
    np.testing.assert_allclose(blur_image(image, kernel), direct_convolution(image, kernel), atol=1e-12)


def test_blur_keeps_constants_and_single_pixels():
    kernel = kernel_for("x", "moderate", 64)
    np.testing.assert_allclose(blur_image(np.full((64, 64, 3), 0.3), kernel), 0.3, atol=1e-12)
    point = np.zeros((65, 65))
    point[32, 32] = 1
    radius = len(kernel) // 2
    window = slice(32 - radius, 33 + radius)
    np.testing.assert_allclose(blur_image(point, kernel)[window, window], kernel, atol=1e-12)
    image = rng("image").random((64, 64, 3))
    np.testing.assert_allclose(blur_image(image, np.ones((1, 1))), image, atol=1e-12)


def test_linear_light_and_noise():
    image = rng("image").random((32, 32, 3))
    kernel = kernel_for("x", "light", 64)
    expected = direct_convolution(image**2.2, kernel) ** (1 / 2.2)
    np.testing.assert_allclose(blur_image(image, kernel, gamma=2.2), expected, atol=1e-9)
    noisy = blur_image(np.full((200, 200, 3), 0.5), kernel, sigma=0.02, generator=rng("noise"))
    assert noisy.std() == pytest.approx(0.02, rel=0.02)


def test_batch_equals_single_images_in_any_company():
    images = rng("images").integers(0, 256, (6, 48, 64, 3), dtype=np.uint8)
    ids = [f"test-0-{i:06d}" for i in range(6)]
    blurred, extents = blur_batch(images, ids, "severe")
    single = np.rint(255 * blur_image(images[3] / 255, kernel_for(ids[3], "severe", 48)))
    assert np.array_equal(blurred[3], single) and blurred.dtype == np.uint8 and (extents > 0).all()
    order = [5, 3, 0]
    again, other = blur_batch(images[order], [ids[i] for i in order], "severe")
    assert np.array_equal(again, blurred[order]) and np.array_equal(other, extents[order])
    noisy = blur_batch(images, ids, "severe", sigma=0.05)[0]
    assert np.array_equal(noisy, blur_batch(images, ids, "severe", sigma=0.05)[0]) and not np.array_equal(
        noisy, blurred
    )


def test_a_batch_is_fast():
    images = np.zeros((400, 64, 64, 3), np.uint8)
    start = time.perf_counter()
    blur_batch(images, range(400), "severe")
    assert time.perf_counter() - start < 3  # 0.25 s on an idle core


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="Unknown severity 'heavy': choose one of light"):
        kernel_for("x", "heavy", 64)
    with pytest.raises(ValueError, match="divide uint8 by 255"):
        blur_image(np.full((8, 8, 3), 128.0), np.ones((1, 1)))
    with pytest.raises(ValueError, match="odd sides"):
        blur_image(np.zeros((8, 8, 3)), np.ones((2, 2)) / 4)
    with pytest.raises(ValueError, match="needs a generator"):
        blur_image(np.zeros((8, 8, 3)), np.ones((1, 1)), sigma=0.1)
    with pytest.raises(ValueError, match="uint8"):
        blur_batch(np.zeros((1, 8, 8, 3)), ["x"], "light")
    with pytest.raises(ValueError, match="fraction is 0"):
        psf(np.zeros(5, complex), 0)
