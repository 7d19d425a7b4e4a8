"""`flask sessionha …`."""

from __future__ import annotations

import pytest
from flask import Flask

from flask_sessionha import Session
from flask_sessionha.commands import environment


def test_the_command_has_the_applications_settings(capfd: pytest.CaptureFixture[str]) -> None:
    app = Flask("shop")
    app.config.update(SECRET_KEY="x" * 20, SESSIONHA_CLUSTER="shops", SESSIONHA_STORE="memory")
    Session(app, virtual_server="garden")
    done = app.test_cli_runner().invoke(args=["sessionha", "config"])
    assert done.exit_code == 0
    told = capfd.readouterr().out
    assert "shops" in told
    assert "garden" in told


def test_settings_are_told_as_the_environment_has_them() -> None:
    told = environment({"secret": [b"one", "two"], "backups": 2, "nodes": None})
    assert told == {"SESSIONHA_SECRET": "one,two", "SESSIONHA_BACKUPS": "2"}
