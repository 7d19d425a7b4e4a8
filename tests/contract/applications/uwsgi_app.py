"""The contract's WSGI application, as uWSGI starts it: each worker joins after its fork."""

from __future__ import annotations

import uwsgidecorators

import sessionha
from tests.contract.applications.wsgi_app import app

__all__ = ["app"]

uwsgidecorators.postfork(sessionha.start)
