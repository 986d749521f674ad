"""Word segmenters on real text: how good, how fast on one core, how soon they are ready.

finegrain is trained on the training part of UD Chinese GSDSimp; its peers come with models of their
own, made from other and larger corpora, whose idea of a word is another one. All segment the same
held-out text, each in a process of its own.

    pip install 'finegrain[torch,bench-segment]'
    KERAS_BACKEND=torch python benchmarks/segment.py
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from _common import SCRATCH, Run, one_thread, parsed, table, write_page

Segment = Callable[[list[str]], list[list[str]]]
# Seconds that each process segments.
TURN = 3.0
SENTENCES = 200


def finegrain_reader(model: str) -> Segment:
    from finegrain_reader import load

    return load(model).segment_many


def finegrain_keras(model: str) -> Segment:
    from finegrain.tagging import Segmenter

    return Segmenter.load(model).segment_many


def jieba(_: str) -> Segment:
    import logging

    import jieba as package

    package.setLogLevel(logging.ERROR)
    package.initialize()
    return lambda texts: [package.lcut(text) for text in texts]


def rjieba(_: str) -> Segment:
    import rjieba as package

    package.cut("一")
    return lambda texts: [list(package.cut(text)) for text in texts]


def thulac(_: str) -> Segment:
    import thulac as package

    segmenter = package.thulac(seg_only=True)
    return lambda texts: [[word for word, _ in segmenter.cut(text)] for text in texts]


def wapic(_: str) -> Segment:
    import wapic as package

    segmenter = package.Segmenter()
    return lambda texts: [list(segmenter.segment(text)) for text in texts]


class Contender(NamedTuple):
    """A segmenter: what it is called, the package it is in, and what loads it."""

    title: str
    package: str
    load: Callable[[str], Segment]
    file: str = ""


CONTENDERS = {
    "reader": Contender("finegrain.reader", "numpy", finegrain_reader, "segment.fg"),
    "keras": Contender("finegrain in Keras", "keras", finegrain_keras, "segment.keras"),
    "jieba": Contender("jieba", "jieba", jieba),
    "rjieba": Contender("rjieba", "rjieba", rjieba),
    "thulac": Contender("thulac", "thulac", thulac),
    "wapic": Contender("wapic", "wapic", wapic),
}


def work(name: str, texts: list[str], output: Path, turn: float) -> None:
    """Measure one contender in this process, and write what was found."""
    contender = CONTENDERS[name]
    begin = time.perf_counter()
    segment = contender.load(str(SCRATCH / contender.file))
    ready = time.perf_counter() - begin
    words = segment(texts)
    characters = sum(map(len, texts))
    done, begin = 0, time.perf_counter()
    while not done or time.perf_counter() - begin < turn:
        segment(texts)
        done += characters
    speed = done / (time.perf_counter() - begin)
    latencies = []
    for text in texts[:SENTENCES]:
        begin = time.perf_counter()
        segment([text])
        latencies.append(time.perf_counter() - begin)
    found = {
        "ready": ready,
        "speed": speed,
        "latency": statistics.median(latencies),
        "words": words,
    }
    output.write_text(json.dumps(found), "utf-8")


def train(folder: Path, backend: str, epochs: int | None) -> float:
    """Train the segmenter in a process of its own; return the seconds it took."""
    code = (
        "import sys; from finegrain.tagging import Segmenter; from finegrain_reader import load\n"
        "corpus, keras, reader, epochs = sys.argv[1:]\n"
        "Segmenter(seed=0).fit(corpus, epochs=int(epochs) or None, save_to=keras, verbose=0)\n"
        "load(keras).save(reader)\n"
    )
    files = [folder / "train.seg.txt", SCRATCH / "segment.keras", SCRATCH / "segment.fg"]
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code, *map(str, files), str(epochs or 0)],
        check=True,
        env=os.environ | {"KERAS_BACKEND": backend},
    )
    return time.perf_counter() - begin


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    from finegrain.tagging import read_segmented, score

    folder = arguments.data / "ud_zh_gsdsimp"
    held_out = read_segmented(folder / "dev.seg.txt")
    known = {word for words in read_segmented(folder / "train.seg.txt") for word in words}
    backend = os.environ["KERAS_BACKEND"]
    SCRATCH.mkdir(parents=True, exist_ok=True)
    seconds = train(folder, backend, 1 if arguments.quick else None)
    print(f"trained in {seconds:.0f} s", flush=True)
    texts = SCRATCH / "segment.json"
    texts.write_text(json.dumps(["".join(words) for words in held_out]), "utf-8")
    names = [name for name in CONTENDERS if _is_installed(CONTENDERS[name].package)]
    missing = sorted(set(CONTENDERS) - set(names))
    if missing:
        print(f"not installed, and left out: {', '.join(missing)}")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    one_thread()
    for index in range(arguments.rounds):
        # Each begins a round in its turn, so that nobody always follows the same neighbour.
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            output = SCRATCH / "segment-found.json"
            call = [sys.executable, __file__, "--worker", name, "--output", str(output)]
            call += ["--turn", str(0 if arguments.quick else TURN)]
            subprocess.run(call, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            found[name].append(json.loads(output.read_text("utf-8")))
            one = found[name][-1]
            print(f"{name}: {one['speed']:,.0f} characters a second", flush=True)
    rows = {}
    for name, own in found.items():
        result = score(held_out, own[0]["words"], known)
        rows[name] = {
            "f1": result.f1,
            "oov": result.oov_recall,
            **{
                key: statistics.median(one[key] for one in own)
                for key in ("ready", "speed", "latency")
            },
        }
    same = found["reader"][0]["words"] == found["keras"][0]["words"]
    return {"backend": backend, "training": seconds, "rows": rows, "same": same}


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def page(run: Run) -> str:
    """Format the table as a page of the docs."""
    result = run.results
    cells = [
        [
            CONTENDERS[name].title,
            f"{row['f1']:.4f}",
            f"{row['oov']:.3f}",
            f"{row['speed'] / 1000:,.0f}",
            f"{1000 * row['latency']:.2f}",
            f"{row['ready']:.2f}",
        ]
        for name, row in result["rows"].items()
    ]
    header = [
        "",
        "F1",
        "recall of unseen words",
        "thousand characters/s",
        "one sentence, ms",
        "ready after, s",
    ]
    same = "are the same" if result["same"] else "are NOT the same"
    return (
        "# Word segmenters side by side\n\n"
        "The text is the development part of UD Chinese GSDSimp, without its blanks. finegrain was "
        f"trained on the training part ({result['training']:.0f} s on {result['backend']}). "
        "The others come with models of their own, made from other and "
        "larger corpora: what they call a word often differs from this treebank, so F1 tells how "
        "well each fits *this* text, not how good it is elsewhere. *Unseen* are the words that the "
        "training part does not have. Each ran in a process of its own on one core, "
        f"{run.rounds} times in turn; medians. *Ready* is from the first import to the loaded "
        f"model. The words of finegrain.reader and of finegrain in Keras {same}.\n\n"
        "The others are installed by `pip install 'finegrain[bench-segment]'`, half a gigabyte; "
        "those that are not there are left out.\n\n"
        + run.source("benchmarks/segment.py")
        + "\n"
        + table(header, cells)
    )


def add(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(rounds=5)
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--turn", type=float, default=TURN, help=argparse.SUPPRESS)


def main() -> None:
    arguments = parsed(add)
    if arguments.worker:
        texts = json.loads((SCRATCH / "segment.json").read_text("utf-8"))
        work(arguments.worker, texts, arguments.output, arguments.turn)
        return
    if arguments.show:
        run = Run.read("segment")
    else:
        os.environ.setdefault("KERAS_BACKEND", "torch")
        results = measure(arguments)
        packages = [CONTENDERS[name].package for name in results["rows"]]
        run = Run.here(results, arguments.rounds, *packages)
    text = page(run)
    print(text)
    if arguments.write:
        run.keep("segment")
        write_page("segment", text)


if __name__ == "__main__":
    main()
