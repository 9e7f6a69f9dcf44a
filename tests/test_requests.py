"""The command line: requests, how commands end, help."""

import importlib
import inspect
import os
import subprocess
import sys

import pytest

from s3e.__main__ import main, parser
from s3e.utils import ROOT, S3EError


def test_wrong_requests_are_refused(capsys):
    assert main(["data", "check", ".", "--set", "model.wide=3"]) == 2
    assert main(["run", "--profile", "big"]) == 2
    errors = capsys.readouterr().err
    assert "unknown setting 'model.wide'" in errors and "unknown profile 'big'; known: " in errors
    for wrong in (["report", "now"], ["inform"], ["weights"], []):
        with pytest.raises(SystemExit, match="2"):
            main(wrong)


def test_every_verb_hands_its_arguments_to_a_function_that_is_there(monkeypatch):
    commands = (
        "deblur P -o D",
        "blur P -o D",
        "caption P",
        "data check D",
        "weights export S --to D",
        "report check",
        "report fill",
    )
    for command in commands:
        arguments = vars(parser().parse_args(command.split()))
        module, _, name = arguments.pop("calls").partition(":")
        inspect.signature(getattr(importlib.import_module(module), name)).bind(**arguments)


def test_how_commands_end(monkeypatch, capsys):
    def raises(error):
        monkeypatch.setattr("s3e.data.prepare.check", lambda *_, **__: (_ for _ in ()).throw(error))
        return main(["data", "check", "."])

    assert raises(S3EError("the file is gone: bring it back.")) == 2
    assert capsys.readouterr().err == "s3e: the file is gone: bring it back.\n"
    assert raises(KeyboardInterrupt()) == 130
    assert "goes on where it stopped" in capsys.readouterr().err


def test_an_interrupt_of_the_imports_is_no_traceback(tmp_path):
    (tmp_path / "pydantic.py").write_text("raise KeyboardInterrupt")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "s3e", "--help"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stderr) == (130, b"")


def test_help_does_not_wait_for_torch():
    script = (
        "import sys; from s3e.__main__ import parser; parser().parse_args(['data', 'check', '.'])"
    )
    script += "; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=600
    )
    assert done.stdout == "False\n", done.stderr
