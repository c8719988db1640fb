"""A hostile or broken server harms nobody but its own wait: all rows at once, in one real trigger runner.

Asserted is what a busy machine cannot change; what it can, `make hostile` measures, row by row. A failure here whose
row is not clear is found there, too: `python -m tests.hostile.measure --only KEY --together 0 --verbose`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.hostile.measure import DOCS, MAX_MEMORY, Found, Run
from tests.hostile.rows import ROWS
from tests.simulator_fixture import running_simulator

if TYPE_CHECKING:
    from tests.hostile.rows import Row

SECONDS = 3.0
"""How long the bystander waits."""
PATIENCE = 60.0
"""Seconds that waits may take beyond it which must end."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    directory = tmp_path_factory.mktemp("hostile")
    with running_simulator() as simulator:
        where = {"directory": directory, "simulator": simulator, "authority": trustme.CA()}
        return asyncio.run(Run(list(ROWS.values()), seconds=SECONDS, patience=PATIENCE, **where).found())


@pytest.mark.timeout(240)
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_hostile_server_harms_nobody_but_its_own_wait(row: Row, found: Found) -> None:
    """Its wait comes to what the row says, and it is asked for no more than it may be; the bystander ends well."""
    assert not found.faults(row)


@pytest.mark.timeout(240)
def test_all_of_them_together_do_not_fill_the_memory(found: Found) -> None:
    """The process takes no more than each of them may: most of what they would send is never received."""
    assert found.memory <= MAX_MEMORY


def test_the_docs_have_every_row() -> None:
    """The table in the docs was printed with these rows; its figures are those of one machine."""
    table = [line.split(" | ")[:2] for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert table[1:-1] == [[f"| {row.does}", str(row.waits)] for row in ROWS.values()]
