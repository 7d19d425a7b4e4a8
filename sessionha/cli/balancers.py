"""`export` and `follow`: the configuration of load balancers, once or for as long as it runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from sessionha.balancers.base import Balancer, Files, Keys, Options, only_connects
from sessionha.balancers.document import Document, document_of, keys_of, read
from sessionha.balancers.following import Following
from sessionha.balancers.installing import unseen, write
from sessionha.balancers.kept import Kept, kept
from sessionha.balancers.kinds import KINDS
from sessionha.cli import asking
from sessionha.errors import InvalidSettings
from sessionha.router.observer import ClusterObserver, lacking
from sessionha.settings import Settings
from sessionha.view import View

logger = logging.getLogger("sessionha.balancers")

WHO: Final = "this command"
"""Who lacks settings, in the words of the error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the command line says of the configuration; None: it stays as it was made, or is as
    usual for the kind."""

    to: Path | None = None
    verify: bool | None = None
    response_timeout: float | None = None
    loopback: str | None = None
    socket: str = ""

    def options(self, balancer: Balancer) -> Options:
        """The same, complete.

        Raises:
            InvalidSettings: what is in place does not tell how it was made.
        """
        place = (self.to or balancer.place).absolute()
        made = kept(place / balancer.main) or Kept(balancer.verifies)
        timeout = self.response_timeout
        return Options(
            place=place,
            verify=made.verify if self.verify is None else self.verify,
            response_timeout=made.response_timeout if timeout is None else timeout,
            loopback=made.loopback if self.loopback is None else self.loopback,
            socket=self.socket,
        )


def kind(name: str) -> Balancer:
    """The balancer of this name.

    Raises:
        InvalidSettings: there is none.
    """
    found = KINDS.get(name)
    if found is None:
        known = ", ".join([*KINDS, "json"])
        raise InvalidSettings([f"{name!r} is no balancer known here: {known}"])
    return found


def told_by(settings: Settings, node: str | None) -> Document:
    """The document of a running node.

    Raises:
        InvalidSettings: no secret, or no address.
        asking.NoAnswer: it does not answer, or with something else.
    """
    address, bearer = asking.address_of(settings, node), asking.token(settings, "read")
    found = asking.ask(address, "/v1/balancers", bearer, has="servers")
    try:
        return read(msgspec.json.encode(found))
    except ValueError as error:
        raise asking.NoAnswer(f"{address} tells {error}") from None


def export(name: str, document: Document, settings: Settings, wishes: Wishes) -> str:
    """Write the configuration; what to print: where it is, or with no directory the files. What
    an operator should know besides goes to stderr.

    Raises:
        InvalidSettings: the kind is unknown, or cannot be configured for this cluster.
    """
    if name == "json":
        return document.text.decode().rstrip()
    balancer = kind(name)
    options = wishes.options(balancer)
    files = balancer.files(document, keys_of(settings), options)
    _remark(only_connects(balancer, document.health.path))
    if wishes.to is None:
        return _shown(files)
    try:
        write(options.place, files)
    except OSError as error:
        problem = f"{error.filename or options.place} cannot be written: {error.strerror}"
        raise InvalidSettings([problem]) from None
    _remark(unseen(options.place, files))
    return "\n".join(
        str(options.place / name) for name, file in files.items() if file.text is not None
    )


def _remark(words: str) -> None:
    if words:
        print(f"WARNING: {words}", file=sys.stderr)


def _shown(files: Files) -> str:
    """The files one after the other; those with keys only by name."""
    parts = []
    for name, file in files.items():
        if not file.text:
            continue
        text = "(has keys: written by --to DIR only)" if file.private else file.text.rstrip()
        parts.append(f"# --- {name}\n{text}\n")
    return "\n".join(parts).rstrip()


def follow(
    name: str,
    settings: Settings,
    wishes: Wishes,
    check: str | None = None,
    reload: str | None = None,
) -> None:
    """Keep a balancer at the cluster's view until SIGTERM or SIGINT; SIGHUP reads settings anew.

    Raises:
        InvalidSettings: no nodes, no secret, or the kind is unknown.
    """
    balancer = kind(name)
    if problems := list(lacking(settings, WHO)):
        raise InvalidSettings(problems)
    wishes.options(balancer)  # what is in place says how it was made, or this ends here
    if words := only_connects(balancer, settings.health_path):
        logger.warning("%s", words)
    asyncio.run(_Run(balancer, wishes, settings, _words(check), _words(reload)).run())


def _words(command: str | None) -> Sequence[str] | None:
    return None if command is None else shlex.split(command)


class _Run:
    def __init__(
        self,
        balancer: Balancer,
        wishes: Wishes,
        settings: Settings,
        check: Sequence[str] | None,
        reload: Sequence[str] | None,
    ) -> None:
        self._settings = settings
        self._observer = ClusterObserver(settings, self._changed)
        self._view: View | None = None
        self._document: Document | None = None
        options = partial(wishes.options, balancer)
        self._following = Following(balancer, options, self._keys, check=check, reload=reload)

    def _keys(self) -> Keys:
        return keys_of(self._settings)

    async def run(self) -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ended.set)
        loop.add_signal_handler(signal.SIGHUP, self._reread)
        self._observer.start()
        task = asyncio.create_task(self._following.run())
        try:
            ending = asyncio.create_task(ended.wait())
            await asyncio.wait([task, ending], return_when=asyncio.FIRST_COMPLETED)
            ending.cancel()
            if task.done():
                await task  # which ends by an error only
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await self._observer.stop()

    def _changed(self, view: View) -> None:
        self._view = view
        self._document = document_of(view, self._settings, self._document)
        self._following.tell(self._document)

    def _reread(self) -> None:
        try:
            settings = self._settings.reloaded()
            if problems := list(lacking(settings, WHO)):
                raise InvalidSettings(problems)
        except InvalidSettings as error:
            logger.error("nothing was reloaded: %s", "; ".join(error.problems))
            return
        self._settings = settings
        self._observer.use(settings)
        logger.info("the settings were read again")
        if self._view is not None:
            self._changed(self._view)
