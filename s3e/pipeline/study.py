"""A study (settings, variants, seeds) and its runs: what each reads, its freshness key, its state.

With overrides, a run whose key is unchanged is read from the store without overrides, so that only
what depends on the override is computed.
"""

import json
import os
import shlex
from collections.abc import Collection
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from s3e import utils
from s3e.config import GIVEN, TRUTH, VARIANTS, load_config
from s3e.data.annotations import layout
from s3e.data.readers import CAPTIONED, ImageIndex
from s3e.pipeline import keys
from s3e.pipeline.graph import CAPTIONER, DRAWS, EVALUATES, JUDGES, PREPARES, STAGES, TREE, minutes
from s3e.pipeline.store import Record, complete, lost_files, record
from s3e.utils import FIGURES, ROOT, S3EError, digest, file_digest, read_json, write_file

OTHERS = [name for name in VARIANTS if name != "full"]  # those of 06_ablation
WEIGHTS = ("loss.vgg19_weights", "model.pretrained")  # settings that name a file
FILES = ("semantics_from", *WEIGHTS)


def in_full(text: Any) -> Any:
    """A path seen from the working folder or the repository's root, in full; all else stays."""
    known = text and isinstance(text, str)
    places = [Path(os.path.expanduser(text)), ROOT / text] if known else []
    return next((str(path.resolve()) for path in places if path.exists()), text)


class Study:
    """One profile with its data, overrides, variants and seeds: its runs, and where they lie.

    `kind`: what the data are ("scenes", "captions", "pairs", "photos"); `captioned`: they have
    captions. Raises `S3EError` for settings that cannot be used.
    """

    def __init__(
        self,
        profile: str,
        data: str = "scenes",
        overrides: Record | None = None,
        variants: Collection[str] = (),
        seeds: Collection[int] = (),
        *,
        seed: int = 0,
        run_dir: str = "",
    ):
        profile, data = str(profile), str(data)  # papermill reads 2017 as a number
        seeds = [seeds] if isinstance(seeds, int) else seeds
        self.data = data if data == "scenes" else in_full(data)
        self.variants, self.seeds, given = variants, seeds, overrides or {}
        if isinstance(given, dict):  # notebooks run in another folder
            given = {str(key): in_full(x) if key in FILES else x for key, x in given.items()}
            self.overrides = given
            given = given | ({"variants": variants} if variants else {})
            given |= {"seeds": seeds, "one_seed": []} if seeds else {}
        self.config = config = load_config(profile, self.data, seed, given)
        pairs = [
            (variant, number)
            for variant in config.variants
            for number in (config.seeds[:1] if variant in config.one_seed else config.seeds)
        ]
        self.selection = tuple(dict.fromkeys(pairs))  # (variant, seed)
        self.kind = "scenes"
        if data != "scenes":
            self.kind = layout(ImageIndex(Path(self.data)), config.data.kind)
        self.captioned = self.kind in CAPTIONED
        if config.semantics_from and self.captioned:
            raise S3EError(
                f"semantics_from is for data without captions, and {data} has its own: leave it"
                " out."
            )
        name = profile + ("" if data == "scenes" else "@" + Path(self.data).name)
        self.root = self.base = utils.RUNS.resolve() / name
        if run_dir:
            self.root = self.base = Path(os.path.realpath(os.path.expanduser(str(run_dir))))
        elif self.overrides:
            self.root = self.base.with_name(f"{name}+{digest(self.overrides)[:8]}")
        for path in map(str, [self.root, self.data, config.semantics_from]):
            if path != path.encode(errors="replace").decode():
                raise S3EError(f"{path}: notebooks hold no path outside UTF-8; rename it.")
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

    @cached_property
    def settings(self) -> Record:
        """All settings, flat: {"loss.pixel": 100.0, ...}; weights count by their contents."""
        found = {"pictures": self.config.pictures}
        for section, values in self.config.model_dump(mode="json").items():
            if isinstance(values, dict):
                found |= {f"{section}.{name}": value for name, value in values.items()}
        for name in WEIGHTS:
            if Path(found[name]).is_file():
                found[name] = f"SHA-256 {file_digest(found[name])}"
        return found

    @cached_property
    def texture_control(self) -> list[Path]:
        """Folders of the finished trainings of this study with `data.texture=random`."""
        if self.kind != "scenes" or self.config.data.texture != "category":
            return []
        changed = {**self.overrides, "data.texture": "random"}
        control = Study(self.config.profile, "scenes", changed, self.variants, self.seeds)
        found = [run.result() for run in control.runs if run.variant]
        return [done["folder"] for done in found if done]

    @property
    def figures_name(self) -> str:
        """Folder of its figures: the profile's, unless that shows other data or this is changed."""
        name, plain = self.root.name, self.config.figures
        if self.variants or self.seeds:
            return f"{name}+{digest(self.selection)[:8]}"
        if self.overrides or not plain:
            return name
        about = record(FIGURES / plain, "manifest.json")
        ours = self.config.profile, Path(self.data).name
        return plain if not about or (about["profile"], about["data"]["source"]) == ours else name

    def claim(self) -> None:
        """Note whose store this is; `S3EError` if another data folder of that name has it."""
        mark = self.root / "store.json"
        owner = read_json(mark)["data"] if mark.is_file() else self.data
        if owner != self.data and Path(owner).is_dir():
            raise S3EError(
                f"{self.root} holds the runs of {owner}, not of {self.data}: rename one of the two,"
                " or set S3E_RUNS and S3E_FIGURES."
            )
        write_file(mark, {"data": self.data})

    def command(self, **options: list) -> str:
        """The command line that runs this study, with further options; empty ones are left out."""
        given = {"profile": [self.config.profile], "data": [self.data] * (self.kind != "scenes")}
        given |= {"variants": self.variants, "seeds": self.seeds, **options}
        given["set"] = [f"{name}={json.dumps(value)}" for name, value in self.overrides.items()]
        words = [[f"--{name}", *map(str, values)] for name, values in given.items() if values]
        return shlex.join(["python", "run_all.py", *chain(*words)])


class Run:
    """One run of a stage in a study: `path` is its folder, `key` its freshness key.

    `variant` is "" and `seed` None where a stage runs once. `stage_row`: of the stage table;
    `rules`: of its variant, or None; `outputs`: files that it must leave.
    """

    def __init__(self, study: Study, stage: str, variant: str, seed: int | None):
        self.study, self.config, self.kind = study, study.config, study.kind
        self.stage, self.variant, self.seed = stage, variant, seed
        self.captioned = study.captioned
        self.stage_row, self.rules = STAGES[stage], VARIANTS.get(variant)
        self.folder = "all" if seed is None else f"{variant}-s{seed}" if variant else f"s{seed}"
        self.places = [root / stage / self.folder for root in (study.root, study.base)]
        self.path = self.places[0]
        self.outputs = [*self.stage_row.outputs]
        self.outputs += self.stage_row.caption_outputs if self.captioned else []

    def __str__(self) -> str:
        return f"{self.stage}/{self.folder}"

    # ------------------------------------------------------------------------ what it depends on

    @cached_property
    def why_skipped(self) -> str:
        """Why its notebook will only report, for these data, that it is skipped; "" if it works."""
        if self.rules and self.rules.kind in TRUTH and self.kind != "scenes":
            return "these data have no true label maps"
        if self.captioned:
            return ""
        if self.variant == "frozen":
            return "without captions the semantics of 'full' are frozen already"
        needs = self.stage in (TREE, CAPTIONER, JUDGES)
        if self.rules:
            needs = self.rules.start == "own" or self.rules.kind == "caption"
        return "these data have no captions" if needs else ""

    @cached_property
    def reads(self) -> list["Run"]:
        """The runs of this study that it reads."""
        shared = not self.rules or self.rules.start == "shared" and self.captioned
        names = [name for name in self.stage_row.reads if shared or name not in (TREE, CAPTIONER)]
        if self.seed is None:
            return [run for run in self.study.runs if run.stage in names]
        return [self.study.run(name, seed=self.seed) for name in names]

    @cached_property
    def lent(self) -> dict[str, Path]:
        """Without captions: folders of what it reads of the study `semantics_from`, by stage.

        Raises `S3EError` if there is none, or if it does not fit the settings.
        """
        store, rules, needed = self.config.semantics_from, self.rules, []
        if self.captioned or self.why_skipped:
            return {}
        if self.stage == PREPARES and store:  # images that the tree was trained on are taken out
            needed = [PREPARES]
        elif rules and rules.kind not in (None, *GIVEN):
            needed = [PREPARES] + [CAPTIONER] * (rules.start == "shared")
        if needed and not store:
            profile = self.config.profile
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
    def settings(self) -> Record:
        """The settings that it reads, flat; a variant's own rules are among them."""
        wanted, unread, found = {*self.stage_row.settings}, {*self.stage_row.unread}, {}
        if rules := self.rules:
            wanted |= {"train_tree", "train_a1", "train_a2"} if rules.start == "own" else set()
            unread |= set() if rules.caption_loss else {"loss.caption"}
            unread |= set() if rules.tree_loss else {"loss.tree", "loss.null_weight"}
            own = rules.model_dump(mode="json", exclude={"description"})
            found = {f"variant.{name}": value for name, value in own.items()}
        for name, value in self.study.settings.items():
            if {name, name.partition(".")[0]} & wanted and name not in unread:
                found[name] = value
        return found

    @cached_property
    def parts(self) -> Record:
        """What its key is made of: code, settings, data, and the keys of what it reads."""
        code, settings = {**keys.code_parts(self.stage)}, {**self.settings}
        if self.stage == PREPARES and self.kind != "scenes":
            code[keys.DATA] = keys.data_fingerprint(self.study.data)
        if self.stage == EVALUATES:
            from s3e.evaluation.captions import find_java

            settings["Java"] = find_java() is not None
        upstream = {str(other): other.key for other in self.reads}
        others = [("semantics", path) for path in self.lent.values()]
        if self.stage in (EVALUATES, DRAWS):
            others += [("texture", path) for path in self.study.texture_control]
        for why, path in others:
            upstream[f"{why}:{path.parent.name}/{path.name}"] = record(path)["key"]
        return {"stage": str(self), "code": code, "settings": settings, "upstream": upstream}

    @cached_property
    def key(self) -> str:
        """Its freshness key: equal keys mean equal results."""
        return digest(self.parts)

    # ----------------------------------------------------------------------- what has come of it

    def result(self) -> Record | None:
        """Record and `folder` of its finished result: its own, or one made without overrides."""
        found = (complete(place, self.key) for place in self.places)
        return next((done for done in found if done), None)

    def state(self) -> tuple[str, str, float | None]:
        """(fresh | skipped | running | stale | missing, why, last seconds)."""
        if done := self.result():
            other = done["folder"] != self.path
            elsewhere = f"from {done['folder'].parents[1].name}" if other else ""
            word = "skipped" if done["skipped"] else "fresh"
            return word, done["skipped"] or elsewhere, done["seconds"]
        if utils.is_locked(self.path / ".lock"):
            return "running", "", None
        for place in self.places:
            if done := record(place):
                lost = [f"{name} is lost or changed" for name in lost_files(place, done)]
                why = "; ".join(keys.explain(done["parts"], self.parts) + lost)
                return "stale" if place == self.path else "missing", why, done["seconds"]
        if begun := record(self.path, "state.json"):
            same = begun["key"] == self.key
            why = "goes on where it stopped" if same else "its code or settings changed since"
            return "missing", f"interrupted or failed; {why}", None
        return "missing", "", None

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
    def expected_seconds(self) -> str:
        """Measured time in words; "" for a profile that nobody measured."""
        known, own = minutes(self.config.profile), self.rules and self.rules.start == "own"
        name = "00_start_here" if self.why_skipped else self.stage + " (own semantics)" * bool(own)
        return known and f"{60 * known[name]:.0f} s"
