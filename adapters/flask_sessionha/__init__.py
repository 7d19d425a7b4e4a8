"""sessionha for Flask: sessions that survive the death of the server that holds them.

    from flask_sessionha import Session

    Session(app)

The same for Quart: `from flask_sessionha.quart import Session`.
"""

from flask_sessionha.extension import Session
from flask_sessionha.former import Former, FormerCookies, FormerRedis
from flask_sessionha.interface import SessionInterface
from flask_sessionha.session import FlaskSession

__all__ = [
    "FlaskSession",
    "Former",
    "FormerCookies",
    "FormerRedis",
    "Session",
    "SessionInterface",
]
