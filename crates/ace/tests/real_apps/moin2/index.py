import os
import subprocess
import sys

WIKI = os.path.abspath("wiki")
if not os.path.isdir(WIKI):
    program = os.path.join(sys.prefix, "bin", "moin")
    subprocess.check_call([program, "create-instance", "--path", WIKI])
    subprocess.check_call([program, "index-create"], cwd=WIKI)
    subprocess.check_call([program, "welcome"], cwd=WIKI)
os.chdir(WIKI)

from moin.app import create_app

application = create_app(os.path.join(WIKI, "wikiconfig.py"))
