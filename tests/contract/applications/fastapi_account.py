"""Accounts in FastAPI, beside `django_shop`."""

from __future__ import annotations

from fastapi import FastAPI, Request

from sessionha import SessionMiddleware
from tests.contract.acts import SECRET_KEY

app = FastAPI()
app.add_middleware(
    SessionMiddleware,
    secret_key=f"account-{SECRET_KEY}",
    session_cookie="account",
    virtual_server="account",
)


@app.get("/count")
async def count(request: Request) -> dict[str, int]:
    """Count in the account's session."""
    request.session["n"] = request.session.get("n", 0) + 1
    return {"n": request.session["n"]}
