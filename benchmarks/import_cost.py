"""What a DAG file pays to import our sensors, operators and decorators, against what grpc and the stubs would cost.

Fresh interpreters in turn, each with Airflow loaded already, as any process has it that reads DAG files, and with all
bytecode cached. What is there by then is frozen, so that no garbage collection over Airflow's objects is in anybody's
figure. Prints the medians, their ratio, and which modules were loaded.

    python benchmarks/import_cost.py [--runs 9]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
PROGRAM = """
import gc, json, sys, time, warnings
warnings.simplefilter("ignore")
import airflow.models
from tests.versions import (
    DAG, BaseHook, BaseOperator, BaseSensorOperator, DecoratedOperator, XCom, conf, task
)
before = set(sys.modules)
gc.collect()
gc.freeze()
start = time.perf_counter()
{statement}
took = time.perf_counter() - start
print(json.dumps([took * 1000, sorted(set(sys.modules) - before)]))
"""
OURS = "import airflow_provider_lro.sensors, airflow_provider_lro.operators, airflow_provider_lro.decorators"
THEIRS = "import grpc, google.longrunning.operations_pb2"
HEAVY = ("grpc", "google.protobuf", "google.auth", "google.longrunning", "google.rpc", "requests")
LIMIT = 0.5


def measure(statement: str) -> tuple[float, list[str]]:
    """Return the milliseconds that an import took, and the modules that it has loaded."""
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))  # the checkout goes first
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(statement=statement)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    found: Any = json.loads(done.stdout.splitlines()[-1])
    return found[0], found[1]


def main() -> None:
    """Measure both in turn, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    runs = parser.parse_args().runs
    figures: dict[str, list[float]] = {OURS: [], THEIRS: []}
    loaded: list[str] = []
    for number in range(-1, runs):  # the first of each writes the bytecode
        for statement in sorted(figures, reverse=number % 2 == 0):
            took, modules = measure(statement)
            if number >= 0:
                figures[statement].append(took)
            if statement == OURS:
                loaded = modules
    for label, each in (("sensors, operators, decorators", figures[OURS]), ("grpc, operations_pb2", figures[THEIRS])):
        print(
            f"{label:<31} median {statistics.median(each):6.1f} ms  ({min(each):.1f} to {max(each):.1f}, {runs} runs)"
        )
    ours = [name for name in loaded if name.startswith("airflow_provider_lro")]
    print(f"\nof the package ({len(ours)}):\n  " + "\n  ".join(ours))
    others = sorted({name.partition(".")[0] for name in loaded} - {"airflow_provider_lro"})
    print(f"\nof others ({len(loaded) - len(ours)}): {', '.join(others) or 'none'}")
    heavy = [name for name in loaded if f"{name}.".startswith(tuple(f"{each}." for each in HEAVY))]
    ratio = statistics.median(figures[OURS]) / statistics.median(figures[THEIRS])
    print(f"\nratio {ratio:.2f}, at most {LIMIT:g} is wanted; heavy modules loaded by ours: {len(heavy)}")
    assert not heavy, heavy


if __name__ == "__main__":
    main()
