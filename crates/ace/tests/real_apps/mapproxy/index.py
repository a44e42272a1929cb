import os

from mapproxy.wsgiapp import make_wsgi_app

application = make_wsgi_app(os.path.join(os.path.dirname(__file__), "mapproxy.yaml"))
