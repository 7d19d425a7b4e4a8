"""A shop in Django, beside `fastapi_account` on the same nodes: applications of one domain."""

from __future__ import annotations

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

from tests.contract.acts import SECRET_KEY

settings.configure(
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=["django_sessionha.middleware.SessionMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY=f"shop-{SECRET_KEY}",
    SESSIONHA={"virtual_server": "shop"},
    SESSION_ENGINE="django_sessionha.sessions",
)
django.setup()


def count(request: HttpRequest) -> JsonResponse:
    """Count in the shop's session."""
    request.session["n"] = request.session.get("n", 0) + 1
    return JsonResponse({"n": request.session["n"]})


urlpatterns = [path("count", count)]
app = get_wsgi_application()
