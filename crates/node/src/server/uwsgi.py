# uWSGI takes the name of a function in a module, and calls it in each worker.
def load_in_worker():
    # uWSGI has its own idea of it, which lacks the packages; old versions have no option for it.
    sys.executable = "/ace/user/virtualenv/bin/python"
    return load_wsgi()


entry = type(sys)("_ace_entry")
entry.load = load_in_worker
sys.modules["_ace_entry"] = entry

import pyuwsgi

sys.exit(pyuwsgi.run())
