"""A user's FastAPI application with the dependencies, as strictly checked as it may be."""

from __future__ import annotations

from typing import Annotated, assert_type

from fastapi import Depends, FastAPI

from fastapi_sessionha import CurrentSession, LoggedInSession, RequiredSession, SessionCookie
from sessionha import Session, SessionMiddleware, bots, preflights

app = FastAPI()
app.add_middleware(
    SessionMiddleware, secret_key="…", exclude=["/static/", bots, preflights, lambda scope: False]
)

Basket = Annotated[Session, Depends(SessionCookie("basket", required=False))]


@app.get("/cart")
async def cart(session: CurrentSession, basket: Basket) -> list[str]:
    assert_type(session, Session)
    found: list[str] = session.get("cart", [])
    return [*found, *basket]


@app.post("/logout", dependencies=[Depends(SessionCookie(subject=True))])
async def log_out(session: RequiredSession) -> None:
    session.destroy()


@app.get("/account")
async def account(session: LoggedInSession) -> str | None:
    return session.subject
