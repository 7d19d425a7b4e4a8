"""Two applications of one domain, one in FastAPI and one in Django, whose clients' sessions lie on
the same servers and fail over together."""
