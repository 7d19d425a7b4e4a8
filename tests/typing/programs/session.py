"""A session as a user passes it around."""

from collections.abc import MutableMapping
from typing import Any

from sessionha import Session


def add_to_cart(session: Session, article: str) -> int:
    cart = session.setdefault("cart", [])
    cart.append(article)
    return len(session["cart"])


def as_mapping(session: Session) -> MutableMapping[str, Any]:
    return session
