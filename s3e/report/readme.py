"""Put the committed results into the README, so that no number there is typed: `python -m s3e.report.readme`."""

import re
from pathlib import Path

from s3e.paths import ROOT, S3EError, atomic_write
from s3e.report.manifest import NAME, without_origin
from s3e.report.summary import findings

START, END = "<!-- results: filled by python -m s3e.report.readme -->", "<!-- end of results -->"
PUBLISHED = ("study", "laptop")  # figures that are committed (see .gitignore); the README shows the first that is there
TABLE = "table4_ablation.md"
PICTURES = {
    "fig4_results.png": "Validation scenes: blurred, restored by each arm, sharp; PSNR below each",
    "fig14_seeds.png": "PSNR gained over the baseline by each training seed, with 95 % intervals",
    "fig10_closing.png": "PSNR gained over the baseline, and share of the gap to true label maps, against updates",
}


def source() -> Path:
    """The folder of figures that the README shows, relative to the repository's root."""
    folders = [Path("figures") / name for name in PUBLISHED]
    return next((folder for folder in folders if (ROOT / folder / NAME).is_file()), folders[-1])


def results() -> str:
    """The block between the two markers: what was found, table 4 as committed, and pictures with alternative text."""
    folder = source()
    try:
        table = without_origin((ROOT / folder / TABLE).read_text(encoding="utf-8")).strip()
    except FileNotFoundError:
        raise S3EError(f"{folder / TABLE} is missing: restore it from the repository, or run the study.") from None
    found = "\n".join(f"- {sentence}" for sentence in findings(ROOT / folder))
    pictures = "\n\n".join(f"![{text}]({folder / name})" for name, text in PICTURES.items())
    return f"{START}\n\n{found}\n\n{table}\n\n{pictures}\n\n{END}"


def filled(readme: str) -> str:
    """`readme` with its results block renewed; raises `S3EError` where the markers are missing."""
    text, count = re.subn(re.escape(START) + ".*" + re.escape(END), lambda _: results(), readme, flags=re.S)
    if count != 1:
        raise S3EError(f"README.md must hold one block from '{START}' to '{END}'.")
    return text


if __name__ == "__main__":
    path = ROOT / "README.md"
    renewed = filled(path.read_text(encoding="utf-8"))
    with atomic_write(path) as temporary:
        temporary.write_text(renewed, encoding="utf-8")
