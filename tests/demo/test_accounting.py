"""The books of the check: whatever goes wrong in a history must be found in them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from demo_app.accounting import Death, Failovers, Ledger, Report, percentile


def ledger(*tokens: str) -> Ledger:
    """A ledger with acknowledged tokens, all seen."""
    books = Ledger()
    for token in tokens:
        books.send(token)
        books.acknowledge(token)
    books.observe(tokens)
    return books


class TestLedger:
    def test_a_history_in_order_has_nothing_to_report(self) -> None:
        books = ledger("a", "b")
        books.send("c")
        books.observe(["a", "b", "c"])
        assert not books.lost
        assert not books.phantom

    def test_an_acknowledged_token_that_is_missing_is_lost(self) -> None:
        books = ledger("a", "b")
        books.observe(["a"])
        assert books.lost == {"b"}

    def test_an_answer_that_acknowledges_a_token_must_show_it(self) -> None:
        books = Ledger()
        books.send("a")
        books.acknowledge("a")
        books.observe([])
        assert books.lost == {"a"}

    def test_a_lost_token_stays_lost_when_it_comes_back(self) -> None:
        books = ledger("a", "b")
        books.observe(["a"])
        books.observe(["a", "b"])
        assert books.lost == {"b"}

    def test_an_empty_session_in_place_of_the_clients_loses_everything(self) -> None:
        books = ledger("a", "b")
        books.observe([])
        assert books.lost == {"a", "b"}

    def test_a_token_of_unknown_outcome_may_be_missing(self) -> None:
        books = ledger("a")
        books.send("unknown")
        books.observe(["a"])
        assert not books.lost

    def test_a_token_of_unknown_outcome_may_appear_later(self) -> None:
        books = ledger("a")
        books.send("unknown")
        books.observe(["a"])
        books.observe(["a", "unknown"])
        assert not books.phantom

    def test_a_token_of_unknown_outcome_must_stay_once_it_was_seen(self) -> None:
        books = ledger("a")
        books.send("unknown")
        books.observe(["a", "unknown"])
        books.observe(["a"])
        assert books.lost == {"unknown"}

    def test_a_token_that_was_never_sent_is_a_phantom(self) -> None:
        books = ledger("a")
        books.observe(["a", "of somebody else"])
        assert books.phantom == {"of somebody else"}

    def test_a_token_that_is_there_twice_is_a_phantom(self) -> None:
        books = ledger("a", "b")
        books.observe(["a", "b", "a"])
        assert books.phantom == {"a"}

    def test_tokens_that_change_their_places_are_phantoms(self) -> None:
        books = ledger("a", "b", "c")
        books.observe(["a", "c", "b"])
        assert books.phantom == {"b", "c"}

    def test_a_token_that_is_put_between_older_ones_is_a_phantom(self) -> None:
        books = ledger("a", "b")
        books.send("late")
        books.observe(["a", "late", "b"])
        assert books.phantom == {"late"}

    @given(st.integers(1, 20), st.data())
    def test_any_token_taken_out_of_any_answer_is_found(
        self, length: int, data: st.DataObject
    ) -> None:
        tokens = [f"t{number}" for number in range(length)]
        books = ledger(*tokens)
        victim = data.draw(st.sampled_from(tokens))
        books.observe([token for token in tokens if token != victim])
        assert books.lost == {victim}


class TestDeath:
    def test_explains_a_request_that_was_under_way(self) -> None:
        assert Death("n1", 100, dead=120).explains(90, 130)
        assert Death("n1", 100, dead=120).explains(115, 130)

    def test_does_not_explain_a_request_sent_to_the_dead(self) -> None:
        assert not Death("n1", 100, dead=120).explains(121, 130)

    def test_does_not_explain_an_answer_from_before(self) -> None:
        assert not Death("n1", 100, dead=120).explains(80, 99)

    def test_explains_while_the_processes_are_still_dying(self) -> None:
        assert Death("n1", 100).explains(500, 600)


class TestFailovers:
    def test_counts_from_the_signal_to_the_first_write_that_began_after_it(self) -> None:
        failovers = Failovers()
        failovers.begin(1_000_000, ["c1"])
        failovers.acknowledged("c1", 900_000, 1_500_000)  # was under way
        failovers.acknowledged("c1", 1_600_000, 251_000_000)
        failovers.acknowledged("c1", 252_000_000, 900_000_000)
        assert failovers.milliseconds == [250.0]

    def test_leaves_out_clients_of_other_nodes(self) -> None:
        failovers = Failovers()
        failovers.begin(0, ["c1"])
        failovers.acknowledged("c2", 1, 2)
        assert failovers.milliseconds == []


def test_percentiles_are_values_that_occurred() -> None:
    assert percentile([], 50) is None
    assert percentile([7.0], 99) == 7.0
    assert percentile([float(n) for n in range(1, 101)], 50) == 50.0
    assert percentile([float(n) for n in range(1, 101)], 99) == 99.0


def test_only_unknown_outcomes_are_forgiven() -> None:
    assert Report(kills=3, acknowledged=100, unknown=5).passed
    assert not Report(lost=1).passed
    assert not Report(phantom=1).passed
    assert not Report(errors=1).passed
