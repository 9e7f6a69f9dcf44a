"""The command line, and `python -m s3e info`: what networks cost, counted on shapes alone."""

import importlib
import inspect
import subprocess
import sys

import pytest
import torch

from s3e.__main__ import main, network_costs, parser, vocabulary
from s3e.config import load_config
from s3e.models.build import build_semantics, count_parameters
from s3e.utils import S3EError


def test_networks_of_the_paper_size():
    config = load_config("paper", data=".")
    sizes = vocabulary(config)
    found = network_costs(config, sizes)
    assert found["generator"][0] == 11_378_179 and found["critic"][0] == 2_764_737
    assert found["generator"][1] / 1e9 == pytest.approx(49.6, abs=0.1)  # specification 3.1
    assert found["encoder"][1] == 9 * (  # five convolutions of 3 x 3, strides 2, 2, 2, 2, 1
        128**2 * 3 * 64 + 64**2 * 64 * 128 + 32**2 * 128 * 256 + 16**2 * (256 * 512 + 512 * 512)
    )
    attention = 17 * (512 * 512 + 7 * 512 + 7 * 128) + 7 * 128 * 512
    lstm = 17 * 4 * 512 * (512 + 128 + 512)
    assert found["decoder"][1] == attention + lstm + 17 * (512 + 128) * 9490 + (128 + 512) * 1024
    with torch.device("meta"):
        source = build_semantics(config, sizes, "tree")
    assert found["tree"][0] == count_parameters(source.tree)
    assert found["decoder"][0] == count_parameters(source.decoder)


def test_maps_cost_what_embeds_them():
    config = load_config("laptop", overrides={"text.max_words": 4})
    found = network_costs(config, vocabulary(config))
    embedding = found["generator with node maps"][0] - found["generator"][0]
    assert embedding == 4 * ((7 * 32 + 1) * 64 + (128 + 1) * 64)


def test_paper_is_printed_without_data(capsys):
    assert main(["info", "--profile", "paper", "--set", "text.max_words=4"]) == 0
    printed = capsys.readouterr().out
    for text in ("256 x 256 pixels", "9,490 words", "11,378,179", "2,764,737", "  49,55"):
        assert text in printed


def test_wrong_requests_are_refused(capsys):
    assert main(["info", "--set", "model.wide=3"]) == 2
    assert main(["info", "--profile", "big"]) == 2
    errors = capsys.readouterr().err
    assert "unknown setting 'model.wide'" in errors and "unknown profile 'big'; known: " in errors
    for wrong in (["info", "now"], ["inform"], ["weights"], []):
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
        "info",
    )
    for command in commands:
        arguments = vars(parser().parse_args(command.split()))
        module, _, name = arguments.pop("calls").partition(":")
        inspect.signature(getattr(importlib.import_module(module), name)).bind(**arguments)


def test_how_commands_end(monkeypatch, capsys):
    def raises(error):
        monkeypatch.setattr(
            "s3e.__main__.load_config", lambda *_, **__: (_ for _ in ()).throw(error)
        )
        return main(["info"])

    assert raises(S3EError("the file is gone: bring it back.")) == 2
    assert capsys.readouterr().err == "s3e: the file is gone: bring it back.\n"
    assert raises(KeyboardInterrupt()) == 130
    assert "goes on where it stopped" in capsys.readouterr().err


def test_help_does_not_wait_for_torch():
    script = (
        "import sys; from s3e.__main__ import parser; parser().parse_args(['data', 'check', '.'])"
    )
    script += "; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=600
    )
    assert done.stdout == "False\n", done.stderr
