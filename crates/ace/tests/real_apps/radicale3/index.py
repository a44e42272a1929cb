import os
import tempfile

from radicale import Application, config

FOLDER = tempfile.gettempdir()
RIGHTS = os.path.join(FOLDER, "rights")
with open(RIGHTS, "w") as rights:
    rights.write("[all]\nuser: .*\ncollection: .*\npermissions: RrWw\n")
configuration = config.load()
configuration.update({
    "auth": {"type": "none"},
    "rights": {"type": "from_file", "file": RIGHTS},
    "storage": {"filesystem_folder": os.path.join(FOLDER, "collections")},
})
application = Application(configuration)
