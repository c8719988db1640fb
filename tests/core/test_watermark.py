"""What a watcher remembers: digests, and how they are stored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_lro.assets._seen import Finished, digest_of, key_of, last_key, pack, seen_key, unpack

NAMES = st.sets(st.text(st.characters(), max_size=40), max_size=30)


@given(NAMES)
def test_what_is_packed_is_unpacked(names: set[str]) -> None:
    """Any names, surrogates among them: their digests come back, eight characters each."""
    digests = {digest_of(name) for name in names}
    text = pack(digests)
    assert unpack(text) == digests
    assert len(text) == 8 * len(digests)


@pytest.mark.parametrize("text", [None, 3, {}, "no base64!", "AAAA", "AAAAAAAAAA=="])
def test_what_was_not_packed_is_refused(text: object) -> None:
    """What somebody else has stored is no watermark, and does not pass for an empty one."""
    with pytest.raises(ValueError, match=r"digests|base64|padding"):
        unpack(text)


def test_keys_tell_watchers_apart() -> None:
    """What is watched makes the keys, and the two keys of one watcher differ."""
    keys = {key_of("p", "f"), key_of("pf", ""), key_of("p", "f", None), key_of("p", "'f', None")}
    assert len(keys) == 4
    assert key_of("p", "f") == key_of("p", "f")
    assert seen_key("k") != last_key("k")


def test_event_names_what_there_is() -> None:
    """A success has no code; an end that is not known is left out."""
    assert Finished(name="o", outcome="Succeeded").to_json() == {"name": "o", "outcome": "Succeeded"}
    failed = Finished(name="o", outcome="Failed", code=5, end_time="2026-01-01T00:00:00Z")
    assert failed.to_json() == {"name": "o", "outcome": "Failed", "code": 5, "end_time": "2026-01-01T00:00:00Z"}
