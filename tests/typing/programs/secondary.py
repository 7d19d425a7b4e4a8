"""Secondary sessions and the session at hand, as users write them."""

import math

from fastapi import FastAPI, Request, WebSocket

from sessionha import Session, current_session, session_from

app = FastAPI()


def cart() -> Session:
    return current_session().secondary("cart", lifetime=math.inf)


@app.post("/add")
def add(article: str) -> int:
    articles: list[str] = cart().setdefault("articles", [])
    articles.append(article)
    return len(articles)


@app.post("/log-in")
async def log_in(request: Request, user: str) -> None:
    session: Session = session_from(request)
    session["user"] = user
    session.renew_id(cascade=True)
    cart().destroy()


@app.websocket("/chat")
async def chat(websocket: WebSocket) -> None:
    session_from(websocket)["seen"] = session_from(websocket.scope).new
