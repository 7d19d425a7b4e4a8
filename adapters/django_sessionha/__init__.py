"""Django's sessions in the memory of its servers: engine, middleware, checks and an admin page.

    SESSION_ENGINE = "django_sessionha.sessions"
    MIDDLEWARE = ["django_sessionha.middleware.SessionMiddleware", …]  # in the place of Django's

With `django_sessionha` in INSTALLED_APPS there are system checks, the command `usersessions`, and a
page of the admin site as well.
"""
