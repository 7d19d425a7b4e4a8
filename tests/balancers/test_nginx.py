"""The configuration for nginx: what it refuses to be made of, and what nginx itself says of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from demo_app.fronts import NJS, executable
from sessionha.balancers.base import File, Options
from sessionha.balancers.document import Document, document_of, keys_of
from sessionha.balancers.installing import run, write
from sessionha.balancers.nginx import Nginx
from sessionha.errors import InvalidSettings
from sessionha.identity import ViewID
from sessionha.view import Member, View
from tests.balancers.fronts import require
from tests.balancers.vectors import settings, view_of
from tests.live.cluster import free_port

EXAMPLE = Path(__file__).parents[2] / "adapters" / "nginx" / "nginx.conf"


def document(*nodes: str, url: str = "http://127.0.0.1:1", **states: str) -> Document:
    view = view_of(dict.fromkeys(nodes, "up") | states, dict.fromkeys((*nodes, *states), url))
    return document_of(view, settings())


def files(document: Document, place: Path, *, verify: bool = False) -> dict[str, File]:
    options = Options(place=place, verify=verify, loopback=f"127.0.0.1:{free_port()}")
    return dict(Nginx().files(document, keys_of(settings()), options))


@pytest.mark.parametrize(
    ("url", "says"),
    [("https://10.0.0.1", "speak http"), ("http://10.0.0.1:80/app", "must be without a path")],
)
def test_what_the_chain_cannot_do_is_refused(url: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=says):
        files(document("n1", url=url), tmp_path)


def test_a_cookie_that_nginx_cannot_name_is_refused(tmp_path: Path) -> None:
    """`$cookie_our-route` would be the cookie `our`, and every client nobody's."""
    told = document_of(
        view_of({"n1": "up"}, {"n1": "http://h"}), settings(route_cookie="our-route")
    )
    with pytest.raises(InvalidSettings, match="letters, digits and `_`"):
        files(told, tmp_path)


def test_signatures_are_not_verified_without_keys(tmp_path: Path) -> None:
    options = Options(place=tmp_path, verify=True)
    with pytest.raises(InvalidSettings, match="`secret` is not set"):
        Nginx().files(document("n1"), {}, options)


def test_only_the_marks_differ_when_a_node_drains_or_dies(tmp_path: Path) -> None:
    before, after = document("n1", "n2", "n3"), document("n1", "n3", n2="drain")
    urls = dict.fromkeys(("n1", "n3"), "http://127.0.0.1:1")
    view = view_of({"n1": "up", "n3": "up"}, urls, number=2)
    dead = document_of(view, settings(), before)
    options = Options(place=tmp_path, verify=False)
    configured = [Nginx().files(each, {}, options) for each in (before, after, dead)]
    for other in configured[1:]:
        changed = {name for name in configured[0] if configured[0][name] != other[name]}
        assert all(other[name].live for name in changed)
    marks = [
        {name for name, file in each.items() if file.live and file.text == "" and "n2" in name}
        for each in configured
    ]
    assert marks == [
        set(),
        {"sessionha_node_n2.away"},
        {"sessionha_node_n2.away", "sessionha_node_n2.out"},
    ]


def test_new_clients_are_shared_by_weight(tmp_path: Path) -> None:
    members = tuple(
        Member(f"n{n}", "i", ViewID(1, ""), "h:1", f"http://10.0.0.{n}:80", weight=n)
        for n in (1, 2, 5)
    )
    made = files(document_of(View(ViewID(1, ""), members), settings()), tmp_path)
    text = made["http.conf"].text or ""
    assert re.findall(r"([\d.]+%|\*) sessionha_node_(n\d);", text) == [
        ("12.50%", "n1"),
        ("25.00%", "n2"),
        ("*", "n5"),
    ]


@pytest.mark.parametrize("nodes", [("n1",), ("default", "include", "n2"), ("9", "a-b--c")])
async def test_nginx_accepts_the_example_with_any_names(
    nodes: tuple[str, ...], tmp_path: Path
) -> None:
    require("nginx-njs")
    place = tmp_path / "sessionha"
    write(place, files(document(*nodes, n7="spare", n8="drain"), place, verify=True))
    text = f"load_module {NJS};\n{EXAMPLE.read_text(encoding='utf-8')}"
    text = text.replace("/etc/nginx/sessionha", str(place))
    text = text.replace("/run/nginx.pid", f"{tmp_path}/pid").replace(
        "/var/log/nginx", f"{tmp_path}"
    )
    text = text.replace("listen 80;", f"listen 127.0.0.1:{free_port()};")
    main = tmp_path / "nginx.conf"
    main.write_text(text, encoding="utf-8")
    found = await run([executable("nginx"), "-e", "stderr", "-t", "-c", str(main)])
    assert found.done, found.words
