"""Runs a witness until it is told to stop: what `sessionha witness` calls."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sessionha.engine import Engine


def run(witness: Engine) -> None:
    """Vote until SIGINT or SIGTERM; says goodbye then.

    Raises:
        InvalidSettings, StoreError: what is wrong and the remedy.
    """
    asyncio.run(_vote(witness))


async def _vote(witness: Engine) -> None:
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    starting = asyncio.ensure_future(witness.start())
    waiting = asyncio.ensure_future(told.wait())
    await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if starting.done():
        starting.result()  # what is wrong ends the command
        await waiting
    else:
        starting.cancel()
        await asyncio.wait({starting})
    await witness.stop()
