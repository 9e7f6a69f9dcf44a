"""Run one notebook through papermill in a process of its own: `python -m s3e.pipeline.worker JSON`, for a pool.

Papermill's own word is no evidence of success (a dead kernel leaves cells that say "completed"): the runner looks for
`done.json`. This process dies with the one that started it and the kernel with this process.
"""

import json
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

from s3e import utils
from s3e.pipeline.folders import complete, is_locked, note_failure, take_lock, wait_for
from s3e.utils import atomic_write, read_json

LAST_LINES = 12


def literal_path(path: str) -> str:
    """A path as papermill takes it: braces are format fields there."""
    return path.replace("{", "{{").replace("}", "}}")


def failing_cell(path: Path) -> str:
    """The last lines of the error in an executed notebook; "" if no cell raised."""
    cells = read_json(path)["cells"] if path.is_file() else []
    for cell in cells:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error" and output["ename"] != "SystemExit":
                lines = [
                    line
                    for block in output["traceback"]
                    for line in _plain(block).splitlines()
                    if line.strip()
                ]
                last = lines[-LAST_LINES:] or [f"{output['ename']}: {output['evalue']}"]
                return "\n".join(
                    [f"  cell In[{cell['execution_count']}]:", *(f"    {line}" for line in last)]
                )
    return ""


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def execute(spec: dict[str, Any]) -> None:
    """Execute the notebook into the run's folder; raises what papermill raises."""
    sys.modules.setdefault(
        "rfc3987_syntax", None
    )  # optional URL checks of jsonschema that take 1-2 s to import
    import papermill

    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", force=True
    )
    papermill.execute_notebook(
        literal_path(spec["notebook"]),
        literal_path(spec["output"]),
        parameters=spec["parameters"],
        kernel_name="python3",
        cwd=str(Path(spec["notebook"]).parent),
        progress_bar=False,
        log_output=True,
        start_timeout=120,
    )


def mend_links(output: Path, notebooks: Path) -> None:
    """Let the links of an executed copy lead to the notebooks beside its source, not beside itself."""
    base = Path(os.path.relpath(notebooks, output.parent)).as_posix()
    text = re.sub(
        r"\]\(((?:\.\./)?[\w/.-]+\.(?:ipynb|md))\)",
        rf"]({base}/\1)",
        output.read_text(encoding="utf-8"),
    )
    with atomic_write(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def attempt(spec: dict[str, Any]) -> str:
    """Execute the notebook; returns why the run is not finished, "" if it is."""
    output = Path(spec["output"])
    try:
        execute(spec)
        mend_links(output, Path(spec["notebook"]).parent)
    except Exception as error:
        logging.exception("stopped")
        return failing_cell(output) or f"  {type(error).__name__}: {_plain(str(error))[-800:]}"
    unfinished = "  its notebook ended without run.finish, or its code or data changed meanwhile"
    return "" if complete(output.parent, spec["key"]) else unfinished


def main(spec: dict[str, Any]) -> int:
    """Wait for the run's turn, execute, tell why it failed; 0 if the run is finished."""
    utils.die_with(spec["runner"], strict=True)
    output = Path(spec["output"])
    lock = take_lock(output.with_name(".worker.lock"), spec["name"])
    if not spec["force"] and complete(output.parent, spec["key"]):
        return 0  # another runner finished it in the meantime
    for folder, key in spec["needs"].items():
        wait_for(Path(folder), key)
    if is_locked(output.with_name(".lock")):
        print(
            f"{spec['name']} is open in another notebook: waiting until that ends ...", flush=True
        )
    with open(output.with_name("papermill.log"), "a") as log:
        os.dup2(log.fileno(), 2)  # the kernel's crash messages too
    output.unlink(missing_ok=True)
    os.environ["S3E_WORKER"] = str(os.getpid())
    why = attempt(spec)
    if why:
        print(why, flush=True)
        note_failure(output.parent, spec["key"], why.splitlines()[-1].strip())
    lock.close()
    return 1 if why else 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
