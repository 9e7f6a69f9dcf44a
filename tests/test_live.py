# ruff: noqa
"""A training as the notebooks show it: live curves, samples as they improve, what each loss term does."""

import pytest

pytest.skip("follows the rewrite of s3e.report", allow_module_level=True)

import time
from copy import deepcopy

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from nbclient import NotebookClient
from torch import nn

from s3e.config import VARIANTS, load_config
from s3e.models.build import build_critic, build_model
from s3e.report import curves, live
from s3e.training import effects
from s3e.training.stages import new_source, train_deblurrer
from s3e.utils import S3EError
from tests.conftest import TINY

CELL = """
import pandas as pd
from s3e.report import live
with live.follow({folder!r}, "toy", every={every}) as watch:
    print("going on")
    for step in {steps}:
        pd.DataFrame({{"step": range(1, step + 1), "pixel": 1.0}}).to_csv({folder!r} + "/log_toy.csv", index=False)
        watch(step)
"""


def write_log(folder, *rows):
    pd.DataFrame(rows, columns=["step", "pixel", "critic"]).to_csv(
        folder / "log_toy.csv", index=False
    )


def test_a_notebook_keeps_one_picture_of_the_whole_log(tmp_path):
    cells = [
        CELL.format(folder=str(tmp_path), every=0.0, steps=[2, 3, 4]),
        CELL.format(folder=str(tmp_path), every=0.0, steps=[]),
    ]  # finished: it is only loaded
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(book, timeout=60, kernel_name="python3").execute()
    for cell in book.cells:
        told, *pictures = cell.outputs
        assert told.text == "going on\n" and len(pictures) == 1
    running, loaded = (cell.outputs[1].data["image/png"] for cell in book.cells)
    assert running == loaded, "the last picture shows all of the log"


@pytest.mark.parametrize(("takes", "drawn"), [(0.0, 20), (0.5, 4)])
def test_drawing_is_seldom_enough(tmp_path, monkeypatch, takes, drawn):
    clock, count = [0.0], []

    def draw(self):
        clock[0] += takes
        count.append(1)

    monkeypatch.setattr(live._Live, "draw", draw)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    with live.follow(tmp_path, "toy", every=5.0) as watch:
        for step in range(100):
            clock[0] += 1.0
            watch(step)
        assert len(count) == drawn and takes * len(count) <= 0.02 * clock[0] + takes
    assert len(count) == drawn + 1


def test_outside_notebooks_nothing_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "losses", lambda *_: pytest.fail("drawn"))
    write_log(tmp_path, (1, 2.0, 3.0))
    with live.follow(tmp_path, "toy", every=0.0) as watch:
        watch(1)


def test_a_failing_training_shows_its_own_error(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "_in_notebook", lambda: True)  # and there is no log yet
    with pytest.raises(S3EError, match="diverged"), live.follow(tmp_path, "toy"):
        raise S3EError("diverged.")


def test_log_carries_the_validation_score(tmp_path):
    write_log(tmp_path, (10, 3.0, 1.0), (20, 2.0, 1.0), (30, 1.0, 1.0))
    assert list(live.read_log(tmp_path, "toy").columns) == ["step", "pixel", "critic"]
    pd.DataFrame({"step": [15, 30], "score": [21.0, 22.0]}).to_csv(
        tmp_path / "validation_toy.csv", index=False
    )
    figure = curves.losses(live.read_log(tmp_path, "toy"))
    lines = {
        axes.get_title(loc="left"): axes.lines[0].get_xydata().tolist() for axes in figure.axes
    }
    assert lines["validation"] == [[15, 21], [30, 22]]
    assert lines["pixel"] == [[10, 3], [20, 2], [30, 1]]
    assert [axes.get_ylabel() for axes in figure.axes] == ["weighted loss", "", "PSNR (dB)"]
    semantic = curves.losses(live.read_log(tmp_path, "toy").rename(columns={"pixel": "caption"}))
    assert semantic.axes[-1].get_ylabel() == "− sum of losses"


def test_titles_of_six_losses_are_not_cut():
    terms = ("pixel", "adversarial", "tree", "caption", "critic", "validation score")
    figure = curves.losses(pd.DataFrame({"step": [20, 600], **dict.fromkeys(terms, [0.1, 10.0])}))
    figure.draw_without_rendering()
    assert max(axes.get_tightbbox().x1 for axes in figure.axes) <= figure.bbox.x1


def test_snapshots_are_those_of_one_training_in_order(tmp_path):
    (tmp_path / "progress").mkdir()
    for name, step in (("toy", 30), ("toy", 0), ("toy_a2", 5)):
        np.savez(
            tmp_path / "progress" / f"{name}_{step:07d}.npz",
            restored=np.full((2, 8, 8, 3), step, np.uint8),
        )
    found = live.snapshots(tmp_path, "toy")
    assert list(found) == [0, 30] and found[30]["restored"].max() == 30
    with pytest.raises(S3EError, match="no samples of the training 'other'"):
        live.snapshots(tmp_path, "other")


def test_pictures_of_progress_name_their_updates():
    generator = np.random.default_rng(0)
    images = {
        name: generator.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
        for name in ("blurred", "sharp")
    }
    moments = {step: {**images, "restored": images["sharp"] // 2} for step in (0, 8, 80)}
    titles = [axes.get_title() for axes in curves.restorations(moments).axes[:5]]
    assert titles == ["blurred input", "update 0", "update 8", "update 80", "sharp"]
    maps = {step: generator.dirichlet(np.ones(64), 7).reshape(7, 8, 8) for step in (0, 8)}
    names = [["dog"] * 7, ["cat"] * 7]
    figure = curves.readings(images["sharp"][0], maps, names, ["cat"] * 7)
    texts = [axes.texts[0].get_text() for axes in figure.axes]
    assert texts == ["update 0", *["✗ dog\n(cat)"] * 7, "update 8", *["cat"] * 7]


def test_direction_is_scaled_around_grey():
    wish = np.zeros((1, 4, 4, 3))
    wish[0, 0, 0] = [3e-6, -3e-6, 0]
    image = np.zeros((1, 4, 4, 3), np.uint8)
    middle = curves.directions(image, {"pixel": wish}, image).axes[1]
    assert middle.get_title() == "pixel loss"
    assert middle.images[0].get_array()[0, 0].tolist() == pytest.approx([1, 0, 0.5])
    assert middle.images[0].get_array()[1, 1].tolist() == pytest.approx([0.5, 0.5, 0.5])


def test_norms_have_the_closed_form():
    first, second, idle = (nn.Parameter(torch.ones(2)) for _ in range(3))
    terms = {
        "both": 3 * first[0] + 4 * first[1] + 2 * second[0],
        "one": -second.sum(),
        "none": torch.tensor(1.0),
    }
    table = effects._norms(terms, {"first": [first], "second": [second, idle]})
    assert table.loc["both"].tolist() == pytest.approx([5, 2])
    assert table.loc["one"].tolist() == pytest.approx([0, 2**0.5])
    assert table.loc["none"].tolist() == [0, 0]


def arm(tiny, corpus, variant="full", **overrides):
    """Networks of an arm whose embedding has left zero, a batch of two photos, the settings."""
    config = load_config("smoke", overrides={**TINY, **overrides})
    model = build_model(config, corpus, variant)
    for embed in model.generator.embed.values():
        nn.init.normal_(embed.mix.weight, std=0.1)
    batch = corpus.val.batch(np.arange(2), "severe")
    return model, build_critic(config), batch, config


def test_semantic_losses_reach_what_they_can(tiny, corpus):
    config = load_config("smoke", overrides={**TINY, "loss.distillation": 1.0})
    source, batch = new_source(config, corpus), corpus.val.batch(np.arange(2), "severe")
    table = effects.of_semantics(source, batch, config, tree=True, caption=True, distillation=True)
    assert list(table.columns) == ["encoder", "tree", "decoder"]
    reached = {term: (row > 0).tolist() for term, row in table.iterrows()}
    assert reached == {
        "tree": [True, True, False],
        "caption": [True] * 3,
        "distillation": [True, False, False],
    }
    assert list(effects.of_semantics(source, batch, config, tree=True, caption=False).index) == [
        "tree"
    ]
    twice = load_config("smoke", overrides={**TINY, "loss.tree": 0.2})
    double = effects.of_semantics(source, batch, twice, tree=True, caption=False)
    assert (double.loc["tree"] / 2).tolist() == pytest.approx(table.loc["tree"].tolist(), rel=1e-5)
    exact = effects.of_semantics(source.double(), batch, twice, tree=True, caption=False)
    assert exact.loc["tree"].tolist() == pytest.approx(double.loc["tree"].tolist(), rel=1e-4)


def test_deblurring_losses_reach_the_tree_unless_detached_or_frozen(tiny, corpus):
    *networks, batch, config = arm(tiny, corpus)
    table = effects.of_deblurring(*networks, batch, config, VARIANTS["full"])
    assert list(table.columns) == ["encoder", "tree", "decoder", "embedding", "generator"]
    assert list(table.index) == ["pixel", "adversarial", "tree", "caption"]
    assert (table.loc["pixel", ["encoder", "tree", "embedding", "generator"]] > 0).all()
    assert (
        table.loc["pixel", "decoder"] == 0
        and (table.loc["caption", ["embedding", "generator"]] == 0).all()
    )
    networks[0].generator.embed.requires_grad_(False)
    apart = effects.of_deblurring(*networks, batch, config, VARIANTS["full"])
    assert (apart.embedding == 0).all() and apart.generator.tolist() == pytest.approx(
        table.generator.tolist()
    )
    *networks, batch, config = arm(tiny, corpus, **{"loss.detach_semantics": True})
    detached = effects.of_deblurring(*networks, batch, config, VARIANTS["full"])
    assert (detached.loc["pixel", ["encoder", "tree"]] == 0).all() and detached.loc[
        "pixel", "embedding"
    ] > 0
    model, critic, batch, config = arm(tiny, corpus, "frozen")
    model.semantics.requires_grad_(False)
    frozen = effects.of_deblurring(model, critic, batch, config, VARIANTS["frozen"])
    assert list(frozen.index) == ["pixel", "adversarial"] and (
        frozen[["encoder", "tree", "decoder"]] == 0
    ).all(axis=None)


def test_the_baseline_has_a_generator_only(tiny, corpus):
    table = effects.of_deblurring(*arm(tiny, corpus, "baseline"), VARIANTS["baseline"])
    assert list(table.columns) == ["generator"] and (table > 0).all(axis=None)


def test_photos_move_towards_a_lower_loss(tiny, corpus):
    model, critic, batch, config = arm(tiny, corpus)
    wishes = effects.on_photos(model, critic, batch, config)
    with torch.no_grad():
        restored = model.eval()(batch)[0]
    error = (batch.sharp - restored).permute(0, 2, 3, 1)
    expected = config.loss.pixel / error.numel() * error.sign()
    assert torch.allclose(torch.from_numpy(wishes["pixel"]), expected, atol=1e-7)
    moved = restored + 0.1 * torch.from_numpy(wishes["adversarial"]).permute(0, 3, 1, 2)
    critic.requires_grad_(False)
    pairs = [
        effects.image_terms(config.loss, critic, None, photos, batch.sharp)
        for photos in (restored, moved)
    ]
    before, after = (float(terms["adversarial"]) for terms in pairs)
    assert after < before


def test_training_is_left_as_it_was(tiny, corpus):
    model, critic, batch, config = arm(tiny, corpus)
    model.train(), critic.train()
    states = [deepcopy(module.state_dict()) for module in (model, critic)]
    random = torch.get_rng_state()
    effects.of_deblurring(model, critic, batch, config, VARIANTS["full"])
    effects.on_photos(model, critic, batch, config)
    effects.of_semantics(model.semantics, batch, config, tree=True, caption=True, distillation=True)
    assert torch.equal(torch.get_rng_state(), random)
    for module, state in zip((model, critic), states, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
        assert all(parameter.grad is None for parameter in module.parameters())
        assert all(part.training for part in module.modules())


def test_terms_are_those_of_the_training(corpus, tmp_path):
    once = {
        "train_c.steps": 1,
        "runtime.log_every": 1,
        "runtime.save_every": 1,
        "model.dropout": 0.0,
    }
    model, critic, _, config = arm(None, corpus, "baseline", **once)
    settings, loss = config.train_c, config.loss
    batch = corpus.train.draw(settings.batch, "severe", 0, config.seed, "deblurring", "toy")
    with torch.no_grad():
        restored = model(batch)[0]
    logged = train_deblurrer(tmp_path, "toy", model, critic, corpus, config, "c").log.iloc[0]
    terms = effects.image_terms(loss, critic, None, restored, batch.sharp)
    assert list(terms) == ["pixel", "adversarial"]
    for name, value in terms.items():
        assert float(value) == pytest.approx(logged[name], rel=1e-5)
