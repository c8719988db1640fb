"""Names that cross a deferral as one text."""

from __future__ import annotations

import pytest

from airflow_provider_lro._core.names import pack, unpack


def test_names_are_packed_and_unpacked() -> None:
    """A thousand names of one service take far less room than they are long, and come back in order."""
    names = [f"projects/p/locations/l/operations/{number:05}" for number in range(1000)]
    packed = pack(names)
    assert len(packed) < len("".join(names)) / 5
    assert unpack(packed) == names


@pytest.mark.parametrize("text", ["", "x", "é", "bm90IHppcHBlZA==", None])
def test_what_was_not_packed_is_refused(text: str) -> None:
    """The error shows what was given."""
    with pytest.raises(ValueError, match="no packed names"):
        unpack(text)
