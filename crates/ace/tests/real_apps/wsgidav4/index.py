import os
import tempfile

from wsgidav.wsgidav_app import WsgiDAVApp

SHARE = os.path.join(tempfile.gettempdir(), "share")
os.makedirs(SHARE, exist_ok=True)
application = WsgiDAVApp({
    "provider_mapping": {"/": SHARE},
    "simple_dc": {"user_mapping": {"*": {"tester": {"password": "secret"}}}},
    "property_manager": True,
    "lock_storage": True,
})
