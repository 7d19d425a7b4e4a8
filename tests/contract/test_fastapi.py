"""The contract of FastAPI applications."""

from __future__ import annotations

from tests.contract.claims import Contract
from tests.contract.site import uvicorn


class TestFastAPI(Contract):
    command = uvicorn("fastapi_app:app")
