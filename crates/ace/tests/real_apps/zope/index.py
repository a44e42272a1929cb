import os
import sys

from Zope2.Startup.run import make_wsgi_app
from Zope2.utilities import mkwsgiinstance
from ZPublisher.httpexceptions import HTTPExceptionHandler

HOME = "/tmp/instance"
if not os.path.isdir(HOME):
    sys.argv = ["mkwsgiinstance", "-d", HOME, "-u", "admin:secret"]
    mkwsgiinstance.main()
application = HTTPExceptionHandler(make_wsgi_app({}, HOME + "/etc/zope.conf"))
