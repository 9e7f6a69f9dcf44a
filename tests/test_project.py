"""The project's own promises: imports one way, any system, notebook contract, requirements,
configuration errors.
"""

import ast
import errno
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from contextlib import nullcontext
from graphlib import CycleError, TopologicalSorter

import nbformat
import pytest

from s3e import utils
from s3e.__main__ import VERBS, main
from s3e.config import PROFILES, VARIANTS, Variant, load_config, parse_setting
from s3e.pipeline.graph import STAGES
from s3e.pipeline.opened import open_run
from s3e.pipeline.study import Study
from s3e.utils import NOTEBOOKS, ROOT, S3EError, disk_errors, is_locked, lock_file, write_file

BOOKS = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"), key=lambda path: path.stem)
COMMON = ["profile", "data", "seed", "run_dir", "overrides", "resume"]


ORDER = (
    "utils, config, blur captions, data, models, training, evaluation, pipeline, report, inference,"
    " explore, __main__"
)
PLACE = {name: i for i, names in enumerate(ORDER.split(", ")) for name in names.split()}


def imports(path):
    """What a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            for item in node.names:
                inner = f"{node.module}.{item.name}"
                place = ROOT.joinpath(*inner.split("."))
                there = place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()
                yield inner if there else node.module


def graph():
    """{module: modules of the library that it imports}."""
    found = {}
    for path in ROOT.glob("s3e/**/*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        found[name] = {other for other in imports(path) if other.split(".")[0] == "s3e"} - {name}
    return found


def room(module):
    return (module.split(".") + [""])[1]


def test_imports_go_one_way_and_in_no_circle():
    modules = graph()
    wrong = [
        f"{module} imports {other}"
        for module, others in modules.items()
        for other in others
        if room(module) and room(other) and room(module) != room(other)
        if PLACE[room(other)] >= PLACE[room(module)]
    ]
    assert not wrong, "\n".join(wrong)
    assert {"s3e.utils", "s3e.config"} <= modules["s3e.__main__"]
    try:
        TopologicalSorter(modules).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


WITHOUT_UNIX = """
import importlib, pkgutil, sys

for name in ("fcntl", "pwd", "grp", "resource"):
    sys.modules[name] = None  # importing it raises ImportError, as on Windows
import s3e

for module in pkgutil.walk_packages(s3e.__path__, "s3e."):
    importlib.import_module(module.name)
assert "distributed" not in sys.modules
from s3e.__main__ import main

sys.exit(main(["blur", sys.argv[1], "-o", sys.argv[2]]))
"""


def test_every_module_is_imported_and_photos_are_blurred_without_what_only_unix_has(tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 64), "red").save(tmp_path / "photo.png")
    command = [sys.executable, "-c", WITHOUT_UNIX, tmp_path / "photo.png", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "photo.png").is_file()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL])
def test_a_file_system_without_locks_is_named_in_one_sentence(code, tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(S3EError, match="run.lock cannot be locked .*file system with file locks"):
        lock_file(tmp_path / "run.lock", lambda owner: None)
    assert not is_locked(tmp_path / "run.lock")


def test_a_lock_is_held_until_it_is_closed(tmp_path):
    path, seen = tmp_path / "below" / "run.lock", []

    def refuse(owner):
        seen.append(owner)
        raise S3EError("busy")

    with lock_file(path, refuse):
        assert is_locked(path)
        with pytest.raises(S3EError, match="busy"):
            lock_file(path, refuse)
    assert seen == [f"{os.getpid()} on {platform.node()}"] and not is_locked(path)
    lock_file(path, refuse).close()


def test_cores_are_those_that_a_container_grants(tmp_path, monkeypatch):
    monkeypatch.setattr(utils, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    write_file(tmp_path / "cpu/cpu.cfs_period_us", "100000")
    for text, granted in {"-1": 8, "300000": 3, "0": 8, "": 8}.items():
        write_file(tmp_path / "cpu/cpu.cfs_quota_us", text)
        assert utils.cores() == granted
    for text, granted in {"max": 8, "150000": 2, "10000": 1, "9900000": 8, "": 8}.items():
        write_file(tmp_path / "cpu.max", f"{text} 100000\n")
        assert utils.cores() == granted


@pytest.mark.skipif(os.name == "nt", reason="modes and links of another system")
def test_a_new_file_has_the_mode_of_umask_and_a_replaced_one_keeps_its_own(tmp_path, monkeypatch):
    (tmp_path / "old").touch()
    (tmp_path / "old").chmod(0o604)
    (tmp_path / "link").symlink_to("gone")
    before = os.umask(0o027)
    for name in ("new", "old", "link"):
        write_file(tmp_path / name, "")
    os.umask(before)
    modes = {path.name: path.lstat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"new": 0o640, "old": 0o604, "link": 0o640}


@pytest.mark.parametrize("name", ["n" * 256, "folder", "file/below"])
def test_a_file_that_cannot_be_written_is_named_itself(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(S3EError, match=f"{tmp_path}/{name} cannot") as error:
        with disk_errors("?", "mend it"):
            write_file(tmp_path / name, "")
    assert ("shorter" in str(error.value)) == (len(name) == 256)
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "file"}


@pytest.mark.parametrize("error", [OSError(5, "Input", "disk"), OSError(5, "Input"), KeyError(1)])
def test_what_nobody_foresaw_is_a_sentence_but_no_mistake_is_hidden(monkeypatch, capsys, error):
    def broken(**_):
        raise error

    monkeypatch.setattr("s3e.report.manifest.fill", broken)
    with pytest.raises(KeyError) if isinstance(error, KeyError) else nullcontext():
        assert main(["report", "fill"]) == 1
        where = "disk: " if error.filename else ""
        assert capsys.readouterr().err == f"s3e: {where}Input; mend it and try again.\n"


def test_numbers_of_papermill_are_taken_as_text_or_refused():
    for given, says in (
        ({"data": 2017}, "--data 2017: no such folder"),
        ({"data": None, "seeds": 0}, "--data None: no such folder"),
        ({"profile": 7}, "unknown profile '7'"),
        ({"run_dir": "/r\udce9"}, "notebooks hold no path outside UTF-8"),
        ({"run_dir": 2017, "variant": 1}, "has no variant '1'"),
        ({"resume": "no"}, "the parameter resume is 'no'"),
        ({"overrides": {1: 2}}, "unknown setting '1'"),
    ):
        with pytest.raises(S3EError, match=re.escape(says)):
            open_run("06_ablation", **{"profile": "smoke", "variant": "baseline", **given})
    assert Study("smoke", seeds=0).seeds == [0]


def test_an_installed_package_works_in_any_folder_and_says_what_a_clone_has(tmp_path):
    wheel = "import setuptools.build_meta as b, sys; print(b.build_wheel(sys.argv[1]))"
    shutil.copytree(ROOT / "s3e", tmp_path / "clone" / "s3e")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "clone")
    subprocess.run([sys.executable, "-c", wheel, tmp_path], cwd=tmp_path / "clone", check=True)
    zipfile.ZipFile(*tmp_path.glob("*.whl")).extractall(tmp_path / "site")
    clean = {name: text for name, text in os.environ.items() if not name.startswith("S3E_")}
    places = {"cwd": tmp_path / "clone/s3e", "env": clean | {"PYTHONPATH": str(tmp_path / "site")}}
    for words, says in {
        "blur --help": "camera shake",
        "run": "in a clone",
        "report check": "s3e: figures holds",
    }.items():
        command = [sys.executable, "-P", "-m", "s3e", *words.split()]
        done = subprocess.run(command, capture_output=True, text=True, **places)
        assert says in done.stdout + done.stderr and done.returncode == 2 * ("--help" not in words)
    assert not [*tmp_path.rglob("runs")]


def test_the_table_of_exit_codes_has_every_command():
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for verb, inner in VERBS.items():
        for name in [verb] if "calls" in inner else [f"{verb} {part}" for part in inner]:
            assert re.search(rf"^\|.*`{name}`", text, re.M), name


@pytest.fixture(params=BOOKS, ids=lambda path: path.stem)
def book(request):
    return nbformat.read(request.param, as_version=4)


def code(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def test_notebooks_are_the_stages():
    assert [path.stem for path in BOOKS] == list(STAGES)


def test_notebook_is_clean_and_has_the_common_kernel(book):
    assert book.metadata.kernelspec.name == "python3" and "papermill" not in book.metadata
    for cell in code(book):
        assert not cell.outputs and cell.execution_count is None
        assert len(cell.source.splitlines()) <= 30, "a cell this long belongs into the library"


def test_notebook_begins_and_ends_as_agreed(book):
    assert book.cells[0].cell_type == "markdown" and book.cells[0].source.startswith("# 0")
    assert "Takes" in book.cells[0].source and ".ipynb)" in book.cells[0].source
    first, second, *_, last = code(book)
    assert "open_run" in second.source and "run.card()" in second.source
    assert "run.finish(" in last.source


def test_parameters_are_plain_literals(book):
    tagged = [cell for cell in code(book) if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == code(book)[:1]
    statements = ast.parse(tagged[0].source).body
    assert all(isinstance(item, ast.AnnAssign) for item in statements)
    kinds = "str int float bool dict list".split()
    assert {item.annotation.id for item in statements} <= set(kinds)
    assert [item.target.id for item in statements][:6] == COMMON
    for item in statements:
        ast.literal_eval(item.value)


def test_prose_stands_before_every_code_cell_and_classes_stay_in_the_library(book):
    for before, cell in zip(book.cells[:-1], book.cells[1:], strict=True):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown", cell.source[:80]
            bad = r"^\s*class |sys\.path|^[!%]|except\s*:|except Exception"
            assert not re.search(bad, cell.source, re.M)


def names(source):
    """The names that a cell binds, and those that it reads without importing them itself."""
    nodes = list(ast.walk(ast.parse(source)))
    imported = {
        (node.asname or node.name).split(".")[0] for node in nodes if isinstance(node, ast.alias)
    }
    used = [node for node in nodes if isinstance(node, ast.Name)]
    bound = imported | {node.id for node in used if not isinstance(node.ctx, ast.Load)}
    bound |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    return bound, {node.id for node in used} - bound


def borrowed(cells):
    """Names that a lesson cell binds and a later cell, which counts for the freshness key,
    reads.
    """
    taught, found = set(), set()
    for cell in cells:
        bound, read = names(cell.source)
        if "lesson" in cell.metadata.get("tags", []):
            taught |= bound
        else:
            found |= taught & read
    return found


def test_no_cell_depends_on_a_lesson(book):
    assert not borrowed(code(book))
    lesson = nbformat.v4.new_code_cell("run = 3", metadata={"tags": ["lesson"]})
    assert borrowed([lesson, *code(book)[2:]]) == {"run"}


def test_links_between_notebooks_lead_somewhere(book):
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\(([\w]+\.ipynb)\)", text):
        assert (NOTEBOOKS / target).exists(), target


def test_environment_agrees_with_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = (ROOT / "environment.yml").read_text()
    python = re.search(r"python=([\d.]+)", environment).group(1)
    needed = project["requires-python"].strip(">=")
    assert [int(n) for n in python.split(".")] >= [int(n) for n in needed.split(".")]
    assert re.search(r"-e \.\[(\w+)\]", environment).group(1) in project["optional-dependencies"]


def test_every_requirement_is_locked_and_has_a_reason():
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    groups = {**project["optional-dependencies"], "all": project["dependencies"]}
    names = [re.split(r"[<>=\[]", item)[0] for items in groups.values() for item in items]
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    lock = dict(line.split("==") for line in lines if "==" in line)
    locked = {name.lower().replace("_", "-") for name in lock}
    for name in names:
        assert name.lower() in locked, f"{name} is not in requirements.lock"
        assert re.search(rf'"{name}[^"]*",\s*#\s*\w+', text), (
            f"{name} has no reason in pyproject.toml"
        )
    assert lock["torch"] == "2.13.0"


def test_readme_has_the_two_commands_first():
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```", readme, re.S | re.M)
    assert "run_all.py" in blocks[0] and "pytest" in blocks[1]
    for name in re.findall(r"\]\((figures/[\w/.-]+)\)", readme):
        assert (ROOT / name).exists(), name


def test_cited_sections_exist():
    text = (ROOT / "SPECIFICATION.md").read_text(encoding="utf-8")
    sections = set(re.findall(r"^#+ (\d(?:\.\d+)?)\.? ", text, re.M))
    files = [*ROOT.glob("s3e/**/*.py"), *ROOT.glob("tests/*.py"), *BOOKS]
    texts = "\n".join(path.read_text(encoding="utf-8") for path in files)
    cited = re.findall(r"[Ss]pecification ((?:\d\.\d+)(?:(?:, | and |-)\d\.\d+)*)", texts)
    numbers = {number for item in cited for number in re.findall(r"\d\.\d+", item)}
    assert numbers and numbers <= sections, numbers - sections


def test_documents_show_the_committed_numbers():
    from s3e.report.manifest import filled

    for path, text in filled():
        assert path.read_text(encoding="utf-8") == text, "run: python -m s3e report fill"


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_are_valid(profile, tmp_path):
    needs_photos = PROFILES[profile].get("data", {}).get("source") == ""
    config = load_config(profile, str(tmp_path) if needs_photos else "scenes")
    assert set(config.variants) <= set(VARIANTS) and set(config.one_seed) <= set(config.variants)
    if needs_photos:
        with pytest.raises(S3EError, match="needs photographs: add --data FOLDER"):
            load_config(profile)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("loss.captoin=1", "unknown setting 'loss.captoin'"),
        ("losses.caption=1", "unknown setting 'losses'"),
        ("loss.caption=high", "setting 'loss.caption' = 'high'"),
        ("train_c.steps=2.5", "setting 'train_c.steps' = 2.5"),
        ("runtime.save_every=3", "multiple of runtime.log_every"),
        ('variants=["fulll"]', "unknown variant 'fulll'"),
        ("variants=[]", "setting 'variants' = []"),
        ("seeds=[]", "setting 'seeds' = []"),
        ("seed=3", "use --seeds"),
        ("data.source=x", "use --data"),
        ("data.size=96", "setting 'data.size' = 96"),
        ("data.val=0", "must be at least 2"),
        ("blur.severity=released", "does not fit scenes"),
        ("model.embed_at=[9]", "residual blocks, 0 to 3"),
        ("runtime.device=gpu", "setting 'runtime.device' = 'gpu'"),
    ],
)
def test_configuration_errors_name_the_place(setting, message):
    with pytest.raises(S3EError, match=re.escape(message)):
        load_config("smoke", overrides=dict([parse_setting(setting)]))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"kind": "global", "start": "own"}, "kind global has no tree"),
        ({"kind": None, "tree_loss": False}, "kind None has no captioner"),
        ({"kind": "vectors"}, "shared start is of kind tree"),
    ],
)
def test_a_variant_that_cannot_be_is_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        Variant(description="mine", **rules)


def test_a_generator_needs_a_loss():
    nothing = {"loss.pixel": 0, "loss.adversarial": 0}
    with pytest.raises(S3EError, match="would learn nothing"):
        load_config("smoke", overrides=nothing)
    load_config("smoke", overrides={**nothing, "loss.perceptual": 1})


def test_errors_name_the_profile_and_the_folder():
    for arguments, message in {
        ("lapotp",): "unknown profile 'lapotp'",
        ("smoke", "/no/such/folder"): "no such folder",
        ("smoke", "scenes", 0, ("loss.tree",)): "overrides must be a dictionary",
    }.items():
        with pytest.raises(S3EError, match=message):
            load_config(*arguments)


def test_override_order():
    config = load_config("smoke", seed=4, overrides={"loss.caption": 0.25})
    assert (config.seed, config.loss.caption, config.data.train) == (4, 0.25, 96)
