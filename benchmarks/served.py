"""Serves the application in each of its variants, and speaks to it as a browser does."""

from __future__ import annotations

import http.client
import json
import secrets
from typing import Any

from benchmarks import application
from benchmarks.processes import Processes, Server, free_port

REPLICATED_WITHIN = 200
"""Writes in which a fresh cluster must have named its backup in a cookie."""


class WrongAnswer(RuntimeError):
    """The application did not answer 200 where the measurement depends on it."""


class Client:
    """One browser: logs in before the load and looks at the counter after it."""

    def __init__(self, port: int) -> None:
        self.jar: dict[str, str] = {}
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def login(self) -> int:
        """Log in; the counter that the session begins with."""
        return int(self.ask("POST", "/login")["counter"])

    def counter(self) -> int:
        """The counter as the application reads it now."""
        return int(self.ask("GET", "/read")["counter"])

    def ask(self, method: str, path: str) -> dict[str, Any]:
        """One request with the cookies so far; WrongAnswer unless it is answered with 200."""
        self._connection.request(method, path, headers={"Cookie": self.header()})
        response = self._connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise WrongAnswer(f"{method} {path}: {response.status} {body[:200]!r}")
        for given in response.headers.get_all("Set-Cookie", []):
            self.take(given.partition(";")[0])
        answer: dict[str, Any] = json.loads(body)
        return answer

    def header(self) -> str:
        """The Cookie header."""
        return "; ".join(f"{name}={value}" for name, value in self.jar.items())

    def take(self, cookies: str) -> None:
        """Keep the cookies of a Cookie header."""
        for part in cookies.split("; "):
            name, equals, value = part.partition("=")
            if equals:
                self.jar[name] = value

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def serve(variant: str, processes: Processes, state: str = application.SHOP) -> Server:
    """Serve one variant on the server's core, with what it needs beside it.

    `state`: what its sessions hold, one of `application.STATES`.
    """
    environment = {**settings(variant, processes), "BENCHMARK_STATE": state}
    server = processes.serve(environment, processes.cores.server)
    if variant == application.SESSIONHA:
        await_replication(server.port)
    return server


def settings(variant: str, processes: Processes, *, alone: bool = False) -> dict[str, str]:
    """The environment of one variant; starts its Redis, or the node that holds its copies.

    `alone`: sessionha without peers.
    """
    own = {"BENCHMARK_VARIANT": variant, "BENCHMARK_KEY": secrets.token_hex(32)}
    if variant == application.REDIS:
        return {**own, "BENCHMARK_REDIS": processes.redis()}
    if variant == application.SESSIONHA and alone:
        return {**own, "SESSIONHA_STORE": str(processes.memory / "store-alone")}
    if variant == application.SESSIONHA:
        nodes = node_settings(processes)
        processes.serve({**own, **nodes["n2"]}, processes.cores.helper)
        return {**own, **nodes["n1"]}
    return own


def node_settings(processes: Processes) -> dict[str, dict[str, str]]:
    """The environment of each of two nodes of sessionha: n1 under test, n2 its backup."""
    peers = {"n1": free_port(), "n2": free_port()}
    shared = {
        "SESSIONHA_NODES": ",".join(f"{n}=http://127.0.0.1:{port}" for n, port in peers.items()),
        "SESSIONHA_SECRET": secrets.token_hex(32),
    }
    return {
        node: {
            **shared,
            "SESSIONHA_NODE": node,
            "SESSIONHA_LISTEN": f"127.0.0.1:{port}",
            "SESSIONHA_ADMIN": f"127.0.0.1:{free_port()}",
            "SESSIONHA_STORE": str(processes.memory / f"store-{node}"),
            "SESSIONHA_STATE_DIR": str(processes.directory / f"state-{node}"),
        }
        for node, port in peers.items()
    }


def await_replication(port: int) -> None:
    """Return when a cookie names both nodes as holders, which only acknowledged copies do.

    Raises:
        WrongAnswer: the backup never acknowledged.
    """
    client = Client(port)
    client.login()
    for _ in range(REPLICATED_WITHIN):
        client.ask("POST", "/write")
        if any(".n1~n2." in value for value in client.jar.values()):
            client.close()
            return
    raise WrongAnswer(f"no answer of {REPLICATED_WITHIN} named the backup; cookies: {client.jar}")
