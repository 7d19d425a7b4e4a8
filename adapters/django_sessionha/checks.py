"""System checks: mistakes in settings that would otherwise be seen when a server dies."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from django_sessionha.configuration import door
from django_sessionha.middleware import SessionMiddleware
from django_sessionha.sessions import SessionStore
from sessionha import InvalidSettings

ENGINE: Final = "django_sessionha.sessions"
MIDDLEWARE: Final = "django_sessionha.middleware.SessionMiddleware"

PREFIXES: Final = ("__host-", "__secure-")


@register("security")
def check_settings(app_configs: Any, **_: object) -> list[CheckMessage]:  # noqa: ARG001
    """Every problem with the project's settings of sessions."""
    found: list[CheckMessage] = [*_pairing(), *_cookie()]
    try:
        found_settings = door().settings
    except InvalidSettings as error:
        problems = (Error(problem, id="sessionha.E001") for problem in error.problems)
        return [*found, *problems]
    urls = [node.url for node in found_settings.description.nodes]
    return [*found, *_addresses([found_settings.url, *urls])]


@register("security", deploy=True)
def check_deployment(app_configs: Any, **_: object) -> list[CheckMessage]:  # noqa: ARG001
    """What is right on one machine, and a risk on several."""
    try:
        nodes = door().settings.description.nodes
    except InvalidSettings:
        return []  # the other check says so
    far = [node.peer for node in nodes if node.peer and not _is_near(f"//{node.peer}")]
    if len(nodes) < 2 or not far:
        return []
    return [
        Warning(
            "Nodes send each other sessions beyond this machine, authenticated but not encrypted"
            f" ({far[0]}): who can listen between them can read session data.",
            hint="Put a private network, or a tunnel with encryption, under the addresses in"
            " `nodes`; then add this ID to SILENCED_SYSTEM_CHECKS.",
            id="sessionha.W004",
        )
    ]


def _pairing() -> Iterable[CheckMessage]:
    """Engine and middleware belong together."""
    engine = _is_kind(f"{settings.SESSION_ENGINE}.SessionStore", SessionStore)
    middleware = any(_is_kind(path, SessionMiddleware) for path in settings.MIDDLEWARE)
    if engine and not middleware:
        yield Warning(
            "The session engine is sessionha's and the middleware is not: clients are not told"
            " which servers have their sessions, and requests may have to fetch them.",
            hint=f"Put {MIDDLEWARE!r} in MIDDLEWARE, in the place of Django's.",
            id="sessionha.W001",
        )
    if middleware and not engine:
        yield Warning(
            "The session middleware is sessionha's and the engine is not: sessions are not copied"
            " to other servers.",
            hint=f"Set SESSION_ENGINE = {ENGINE!r}.",
            id="sessionha.W002",
        )


def _is_kind(path: str, kind: type) -> bool:
    """Whether this is the path of our class, or of a project's own that inherits from it."""
    try:
        found = import_string(path)
    except (ImportError, ImproperlyConfigured):
        return False  # Django itself says so
    return isinstance(found, type) and issubclass(found, kind)


def _cookie() -> Iterable[CheckMessage]:
    """Browsers drop a cookie whose name promises what its attributes do not keep."""
    name = settings.SESSION_COOKIE_NAME
    if name.lower().startswith(PREFIXES) and not settings.SESSION_COOKIE_SECURE:
        yield Error(
            f"Browsers accept the session cookie {name!r} only as a Secure one.",
            hint="Set SESSION_COOKIE_SECURE = True.",
            id="sessionha.E002",
        )
    whole = settings.SESSION_COOKIE_PATH == "/" and not settings.SESSION_COOKIE_DOMAIN
    if name.lower().startswith("__host-") and not whole:
        yield Error(
            f"Browsers accept the session cookie {name!r} only with the path / and no domain.",
            hint="Set SESSION_COOKIE_PATH = '/' and SESSION_COOKIE_DOMAIN = None, or take another"
            " name.",
            id="sessionha.E003",
        )


def _addresses(urls: Iterable[str]) -> Iterable[CheckMessage]:
    """Whoever reads plain http on its way has the cookies."""
    far = [url for url in urls if url and not _is_near(url)]
    if far and not settings.SESSION_COOKIE_SECURE:
        yield Warning(
            f"Routers reach this project's servers by plain http beyond this machine ({far[0]}),"
            " and the session cookie is not Secure.",
            hint="Set SESSION_COOKIE_SECURE = True where clients use https, and keep the way"
            " between router and servers in a network of your own, or use https there.",
            id="sessionha.W003",
        )


def _is_near(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
