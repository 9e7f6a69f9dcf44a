"""Single photos through trained networks: the study's own numbers, any size, edits of the tree, exported folders."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

import s3e
from s3e.blur import blur_batch
from s3e.data.corpus import load_corpus, to_tensor
from s3e.data.photos import photograph
from s3e.data.scenes import make_split
from s3e.evaluation.images import psnr, ssim
from s3e.inference import Restorer, bundle, export, memory
from s3e.inference.restorer import _widened
from s3e.models.tree import predicted_nodes
from s3e.utils import ROOT, S3EError


@pytest.fixture(scope="module")
def restorer():
    return Restorer.load()


@pytest.fixture(scope="module")
def scenes():
    found = make_split("test", 24, size=64)
    sharp = np.stack([scene.image for scene in found])
    return found, sharp, blur_batch(sharp, [scene.id for scene in found], "severe")[0]


@pytest.fixture(scope="module")
def reading(restorer, scenes):
    return restorer.read(scenes[2][1])


def test_demonstration_weights_are_small_and_say_what_they_are_for(restorer):
    files = [path for path in bundle.DEMONSTRATION.iterdir() if path.is_file()]
    assert (
        sum(path.stat().st_size for path in files) < 10e6
        and "no use on photographs" in restorer.about
    )
    assert restorer.arms == ("baseline", "full") and restorer.readers == ("full", "captioner")
    assert s3e.Restorer is Restorer


def table(text, start):
    """The table of a card whose first column is called `start`."""
    lines = [
        line
        for line in text[text.index(f"| {start} ") :].split("\n\n")[0].splitlines()
        if "|:-" not in line
    ]
    head, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return pd.DataFrame(rows, columns=head)


def test_the_card_is_what_the_code_writes(restorer, scenes):
    """All but the scores and accuracies of the runs is written again; photographs are restored again."""
    text = (bundle.DEMONSTRATION / "README.md").read_text(encoding="utf-8")
    record = json.loads((bundle.DEMONSTRATION / "bundle.json").read_text())
    assert record["about"] == export._scenes(restorer.config, bundle.DEMONSTRATION)
    runs = table(text, "blur"), table(text, "reader")
    again = export.card(restorer.source, record, *runs, export._photographs(restorer))
    told, found = (
        [float(number) for number in re.findall(r"\d+\.\d\d\b", card)] for card in (text, again)
    )
    assert re.sub(r"\d+\.\d\d\b", "#", text) == re.sub(r"\d+\.\d\d\b", "#", again)
    assert len(told) > 12 and told == pytest.approx(found, abs=0.02)


def test_the_card_tells_the_truth(restorer):
    """Its severe scores and all accuracies, from the weights alone: all 200 test scenes again."""
    text = (bundle.DEMONSTRATION / "README.md").read_text(encoding="utf-8")
    scores, nodes = table(text, "blur").set_index("blur"), table(text, "reader")
    found = make_split("test", 200, size=64)
    sharp, ids = np.stack([scene.image for scene in found]), [scene.id for scene in found]
    truth = np.array([scene.tree.nodes for scene in found])
    views = {name: blur_batch(sharp, ids, name)[0] for name in ("light", "moderate", "severe")} | {
        "sharp": sharp
    }
    pictures = [
        np.stack([restorer.restore(p, arm) for p in views["severe"]])
        for arm in ("baseline", "full")
    ]
    for told, images in zip(scores.loc["severe"], [views["severe"], *pictures], strict=True):
        pairs = list(zip(images, sharp, strict=True))
        told_psnr, told_ssim = map(float, re.findall(r"[\d.]+", told))
        assert np.mean([psnr(*pair) for pair in pairs]) == pytest.approx(told_psnr, abs=0.02)
        assert np.mean([ssim(*pair) for pair in pairs]) == pytest.approx(told_ssim, abs=0.002)
    assert len(nodes) == 8
    for reader, view, *told in nodes.itertuples(index=False):
        with torch.no_grad():
            ids = predicted_nodes(restorer.semantics(reader)(to_tensor(views[view])).tree).numpy()
        labels = restorer.labels.entities, restorer.labels.relations
        right = np.array([[labels[k >= 4][i] for k, i in enumerate(row)] for row in ids]) == truth
        some = truth != "null"
        shares = (
            right[:, :4][some[:, :4]].mean(),
            right[:, 4:][some[:, 4:]].mean(),
            right[:, 6].mean(),
        )
        assert [float(share.rstrip("%")) for share in told] == pytest.approx(
            [100 * s for s in shares], abs=0.3
        )


def test_the_tree_is_read_and_the_caption_said(restorer, scenes):
    found, _, blurred = scenes
    read = [restorer.read(photo) for photo in blurred]
    right = np.mean(
        [
            a == b
            for r, s in zip(read, found, strict=True)
            for a, b in zip(r.nodes, s.tree.nodes, strict=True)
        ]
    )
    assert right > 0.85
    first = read[1]
    assert first.caption == " ".join(first.words) and first.words[0] in ("a", "an", "the", "there")
    assert first.word_attention.shape == (len(first.words), 7)
    assert np.allclose(first.word_attention.sum(1), 1, atol=1e-5) and np.allclose(
        first.attention.sum((1, 2)), 1, atol=1e-5
    )
    for node in range(7):
        (label, best), *_ = first.ranking(node)
        assert label == first.nodes[node] and best == pytest.approx(first.confidence[node])


def test_the_captioner_reads_sharp_scenes_better(restorer, scenes):
    found, sharp, _ = scenes
    right = {
        name: sum(
            restorer.read(photo, name).nodes == scene.tree.nodes
            for photo, scene in zip(sharp, found, strict=True)
        )
        for name in restorer.readers
    }
    assert right["captioner"] > right["full"]


@pytest.mark.parametrize("shape", [(64, 64), (17, 40), (100, 237), (300, 90)])
def test_any_size_and_orientation(restorer, shape):
    photo = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    photo.setflags(write=False)
    read = restorer.read(photo)
    tall, wide = read.attention.shape[1:]
    assert (
        min(tall, wide) == 16
        and abs(tall / wide - shape[0] / shape[1]) < 0.15 * shape[0] / shape[1]
    )
    assert restorer.restore(photo).shape == photo.shape


def test_a_very_long_photo_is_squashed_before_it_is_read(restorer):
    assert restorer.read(np.zeros((20, 2000, 3), np.uint8)).attention.shape[1:] == (16, 256)


def test_a_photo_that_does_not_fit_into_memory_is_told_before(restorer, scenes, monkeypatch):
    large = np.zeros((900, 1000, 3), np.uint8)
    wanted = {how: memory.needed((12000, 4000), 16, 48, 768, how) for how in ("whole", "tile")}
    assert wanted["tile"] < 2**31 < wanted["whole"] < 2**34  # bytes
    monkeypatch.setattr(memory, "available", lambda: 100e6)
    with pytest.raises(
        S3EError,
        match=r"1008 x 912 pixels need about 0\.\d GiB .* 0\.1 are free: .*--statistics tile",
    ):
        restorer.restore(large, "baseline")
    assert restorer.restore(large, "baseline", statistics="tile", tile=256).shape == large.shape
    assert restorer.restore(scenes[2][0], "baseline").shape == (64, 64, 3)


def test_turning_the_photo_turns_the_grid(restorer):
    photo = np.rint(255 * photograph("chelsea", 96)).astype(np.uint8)[:64]
    upright, turned = (
        restorer.read(photo),
        restorer.read(np.ascontiguousarray(photo.transpose(1, 0, 2))),
    )
    assert upright.attention.shape[1:] == turned.attention.shape[:0:-1] == (16, 24)


def test_three_lines_of_the_readme(restorer, scenes, tmp_path, monkeypatch):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [lines] = re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(scenes[2][0]).save("photo.jpg", quality=95)
    exec(lines, {})
    assert len(lines.split("\n\n")[1].splitlines()) == 2, "an import and two lines"
    apart = s3e.read_photo("restored.jpg").pixels.astype(int) - restorer.restore(
        s3e.read_photo("photo.jpg").pixels
    )
    assert np.abs(apart).mean() < 4, "JPEG changes it by about 2"


def test_maps_keep_their_place_when_the_photo_is_padded():
    ramp = torch.linspace(0.5, 9.5, 10).expand(
        1, 1, 10, 10
    )  # one unit a cell over a photo of 100 pixels: x / 10
    wide = _widened(ramp, (100, 100, 3), (1, 3, 112, 112))
    cells = (np.arange(10) + 0.5) * 11.2 / 10  # the same, over 112 pixels
    assert np.allclose(wide[0, 0, 0, :8], cells[:8], atol=1e-4) and float(wide.max()) <= 9.5
    assert torch.equal(_widened(ramp, (112, 112, 3), (1, 3, 112, 112)), ramp)


def test_an_edited_leaf_is_read_as_asked_and_changes_the_picture(restorer, scenes, reading):
    photo = scenes[2][1]
    for leaf, label in ((0, "horse"), (2, "man"), (2, "car")):
        edited = restorer.relabel(reading, leaf, label)
        assert edited.nodes[leaf] == label != reading.nodes[leaf]
        others = [node for node in range(4) if node != leaf]
        assert np.array_equal(edited.maps[0, others], reading.maps[0, others])
        assert not np.array_equal(edited.maps[0, 6], reading.maps[0, 6]), (
            "the root must follow its leaves"
        )
        assert (
            restorer.restore(photo, reading=edited) != restorer.restore(photo, reading=reading)
        ).any()


def test_nearly_every_edit_succeeds(restorer, reading):
    entities = restorer.labels.entities[1:]
    done = [
        restorer.relabel(reading, leaf, label).nodes[leaf] == label
        for leaf in (0, 2)
        for label in entities
    ]
    assert np.mean(done) > 0.9


def test_maps_that_are_given_take_the_place_of_the_tree(restorer, scenes, reading):
    photo = scenes[2][1]
    assert (restorer.restore(photo, maps=reading.maps) == restorer.restore(photo)).all()
    assert (restorer.restore(photo, maps=reading.maps * 0) != restorer.restore(photo)).any()
    assert (
        restorer.restore(photo, "baseline", maps=reading.maps)
        == restorer.restore(photo, "baseline")
    ).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r, p: r.restore(p, "fulll"), "no arm 'fulll'; choose one of baseline, full"),
        (lambda r, p: r.read(p, "judge"), "no reader 'judge'"),
        (lambda r, p: r.read(p.astype(float)), "must be uint8"),
        (lambda r, p: r.restore(p[:8]), "16 pixels or more"),
        (
            lambda r, p: r.restore("photo.jpg"),
            "must be an array, not str; s3e.read_photo(path).pixels reads",
        ),
        (
            lambda r, p: r.restore(p, reading=r.read(p, "captioner")),
            "by 'captioner', which no deblurrer knows",
        ),
        (
            lambda r, p: r.relabel(r.read(p, "captioner"), 0, "dog"),
            "by 'captioner', which no deblurrer knows",
        ),
        (lambda r, p: r.relabel(r.read(p), 4, "dog"), "leaf 4"),
        (lambda r, p: r.relabel(r.read(p), 0, "unicorn"), "'unicorn' is unknown"),
    ],
)
def test_wrong_requests_say_what_is_right(restorer, scenes, call, message):
    with pytest.raises(S3EError, match=re.escape(message)):
        call(restorer, scenes[2][0])


def test_a_store_of_runs_restores_what_its_own_run_restored(smoke):
    mine = Restorer.load(smoke["runs"])
    assert "smoke" in mine.about and mine.readers == ("full", "captioner")
    data = smoke["runs"] / "01_data_blurring" / "all"
    blurred = np.load(data / "test_severe.npy")
    for arm, folder in (
        ("full", "05_co_training/full-s0"),
        ("baseline", "06_ablation/baseline-s0"),
    ):
        kept = np.load(smoke["runs"] / folder / "restored_test.npy")
        again = np.stack([mine.restore(photo, arm) for photo in blurred])
        assert np.abs(again.astype(int) - kept).max() <= 1


def test_an_exported_folder_is_the_store_in_small(smoke, tmp_path):
    export.export(smoke["runs"], tmp_path)
    record = json.loads((tmp_path / "bundle.json").read_text())
    store, folder = Restorer.load(smoke["runs"]), Restorer.load(tmp_path)
    for name, origin in record["origin"].items():
        run = smoke["runs"].parent / origin["run"]
        outputs = json.loads((run / "done.json").read_text())["outputs"]
        assert origin["sha256"] in {about["sha256"] for about in outputs.values()}, name
    assert folder.about.startswith(
        "Weights, trained on the suite's built-in scenes (64 px, severe blur)"
    )
    photo = np.load(smoke["runs"] / "01_data_blurring" / "all" / "test_severe.npy")[0]
    assert (store.restore(photo) == folder.restore(photo)).all()
    assert store.read(photo).caption == folder.read(photo).caption
    assert store.editable == folder.editable and len(store.editable) > 10
    assert np.array_equal(store._prototypes, folder._prototypes, equal_nan=True)
    for words, says in (
        ([smoke["runs"], tmp_path], "holds weights already: add --overwrite"),
        (
            [smoke["runs"], smoke["runs"], True],
            "holds other files already: name a new or empty folder",
        ),
        ([tmp_path, tmp_path, True], "was exported itself"),
    ):
        with pytest.raises(S3EError, match=says):
            export.export(*words)
    (tmp_path / "captioner-semantics.safetensors").write_bytes(b"old")
    export.export(smoke["runs"], tmp_path, overwrite=True)
    assert Restorer.load(tmp_path).read(photo, "captioner").words


def test_a_store_without_captions_takes_words_and_captioner_from_its_lender(
    smoke, tmp_path, monkeypatch
):
    """A store as `--data FOLDER` leaves it, made of the smoke store's files: the lender is known by its runs' keys."""
    runs, folder = smoke["runs"], tmp_path / "runs" / "smoke@photos"
    for run in ("01_data_blurring/all", "03_train_captioner/s0"):
        shutil.copytree(runs / run, tmp_path / "runs" / "lender" / run)
    for run in ("05_co_training/full-s0", "06_ablation/baseline-s0"):
        shutil.copytree(
            runs / run, folder / run, ignore=shutil.ignore_patterns("nodes.csv", "captions.json")
        )
    own = shutil.copytree(runs / "01_data_blurring/all", folder / "01_data_blurring/all")
    (own / "done.json").write_text(json.dumps({"key": "its own"}))
    (own / "corpus.json").write_text(
        json.dumps(json.loads((own / "corpus.json").read_text()) | {"captioned": False})
    )
    full = folder / "05_co_training/full-s0"
    made = json.loads((full / "provenance.json").read_text())
    lent = ("01_data_blurring/all", "03_train_captioner/s0")
    made["upstream"] |= {f"captioned:{name}": made["upstream"][name] for name in lent}
    made["upstream"]["01_data_blurring/all"] = "its own"
    (full / "provenance.json").write_text(json.dumps(made))

    monkeypatch.setattr(bundle, "RUNS", tmp_path / "none")
    mine, lender = Restorer.load(folder), Restorer.load(runs)
    assert mine.readers == ("full", "captioner") and mine.source.corpus.parts[-3] == "lender"
    assert mine.source.longest == lender.source.longest and mine.words.words == lender.words.words
    photo = np.load(runs / "01_data_blurring" / "all" / "test_severe.npy")[0]
    assert mine.read(photo, "captioner").caption == lender.read(photo, "captioner").caption
    assert np.array_equal(mine._prototypes, lender._prototypes, equal_nan=True)
    export.export(folder, tmp_path / "exported")
    card = (tmp_path / "exported" / "README.md").read_text(encoding="utf-8")
    assert "| reader" not in card and "| severe" in card
    shutil.rmtree(tmp_path / "runs" / "lender")
    with pytest.raises(S3EError, match="photos and words that it was trained with are gone"):
        Restorer.load(folder)


def test_entities_never_read_rightly_look_as_the_leaves_that_should_show_them(smoke):
    """Where every leaf is read as empty; and a configuration that says "cuda" does not move the network."""
    store = Restorer.load(smoke["runs"])
    runtime = store.config.runtime.model_copy(update={"device": "cuda"})
    source = replace(store.source, config=store.config.model_copy(update={"runtime": runtime}))
    semantics, train = store.semantics("full"), load_corpus(source.corpus).train
    with torch.no_grad():
        semantics.tree.classify.entity.bias[0] = 1e4
        vectors = semantics(to_tensor(np.array(train.blurred["severe"]))).tree.vectors.numpy()
    means, leaves = bundle.prototypes(source, semantics), train.targets[:, :4].numpy()
    assert set(np.flatnonzero(np.isfinite(means).all((0, 2)))) == set(leaves[leaves >= 0])
    assert np.allclose(means[2, 5], vectors[:, :4][leaves == 5].mean(0), atol=1e-4)


def test_missing_and_damaged_weights_are_named(tmp_path, scenes):
    with pytest.raises(S3EError, match="no weights there"):
        Restorer.load(tmp_path)
    (tmp_path / "05_co_training").mkdir()
    with pytest.raises(S3EError, match="co-training is not finished"):
        Restorer.load(tmp_path)
    copy = shutil.copytree(bundle.DEMONSTRATION, tmp_path / "copy")
    (copy / "full-generator.safetensors").write_bytes(b"nothing")
    with pytest.raises(S3EError, match="full-generator.safetensors"):
        Restorer.load(copy).restore(scenes[2][0])
    (copy / "full-generator.safetensors").unlink()
    with pytest.raises(S3EError, match="full-generator.safetensors is missing"):
        Restorer.load(copy)
    (copy / "prototypes.npz").write_bytes(b"nothing")
    with pytest.raises(S3EError, match="prototypes.npz is missing or damaged"):
        bundle.prototypes(replace(bundle.find(), folder=copy), None)


@pytest.mark.parametrize(
    "change", [{"words": {}}, {"labels": 3}, {"config": {"new": 1}}, {"origin": None}]
)
def test_a_record_of_another_version_is_named(tmp_path, change):
    copy = shutil.copytree(bundle.DEMONSTRATION, tmp_path / "copy")
    record = json.loads((copy / "bundle.json").read_text()) | change
    (copy / "bundle.json").write_text(json.dumps(record))
    with pytest.raises(
        S3EError, match=r"bundle.json is damaged or of another version \(.*export it again"
    ):
        Restorer.load(copy)


def test_the_first_seed_is_the_smallest_number(tmp_path):
    for seed in (10, 9):
        (tmp_path / f"05_co_training/full-s{seed}").mkdir(parents=True)
        (tmp_path / f"05_co_training/full-s{seed}/done.json").write_text("{}")
    with pytest.raises(S3EError, match="full-s9/params.json"):
        bundle.find(tmp_path)


def test_committed_weights_are_the_bytes_that_the_record_tells():
    import hashlib

    for name, origin in json.loads((bundle.DEMONSTRATION / "bundle.json").read_text())[
        "origin"
    ].items():
        path = bundle.DEMONSTRATION / f"{name}.safetensors"
        assert hashlib.sha256(path.read_bytes()).hexdigest() == origin["sha256"] and load_file(path)
