"""Where copies of a group should be: weighted rendezvous hashing over the eligible members.

Source: Thaler, Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996; weights as in
Schindelhauer, Schomaker, "Weighted Distributed Hash Tables", 2005.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection

from sessionha.identity import GroupID
from sessionha.view import Member, View


def score(group: GroupID, member: Member) -> float:
    """How much `member` attracts `group`; changes of other members do not change it."""
    digest = hashlib.blake2b(group + member.node.encode(), digest_size=8).digest()
    chance = (int.from_bytes(digest) + 1) / 2**64
    return -max(member.weight, 1) / math.log(chance) if chance < 1 else math.inf


def backups(
    group: GroupID,
    view: View,
    primary: str,
    count: int,
    keep: Collection[str] = (),
    without: Collection[str] = (),
) -> tuple[str, ...]:
    """The `count` members that should back `group` up, best first.

    Those in `keep` come first, in their order, while they are members; the rest by score, spares
    last, another zone than the primary's before another host before the rest. Witnesses hold no
    data, and a node in `without` cannot take a copy now. Who drains gets none; who drains to go for
    good keeps those that it has only while there is nobody else.
    """
    chosen = [node for node in keep if _eligible(view.member(node), primary, without)]
    leaving = [node for node in chosen if node in view.leaving]
    if leaving:
        chosen = [node for node in chosen if node not in view.leaving]
    if len(chosen) < count:
        mine = view.member(primary)
        others = [
            member
            for member in view.members
            if member.node not in chosen and member.ready and _eligible(member, primary, without)
        ]
        others.sort(key=lambda member: _rank(group, member, mine))
        chosen.extend(member.node for member in others)
        chosen.extend(leaving)
    return tuple(chosen[:count])


def suits(view: View, primary: str, node: str, *, instead: str) -> bool:
    """Whether a copy is as well placed on `node` as on another member, as to zone and host."""
    mine, member, other = view.member(primary), view.member(node), view.member(instead)
    if member is None or other is None:
        return member is not None
    return _nearness(member, mine) <= _nearness(other, mine)


def _eligible(member: Member | None, primary: str, without: Collection[str]) -> bool:
    return (
        member is not None
        and member.role != "witness"
        and member.node != primary
        and member.node not in without
    )


def _rank(
    group: GroupID, member: Member, primary: Member | None
) -> tuple[tuple[bool, bool, bool], float, str]:
    return _nearness(member, primary), -score(group, member), member.node


def _nearness(member: Member, primary: Member | None) -> tuple[bool, bool, bool]:
    """What counts before the score: a spare, the primary's zone, its host; lower is better."""
    same_zone = primary is not None and member.zone == primary.zone
    same_host = primary is not None and member.host == primary.host
    return member.role == "spare", same_zone, same_host
