"""The connection form of Airflow 3.3 in Chromium: what it shows, what it keeps, and its "Test Connection"."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from airflow_provider_lro._core.form import FIELDS, field_behaviour
from scripts.children import free_ports
from tests.browser.form import add, edit, new_connection, row, stored
from tests.simulator_fixture import running_simulator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

    from scripts.stack import AirflowStack
    from tests.browser.form import Form
    from tests.simulator_fixture import Simulator

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

SCREENSHOT = Path(__file__).parent.parent.parent / "docs" / "connection-form.png"
MASK = "***"
PEM = "-----BEGIN CERTIFICATE-----\nMIIB\nAQAB\n-----END CERTIFICATE-----\n"


@pytest.fixture(scope="module")
def service() -> Iterator[Simulator]:
    with running_simulator() as running:
        yield running


def given(extra: dict[str, Any]) -> dict[str, Any]:
    """An extra without the fields that were left empty, which the form sends as null."""
    assert set(extra) == {field.name for field in FIELDS}
    return {name: value for name, value in extra.items() if value is not None}


def test_every_field_is_shown(page: Page) -> None:
    """Each of our fields stands in the form with its label, its description and the control of its kind."""
    form = new_connection(page)
    form.open("Extra Fields")
    expect(form.dialog.locator("[name^=element_]")).to_have_count(len(FIELDS))
    for field in FIELDS:
        control = form.own(field.name)
        around = form.around(control)
        expect(around.locator("label[data-part=label]")).to_have_text(field.label)
        expect(around.locator("[data-part=helper-text]")).to_have_text(field.description)
        if field.kind == "boolean":
            expect(control).to_have_role("checkbox")
            expect(control).not_to_be_checked()
            continue
        expect(control).to_be_visible()
        expect(control).to_have_value("")
        expect(control).to_have_role("spinbutton" if field.kind == "integer" else "textbox")
        assert control.evaluate("node => node.type === 'password'") is field.secret, field.name
        assert control.evaluate("node => node.tagName === 'TEXTAREA'") is field.lines, field.name


def test_airflows_own_fields_are_relabelled(page: Page) -> None:
    """The host is an endpoint, the password a bearer token that is not shown, and what we do not use is not there."""
    behaviour = field_behaviour()
    form = new_connection(page)
    for name, label in behaviour["relabeling"].items():
        expect(form.around(form.standard(name)).locator("label")).to_have_text(label)
    for name, placeholder in behaviour["placeholders"].items():
        expect(form.standard(name)).to_have_attribute("placeholder", placeholder)
    expect(form.standard("password")).to_have_attribute("type", "password")
    for name in ("login", "schema", "url_schema"):
        expect(form.standard(name)).to_have_count(0)


def test_connection_is_kept_and_answers(page: Page, airflow: AirflowStack, service: Simulator, tmp_path: Path) -> None:
    """What is filled in is stored with its types, comes back into the form, and reaches the service."""
    name = "lro_default"
    standard = {
        "description": "The simulated service",
        "host": "127.0.0.1",
        "port": str(service.port),
    }
    extra: dict[str, str | bool] = {"insecure": True, "max_message_mb": "32"}
    add(page, name, standard, extra)
    kept = stored(airflow, name, tmp_path)
    assert (kept["conn_type"], kept["host"], kept["port"]) == ("lro", "127.0.0.1", service.port)
    assert given(kept["extra"]) == {"insecure": True, "max_message_mb": 32}

    form = edit(page, name)
    for field, text in standard.items():
        expect(form.standard(field)).to_have_value(text)
    expect(form.own("insecure")).to_be_checked()
    expect(form.own("is_anonymous")).not_to_be_checked()
    expect(form.own("max_message_mb")).to_have_value("32")
    if os.environ.get("LRO_SCREENSHOT") == "1":
        take_screenshot(page, form)
    form.dialog.get_by_role("button", name="Close").click()
    expect(form.dialog).to_be_hidden()

    row(page, name).get_by_role("button", name="Test Connection").click()
    reached = f"Reached 127.0.0.1:{service.port}, which answers google.longrunning.Operations"
    expect(page.get_by_text(reached)).to_be_visible()
    assert len(service.calls("GetOperation", "projects/airflow/locations/us-central1/operations/connection-test")) == 1


def test_refused_port_cannot_connect(page: Page) -> None:
    """A port that nobody listens on is told of as such."""
    (port,) = free_ports(1)
    add(page, "lro_refused", {"host": "127.0.0.1", "port": str(port)}, {"insecure": True})
    row(page, "lro_refused").get_by_role("button", name="Test Connection").click()
    expect(page.get_by_text("Cannot connect: ")).to_be_visible()


def test_secrets_are_masked_and_survive(page: Page, airflow: AirflowStack, tmp_path: Path) -> None:
    """Secrets come back as asterisks, and saving these keeps what was stored; certificates keep their lines."""
    name = "lro_secrets"
    key = json.dumps({"type": "service_account", "private_key": "of nobody"})
    extra: dict[str, str | bool] = {
        "keyfile_dict": key,
        "client_key": "/etc/lro/client.key",
        "client_certificate": PEM,
        "root_certificates": PEM,
    }
    add(page, name, {"host": "lro.example.com", "password": "sesame-sesame"}, extra)
    before = stored(airflow, name, tmp_path)
    assert before["password"] == "sesame-sesame"
    assert given(before["extra"]) == extra

    form = edit(page, name)
    expect(form.standard("password")).to_have_value(MASK)
    expect(form.own("keyfile_dict")).to_have_value(MASK)
    # None of the names that Airflow masks, which is why the form asks for a path there.
    expect(form.own("client_key")).to_have_value("/etc/lro/client.key")
    expect(form.own("root_certificates")).to_have_value(PEM)
    form.fill({"description": "edited"}, {"authority": "example.com"})
    form.save()
    expect(row(page, name).get_by_role("cell", name="edited")).to_be_visible()
    after = stored(airflow, name, tmp_path)
    assert after == before | {"description": "edited", "extra": before["extra"] | {"authority": "example.com"}}


def take_screenshot(page: Page, form: Form) -> None:
    """Write the form with its standard and with its extra fields open, side by side."""
    shots = []
    for section in ("Standard Fields", "Extra Fields"):
        form.open(section)
        form.dialog.evaluate("node => Promise.all(node.getAnimations({subtree: true}).map(each => each.finished))")
        form.dialog.get_by_role("heading").first.hover()
        shots.append(base64.b64encode(form.dialog.screenshot(animations="disabled")).decode())
    images = "".join(f'<img width="620" src="data:image/png;base64,{shot}">' for shot in shots)
    sheet = page.context.new_page()
    style = "display: inline-flex; gap: 16px; align-items: start; padding: 16px; background: #ddd"
    sheet.set_content(f'<div style="{style}">{images}</div>')
    SCREENSHOT.parent.mkdir(exist_ok=True)
    sheet.locator("div").screenshot(path=SCREENSHOT)
    sheet.close()
