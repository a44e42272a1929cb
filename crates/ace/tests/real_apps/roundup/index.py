import os
import subprocess
import sys

TRACKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tracker")
SETTINGS = "mail_domain=example.com,tracker_web=http://roundup.localhost/"
if not os.path.exists(os.path.join(TRACKER, "config.ini")):
    admin = [os.path.join(sys.prefix, "bin", "roundup-admin"), "-i", TRACKER]
    subprocess.check_call(admin + ["install", "classic", "anydbm", SETTINGS])
    subprocess.check_call(admin + ["initialise", "secret"])

from roundup.cgi.wsgi_handler import RequestDispatcher

application = RequestDispatcher(TRACKER)
