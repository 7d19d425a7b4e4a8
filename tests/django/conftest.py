"""One Django for these tests: its settings are the process's."""

from __future__ import annotations

from collections.abc import Iterator

import django
import pytest
from django.conf import settings

from tests.django.settings import SETTINGS

if not settings.configured:
    settings.configure(**SETTINGS)
    django.setup()


@pytest.fixture(scope="session")
def _tables() -> None:
    from django.core.management import call_command

    call_command("migrate", run_syncdb=True, verbosity=0)


@pytest.fixture
def database(_tables: None) -> Iterator[None]:
    """Tables, that are as they were after the test."""
    from django.db import transaction

    with transaction.atomic():
        yield
        transaction.set_rollback(True)


@pytest.fixture(autouse=True)
def _fresh_door() -> Iterator[None]:
    """Each test has a store of its own."""
    from django_sessionha import configuration

    configuration._door = None
    yield
    configuration._door = None
