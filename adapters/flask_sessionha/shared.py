"""What the extensions and session interfaces of Flask and of Quart have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from flask_sessionha.configuration import Application, Doors, Exclude, check_cookie, warn_of_ignored
from flask_sessionha.cookies import Attributes
from flask_sessionha.former import Former, SubjectOf, user_of
from sessionha import Door, Exchange, Promise

App = TypeVar("App")


class Interface:
    """Comes before the framework's own interface. `former`, `subject_of`: see `Session`; the
    further keywords are settings of sessionha, and come before those in `app.config` and in the
    environment."""

    if TYPE_CHECKING:

        def get_cookie_name(self, app: Any) -> str:
            """The framework's."""

    def __init__(
        self,
        *,
        former: Sequence[Former] = (),
        subject_of: SubjectOf = user_of,
        exclude: Exclude = (),
        **settings: object,
    ) -> None:
        self.doors = Doors(exclude, settings)
        self._former = tuple(former)
        self._subject_of = subject_of
        self.attributes: WeakKeyDictionary[Any, Attributes] = WeakKeyDictionary()
        """Those that each application's cookies were told with last."""

    def regenerate(self, session: Any) -> None:
        """Give the session a new ID, as every log-in should; as Flask-Session calls it."""
        session.regenerate()

    def open(self, app: Application) -> tuple[Door, Promise] | None:
        """The application's door, and what it promises now; None without a secret key."""
        return self.doors.open(app, self.get_cookie_name(app))


CANARY = Exchange.CANARY.encode()
"""What the query of a canary of `sessionha doctor` begins with."""


def canary_of(session: Any, environ: Mapping[str, Any]) -> tuple[bytes, int, dict[str, str]] | None:
    """Body, status and headers of the answer to a canary, whose session begins or ends; None: the
    request has no session of ours."""
    exchange: Exchange | None = getattr(session, "exchange", None)
    found = None if exchange is None else exchange.canary(environ)
    if exchange is None or found is None:
        return None
    if found.wish == "begin":
        session[found.element] = True
    elif found.wish == "end":
        session.destroy()
    headers = {"cache-control": "no-store", "content-type": found.media_type}
    return found.body, found.status, headers


class Extension(Generic[App]):
    """`Session(app)`, or `Session().init_app(app)`."""

    def __init__(
        self,
        app: App | None = None,
        *,
        former: Sequence[Former] = (),
        subject_of: SubjectOf = user_of,
        exclude: Exclude = (),
        **settings: object,
    ) -> None:
        self._settings = settings
        self._given: dict[str, Any] = {
            "former": former,
            "subject_of": subject_of,
            "exclude": exclude,
            **settings,
        }
        if app is not None:
            self.init_app(app)

    def init_app(self, app: App) -> None:
        """Give this application sessions; its configuration should be complete."""
        raise NotImplementedError


def check(interface: Any, app: Any) -> None:
    """Raise InvalidSettings where the application's cookie cannot be; say what is ignored."""
    check_cookie(
        interface.get_cookie_name(app),
        secure=interface.get_cookie_secure(app),
        path=interface.get_cookie_path(app),
        domain=interface.get_cookie_domain(app),
    )
    warn_of_ignored(app.config)
