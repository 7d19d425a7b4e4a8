"""Starlette's own session tests pass with our middleware in the place of theirs."""

from __future__ import annotations

import pytest

from tests.upstream import run_starlette


@pytest.mark.network
@pytest.mark.slow
def test_starlettes_session_tests_pass(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["run_starlette.py"])
    status = run_starlette.main()
    assert status == 0, capsys.readouterr().out
