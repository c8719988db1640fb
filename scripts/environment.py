"""The environment that Airflow's components run in: the caller's without any Airflow of theirs, and ours.

Standard library only.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["airflow_environment", "as_variables"]

_REPOSITORY = Path(__file__).resolve().parent.parent


def airflow_environment(
    home: Path,
    dags_folder: Path,
    *,
    url: str,
    user: str,
    is_3: bool,
    log_ports: tuple[int, int],
    parallelism: int,
    database: str | None = None,
) -> dict[str, str]:
    """Return the environment.

    Args:
        home: `AIRFLOW_HOME`.
        dags_folder: Where the DAG files are.
        url: Of the API server or webserver, on this machine.
        user: Who may do everything.
        is_3: Whether this is Airflow 3, and not 2.11.
        log_ports: Where the scheduler and the triggerer serve logs, if they do.
        parallelism: How many tasks run at once.
        database: See AirflowStack.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "_AIRFLOW_"))}
    local = ",".join(filter(None, [env.get("NO_PROXY") or env.get("no_proxy"), "127.0.0.1", "localhost"]))
    env |= {
        "AIRFLOW_HOME": str(home),
        # 2.11's executor starts `airflow` by its name.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_REPOSITORY), env.get("PYTHONPATH")])),
        "NO_PROXY": local,
        "no_proxy": local,
        "PYTHONUNBUFFERED": "1",
    }
    worker_port, trigger_port = log_ports
    options: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": dags_folder,
            "dags_are_paused_at_creation": False,
            "load_examples": False,
            "parallelism": parallelism,
            # 2.11 refuses any other executor on SQLite.
            "executor": "scripts.executor.CountingLocalExecutor" if is_3 else "SequentialExecutor",
            "execution_api_server_url": f"{url}/execution/",
            "simple_auth_manager_users": f"{user}:admin",
        },
        "api": {"base_url": url, "workers": 1, "secret_key": secrets.token_hex(16), "maximum_page_limit": 1000},
        "api_auth": {"jwt_secret": secrets.token_hex(32)},
        "webserver": {"base_url": url, "workers": 1, "secret_key": secrets.token_hex(16)},
        "scheduler": {
            "scheduler_heartbeat_sec": 1,
            "job_heartbeat_sec": 2,
            "dag_dir_list_interval": 5,
            "enable_health_check": False,
        },
        "triggerer": {"job_heartbeat_sec": 2},
        "dag_processor": {"refresh_interval": 5, "bundle_refresh_check_interval": 2},
        "logging": {"worker_log_server_port": worker_port, "trigger_log_server_port": trigger_port},
        "usage_data_collection": {"enabled": False},
    }
    if database is not None:
        options["database"] = {"sql_alchemy_conn": database}
    return env | as_variables(options)


def as_variables(options: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """Return Airflow's options, by section and name, as the environment variables that set them."""
    return {
        f"AIRFLOW__{section}__{name}".upper(): str(value)
        for section, values in options.items()
        for name, value in values.items()
    }
