"""The one place where randomness begins: every draw is keyed by names and numbers, never by call order."""

import ast
import hashlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np


def stable_hash(*parts: object) -> int:
    """A 63-bit number from JSON-able `parts`: the same on every machine and in every Python process."""
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def code_digest(*modules: ModuleType) -> str:
    """Hash of the syntax trees of modules: what they computed may be used again as long as it is the same."""
    trees = [ast.dump(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))) for module in modules]
    return hashlib.sha256("\n".join(trees).encode()).hexdigest()


def rng(*parts: object) -> np.random.Generator:
    """A NumPy generator keyed by `parts`, e.g. `rng("blur", image_id, severity)`."""
    return np.random.default_rng(stable_hash(*parts))


def seed_everything(*parts: object) -> None:
    """Seed torch (CPU and CUDA) from `parts`; called before each update, so that draws depend on the step alone."""
    import torch

    torch.manual_seed(stable_hash(*parts))
