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

from airflow_provider_lro import __version__
from airflow_provider_lro._core.form import FIELDS
from airflow_provider_lro.get_provider_info import get_provider_info
from tests.versions import BaseOperator, BaseSensorOperator

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "airflow_provider_lro"
NEEDS_3 = {"assets", "react_to_finished"} if airflow.__version__.startswith("2.") else set()
EXAMPLES = [path for path in sorted((ROOT / "example_dags").glob("*.py")) if path.stem not in NEEDS_3]

WINGS = [
    {"version_compat"},
    {"exceptions"},
    {"_core"},
    {"_messages"},
    {"_transport"},
    {"_runner"},
    {"operation"},
    {"links"},
    {"hooks"},
    {"triggers"},
    {"operators"},
    {"sensors", "decorators", "assets", "cli"},
    {"get_provider_info", "__main__"},
]
"""From the ground up: an import goes down this order, or stays in its wing."""
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
@pytest.mark.timeout(180)  # three processes of Airflow's
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


def imports(path: Path) -> set[tuple[str, bool]]:
    """Return the modules that a module imports, but for types, and whether at its top."""
    found: set[tuple[str, bool]] = set()

    class Visitor(ast.NodeVisitor):
        inside = 0

        def visit_FunctionDef(self, node: ast.AST) -> None:
            self.inside += 1
            self.generic_visit(node)
            self.inside -= 1

        visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815  (the name of the node)

        def visit_If(self, node: ast.If) -> None:
            if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
                self.generic_visit(node)

        def visit_Import(self, node: ast.Import) -> None:
            found.update((alias.name, not self.inside) for alias in node.names)

        def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
            assert node.level == 0, f"{path}: relative imports hide where they go"
            found.update((f"{node.module}.{alias.name}", not self.inside) for alias in node.names)

    Visitor().visit(ast.parse(path.read_text()))
    return found


MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if "simulator" not in path.parts and path.read_text()]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_or_stay_in_their_wing(path: Path) -> None:
    """A module imports from the wings below its own; none that a DAG file loads has one that talks at its top."""
    wing = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    level = {wing: number for number, wings in enumerate(WINGS) for wing in wings}
    if wing == "__init__":
        return
    assert wing in level, f"{wing} is in no wing: which room should it have been?"
    for module, at_top in imports(path):
        base, _, rest = module.partition(".")
        imported = rest.partition(".")[0]
        if base != "airflow_provider_lro" or imported == "__version__":
            continue
        assert imported == wing or level.get(imported, 99) < level[wing], f"{path.name} imports {imported}"
        talks = imported in ("_messages", "_transport") and path.parent.name != "cli" and path.name != "_stream.py"
        assert not (talks and at_top and level[wing] > level["_transport"]), f"{path.name} loads {imported}"


MESSAGES = ("google.protobuf.", "google.longrunning.", "google.rpc.")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_its_own_wing_sees_a_message_or_a_channel(path: Path) -> None:
    """Protobuf is for `_messages`, and inside functions for what users give it to; grpc is for `_transport`."""
    wing = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module, at_top in imports(path):
        if f"{module}.".startswith(MESSAGES):
            assert wing == "_messages" or (wing in ("operation", "hooks") and not at_top), f"{path} imports {module}"
        if f"{module}.".startswith("grpc."):
            assert wing == "_transport", f"{path} imports {module}"


def test_public_modules_declare_their_names() -> None:
    """Every module that users import from has an __all__ of names that exist."""
    for path in MODULES:
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        is_inner = any(part.startswith("_") and part != "__init__" for part in parts) or parts[-1] == "version_compat"
        if is_inner or name == "airflow_provider_lro" or NEEDS_3.intersection(path.parts):
            continue
        module = importlib.import_module(name)
        assert all(hasattr(module, each) for each in module.__all__), name


CONTRACT = {
    "operation": ["Operation", "AsyncOperation", "OperationsClient", "AsyncOperationsClient", "DEFAULT_WAIT_INTERVAL"],
    "hooks": ["LongRunningOperationHook"],
    "triggers": ["LongRunningOperationTrigger"],
    "sensors": ["LongRunningOperationSensor"],
    "operators": [
        "CancelOperationOperator",
        "CancelStaleOperationsOperator",
        "DeleteFinishedOperationsOperator",
        "DeleteOperationOperator",
        "GetOperationOperator",
        "ListOperationsOperator",
        "StartOperationOperator",
    ],
    "decorators": ["lro_task"],
    "assets": ["LongRunningOperationEventTrigger"],
    "links": ["OperationLink"],
}


@pytest.mark.parametrize("module", [module for module in CONTRACT if module not in NEEDS_3])
def test_public_names(module: str) -> None:
    """The names that users import are exactly these."""
    assert sorted(importlib.import_module(f"airflow_provider_lro.{module}").__all__) == sorted(CONTRACT[module])


PARSE = f"""
import gc, importlib.util, json, os, sys, traceback, warnings
warnings.simplefilter("ignore")
from tests.versions import DAG, BaseSensorOperator

def parse(path):
    before = set(sys.modules)
    spec = importlib.util.spec_from_file_location("example", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    dags = [thing.dag_id for thing in gc.get_objects() if issubclass(type(thing), DAG)]
    return [dags, [name for name in sys.modules if name not in before and name.startswith({HEAVY!r})]]

for path in sys.argv[1:]:
    sys.stdout.flush()
    child = os.fork()
    if not child:
        try:
            found = parse(path)
        except BaseException:
            found = [[], traceback.format_exc()]
        print(json.dumps([path, *found]), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def parsed() -> dict[str, tuple[list[str], Any]]:
    """Parse each example in a fork of one process that has imported Airflow, and nothing of another example."""
    argv = [sys.executable, "-c", PARSE, *map(str, EXAMPLES)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=150)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["')]
    return {path: (dags, heavy) for path, dags, heavy in found}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_parses_and_loads_nothing_heavy(path: Path, parsed: dict[str, tuple[list[str], Any]]) -> None:
    """A DAG file imports without error, and without grpc, protobuf or google-auth."""
    dags, heavy = parsed[str(path)]
    assert heavy == []
    assert dags


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


@pytest.mark.parametrize("module", ["decorators", "operators", "sensors"])
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
