import os
import pypiserver

ROOT = os.path.expanduser("~/packages")
if not os.path.isdir(ROOT):
    os.makedirs(ROOT)
application = pypiserver.app(root=ROOT, authenticated=[], password_file=".")
