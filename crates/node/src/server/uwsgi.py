# uWSGI takes the name of a function in a module, and calls it in each worker.
entry = type(sys)("_ace_entry")
entry.load = load_wsgi
sys.modules["_ace_entry"] = entry

import pyuwsgi

sys.exit(pyuwsgi.run())
