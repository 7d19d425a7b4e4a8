"""The contract of Litestar applications."""

from __future__ import annotations

from tests.contract.claims import Contract
from tests.contract.site import uvicorn


class TestLitestar(Contract):
    command = uvicorn("litestar_app:app")
