"""A pytest plugin that gives every application of Flask our sessions, where it says nothing."""

from __future__ import annotations

from flask import Flask

from flask_sessionha import SessionInterface

Flask.session_interface = SessionInterface()
