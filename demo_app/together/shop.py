"""The shop, in FastAPI: `uvicorn demo_app.together.shop:app`."""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI

from fastapi_sessionha import CurrentSession
from sessionha import SessionMiddleware

app = FastAPI()
app.add_middleware(SessionMiddleware, secret_key=os.environ["DEMO_SECRET_KEY"])


@app.get("/cart")
async def cart(session: CurrentSession) -> dict[str, Any]:
    """What is in the cart, and which server says so."""
    return {"cart": session.get("cart", []), "node": os.environ["SESSIONHA_NODE"]}


@app.post("/cart/{article}")
async def add(article: str, session: CurrentSession) -> dict[str, Any]:
    """Put something into it."""
    session.setdefault("cart", []).append(article)
    return await cart(session)
