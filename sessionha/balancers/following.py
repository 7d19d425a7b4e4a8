"""Keeps a balancer at the cluster's view: new files, judged, and taken over without a restart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from sessionha.balancers.base import Balancer, Keys, Options
from sessionha.balancers.document import Document
from sessionha.balancers.installing import Outcome, differing, install, run, unseen, write
from sessionha.errors import InvalidSettings

logger = logging.getLogger("sessionha.balancers")

PAUSE: Final = 0.5
"""Seconds between two changes of a balancer at least: a reload starts new processes."""

AGAIN: Final = 5.0
"""Seconds until what failed is tried again: the balancer may not run yet, or its other files may
be repaired."""


class Following:
    """Brings one balancer to each document that it is told, the latest first.

    What the balancer refuses is put back, so that it can be started anew at any time with the last
    configuration that was good.
    """

    def __init__(
        self,
        balancer: Balancer,
        options: Callable[[], Options],
        keys: Callable[[], Keys],
        *,
        check: Sequence[str] | None = None,
        reload: Sequence[str] | None = None,
    ) -> None:
        """`options`, `keys`: asked each time, for what an operator exports meanwhile is kept, and
        keys may be rotated. `check`, `reload`: other commands than
        the kind's own; empty: none."""
        self._balancer = balancer
        self._options = options
        self._keys = keys
        self._check = balancer.check if check is None else check
        self._reload = balancer.reload if reload is None else reload
        self._wanted: Document | None = None
        self._told = asyncio.Event()
        self._behind = True  # whoever wrote the files may have been killed before the reload
        self._complaint = ""
        self._remarked = ""

    def tell(self, document: Document) -> None:
        """The cluster is like this now."""
        self._wanted = document
        self._told.set()

    def again(self) -> None:
        """Look at everything again: keys may have changed."""
        self._told.set()

    async def run(self) -> None:
        """Follow, until cancelled."""
        while True:
            await self._told.wait()
            self._told.clear()
            if self._wanted is None:
                continue
            done = await self._bring(self._wanted)
            if done:
                await asyncio.sleep(PAUSE)
                continue
            try:
                async with asyncio.timeout(AGAIN):
                    await self._told.wait()
            except TimeoutError:
                self._told.set()

    async def _bring(self, document: Document) -> bool:
        """Whether the balancer is at the document now."""
        try:
            words = await self._change(document)
        except InvalidSettings as error:
            words = "; ".join(error.problems)
        except OSError as error:
            words = f"{error.filename or 'a file'} cannot be written: {error.strerror}"
        if words and words != self._complaint:
            logger.error("the balancer stays as it is: %s", words)
        elif not words and self._complaint:
            logger.info("the balancer follows again")
        self._complaint = words
        return not words

    def _remark(self, words: str) -> None:
        if words and words != self._remarked:
            logger.warning("%s", words)
        self._remarked = words

    async def _change(self, document: Document) -> str:
        """What went wrong; empty: nothing."""
        if not (document.routable or document.draining):
            return "no member has told where its application is: set `url` on the nodes"
        options, keys = self._options(), self._keys()
        place, files = options.place, self._balancer.files(document, keys, options)
        changed = differing(place, files)
        write(place, {name: file for name, file in changed.items() if file.live})
        self._remark(unseen(place, files))
        others = {name: file for name, file in files.items() if not file.live}
        if others.keys() & changed.keys():
            found = await install(place, others, self._check)
            if not found.done:
                return found.words
            self._behind = True
        if self._behind and not await self._balancer.adopt(document, keys, options):
            found = await run(self._reload) if self._reload else Outcome(True, "")
            if not found.done:
                return found.words
        if not changed and not self._behind:
            return ""
        self._behind = False
        shown = ", ".join(f"{each.name} {each.state}" for each in document.servers)
        logger.info("the balancer is at view %d: %s", document.view, shown)
        return ""
