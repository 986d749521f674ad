"""The `finegrain` command: in this process, but where signals, pipes and exit codes matter."""

import contextlib
import io
import os
import random
import re
import resource
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import keras
import pytest
from typer.testing import CliRunner

from finegrain.demo.manual import ManualCorpus
from finegrain.tagger.progress import TrainingProgress
from finegrain.tagging import Segmenter, Tagger, manual_corpus
from finegrain_command import program
from finegrain_command.program import app
from finegrain_reader.windows import WINDOW

BACKEND = keras.backend.backend()
COMMAND = [sys.executable, "-m", "finegrain_command"]
PATIENCE = 600  # seconds until a process that does not answer is ended

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


def call(*arguments, stdin=None):
    """Runs the command in this process, with these bytes as its standard input."""
    with standard_input(stdin) if stdin is not None else contextlib.nullcontext():
        return CliRunner().invoke(app, list(map(str, arguments)))


@contextlib.contextmanager
def standard_input(content):
    """File number 0 reads these bytes."""
    before = os.dup(0)
    reading, writing = os.pipe()
    os.dup2(reading, 0)
    os.close(reading)

    def write():
        with open(writing, "wb") as end:
            end.write(content)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        writer.join()
        os.dup2(before, 0)
        os.close(before)


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
def training(tmp_path_factory):
    """A folder with the corpus and the model that `finegrain train` made of it, and its result."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "corpus.txt").write_text(sentences(160))
    (folder / "dev.txt").write_text(sentences(20, seed=1) + "a red cow\n")
    result = call(
        "train",
        folder / "corpus.txt",
        *("--out", folder / "model.keras", "--validation", folder / "dev.txt"),
        *("--epochs", "3", "--learning-rate", "0.01"),
    )
    return folder, result


@pytest.fixture(scope="module")
def model(training):
    """The file of a trained model."""
    folder, result = training
    assert result.exit_code == 0, result.stderr
    return folder / "model.keras"


# The round trip, on every backend.


@pytest.mark.full
def test_train(training):
    """Training prints a line an epoch, says where the model is, and leaves nothing else."""
    folder, result = training
    errors = result.stderr
    assert result.exit_code == 0, errors
    assert result.stdout == ""
    epochs = re.findall(r"^model\.keras: epoch (\d+), loss \d+\.\d+, F1 [01]\.\d+$", errors, re.M)
    assert epochs == ["1", "2", "3"]
    assert "holds the best model" in errors
    assert sorted(path.name for path in folder.iterdir()) == [
        "corpus.txt",
        "dev.txt",
        "model.keras",
    ]


@pytest.mark.full
def test_train_segment_score(model, training):
    """The model segments what it was trained on, and its score stands in a table."""
    folder, result = training
    segmented = call("segment", model, stdin=b"thecatsat\none big\xe3\x80\x80reddog\n")
    assert (segmented.exit_code, segmented.stderr) == (0, "")
    assert segmented.stdout == "the cat sat\none big\u3000red dog\n"
    scored = call("score", model, folder / "dev.txt")
    assert (scored.exit_code, scored.stderr) == (0, "")
    table = scored.stdout
    words = len((folder / "dev.txt").read_text().split())
    numbers = re.search(
        rf"model\.keras\W+([\d.]+)\W+([\d.]+)\W+([\d.]+)\W+([\d.]+)\W+{words}\b", table
    )
    f1, precision, recall, oov_recall = map(float, numbers.groups())
    assert f1 > 0.85
    assert f1 == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-3)
    assert oov_recall in (0, 1)  # one word is new: cow
    assert f"F1 {f1:.4f}" in " ".join(result.stderr.split())


@one_backend
def test_segment_with_words_of_a_user(model, tmp_path):
    """They are preferred, with the weights that they have."""
    file = tmp_path / "words.txt"
    file.write_text("\ufeffthecat\t50\n\n dogran\t0 \n", "utf-8")
    result = call("segment", model, "--words", file, stdin=b"thecatsat\nthedogran\n")
    assert result.stdout == "thecat sat\nthe dog ran\n"
    for line, shown in (("two words", "two words"), ("a\tmuch", "much"), ("a\t-1", "-1")):
        file.write_text(f"cat\n{line}\n")
        refused = call("segment", model, "--words", file, stdin=b"")
        assert refused.exit_code == 2
        assert f"{shown}' in line 2" in refused.stderr
    assert call("segment", model, "--words", tmp_path / "none", stdin=b"").exit_code == 2


NAMES = """\
Ada\tB-PER
met\tO
Bob\tB-PER

the\tO
dog\tO
met\tO
Ada\tB-PER
"""


@one_backend
def test_train_tag_score(tmp_path):
    """Spans and labels are trained from columns, and tagged from lines to columns."""
    (tmp_path / "names.tsv").write_text("\n".join([NAMES] * 40))
    arguments = ["--epochs", "3", "--encoder", "cnn", "--learning-rate", "0.01"]
    trained = call(
        *("train", tmp_path / "names.tsv", "--task", "spans", "-o", tmp_path / "m.keras"),
        *arguments,
    )
    assert trained.exit_code == 0, trained.stderr
    assert "F1 1.0000, precision 1.0000, recall 1.0000." in trained.stderr
    *_, first, second = trained.stderr.splitlines()
    called = f"{shlex.quote(sys.executable)} -m finegrain_command "
    words, _, command = first.strip().removeprefix("echo ").partition(" | ")
    tagged = call(*shlex.split(command.removeprefix(called)), stdin=b"the dog  met Ada\n\nBob\n")
    assert (tagged.exit_code, tagged.stderr) == (0, "")
    assert tagged.stdout == "the\tO\ndog\tO\nmet\tO\nAda\tB-PER\n\nBob\tB-PER\n\n"
    assert shlex.split(words)[0].split()[0] in ("Ada", "the")
    scored = call(*shlex.split(second.strip().removeprefix(called)))
    assert re.search(r"^micro average +1\.0000 +1\.0000 +1\.0000 +120$", scored.stdout, re.M)
    refused = call("segment", tmp_path / "m.keras", stdin=b"text\n")
    assert refused.exit_code == 2
    assert "tagger of the task 'spans'" in refused.stderr


@one_backend
def test_tag_with_a_segmenter(model):
    """It says which command is meant."""
    result = call("tag", model, stdin=b"text\n")
    assert result.exit_code == 2
    assert "Cure: finegrain segment" in result.stderr


@one_backend
def test_export(model, tmp_path):
    """The file that comes out segments like the model, in a process that has no Keras."""
    file = tmp_path / "words.fg"
    result = call("export", model, file)
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"{file} holds the model" in result.stderr
    assert 'load("words.fg").segment' in result.stderr
    refused = call("export", model, file)
    assert refused.exit_code == 2
    assert "--force to replace it, or another name\n" in refused.stderr
    assert call("export", file, file, "--force").exit_code == 0
    hidden = "import sys; sys.modules |= dict.fromkeys(['keras', 'h5py']);"
    code = f"{hidden} from finegrain_command import main; main()"
    process = subprocess.run(
        [sys.executable, "-c", code, "segment", file], input=b"thecatsat\n", capture_output=True
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, b"the cat sat\n", b"")


@one_backend
def test_a_model_that_only_keras_computes(tmp_path):
    """It is used with Keras; exported it cannot be, and the error says why."""
    file, columns = tmp_path / "gru.keras", tmp_path / "gru-names.keras"
    encoders = [keras.layers.GRU(8, return_sequences=True, name="own") for _ in range(2)]
    corpus = [line.split() for line in sentences(20).splitlines()]
    segmenter = Segmenter(encoders[0]).fit(corpus, epochs=1, verbose=0)
    segmenter.save(file)
    result = call("segment", file, stdin=b"thecatsat\n")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == " ".join(segmenter.segment("thecatsat")) + "\n"
    refused = call("export", file, tmp_path / "gru.fg")
    assert refused.exit_code == 2
    assert "only Keras computes its layer 'own', a GRU" in refused.stderr
    assert not (tmp_path / "gru.fg").exists()
    pairs = [(words, ["X", "Y", *["X"] * (len(words) - 2)]) for words in corpus]
    tagger = Tagger("labels", encoders[1]).fit(pairs, epochs=1, verbose=0)
    tagger.save(columns)
    first, second = tagger.tag(["the", "cat"])
    tagged = call("tag", columns, stdin=b"the cat\n").stdout
    assert tagged == f"the\t{first}\ncat\t{second}\n\n"
    assert "tagger of the task 'labels'" in call("segment", columns, stdin=b"the cat\n").stderr


# Help.


@one_backend
@pytest.mark.parametrize("command", ["demo", "train", "segment", "tag", "export", "score"])
def test_help(command):
    """Each command has a page that names what it takes."""
    page = call(command, "--help")
    assert page.exit_code == 0
    expected = {
        "demo": ["--out", "--epochs", "--seed"],
        "train": [
            *("--out", "--validation", "--encoder", "--crf", "--softmax", "--epochs", "--seed"),
            *("--crf-learning-rate-multiplier", "--task", "--backbone", "--layers", "--resume"),
        ],
        "tag": ["model", "standard input"],
        "segment": ["model", "standard input"],
        "export": ["model", ".fg", "--force"],
        "score": ["model", "corpus"],
    }[command]
    for name in expected:
        assert name in " ".join(page.stdout.split()), name


@one_backend
def test_help_of_the_whole(finegrain):
    """The command itself lists its commands, also when called without any."""
    page = finegrain("--help")
    assert (page.returncode, page.stderr) == (0, b"")
    for command in ("demo", "train", "segment", "tag", "score"):
        assert re.search(rf"^\W*{command} ", page.stdout.decode(), re.M)
    assert "train" in call().output


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
def test_segment_keeps_every_line(model, tmp_path, ending):
    """Only blanks between words are new: those of the text are there, character by character."""
    # A last line without a newline comes from standard input, one with it from a file.
    text = "\n".join(odd_lines()) + ending
    if ending:
        (tmp_path / "text.txt").write_bytes(text.encode())
        result = call("segment", model, tmp_path / "text.txt")
    else:
        result = call("segment", model, stdin=text.encode())
    assert (result.exit_code, result.stderr) == (0, "")
    lines, expected = result.stdout_bytes.decode().split("\n"), text.split("\n")
    assert list(map(without_blanks, lines)) == list(map(without_blanks, expected))
    assert lines[0] == "the cat sat"
    assert lines[4] == expected[4]
    for line, given in zip(lines, expected, strict=True):
        left = iter(line)
        assert all(character in left for character in given)  # in this order
        assert re.sub(r"(?<=\S) (?=\S)", "", line) == re.sub(r"(?<=\S) (?=\S)", "", given)


@one_backend
def test_segment_with_a_separator(model):
    """It stands between words that nothing parts, also where lines end in CR LF."""
    result = call("segment", model, "--separator", "|", stdin=b"thecat sat\r\nonedog\r\n")
    assert result.stdout_bytes == b"the|cat sat\r\none|dog\r\n"


@one_backend
@pytest.mark.parametrize("text", [b"", b"\n", b"\r\n\r\n", b" \n\n "])
def test_segment_of_almost_nothing(model, text, tmp_path):
    """Empty input gives empty output; what has no word stays as it is."""
    (tmp_path / "text.txt").write_bytes(text)
    result = call("segment", model, tmp_path / "text.txt")
    assert result.exit_code == 0
    assert result.stdout_bytes == text


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
def test_segment_writes_as_it_goes_until_ctrl_c(start, model):
    """Each line is answered before the next one comes; Ctrl-C then is status 130, and no word."""
    process = start("segment", model)
    for line, answer in ((b"thecatsat\n", b"the cat sat\n"), (b"\n", b"\n"), (b" a\n", b" a\n")):
        process.stdin.write(line)
        process.stdin.flush()
        assert process.stdout.readline() == answer
    process.send_signal(signal.SIGINT)
    assert process.stdout.read() == b""
    assert own(process.stderr.read()) == b""
    assert process.wait() == 130


# Ctrl-C in training.


def assert_interrupted(status, errors, folder):
    """Status 130, a message, a model in the file, and beside it what it takes to go on."""
    assert status == 130, errors
    assert "Traceback" not in errors
    assert "epoch 3" not in errors
    assert "Interrupted." in errors
    assert f"{folder / 'model.keras'} holds the best model so far: F1" in errors
    assert "To go on, run the same command with --resume." in errors
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["model.keras", "model.keras.training"]
    loaded = Segmenter.load(folder / "model.keras")
    assert "".join(loaded.segment("thecatsat")) == "thecatsat"


@one_backend
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_ctrl_c_in_the_middle_of_an_epoch(start, tmp_path):
    """Ctrl-C while the second epoch is computed leaves the best model so far, whole."""
    (tmp_path / "corpus.txt").write_text(sentences(800))
    (tmp_path / "out").mkdir()
    process = start(
        "train",
        tmp_path / "corpus.txt",
        *("--out", tmp_path / "out" / "model.keras"),
        *("--epochs", "1000", "--learning-rate", "0.0001"),
    )
    first = next(line for line in process.stderr if own(line))
    assert first.startswith(b"model.keras: epoch 1, ")
    before = cpu_ticks(process.pid)
    while cpu_ticks(process.pid) < before + 20:  # it has worked for 0.2 seconds
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    errors = process.stderr.read().decode()
    assert_interrupted(process.wait(), errors, tmp_path / "out")


@one_backend
def test_ctrl_c_between_two_epochs(monkeypatch, tmp_path):
    """So does Ctrl-C between two epochs; the same command with --resume goes on with the second."""
    bar = TrainingProgress.bar

    def with_ctrl_c(self, description):
        drawn = bar(self, description)
        drawn.on_epoch_begin = lambda epoch, logs: epoch and signal.raise_signal(signal.SIGINT)
        return drawn

    monkeypatch.setattr(TrainingProgress, "bar", with_ctrl_c)
    (tmp_path / "corpus.txt").write_text(sentences(100))
    (tmp_path / "out").mkdir()
    model = tmp_path / "out" / "model.keras"
    arguments = ["train", tmp_path / "corpus.txt", "-o", model, "--epochs", 3]
    result = call(*arguments)
    assert_interrupted(result.exit_code, result.stderr, tmp_path / "out")
    monkeypatch.setattr(TrainingProgress, "bar", bar)
    refused = call(*arguments, "--resume", "--seed", 5)
    assert refused.exit_code == 2
    assert "no training of this corpus with these options" in refused.stderr
    resumed = call(*arguments, "--resume")
    assert resumed.exit_code == 0
    assert re.findall(r"epoch (\d)", resumed.stderr) == ["2", "3"]
    assert [path.name for path in model.parent.iterdir()] == ["model.keras"]


def cpu_ticks(pid):
    """Hundredths of a second that a process has computed for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@one_backend
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_ctrl_c_before_the_first_epoch(tmp_path):
    """Ctrl-C while the corpus is read ends with status 130, without a file or a traceback."""
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "corpus.txt")

    def write_and_interrupt():
        with open(tmp_path / "corpus.txt", "wb") as corpus:  # opens when the command does
            corpus.write(sentences(100).encode() * 100)  # more than waits in a pipe: it is read
            corpus.flush()
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    writer = threading.Thread(target=write_and_interrupt)
    writer.start()
    result = call("train", tmp_path / "corpus.txt", "--out", tmp_path / "out" / "model.keras")
    writer.join()
    assert result.exit_code == 130
    assert "Traceback" not in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


@one_backend
def test_ctrl_c_in_the_first_epoch(monkeypatch, tmp_path):
    """Ctrl-C before any epoch has ended says that there is no model."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Tagger, "fit", interrupted)
    (tmp_path / "corpus.txt").write_text(sentences(100))
    result = call("train", tmp_path / "corpus.txt", "-o", tmp_path / "m.keras")
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
    "columns.tsv": b"a\tO\nb\tI-PER\n\nc\tB-PER\n\nd\tB-PER\n",
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
    "train long.txt -o m.keras": f"at most {WINDOW}",
    "train corpus.txt -o m.keras --validation missing.txt": "missing.txt",
    "train corpus.txt -o m.keras --validation latin.txt": "latin.txt",
    "segment missing.keras corpus.txt": "missing.keras",
    "segment text.keras corpus.txt": "text.keras",
    "segment folder corpus.txt": "folder",
    "score missing.keras corpus.txt": "missing.keras",
    "score corpus.txt corpus.txt": "corpus.txt",
    "demo --out corpus.txt": "corpus.txt",
    "train columns.tsv -o m.keras --task spans": "I-PER may not",
    "train columns.tsv -o m.keras --task labels --layers 2": "need a backbone",
    "train columns.tsv -o m.keras --task labels --backbone folder": "preset of KerasHub",
    "train corpus.txt -o m.keras --resume": "no training of this corpus",
    "tag missing.keras corpus.txt": "missing.keras",
    "tag text.keras corpus.txt": "text.keras",
    "export missing.keras m.fg": "missing.keras",
    "export text.keras m.fg": "text.keras",
    "train corpus.txt -o text.keras": "--force",
    "train missing.txt -o text.keras": "--force",
}
USAGE = {
    "train corpus.txt -o model.h5": "should end in .keras",
    "train corpus.txt -o missing/m.keras": "no folder missing",
    f"train corpus.txt -o {'x' * 300}.keras": "too long",
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
    "export text.keras m.keras": "should end in .fg",
    "export text.keras missing/m.fg": "no folder missing",
    "unknown": "unknown",
}
OUT_OF_RANGE = {
    "train corpus.txt -o m.keras --seed -1": "--seed",
    "train corpus.txt -o m.keras --seed 4294967296": "--seed",
    "demo --out folder --seed -1": "--seed",
    "train corpus.txt -o m.keras --crf-learning-rate-multiplier inf": "multiplier",
    "train corpus.txt -o m.keras --crf-learning-rate-multiplier 1e39": "multiplier",
    "train corpus.txt -o m.keras --learning-rate inf": "--learning-rate",
    "train corpus.txt -o m.keras --learning-rate nan": "--learning-rate",
    "train corpus.txt -o m.keras --learning-rate 3e38": "--learning-rate",
    "train corpus.txt -o m.keras --learning-rate -1": "--learning-rate",
    "train corpus.txt -o m.keras --epochs 1000000000000": "--epochs",
}


def assert_nothing_written(files):
    """The folder holds what it held."""
    assert {path.name for path in files.iterdir()} == {*FILES, "folder"}
    assert list((files / "folder").iterdir()) == []


@one_backend
@pytest.mark.parametrize("command", ERRORS)
def test_errors(command, files):
    """What the user can mend is one line on standard error, with status 2."""
    result = call(*command.split())
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert ERRORS[command] in line
    assert_nothing_written(files)


@one_backend
@pytest.mark.parametrize("command", USAGE)
def test_usage_errors(command, files):
    """A wrong call is answered with its usage and one line of error, with status 2."""
    result = call(*command.split())
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("Error: "))
    assert USAGE[command] in line
    assert_nothing_written(files)


@one_backend
@pytest.mark.parametrize("command", OUT_OF_RANGE)
def test_values_out_of_range(command, files):
    """Values out of range can be mended too."""
    result = call(*command.split())
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert OUT_OF_RANGE[command] in result.stderr


@one_backend
@pytest.mark.parametrize(
    "command",
    [
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
def test_text_that_is_not_utf_8(model):
    """The lines before are segmented; the error names the line, with status 2."""
    result = call("segment", model, stdin=b"thecatsat\n\nthe caf\xe9\nadog\n")
    assert result.exit_code == 2
    assert result.stdout == "the cat sat\n\n"
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: line 3: expected UTF-8")


@one_backend
def test_missing_text(model, tmp_path):
    """A text that is not there, or is a folder, is one line of error."""
    for text in (tmp_path / "missing.txt", tmp_path):
        result = call("segment", model, text)
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
        assert text.name in line


@one_backend
def test_a_model_is_replaced_only_by_force(training, tmp_path):
    """What is there stays, and the error says how to replace it; with --force it is replaced."""
    file = tmp_path / "m.keras"
    file.write_bytes(b"another model")
    arguments = ["train", training[0] / "corpus.txt", "-o", file, "--epochs", 1]
    refused = call(*arguments)
    assert refused.exit_code == 2
    assert refused.stderr == (
        f"error: {file} is there already. Cure: --force to replace it, or another name with --out\n"
    )
    assert file.read_bytes() == b"another model"
    assert call(*arguments, "--force").exit_code == 0
    assert "".join(Segmenter.load(file).segment("thecatsat")) == "thecatsat"
    assert [path.name for path in tmp_path.iterdir()] == ["m.keras"]


def limited_to(size):
    """Files cannot grow beyond so many bytes, as where the disk is full."""

    @contextlib.contextmanager
    def limit():
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)

    return limit()


@one_backend
def test_a_model_that_cannot_be_written(training, tmp_path):
    """A full disk under the model is one line of error, which names the file."""
    (tmp_path / "out").mkdir()
    file = tmp_path / "out" / "m.keras"
    with limited_to(100_000):
        result = call("train", training[0] / "corpus.txt", "-o", file, "--epochs", 1)
    assert result.exit_code == 2, result.exception
    *_, line = result.stderr.splitlines()
    assert line.startswith(f"error: {file} cannot be written: ")
    assert "holds the best" not in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


@one_backend
def test_a_training_that_diverges(training, tmp_path):
    """Where the loss is no longer a number there is no best model, and status 2."""
    file = tmp_path / "m.keras"
    corpus = training[0] / "corpus.txt"
    result = call("train", corpus, "-o", file, "--epochs", 1, "--learning-rate", "1e30")
    assert result.exit_code == 2, result.stderr
    *_, line = result.stderr.splitlines()
    assert line.startswith("error: The training diverged in epoch 1")
    assert "No model was written" in line
    assert "--learning-rate" in line
    assert "holds the best" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@one_backend
@pytest.mark.parametrize("size", [20_000, 10**11, 10**30])
def test_batches_of_any_size(training, tmp_path, size):
    """A batch larger than the corpus is the corpus, and costs no more."""
    file = tmp_path / "m.keras"
    corpus = training[0] / "corpus.txt"
    result = call("train", corpus, "-o", file, "--epochs", 1, "--batch-size", size)
    assert result.exit_code == 0, result.exception
    assert file.exists()


# What is printed can be copied.


@pytest.mark.full
def test_commands_to_type_next(training):
    """What is printed to go on with works as it stands, however long the path of the model is."""
    folder, result = training
    assert len(str(folder)) > 30
    *_, title, first, second = result.stderr.splitlines()
    assert title == "Next:"
    called = f"{shlex.quote(sys.executable)} -m finegrain_command "
    text, _, command = first.strip().removeprefix("echo ").partition(" | ")
    assert text.isalpha()
    segmented = call(*shlex.split(command.removeprefix(called)), stdin=text.encode())
    assert segmented.stdout.replace(" ", "") == text
    assert second.strip() == f"{called}score {folder / 'model.keras'} {folder / 'dev.txt'}"
    assert call(*shlex.split(second.strip().removeprefix(called))).exit_code == 0


@one_backend
def test_its_own_name(monkeypatch, tmp_path):
    """The command is named so that a shell finds it: plain where it is on the path."""
    script = tmp_path / "my folder" / "finegrain"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program._own_name() == shlex.quote(str(script))
    monkeypatch.setenv("PATH", str(script.parent))
    assert program._own_name() == "finegrain"
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "__main__.py")])
    assert program._own_name() == f"{shlex.quote(sys.executable)} -m finegrain_command"


@one_backend
def test_paths_with_brackets(monkeypatch, tmp_path):
    """A path is shown as it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Tagger, "fit", lambda self, *_, **__: self)
    (tmp_path / "corpus.txt").write_text(sentences(10))
    result = call("train", "corpus.txt", "-o", "model[v2].keras")
    assert result.exit_code == 0
    assert result.stderr.count("model[v2].keras") == 3


# The demo.


@pytest.fixture
def small_manual(monkeypatch):
    """The demo learns from a part of the manual."""
    whole = manual_corpus()
    part = ManualCorpus(whole.train[::20], whole.test[::10], whole.train_topics, whole.test_topics)
    monkeypatch.setattr("finegrain.demo.run.manual_corpus", lambda seed: part)


@one_backend
def test_demo(small_manual, tmp_path, monkeypatch):
    """A short demo tells of three taggers, shows both matrices, and leaves model and picture."""
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["finegrain"])
    result = call("demo", "--epochs", "1", "--out", out)
    text = result.stdout
    assert result.exit_code == 0, result.stderr[-2000:]
    assert result.stderr == ""
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
    again = call("demo", "--epochs", "1", "--out", out)
    assert again.exit_code == 2
    assert "segmenter.keras is there already. Cure: --force" in again.stderr


@one_backend
def test_demo_on_a_full_disk(small_manual, tmp_path):
    """Where nothing can be written at its end the report is printed all the same."""
    with limited_to(0):
        result = call("demo", "--epochs", "1", "--out", tmp_path)
    assert result.exit_code == 2
    for heading in ("Words found", "Transition scores", "Observed:"):
        assert heading in result.stdout
    assert "Next:" not in result.stdout
    assert f"{tmp_path / 'segmenter.keras'} cannot be written: " in " ".join(result.stdout.split())
    *_, line = result.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path / 'segmenter.keras'} cannot be written: ")
    assert f"{tmp_path / 'transitions.png'} cannot be written: " in line
    assert list(tmp_path.iterdir()) == []


# Standard streams that are closed, or full.

FULL = Path("/dev/full")


@one_backend
@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", ["--help", "train --help", "demo", "score", "segment"])
def test_a_full_disk_under_standard_output(arguments, model, training, small_manual, tmp_path):
    """It is one line of error, with status 2."""
    more = {
        "demo": ["--epochs", 1, "--out", tmp_path],
        "score": [model, training[0] / "dev.txt"],
        "segment": [model, training[0] / "dev.txt"],
    }
    with contextlib.suppress(OSError), open(FULL, "w") as output:
        status, errors = run_with(output, *arguments.split(), *more.get(arguments, []))
    assert status == 2
    assert errors == "error: standard output cannot be written: No space left on device\n"


@one_backend
def test_a_disk_that_is_full_at_the_end_of_the_demo(small_manual, tmp_path):
    """The report goes to standard error, where standard output takes none of it."""

    class Filled(io.StringIO):
        def write(self, text):
            if "Words found" in text:
                raise OSError(28, "No space left on device")
            return super().write(text)

    status, errors = run_with(Filled(), "demo", "--epochs", 1, "--out", tmp_path)
    assert status == 2
    for heading in ("Words found", "Transition scores", "Observed:", "Next:"):
        assert heading in errors
    assert errors.endswith("standard output cannot be written: No space left on device\n")
    assert (tmp_path / "segmenter.keras").exists()


def run_with(output, *arguments):
    """Status and standard error of the command, run as a process does, with this output."""
    errors = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["finegrain", *map(str, arguments)])
        patch.setattr(sys, "stdout", output)
        patch.setattr(sys, "stderr", errors)
        status = program.run()
    return status, errors.getvalue()


SHELL = {
    "--help >&-": (2, "standard output cannot be written"),
    "--help > /dev/full": (2, "standard output cannot be written"),
    "train --help > /dev/full": (2, "standard output cannot be written"),
    "train missing.txt 2>&-": (2, ""),
    "train missing.txt 2> /dev/full": (2, ""),
    "--help <&-": (0, ""),
    "train corpus.txt -o text.keras <&- >&-": (2, "--force"),
}


@one_backend
@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("line", SHELL)
def test_the_shells_redirections(line, files, environment):
    """Streams that are closed or full are one line of error, if anybody can read it."""
    status, error = SHELL[line]
    command = f"{shlex.join(COMMAND)} {line}"
    result = subprocess.run(command, shell=True, capture_output=True, env=environment)
    assert result.returncode == status
    assert b"Traceback" not in result.stderr
    assert error in result.stderr.decode()
    assert len(result.stderr.splitlines()) <= 1
    assert_nothing_written(files)


@one_backend
def test_segmenting_without_standard_input(model):
    """What cannot be read is one line of error."""
    with standard_input(b""):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 0)
        result = call("segment", model)
    assert result.exit_code == 2
    assert result.stderr == "error: standard input cannot be read: Bad file descriptor\n"


@one_backend
def test_the_installed_command(environment):
    """The script that is installed calls the same, and so does the package."""
    project = Path(__file__).parents[1] / "pyproject.toml"
    assert 'finegrain = "finegrain_command:main"' in project.read_text()
    call_module = [sys.executable, "-m", "finegrain", "--help"]
    page = subprocess.run(call_module, capture_output=True, env=environment)
    assert page.returncode == 0
    assert b"KERAS_BACKEND" in page.stdout
