"""A connection that the Google provider's own form made: a real worker and triggerer authenticate with it as it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.form import add, edit, row, stored
from tests.browser.untouched import GOOGLE_FORM, HOOK_NAME
from tests.grpc.conftest import authority, leaf, trusted  # noqa: F401  (fixtures)
from tests.grpc.token_server import guarded, key_path, keyfile, private_key, tokens  # noqa: F401  (fixtures)

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

    from scripts.stack import AirflowStack
    from tests.grpc.token_server import TokenServer
    from tests.simulator_fixture import Simulator

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

SCOPES = "https://www.googleapis.com/auth/cloud-platform, https://www.googleapis.com/auth/userinfo.email"


@pytest.fixture(scope="module")
def settings(trusted: bytes, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:  # noqa: F811
    """The Google provider's form has no field for authorities, so gRPC is told of them by its own variable."""
    roots = tmp_path_factory.mktemp("roots") / "roots.pem"
    roots.write_bytes(trusted)
    return {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(roots)}


def wait_with(airflow: AirflowStack, connection: str, service: Simulator) -> None:
    """Let a task wait, and see that worker and triggerer were both let in."""
    run = airflow.trigger("one_wait", {"connection": connection, "endpoint": service.endpoint})
    assert airflow.wait_for_run("one_wait", run) == "success", airflow.task_log("one_wait", run, "waits")
    calls = service.calls("GetOperation", f"simulations/duration=2/operations/{run}")
    assert {call["code"] for call in calls} == {0}
    assert len(calls) > 1, "the worker polls once, then the triggerer"


@pytest.mark.parametrize("field", ["keyfile_dict", "key_path"])
def test_a_connection_of_the_google_form_authenticates(
    *,
    field: str,
    page: Page,
    airflow: AirflowStack,
    keyfile: str,  # noqa: F811
    key_path: str,  # noqa: F811
    tokens: TokenServer,  # noqa: F811
    guarded: Simulator,  # noqa: F811
    tmp_path: Path,
) -> None:
    """A key in the form's own fields, the rest as it comes, gets a deferring task past a service that wants a token."""
    # As the cloud console gives the key out: over several lines, of which the form makes one.
    key = {"keyfile_dict": json.dumps(json.loads(keyfile), indent=2), "key_path": key_path}[field]
    name = f"google_{field}"
    filled = {"project": "p", field: key, "scope": SCOPES}
    add(page, name, {}, filled, HOOK_NAME)
    kept = stored(airflow, name, tmp_path)
    assert kept["conn_type"] == "google_cloud_platform"
    assert kept["extra"] == GOOGLE_FORM | filled | {field: key.replace("\n", " ")}
    wait_with(airflow, name, guarded)
    assert len(tokens.requests) == 2, "one of the worker, one of the triggerer"


def test_fields_that_were_emptied_again(
    *,
    page: Page,
    airflow: AirflowStack,
    keyfile: str,  # noqa: F811
    key_path: str,  # noqa: F811
    guarded: Simulator,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Whoever changes from one kind of key to another, and clears the numbers, has a connection that works."""
    name = "google_edited"
    add(page, name, {}, {"key_path": key_path, "scope": SCOPES, "quota_project_id": "payer"}, HOOK_NAME)
    form = edit(page, name)
    emptied = dict.fromkeys(("key_path", "scope", "quota_project_id", "num_retries"), "")
    form.fill({"description": "another key"}, {**emptied, "keyfile_dict": keyfile})
    form.save()
    expect(row(page, name).get_by_role("cell", name="another key")).to_be_visible()
    kept = stored(airflow, name, tmp_path)
    assert kept["extra"] == GOOGLE_FORM | {"keyfile_dict": keyfile, "num_retries": None}
    wait_with(airflow, name, guarded)
