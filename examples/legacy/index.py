# -*- coding: utf-8 -*-
"""A page from 2015: Python 2.7, Tornado over WSGI, and packages of that time, each of them at work."""

import os

import certifi
import ecdsa
import gnureadline
import paramiko
import tornado.template
import tornado.web
import tornado.wsgi
import virtualenv
from Crypto.Cipher import AES

PAGE = tornado.template.Template("""<!DOCTYPE html>
<title>Legacy</title>
<h1>Python {{ python }}</h1>
<table>
{% for name, version, shown in rows %}<tr><th>{{ name }} {{ version }}</th><td>{{ shown }}</td></tr>
{% end %}</table>
""")


def use_certifi():
    with open(certifi.where()) as bundle:
        authorities = bundle.read().count("BEGIN CERTIFICATE")
    return "trusts %s authorities" % ("many" if authorities > 50 else "few")


def use_ecdsa():
    key = ecdsa.SigningKey.generate()
    signature = key.sign(b"a letter")
    return "signed and verified: %s" % key.get_verifying_key().verify(signature, b"a letter")


def use_gnureadline():
    gnureadline.clear_history()
    gnureadline.add_history("print 'hello'")
    return "remembers %d line" % gnureadline.get_current_history_length()


def use_paramiko():
    key = paramiko.ECDSAKey.generate()
    return "made a key: %s" % key.get_name()


def use_pycrypto():
    key, text = b"sixteen byte key", b"sixteen byte msg"
    again = AES.new(key).decrypt(AES.new(key).encrypt(text))
    return "encrypted and decrypted: %s" % (again == text)


def use_virtualenv():
    home, lib, _, _ = virtualenv.path_locations("/tmp/venv")
    return "would put packages in %s" % os.path.relpath(lib, home)


class Main(tornado.web.RequestHandler):
    def get(self):
        import sys
        from Crypto import __version__ as crypto

        rows = [
            ("certifi", certifi.__version__, use_certifi()),
            ("ecdsa", ecdsa.__version__, use_ecdsa()),
            ("gnureadline", "6.3.3", use_gnureadline()),
            ("paramiko", paramiko.__version__, use_paramiko()),
            ("pycrypto", crypto, use_pycrypto()),
            ("tornado", tornado.version, "rendered this page"),
            ("virtualenv", virtualenv.__version__, use_virtualenv()),
        ]
        self.write(PAGE.generate(python="%d.%d.%d" % sys.version_info[:3], rows=rows))


application = tornado.wsgi.WSGIAdapter(tornado.web.Application([(r"/", Main)]))
