"""Tables, findings, figures and notebook 08, on a made-up store of tiny runs."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch

from s3e.captions.tree import TreeVocabulary
from s3e.config import VARIANTS, load_config
from s3e.evaluation import collect, fidelity, gains
from s3e.evaluation.captions import METRICS
from s3e.evaluation.images import definition_scores
from s3e.report import diagram, plots, sheets, style, tables
from s3e.utils import NOTEBOOKS, write_file

GAINS = {"baseline": 0, "full": 0.4, "no_semantics_loss": 0.1, "oracle_map": 1.2, "shuffled": -0.1}
IDS, SEVERITIES = [f"val-{i}" for i in range(12)], ["light", "moderate", "severe"]
WORDS = ["a dog chases a cat", "a cat is chased by a dog", "the dog is chasing a small cat"]
WORDS += ["a dog and a cat", "a cat"]
TREE = ["dog", "null", "cat", "null", "null", "null", "chase"]


def pictures_of(count: int = 4, size: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def write_scores(folder: Path, gain: float, seed: int) -> None:
    names = ["split", "severity", "id"]
    places = pd.MultiIndex.from_product([("val", "test"), SEVERITIES, IDS], names=names)
    frame = places.to_frame(index=False).assign(ssim=0.6 + gain / 10, ssim_blurred=0.5, extent=9.0)
    number, place = frame.id.map(IDS.index), frame.severity.map(SEVERITIES.index)
    frame["psnr_blurred"] = 26 - 3 * place + 0.1 * number
    frame["psnr"] = frame.psnr_blurred + 1 + gain + 0.01 * ((number + seed) % 3)
    frame.to_csv(folder / "scores.csv", index=False)


def write_samples(folder: Path, tree: bool, restored: bool, **more: np.ndarray) -> None:
    arrays = {"ids": np.array(IDS[:4]), "sharp": pictures_of(), "blurred": pictures_of(seed=1)}
    arrays |= {"restored": pictures_of(seed=2)} if restored else {}
    arrays |= more
    if tree:
        generator = np.random.default_rng(0)
        arrays["attention"] = generator.dirichlet(np.ones(64), (4, 7)).reshape(4, 7, 8, 8)
    np.savez_compressed(folder / "samples.npz", **arrays)
    record = {"references": WORDS, "caption": WORDS[0] if tree else None, "target": TREE}
    record["predicted"] = ["dog", "null", "cup", *TREE[3:]] if tree else None
    write_file(folder / "samples.json", [{"id": name, **record} for name in IDS[:4]])


def write_semantics(folder: Path, systems: list[str]) -> None:
    axes = {"system": systems, "input": ["sharp", "severe"], "split": ["val", "test"], "id": IDS}
    frame = pd.MultiIndex.from_product(axes.values(), names=axes).to_frame(index=False)
    frame["caption"] = frame.id.map(dict(zip(IDS, WORDS[:3] * 4, strict=True)))
    reads = frame.system == systems[-1]
    for name, right in {"leaf": 0.97, "null": 0.9, "relation": 0.8, "root": 0.7}.items():
        frame.loc[reads, [f"{name}_correct", f"{name}_total"]] = right, 1
    write_file(folder / "captions.csv", frame)


def write_log(folder: Path, name: str, *terms: str) -> None:
    log = pd.DataFrame({"step": range(10, 110, 10)})
    for place, term in enumerate(terms, 1):
        log[term] = place / np.sqrt(log.step)
    log.to_csv(folder / f"log_{name}.csv", index=False)


def run_of(root: Path, variant: str) -> Path:
    folder = root / ("05_co_training" if variant == "full" else "06_ablation") / f"{variant}-s0"
    folder.mkdir(parents=True)
    write_log(folder, "cotrain", "pixel", "adversarial")
    return folder


def make_store(root: Path) -> dict[str, list[Path]]:
    """Folders as notebooks 02-06 leave them."""
    stages = ("02_train_s3_tree", "03_train_captioner", "04_train_deblurrer")
    tree, captioner, deblurrer = folders = [root / name / "s0" for name in stages]
    for folder in folders:
        folder.mkdir(parents=True)
    write_log(tree, "tree", "tree")
    write_log(deblurrer, "deblurrer", "pixel")
    write_log(captioner, "captioner", "tree", "caption")
    write_semantics(captioner, ["global", "soft_attention", "tree"])
    write_samples(captioner, tree=True, restored=False)
    variants = {variant: run_of(root, variant) for variant in GAINS}
    for (variant, folder), gain in zip(variants.items(), GAINS.values(), strict=True):
        write_scores(folder, gain, 0)
        write_samples(folder, tree=variant in ("full", "shuffled"), restored=True)
        validated = pd.DataFrame({"step": [50, 100], "score": [20 + gain / 2, 20 + gain]})
        validated.to_csv(folder / "validation_cotrain.csv", index=False)
        cost = {"parameters_generator": 300_000, "parameters_semantics": 0}
        write_file(folder / "cost.json", {**cost, "milliseconds_per_step": 100.0})
    write_semantics(variants["full"], ["full"])
    runs = {"captioners": [captioner], "others": [tree, deblurrer]}
    return runs | {"variants": list(variants.values())}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def frames(store):
    patch = pytest.MonkeyPatch()
    patch.setenv("S3E_NO_JAVA", "1")
    scores = collect.read_scores(store["variants"])
    texts = [["a boat on the sea", *WORDS[1:]], WORDS] * (len(IDS) // 2)
    split = SimpleNamespace(ids=IDS, captions=texts, targets=torch.zeros(len(IDS), 7))
    train = SimpleNamespace(captions=[["a red train", "two birds"]])
    facts = {"categories": ["dog"], "labels": TreeVocabulary(["null"], ["null"])}
    corpus = SimpleNamespace(splits={"val": split, "test": split}, train=train, **facts)
    readers = store["captioners"] + store["variants"]
    said = collect.read_captions(readers)
    compared = gains.differences(scores, 200)
    result = {
        "image_scores": gains.image_scores(scores, 200),
        "differences": compared,
        "by_seed": gains.by_seed(scores),
        "texture_control": gains.texture_control(compared, compared),
        **fidelity.caption_tables({"caption_scores": said}, corpus, 200),
        "node_accuracy": collect.node_accuracy(readers),
        "cost": collect.read(store["variants"], "cost.json"),
    }
    patch.undo()
    return result


def pick(frame: pd.DataFrame, **wanted) -> pd.Series:
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_tables_show_the_numbers_of_the_frames(frames):
    table = tables.study_table("table1_deblurring", frames, "Profile test.")
    wanted = {"split": "test", "severity": "severe", "variant": "full", "metric": "psnr"}
    row = pick(frames["image_scores"], **wanted)
    cells = table.cells.set_index("method")
    assert cells.loc["S3E-Deblur (full)", "severe PSNR"].startswith(f"{row['mean']:.2f} ± ")
    assert "One seed, no claim" in table.caption and "Profile test." in table.caption
    assert "SSIM" in table.notes[-1] and cells.index[0] == "blurred input"
    table = tables.study_table("table4_ablation", frames)
    gains = table.cells.set_index("variant")["gain (dB)"]
    assert gains["true label maps"] == "+1.20" and gains["tree of another image"] == "−0.10"
    assert gains["baseline (no semantics)"] == gains["blurred input"] == tables.DASH
    assert table.notes[0].startswith("Does the semantic branch help?")


def pairs_of(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame of scores as it looks for pairs: released and severe, the latter of fewer frames."""
    frame = frame[frame.severity != "light"].replace({"severity": {"moderate": "released"}})
    if "images" in frame:
        frame = frame.assign(images=frame.images.where(frame.severity == "released", 8))
    return frame


def test_pairs_have_a_table_of_their_own(frames):
    wanted = ("image_scores", "differences")
    paired = {"cost": frames["cost"], **{name: pairs_of(frames[name]) for name in wanted}}
    table, ablation, last = tables.study_tables(paired, "Protocol: GoPro.", "severe", frozen=True)
    assert (table.name, last.name) == ("table2_gopro", "table9_gains")
    assert table.caption.endswith("Protocol: GoPro.")
    titles = ["released PSNR", "released SSIM", "severe PSNR", "severe SSIM"]
    assert list(table.cells.columns[1:]) == titles
    assert f"{len(IDS)} (released) and 8 (severe) test frames" in table.caption
    described = ablation.cells.set_index("variant")["what it is"]
    assert "frozen" in described["S3E-Deblur (full)"]


def test_missing_meteor_is_not_run_and_never_zero(frames):
    table = tables.study_table("table3_captioning", frames)
    assert set(table.cells.METEOR) == {"not run"} and any("no Java" in note for note in table.notes)
    assert table.cells.system.iloc[0] == "random training caption"
    assert "one reference against the others" in set(table.cells.system)


def judged() -> dict[str, pd.DataFrame]:
    """Frames of semantic fidelity as `s3e.evaluation.fidelity` makes them; METEOR was not run."""
    rows = []
    trained = {"blurred": 0, "baseline": 3, "full": 3, "frozen": 1, "sharp": 0}
    for place, (system, seeds) in enumerate(trained.items()):
        for metric in (*METRICS, "leaf_accuracy", "relation_accuracy", "root_accuracy"):
            row = {"system": system, "metric": metric, "seeds": seeds, "images": 12, "reason": ""}
            row |= {"mean": 0.1 * place, "low": 0.1 * place - 0.02, "high": 0.1 * place + 0.02}
            if metric == "METEOR":
                row |= dict.fromkeys(("mean", "low", "high"), np.nan) | {"reason": "no Java"}
            rows.append(row)
    scores = pd.DataFrame(rows)
    full = scores[(scores.system == "full") & scores["mean"].notna()].drop(columns="reason")
    paired = full.assign(reference="baseline", mean=0.1, low=0.05, high=0.15)
    return {"fidelity": scores, "fidelity_differences": paired}


def test_fidelity_is_read_between_blurred_and_sharp():
    table = tables.study_table("table6_fidelity", judged())
    rows = table.cells.set_index("the judge reads")
    order = ["blurred input", "baseline (no semantics)", "S3E-Deblur (full)"]
    order += ["frozen semantics (one seed, no claim)", "sharp image"]
    assert list(rows.index) == [*order, "S3E-Deblur (full) − baseline (no semantics)"]
    assert rows.loc["sharp image", "CIDEr"] == "40.0 ± 2.0" and rows.iloc[-1].CIDEr == "+10.0 ± 5.0"
    assert set(rows.METEOR[:-1]) == {"not run"} and "no Java" in table.notes


def test_tables_are_written_twice(frames, tmp_path):
    made = tables.study_tables({**frames, **judged()}, "", "severe")
    assert len(made) == 7
    for table in made:
        csv, md = tables.write(table, tmp_path)
        assert len(pd.read_csv(csv)) == len(table.data)
        text = md.read_text()
        assert text.startswith("**") and "| " in text and "paper" not in text.lower()


def test_the_table_of_definitions_holds_numbers_and_words_alone():
    shown = pictures_of(4)
    scores = definition_scores({"blurred": shown[::-1], "full": shown // 2}, shown)
    table = tables.study_table("tableA1_definitions", {"definitions": scores})
    assert list(table.data)[:6] == [*scores, "habit", "agreement"]
    assert not table.data.map(callable).any(axis=None)
    assert table.cells["blurred input"].iloc[0] == f"{scores.value[0]:.2f}"


def test_findings_speak_of_what_was_run(frames):
    found = tables.findings({**frames, **judged()}, "severe")
    assert found["baseline"].endswith("S3E-Deblur restores better (+0.40 dB).")
    assert "of 12 test images" in found["study"] and "one training, no claim" in found["study"]
    assert found["judged"].startswith(
        "It reads S3E-Deblur's images better than the baseline's (+10.0,"
    )
    assert not {"vector_nodes", "light", "tree"} & set(found)
    worse = frames["differences"].assign(mean=-0.4, low=-0.5, high=-0.3)
    found = tables.findings({**frames, "differences": worse}, "severe")
    assert "restores worse (−0.40 dB, 95 % interval −0.50 to −0.30)" in found["baseline"]
    assert "Under light blur" in found["light"]
    guess = frames["node_accuracy"].iloc[:1].assign(input="none", variant="most frequent label")
    guess = guess.assign(metric="leaf_accuracy", split="test")
    known = pd.concat([frames["node_accuracy"], guess])
    found = tables.findings({"node_accuracy": known}, "severe")
    assert "a guess that sees nothing names 97.0 %" in found["tree"] and "hardly" in found["unread"]


# ------------------------------------------------------------------------------------------ figures


def logs_of(store) -> pd.DataFrame:
    return collect.read_logs(store["variants"] + store["others"])


def makers(store, frames):
    shown, kernel, kick = pictures_of(4), np.ones((9, 9)) / 81, np.linspace(0, 9 + 3j, 50)
    arrays, records = collect.read_samples(store["variants"][1])
    labels = [[record[name] for record in records] for name in ("predicted", "target")]
    said = collect.read_captions(store["captioners"] + store["variants"])
    words, looks = np.full((5, 7), 1 / 7), arrays["attention"]
    columns = {"blurred": shown, "baseline": shown[::-1], "full": shown}
    return {
        "fig1": lambda: sheets.severities(shown[:1], {"severe": shown}, {"severe": [kernel]}),
        "fig2": lambda: diagram.framework(shown[0], shown[1], "a dog chases a cat"),
        "fig3": lambda: diagram.forest(WORDS[:2], shown[0]),
        "fig4": lambda: sheets.results(columns, shown, count=1),
        "fig6": lambda: sheets.node_attention(shown, looks, *labels),
        "fig7": lambda: sheets.captions({"blurred": shown}, records, said, "severe"),
        "fig8": lambda: plots.gain_by_severity(frames["differences"]),
        "fig9": lambda: plots.training_curves(logs_of(store)),
        "fig14": lambda: plots.seeds(frames["by_seed"], frames["differences"]),
        "tree": lambda: diagram.tree(TREE, [0.5] * 7),
        "losses": lambda: plots.losses(store["variants"][0], "cotrain"),
        "shakes": lambda: sheets.shakes({"short": (kick, 9, kernel, shown[0])}),
        "words": lambda: sheets.word_attention(shown[0], WORDS[0], words, looks[0]),
        "changes": lambda: sheets.changed_trees(*shown[:2], {"root off": (shown[2], -0.3)}),
    }


def digests(paths):
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_every_figure_redraws_to_the_same_bytes(store, frames, tmp_path):
    for name, draw in makers(store, frames).items():
        first = digests(style.save(draw(), tmp_path / "a", name))
        with mpl.rc_context({"font.size": 20, "savefig.dpi": 40}):  # other settings do not leak in
            assert digests(style.save(draw(), tmp_path / "b", name)) == first, name
        assert b"Matplotlib" not in (tmp_path / "a" / f"{name}.png").read_bytes()[:300]


def test_axes_are_labelled_with_units(store, frames):
    (axes,) = plots.gain_by_severity(frames["differences"]).axes
    assert "(dB)" in axes.get_ylabel() and axes.get_xlabel()
    curves = [axes for axes in plots.training_curves(logs_of(store)).axes if axes.get_visible()]
    assert all(
        axes.get_xlabel() and axes.get_ylabel() and axes.get_title("left") for axes in curves
    )
    axes = plots.seeds(frames["by_seed"], frames["differences"]).axes[0]
    assert axes.get_yticklabels()[0].get_text() == "S3E-Deblur (full) (1 seed)"
    mine = {"full": "mine"}  # a variant without a line in looks.csv
    new = [frames[name].replace(mine) for name in ("by_seed", "differences")]
    assert "mine (1 seed)" in [
        text.get_text() for text in plots.seeds(*new).axes[0].get_yticklabels()
    ]


def test_a_training_shows_its_losses_and_its_validation(store):
    shown = plots.losses(store["variants"][0], "cotrain").axes
    wanted = ["pixel loss", "adversarial loss", "validation score"]
    assert [axes.get_ylabel() for axes in shown if axes.get_visible()] == wanted
    several = plots.losses(store["captioners"][0], "*", by="training").axes
    assert [axes.get_ylabel() for axes in several[:2]] == ["tree loss", "caption loss"]


def test_wrong_labels_are_marked_and_unknown_ones_are_not():
    maps, guess = np.full((2, 7, 4, 4), 1 / 16), ["dog", *["null"] * 5, "next_to"]
    truth = ["cat", *["null"] * 5, "?"]
    axes = sheets.node_attention(pictures_of(2), maps, [guess] * 2, [truth, None]).axes
    notes = [axis.get_xlabel() for axis in axes]
    assert notes[2:4] == ["✗ dog\n(cat)", "dog"] and notes[-2:] == ["next to", "next to"]


def test_failures_are_where_full_loses_most_and_where_variants_disagree():
    sharp = np.full((4, 8, 8, 3), 100, np.uint8)
    off = {"blurred": [40] * 4, "baseline": [9, 9, 2, 9], "full": [9, 5, 8, 9], "oracle": [1] * 4}
    off["no_tree_loss"] = [60, 5, 5, 9]
    columns = {name: sharp + np.reshape(np.uint8(off[name]), (4, 1, 1, 1)) for name in off}
    shown, truth, words = sheets.failures(columns, sharp, 1)
    assert [int(error) for error in shown["full"][:, 0, 0, 0] - truth[:, 0, 0, 0]] == [8, 9]
    assert words == ["gain -12.0 dB", "16.5 dB apart"]


def test_legends_stay_inside(store):
    logs = collect.read_logs(store["variants"])
    figure = plots.curves(logs[logs.term == "pixel"])
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert 0 <= box.x0 and box.x1 <= figure.bbox.x1


def test_every_variant_has_its_own_look_from_the_safe_palette():
    looks = style.LOOKS.loc["blurred":"flat_spatial"]
    assert not looks[["color", "marker"]].duplicated().any() and set(VARIANTS) < set(looks.index)
    okabe_ito = "#000000 #E69F00 #56B4E9 #009E73 #F0E442 #0072B2 #D55E00 #CC79A7"
    assert set(looks.color) <= {*okabe_ito.split(), style.GREY}


def test_no_two_training_curves_look_alike(store):
    logs = collect.read_logs(store["variants"])
    each = pd.concat([logs[logs.variant == "full"].assign(variant=name) for name in VARIANTS])
    figure = plots.training_curves(each)

    def looks(lines) -> dict[str, tuple[str, str]]:
        return {line.get_label(): (line.get_color(), line.get_marker()) for line in lines}

    drawn = looks(line for line in figure.axes[0].lines if line.get_linewidth() > 1)
    assert len(set(drawn.values())) == len(VARIANTS)
    assert looks(figure.legends[0].get_lines()) == drawn


class FakeRun(SimpleNamespace):
    """What notebook 08 sees of the pipeline: pairs without captions."""

    config, store_name, skipped, kind = load_config("smoke"), "smoke", {}, "pairs"
    borrowed, captioned = "these data have no captions: the tree is borrowed", False
    study = SimpleNamespace(texture_control=[])

    def upstream(self, stage):
        return self.runs[stage][0]

    def upstream_runs(self, stage):
        return self.runs.get(stage, [])

    def card(self):
        return "card"

    def finish(self, metrics, outputs=()):
        self.outputs = [Path(path) for path in outputs]


def execute_08(run: FakeRun, figures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    severities, shown = ("released", "severe"), pictures_of(len(IDS))
    views = dict.fromkeys(severities, shown)
    split = SimpleNamespace(ids=IDS, sharp=shown, blurred=views, label_maps=None)
    split.rows, split.apart = (lambda *names: np.arange(len(IDS))), (lambda rows: rows)
    corpus = SimpleNamespace(val=split, test=split, severities=severities, synthetic=())
    monkeypatch.setattr("s3e.data.corpus.load_corpus", lambda folder: corpus)
    monkeypatch.setattr("s3e.pipeline.opened.open_run", lambda *args, **kwargs: run)
    notebook = json.loads((NOTEBOOKS / "08_figures_and_tables.ipynb").read_text())
    cells = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    space = {}
    for number, source in enumerate(cells):
        code = "".join(source).replace("display(", "str(")
        code = code.replace('figures_dir: str = ""', f"figures_dir: str = {str(figures)!r}")
        exec(compile(code, f"cell {number}", "exec"), space)


def test_notebook_08_draws_what_pairs_without_captions_have(frames, tmp_path, monkeypatch, capsys):
    baseline, full = (run_of(tmp_path, variant) for variant in ("baseline", "full"))
    for folder in (baseline, full):
        severity = np.array(["released", "severe"] * 2)
        write_samples(folder, tree=False, restored=True, severity=severity)
    stages = ("01_data_blurring", "07_evaluation")
    corpus, evaluation = (tmp_path / stage / "all" for stage in stages)
    evaluation.mkdir(parents=True)
    for name in ("image_scores", "differences", "by_seed"):
        pairs_of(frames[name]).to_csv(evaluation / f"{name}.csv", index=False)
    frames["cost"].to_csv(evaluation / "cost.csv", index=False)
    write_file(corpus / "corpus.json", {"protocol": "made up for a test"})
    origin = {"commit": "abc", "dirty": False, "data": {"source": "scenes", "fingerprint": None}}
    for folder in (corpus, evaluation):
        write_file(folder / "provenance.json", origin)
    runs = dict(zip(stages, ([corpus], [evaluation]), strict=True))
    run = FakeRun(runs=runs | {"05_co_training": [full], "06_ablation": [baseline]})
    execute_08(run, tmp_path / "figures", monkeypatch)
    wanted = "fig1_severities fig5_gopro fig8_gain_by_severity fig9_training fig14_seeds"
    wanted += " table2_gopro table4_ablation table9_gains findings manifest"
    assert {path.stem for path in run.outputs} == set(wanted.split())
    caption = (tmp_path / "figures" / "table2_gopro.md").read_text()
    protocol = "Protocol: made up for a test; these data have no captions: the tree is borrowed."
    said = capsys.readouterr().out
    assert protocol in caption and "tables 3, 5 and 6 are left" in said
    assert "figures 2, 3, 6 and 7 are left out: these data have no captions" in said
