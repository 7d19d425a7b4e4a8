"""The contract that every door keeps: one claim a test, against two nodes under a real server.

A kind of application is one class in a test module of its own:

    class TestFlask(Contract):
        command = gthread("flask_app:app")

and the application, in `tests/contract/applications/`, which `tests.contract.acts` describes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import ClassVar

import pytest

from tests.contract.acts import TYPES
from tests.contract.site import FIRST, SECOND, Site, Visitor
from tests.live.cluster import until

FORGED = "Zm9yZ2Vk" * 12


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="the shared store needs Linux")
@pytest.mark.asyncio(loop_scope="class")
class Contract:
    """The claims. Subclasses say what is served."""

    command: ClassVar[Sequence[str]]
    """What serves the application: `site.uvicorn` or `site.gthread` make one."""
    environment: ClassVar[Mapping[str, str]] = {}
    """What its processes get beside the cluster's settings."""
    cookie: ClassVar[str] = "session"
    """The name of its session cookie."""
    unstorable: ClassVar[int] = 500
    """The status of a response whose session holds what cannot be stored."""
    interrupted: ClassVar[int] = 200
    """The status where a request has changed a session that another one ended meanwhile."""

    @pytest.fixture
    def visitor(self, site: Site) -> Visitor:
        """Somebody without cookies."""
        return site.visitor()

    # --- one client ---

    async def test_the_second_request_sees_the_firsts_write(self, visitor: Visitor) -> None:
        assert await visitor.get("count") == {"n": 1}
        assert await visitor.get("count") == {"n": 2}
        assert await visitor.get("read") == {"n": 2}

    async def test_clients_have_sessions_of_their_own(self, site: Site, visitor: Visitor) -> None:
        await visitor.get("put", token="mine")
        assert await site.visitor().get("read") == {}

    async def test_who_stores_nothing_gets_no_cookie(self, visitor: Visitor) -> None:
        answer = await visitor.ask("read")
        assert (answer.status, answer.cookies) == (200, {})

    async def test_what_depends_on_the_session_varies_by_cookie_and_nothing_else_does(
        self, visitor: Visitor
    ) -> None:
        assert "cookie" in (await visitor.ask("count")).vary
        assert "cookie" in (await visitor.ask("read")).vary
        answer = await visitor.ask("static")
        assert (answer.status, answer.vary & {"cookie"}, answer.cookies) == (200, set(), {})

    async def test_the_cookie_is_kept_from_scripts_and_other_sites(self, visitor: Visitor) -> None:
        words = (await visitor.ask("count")).cookies[self.cookie].lower()
        assert "httponly" in words
        assert "samesite=lax" in words

    async def test_a_forged_cookie_starts_anew(self, visitor: Visitor) -> None:
        """And the ID that it brought is not adopted."""
        visitor.jar[self.cookie] = FORGED
        assert await visitor.get("read") == {}
        visitor.jar[self.cookie] = FORGED
        assert await visitor.get("count") == {"n": 1}
        assert FORGED not in visitor.jar[self.cookie]

    async def test_a_value_that_was_changed_in_place_is_kept(self, visitor: Visitor) -> None:
        for token in "abc":
            await visitor.get("append", token=token)
        assert await visitor.get("read") == {"items": ["a", "b", "c"]}

    async def test_a_deleted_element_is_gone(self, visitor: Visitor) -> None:
        await visitor.get("put", token="one")
        await visitor.get("put", token="two")
        assert await visitor.get("delete", token="one") == {"two": True}
        assert await visitor.get("read") == {"two": True}

    async def test_values_come_back_with_their_types(self, visitor: Visitor) -> None:
        await visitor.get("store-types")
        expected = {name: repr(value) for name, value in TYPES.items()}
        assert await visitor.get("load-types") == expected

    async def test_what_cannot_be_stored_changes_nothing_and_is_named(
        self, site: Site, visitor: Visitor
    ) -> None:
        await visitor.get("count")
        assert (await visitor.ask("store-object")).status == self.unstorable
        assert (await visitor.ask("store-much")).status == self.unstorable
        assert await visitor.get("read") == {"n": 1}
        assert "session['odd']" in site.cluster.output
        assert "session_bytes" in site.cluster.output

    # --- requests at the same time ---

    async def test_parallel_writers_keep_both_keys(self, site: Site, visitor: Visitor) -> None:
        await visitor.get("count")
        slow = await site.slow(visitor, "put", token="slow")
        await visitor.get("put", token="fast")
        assert (await slow.finish()).status == 200
        assert await visitor.get("read") == {"n": 1, "slow": True, "fast": True}

    async def test_a_slow_reader_erases_nothing(self, site: Site, visitor: Visitor) -> None:
        await visitor.get("count")
        slow = await site.slow(visitor, "read")
        await visitor.get("count")
        assert (await slow.finish()).json == {"n": 1}
        assert await visitor.get("read") == {"n": 2}

    @pytest.mark.parametrize("then", ["read", "put", "append"])
    async def test_a_log_out_during_a_slow_request_stays(
        self, site: Site, visitor: Visitor, then: str
    ) -> None:
        await visitor.get("log-in", user="ada")
        before = visitor.copy()
        slow = await site.slow(visitor, then, token="late")
        await visitor.get("log-out")
        answer = await slow.finish()
        expected = 200 if then == "read" else self.interrupted
        assert (answer.status, self.cookie in answer.cookies) == (expected, False)
        assert self.cookie not in visitor.jar
        assert await before.get("read") == {}

    # --- log-in and log-out ---

    async def test_a_log_in_renews_the_id_and_the_old_one_is_dead(self, visitor: Visitor) -> None:
        await visitor.get("count")
        before = visitor.copy()
        assert await visitor.get("log-in", user="ada") == {"n": 1, "user": "ada"}
        assert visitor.jar[self.cookie] != before.jar[self.cookie]
        assert await before.get("read") == {}
        assert await visitor.get("read") == {"n": 1, "user": "ada"}

    async def test_a_log_out_ends_the_session_and_clears_the_cookie(self, visitor: Visitor) -> None:
        await visitor.get("log-in", user="ada")
        before = visitor.copy()
        await visitor.get("log-out")
        assert self.cookie not in visitor.jar
        assert await before.get("read") == {}
        assert await visitor.get("count") == {"n": 1}

    # --- after the response has started ---

    async def test_a_change_while_the_body_streams_is_kept(
        self, site: Site, visitor: Visitor
    ) -> None:
        await visitor.get("count")
        answer = await visitor.ask("stream", token="late")
        assert (answer.status, answer.body) == (200, "one two")
        await self._shows(visitor, {"n": 1, "late": True})

    async def test_a_change_after_the_response_is_kept(self, site: Site, visitor: Visitor) -> None:
        await visitor.get("count")
        assert (await visitor.ask("background", token="late")).status == 200
        await self._shows(visitor, {"n": 1, "late": True})

    async def _shows(self, visitor: Visitor, expected: object) -> None:
        """The client has its answer before its server has committed what came later."""

        async def shown() -> bool:
            return bool(await visitor.get("read") == expected)

        await until(f"the session is {expected}", shown)

    # --- several servers ---

    async def test_canaries_are_answered_in_the_place_of_the_application(
        self, visitor: Visitor
    ) -> None:
        """`sessionha doctor URL` sees what the node sees, with a session like any other."""
        told = await visitor.canary("begin")
        assert (told["node"], told["session"], told["way"]) == (FIRST, "none", None)
        assert set(visitor.jar) == {self.cookie, told["route_cookie"]}
        told = await visitor.canary("look")
        assert (told["session"], told["way"]) == ("kept", "kept")
        assert told["path"].endswith("/who")
        assert set(told["cookies"]) == set(visitor.jar)
        told = await visitor.canary("look", node=SECOND)
        assert (told["node"], told["session"], told["way"]) == (SECOND, "kept", "lb_ignored")
        await visitor.canary("end", node=SECOND)
        assert self.cookie not in visitor.jar
        forged = await visitor.ask("who", **{"sessionha-canary": "look.1.x.y"})
        assert (forged.status, forged.body, forged.cookies) == (403, "canary refused\n", {})

    async def test_canaries_leave_the_session_of_a_person_alone(self, visitor: Visitor) -> None:
        """Also where somebody leads a browser to the address of one, out of a log."""
        await visitor.get("count")
        for wish in ("begin", "end"):
            assert (await visitor.canary(wish))["session"] == "kept"
        assert await visitor.get("count") == {"n": 2}

    async def test_a_session_that_a_canary_began_and_a_person_uses_is_the_persons(
        self, visitor: Visitor
    ) -> None:
        """Who leads browsers to canaries out of a log logs nobody out."""
        await visitor.canary("begin")
        await visitor.get("count")
        assert (await visitor.canary("end"))["session"] == "kept"
        assert (await visitor.get("count"))["n"] == 2

    async def test_the_other_node_has_the_session(self, visitor: Visitor) -> None:
        await visitor.get("count", node=FIRST)
        assert await visitor.get("count", node=SECOND) == {"n": 2}
        assert await visitor.get("count", node=FIRST) == {"n": 3}

    async def test_a_log_out_on_one_node_holds_on_the_other(self, visitor: Visitor) -> None:
        await visitor.get("log-in", user="ada", node=FIRST)
        before = visitor.copy()
        await visitor.get("log-out", node=SECOND)
        assert await before.get("read", node=FIRST) == {}

    async def test_sessions_survive_the_death_of_the_node_that_served_them(
        self, site: Site
    ) -> None:
        """kill -9, in mid-session. The last claim: the node stays dead."""
        visitors = [site.visitor() for _ in range(5)]
        for visitor in visitors:
            await visitor.get("append", token="before")
        await site.cluster.kill(FIRST)
        for visitor in visitors:
            after = {"items": ["before", "after"]}
            assert await visitor.get("append", token="after", node=SECOND) == after
