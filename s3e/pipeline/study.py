"""A study (settings, variants, seeds) and its runs: what each reads, its freshness key, its state,
and what a notebook does with it: `run = open_run(...)` in its first cell, `run.finish(...)` last.

With overrides, a run whose key is unchanged is read from the store without overrides, so that only
what depends on the override is computed.
"""

import contextlib
import json
import math
import shlex
import shutil
import time
from collections.abc import Collection, Iterable
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from s3e import utils
from s3e.config import GIVEN, TRUTH, VARIANTS, load_config
from s3e.data.readers import ImageIndex
from s3e.pipeline import keys
from s3e.pipeline.graph import (
    CAPTIONER,
    DRAWS,
    EVALUATES,
    JUDGES,
    PREPARES,
    STAGES,
    TREE,
    minutes,
    spoken,
    stage_named,
)
from s3e.pipeline.store import (
    FAILURE,
    KEPT,
    complete,
    describe_files,
    lost_files,
    provenance,
    record,
)
from s3e.utils import FIGURES, ROOT, S3EError, digest, read_json, write_file

OTHERS = [name for name in VARIANTS if name != "full"]  # those of 06_ablation
CAPTIONED = ("scenes", "coco", "karpathy")  # kinds of data that teach a tree and a captioner
FILES = ("semantics_from", "loss.vgg19_weights")  # settings that name a folder or file
_HELD: dict[Path, contextlib.ExitStack] = {}  # this process's locks: a notebook may open twice


def in_full(text: str) -> str:
    """A path seen from the working folder or the repository's root, in full; other words stay."""
    places = [Path(text).expanduser(), ROOT / text] if text else []
    return next((str(path.resolve()) for path in places if path.exists()), text)


class Study:
    """One profile with its data, overrides, variants and seeds: its runs, and where they lie.

    `kind`: what the data are ("scenes", "coco", "karpathy", "gopro", "folder"); `captioned`: they
    have captions. Raises `S3EError` for settings that cannot be used.
    """

    def __init__(
        self,
        profile: str,
        data: str = "scenes",
        overrides: dict[str, Any] | None = None,
        variants: Collection[str] = (),
        seeds: Collection[int] = (),
        *,
        seed: int = 0,
        run_dir: str = "",
    ):
        given = overrides or {}
        self.data = data if data == "scenes" else in_full(data)
        self.variants, self.seeds = variants, seeds
        if isinstance(given, dict):  # notebooks run in another folder
            words = {name: given[name] for name in FILES if isinstance(given.get(name), str)}
            self.overrides = given | {name: in_full(text) for name, text in words.items()}
            given = self.overrides | ({"variants": variants} if variants else {})
            given |= {"seeds": seeds, "one_seed": []} if seeds else {}
        self.config = config = load_config(profile, self.data, seed, given)
        self.selection = tuple(  # (variant, seed)
            (variant, number)
            for variant in dict.fromkeys(config.variants)
            for number in dict.fromkeys(
                config.seeds[:1] if variant in config.one_seed else config.seeds
            )
        )
        self.kind = "scenes" if data == "scenes" else ImageIndex(Path(self.data)).layout()
        self.captioned = self.kind in CAPTIONED
        if config.semantics_from and self.captioned:
            raise S3EError(
                f"semantics_from is for data without captions, and {data} has its own: leave it"
                " out."
            )
        name = profile + ("" if data == "scenes" else "@" + Path(self.data).name)
        self.root = self.base = utils.RUNS.resolve() / name
        if run_dir:
            self.root = self.base = Path(run_dir).expanduser().resolve()
        elif self.overrides:
            self.root = self.base.with_name(f"{name}+{digest(self.overrides)[:8]}")
        self._runs: dict[tuple[str, str, int | None], Run] = {}

    def run(self, stage: str, variant: str = "", seed: int = 0) -> "Run":
        """The run of `stage` for a variant and a seed, of which it takes what it depends on."""
        per = STAGES[stage].per
        if per == "variant" and variant not in OTHERS:
            raise S3EError(
                f"06_ablation has no variant '{variant}': choose one of {', '.join(OTHERS)};"
                " 05_co_training trains 'full'."
            )
        name = stage, {"full": "full", "variant": variant}.get(per, ""), seed
        name = (stage, "", None) if per == "once" else name
        return self._runs.setdefault(name, Run(self, *name))

    @cached_property
    def runs(self) -> list["Run"]:
        """Every run of the study, each after all that it reads."""
        wanted = {"full": ["full"], "variant": OTHERS}
        found = [
            self.run(name, variant, seed)
            for name, stage in STAGES.items()
            for variant, seed in self.selection
            if variant in wanted.get(stage.per, VARIANTS)
        ]
        return list(dict.fromkeys(found))

    def claim(self) -> None:
        """Note whose store this is; `S3EError` if another data folder of that name has it."""
        mark = self.root / "data.json"
        owner = read_json(mark) if mark.is_file() else self.data
        if owner != self.data and Path(owner).is_dir():
            raise S3EError(
                f"{self.root} holds the runs of {owner}, not of {self.data}: rename one of the two,"
                " or set S3E_RUNS and S3E_FIGURES."
            )
        write_file(mark, self.data)

    def command(self, **options: list) -> str:
        """The command line that runs this study, with further options; empty ones are left out."""
        given = {"profile": [self.config.profile], "data": [self.data] * (self.kind != "scenes")}
        given |= {"variants": self.variants, "seeds": self.seeds, **options}
        given["set"] = [f"{name}={json.dumps(value)}" for name, value in self.overrides.items()]
        words = [[f"--{name}", *map(str, values)] for name, values in given.items() if values]
        return shlex.join(["python", "run_all.py", *chain(*words)])


class Run:
    """One run of a stage in a study: `path` is its folder, `key` its freshness key.

    `variant` is "" and `seed` None where a stage runs once. `outputs`: files that it must leave;
    `resumed` (once it is open): it goes on with the files of an interrupted one.
    """

    def __init__(self, study: Study, stage: str, variant: str, seed: int | None):
        self.study, self.config, self.stage = study, study.config, stage
        self.variant, self.seed = variant, seed
        self.kind, self.captioned, self.stage_row = study.kind, study.captioned, STAGES[stage]
        self.folder = "all" if seed is None else f"{variant}-s{seed}" if variant else f"s{seed}"
        self.places = [root / stage / self.folder for root in (study.root, study.base)]
        self.path = self.places[0]
        self.outputs = self.stage_row.outputs + self.stage_row.caption_outputs * self.captioned

    def __str__(self) -> str:
        return f"{self.stage}/{self.folder}"

    # ------------------------------------------------------------------------ what it depends on

    @cached_property
    def why_skipped(self) -> str:
        """Why its notebook will only report, for these data, that it is skipped; "" if it works."""
        variant = VARIANTS.get(self.variant)
        if variant and variant.kind in TRUTH and self.kind != "scenes":
            return "these data have no true label maps"
        if self.captioned:
            return ""
        if self.variant == "frozen":
            return "without captions the semantics of 'full' are frozen already"
        trains = self.stage in (TREE, CAPTIONER, JUDGES)
        return "these data have no captions" if trains or variant and variant.start == "own" else ""

    @cached_property
    def reads(self) -> list["Run"]:
        """The runs of this study that it reads."""
        shared = not self.variant or VARIANTS[self.variant].start == "shared" and self.captioned
        names = [name for name in self.stage_row.reads if shared or name not in (TREE, CAPTIONER)]
        if self.seed is None:
            return [run for run in self.study.runs if run.stage in names]
        return [self.study.run(name, seed=self.seed) for name in names]

    @cached_property
    def lent(self) -> dict[str, Path]:
        """Where the data have no captions: folders of the runs that it reads of the study
        `semantics_from`, by stage.

        Raises `S3EError` if there is none, or if it does not fit the settings.
        """
        if self.captioned or self.why_skipped:
            return {}
        store, profile, needed = self.config.semantics_from, self.config.profile, []
        if self.stage == PREPARES and store:  # images that the tree was trained on are taken out
            needed = [PREPARES]
        elif self.variant and VARIANTS[self.variant].kind not in (None, *GIVEN):
            needed = [PREPARES] + [CAPTIONER] * (VARIANTS[self.variant].start == "shared")
        if needed and not store:
            raise S3EError(
                f"{self.study.data} has no captions to train the tree of '{self.variant}': run a"
                f" study that has (python run_all.py --profile {profile}) and name its store"
                f" (--semantics-from runs/{profile})."
            )
        folders = {PREPARES: "all", CAPTIONER: f"s{self.seed}"}
        found = {stage: Path(store, stage, folders[stage]) for stage in needed}
        for stage, folder in found.items():
            done = record(folder)
            if done is None or done["skipped"] or lost_files(folder, done):
                raise S3EError(
                    f"semantics_from: {folder} is not a finished run of a study with captions: run"
                    f" that study with the same --seeds until {stage[:2]}, or name another store."
                )
            theirs, ours = done["parts"]["settings"], self.settings
            for name in STAGES[stage].agree:
                if name in ours and theirs[name] != ours[name]:
                    raise S3EError(
                        f"semantics_from: {name} is {theirs[name]} in {folder} and {ours[name]}"
                        f" here: --set '{name}={theirs[name]}'."
                    )
        return found

    @cached_property
    def texture_control(self) -> list[Path]:
        """For 07 and 08: finished trainings of this study with `data.texture=random`."""
        study, own = self.study, self.config.data.texture == "category"
        if self.stage not in (EVALUATES, DRAWS) or self.kind != "scenes" or not own:
            return []
        changed = {**study.overrides, "data.texture": "random"}
        control = Study(self.config.profile, "scenes", changed, study.variants, study.seeds)
        found = [run.result() for run in control.runs if run.variant]
        return [path for path in found if path]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that it reads, flat: {"loss.pixel": 100.0, ...}; a variant's own rules are
        among them, files of weights count by their contents.
        """
        wanted, unread, found = [*self.stage_row.settings], [*self.stage_row.unread], {}
        if self.variant:
            variant = VARIANTS[self.variant]
            wanted += ["train_tree", "train_a1", "train_a2"] * (variant.start == "own")
            unread += ["loss.caption"] * (not variant.caption_loss)
            unread += ["loss.tree", "loss.null_weight"] * (not variant.tree_loss)
            rules = variant.model_dump(mode="json", exclude={"description"})
            found = {f"variant.{name}": value for name, value in rules.items()}
        used = self.config.model_copy(update={"loss": self.config.loss.effective})
        for section, values in used.model_dump(mode="json").items():
            for name, value in values.items() if isinstance(values, dict) else ():
                field = f"{section}.{name}"
                if (section in wanted or field in wanted) and field not in unread:
                    is_file = field in FILES and value and Path(value).is_file()
                    found[field] = f"SHA-256 {utils.file_digest(value)}" if is_file else value
        return found

    @cached_property
    def parts(self) -> dict[str, Any]:
        """What its key is made of: code, settings, data, and the keys of what it reads."""
        code, settings = {**keys.code_parts(self.stage)}, {**self.settings}
        if self.stage == PREPARES and self.kind != "scenes":
            code[keys.DATA] = keys.data_fingerprint(self.study.data)
        if self.stage == EVALUATES:
            from s3e.evaluation.captions import find_java

            settings["Java"] = find_java() is not None
        upstream = {str(other): other.key for other in self.reads}
        others = [("semantics", path) for path in self.lent.values()]
        others += [("texture", path) for path in self.texture_control]
        for why, path in others:
            upstream[f"{why}:{path.parent.name}/{path.name}"] = record(path)["key"]
        return {"stage": str(self), "code": code, "settings": settings, "upstream": upstream}

    @cached_property
    def key(self) -> str:
        """Its freshness key: equal keys mean equal results."""
        return digest(self.parts)

    # ----------------------------------------------------------------------- what has come of it

    def result(self) -> Path | None:
        """Folder of its finished result: its own, or in the store without overrides."""
        return next((place for place in self.places if complete(place, self.key)), None)

    def state(self) -> tuple[str, str, float | None]:
        """(fresh | skipped | running | stale | failed | missing, why, last seconds)."""
        if place := self.result():
            done = record(place)
            elsewhere = "" if place == self.path else f"from {place.parents[1].name}"
            word = "skipped" if done["skipped"] else "fresh"
            return word, done["skipped"] or elsewhere, done["seconds"]
        if utils.is_locked(self.path / ".lock"):
            return "running", "", None
        if (failure := record(self.path, FAILURE)) and failure["key"] == self.key:
            return "failed", failure["why"], None
        for place in self.places:
            if done := record(place):
                lost = [f"{name} is lost or changed" for name in lost_files(place, done)]
                why = "; ".join(keys.explain(done["parts"], self.parts) + lost)
                return "stale" if place == self.path else "missing", why, done["seconds"]
        begun, why = record(self.path, "state.json"), ""
        if begun:
            same = begun["key"] == self.key
            why = "goes on where it stopped" if same else "its code or settings changed since"
        return "missing", why and f"interrupted; {why}", None

    def require(self, coming: Collection["Run"] = ()) -> None:
        """Raise `S3EError` if it reads a run that is neither finished nor among those to come."""
        for other in self.reads:
            if other not in coming and not other.result():
                state, why, _ = other.state()
                chosen = {} if other.seed is None else {"seeds": [other.seed]}
                chosen |= {"variants": [other.variant]} if other.variant else {}
                again = self.study.command(until=[other.stage.split("_")[0]], **chosen)
                raise S3EError(
                    f"{self} needs {other}, which is {state}{why and f' ({why})'}: open"
                    f" notebooks/{other.stage}.ipynb, or: {again}."
                )

    @property
    def expected_minutes(self) -> float:
        """Measured minutes; of a profile that nobody measured those of `laptop`."""
        known = minutes(self.config.profile) or minutes("laptop")
        own = self.variant and VARIANTS[self.variant].start == "own"
        name = f"{self.stage} (own semantics)" if own else self.stage
        return known["00_start_here" if self.why_skipped else name]

    # --------------------------------------------------------------------- what its notebook reads

    @property
    def skipped(self) -> dict[str, str]:
        """The runs that it reads which were skipped, and why."""
        found = {str(other): record(other.result())["skipped"] for other in self.reads}
        return {name: why for name, why in found.items() if why}

    def upstream_runs(self, stage: str) -> list[Path]:
        """Folders of the finished runs of `stage` that it reads, without skipped ones."""
        found = [run.result() for run in self.reads if run.stage == stage_named(stage)]
        return [path for path in found if not record(path)["skipped"]]

    def upstream(self, stage: str) -> Path:
        """Folder of the one finished run of `stage` that it reads (same seed)."""
        paths = self.upstream_runs(stage)
        if len(paths) != 1:
            raise S3EError(
                f"{self} reads {len(paths)} finished runs of {stage}, not one: see"
                " run.upstream_runs and run.skipped."
            )
        return paths[0]

    @property
    def vocabulary(self) -> Path | None:
        """Folder of the run of 01 whose words and labels count (maybe of `semantics_from`)."""
        return self._semantics(PREPARES)

    @property
    def captioner(self) -> Path | None:
        """Folder of the run of 03 that tree and captioner start from, or None."""
        return self._semantics(CAPTIONER)

    def _semantics(self, stage: str) -> Path | None:
        own = self.upstream_runs(stage) if self.captioned else [self.lent.get(stage)]
        return own[0] if own else None

    @property
    def borrowed(self) -> str:
        """That the data have no captions, and whose tree is used; "" where they have."""
        lender = Path(self.config.semantics_from).name
        whose = f": tree and captioner are those of {lender}" if lender else ""
        return "" if self.captioned else f"these data have no captions{whose}"

    @property
    def figures_name(self) -> str:
        """Folder for this study's figures: a choice of variants or seeds has its own, and so have
        overrides, and a profile on other data than those that its folder shows already.
        """
        study, name = self.study, self.config.figures
        if study.variants or study.seeds:
            return f"{study.root.name}+{digest(study.selection)[:8]}"
        if study.overrides or not name:
            return study.root.name
        about = record(FIGURES / name, "manifest.json")
        shown = about and (about["profile"], about["data"]["source"])
        ours = (self.config.profile, Path(study.data).name)
        return name if shown in (None, ours) else study.root.name

    # --------------------------------------------------------------------- what its notebook does

    def card(self) -> None:
        """Print what runs, with what, for how long, and where its files go."""
        runtime, profile = self.config.runtime, self.config.profile
        rows = {
            "run": f"{self}{' (resumed)' if self.resumed else ''}",
            "profile": self.study.root.name,
            "what": self.stage_row.what,
            "computes on": f"{runtime.devices} x {runtime.device}, {runtime.precision} bits,"
            f" {runtime.threads} thread(s)",
            "expected time": spoken(self.expected_minutes) if minutes(profile) else "not measured",
            "files go to": self.path,
            "fallback": "; ".join(self.config.fallbacks()),
            "semantics from": self.config.semantics_from,
            "note": "its numbers mean nothing: it shows that all runs" * (profile == "smoke"),
        }
        print(*(f"{name:18}{text}" for name, text in rows.items() if text), sep="\n")

    def begin(self, resume: bool) -> None:
        """Take its lock and withdraw an older result; with the same key, files stay."""
        self.require()
        self.study.claim()
        self._hold()
        for name in ("done.json", FAILURE):
            (self.path / name).unlink(missing_ok=True)
        begun = record(self.path, "state.json")
        self.resumed = bool(resume and begun and begun["key"] == self.key)
        # First: a half-cleared folder must not be resumed
        (self.path / "state.json").unlink(missing_ok=True)
        if not self.resumed:
            for path in [path for path in self.path.iterdir() if path.name not in KEPT]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_file(self.path / "state.json", {"key": self.key})
        self._started = time.time()

    def _hold(self) -> None:
        def busy(owner: str) -> None:
            print(f"{self} is in use by process {owner}: waiting until that ends ...", flush=True)

        if self.path not in _HELD:
            _HELD[self.path] = utils.lock_file(self.path / ".lock", busy)

    def skip(self, reason: str) -> None:
        """End the notebook here without results, and tell downstream why."""
        self.finish({}, skipped=reason)
        raise SystemExit(0)  # stops "run all" and papermill at this cell, without an error

    def finish(
        self, metrics: dict[str, float], outputs: Iterable[str | Path] = (), skipped: str = ""
    ) -> None:
        """Check outputs and metrics, then mark the run finished.

        `outputs`: files beyond those that the stage table declares, relative to `run.path` or
        absolute. Raises `S3EError` for a missing or empty file and for a metric that is no finite
        number.
        """
        for name, value in metrics.items():
            if not hasattr(value, "__float__") or not math.isfinite(float(value)):
                raise S3EError(
                    f"metric '{name}' is {value!r}: a metric must be a finite number; look at the"
                    " run's log."
                )
        self._hold()  # again, if the last cell is run a second time
        config, study, seconds = self.config, self.study, round(time.time() - self._started, 1)
        records = {
            "metrics": {n: x if isinstance(x, int) else float(x) for n, x in metrics.items()},
            "params": {
                "stage": self.stage,
                "variant": self.variant,
                "seed": config.seed,
                "selection": study.selection,
                "overrides": study.overrides,
                "config": config.model_dump(mode="json"),
            },
            "provenance": {
                "data": {
                    "source": config.data.source,
                    "fingerprint": self.parts["code"].get(keys.DATA),
                },
                **provenance(config.runtime),
            },
            "done": {
                "key": self.key,
                "parts": self.parts,
                "outputs": describe_files(self.path, () if skipped else [*self.outputs, *outputs]),
                "seconds": seconds,
                "skipped": skipped,
            },
        }
        for name, values in records.items():  # done.json comes last
            write_file(self.path / f"{name}.json", values)
        _HELD.pop(self.path).close()
        print(f"{self} {f'skipped: {skipped}' if skipped else f'finished after {seconds:.0f} s'}")


def open_run(
    stage: str,
    *,
    variant: str = "",
    seed: int = 0,
    resume: bool = True,
    profile: str = "laptop",
    **settings: Any,
) -> Run:
    """Begin (or go on with) the run of a notebook.

    Checks the config and that everything upstream is finished, takes the run's lock, withdraws an
    older result, keeps the files of an interrupted run only if nothing that it depends on has
    changed, and fixes the thread count. `settings`: those of `Study` (data, overrides, variants,
    seeds, run_dir). Raises `S3EError` with the remedy.
    """
    keys.forget()
    study = Study(profile, seed=seed, **settings)
    run = study.run(stage_named(stage), variant, seed)
    trains = "runtime" in run.stage_row.settings
    if trains and study.config.runtime.device != "cpu":
        from s3e.training.parallel import check_device

        check_device(study.config.runtime)
    run.begin(resume)
    utils.set_threads(study.config.runtime.threads, torch=trains)
    return run
