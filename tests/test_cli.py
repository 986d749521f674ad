"""The `finegrain` command, as a process of its own where that matters."""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import keras
import pytest
from typer.testing import CliRunner

from finegrain import cli
from finegrain.tagging import Segmenter
from finegrain.tagging.windows import WINDOW

BACKEND = keras.backend.backend()
SCRIPT = Path(sys.executable).with_name("finegrain")
COMMAND = (
    [str(SCRIPT)]
    if SCRIPT.exists()
    else [sys.executable, "-c", "from finegrain.cli import main; main()"]
)
PATIENCE = 300  # seconds until a process that does not answer is ended

one_backend = pytest.mark.one_backend
WORDS = ["the", "cat", "sat", "dog", "ran", "a", "one", "and", "big", "red", "by", "house"]


def sentences(count, seed=0):
    """Lines of 9 to 16 characters without their blanks, which make batches of one length."""
    source = random.Random(seed)
    lines = []
    while len(lines) < count:
        words = source.choices(WORDS, k=source.randint(3, 5))
        if 9 <= len("".join(words)) <= 16:
            lines.append(" ".join(words))
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """What the processes see: this backend, and on JAX what was compiled for those before."""
    return {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {
        "KERAS_BACKEND": BACKEND,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TF_CPP_MIN_LOG_LEVEL": "3",  # TensorFlow's own lines on standard error
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }


@pytest.fixture(scope="module")
def finegrain(environment):
    """Runs the command to its end and returns what came of it."""

    def run(*arguments, stdin=b""):
        result = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            env=environment,
            timeout=PATIENCE,
        )
        result.stderr = own(result.stderr)
        return result

    return run


def own(errors):
    """What the command itself wrote: TensorFlow, where it is installed, logs while it loads."""
    return re.sub(
        rb"^(WARNING: All log messages before absl|[IWE]0000 ).*\n", b"", errors, flags=re.M
    )


@pytest.fixture
def start(environment):
    """Starts the command with pipes; it is ended with the test, or where it gives no answer."""
    processes, timers = [], []

    def run(*arguments, **options):
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            **options,
        )
        timer = threading.Timer(PATIENCE, process.kill)
        timer.start()
        processes.append(process)
        timers.append(timer)
        return process

    yield run
    for timer in timers:
        timer.cancel()
    for process in processes:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@pytest.fixture(scope="module")
def training(finegrain, tmp_path_factory):
    """A folder with the corpus and the model that `finegrain train` made of it, and its result."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "corpus.txt").write_text(sentences(160))
    (folder / "dev.txt").write_text(sentences(20, seed=1) + "a red cow\n")
    result = finegrain(
        "train",
        folder / "corpus.txt",
        "--out",
        folder / "model.keras",
        "--validation",
        folder / "dev.txt",
        "--epochs",
        "3",
        "--learning-rate",
        "0.01",
    )
    return folder, result


@pytest.fixture(scope="module")
def model(training):
    """The file of a trained model."""
    folder, result = training
    assert result.returncode == 0, result.stderr.decode()
    return folder / "model.keras"


def unwrapped(text):
    """Text without the line breaks that a narrow console puts in."""
    return re.sub(r"\s+", "", text.decode() if isinstance(text, bytes) else text)


# The round trip, on every backend.


@pytest.mark.full
def test_train(training):
    """Training prints a line an epoch, says where the model is, and leaves nothing else."""
    folder, result = training
    errors = result.stderr.decode()
    assert result.returncode == 0, errors
    assert result.stdout == b""
    epochs = re.findall(r"^model\.keras: epoch (\d+), loss \d+\.\d+, F1 [01]\.\d+$", errors, re.M)
    assert epochs == ["1", "2", "3"]
    assert "holds the best model" in errors
    assert sorted(path.name for path in folder.iterdir()) == [
        "corpus.txt",
        "dev.txt",
        "model.keras",
    ]


@pytest.mark.full
def test_train_segment_score(finegrain, model, training):
    """The model segments what it was trained on, and its score stands in a table."""
    folder, result = training
    segmented = finegrain("segment", model, stdin=b"thecatsat\none big\xe3\x80\x80reddog\n")
    assert (segmented.returncode, segmented.stderr) == (0, b"")
    assert segmented.stdout.decode() == "the cat sat\none big red dog\n"
    scored = finegrain("score", model, folder / "dev.txt")
    assert (scored.returncode, scored.stderr) == (0, b"")
    table = scored.stdout.decode()
    words = len((folder / "dev.txt").read_text().split())
    numbers = re.search(
        rf"model\.keras\W+([\d.]+)\W+([\d.]+)\W+([\d.]+)\W+([\d.]+)\W+{words}\b", table
    )
    f1, precision, recall, oov_recall = map(float, numbers.groups())
    assert f1 > 0.85
    assert f1 == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-3)
    assert oov_recall in (0, 1)  # one word is new: cow
    assert f"F1 {f1:.4f}" in " ".join(result.stderr.decode().split())


# Help.


@one_backend
@pytest.mark.parametrize("command", ["demo", "train", "segment", "score"])
def test_help(command):
    """Each command has a page that names what it takes."""
    page = CliRunner().invoke(cli.app, [command, "--help"])
    assert page.exit_code == 0
    expected = {
        "demo": ["--out", "--epochs", "--seed"],
        "train": [
            *("--out", "--validation", "--encoder", "--crf", "--softmax", "--epochs", "--seed"),
            "--crf-learning-rate-multiplier",
        ],
        "segment": ["model", "standard input"],
        "score": ["model", "corpus"],
    }[command]
    for name in expected:
        assert name in " ".join(page.stdout.split()), name


@one_backend
def test_help_of_the_whole(finegrain):
    """The command itself lists the four commands, also when called without any."""
    page = finegrain("--help")
    assert (page.returncode, page.stderr) == (0, b"")
    for command in ("demo", "train", "segment", "score"):
        assert re.search(rf"^\W*{command} ", page.stdout.decode(), re.M)
    assert "train" in CliRunner().invoke(cli.app, []).output


# Segmenting.


def odd_lines():
    """Lines of any Unicode, none of which has a newline."""
    source = random.Random(5)
    anything = [chr(c) for c in range(0x10FFFF) if not 0xD800 <= c < 0xE000 and chr(c) != "\n"]
    blanks = " \t\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2028\u2029\u202f\u205f\u3000"
    return [
        "thecatsat",
        "",
        "   ",
        "",
        "the  cat\tsat ",
        "one\u3000big\x85red\u2028dog\x1cran",
        "👩‍👩‍👧e\u0301👍🏽\u200b\ufeff\x00end",
        "a\rb",
        "thecat\r",
        *("".join(source.choices(anything, k=source.randint(1, 40))) for _ in range(40)),
        *("".join(source.choices([*blanks, *"ab"], k=30)) for _ in range(20)),
        ("thecatsat" * 12_000)[:100_000],
        "last",
    ]


def without_blanks(line):
    return "".join(line.split())


@one_backend
@pytest.mark.parametrize("ending", ["", "\n"])
def test_segment_keeps_every_line(finegrain, model, tmp_path, ending):
    """Line by line, output without blanks is input without blanks; newlines are as many."""
    # A last line without a newline comes from standard input, one with it from a file.
    text = "\n".join(odd_lines()) + ending
    if ending:
        (tmp_path / "text.txt").write_bytes(text.encode())
        result = finegrain("segment", model, tmp_path / "text.txt")
    else:
        result = finegrain("segment", model, stdin=text.encode())
    assert (result.returncode, result.stderr) == (0, b"")
    lines, expected = result.stdout.decode().split("\n"), text.split("\n")
    assert list(map(without_blanks, lines)) == list(map(without_blanks, expected))
    assert lines[0] == "the cat sat"
    assert lines[4] == "the cat sat"
    # One blank between words, none at the ends.
    assert all(line == " ".join(line.split()) for line in lines)


@one_backend
@pytest.mark.parametrize("text", [b"", b"\n", b"\r\n\r\n", b" \n\n "])
def test_segment_of_almost_nothing(model, text, tmp_path):
    """Empty input gives empty output; what has no word keeps its newlines."""
    (tmp_path / "text.txt").write_bytes(text)
    result = CliRunner().invoke(cli.app, ["segment", str(model), str(tmp_path / "text.txt")])
    assert result.exit_code == 0
    assert result.stdout_bytes == b"\n" * text.count(b"\n")


@one_backend
def test_segment_writes_as_it_goes(start, model):
    """Each line is answered before the next one is written, and the input is closed."""
    process = start("segment", model)
    for line, answer in ((b"thecatsat\n", b"the cat sat\n"), (b"\n", b"\n"), (b" a\n", b"a\n")):
        process.stdin.write(line)
        process.stdin.flush()
        assert process.stdout.readline() == answer
    process.stdin.close()
    assert process.stdout.read() == b""
    assert own(process.stderr.read()) == b""
    assert process.wait() == 0


@one_backend
def test_segment_into_a_closed_pipe(start, model):
    """A reader that goes away, as `head` does, ends the command without a word, input or not."""
    process = start("segment", model)
    process.stdin.write(b"thecatsat\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"the cat sat\n"
    process.stdout.close()
    process.stdin.write(b"thecatsat\n" * 50)
    process.stdin.flush()
    assert own(process.stderr.read()) == b""
    assert process.wait() >= 0


@one_backend
def test_ctrl_c_while_waiting_for_input(start, model):
    """Ctrl-C ends the command with status 130, without a traceback."""
    process = start("segment", model)
    process.stdin.write(b"thecatsat\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"the cat sat\n"
    process.send_signal(signal.SIGINT)
    errors = process.stderr.read()
    assert process.wait() == 130
    assert b"Traceback" not in errors
    assert b"Fatal" not in errors


# Ctrl-C in training.


def assert_interrupted(process, folder):
    """Status 130, a message, a model in the file and nothing else in the folder."""
    errors = process.stderr.read().decode()
    assert process.wait() == 130, errors
    assert "Traceback" not in errors
    assert "epoch 3" not in errors
    assert "Interrupted." in errors
    message = unwrapped(errors)
    assert unwrapped(f"{folder / 'model.keras'} holds the best model so far: F1") in message
    assert [path.name for path in folder.iterdir()] == ["model.keras"]
    loaded = Segmenter.load(folder / "model.keras")
    assert "".join(loaded.segment("thecatsat")) == "thecatsat"


def started_training(start, tmp_path):
    """A training with many epochs ahead of it, of which the first has just ended."""
    (tmp_path / "corpus.txt").write_text(sentences(1600))
    (tmp_path / "out").mkdir()
    process = start(
        "train",
        tmp_path / "corpus.txt",
        *("--out", tmp_path / "out" / "model.keras"),
        *("--epochs", "1000", "--learning-rate", "0.0001"),
    )
    first = next(line for line in process.stderr if own(line))
    assert first.startswith(b"model.keras: epoch 1, ")
    return process


@one_backend
def test_ctrl_c_leaves_the_best_model(start, tmp_path):
    """Ctrl-C between two epochs leaves the best model so far, whole."""
    process = started_training(start, tmp_path)
    process.send_signal(signal.SIGINT)
    assert_interrupted(process, tmp_path / "out")


@one_backend
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_ctrl_c_in_the_middle_of_an_epoch(start, tmp_path):
    """Ctrl-C while the second epoch is computed does so as well."""
    process = started_training(start, tmp_path)
    before = cpu_ticks(process.pid)
    while cpu_ticks(process.pid) < before + 40:  # it has worked for 0.4 seconds
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    assert_interrupted(process, tmp_path / "out")


def cpu_ticks(pid):
    """Hundredths of a second that a process has computed for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@one_backend
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_ctrl_c_before_the_first_epoch(start, tmp_path):
    """Ctrl-C while the corpus is read ends with status 130, without a file or a traceback."""
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "corpus.txt")
    out = tmp_path / "out" / "model.keras"
    process = start("train", tmp_path / "corpus.txt", "--out", out)
    with open(tmp_path / "corpus.txt", "wb") as corpus:  # opens when the command does
        corpus.write(sentences(100).encode())
        corpus.flush()
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
    assert process.wait() == 130
    assert b"Traceback" not in errors
    assert list((tmp_path / "out").iterdir()) == []


def test_ctrl_c_in_the_first_epoch(monkeypatch, tmp_path):
    """Ctrl-C before any epoch has ended says that there is no model."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Segmenter, "fit", interrupted)
    (tmp_path / "corpus.txt").write_text(sentences(100))
    arguments = ["train", str(tmp_path / "corpus.txt"), "-o", str(tmp_path / "m.keras")]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 130
    assert "no model was written" in result.stderr


# Wrong use.

FILES = {
    "corpus.txt": sentences(30).encode(),
    "empty.txt": b"",
    "blank.txt": b" \n\n\t\n",
    "latin.txt": "the caf\xe9 is red\n".encode("latin-1"),
    "unsegmented.txt": b"thecatsat\nthedogran\n",
    "short.txt": b"the cat\n",
    "long.txt": f"{'x' * (WINDOW + 1)} {'y' * (WINDOW + 1)}\n".encode() * 40,
    "text.keras": b"the cat sat\n",
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The working folder, with these files and a folder `folder`."""
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


ERRORS = {
    "train missing.txt -o m.keras": "missing.txt",
    "train empty.txt -o m.keras": "empty",
    "train blank.txt -o m.keras": "white space",
    "train latin.txt -o m.keras": "not UTF-8",
    "train unsegmented.txt -o m.keras": "one word on every line",
    "train folder -o m.keras": "folder",
    "train short.txt -o m.keras": "1 sentences",
    "train long.txt -o m.keras": f"at most {WINDOW} characters",
    "train corpus.txt -o m.keras --validation missing.txt": "missing.txt",
    "train corpus.txt -o m.keras --validation latin.txt": "latin.txt",
    "segment missing.keras corpus.txt": "missing.keras",
    "segment text.keras corpus.txt": "text.keras",
    "segment folder corpus.txt": "folder",
    "score missing.keras corpus.txt": "missing.keras",
    "score corpus.txt corpus.txt": "corpus.txt",
    "demo --out corpus.txt": "corpus.txt",
}
USAGE = {
    "train corpus.txt -o model.h5": "should end in .keras",
    "train corpus.txt -o missing/m.keras": "no folder missing",
    "train corpus.txt": "--out",
    "train": "corpus",
    "train corpus.txt -o m.keras --unknown": "--unknown",
    "train corpus.txt -o m.keras --epochs 0": "--epochs",
    "train corpus.txt -o m.keras --epochs many": "--epochs",
    "train corpus.txt -o m.keras --batch-size 0": "--batch-size",
    "train corpus.txt -o m.keras --encoder foo": "--encoder",
    "train corpus.txt -o m.keras --crf-learning-rate-multiplier -1": "--crf-learning-rate",
    "demo --epochs 0": "--epochs",
    "segment": "model",
    "score m.keras": "corpus",
    "unknown": "unknown",
}
OUT_OF_RANGE = {
    "train corpus.txt -o m.keras --seed -1": "--seed",
    "train corpus.txt -o m.keras --seed 4294967296": "--seed",
    "demo --out folder --seed -1": "--seed",
    "train corpus.txt -o m.keras --crf-learning-rate-multiplier inf": "multiplier",
}


def assert_nothing_written(files):
    """The folder holds what it held."""
    assert {path.name for path in files.iterdir()} == {*FILES, "folder"}
    assert list((files / "folder").iterdir()) == []


@pytest.mark.parametrize("command", ERRORS)
def test_errors(command, files):
    """What the user can mend is one line on standard error, with status 2."""
    result = CliRunner().invoke(cli.app, command.split())
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert ERRORS[command] in line
    assert_nothing_written(files)


@pytest.mark.parametrize("command", USAGE)
def test_usage_errors(command, files):
    """A wrong call is answered with its usage and one line of error, with status 2."""
    result = CliRunner().invoke(cli.app, command.split())
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("Error: "))
    assert USAGE[command] in line
    assert_nothing_written(files)


@pytest.mark.parametrize("command", OUT_OF_RANGE)
def test_values_out_of_range(command, files):
    """Values out of range can be mended too."""
    result = CliRunner().invoke(cli.app, command.split())
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert OUT_OF_RANGE[command] in result.stderr


@one_backend
@pytest.mark.parametrize(
    "command",
    [
        "train latin.txt -o m.keras",
        "segment text.keras corpus.txt",
        "train corpus.txt -o m.keras --encoder foo",
    ],
)
def test_errors_of_the_process(command, files, finegrain):
    """The process itself says the same, and no traceback."""
    result = finegrain(*command.split())
    errors = result.stderr.decode()
    assert result.returncode == 2
    assert result.stdout == b""
    assert "Traceback" not in errors
    said = [line for line in errors.splitlines() if line.lower().startswith("error: ")]
    assert len(said) == 1
    assert (ERRORS | USAGE)[command] in said[0]
    assert command in ERRORS or errors.startswith("Usage: ")
    assert command not in ERRORS or len(errors.splitlines()) == 1
    assert_nothing_written(files)


@one_backend
def test_text_that_is_not_utf_8(finegrain, model):
    """The lines before are segmented; the error names the line, with status 2."""
    result = finegrain("segment", model, stdin=b"thecatsat\n\nthe caf\xe9\nadog\n")
    assert result.returncode == 2
    assert result.stdout == b"the cat sat\n\n"
    (line,) = result.stderr.decode().splitlines()
    assert line.startswith("error: line 3: expected UTF-8")


@one_backend
def test_missing_text(model, tmp_path):
    """A text that is not there, or is a folder, is one line of error."""
    for text in (tmp_path / "missing.txt", tmp_path):
        result = CliRunner().invoke(cli.app, ["segment", str(model), str(text)])
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
        assert text.name in line


# What is printed can be copied.


def test_commands_to_type_next_are_not_broken(training):
    """The next commands stand whole in their line, however long the path of the model is."""
    folder, result = training
    assert len(str(folder)) > 30
    assert f"finegrain score {folder / 'model.keras'} CORPUS" in result.stderr.decode()


def test_paths_with_brackets(monkeypatch, tmp_path):
    """A path is shown as it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Segmenter, "fit", lambda self, *_, **__: self)
    (tmp_path / "corpus.txt").write_text(sentences(10))
    result = CliRunner().invoke(cli.app, ["train", "corpus.txt", "-o", "model[v2].keras"])
    assert result.exit_code == 0
    assert result.stderr.count("model[v2].keras") == 3


# The demo.


@one_backend
@pytest.mark.slow
def test_demo(finegrain, tmp_path):
    """A short demo tells of three taggers, shows both matrices, and leaves model and picture."""
    out = tmp_path / "out"
    result = finegrain("demo", "--epochs", "1", "--out", out)
    text = result.stdout.decode()
    assert result.returncode == 0, result.stderr.decode()[-2000:]
    assert result.stderr == b""
    for name in ("softmax", "CRF × 1", "CRF × 100"):
        assert re.search(rf"^{name}: epoch 1, loss", text, re.M)
        assert re.search(rf"^\W*{name}\W+(0\.\d{{4}}\W+){{4}}[\d,]+\W+\d+\W*$", text, re.M)
    matrices = text.partition("Transition scores")[2].partition("Observed:")[0]
    assert len(re.findall(r"\bs\s+b\s+m\s+e\b", matrices.replace("│", " "))) == 2
    rows = [line.split() for line in matrices.splitlines()]
    assert len(re.findall(r"-?\d+\.\d\d\b", matrices)) == 32
    for label in "sbme":
        assert any(row.count(label) == 2 and len(row) >= 10 for row in rows)
    observed = text.partition("Observed:")[2].partition("Next:")
    assert observed[0].count("•") == 5
    assert "finegrain segment" in observed[2]
    assert "".join(Segmenter.load(out / "segmenter.keras").segment("thisworks")) == "thisworks"
    assert (out / "transitions.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in out.iterdir()) == ["segmenter.keras", "transitions.png"]
