"""The commands, as typer builds them."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote, urlencode

import typer
import typer.main

from sessionha import __version__
from sessionha.admin.tokens import ROLES, Role
from sessionha.cli import asking
from sessionha.cli.extras import MissingExtra, needs
from sessionha.errors import InvalidSettings, StoreError
from sessionha.keys import new_secret
from sessionha.quantities import read_duration
from sessionha.settings import Explained, Settings, markdown

if TYPE_CHECKING:
    from rich.console import Console

    from sessionha.engine import Engine

WIDE: Final = 160
"""Columns of a table that no terminal shows."""

app = typer.Typer(
    name="sessionha",
    help="HTTP sessions that survive the death of the server that holds them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file with the tables `cluster` and `node`."),
]


def run(words: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    try:
        typer.main.get_command(app).main(args=list(words), prog_name="sessionha")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except (InvalidSettings, StoreError, MissingExtra) as problem:
        print(problem, file=sys.stderr)
        return 2
    return 0


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"sessionha {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """HTTP sessions that survive the death of the server that holds them."""
    del version  # its callback has acted


@app.command()
def secret() -> None:
    """Print fresh random text: a cluster secret, for SESSIONHA_SECRET on every node, or an
    application key, for the `secret_key` of SessionMiddleware. Use a different one for each."""
    print(new_secret())


@app.command()
def config(
    file: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the reference of all settings.")
    ] = False,
) -> None:
    """Print every setting of a node here, and where it came from; secrets only as `set`."""
    if as_markdown:
        print(markdown(), end="")
        return
    rows = Settings.load(config=file).explain()
    if as_json:
        print(json.dumps([row._asdict() for row in rows], indent=2))
    else:
        print(_aligned(rows))


@app.command()
def token(
    role: Annotated[
        str, typer.Option(help=f"One of {', '.join(ROLES)}; each may do what those before it may.")
    ] = "read",
    file: ConfigFile = None,
) -> None:
    """Print the bearer token of a role, derived from the cluster secret."""
    print(asking.token(Settings.observe(config=file), _role(role)))


Administration = Annotated[
    str | None,
    typer.Option("--url", help="The node's administration, such as 10.0.0.1:7947."),
]

Address = Annotated[
    str | None,
    typer.Argument(metavar="[URL]", help="The node's administration, such as 10.0.0.1:7947."),
]

TheSame = Annotated[str | None, typer.Option("--url", help="The same, as `sessions` takes it.")]

AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def status(
    address: Address = None, url: TheSame = None, file: ConfigFile = None, as_json: AsJSON = False
) -> None:
    """Print what a node knows of itself and of its cluster."""
    with needs("cli", "the status"):
        from sessionha.cli.status import show
    _tell(_read(file, _one(address, url), "/v1/status"), show, as_json=as_json)


@app.command()
def topology(
    address: Address = None, url: TheSame = None, file: ConfigFile = None, as_json: AsJSON = False
) -> None:
    """Print the cluster as a node sees it: members, who watches whom, who decides, what changed."""
    with needs("cli", "the topology"):
        from sessionha.cli.topology import show
    _tell(_read(file, _one(address, url), "/v1/topology"), show, as_json=as_json)


@app.command()
def doctor(
    address: Annotated[
        str | None,
        typer.Argument(
            metavar="[URL]",
            help="The node's administration, such as 10.0.0.1:7947, or the public address,"
            " https://shop.example/.",
        ),
    ] = None,
    url: TheSame = None,
    engines: Annotated[
        int | None, typer.Option(min=1, help="How many processes of the node should live.")
    ] = None,
    file: ConfigFile = None,
    as_json: AsJSON = False,
) -> None:
    """Look for what is wrong with a node, or with what stands in front of the nodes, and say what
    to do; exits 1 when a check fails.

    URL is a node's administration, or the public address of the application, such as
    https://shop.example/: then canaries go through it, and each tells where it came out.
    """
    with needs("cli", "the examination"):
        from sessionha.cli.doctor import examine
    found = examine(file, _one(address, url), engines)
    if as_json:
        print(found.as_json())
    else:
        found.show(_console())
    if not found.healthy:
        raise typer.Exit(1)


def _one(address: str | None, url: str | None) -> str | None:
    if address is not None and url is not None:
        raise typer.BadParameter("give the address once: as URL or as --url URL")
    return url or address


def _read(
    file: Path | None,
    url: str | None,
    path: str,
    *,
    has: str = "members",
    timeout: float = asking.TIMEOUT,
    also: int = 200,
) -> dict[str, Any]:
    """What a node's administration tells whoever may read; without it the command ends."""
    settings = Settings.observe(config=file)
    address, bearer = asking.address_of(settings, url), asking.token(settings, "read")
    try:
        return asking.ask(address, path, bearer, has=has, timeout=timeout, also=also)
    except asking.NoAnswer as problem:
        print(problem, file=sys.stderr)
        raise typer.Exit(1) from None


def _tell(
    found: dict[str, Any], show: Callable[[dict[str, Any], Console], None], *, as_json: bool
) -> None:
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        show(found, _console())


def _console(*, stderr: bool = False) -> Console:
    """Where tables are printed. A file or a pipe has no width that would break their words."""
    from rich.console import Console

    known = stderr or sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(stderr=stderr) if known else Console(width=WIDE)


@app.command()
def heal(
    node: Annotated[
        str | None, typer.Argument(help="An absent node, or one that is going to be.")
    ] = None,
    now: Annotated[
        bool, typer.Option("--now", help="It is gone for good: make its copies elsewhere now.")
    ] = False,
    hold: Annotated[
        bool, typer.Option("--hold", help="It is being maintained: await it until it is back.")
    ] = False,
    extend: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", help="Await it longer by so much; `0` takes back what was said."
        ),
    ] = None,
    url: Administration = None,
    file: ConfigFile = None,
    as_json: AsJSON = False,
) -> None:
    """Print how many copies there are and who is awaited; or say what becomes of the copies of an
    absent node. In a terminal it shows bars until nothing is under way any more."""
    with needs("cli", "the copies"):
        from sessionha.cli import healing
    words = [word for word, given in (("now", now), ("hold", hold)) if given]
    if extend is not None:
        words.append(f"extend={_duration('--extend', extend):g}")
    if len(words) != (node is not None):
        raise typer.BadParameter("give a node and one of --now, --hold and --extend, or nothing")

    def ask() -> dict[str, Any]:
        return _read(file, url, "/v1/healing", has="delays")

    if node is not None:
        said = _operate(file, url, f"/v1/heal/{quote(node, safe='')}?{words[0]}", "word")
        _tell(said, healing.show_word, as_json=as_json)
        return
    found = ask()
    if found["under_way"] and not as_json and sys.stdout.isatty():
        found = healing.follow(ask, _console())
    _tell(found, healing.show, as_json=as_json)


@app.command(name="safe-to-stop")
def safe_to_stop(
    node: Annotated[str, typer.Argument(help="The node that is to be stopped.")],
    zones: Annotated[
        bool,
        typer.Option("--zones", help="Also with any one zone besides; a node in none is one."),
    ] = False,
    url: Administration = None,
    file: ConfigFile = None,
    as_json: AsJSON = False,
) -> None:
    """Print how many sessions would be lost if a node stopped now; exits 1 unless it is none.

    Every member is asked. One that does not answer counts as stopped already.
    """
    with needs("cli", "the answer"):
        from sessionha.cli import healing
    path = f"/v1/safe-to-stop/{quote(node, safe='')}" + ("?zones=true" if zones else "")
    found = _read(file, url, path, has="safe", timeout=healing.PATIENCE, also=409)
    _tell(found, healing.show_safety, as_json=as_json)
    if not found["safe"]:
        raise typer.Exit(1)


@app.command()
def forget(
    node: Annotated[str, typer.Argument(help="The node that will not come back.")],
    url: Administration = None,
    file: ConfigFile = None,
) -> None:
    """Let a node wait no longer for the sessions that an absent one may hold: they may be lost."""
    found = _operate(file, url, f"/v1/forget/{quote(node, safe='')}", "forgotten")
    print(f"{found['forgotten']} is forgotten; tell every node that waits for it")


@app.command()
def drain(
    node: Annotated[str, typer.Argument(help="The node that will be stopped.")],
    restart: Annotated[
        bool, typer.Option("--restart", help="It comes back soon: keep its copies and seats.")
    ] = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="It is not stopped after all: let it serve on.")
    ] = False,
    url: Administration = None,
    file: ConfigFile = None,
    as_json: AsJSON = False,
) -> None:
    """Let others serve all that a node serves, and wait until they do: then stop it.

    Without --restart it goes for good, and its copies are made elsewhere at once. Exits 1 when
    something could not be handed over, or not be copied elsewhere.
    """
    with needs("cli", "draining"):
        from sessionha.cli import draining
    if restart and cancel:
        raise typer.BadParameter("give --restart or --cancel")
    settings = Settings.observe(config=file)
    address, bearer = asking.address_of(settings, url), asking.token(settings, "operate")
    console = None if as_json or not sys.stderr.isatty() else _console(stderr=True)
    try:
        if cancel:
            done = draining.cancel(address, bearer, node)
        else:
            done = draining.drain(address, bearer, node, restarts=restart, console=console)
    except asking.NoAnswer as problem:
        print(problem, file=sys.stderr)
        raise typer.Exit(1) from None
    print(json.dumps(done, indent=2) if as_json else draining.words(done))
    if not draining.is_safe(done):
        raise typer.Exit(1)


@app.command()
def reload(url: Administration = None, file: ConfigFile = None) -> None:
    """Let a node read its settings again: nodes, secrets, and what else can change while it runs.

    Every process of the node follows. Where something is wrong the node goes on as before.
    """
    try:
        found = _operate(file, url, "/v1/reload", "changed")
    except InvalidSettings as error:  # this command needs the secret, and reads the same file
        print("\n".join(["nothing was reloaded:", *error.problems]), file=sys.stderr)
        raise typer.Exit(1) from None
    nothing = "nothing takes effect now" if found["waiting"] else "nothing has changed"
    for words in found["changed"] or [nothing]:
        print(f"{found['node']}: {words}")
    for words in found["waiting"]:
        print(f"{found['node']}: {words} (with the next start)")


@app.command()
def bootstrap(
    without: Annotated[
        list[str], typer.Option(metavar="NODE", help="An elector that will never vote again.")
    ],
    url: Administration = None,
    file: ConfigFile = None,
) -> None:
    """Let a cluster that lost its majority go on without the votes of nodes that are gone for good.

    Where one of them lives after all, there are two clusters, and sessions are lost.
    """
    path = "/v1/bootstrap?" + urlencode([("without", node) for node in without])
    found = _operate(file, url, path, "without")
    print(f"goes on without the votes of {', '.join(found['without'])}")


def _operate(file: Path | None, url: str | None, path: str, has: str) -> dict[str, Any]:
    settings = Settings.observe(config=file)
    address, bearer = asking.address_of(settings, url), asking.token(settings, "operate")
    try:
        return asking.ask(address, path, bearer, has=has, method="POST")
    except asking.NoAnswer as problem:
        print(problem, file=sys.stderr)
        raise typer.Exit(1) from None


@app.command()
def sessions(
    subject: Annotated[str, typer.Argument(help="Whose: what `session.subject` was set to.")],
    url: Annotated[
        str | None,
        typer.Option("--url", help="The administration of any node, such as 10.0.0.1:7947."),
    ] = None,
    revoke: Annotated[
        str | None, typer.Option(metavar="ID", help="End the session with this ID.")
    ] = None,
    revoke_all: Annotated[
        bool, typer.Option("--revoke-all", help="End every session of the subject.")
    ] = False,
    file: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print where somebody is logged in, in the whole cluster; or log them out there."""
    with needs("cli", "the list of sessions"):
        from sessionha.cli import sessions as theirs
    if revoke is not None and revoke_all:
        raise typer.BadParameter("give --revoke ID or --revoke-all, not both")
    settings = Settings.observe(config=file)
    address, bearer = asking.address_of(settings, url), asking.token(settings, "data")
    ends = revoke is not None or revoke_all
    try:
        found = theirs.ask(address, bearer, subject, one=revoke, ends=ends)
    except asking.NoAnswer as problem:
        print(problem, file=sys.stderr)
        raise typer.Exit(1) from None
    if as_json:
        print(json.dumps(found, indent=2))
    elif ends:
        theirs.show_end(found, _console())
    else:
        theirs.show(found, _console())
    if revoke is not None and not found["ended"]:
        print(theirs.NO_SUCH_SESSION, file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def router(
    file: ConfigFile = None,
    nodes: Annotated[
        str | None,
        typer.Option(help="The nodes to follow: n1=http://10.0.0.1:7946,n2=… or dns://…"),
    ] = None,
    listen: Annotated[str, typer.Option(help="host:port for clients.")] = "127.0.0.1:8000",
    policy: Annotated[
        str | None,
        typer.Option(
            help="How a node is chosen for a new client: zone, least-load, then weighted or"
            " round-robin; such as zone,least-load."
        ),
    ] = None,
    zone: Annotated[
        str | None, typer.Option(help="New clients go to servers of this zone.")
    ] = None,
    engine_type: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[PREFIX=]TYPE", help="Engine type that serves a path prefix, or everything."
        ),
    ] = None,
    response_timeout: Annotated[
        str, typer.Option(help="How long a server may take to begin its answer.")
    ] = "30s",
    server_requests: Annotated[
        int, typer.Option(min=1, help="Most requests at one server at the same time; others wait.")
    ] = 1000,
    queue_timeout: Annotated[
        str, typer.Option(help="How long a request waits for room at its server.")
    ] = "5s",
    connections: Annotated[
        int, typer.Option(min=1, help="Most connections of clients at the same time.")
    ] = 8192,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes; the limits are those of each.")
    ] = 1,
    health_path: Annotated[
        str,
        typer.Option(
            help="Path that the router answers itself: 200, 404 when it stops, 503 without servers."
        ),
    ] = "",
    check_path: Annotated[
        str, typer.Option(help="Path asked of every server each second, such as /readyz.")
    ] = "",
    drain_delay: Annotated[
        str, typer.Option(help="How long it says 404 at its health path before it stops.")
    ] = "0s",
    metrics: Annotated[
        str,
        typer.Option(help="host:port that answers /metrics; each further worker one port above."),
    ] = "",
    access_log: Annotated[
        str, typer.Option(help="File for a line of JSON about each request; - for the output.")
    ] = "",
    trusted_proxies: Annotated[
        str, typer.Option(help="Addresses in front of it whose X-Forwarded-* is believed.")
    ] = "",
    tls_certificate: Annotated[
        Path | None, typer.Option(help="PEM file of the certificate, to serve https.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None,
    witness: Annotated[
        bool,
        typer.Option("--witness", help="Vote as well, as the witness that SESSIONHA_NODE names."),
    ] = False,
) -> None:
    """Pass each client's requests to the server that has its session. SIGHUP reads secrets, nodes
    and the certificate again and reopens the access log; SIGTERM drains and stops."""
    with needs("router", "the router"):
        from sessionha.router.options import Options
        from sessionha.router.serve import Service, serve
    options = Options(
        health_path=health_path,
        check_path=check_path,
        server_requests=server_requests,
        connections=connections,
        queue_timeout=_duration("--queue-timeout", queue_timeout),
        response_timeout=_duration("--response-timeout", response_timeout),
    )
    service = Service(
        listen=listen,
        workers=workers,
        drain_delay=_duration("--drain-delay", drain_delay),
        trusted_proxies=trusted_proxies,
        tls_certificate=None if tls_certificate is None else str(tls_certificate),
        tls_key=None if tls_key is None else str(tls_key),
        metrics=metrics,
        access_log=access_log,
    )
    _log_to_stderr()
    settings = Settings.observe(
        config=file, nodes=nodes, policy=policy, zone=zone, engine_types=engine_type or None
    )
    serve(settings, service, options, beside=_witness(file) if witness else None)


Verify = Annotated[
    bool | None,
    typer.Option(
        "--verify/--no-verify",
        help="Let the balancer verify the route cookie's signature, or not; each kind has its own"
        " default.",
    ),
]
OwnAddress = Annotated[
    str | None,
    typer.Option("--loopback", help="host:port on loopback that the configuration needs."),
]
ResponseTimeout = Annotated[
    str | None,
    typer.Option(
        help="How long a server may be silent before it counts as dead; 30s. This, --verify and"
        " --loopback stay as the files in place were made, unless given."
    ),
]


@app.command()
def export(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="nginx, haproxy, envoy, or json: the document.")
    ],
    cluster: Annotated[
        Path | None,
        typer.Option("--cluster", metavar="FILE", help="From a cluster's description, as it is."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="NODE", help="From a running node: its administration."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Write the files there.")
    ] = None,
    verify: Verify = None,
    response_timeout: ResponseTimeout = None,
    loopback: OwnAddress = None,
    file: ConfigFile = None,
) -> None:
    """Print or write the configuration of a load balancer for the cluster as it is now."""
    from sessionha.balancers.document import configured
    from sessionha.cli import balancers

    if cluster is not None and source is not None:
        raise typer.BadParameter("give --cluster FILE or --from NODE")
    environ = dict(os.environ)
    if cluster is not None:
        environ.pop("SESSIONHA_NODES", None)  # the file says who the nodes are
    settings = Settings.observe(environ, config=cluster or file)
    try:
        if cluster is not None:
            document = configured(settings)
        else:
            document = balancers.told_by(settings, source)
    except asking.NoAnswer as problem:
        print(problem, file=sys.stderr)
        raise typer.Exit(1) from None
    wishes = balancers.Wishes(
        to=to,
        verify=verify,
        response_timeout=_given_duration("--response-timeout", response_timeout),
        loopback=loopback,
    )
    print(balancers.export(kind, document, settings, wishes))


@app.command()
def follow(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="nginx, haproxy or envoy.")],
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="Where the files are, if not in the usual place."),
    ] = None,
    nodes: Annotated[
        str | None,
        typer.Option(help="The nodes to follow: n1=http://10.0.0.1:7946,n2=… or dns://…"),
    ] = None,
    check: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="Judges the configuration; empty: nothing does."),
    ] = None,
    reload: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="Makes the balancer read it; empty: nothing does."),
    ] = None,
    socket: Annotated[
        str, typer.Option(metavar="PATH", help="Socket of its run-time API, if it has one.")
    ] = "",
    verify: Verify = None,
    response_timeout: ResponseTimeout = None,
    loopback: OwnAddress = None,
    file: ConfigFile = None,
) -> None:
    """Keep a load balancer at the cluster's view: write its files, let it judge them, and make it
    read them, at each change. SIGHUP: read the secrets again. What it refuses is put back."""
    from sessionha.cli import balancers

    _log_to_stderr()
    wishes = balancers.Wishes(
        to=to,
        verify=verify,
        response_timeout=_given_duration("--response-timeout", response_timeout),
        loopback=loopback,
        socket=socket,
    )
    balancers.follow(kind, Settings.observe(config=file, nodes=nodes), wishes, check, reload)


@app.command(name="witness")
def vote(file: ConfigFile = None) -> None:
    """Vote on which servers are members, as the witness that SESSIONHA_NODE names. It holds no
    sessions; a third vote for two servers lets either go on when the other is gone."""
    from sessionha.cli.witness import run as run_witness

    _log_to_stderr()
    run_witness(_witness(file))


def _witness(file: Path | None) -> Engine:
    from sessionha.admin.administration import Administration as Served
    from sessionha.engine import witness_of

    return witness_of(Settings.load(config=file), (Served,))


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")


def _role(text: str) -> Role:
    for role in ROLES:
        if text == role:
            return role
    raise typer.BadParameter(f"--role {text!r} is not one of {', '.join(ROLES)}")


def _duration(option: str, text: str) -> float:
    try:
        return read_duration(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option} {error}") from error


def _given_duration(option: str, text: str | None) -> float | None:
    return None if text is None else _duration(option, text)


def _aligned(rows: list[Explained]) -> str:
    wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = (f"{name:<{wide[0]}}  {value:<{wide[1]}}  {origin}" for name, value, origin in rows)
    return "\n".join(lines)
