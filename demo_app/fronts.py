"""Real load balancers in front of the demo's servers, with the configuration that sessionha makes.

Each gets a directory of its own, needs no privileges and leaves nothing outside of it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from sessionha.balancers.base import Options

SESSIONHA: Final = (sys.executable, "-m", "sessionha")


class Front(Protocol):
    """One balancer: what it is started with, and how it is told of changes."""

    kind: str
    """As `sessionha export` knows it."""

    @property
    def options(self) -> Options:
        """Of the configuration that is made for it."""

    @property
    def command(self) -> list[str]:
        """Runs it in the foreground."""

    @property
    def check(self) -> list[str]:
        """Judges its configuration; empty: nothing does."""

    @property
    def reload(self) -> list[str]:
        """Makes it read its configuration; empty: it does so by itself."""

    def prepare(self) -> None:
        """Write what is the operator's, not the cluster's: its main configuration."""


def export_words(front: Front) -> list[str]:
    """What `sessionha export` is told."""
    return [front.kind, *_words(front.options)]


def follow_words(front: Front) -> list[str]:
    """What `sessionha follow` is told."""
    words = [front.kind, *_words(front.options), "--socket", front.options.socket]
    return [*words, "--check", shlex.join(front.check), "--reload", shlex.join(front.reload)]


def _words(options: Options) -> list[str]:
    words = ["--to", str(options.place), "--verify" if options.verify else "--no-verify"]
    words += ["--response-timeout", f"{options.response_timeout:g}s"]
    return [*words, "--loopback", options.loopback]


@dataclass(frozen=True)
class Nginx:
    """nginx, with the cookie's signature verified where its njs module is installed."""

    place: Path
    port: int
    """Of clients."""
    own_port: int
    """Of the dead end."""
    response_timeout: float = 30.0
    verify: bool | None = None
    """None: if the module is there."""

    kind = "nginx"

    @property
    def options(self) -> Options:
        return Options(
            place=self.place / "sessionha",
            verify=self._verifies,
            response_timeout=self.response_timeout,
            loopback=f"127.0.0.1:{self.own_port}",
        )

    @property
    def command(self) -> list[str]:
        return [*self._nginx, "-g", "daemon off;"]

    @property
    def check(self) -> list[str]:
        return [*self._nginx, "-t", "-q"]

    @property
    def reload(self) -> list[str]:
        return [*self._nginx, "-s", "reload"]

    def prepare(self) -> None:
        place = self.place
        place.mkdir(parents=True, exist_ok=True)
        module = f"load_module {NJS};" if self._verifies else ""
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "\n".join(f"    {kind}_temp_path {place}/{kind};" for kind in kinds)
        text = f"""{module}
{"user root;" if os.geteuid() == 0 else ""}  # else it could not enter a directory of ours
worker_processes 2;
pid {place}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
{temporary}
    include {place}/sessionha/http.conf;
    server {{
        listen 127.0.0.1:{self.port};
        include {place}/sessionha/server.conf;
    }}
}}
"""
        (place / "nginx.conf").write_text(text, encoding="utf-8")

    @property
    def _nginx(self) -> list[str]:
        conf = str(self.place / "nginx.conf")
        return [executable("nginx"), "-e", "stderr", "-c", conf, "-p", str(self.place)]

    @property
    def _verifies(self) -> bool:
        return NJS.exists() if self.verify is None else self.verify


NJS: Final = Path("/usr/lib/nginx/modules/ngx_http_js_module.so")
"""Where Debian has it."""

FRONTS: Final[Mapping[str, type[Nginx]]] = {"nginx": Nginx}


def executable(program: str) -> str:
    """Where a program is, also in the directories that only root has in its path; else its name."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    return shutil.which(program, path=path) or program
