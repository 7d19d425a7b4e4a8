"""The shop on one server: cart, log-in, log-out, and the check's interface."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from demo_app.shop import create_app
from demo_app.witness import HEADER
from tests.session.fakes import FakeEngine


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A browser in the shop, which runs by itself: no supervisor, no peers."""
    monkeypatch.setenv("DEMO_SECRET_KEY", "Zk3n8-2mQpX_7vRbL0wYcT9sHdJfGaUe")
    monkeypatch.delenv("DEMO_CONTROL_URL", raising=False)
    with TestClient(create_app(FakeEngine())) as client:
        yield client


def cart(page: str) -> list[str]:
    """The lines of the cart as a reader sees them."""
    found = re.findall(r'<span class="what">(.*?)</li>', page, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]*>", " ", line).split()) for line in found]


def test_a_visitor_who_only_looks_gets_no_cookie(shop: TestClient) -> None:
    response = shop.get("/")
    assert response.status_code == 200
    assert "set-cookie" not in response.headers
    assert cart(response.text) == []


def test_the_cart_counts(shop: TestClient) -> None:
    pages = [shop.post("/cart/add", data={"sku": sku}).text for sku in ("fern", "snake", "fern")]
    assert cart(pages[-1]) == ["Snake plant × 1 €22 −", "Boston fern × 2 €36 −"]


def test_plants_leave_the_cart_one_by_one(shop: TestClient) -> None:
    for _ in range(2):
        shop.post("/cart/add", data={"sku": "fern"})
    assert cart(shop.post("/cart/remove", data={"sku": "fern"}).text) == ["Boston fern × 1 €18 −"]
    assert cart(shop.post("/cart/remove", data={"sku": "fern"}).text) == []
    assert cart(shop.post("/cart/remove", data={"sku": "fern"}).text) == []


def test_what_is_not_sold_does_not_enter_the_cart(shop: TestClient) -> None:
    assert cart(shop.post("/cart/add", data={"sku": "<script>"}).text) == []


def test_a_log_in_keeps_the_cart_and_renews_the_session(shop: TestClient) -> None:
    shop.post("/cart/add", data={"sku": "fern"})
    before = shop.cookies["session"]
    page = shop.post("/login", data={"name": "Ada <3"}).text
    assert '<strong id="user">Ada &lt;3</strong>' in page
    assert cart(page) == ["Boston fern × 1 €18 −"]
    assert shop.cookies["session"] != before


def test_a_log_out_ends_the_session_for_every_copy_of_its_cookie(shop: TestClient) -> None:
    shop.post("/cart/add", data={"sku": "fern"})
    shop.post("/login", data={"name": "Ada"})
    stolen = shop.cookies["session"]
    page = shop.post("/logout").text
    assert 'id="user"' not in page
    assert cart(page) == []
    assert "session" not in shop.cookies
    shop.cookies.set("session", stolen)
    assert cart(shop.get("/").text) == []


def test_a_form_of_another_site_is_refused(shop: TestClient) -> None:
    response = shop.post("/cart/add", data={"sku": "fern"}, headers={"Origin": "http://evil.test"})
    assert response.status_code == 403
    assert shop.post("/logout", headers={"Origin": "http://testserver"}).status_code == 200


def test_the_page_loads_nothing_from_elsewhere(shop: TestClient) -> None:
    response = shop.get("/")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    for address in re.findall(r'(?:src|href|action)="([^"]*)"', response.text):
        assert address.startswith(("/", "#"))
        assert not address.startswith("//")


@pytest.mark.parametrize("name", ["shop.css", "shop.js", "plants.svg", "leaf.svg"])
def test_its_files_are_there(shop: TestClient, name: str) -> None:
    assert shop.get(f"/static/{name}").status_code == 200


class TestTokens:
    def test_a_post_appends(self, shop: TestClient) -> None:
        shop.post("/api/tokens/a")
        assert shop.post("/api/tokens/b").json()["tokens"] == ["a", "b"]

    def test_a_post_without_key_appends_again(self, shop: TestClient) -> None:
        shop.post("/api/tokens/a")
        assert shop.post("/api/tokens/a").json()["tokens"] == ["a", "a"]

    def test_a_post_with_a_known_key_appends_nothing(self, shop: TestClient) -> None:
        keyed = {"Idempotency-Key": "k"}
        answers = [shop.post("/api/tokens/a", headers=keyed).json() for _ in range(2)]
        assert [answer["tokens"] for answer in answers] == [["a"], ["a"]]

    def test_a_put_is_idempotent(self, shop: TestClient) -> None:
        answers = [shop.put("/api/tokens/a").json() for _ in range(2)]
        assert [answer["tokens"] for answer in answers] == [["a"], ["a"]]

    def test_a_get_only_looks(self, shop: TestClient) -> None:
        shop.put("/api/tokens/a")
        assert shop.get("/api/tokens").json()["tokens"] == ["a"]

    def test_old_keys_are_forgotten(self, shop: TestClient) -> None:
        for number in range(40):
            shop.post(f"/api/tokens/{number}", headers={"Idempotency-Key": str(number)})
        again = shop.post("/api/tokens/39", headers={"Idempotency-Key": "39"}).json()["tokens"]
        assert len(again) == 40

    def test_a_token_that_is_too_long_is_refused(self, shop: TestClient) -> None:
        assert shop.put(f"/api/tokens/{'a' * 65}").status_code == 409

    def test_every_answer_tells_who_served(
        self, shop: TestClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SESSIONHA_NODE", "n1")
        response = shop.put("/api/tokens/a")
        assert json.loads(response.headers[HEADER])["node"] == "n1"
        assert response.json()["served"]["node"] == "n1"
