import os

os.environ["ISSO_SETTINGS"] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "isso.cfg")

from isso.run import application
