"""The admin page "User sessions": where somebody is logged in, and the button that ends it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.core.management.base import CommandError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.http import urlencode

from django_sessionha.configuration import door
from django_sessionha.management.commands.usersessions import found_user
from django_sessionha.models import UserSession
from django_sessionha.signals import subject_of
from sessionha import SessionError

UNAVAILABLE = "The sessions are not available at the moment: %s"


@admin.register(UserSession)
class UserSessionAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Lists the sessions of the user named in `?user=`, and revokes them by POST.

    Who may view user sessions sees them; who may delete them revokes them.
    """

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002
        """Logging in adds one."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """There is nothing to change."""
        return False

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The page."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        word = request.POST.get("user") or request.GET.get("user", "")
        user = self._user(request, word) if word else None
        if user is not None and request.method == "POST":
            self._revoke(request, user)
            return redirect(f"{request.path}?{urlencode({'user': word})}")
        context = {
            **self.admin_site.each_context(request),
            "title": "User sessions",
            "opts": self.opts,
            "word": word,
            **(self._found(request, user) if user is not None else {}),
            "may_revoke": self.has_delete_permission(request),
            **(extra_context or {}),
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, "admin/django_sessionha/sessions.html", context)

    def _user(self, request: HttpRequest, word: str) -> Any:
        try:
            return found_user(word)
        except CommandError as error:
            messages.error(request, str(error))
            return None

    def get_object(self, *_: Any, **__: Any) -> None:
        """There is no page about one of them."""
        return

    def _found(self, request: HttpRequest, user: Any) -> dict[str, Any]:
        """What the page shows of a user; nothing if it cannot be had."""
        try:
            found = door().sessions_of(subject_of(user))
        except SessionError as error:
            messages.error(request, UNAVAILABLE % error)
            return {}
        if found.unreachable:
            nodes = ", ".join(found.unreachable)  # last, for Django writes the first letter large
            messages.warning(request, f"Not asked, and may hold more sessions: {nodes}")
        if found.more:
            messages.warning(request, "There are more sessions than are listed.")
        now = timezone.now()
        sessions = [
            {
                "id": each.id,
                "began": now - timedelta(seconds=each.age),
                "used": now - timedelta(seconds=each.unused),
                "virtual_server": each.virtual_server,
                "node": each.node,
            }
            for each in found.sessions
        ]
        return {"asked": True, "sessions": sessions, "missing": bool(found.unreachable)}

    def _revoke(self, request: HttpRequest, user: Any) -> None:
        if not self.has_delete_permission(request):
            raise PermissionDenied
        session = request.POST.get("session") or None
        try:
            done = door().revoke(subject_of(user), session)
        except SessionError as error:
            messages.error(request, UNAVAILABLE % error)
            return
        what = "session" if session is not None else "all sessions"
        self.log_deletions_of(request, user, what)
        if done.ended or not done.unreachable:
            messages.success(request, f"{done.ended} ended.")
        if done.unreachable:
            nodes = ", ".join(done.unreachable)
            messages.warning(
                request,
                "Not told now, so what is there ends when they return, before they serve a session:"
                f" {nodes}",
            )

    def log_deletions_of(self, request: HttpRequest, user: Any, what: str) -> None:
        """Note in the site's history who has revoked sessions of whom; never an ID."""
        self.log_change(request, user, f"Revoked {what} of the user.")
