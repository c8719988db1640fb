"""Airflow 3.3 in Chromium: its form of a connection, and what that has stored. Needs the extra ``browser``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from playwright.sync_api import expect, sync_playwright

from airflow_provider_lro.hooks import LongRunningOperationHook
from scripts.stack import AirflowStack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import BrowserContext, Locator, Page

CHROMIUM = "/usr/bin/chromium"
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DAGS = Path(__file__).parent / "dags"

expect.set_options(timeout=15_000)


class Form:
    """The dialog that adds or edits a connection."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.dialog = page.get_by_role("dialog")
        expect(self.dialog).to_be_visible()

    def choose_type(self, hook_name: str) -> None:
        self.dialog.get_by_role("combobox").fill(hook_name)
        self._page.get_by_role("option", name=hook_name, exact=True).click()

    def open(self, section: str) -> None:
        """Open a section, which closes the others."""
        header = self.dialog.get_by_role("button", name=section, exact=True)
        if header.get_attribute("aria-expanded") != "true":
            header.click()
        expect(header).to_have_attribute("aria-expanded", "true")

    def standard(self, name: str) -> Locator:
        self.open("Standard Fields")
        return self.dialog.locator(f"[name={name}]")

    def own(self, name: str) -> Locator:
        self.open("Extra Fields")
        return self.dialog.locator(f"[name=element_{name}]")

    def around(self, control: Locator) -> Locator:
        """What holds a control together with its label and its description."""
        return control.locator("xpath=ancestor::*[@data-scope='field'][@data-part='root'][1]")

    def fill(self, standard: dict[str, str], extra: dict[str, str | bool]) -> None:
        for name, text in standard.items():
            self.standard(name).fill(text)
        for name, value in extra.items():
            if isinstance(value, bool):
                # The checkbox itself is one pixel wide; people click on what is drawn around it.
                self.around(self.own(name)).locator("[data-scope=switch][data-part=control]").click()
                expect(self.own(name)).to_be_checked(checked=value)
            else:
                self.own(name).fill(value)

    def save(self) -> None:
        self.dialog.get_by_role("button", name="Save").click()
        expect(self.dialog).to_be_hidden()


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    """What a module adds to the environment of its Airflow."""
    return {}


@pytest.fixture(scope="module")
def airflow(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowStack]:
    env = {
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__CORE__FERNET_KEY": Fernet.generate_key().decode(),
    }
    with AirflowStack(tmp_path_factory.mktemp("airflow"), DAGS, env=env | settings) as running:
        yield running


@pytest.fixture(scope="module")
def browser(airflow: AirflowStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    """Chromium, logged in through the login page."""
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("chromium"),
            executable_path=CHROMIUM,
            headless=True,
            args=CHROMIUM_ARGUMENTS,
            viewport={"width": 1280, "height": 2400},
            locale="en-US",
        )
        context.set_default_timeout(15_000)
        page = context.pages[0]
        page.goto(airflow.url)
        page.locator("[name=username]").fill(airflow.user)
        page.locator("[name=password]").fill(airflow.password)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("button", name="Admin")).to_be_visible()
        yield context
        context.close()


@pytest.fixture
def page(airflow: AirflowStack, browser: BrowserContext) -> Page:
    """The list of connections, reached through the menu."""
    page = browser.pages[0]
    page.goto(airflow.url)
    page.get_by_role("button", name="Admin").click()
    page.get_by_role("menuitem", name="Connections").click()
    expect(page.get_by_role("button", name="Add Connection")).to_be_visible()
    return page


def new_connection(page: Page, hook_name: str = LongRunningOperationHook.hook_name) -> Form:
    page.get_by_role("button", name="Add Connection").click()
    form = Form(page)
    form.choose_type(hook_name)
    return form


def add(
    page: Page,
    name: str,
    standard: dict[str, str],
    extra: dict[str, str | bool],
    hook_name: str = LongRunningOperationHook.hook_name,
) -> None:
    form = new_connection(page, hook_name)
    form.dialog.locator("[name=connection_id]").fill(name)
    form.fill(standard, extra)
    form.save()
    expect(row(page, name)).to_be_visible()


def edit(page: Page, name: str) -> Form:
    row(page, name).get_by_role("button", name="Edit Connection").click()
    return Form(page)


def row(page: Page, name: str) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_role("cell", name=name, exact=True))


def stored(airflow: AirflowStack, name: str, folder: Path) -> dict[str, Any]:
    """A connection as the database has it, deciphered by Airflow itself."""
    file = folder / "connections.json"
    export = [sys.executable, "-m", "airflow", "connections", "export", str(file), "--file-format", "json"]
    subprocess.run(export, check=True, env=airflow.env, capture_output=True)
    connection = json.loads(file.read_text())[name]
    file.unlink()
    if isinstance(connection["extra"], str):
        connection["extra"] = json.loads(connection["extra"])
    return dict(connection)
