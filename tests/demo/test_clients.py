"""The clients of the check: what they make of answers."""

from __future__ import annotations

import io
import json

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from demo_app.accounting import Death
from demo_app.clients import Answer, Books, Jar, Operation, Outcome


def headers(*cookies: str) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict([("Set-Cookie", cookie) for cookie in cookies]))


class TestJar:
    def test_keeps_the_latest_value_of_each_cookie(self) -> None:
        jar = Jar("c00.0")
        jar.keep(headers("session=a; Path=/; HttpOnly", "hsr=1.n1~n2.x.k.s; Path=/"))
        jar.keep(headers("hsr=1.n2~n1.y.k.s; Path=/"))
        assert jar.header == {"Cookie": "session=a; hsr=1.n2~n1.y.k.s"}

    @pytest.mark.parametrize("end", ["Max-Age=0", "expires=Thu, 01 Jan 1970 00:00:00 GMT"])
    def test_forgets_a_cookie_that_is_deleted(self, end: str) -> None:
        jar = Jar("c00.0", cookies={"session": "a"})
        jar.keep(headers(f"session=null; path=/; {end}"))
        assert jar.header == {}


class TestBooks:
    def enter(self, books: Books, operation: Operation, answer: Answer) -> Outcome:
        jar = Jar("c00.0")
        jar.ledger.send("t")
        return books.settle("c00", jar, operation, "t", answer)

    def test_an_acknowledged_write_is_counted_once(self) -> None:
        books = Books()
        assert self.enter(books, "put", Answer(1, 2, 200, ("t",))) == "ok"
        assert self.enter(books, "read", Answer(3, 4, 200, ("t",))) == "ok"
        assert books.report.acknowledged == 1

    def test_a_post_that_died_with_its_node_is_unknown(self) -> None:
        books = Books()
        books.deaths.append(Death("n1", 100, dead=110))
        assert self.enter(books, "post", Answer(90, 120, 502)) == "unknown"
        assert (books.report.unknown, books.report.errors) == (1, 0)

    @pytest.mark.parametrize("operation", ["keyed", "put"])
    def test_what_may_be_repeated_has_no_excuse(self, operation: Operation) -> None:
        books = Books()
        books.deaths.append(Death("n1", 100, dead=110))
        assert self.enter(books, operation, Answer(90, 120, 502)) == "fail"
        assert (books.report.unknown, books.report.errors) == (0, 1)

    @pytest.mark.parametrize("answer", [Answer(90, 120, 0), Answer(90, 120, 500)])
    def test_only_502_says_that_the_node_died(self, answer: Answer) -> None:
        books = Books()
        books.deaths.append(Death("n1", 100, dead=110))
        assert self.enter(books, "post", answer) == "fail"

    def test_a_post_sent_after_the_death_is_an_error(self) -> None:
        books = Books()
        books.deaths.append(Death("n1", 100, dead=110))
        assert self.enter(books, "post", Answer(111, 120, 502)) == "fail"

    def test_a_refusal_is_an_error_too(self) -> None:
        books = Books()
        assert self.enter(books, "put", Answer(1, 2, 503)) == "unavailable"
        assert books.report.errors == 1

    def test_the_history_has_a_line_for_each_request_and_each_kill(self) -> None:
        history = io.StringIO()
        books = Books(history)
        served = {"node": "n1", "epoch": "4.1.n1", "version": 7, "copies": 1}
        self.enter(books, "put", Answer(1, 2, 200, ("t",), served))
        books.died(Death("n2", 3, dead=4))
        write, kill = map(json.loads, history.getvalue().splitlines())
        assert write == {
            "jar": "c00",
            "request": 1,
            "session": "c00.0",
            "operation": "put",
            "token": "t",
            "invoked": 1,
            "returned": 2,
            "outcome": "ok",
            "state": ["t"],
            "position": ["4.1.n1", 7],
            "copies": 1,
            "node": "n1",
        }
        assert kill == {"operation": "kill", "node": "n2", "invoked": 3, "returned": 4}
