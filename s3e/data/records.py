"""Annotation files that other people wrote: records checked one by one, photos found where they may lie."""

import json
import os
import re
from pathlib import Path, PurePosixPath
from types import UnionType
from typing import Any

from s3e.data.folder import denied
from s3e.data.sources import Problem
from s3e.utils import S3EError

Record = dict[str, Any]
Keys = dict[str, type | UnionType]
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def load_lists(file: Path, *names: str) -> Record:
    """A JSON file's content, which must be an object with these lists; else `S3EError`."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise S3EError(
            f"{file}: cannot be read ({error.strerror}); give yourself read permission."
        ) from None
    except (ValueError, RecursionError) as error:
        raise S3EError(f"{file} is not valid JSON ({error}); fetch or write it again.") from None
    for name in names:
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise S3EError(
                f"{file}: not in COCO-captions layout (no list '{name}'); see the README for the layout."
            )
    return content


def sound_records(
    where: str, records: list, keys: Keys, problems: list[Problem]
) -> dict[str, Record]:
    """The records that hold all `keys` in their types, by the value of the first key as text.

    The others, and those that repeat the first key's value, become problems.
    """
    first, result = next(iter(keys)), {}
    for i, record in enumerate(records):
        fault = _fault(record, keys)
        if not fault and str(record[first]) in result:
            fault = f"the {first} {record[first]} occurs twice"
        if fault:
            problems.append(Problem(f"{where}[{i}]", fault, "correct or remove the record"))
        else:
            result[str(record[first])] = record
    return result


def _fault(record: Any, keys: Keys) -> str | None:
    if not isinstance(record, dict):
        return "the record is not an object"
    for key, kind in keys.items():
        if key not in record:
            return f"the key '{key}' is missing"
        value = record[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            return f"the key '{key}' has a value of the wrong type"
        if isinstance(value, str) and key not in ("caption", "raw") and _UNPRINTABLE.search(value):
            return f"the key '{key}' holds characters that do not print"
    return None


class Shelf:
    """The photos of a data set, which may lie in several sub-folders; each folder is listed once."""

    def __init__(self, root: Path):
        self.root = root
        self.listed: dict[str, set[str]] = {}
        for folder in (
            ".",
            "images",
        ):  # before those in them: of two that cannot be listed the outer one is named
            self.names(folder)

    def names(self, folder: str) -> set[str]:
        """The names of the files in a sub-folder, none if it does not exist; `S3EError` without permission."""
        if folder not in self.listed:
            try:
                with os.scandir(self.root / folder) as entries:
                    self.listed[folder] = {entry.name for entry in entries if entry.is_file()}
            except PermissionError as error:
                raise S3EError(str(denied(self.root / folder, error))) from None
            except OSError:
                self.listed[folder] = set()
        return self.listed[folder]

    def find(self, name: str, folders: list[str]) -> Path | None:
        """The photo `name`, a file name or a path, in the first of `folders` that has it; never outside of the root."""
        inner = PurePosixPath(name)
        nested = len(inner.parts) > 1 and ".." not in inner.parts
        for folder in folders:
            for place in [f"{folder}/{inner.parent}", folder] if nested else [folder]:
                if inner.name in self.names(place):
                    return self.root / place / inner.name
        return None
