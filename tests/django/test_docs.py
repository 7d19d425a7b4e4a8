"""docs/django.md says what is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.test import Client, override_settings
from django.urls import path

from django_sessionha import checks
from django_sessionha.sessions import SessionStore
from sessionha.settings import ARGUMENTS, Settings
from tests.docs.test_readme import blocks

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "django.md"

urlpatterns: list[Any] = []


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the page's programs define."""
    found: dict[str, Any] = {"__name__": __name__}
    exec(compile("\n".join(blocks(PAGE, "python")), str(PAGE), "exec"), found)
    return found


def test_the_settings_are_settings(names: dict[str, Any]) -> None:
    assert names["SESSIONHA"].keys() <= set(Settings.__dataclass_fields__) - set(ARGUMENTS)


def test_a_user_sees_and_ends_their_other_sessions(names: dict[str, Any]) -> None:
    urlpatterns[:] = [
        path("devices", names["devices"]),
        path("elsewhere", names["log_out_elsewhere"]),
    ]
    here, elsewhere = SessionStore(), SessionStore()
    for store in (here, elsewhere):
        store.subject = "user:42"
        store.save()
    assert here.session_key is not None
    with override_settings(ROOT_URLCONF=__name__):
        client = Client()
        client.cookies["sessionid"] = here.session_key
        assert len(client.get("/devices").json()["sessions"]) == 2
        assert client.get("/elsewhere").status_code == 405
        assert client.post("/elsewhere").json() == {"ended": 1}
        assert len(client.get("/devices").json()["sessions"]) == 1


def test_every_check_is_in_the_table() -> None:
    told = set(re.findall(r"[EW]\d{3}", PAGE.read_text("utf-8")))
    assert told == set(re.findall(r'id="sessionha\.([EW]\d{3})"', _source(checks)))


def _source(module: Any) -> str:
    return Path(module.__file__).read_text("utf-8")


@pytest.mark.parametrize("page", ["django.md", "from-django-sessions.md"])
def test_links_lead_to_headings(page: str) -> None:
    text = (DOCS / page).read_text("utf-8")
    for target, anchor in re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", text):
        linked = (DOCS / target if target else DOCS / page).resolve()
        headings = re.findall(r"^#+ (.+)$", linked.read_text("utf-8"), re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}
        assert anchor in slugs, f"{page}: {target}#{anchor}"
