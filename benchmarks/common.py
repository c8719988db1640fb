"""What the benchmarks share: the service in a process of its own, systems in theirs, tables, plots and verdicts."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))  # the checkout, not whatever version is installed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence

OUTPUT = REPOSITORY / "docs" / "bench"
LOOPBACK_ONLY = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")


class Service:
    """The local service; made by ``service``."""

    def __init__(self, directory: Path, options: tuple[str, ...]) -> None:
        self.directory = directory
        self.roots = str(directory / "roots.pem")
        self.port = 0
        self._options = options
        self._process: subprocess.Popen[str] | None = None
        self._control = 0

    def start(self) -> None:
        """Start it, on the ports it had before if it had any."""
        script = str(Path(__file__).with_name("server.py"))
        command = [sys.executable, script, "--certificate", str(self.directory / "leaf.pem"), "--port", str(self.port)]
        command += ["--control", str(self._control), *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_env())
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the service did not come up"
        self.port, self._control = (int(word) for word in line.split())

    def stop(self, *, kill: bool = False) -> None:
        """End it, and with it its connections."""
        if self._process is not None:
            (self._process.kill if kill else self._process.terminate)()
            self._process.wait(10)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    @property
    def address(self) -> dict[str, Any]:
        """What a child needs to know of it."""
        return {"port": self.port, "control": self._control, "roots": self.roots, "directory": str(self.directory)}


@contextmanager
def service(*options: str) -> Iterator[Service]:
    """Run the service for the length of a ``with`` block."""
    import trustme

    authority = trustme.CA()
    with tempfile.TemporaryDirectory(prefix="lro-bench-") as name:
        directory = Path(name)
        authority.cert_pem.write_to_path(directory / "roots.pem")
        leaf = authority.issue_cert("localhost", "127.0.0.1")
        leaf.private_key_and_cert_chain_pem.write_to_path(directory / "leaf.pem")
        result = Service(directory, options)
        result.start()
        try:
            yield result
        finally:
            result.stop()


def service_counts(spec: dict[str, Any]) -> dict[str, Any]:
    """Ask the service what a system has done so far."""
    with socket.create_connection(("127.0.0.1", spec["control"])) as connection, connection.makefile("rwb") as file:
        file.write(b"\n")
        file.flush()
        line = file.readline()
    nothing = {"calls": 0, "connections": 0, "most at once": 0, "first": []}
    result: dict[str, Any] = json.loads(line).get(spec["system"], nothing)
    return result


def _env() -> dict[str, str]:
    """Return an environment without the caller's Airflow, and without a way off this machine."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("AIRFLOW_", "GOOGLE_", "CLOUDSDK_")) and key.lower() not in LOOPBACK_ONLY
    }
    return {**kept, "NO_GCE_CHECK": "true", "no_proxy": "*", "GRPC_VERBOSITY": "NONE"}


class Children:
    """Systems in processes of their own."""

    def __init__(self, script: str) -> None:
        self._script = script
        self._running: list[tuple[dict[str, Any], subprocess.Popen[bytes], Path]] = []
        self._number = 0

    def start(self, spec: dict[str, Any]) -> subprocess.Popen[bytes]:
        """Start one."""
        self._number += 1
        # A home of its own: Airflow writes into it.
        directory = Path(tempfile.mkdtemp(dir=spec["directory"]))
        result = directory / "result.json"
        spec = {**spec, "directory": str(directory), "result": str(result), "log": str(directory / "log.jsonl")}
        process = subprocess.Popen([sys.executable, self._script, "--child", json.dumps(spec)], env=_env())
        self._running.append((spec, process, result))
        return process

    def results(self, meanwhile: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
        """Let all that were started begin together; return what they found, each with its ``system``."""
        found = []
        try:
            while any(process.poll() is None and not _ready(spec).exists() for spec, process, _ in self._running):
                time.sleep(0.05)
            for spec, _, _ in self._running:
                _ready(spec).unlink(missing_ok=True)
            meanwhile()
            for spec, process, result in self._running:
                code = process.wait()
                assert code == 0, f"{spec['system']} ended with {code}; {_tail(spec['log'])}"
                found.append({**spec, **json.loads(result.read_text())})
        finally:
            for _, process, _ in self._running:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            self._running.clear()
        return found


def _ready(spec: dict[str, Any]) -> Path:
    return Path(spec["directory"]) / "ready"


async def begin(spec: dict[str, Any]) -> None:
    """Say that all is imported, and wait for the others."""
    _ready(spec).touch()
    while _ready(spec).exists():  # noqa: ASYNC110  (another process takes it away)
        await asyncio.sleep(0.05)


def _tail(log: str) -> str:
    try:
        return Path(log).read_text(errors="replace")[-3000:]
    except OSError:
        return "it logged nothing"


def run(
    script: str,
    main: Callable[[argparse.Namespace], None],
    child: Callable[[dict[str, Any]], Coroutine[Any, Any, Any]],
    more: Callable[[argparse.ArgumentParser], Any] = lambda _: None,
) -> None:
    """Be the benchmark, or one of its children, whichever was asked for."""
    if sys.argv[1:2] == ["--child"]:
        spec = json.loads(sys.argv[2])
        Path(spec["result"]).write_text(json.dumps(asyncio.run(child(spec))))
        return
    started = time.monotonic()
    arguments = parser(sys.modules["__main__"].__doc__ or "")
    more(arguments)
    main(arguments.parse_args())
    print(f"{Path(script).name} took {time.monotonic() - started:.0f} s")


def parser(text: str) -> argparse.ArgumentParser:
    """Return the arguments that each benchmark has."""
    result = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--quick", action="store_true", help="few waits, one round: to try it out, not to believe")
    result.add_argument("--rounds", type=int, default=0, help="0: as many as it takes to believe it")
    result.add_argument("--only", default="", help="run only the part with this name")
    result.add_argument("--output", type=Path, default=OUTPUT, help="where table and plot go")
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A ratio that is wanted."""

    what: str
    value: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether it is met."""
        return self.value <= self.limit


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Return a median with its range."""
    if not values:
        return "-"
    median = f"{statistics.median(values):,.{digits}f}"
    return median if len(values) == 1 else f"{median} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; its first column is text, the others are figures."""
    lines = [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def verdicts(checks: Sequence[Check]) -> str:
    """Return the wanted ratios, and whether they are met."""
    rows = [
        (check.what, f"{check.value:.2f}", f"{check.limit:g}", "PASS" if check.passed else "**NOT MET**")
        for check in checks
    ]
    return table(("wanted", "is", "at most", ""), rows)


def machine() -> str:
    """Return what the figures were made with."""
    packages = ("apache-airflow", "grpcio", "apache-airflow-providers-google")
    return (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{', '.join(f'{package} {version(package)}' for package in packages)}"
    )


def publish(output: Path, name: str, *sections: str) -> None:
    """Print what was found, and keep it beside its plot."""
    text = "\n\n".join(sections)
    print(text, flush=True)
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{name}.md").write_text(f"{text}\n\nMade with `python benchmarks/{name}.py` on {machine()}.\n")


@contextmanager
def plot(output: Path, name: str, *, columns: int = 1, height: float = 3.2) -> Iterator[Any]:
    """Give the axes of a plot, and write it to a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    output.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, columns, figsize=(4.5 * columns, height), squeeze=False, layout="constrained")
    for each in axes[0]:
        each.spines[["top", "right"]].set_visible(False)
    yield axes[0]
    figure.savefig(output / f"{name}.png", dpi=90)
    plt.close(figure)


def bars(axes: Any, title: str, figures: Mapping[str, Sequence[float]], *, digits: int = 0) -> None:
    """Draw medians as bars, with the range of the rounds; ours stands out."""
    names = list(figures)
    medians = [statistics.median(figures[name]) for name in names]
    errors = [
        [median - min(figures[name]) for name, median in zip(names, medians, strict=True)],
        [max(figures[name]) - median for name, median in zip(names, medians, strict=True)],
    ]
    colours = ["tab:blue" if name.startswith("ours") else "silver" for name in names]
    axes.barh(names, medians, xerr=errors, color=colours, ecolor="dimgrey", capsize=2)
    axes.invert_yaxis()
    for index, median in enumerate(medians):
        axes.text(median, index, f" {median:,.{digits}f}", va="bottom", fontsize=7)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=8)
