"""Real load balancers in front of the demo's servers, with the configuration that sessionha makes.

Each gets a directory of its own, needs no privileges and leaves nothing outside of it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from demo_app.processes import ROOT
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
    open_file_cache max=1000;  # as for a site with files; who is away must be seen at once
    open_file_cache_errors on;
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


@dataclass(frozen=True)
class _Example:
    """A balancer with an example of `adapters` as its main configuration."""

    place: Path
    port: int
    """Of clients."""
    own_port: int
    response_timeout: float = 30.0
    retrusted: float = 1.0

    @property
    def options(self) -> Options:
        return Options(
            place=self.place / "sessionha",
            verify=True,
            response_timeout=self.response_timeout,
            retrusted=self.retrusted,
        )

    def _write(self, example: str, told: Mapping[str, str]) -> None:
        """Write the example, changed where it has what is of this machine."""
        path = ROOT / "adapters" / example
        text = path.read_text(encoding="utf-8")
        for usual, ours in told.items():
            assert usual in text, f"{path} has {usual}"
            text = text.replace(usual, ours)
        self.place.mkdir(parents=True, exist_ok=True)
        (self.place / path.name).write_text(text, encoding="utf-8")


class HAProxy(_Example):
    """HAProxy, with the example in `adapters/haproxy` as its main configuration.

    Its own port: names the socket that its exits lead to.
    """

    kind = "haproxy"

    @property
    def options(self) -> Options:
        loopback, socket = f"abns@sessionha-{self.own_port}", str(self.place / "admin.sock")
        return replace(super().options, loopback=loopback, socket=socket)

    @property
    def command(self) -> list[str]:
        return [*self._haproxy, "-W", "-db", "-p", str(self.place / "haproxy.pid")]

    @property
    def check(self) -> list[str]:
        return [*self._haproxy, "-c", "-q"]

    @property
    def reload(self) -> list[str]:
        return ["sh", "-c", f"kill -USR2 $(cat {self.place}/haproxy.pid)"]

    def prepare(self) -> None:
        told = {
            "/run/haproxy/admin.sock": str(self.place / "admin.sock"),
            "bind :8080": f"bind 127.0.0.1:{self.port}",
        }
        self._write("haproxy/haproxy.cfg", told)

    @property
    def _haproxy(self) -> list[str]:
        files = (self.place / "haproxy.cfg", self.place / "sessionha" / "sessionha.cfg")
        return [executable("haproxy"), *(word for file in files for word in ("-f", str(file)))]


class Envoy(_Example):
    """Envoy, with the example in `adapters/envoy` as its main configuration.

    Its own port: of its administration.
    """

    kind = "envoy"

    @property
    def command(self) -> list[str]:
        return [*self._envoy, "--log-level", "warning", "--concurrency", "2"]

    @property
    def check(self) -> list[str]:
        return [*self._envoy, "--mode", "validate", "--log-level", "error"]

    @property
    def reload(self) -> list[str]:
        return []

    def prepare(self) -> None:
        told = {
            "/etc/envoy/": f"{self.place}/sessionha/",
            "dynamic_resources:": f"{self._administration}\ndynamic_resources:",
            "0.0.0.0, port_value: 8080": f"127.0.0.1, port_value: {self.port}",
        }
        self._write("envoy/envoy.yaml", told)

    @property
    def _administration(self) -> str:
        """Tells which servers and routes it has, and the keys to everybody here."""
        where = f"{{address: 127.0.0.1, port_value: {self.own_port}}}"
        return f"admin: {{address: {{socket_address: {where}}}}}"

    @property
    def _envoy(self) -> list[str]:
        # Without hot restart, which several Envoys of one host would have to agree on.
        main = ["-c", str(self.place / "envoy.yaml"), "--disable-hot-restart"]
        return [executable("envoy"), *main]


NJS: Final = Path("/usr/lib/nginx/modules/ngx_http_js_module.so")
"""Where Debian has it."""

FRONTS: Final[Mapping[str, type[Nginx | HAProxy | Envoy]]] = {
    "nginx": Nginx,
    "haproxy": HAProxy,
    "envoy": Envoy,
}


def executable(program: str) -> str:
    """Where a program is, also beside Python, and where only root looks for one; else its name."""
    beside = os.path.dirname(sys.executable)
    path = os.pathsep.join([beside, os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    return shutil.which(program, path=path) or program
