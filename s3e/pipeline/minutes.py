"""How long notebooks take, from finished runs: `python -m s3e report minutes`, on the machine that ran them.

It reads what the runs of the profiles in `PROFILES` noted about themselves, keeps the medians in
`minutes.json`, and writes them into the first cell of each notebook ("Takes") and the README's table of notebooks. What
a store does not hold keeps the number that it had.
"""

import json
import re
from argparse import ArgumentParser, Namespace
from functools import cache
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from s3e import config as settings
from s3e import utils
from s3e.config import VARIANTS
from s3e.utils import NOTEBOOKS, ROOT, RUNS, atomic_write, read_json, write_json

FILE = Path(__file__).with_suffix(".json")
PROFILES = ("smoke", "laptop", "study", "photos-cpu")
ARMS, OWN = (
    "06_ablation",
    "06_ablation, own semantics",
)  # arms that pretrain their own semantics take longer
UNKNOWN = 60.0  # seconds, of a notebook that nobody has measured
TAKES = r"^- \*\*Takes\*\* .*$"  # in the first cell of a notebook
NOT_MEASURED = "not measured"
ROW = r"^(\| `(\d\w+)` \| .* \|) [^|]* \|$"  # of a notebook in the README


@cache
def measured() -> dict[str, Any]:
    """What is known by profile: `cores` of the machine, `jobs` (notebooks at a time), `seconds` {notebook: median}.

    The notebook 06 stands for two, `ARMS` and `OWN`.
    """
    return read_json(FILE)


def seconds(profile: str) -> dict[str, float]:
    """Median seconds by notebook; empty for a profile that was not measured."""
    return measured().get(profile, {}).get("seconds", {})


def expected(stage: str, profile: str, own: bool = False) -> float:
    """Minutes of one run of a notebook; of a profile that was not measured those of `laptop`.

    `own`: for an arm that pretrains its own semantics.
    """
    name = OWN if own and stage == ARMS else stage
    tried = (profile, "laptop", "study", "smoke")
    return next((seconds(item)[name] for item in tried if name in seconds(item)), UNKNOWN) / 60


def store_of(profile: str) -> Path:
    """The profile's store of runs; of a profile for photographs that of the first data folder by name."""
    photos = settings.PROFILES[profile].get("data", {}).get("source") == ""
    found = sorted(path for path in RUNS.glob(f"{profile}@*") if photos and "+" not in path.name)
    return found[0] if found else RUNS / profile


def read_store(store: Path) -> dict[str, float]:
    """Median seconds of the finished runs of a store by notebook (see `measured`); skipped ones do not count."""
    found: dict[str, list[float]] = {}
    for path in sorted(store.glob("*/*/done.json")):
        stage, record = path.parents[1].name, read_json(path)
        if not record["skipped"]:
            found.setdefault(OWN if stage == ARMS and _own(path.parent.name) else stage, []).append(
                record["seconds"]
            )
    return {name: round(median(times), 1) for name, times in found.items()}


def _own(folder: str) -> bool:
    return VARIANTS[folder.rpartition("-")[0]].start == "own"


def at_a_time(store: Path) -> int:
    """The largest number of a store's runs that went on at the same moment; 0 for an empty store."""
    found = [read_json(path) for path in store.glob("*/*/provenance.json")]
    origins = [origin for origin in found if "ended" in origin]
    return max(
        (sum(a["started"] <= b["started"] < a["ended"] for a in origins) for b in origins),
        default=0,
    )


def takes(stage: str) -> str:
    """The line of a notebook's first cell: its time by profile, and on what it was measured."""
    told = []
    for how, names in groupby((name for name in PROFILES if stage in seconds(name)), _how):
        times = ", ".join(f"{_of(seconds(name), stage)} with `{name}`" for name in names)
        told.append(f"{times} (measured {how})")
    return f"- **Takes** {'; '.join(told) or NOT_MEASURED}; starting it takes a few seconds more."


def _how(profile: str) -> str:
    known = measured()[profile]
    return f"on {_count(known['cores'], 'core')}, {_count(known['jobs'], 'notebook')} at a time"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def _of(times: dict[str, float], stage: str) -> str:
    own = times.get(OWN) if stage == ARMS else None
    return spoken(times[stage]) + (
        f" ({spoken(own)} if the arm pretrains its own semantics)" if own else ""
    )


def spoken(time: float) -> str:
    """Seconds in words: "2 s", "76 s", "5.6 minutes"."""
    return f"{max(1, round(time))} s" if time < 90 else f"{time / 60:.1f} minutes"


def with_takes(notebook: str, stage: str) -> str:
    """A notebook's JSON with the measured line in its first cell."""
    book = json.loads(notebook)
    text = re.sub(TAKES, lambda _: takes(stage), "".join(book["cells"][0]["source"]), flags=re.M)
    book["cells"][0]["source"] = text.splitlines(keepends=True)
    return json.dumps(book, indent=1, ensure_ascii=False) + "\n"


def with_minutes(readme: str) -> str:
    """The README with the minutes of `laptop` in the last column of its rows of notebooks."""
    return re.sub(ROW, lambda row: f"{row[1]} {_cell(row[2])} |", readme, flags=re.M)


def _cell(stage: str) -> str:
    if stage not in seconds("laptop"):
        return NOT_MEASURED
    cell = f"{max(0.1, expected(stage, 'laptop')):.1f}"
    own = f" each ({expected(stage, 'laptop', own=True):.1f} where an arm pretrains its own semantics)"
    return cell + own * (stage == ARMS)


def renew(path: Path, text: str) -> None:
    """Write a text file if it changes."""
    if text != path.read_text(encoding="utf-8"):
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def measure() -> None:
    """Read the stores and write `minutes.json`; a profile without a finished run stays as it was."""
    known = dict(measured())
    for name in PROFILES:
        store = store_of(name)
        if found := read_store(store):
            times = seconds(name) | found
            known[name] = {
                "cores": utils.cores(),
                "jobs": max(1, at_a_time(store)),
                "seconds": times,
            }
    write_json(FILE, known)
    measured.cache_clear()


def configure(parser: ArgumentParser) -> None:
    """Nothing to choose: the stores are those of the profiles."""


def execute(arguments: Namespace) -> int:
    """Measure, and tell notebooks and README; 0."""
    measure()
    for book in sorted(NOTEBOOKS.glob("0*.ipynb")):
        renew(book, with_takes(book.read_text(encoding="utf-8"), book.stem))
    renew(ROOT / "README.md", with_minutes((ROOT / "README.md").read_text(encoding="utf-8")))
    return 0
