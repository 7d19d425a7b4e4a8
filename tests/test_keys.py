"""Keys are derived as RFC 5869 says, and apart by label."""

import hmac

import pytest

from sessionha.keys import ADMIN_LABEL, LOG_LABEL, PEER_LABEL, ROUTE_LABEL, expand, hkdf


def test_expansion_agrees_with_the_first_vector_of_the_rfc() -> None:
    key = hmac.digest(bytes(range(13)), b"\x0b" * 22, "sha256")
    info = bytes(range(0xF0, 0xFA))

    assert expand(key, info, 42).hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )


def test_derivation_without_salt_and_info_agrees_with_the_third_vector_of_the_rfc() -> None:
    assert hkdf(b"\x0b" * 22, b"", 42).hex() == (
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    )


def test_every_label_gives_another_key() -> None:
    labels = (PEER_LABEL, ROUTE_LABEL, ADMIN_LABEL, LOG_LABEL)

    assert len({hkdf(b"s" * 32, label) for label in labels}) == len(labels)


@pytest.mark.parametrize("length", [0, -1, 8161])
def test_a_length_out_of_range_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="1 to 8160"):
        hkdf(b"s" * 32, PEER_LABEL, length)
