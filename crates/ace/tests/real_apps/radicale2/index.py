import os
os.environ["RADICALE_CONFIG"] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "config")
from radicale import application
