"""The benchmarks, without measuring: what they read, show and keep."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
# Those that need none but the packages of the tests; their peers are imported when they measure.
SCRIPTS = ["crf", "crfsuite", "export", "gan", "per_weight", "segment"]

pytestmark = pytest.mark.one_backend


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a script of the folder, and what it imports beside it, as Python does to run one."""
    monkeypatch.syspath_prepend(FOLDER)
    before = set(sys.modules)

    def load(name):
        if name.startswith("_"):
            return importlib.import_module(name)
        # Under another name: `crf` is also a folder of tests.
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) in map(str, FOLDER.glob("*.py")):
            del sys.modules[name]


@pytest.fixture
def run(benchmark, monkeypatch, capsys):
    """What a script prints with these arguments; it keeps nothing in the repository."""

    def run(name, *arguments):
        script, common = benchmark(name), benchmark("_common")
        monkeypatch.setattr(sys, "argv", [script.__file__, *arguments])
        common.benchmark(script.__file__, script.measure, script.page, getattr(script, "add", None))
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", SCRIPTS)
def test_kept_results_are_shown_with_their_machine_and_are_the_docs(benchmark, run, name):
    """On request, whatever machine shows them: `--show` prints the page of the docs."""
    page = ROOT / "docs" / "benchmarks" / f"{name.replace('_', '-')}.md"
    shown = run(name, "--show")
    assert shown.strip() == page.read_text("utf-8").strip()
    kept = benchmark("_common").Run.read(name)
    where = kept.source("").partition(" Again")[0]
    assert where.startswith(f"Machine: {kept.machine}")
    assert where.endswith(f"; {kept.date}.")
    assert where in shown


def test_by_default_all_is_measured_anew(benchmark, run, monkeypatch, tmp_path):
    """On each backend; nothing that is kept is looked at."""
    common = benchmark("_common")
    asked = []

    def on_each_backend(script, measure, arguments):
        asked.append((arguments.backends, arguments.rounds))
        return {}

    monkeypatch.setattr(common, "on_each_backend", on_each_backend)
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(common, "machine", lambda: "a machine of mine")
    shown = run("per_weight", "--backends", "torch", "--rounds", "2")
    assert asked == [(["torch"], 2)]
    assert "Machine: a machine of mine; " in shown
    assert not list(tmp_path.iterdir())


def test_nothing_kept_is_said_in_one_line(benchmark, run, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark("_common"), "RESULTS", tmp_path)
    with pytest.raises(SystemExit, match="Nothing is kept of this benchmark"):
        run("crf", "--show")


def test_missing_data_say_where_to_get_them(benchmark, tmp_path):
    data = benchmark("_data")
    for name, source in data.SOURCES.items():
        with pytest.raises(data.MissingDataError) as caught:
            data.files(tmp_path, name, "file")
        message = str(caught.value)
        assert str(tmp_path / name / "file") in message
        assert source in message
        assert "--data" in message
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
        assert data.files(tmp_path, name, "file") == [tmp_path / name / "file"]


def test_no_script_reads_a_folder_beside_the_repository():
    for script in [*FOLDER.glob("*.py"), *(ROOT / "examples").glob("*.py")]:
        assert "parents[2]" not in script.read_text("utf-8"), script.name
