# -*- coding: utf-8 -*-
import os
import shutil
import sys
import tempfile

from MoinMoin.config import multiconfig, url_prefix_static

SHARE = os.path.join(sys.prefix, "share", "moin")
HOME = os.path.join(tempfile.gettempdir(), "wiki")
if not os.path.isdir(HOME):
    os.mkdir(HOME)
    for part in ("data", "underlay"):
        shutil.copytree(os.path.join(SHARE, part), os.path.join(HOME, part))


class Config(multiconfig.DefaultConfig):
    sitename = u"Our Wiki"
    data_dir = os.path.join(HOME, "data")
    data_underlay_dir = os.path.join(HOME, "underlay")
    page_front_page = u"FrontPage"
    superuser = [u"WikiAdmin"]
    acl_rights_before = u"All:read,write,delete,revert,admin"
