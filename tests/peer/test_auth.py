"""The handshake and the sealing of frames, joined without any socket."""

import hashlib
from collections.abc import Callable

import pytest

from sessionha.errors import AuthenticationFailed, BadMessage, ForeignCluster, PeerError
from sessionha.peer.auth import (
    HANDSHAKE_BYTES,
    NONCE_BYTES,
    Acceptor,
    Dialer,
    Keys,
    Opener,
    Party,
    Sealer,
    Session,
)

NEW, OLD, OTHER = b"n" * 32, b"o" * 32, b"x" * 32
ANN = Party("shop", "ann", "1111111111111111")
BOB = Party("shop", "bob", "2222222222222222")


def dialer(
    me: Party = ANN, secrets: tuple[bytes, ...] = (NEW,), expects: str = "bob", nonce: bytes = b"d"
) -> Dialer:
    return Dialer(Keys(secrets), me, expects, nonce * NONCE_BYTES)


def acceptor(me: Party = BOB, secrets: tuple[bytes, ...] = (NEW,), nonce: bytes = b"a") -> Acceptor:
    return Acceptor(Keys(secrets), me, nonce * NONCE_BYTES)


def shake(one: Dialer, other: Acceptor) -> tuple[Session, Session]:
    proof, dialled = one.answered(other.greeted(one.hello()))
    return dialled, other.proved(proof)


def test_a_handshake_proves_both_ends_and_frames_travel_both_ways() -> None:
    dialled, accepted = shake(dialer(), acceptor())

    assert (dialled.peer, accepted.peer) == (BOB, ANN)
    for payload in (b"", b"one", b"x" * 5000):
        assert accepted.opener.open(memoryview(dialled.sealer.seal(payload))) == payload
        assert dialled.opener.open(memoryview(accepted.sealer.seal(payload))) == payload


def test_a_role_travels_with_the_handshake() -> None:
    _, accepted = shake(dialer(ANN._replace(role="observer")), acceptor())

    assert accepted.peer.role == "observer"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ((NEW,), (NEW, OLD)),
        ((OLD,), (NEW, OLD)),
        ((OLD, NEW), (NEW, OLD)),
        ((NEW, OLD), (OLD,)),
        ((OLD, NEW), (NEW,)),
    ],
)
def test_any_common_secret_is_enough_while_secrets_rotate(
    theirs: tuple[bytes, ...], ours: tuple[bytes, ...]
) -> None:
    dialled, accepted = shake(dialer(secrets=theirs), acceptor(secrets=ours))

    assert bytes(accepted.opener.open(memoryview(dialled.sealer.seal(b"hi")))) == b"hi"


def test_a_secret_that_was_removed_is_refused() -> None:
    with pytest.raises(AuthenticationFailed, match="another cluster secret"):
        acceptor(secrets=(NEW,)).greeted(dialer(secrets=(OLD,)).hello())


@pytest.mark.parametrize("secret", [NEW, OTHER])
def test_a_foreign_cluster_is_named_with_ours(secret: bytes) -> None:
    hello = dialer(ANN._replace(cluster="bank"), (secret,)).hello()

    with pytest.raises(ForeignCluster, match="cluster bank; this node is of cluster shop"):
        acceptor().greeted(hello)


def test_an_unprintable_cluster_name_is_not_repeated() -> None:
    hello = dialer(ANN._replace(cluster="a\nb")).hello()

    with pytest.raises(ForeignCluster, match=r"cluster \(no name\)"):
        acceptor().greeted(hello)


def test_a_cluster_that_began_another_time_is_foreign() -> None:
    """R7a: nothing of it is believed; who belongs to none yet may join."""
    ann, bob = ANN._replace(beginning="one"), BOB._replace(beginning="two")
    hello = dialer(ann).hello()
    with pytest.raises(ForeignCluster, match="ann is of a cluster of this name that began another"):
        acceptor(bob).greeted(hello)
    dialled, accepted = shake(dialer(ann), acceptor())
    assert (dialled.peer, accepted.peer) == (BOB, ann)


def test_a_node_never_accepts_its_own_node_id() -> None:
    twin = BOB._replace(incarnation="3333333333333333")

    with pytest.raises(AuthenticationFailed, match="node IDs must differ"):
        acceptor().greeted(dialer(twin, expects="").hello())


def test_an_acceptor_refuses_to_stand_in_for_another_node() -> None:
    with pytest.raises(AuthenticationFailed, match="ann expected cat"):
        acceptor().greeted(dialer(expects="cat").hello())


def test_a_dialler_refuses_another_node_than_it_expected() -> None:
    answer = acceptor(BOB._replace(node="cat")).greeted(dialer(expects="").hello())

    with pytest.raises(AuthenticationFailed):
        dialer(expects="bob").answered(answer)


def test_an_answer_to_another_hello_proves_nothing() -> None:
    """A recorded answer, replayed against a fresh nonce."""
    recorded = acceptor().greeted(dialer(nonce=b"1").hello())

    with pytest.raises(AuthenticationFailed, match="proof is wrong"):
        dialer(nonce=b"2").answered(recorded)


def test_a_recorded_dialler_cannot_be_replayed() -> None:
    proof, _ = dialer().answered(acceptor(nonce=b"1").greeted(dialer().hello()))
    fresh = acceptor(nonce=b"2")
    fresh.greeted(dialer().hello())

    with pytest.raises(AuthenticationFailed):
        fresh.proved(proof)


def test_a_hello_sent_back_is_no_answer() -> None:
    one = dialer(expects="")

    with pytest.raises(AuthenticationFailed, match="wrong role"):
        one.answered(one.hello())


def test_an_acceptors_proof_is_no_dialers_proof() -> None:
    other = acceptor()
    answer = other.greeted(dialer().hello())

    with pytest.raises(AuthenticationFailed):
        other.proved(answer[-32:])


def test_every_bit_of_the_handshake_is_protected() -> None:
    hello, answer = dialer().hello(), acceptor().greeted(dialer().hello())
    for index in range(len(hello)):
        with pytest.raises(PeerError):
            finish_with(changed(hello, index))
    for index in range(len(answer)):
        with pytest.raises(PeerError):
            dialer().answered(changed(answer, index))


def finish_with(hello: bytes) -> None:
    """The whole handshake, with a hello that was changed on the way."""
    other = acceptor(secrets=(NEW, OLD))
    proof, _session = dialer(secrets=(NEW, OLD)).answered(other.greeted(hello))
    other.proved(proof)


def changed(frame: bytes, index: int) -> bytes:
    return frame[:index] + bytes([frame[index] ^ 1]) + frame[index + 1 :]


def test_the_list_of_keys_cannot_be_cut_to_an_older_one() -> None:
    """A downgrade: the proofs cover the hello with its list."""
    one = dialer(secrets=(NEW, OLD))
    hello = one.hello()
    cut = hello[: -(1 + 2 * 24)] + b"\x01" + hello[-24:]
    answer = acceptor(secrets=(NEW, OLD)).greeted(cut)

    with pytest.raises(AuthenticationFailed, match="proof is wrong"):
        one.answered(answer)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"S",
        b"SHAP",
        b"SHAP\x01",
        b"SHAP\x01H",
        b"GET / HTTP/1.1\r\n\r\n",
        b"SHAP\x01H\x04shop",
        b"SHAP\x01H\x04shop\xff\xff",
        b"SHAP\x01H\x04shop\x00\x00\x09",
        b"SHAP\x01H\xffshop",
        b"SHAP\x02H\x04shop",
        b"\x00" * 64,
        b"SHAP\x01H\x04shop" + b"\xff" * HANDSHAKE_BYTES,
    ],
)
def test_garbage_is_an_error_of_the_peer_and_nothing_else(frame: bytes) -> None:
    with pytest.raises(PeerError):
        acceptor().greeted(frame)
    with pytest.raises(PeerError):
        dialer().answered(frame)


def test_another_format_is_named() -> None:
    hello = dialer().hello()

    with pytest.raises(BadMessage, match="format 3; this node speaks 2"):
        acceptor().greeted(hello[:4] + b"\x03" + hello[5:])


@pytest.mark.parametrize("odd", [ANN._replace(node="../etc"), ANN._replace(incarnation="a b")])
def test_names_that_are_none_are_refused_even_from_a_friend(odd: Party) -> None:
    hello = dialer(odd).hello()

    with pytest.raises(BadMessage):
        acceptor().greeted(hello)


def test_peers_need_a_secret() -> None:
    with pytest.raises(ValueError, match="SESSIONHA_SECRET"):
        Keys(())


def frames(count: int = 3) -> list[bytes]:
    sealer = Sealer(b"k" * 32)
    return [sealer.seal(b"payload %d" % number) for number in range(count)]


@pytest.mark.parametrize(
    ("name", "meddle"),
    [
        ("replayed", lambda sent: [sent[0], sent[0]]),
        ("reordered", lambda sent: [sent[1]]),
        ("dropped", lambda sent: [sent[0], sent[2]]),
        ("cut at the end", lambda sent: [sent[0][:-1]]),
        ("cut at the start", lambda sent: [sent[0][1:]]),
        ("shorter than a seal", lambda sent: [sent[0][:20]]),
        ("empty", lambda _: [b""]),
        ("longer", lambda sent: [sent[0] + b"\0"]),
        ("payload changed", lambda sent: [changed(sent[0], len(sent[0]) - 1)]),
        ("counter changed", lambda sent: [changed(sent[0], 23)]),
        ("MAC changed", lambda sent: [changed(sent[0], 0)]),
        ("MAC of another key", lambda sent: [Sealer(b"j" * 32).seal(b"payload 0")]),
        ("plain hash", lambda sent: [hashlib.blake2b(sent[0][16:], digest_size=16).digest()
                                     + sent[0][16:]]),
    ],
)  # fmt: skip
def test_a_frame_that_is_not_the_next_one_is_refused(
    name: str, meddle: Callable[[list[bytes]], list[bytes]]
) -> None:
    opener = Opener(b"k" * 32)
    *good, bad = meddle(frames())
    for frame in good:
        opener.open(memoryview(frame))

    with pytest.raises(AuthenticationFailed):
        opener.open(memoryview(bad))


def test_a_frame_sent_back_to_its_sender_is_refused() -> None:
    dialled, _ = shake(dialer(), acceptor())

    with pytest.raises(AuthenticationFailed):
        dialled.opener.open(memoryview(dialled.sealer.seal(b"mirror")))


@pytest.mark.parametrize("which", ["incarnation of one", "incarnation of the other", "nonce"])
def test_session_keys_are_bound_to_both_incarnations_and_nonces(which: str) -> None:
    first, _ = shake(dialer(), acceptor())
    ann = ANN._replace(incarnation="9") if which == "incarnation of one" else ANN
    bob = BOB._replace(incarnation="9") if which == "incarnation of the other" else BOB
    nonce = b"z" if which == "nonce" else b"d"
    _, second = shake(dialer(ann, nonce=nonce), acceptor(bob))

    with pytest.raises(AuthenticationFailed):
        second.opener.open(memoryview(first.sealer.seal(b"from another life")))
