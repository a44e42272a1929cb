import os
import tempfile

from wsgidav.fs_dav_provider import FilesystemProvider
from wsgidav.wsgidav_app import DEFAULT_CONFIG, WsgiDAVApp

SHARE = os.path.join(tempfile.gettempdir(), "share")
if not os.path.isdir(SHARE):
    os.mkdir(SHARE)
config = DEFAULT_CONFIG.copy()
config.update({
    "provider_mapping": {"/": FilesystemProvider(SHARE)},
    "user_mapping": {"/": {"tester": {"password": "secret", "description": "", "roles": []}}},
    "verbose": 1,
    "propsmanager": True,
    "locksmanager": True,
})
application = WsgiDAVApp(config)
