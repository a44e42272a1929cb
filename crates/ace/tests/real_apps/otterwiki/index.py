import os
import subprocess

WIKI = os.path.join(os.path.dirname(os.path.abspath(__file__)), "wiki")
PAGES = os.path.join(WIKI, "pages")
SETTINGS = os.path.join(WIKI, "settings.cfg")
if not os.path.exists(SETTINGS):
    subprocess.check_call(["git", "init", "--quiet", PAGES])
    with open(SETTINGS, "w") as file:
        file.write(f"REPOSITORY = '{PAGES}'\n")
        file.write(f"SQLALCHEMY_DATABASE_URI = 'sqlite:///{WIKI}/db.sqlite'\n")
        file.write("SECRET_KEY = 'not a secret to anybody'\n")
        file.write("WRITE_ACCESS = 'ANONYMOUS'\n")
os.environ["OTTERWIKI_SETTINGS"] = SETTINGS

from otterwiki.server import app as application
