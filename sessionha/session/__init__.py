"""Sessions as applications see them, and what belongs to them: cookies, codec, one visit."""

from sessionha.session.session import DictSession, Session

__all__ = ["DictSession", "Session"]
