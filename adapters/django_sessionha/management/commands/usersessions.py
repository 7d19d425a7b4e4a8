"""`manage.py usersessions`: where a user is logged in, and how to end that."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_sessionha.configuration import door
from django_sessionha.signals import subject_of
from sessionha import SessionError


class Command(BaseCommand):
    """Lists the sessions of a user on all servers, and ends one or all of them."""

    help = "Lists the sessions of a user on all servers; with an option, ends one or all of them."
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        """See `--help`."""
        parser.add_argument("user", help="the user's name, or primary key")
        ends = parser.add_mutually_exclusive_group()
        ends.add_argument(
            "--revoke",
            metavar="ID",
            help="end the session with this ID of the list; write --revoke=ID",
        )
        ends.add_argument("--revoke-all", action="store_true", help="log the user out everywhere")

    def handle(self, *_: object, **options: Any) -> None:
        """Do it."""
        subject = subject_of(found_user(options["user"]))
        try:
            self._check_node()
            if options["revoke_all"] or options["revoke"]:
                self._end(subject, options["revoke"])
            else:
                self._list(subject)
        except SessionError as error:
            raise CommandError(str(error)) from error

    def _check_node(self) -> None:
        """Raises CommandError: this process would be a node by itself, that knows no sessions."""
        if door().running or door().has_siblings():
            return
        settings = door().settings
        raise CommandError(
            f"no server of the node {settings.node!r} runs with the store that this command would"
            " use, so it knows of no session. Run it on a server, as the user whose processes"
            " serve the project, with the same settings and environment. What is in the `store`"
            " memory only its own process knows: use the admin page, or `sessionha sessions`"
        )

    def _list(self, subject: str) -> None:
        found = door().sessions_of(subject)
        for each in found.sessions:
            began, used = round(each.age), round(each.unused)
            self.stdout.write(
                f"{each.id}  began {began} s ago, last used {used} s ago,"
                f" {each.virtual_server} on {each.node}"
            )
        if not found.sessions:
            self.stdout.write("no session")
        if found.more:
            self.stdout.write("there are more sessions than are listed")
        self._warn(found.unreachable, "could not be asked and may hold more")

    def _end(self, subject: str, session: str | None) -> None:
        done = door().revoke(subject, session)
        if session is not None and not done.ended:
            raise CommandError(f"the user has no session with the ID {session}")
        self.stdout.write(f"{done.ended} ended")
        self._warn(done.unreachable, "could not be told now, and will be when they return")

    def _warn(self, nodes: tuple[str, ...], what: str) -> None:
        if nodes:
            self.stderr.write(f"{', '.join(nodes)} {what}")


def found_user(word: str) -> Any:
    """The user with this name or primary key.

    Raises:
        CommandError: there is none.
    """
    users: Any = get_user_model()
    named = users._default_manager.filter(**{users.USERNAME_FIELD: word}).first()
    if named is not None:
        return named
    try:
        return users._default_manager.get(pk=word)
    except (users.DoesNotExist, ValueError, ValidationError):
        raise CommandError(f"there is no user {word!r}") from None
