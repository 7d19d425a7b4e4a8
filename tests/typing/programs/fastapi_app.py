"""A FastAPI application as a user writes it."""

from fastapi import FastAPI, Request

from sessionha import SessionMiddleware

app = FastAPI()
app.add_middleware(SessionMiddleware, secret_key="4f1c8e0b7a2d96e35c0f8a1b7d4e29c6")


@app.get("/")
async def count(request: Request) -> int:
    visits: int = request.session.get("visits", 0) + 1
    request.session["visits"] = visits
    return visits
