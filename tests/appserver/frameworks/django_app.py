"""Django: the admin behind a prefix, with its login, its redirects, its static files and a database."""

import os
from pathlib import Path

import django
from django.conf import settings

DATABASE = Path(os.environ["DJANGO_DATABASE"])

settings.configure(
    SECRET_KEY="of-a-test",
    ALLOWED_HOSTS=["shop.example"],
    ROOT_URLCONF=__name__,
    CSRF_TRUSTED_ORIGINS=["https://shop.example"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATABASE}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=[
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django.contrib.messages",
        "django.contrib.staticfiles",
    ],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    STATIC_URL="static/",
)
django.setup()

from django.contrib import admin  # noqa: E402 - models need the settings
from django.contrib.auth.models import User  # noqa: E402
from django.contrib.staticfiles.views import serve  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402


def about(request):
    return JsonResponse({"secure": request.is_secure(), "url": request.build_absolute_uri()})


urlpatterns = [
    path("admin/", admin.site.urls),
    path("about/", about),
    path("static/<path:path>", serve, {"insecure": True}),
]
app = get_wsgi_application()


def prepare():
    """Make the database and its administrator."""
    call_command("migrate", verbosity=0)
    User.objects.create_superuser("ada", "ada@example.com", "of-a-test")
