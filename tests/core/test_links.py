"""The link to an operation: what a template may be, and that no operation's name decides where a click leads."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_lro.links import check_template, fill_template

NAME = "projects/p/locations/l/operations/o"


@pytest.mark.parametrize(
    ("template", "name", "link"),
    [
        ("https://c.example.com/{location}/{project}/{id}", NAME, "https://c.example.com/l/p/o"),
        ("https://c.example.com/v1/{name}", NAME, f"https://c.example.com/v1/{NAME}"),
        ("http://127.0.0.1:8080/?q={operation}#{project}", NAME, "http://127.0.0.1:8080/?q=o#p"),
        ("https://c.example.com/{location}", "projects/p/regions/r/operations/o", "https://c.example.com/r"),
        ("https://c.example.com/{custom_job}", "projects/p/customJobs/7/operations/o", "https://c.example.com/7"),
        ("https://c.example.com/{id}", "operations/a b&c/d?#é", "https://c.example.com/d%3F%23%C3%A9"),
        ("  https://c.example.com/all ", NAME, "https://c.example.com/all"),
    ],
)
def test_template_is_filled_from_the_name(template: str, name: str, link: str) -> None:
    """Each collection of the name gives a placeholder; its value is quoted."""
    assert fill_template(template, name) == link


@pytest.mark.parametrize(
    "template",
    [
        "javascript:alert(1)",
        "data:text/html,{name}",
        "ftp://c.example.com/{id}",
        "//c.example.com/{id}",
        "c.example.com/{id}",
        "{name}",
        "https://{location}.example.com/{id}",
        "https://c.example.com{id}",
        "https://user@c.example.com/{id}",
        "https://c.example.com\\@evil.example.com/",
        "https:///{id}",
        "https://c.example.com/{id",
        "https://c.example.com/{id!r}",
        "https://c.example.com/{id.__class__}",
        "https://c.example.com/a b",
        "https://c.example.com/\x00",
        "",
        7,
    ],
)
def test_text_that_is_not_a_template_is_refused(template: object) -> None:
    """Only http and https, with a host that is written out; the error says what is expected."""
    with pytest.raises(ValueError, match="link_template"):
        check_template(template)


@pytest.mark.parametrize(
    "template", ["https://me:c4n4ry@c.example.com/{id}", "ftp://c4n@4ry@c.example.com", "c4n4ry@{"]
)
def test_password_in_a_template_is_not_shown(template: str) -> None:
    """The text that is shown begins behind it."""
    with pytest.raises(ValueError, match="link_template '…@") as refused:
        check_template(template)
    assert "4" not in str(refused.value)


@pytest.mark.parametrize("name", ["operations/..", "../../operations/o", "a/./b"])
def test_name_that_climbs_has_no_link(name: str) -> None:
    """Browsers take out dots, however they are quoted."""
    with pytest.raises(ValueError, match="elsewhere"):
        fill_template("https://c.example.com/a/b/{name}", name)


def test_a_name_without_a_placeholder_of_the_template_is_refused() -> None:
    """The error lists both the missing placeholders and those that there are."""
    with pytest.raises(ValueError, match=r"\{project\}.*\{name\}, \{id\}, \{operation\}"):
        fill_template("https://c.example.com/{project}", "operations/o")


@given(name=st.text(min_size=1))
def test_no_name_leaves_its_place(name: str) -> None:
    """Any name of an operation: same host, same query, no fragment, and its id where the template has it."""
    try:
        link = fill_template("https://c.example.com/x/{id}?y={name}", name)
    except ValueError:
        assert {".", ".."} & set(name.split("/"))
        return
    parts = urlsplit(link)
    assert (parts.scheme, parts.netloc, parts.fragment) == ("https", "c.example.com", "")
    assert parts.path.count("/") == 2
    assert link.isascii()
    assert unquote(parts.query) == "y=" + "/".join(part for part in name.split("/") if part)
