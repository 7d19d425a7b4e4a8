"""Bearer tokens of the administration: derived from the cluster secret, one for each role."""

from __future__ import annotations

import hmac
from typing import Final, Literal, get_args

from sessionha.identity import encode64
from sessionha.keys import ADMIN_LABEL
from sessionha.settings import Settings

Role = Literal["read", "operate", "data"]
"""`read`: metrics and status; `operate`: also to drain and the like; `data`: also sessions."""

ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""Every role, each with the rights of those before it."""

REALM: Final = 'realm="sessionha"'
"""How an administration that wants a token can be told from anything else."""

_SCHEME: Final = b"bearer"


def tokens(settings: Settings, role: Role) -> tuple[str, ...]:
    """The token of the role for each cluster secret; the first is the one to hand out.

    Empty without a cluster secret. The role stands in front so that people can tell tokens apart;
    the rest is 256 bits that tell nothing of the secret or of another role's token.
    """
    keys = settings.keys(ADMIN_LABEL + b" " + role.encode())
    return tuple(f"sessionha-{role}-{encode64(key)}" for key in keys)


def role_of(authorization: bytes, settings: Settings) -> Role | None:
    """The role that an `Authorization` header proves; None for anything that proves none."""
    scheme, _, given = authorization.strip().partition(b" ")
    if scheme.lower() != _SCHEME:
        return None
    found: Role | None = None
    for role in ROLES:
        for token in tokens(settings, role):
            if hmac.compare_digest(given.strip(), token.encode()):
                found = role
    return found


def may(role: Role | None, needed: Role) -> bool:
    """Whether somebody with `role` may do what `needed` stands for."""
    return role is not None and ROLES.index(role) >= ROLES.index(needed)
