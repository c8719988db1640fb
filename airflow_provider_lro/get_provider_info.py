"""The metadata that Airflow reads of this provider, and the only list of what it registers.

Airflow asks for it while it is still loading itself: nothing that imports more of Airflow can be imported here.
"""

from __future__ import annotations

from typing import Any

from airflow import __version__

from airflow_provider_lro._core.form import conn_fields, field_behaviour

__all__ = ["get_provider_info"]

INTEGRATION = "Long-running operations"
TRIGGERS = ["airflow_provider_lro.triggers"]
if not __version__.startswith("2."):  # which has no asset watchers
    TRIGGERS.append("airflow_provider_lro.assets")


def get_provider_info() -> dict[str, Any]:
    """Return the metadata; its schema is Airflow's ``provider_info.schema.json``."""
    behaviour = field_behaviour()
    return {
        "package-name": "airflow-provider-lro",
        "name": INTEGRATION,
        "description": "Start, wait for, cancel, delete, get and list google.longrunning operations of any service.",
        "integrations": [
            {
                "integration-name": INTEGRATION,
                "external-doc-url": "https://google.aip.dev/151",
                "tags": ["google", "protocol"],
            }
        ],
        "hooks": [{"integration-name": INTEGRATION, "python-modules": ["airflow_provider_lro.hooks"]}],
        "operators": [
            {
                "integration-name": INTEGRATION,
                "python-modules": ["airflow_provider_lro.operators"],
            }
        ],
        "sensors": [{"integration-name": INTEGRATION, "python-modules": ["airflow_provider_lro.sensors"]}],
        "triggers": [{"integration-name": INTEGRATION, "python-modules": TRIGGERS}],
        "task-decorators": [{"class-name": "airflow_provider_lro.decorators.lro_task", "name": "lro"}],
        "cli": ["airflow_provider_lro.cli.get_cli_commands"],
        "extra-links": ["airflow_provider_lro.links.OperationLink"],
        "connection-types": [
            {
                "connection-type": "lro",
                "hook-class-name": "airflow_provider_lro.hooks.LongRunningOperationHook",
                "hook-name": INTEGRATION,
                "conn-fields": conn_fields(),
                "ui-field-behaviour": {key.replace("_", "-"): value for key, value in behaviour.items()},
            }
        ],
    }
