"""What the checks of a node find wrong, and what they say to do about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sessionha.admin.checks import CHECKS, Facts, Finding, Heard, findings
from sessionha.cli.front import CHECKS as IN_FRONT
from sessionha.identity import NO_VIEW
from sessionha.keys import new_secret
from sessionha.session.affinity import REASONS
from sessionha.settings import Settings
from sessionha.store.base import Usage
from sessionha.topology.health import NodeState
from sessionha.view import Member, View

MIB = 1 << 20
FAR = "n1=http://10.0.0.1:7946,n2=http://10.0.0.2:7946,n3=http://10.0.0.3:7946"
NEAR = "n1=http://127.0.0.1:7001,n2=http://127.0.0.1:7002,n3=http://127.0.0.1:7003"
AGREED = (("backups", "1"), ("reads", "local"))


def member(number: int, key: bytes = b"markA", **settings: str) -> Member:
    given = tuple({**dict(AGREED), **settings}.items())
    peer = f"127.0.0.1:700{number}"
    return Member(f"n{number}", "i", NO_VIEW, peer, keys=(key,), settings=given)


ALL = View(members=(member(1), member(2), member(3)))
VOTED = View(members=ALL.members, electors=("n1", "n2", "n3"))


def heard(**others: Heard) -> dict[str, Heard]:
    near = {f"n{number}": Heard(f"127.0.0.1:700{number}") for number in (2, 3)}
    return near | others


def facts(nodes: str = NEAR, **given: Any) -> Facts:
    """Of a healthy node, but for what is given: settings by their names, and facts."""
    names = {name for name in Facts.__dataclass_fields__ if name != "settings"}
    settings = {
        "node": "n1", "nodes": nodes, "secret": new_secret(), "consistency": "available",
        "store_size": "256MiB", "backups": 1,
    } | {name: value for name, value in given.items() if name not in names}  # fmt: skip
    known: dict[str, Any] = {
        "usage": Usage(3 * MIB, 200 * MIB), "view": ALL, "heard": heard(), "agreed": AGREED,
        "place": "/dev/shm/sessionha-0/x",
    }  # fmt: skip
    known |= {name: value for name, value in given.items() if name in names}
    return Facts(settings=Settings.load({}, **settings), **known)


def problems(found: Facts) -> list[Finding]:
    return [finding for finding in findings(found) if finding.outcome != "ok"]


def test_a_healthy_node_has_no_problem() -> None:
    """Also one where a majority decides."""
    assert problems(facts()) == []
    quorum = facts(consistency="quorum", view=VOTED, state_dir="/var/lib/x")
    assert problems(quorum) == []
    assert [finding.check for finding in findings(quorum)] == list(CHECKS)


def test_a_node_without_peers_is_checked_for_what_it_has() -> None:
    alone = Facts(settings=Settings.load({}, store="memory"), usage=Usage(0, 200 * MIB))
    assert {each.check for each in findings(alone)} == {
        "state", "application key", "secret", "store",
    }  # fmt: skip
    assert problems(alone) == []


SILENT = Heard("127.0.0.1:7002", "no answer within 2 s")
REFUSED = Heard("127.0.0.1:7003", "its host refused", refused=True)

PROBLEMS: dict[str, tuple[dict[str, Any], str, str, str, str]] = {
    "no hook": ({"late": True}, "start", "warn", "its first request", "docs/operations.md"),
    "not ready": (
        {"state": NodeState.WAITING, "waiting_for": "a majority: missing n2"},
        "state", "fail", "waiting and answers 503; it waits for a majority: missing n2", "start",
    ),
    "catching up": (
        {"state": NodeState.CATCHING_UP}, "state", "warn", "its copies from the others", "wait",
    ),
    "draining": ({"state": NodeState.DRAINING}, "state", "warn", "it drains", "wait"),
    "alone": (
        {"view": View(members=(member(1),)), "heard": {}},
        "alone", "warn", "no copies on other nodes", "start other nodes",
    ),
    "too few for a change": (
        {"view": View(members=(member(1),)), "heard": {}, "min_copies": 1},
        "alone", "fail", "1 of the 2 servers are members that a change needs", "min_copies",
    ),
    "a member that is silent": (
        {"heard": heard(n2=SILENT)},
        "peers", "fail", "n2 at 127.0.0.1:7002: no answer within 2 s", "firewall",
    ),
    "a member with another secret": (
        {"heard": heard(n2=SILENT._replace(listens=True))},
        "peers", "fail", "n2 at", "same secret",
    ),
    "a broken link": (
        {"heard": heard(n2=SILENT), "detours": {"n2": "n3"}},
        "peers", "warn", "no answer within 2 s; it is reached through n3", "firewall",
    ),
    "a dead node": (
        {"heard": heard(n3=REFUSED), "view": View(members=(member(1), member(2)))},
        "peers", "warn", "n3 at 127.0.0.1:7003: its host refused", "correct its address",
    ),
    "a stranger": (
        {"view": View(members=(member(1), member(2)))},
        "peers", "warn", "n3 at 127.0.0.1:7003 answers, and is not a member", "its log",
    ),
    "a balancer that ignores the route": (
        {"ways": {"kept": 700, "lb_ignored": 290, "no_route": 10}},
        "affinity", "warn", "30% of 1000 requests of known clients", "sessionha doctor https://",
    ),
    "a clock that is a little off": (
        {"heard": heard(n2=Heard("x:1", skew=1.5))}, "clocks", "warn", "1.5 s ahead", "NTP",
    ),
    "a clock that is off": (
        {"heard": heard(n2=Heard("x:1", skew=-90.0))}, "clocks", "fail", "90.0 s behind", "NTP",
    ),
    "another description": (
        {"differing": {"n2": "it lacks n3"}},
        "description", "warn", "n2 has another description of the cluster: it lacks n3", "order",
    ),
    "another setting": (
        {"view": View(members=(member(1), member(2, reads="confirmed")))
         , "heard": {"n2": Heard("127.0.0.1:7002")}},
        "settings", "warn", "n2 has `reads` = confirmed, this node local", "the same",
    ),
    "another application key": (
        {"view": View(members=(member(1), member(2, b"markB"), member(3)))},
        "application key", "fail", "n2 has another application key", "same `secret_key`",
    ),
    "a node that is held": (
        {"held": ("n2",)}, "copies", "warn", "the seats of n2 are held", "heal n2 --extend 0",
    ),
    "last copies": (
        {"at_risk": 7}, "copies", "warn", "7 groups have no copy on another node", "room",
    ),
    "a weak key": (
        {"weak_key": "the key has 3 bytes"}, "application key", "warn", "3 bytes", "secret",
    ),
    "no secret": (
        {"secret": "insecure-loopback"}, "secret", "warn", "there is none", "SESSIONHA_SECRET",
    ),
    "a plain listener": (
        {"nodes": FAR}, "listener", "warn", "0.0.0.0:7946 is authenticated", "private network",
    ),
    "a public listener": (
        {"nodes": FAR, "advertise": "8.8.8.8:7946"},
        "listener", "fail", "8.8.8.8:7946 is a public address", "WireGuard",
    ),
    "an address that others cannot reach": (
        {"nodes": FAR, "advertise": "127.0.0.1:7946", "listen": "127.0.0.1:7946",
         "view": View(members=(member(1),))},
        "listener", "fail", "n2, n3 cannot", "SESSIONHA_ADVERTISE",
    ),
    "an open administration": (
        {"admin": "0.0.0.0:7947"}, "administration", "warn", "tokens can be overheard", "TLS",
    ),
    "sessions in a process": ({"place": ""}, "store", "warn", "end with it", "leave `store` out"),
    "a listener elsewhere": (
        {"found_by_itself": False},
        "listener", "warn", "where nothing accepts", "`listen`",
    ),
    "too little shared memory": (
        {"place": "/tmp/x", "shared_memory": False},
        "store", "warn", "/dev/shm had less than 256 MiB free", "--shm-size",
    ),
    "no room to allocate": ({"allocated": False}, "store", "warn", "twice as long", "free four"),
    "a full store": ({"usage": Usage(200 * MIB, 200 * MIB)}, "store", "fail", "503", "raise"),
    "a store that fills": (
        {"usage": Usage(170 * MIB, 200 * MIB)}, "store", "warn", "nearly full", "raise",
    ),
    "a small machine": (
        {"usage": Usage(MIB, 40 * MIB)}, "store", "warn", "it may take 40 MiB", "a quarter",
    ),
    "votes in memory": (
        {"consistency": "quorum", "view": VOTED, "state_dir": "/tmp/x",
         "state_file_system": "tmpfs"},
        "votes", "warn", "/tmp/x is memory", "SESSIONHA_STATE_DIR",
    ),
    "lost votes": (
        {"consistency": "quorum", "view": VOTED, "has_lost_votes": True},
        "votes", "warn", "lost its votes", "one at a time",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_problem_is_named_with_its_remedy(name: str) -> None:
    given, check, outcome, found, remedy = PROBLEMS[name]
    named = [each for each in problems(facts(**given)) if each.check == check]
    assert [(each.check, each.outcome) for each in named] == [(check, outcome)]
    assert found in named[0].found
    assert remedy in named[0].remedy


def test_a_node_that_knows_no_view_yet_is_told_only_that() -> None:
    """It has no company, and has lost no votes that it never had."""
    begins = facts(consistency="quorum", view=View(), heard={}, has_lost_votes=True)
    begins = replace(begins, state=NodeState.WAITING)
    assert [each.check for each in problems(begins)] == ["state"]
    assert "alone" not in {each.check for each in findings(begins)}


def test_a_majority_that_is_lost_or_nearly_lost_is_told() -> None:
    quorum = facts(consistency="quorum", view=VOTED, heard=heard(n3=SILENT))
    (majority,) = [each for each in problems(quorum) if each.check == "majority"]
    assert majority.outcome == "warn"
    assert "2 of 3 electors answer, 2 are needed: the next crash or goodbye stops" in majority.found
    proven = replace(quorum, view=msgspec.structs.replace(VOTED, absent=("n3",)), heard=heard())
    (majority,) = [each for each in problems(proven) if each.check == "majority"]
    assert "2 of 2 electors answer, 2 are needed: the next crash stops" in majority.found
    lost = replace(quorum, heard=heard(n2=SILENT, n3=SILENT))
    (majority,) = [each for each in problems(lost) if each.check == "majority"]
    assert majority.outcome == "fail"
    assert "silent: n2, n3" in majority.found
    assert "sessionha bootstrap --without" in majority.remedy


def test_a_secret_that_others_can_read_is_told(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(new_secret(), encoding="utf-8")
    found = facts(secret=None, secret_file=str(file), secret_mode=0o644)
    (problem,) = problems(found)
    assert (problem.check, problem.outcome) == ("secret", "warn")
    assert "mode 0644" in problem.found
    assert problem.remedy == f"chmod 600 {file}"


def test_every_check_is_explained_to_operators() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    assert [name for name in CHECKS if f"`{name}`" not in page] == []
    front = page.partition("### In front of the nodes")[2]
    assert [name for name in (*IN_FRONT, *REASONS) if f"`{name}`" not in front] == []


def test_a_few_requests_say_nothing_of_a_balancer() -> None:
    """Nor does what it does while a death is found out, or what is right."""
    for ways in ({"lb_ignored": 4}, {"kept": 96, "lb_ignored": 4}, {"server_gone": 1000}):
        assert problems(facts(ways=ways)) == []


def test_no_check_is_without_a_problem_that_it_can_name() -> None:
    named = {check for _, check, *_ in PROBLEMS.values()} | {"majority"}
    assert named == set(CHECKS)
