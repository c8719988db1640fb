"""What a DAG file pays to import our sensors and operators, against what grpc and the Operations stubs would cost.

Fresh interpreters in turn, each with ``BaseSensorOperator`` loaded already, as any DAG file has it. Prints the medians
and their ratio.

    python benchmarks/import_cost.py [--runs 9]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

PROGRAM = """
import sys, time, warnings
warnings.simplefilter("ignore")
from airflow.providers.common.compat.sdk import BaseSensorOperator
start = time.perf_counter()
{statement}
took = time.perf_counter() - start
names = ("grpc", "google.protobuf", "google.auth")
heavy = [name for name in sys.modules if name.startswith(names)]
print(took * 1000, len(heavy))
"""
OURS = "import airflow_provider_lro.sensors, airflow_provider_lro.operators"
THEIRS = "import grpc, google.longrunning.operations_pb2"


def measure(statement: str) -> tuple[float, int]:
    """Return the milliseconds an import took, and how many heavy modules are loaded after it."""
    program = PROGRAM.format(statement=statement)
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    took, heavy = done.stdout.split()[-2:]
    return float(took), int(heavy)


def main() -> None:
    """Measure both in turn, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    runs = parser.parse_args().runs
    ours, theirs, heavy = [], [], 0
    for _ in range(runs):
        took, count = measure(OURS)
        ours.append(took)
        heavy = max(heavy, count)
        theirs.append(measure(THEIRS)[0])
    for label, figures in (("sensors and operators", ours), ("grpc and operations_pb2", theirs)):
        spread = f"{min(figures):.1f} to {max(figures):.1f}"
        print(f"{label:<24} median {statistics.median(figures):6.1f} ms  ({spread}, {runs} runs)")
    print(f"ratio {statistics.median(ours) / statistics.median(theirs):.2f}; heavy modules loaded by ours: {heavy}")
    assert heavy == 0


if __name__ == "__main__":
    main()
