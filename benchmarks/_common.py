"""What the benchmarks share: alternating timings, the machine's description, tables, files."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

BACKENDS = ("jax", "torch", "tensorflow")
RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"


def one_thread() -> None:
    """Gives each library one thread; to be called before any of them is imported."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"


def alternating(
    contenders: Mapping[str, Callable[[], None]], rounds: int, warm_up: int = 3, least: float = 0.0
) -> dict[str, list[float]]:
    """Seconds of each contender in each round; in a round all run, in turns, one after another.

    Args:
        contenders: What to run, by name.
        rounds: How often each has its turn.
        warm_up: Runs of each before.
        least: Seconds that a turn lasts at least: until then it runs again, as steps of training
            follow each other, and its time is the mean.
    """
    for _ in range(warm_up):
        for run in contenders.values():
            run()
    gc.collect()
    gc.disable()  # Nobody pays for the garbage of another.
    times: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for index in range(rounds):
        # Each begins a round in its turn, so that nobody always follows the same neighbour.
        for name in names[index % len(names) :] + names[: index % len(names)]:
            runs, start = 0, time.perf_counter()
            while not runs or time.perf_counter() - start < least:
                contenders[name]()
                runs += 1
            times[name].append((time.perf_counter() - start) / runs)
        gc.collect()
    gc.enable()
    return times


def ratios(times: Mapping[str, Sequence[float]], to: str) -> dict[str, float]:
    """The median, over the rounds, of each contender's time by that of `to`."""
    return {
        name: statistics.median(a / b for a, b in zip(own, times[to], strict=True))
        for name, own in times.items()
    }


def machine() -> str:
    """The machine in a few words."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return (
        f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    )


def versions(*packages: str) -> dict[str, str]:
    """Installed versions."""
    return {package: version(package) for package in packages}


def on_each_backend(
    script: str, measure: Callable[[argparse.Namespace], dict[str, Any]], add: Any = None
) -> tuple[argparse.Namespace, dict[str, Any]] | None:
    """Runs `measure` in a process for each backend; the results by backend, in the parent only.

    Args:
        script: `__file__` of the benchmark.
        measure: Measures on the present backend.
        add: Adds arguments of the benchmark's own to a parser.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--rounds", type=int, default=40, help="rounds of each comparison")
    parser.add_argument("--write", action="store_true", help="keep results and the docs' tables")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    if add is not None:
        add(parser)
    arguments = parser.parse_args()
    if arguments.measure:
        Path(arguments.measure).write_text(json.dumps(measure(arguments)))
        return None
    results = {}
    for backend in arguments.backends:
        print(f"-- {backend}", flush=True)
        output = RESULTS / f".{Path(script).stem}-{backend}.json"
        output.parent.mkdir(exist_ok=True)
        one_thread()
        subprocess.run(
            [sys.executable, script, *sys.argv[1:], "--measure", str(output)],
            env=os.environ | {"KERAS_BACKEND": backend},
            check=True,
        )
        results[backend] = json.loads(output.read_text())
        output.unlink()
    return arguments, results


def benchmark(
    script: str,
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    page: Callable[[dict[str, Any], int], str],
    add: Any = None,
) -> None:
    """Measures on each backend, prints the page and, if asked, keeps it under the script's name.

    Args:
        script: `__file__` of the benchmark.
        measure: Measures on the present backend.
        page: From the results by backend, and the number of rounds, to Markdown.
        add: Adds arguments of the benchmark's own to a parser.
    """
    done = on_each_backend(script, measure, add)
    if done is None:
        return
    arguments, results = done
    text = page(results, arguments.rounds)
    print(text)
    if arguments.write:
        keep(Path(script).stem, results, text)


def keep(name: str, results: Mapping[str, Any], page: str) -> None:
    """Writes the results as JSON, and the page for the docs."""
    whole = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "results": results}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")
    DOCS.mkdir(exist_ok=True)
    (DOCS / f"{name.replace('_', '-')}.md").write_text(page)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
