"""What Airflow sees of the provider, what a DAG file loads, and which module may import which."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import airflow
import jsonschema
import pytest
from airflow.providers.common.compat.sdk import BaseOperator, BaseSensorOperator

from airflow_provider_lro import __version__
from airflow_provider_lro._form import FIELDS
from airflow_provider_lro.get_provider_info import get_provider_info

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "airflow_provider_lro"
NEEDS_3 = {"assets", "react_to_finished"} if airflow.__version__.startswith("2.") else set()
EXAMPLES = [path for path in sorted((ROOT / "example_dags").glob("*.py")) if path.stem not in NEEDS_3]

BESIDE = {"__init__", "_form", "_plugin", "get_provider_info"}
ORDER = [
    [
        "_loops",
        "exceptions",
        "_text",
        "_skip",
        "_schedule",
        "_outcome",
        "_metrics",
        "_links",
        "_checks",
        "_args",
        "_commands",
        "_wait",
        "_names",
        "_kill",
        "_enough",
        "_type_names",
        "_report",
        "_watermark",
    ],
    [
        "_pacing",
        "_credentials",
        "_tokens",
        "_channel",
        "_types",
        "_encoding",
        "_progress",
        "_age",
        "_events",
        "_rpc",
        "_client",
        "_crowd",
        "_many_events",
        "_holding",
        "_listing",
        "_polling",
        "_watching",
    ],
    [
        "_connection",
        "_task_state",
        "_trigger_row",
        "_announcing",
        "_watch",
        "_drivers",
        "_cancelling",
        "operation",
        "_origin",
        "hooks",
        "links",
        "triggers",
        "_workerless",
        "_aside",
        "_gathering",
        "_many",
    ],
    [
        "_service",
        "_deferral",
        "_conclusion",
        "_each",
        "_from_trigger",
        "_memory",
        "_many_waits",
        "_sweep",
        "sensors",
        "operators",
        "starting",
        "stale",
    ],
    [
        "decorators",
        "assets",
        "_cli_exit",
        "_cli_output",
        "_cli_progress",
        "_cli_commands",
        "_cli_completion",
        "cli",
        "__main__",
    ],
]
"""The floors from the lowest; within a floor, what comes later may import what comes earlier."""
HEAVY = ("grpc", "google.protobuf", "google.auth", "google.longrunning", "google.rpc", "requests")


def test_metadata_fits_airflows_schema() -> None:
    """Airflow drops a provider whose metadata it does not understand."""
    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_everything_the_metadata_names_exists() -> None:
    """Each module can be imported, and the hook's class is there with the connection type it is listed for."""
    info = get_provider_info()
    for kind in ("hooks", "operators", "sensors", "triggers"):
        for entry in info[kind]:
            for module in entry["python-modules"]:
                importlib.import_module(module)
    for function in info["cli"]:
        module, _, name = function.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))
    (connection,) = info["connection-types"]
    module, _, name = connection["hook-class-name"].rpartition(".")
    hook = getattr(importlib.import_module(module), name)
    assert (hook.conn_type, hook.hook_name) == (connection["connection-type"], connection["hook-name"])
    assert set(connection["conn-fields"]) == {field.name for field in FIELDS}


def airflow_cli(*arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "airflow", *arguments, "--output", "json"],
        check=True,
        capture_output=True,
        text=True,
        timeout=50,
    )
    return json.loads(done.stdout[done.stdout.index("[") :])


@pytest.mark.airflow
def test_airflow_lists_the_provider() -> None:
    """`airflow providers list`, `hooks` and `triggers` show what is registered."""
    listed = {row["package_name"]: row for row in airflow_cli("providers", "list")}
    assert listed["airflow-provider-lro"]["version"] == __version__
    hooks = {row["connection_type"]: row for row in airflow_cli("providers", "hooks")}
    assert hooks["lro"]["class"] == "airflow_provider_lro.hooks.LongRunningOperationHook"
    triggers = {row["class"] for row in airflow_cli("providers", "triggers")}
    assert any("airflow_provider_lro.triggers" in name for name in triggers)
    assert NEEDS_3 or any("airflow_provider_lro.assets" in name for name in triggers)


def test_form_of_airflow_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """The form methods give the same fields as the metadata, secrets as passwords."""
    pytest.importorskip("flask_appbuilder")
    pytest.importorskip("wtforms")
    from airflow_provider_lro.hooks import LongRunningOperationHook

    widgets = LongRunningOperationHook.get_connection_form_widgets()
    assert set(widgets) == {field.name for field in FIELDS}
    for field in FIELDS:
        assert (widgets[field.name].field_class.__name__ == "PasswordField") is field.secret
    assert LongRunningOperationHook.get_ui_field_behaviour()["relabeling"]["host"] == "Endpoint"


def imports(module: str) -> set[str]:
    """The modules of this package that a module imports, anywhere in it but for types."""
    found: set[str] = set()

    class Visitor(ast.NodeVisitor):
        def visit_If(self, node: ast.If) -> None:
            if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
                self.generic_visit(node)

        def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
            if node.module == "airflow_provider_lro":
                found.update(alias.name for alias in node.names if (PACKAGE / f"{alias.name}.py").exists())
            elif (node.module or "").startswith("airflow_provider_lro."):
                found.add((node.module or "").split(".")[1])
            assert node.level == 0, f"{module}: relative imports hide where they go"

    Visitor().visit(ast.parse((PACKAGE / f"{module}.py").read_text()))
    return found


def test_every_module_has_its_floor() -> None:
    """A new module must say where it stands."""
    assert {path.stem for path in PACKAGE.glob("*.py")} == {name for floor in ORDER for name in floor} | BESIDE


@pytest.mark.parametrize("floor", range(len(ORDER)))
def test_imports_only_point_down(floor: int) -> None:
    """A module imports what stands below it, and never the simulator."""
    below = {name for lower in ORDER[:floor] for name in lower} | {"_form", "__init__"}
    for place, module in enumerate(ORDER[floor]):
        allowed = below | set(ORDER[floor][:place])
        assert imports(module) <= allowed, f"{module} imports {imports(module) - allowed}"


@pytest.mark.parametrize("module", sorted(name for name in ORDER[1] if name))
def test_only_functions_of_floor_1_import_floor_a_half(module: str) -> None:
    """The floor that loads grpc is imported inside functions alone, and never by a module that a DAG imports."""
    commands = {
        "_cli_output",
        "_cli_progress",
        "_cli_commands",
        "_cli_completion",
    }  # which cli.py imports when one is run
    for importer in {*ORDER[2], *ORDER[3], *ORDER[4]} - commands:
        tree = ast.parse((PACKAGE / f"{importer}.py").read_text())
        for node in tree.body:
            assert not (isinstance(node, ast.ImportFrom) and (node.module or "").endswith(f".{module}")), importer


def test_public_modules_declare_their_names() -> None:
    """Every module has an __all__ of names that exist."""
    for path in PACKAGE.glob("*.py"):
        if path.stem in {"__init__", *NEEDS_3}:
            continue
        module = importlib.import_module(f"airflow_provider_lro.{path.stem}")
        assert all(hasattr(module, name) for name in module.__all__), path.stem


CONTRACT = {
    "operation": ["Operation", "AsyncOperation", "OperationsClient", "AsyncOperationsClient", "DEFAULT_WAIT_INTERVAL"],
    "hooks": ["LongRunningOperationHook"],
    "triggers": ["LongRunningOperationTrigger"],
    "sensors": ["LongRunningOperationSensor"],
    "operators": [
        "CancelOperationOperator",
        "DeleteOperationOperator",
        "GetOperationOperator",
        "ListOperationsOperator",
    ],
    "starting": ["StartOperationOperator"],
    "decorators": ["lro_task"],
    "assets": ["LongRunningOperationEventTrigger"],
    "stale": ["CancelStaleOperationsOperator", "DeleteFinishedOperationsOperator"],
    "links": ["OperationLink"],
}


@pytest.mark.parametrize("module", [module for module in CONTRACT if module not in NEEDS_3])
def test_public_names(module: str) -> None:
    """The names that users import are exactly these."""
    assert sorted(importlib.import_module(f"airflow_provider_lro.{module}").__all__) == sorted(CONTRACT[module])


@pytest.mark.airflow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_parses_and_loads_nothing_heavy(path: Path) -> None:
    """A DAG file imports without error, and without grpc, protobuf or google-auth."""
    program = f"""
import gc, importlib.util, json, sys, warnings
warnings.simplefilter("ignore")
from airflow.providers.common.compat.sdk import DAG, BaseSensorOperator
before = set(sys.modules)
spec = importlib.util.spec_from_file_location("example", {str(path)!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
dags = [thing.dag_id for thing in gc.get_objects() if issubclass(type(thing), DAG)]
print(json.dumps([dags, [name for name in sys.modules if name not in before and name.startswith({HEAVY!r})]]))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=50)
    dags, heavy = json.loads(done.stdout.splitlines()[-1])
    assert dags
    assert heavy == []


def test_documentation_has_no_gaps() -> None:
    """No placeholder is left in what users read, and what it points to is there."""
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text()
        assert not re.search(r"(?m)\b[A-Z]+_RATIO\b|^[A-Z]{4,}$|\bTODO\b|\bFIXME\b", text), page
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


INHERITED = {
    "execute",
    "on_kill",
    "operator_extra_links",
    "prepare_for_execution",
    "resume_execution",
    "start_trigger_args",
    "template_fields",
    "ui_color",
}
"""What our operators mean to replace of Airflow's."""


@pytest.mark.parametrize("module", ["decorators", "operators", "sensors", "stale", "starting"])
def test_operators_hide_nothing_of_airflows(module: str) -> None:
    """A method of ours that happens to be called as one of Airflow's would be taken for it."""
    found = importlib.import_module(f"airflow_provider_lro.{module}")
    ours = {
        base
        for kind in vars(found).values()
        if isinstance(kind, type) and issubclass(kind, BaseOperator)
        for base in kind.__mro__
        if base.__module__.startswith("airflow_provider_lro")
    }
    assert ours
    theirs = {name for name in (*dir(BaseOperator), *dir(BaseSensorOperator)) if not name.startswith("_")}
    hidden = {name for base in ours for name in vars(base)} & theirs
    assert hidden <= INHERITED
