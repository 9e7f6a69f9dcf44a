"""What the folder of a finished run tells: its stage, variant and seed."""

import re
from dataclasses import dataclass
from pathlib import Path

from s3e.utils import S3EError


@dataclass(frozen=True)
class Run:
    """One finished run directory: its stage, variant ("" for notebook 03), seed and path."""

    stage: str
    variant: str
    seed: int
    path: Path


def describe(path: Path | str) -> Run:
    """Read stage, variant and seed off `<stage>/<variant>-s<seed>` or `<stage>/s<seed>` (05 is the variant `full`)."""
    path = Path(path)
    match = re.fullmatch(r"(?:(\w+)-)?s(\d+)", path.name)
    if not match:
        raise S3EError(f"{path} is not the directory of one run: its name should end in s<seed>.")
    variant = match[1] or ("full" if path.parent.name.startswith("05") else "")
    return Run(path.parent.name, variant, int(match[2]), path)
