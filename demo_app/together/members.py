"""The members' pages, in Django: `gunicorn demo_app.together.members:application`."""

from __future__ import annotations

import os

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    MIDDLEWARE=["django_sessionha.middleware.SessionMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.environ["DEMO_SECRET_KEY"],
    SESSION_ENGINE="django_sessionha.sessions",
)
django.setup()


def who(request: HttpRequest) -> JsonResponse:
    """Who is logged in, and which server says so."""
    user = request.session.get("user")
    return JsonResponse({"user": user, "node": os.environ["SESSIONHA_NODE"]})


def log_in(request: HttpRequest, user: str) -> JsonResponse:
    """Believe everybody."""
    request.session["user"] = user
    request.session.cycle_key()
    return who(request)


urlpatterns = [path("members/", who), path("members/log-in/<user>", log_in)]
application = get_wsgi_application()
