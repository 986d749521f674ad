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
from typing import Any, NamedTuple

BACKENDS = ("jax", "torch", "tensorflow")
ROOT = Path(__file__).parents[1]
DATA = ROOT / "data"
RESULTS = ROOT / "benchmarks" / "results"
SCRATCH = ROOT / "build" / "bench"
DOCS = ROOT / "docs" / "benchmarks"


def one_thread() -> None:
    """Give each library one thread; call this before any of them is imported."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"


def alternating(
    contenders: Mapping[str, Callable[[], None]], rounds: int, warm_up: int = 3, least: float = 0.0
) -> dict[str, list[float]]:
    """Measure the seconds of each contender in each round, where all run one after another.

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
    """Compute the median over the rounds of each contender's time divided by that of `to`."""
    return {
        name: statistics.median(a / b for a, b in zip(own, times[to], strict=True))
        for name, own in times.items()
    }


def machine() -> str:
    """Describe the machine in a few words."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return (
        f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    )


def versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of the packages."""
    return {package: version(package) for package in packages}


class Run(NamedTuple):
    """What a benchmark found, and where.

    Attributes:
        results: Of the benchmark's own making, fit for JSON.
        machine: The machine in a few words.
        date: The day, as 2026-01-31.
        rounds: The rounds of each timing.
        versions: Of the packages that matter, where the results do not say.
    """

    results: dict[str, Any]
    machine: str
    date: str
    rounds: int
    versions: dict[str, str]

    @classmethod
    def here(cls, results: dict[str, Any], rounds: int, *packages: str) -> Run:
        """Record what was found on this machine today."""
        return cls(results, machine(), time.strftime("%Y-%m-%d"), rounds, versions(*packages))

    @classmethod
    def read(cls, name: str) -> Run:
        """Read what is kept of a benchmark; exit if there is nothing."""
        path = RESULTS / f"{name}.json"
        if not path.exists():
            raise SystemExit(f"Nothing is kept of this benchmark: there is no {path}")
        return cls(**json.loads(path.read_text()))

    def keep(self, name: str) -> None:
        """Write the run as JSON."""
        RESULTS.mkdir(exist_ok=True)
        whole = json.dumps(self._asdict(), indent=1)
        (RESULTS / f"{name}.json").write_text(whole + "\n")

    def source(self, command: str) -> str:
        """Return the line that says where the tables come from.

        Args:
            command: What measures again, such as `benchmarks/gan.py`.
        """
        packages = "".join(f", {name} {number}" for name, number in self.versions.items())
        return (
            f"Machine: {self.machine}{packages}; {self.date}. Again on yours: `make bench`, or "
            f"`python {command}`.\n"
        )


def parsed(add: Any = None) -> argparse.Namespace:
    """Parse the arguments that every benchmark takes, and its own.

    Args:
        add: Adds arguments of the benchmark's own to a parser.
    """
    parser = argparse.ArgumentParser(
        description=sys.modules["__main__"].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=40, help="rounds of each timing")
    parser.add_argument(
        "--data", type=Path, default=DATA, help="folder of the data sets (benchmarks/README.md)"
    )
    parser.add_argument(
        "--show", action="store_true", help="measure nothing, show the results that are kept"
    )
    parser.add_argument("--write", action="store_true", help="keep results and the docs' tables")
    parser.add_argument(
        "--quick", action="store_true", help="a little of everything, to see that it runs"
    )
    if add is not None:
        add(parser)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 1
    return arguments


def add_backends(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of benchmarks that run on each backend."""
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--measure", help=argparse.SUPPRESS)


def on_each_backend(
    script: str,
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    arguments: argparse.Namespace,
) -> dict[str, Any] | None:
    """Run `measure` in a process for each backend.

    The parent returns the results by backend; each of these processes returns `None`.

    Args:
        script: `__file__` of the benchmark.
        measure: Measures on the present backend.
        arguments: With those of `add_backends`.
    """
    if arguments.measure:
        Path(arguments.measure).write_text(json.dumps(measure(arguments)))
        return None
    results = {}
    for backend in arguments.backends:
        print(f"-- {backend}", flush=True)
        output = SCRATCH / f"{Path(script).stem}-{backend}.json"
        output.parent.mkdir(parents=True, exist_ok=True)
        one_thread()
        subprocess.run(
            [sys.executable, script, *sys.argv[1:], "--measure", str(output)],
            env=os.environ | {"KERAS_BACKEND": backend},
            check=True,
        )
        results[backend] = json.loads(output.read_text())
        output.unlink()
    return results


def benchmark(
    script: str,
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    page: Callable[[Run], str],
    add: Any = None,
) -> None:
    """Measure on each backend, print the page and, if asked, keep it under the script's name.

    Args:
        script: `__file__` of the benchmark.
        measure: Measures on the present backend.
        page: From what was found, the results by backend, to Markdown.
        add: Adds arguments of the benchmark's own to a parser.
    """

    def add_all(parser: argparse.ArgumentParser) -> None:
        add_backends(parser)
        if add is not None:
            add(parser)

    arguments, name = parsed(add_all), Path(script).stem
    if arguments.show:
        run = Run.read(name)
    else:
        results = on_each_backend(script, measure, arguments)
        if results is None:
            return
        run = Run.here(results, arguments.rounds)
    text = page(run)
    print(text)
    if arguments.write:
        run.keep(name)
        write_page(name, text)


def write_page(name: str, text: str) -> None:
    """Write a page of the docs."""
    DOCS.mkdir(exist_ok=True)
    (DOCS / f"{name.replace('_', '-')}.md").write_text(text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
