"""Put the committed results into the README, so that no number there is typed: `python -m s3e.report.readme`."""

import re
from pathlib import Path
from typing import Any

from s3e.report.manifest import NAME, read_manifest, without_origin
from s3e.report.summary import findings
from s3e.utils import ROOT, S3EError, atomic_write

START, END = "<!-- results: filled by python -m s3e.report.readme -->", "<!-- end of results -->"
STUDIES = ("study", "laptop")  # the README shows the first that is there
PHOTOS = "photos"
PUBLISHED = (*STUDIES, PHOTOS)  # figures that are committed (see .gitignore)
TABLE = "table4_ablation.md"
PHOTO_START = "<!-- results on photographs: filled by python -m s3e.report.readme -->"
PHOTO_END = "<!-- end of results on photographs -->"
PHOTO_TABLES = {
    "table9_gains.md": "Table 9",
    "table1_deblurring.md": "Table 1",
    "table5_nodes.md": "Table 5",
}
PHOTO_LINKS = {
    "table3_captioning.md": "captions of sharp, blurred and restored photos, and after co-training",
    "table4_ablation.md": "all arms",
    "table6_fidelity.md": "what a judge reads in restored photos",
    "table10_leakage.md": "what training may have known",
    "report.html": "the report, everything in one file",
}
PHOTO_PICTURES = {
    "fig4_results.png": "Public-domain photographs: blurred, restored by three arms, sharp; PSNR below each",
    "fig14_seeds.png": "PSNR gained over the baseline on test photos by each training seed, with 95 % intervals",
}
PICTURES = {
    "fig4_results.png": "Validation scenes: blurred, restored by each arm, sharp; PSNR below each",
    "fig14_seeds.png": "PSNR gained over the baseline by each training seed, with 95 % intervals",
    "fig10_closing.png": "PSNR gained over the baseline, and share of the gap to true label maps, against steps",
}


def source() -> Path:
    """The folder of figures that the README shows first, relative to the repository's root."""
    folders = [Path("figures") / name for name in STUDIES]
    return next((folder for folder in folders if (ROOT / folder / NAME).is_file()), folders[-1])


def results() -> str:
    """The block between the two markers: what was found, table 4 as committed, and pictures with alternative text."""
    folder = source()
    try:
        table = without_origin((ROOT / folder / TABLE).read_text(encoding="utf-8")).strip()
    except FileNotFoundError:
        raise S3EError(
            f"{folder / TABLE} is missing: restore it from the repository, or run the study."
        ) from None
    found = "\n".join(f"- {sentence}" for sentence in findings(ROOT / folder))
    pictures = "\n\n".join(f"![{text}]({folder / name})" for name, text in PICTURES.items())
    return f"{START}\n\n{found}\n\n{table}\n\n{pictures}\n\n{END}"


def photographs() -> str:
    """The block on photographs: setting and cost, what was found, tables without their notes, and pictures."""
    folder = Path("figures") / PHOTOS
    if not (ROOT / folder / NAME).is_file():
        return f"{PHOTO_START}\n\nNo study on photographs is committed here.\n\n{PHOTO_END}"
    manifest = read_manifest(ROOT / folder)
    found = [f"{manifest['context']} {_cost(manifest['spent'])}", *findings(ROOT / folder)]
    tables = [_without_notes(folder / name, title) for name, title in PHOTO_TABLES.items()]
    pictures = [f"![{text}]({folder / name})" for name, text in PHOTO_PICTURES.items()]
    links = ", ".join(f"[{text}]({folder / name})" for name, text in PHOTO_LINKS.items())
    parts = [
        "\n".join(f"- {sentence}" for sentence in found),
        *tables,
        f"The rest: {links}.",
        *pictures,
    ]
    return "\n\n".join([PHOTO_START, *parts, PHOTO_END])


def _cost(spent: dict[str, Any]) -> str:
    """One sentence on hardware and hours."""
    where = " and ".join(spent["devices"]).replace("cpu", "CPU")
    threads = "one thread" if spent["threads"] == 1 else f"{spent['threads']} threads"
    return (
        f"Hardware: {where}, {threads} a notebook, {spent['at_a_time']} at a time; the {spent['notebooks']} notebooks "
        f"behind the figures took {spent['hours']} hours, one after the other (of what was interrupted, the last "
        "attempt)."
    )


def _without_notes(path: Path, title: str) -> str:
    """A table as committed: a link with its caption, and the cells; the notes below stay in the file."""
    try:
        caption, body, *_ = (
            without_origin((ROOT / path).read_text(encoding="utf-8")).strip().split("\n\n")
        )
    except FileNotFoundError:
        raise S3EError(
            f"{path} is missing: restore it from the repository, or run the study."
        ) from None
    return f"[{title}]({path}): {caption.strip('*').partition(' Profile ')[0]}\n\n{body}"


def filled(readme: str) -> str:
    """`readme` with its blocks of results renewed; raises `S3EError` where markers are missing."""
    return _renewed(_renewed(readme, START, END, results()), PHOTO_START, PHOTO_END, photographs())


def _renewed(readme: str, start: str, end: str, block: str) -> str:
    text, count = re.subn(
        f"{re.escape(start)}.*{re.escape(end)}", lambda _: block, readme, flags=re.S
    )
    if count != 1:
        raise S3EError(f"README.md must hold one block from '{start}' to '{end}'.")
    return text


if __name__ == "__main__":
    path = ROOT / "README.md"
    renewed = filled(path.read_text(encoding="utf-8"))
    with atomic_write(path) as temporary:
        temporary.write_text(renewed, encoding="utf-8")
