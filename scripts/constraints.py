"""Each pin set in `constraints/` as its users have it: does the wheel install into that Airflow, and wait there?

    python -m scripts.constraints 2.11.2=python3.11 3.1.8=python3.13

For each set: an environment with that Airflow alone, then the wheel under the same constraints, which may not move any
package of it; then `airflow dags test` of an example, whose sensor defers. Prints a table; ends with 1 if a set has
failed. Standard library only; `uv` is a command of this interpreter's environment.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scripts.environment import as_variables
from tests.simulator_fixture import running_simulator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.simulator_fixture import Simulator

REPOSITORY: Final = Path(__file__).resolve().parent.parent
DAG_ID: Final = "lro_wait_for_one"
SHOWN: Final = ("grpcio", "googleapis-common-protos", "google-auth", "protobuf")
OURS: Final = "airflow-provider-lro"
_UV: Final = (sys.executable, "-m", "uv")


class ConstraintsError(RuntimeError):
    """A pin set does not do; the text says what has failed."""


def run(*command: str | Path, env: Mapping[str, str] | None = None) -> str:
    """Run a command and return its output.

    Raises:
        ConstraintsError: with the end of its output.
    """
    done = subprocess.run([*map(str, command)], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise ConstraintsError(f"{' '.join(map(str, command))} ended with exit code {done.returncode}:\n{said}")
    return done.stdout


def packages(python: Path) -> dict[str, str]:
    """Return what is installed, with its version."""
    listed = json.loads(run(*_UV, "pip", "list", "--quiet", "--format", "json", "--python", python))
    return {each["name"]: each["version"] for each in listed}


def install(pins: Path, interpreter: str, wheel: Path, directory: Path) -> tuple[Path, dict[str, str]]:
    """Make Airflow's environment and install the wheel into it; return its Python and the packages.

    Raises:
        ConstraintsError: it does not resolve, or a package of Airflow's has moved.
    """
    python = directory / "bin" / "python"
    version = pins.stem.removeprefix("airflow-").partition("-")[0]
    run(*_UV, "venv", "--quiet", "--python", interpreter, directory)
    command = (*_UV, "pip", "install", "--quiet", "--python", python, "--constraint", pins)
    run(*command, f"apache-airflow=={version}")
    before = packages(python)
    run(*command, f"{OURS} @ {wheel.as_uri()}")
    after = packages(python)
    if moved := {name: after.get(name) for name in before if after.get(name) != before[name]}:
        raise ConstraintsError(f"the wheel has moved packages of Airflow: {moved}")
    return python, after


def wait(python: Path, home: Path, simulator: Simulator) -> float:
    """Run the example in that environment; return the seconds that it took.

    Raises:
        ConstraintsError: the run has failed, or its sensor did not defer.
    """
    before = len(simulator.calls("GetOperation"))
    stored = {"conn_type": "lro", "host": "127.0.0.1", "port": simulator.port, "extra": {"insecure": True}}
    env = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    env |= {"AIRFLOW_HOME": str(home), "AIRFLOW_CONN_LRO_DEFAULT": json.dumps(stored)}
    env |= as_variables({"core": {"dags_folder": REPOSITORY / "example_dags", "load_examples": False}})
    run(python, "-m", "airflow", "db", "migrate", env=env)
    began = time.monotonic()
    said = run(python, "-m", "airflow", "dags", "test", DAG_ID, env=env)
    took = time.monotonic() - began
    with closing(sqlite3.connect(home / "airflow.db")) as database:
        states = database.execute("SELECT state FROM dag_run WHERE dag_id = ?", (DAG_ID,)).fetchall()
    # The worker polls once and defers; what follows is the trigger's.
    if states != [("success",)] or len(simulator.calls("GetOperation")) - before < 2:  # noqa: PLR2004
        raise ConstraintsError(f"no success, or no task was deferred:\n{said}")
    return took


def main(arguments: Sequence[str]) -> int:
    """Try each set; print a line for each."""
    problems: list[ConstraintsError] = []
    print(f"| pin set | Python | {' | '.join(SHOWN)} | installs, nothing moved | waits |")
    print("|---" * (len(SHOWN) + 4) + "|", flush=True)
    with tempfile.TemporaryDirectory(prefix="lro-constraints-") as directory, running_simulator() as simulator:
        home = Path(directory)
        run(*_UV, "build", "--quiet", "--wheel", "--out-dir", home / "dist", REPOSITORY)
        (wheel,) = (home / "dist").glob("*.whl")
        for argument in arguments:
            name, _, interpreter = argument.partition("=")
            row = [name, interpreter]
            try:
                pins = REPOSITORY / "constraints" / f"airflow-{name}.txt"
                python, found = install(pins, interpreter, wheel, home / name)
                row += [*(found[each] for each in SHOWN), "yes"]
                row.append(f"{wait(python, home / f'home-{name}', simulator):.0f} s")
            except ConstraintsError as error:
                problems.append(error)
                row.append("no: see below")
            print(f"| {' | '.join(row)} |", flush=True)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
