"""Mistakes that the types must find, each on a line that ends in `# wrong`."""

from starlette.applications import Starlette

import sessionha
import sessionha.client
from sessionha import SessionMiddleware, SessionTooLarge

app = Starlette()

SessionMiddleware(app, secret_key="x", max_age="1h")  # wrong
SessionMiddleware(app, secret_key="x", https_only="yes")  # wrong
sessionha.client.Client("http://127.0.0.1:7947")  # wrong
sessionha.client.Client("http://127.0.0.1:7947", "t").session("x").increment("n", "1")  # wrong
app.add_middleware(SessionMiddleware, secret_key="x", same_site="Lax")  # wrong
sessionha.WSGISessionMiddleware(app, secret_key="x")  # wrong
misspelt = sessionha.Sesion  # wrong
sessionha.current_session("cart")  # wrong
sessionha.current_session().secondary("cart", idle_timeout="1h")  # wrong
sessionha.current_session().destroy("all")  # wrong


def limit(error: SessionTooLarge) -> str:
    return error.limit  # wrong
