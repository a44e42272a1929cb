import os
import tempfile

from trac.admin.console import TracAdmin

HOME = os.path.join(tempfile.gettempdir(), "trac")
if not os.path.isdir(HOME):
    TracAdmin(HOME).onecmd("initenv Project sqlite:db/trac.db")
    TracAdmin(HOME).onecmd("permission add anonymous TRAC_ADMIN")
os.environ["TRAC_ENV"] = HOME

from trac.web.main import dispatch_request as application
