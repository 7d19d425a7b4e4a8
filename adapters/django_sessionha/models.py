"""A model without a table: it gives the admin page its name and its permissions."""

from __future__ import annotations

from django.db import models


class UserSession(models.Model):
    """A session of a user. It lies in the memory of the servers, and in no database."""

    class Meta:
        managed = False
        default_permissions = ("view", "delete")
        verbose_name = "user session"
        verbose_name_plural = "user sessions"
