# -*- coding: utf-8 -*-
"""Counts the visits of each visitor: Tornado 4 as a WSGI application, on Python 2.7."""

import os
import sys

import tornado
from tornado.web import Application, RequestHandler
from tornado.wsgi import WSGIAdapter


class Visits(RequestHandler):
    def get(self):
        count = int(self.get_secure_cookie("visits") or 0) + 1
        self.set_secure_cookie("visits", str(count), httponly=True)
        python = "%d.%d.%d" % sys.version_info[:3]
        self.render("visits.html", count=count, tornado=tornado.version, python=python)


application = WSGIAdapter(
    Application(
        [("/", Visits)],
        template_path=os.path.dirname(os.path.abspath(__file__)),
        cookie_secret=os.environ.get("COOKIE_SECRET") or os.urandom(32).encode("hex"),
    )
)
