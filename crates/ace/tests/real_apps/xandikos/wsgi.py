import os

os.environ["XANDIKOSPATH"] = os.path.expanduser("~/dav")
os.environ["CURRENT_USER_PRINCIPAL"] = "/user/"
os.environ["AUTOCREATE"] = "defaults"

from xandikos.wsgi import app
