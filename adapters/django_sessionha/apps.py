"""The application: what INSTALLED_APPS brings beside the engine and the middleware."""

from __future__ import annotations

from django.apps import AppConfig


class SessionhaConfig(AppConfig):
    """System checks, the command `usersessions`, and the admin page."""

    name = "django_sessionha"
    verbose_name = "sessionha"

    def ready(self) -> None:
        """Register the checks."""
        from django_sessionha import checks  # noqa: F401, PLC0415 -- only with applications loaded
