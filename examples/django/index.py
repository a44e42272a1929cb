"""What ACE serves: brings the database up to date, then hands requests to Django."""

import fcntl
import os

from django.core.management import call_command
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
application = get_wsgi_application()


def migrate():
    """Applies migrations. Instances that start at the same time wait for each other."""
    from django.conf import settings

    with open(settings.DATA / "migrate.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        call_command("migrate", interactive=False, verbosity=0)


migrate()
