"""The code of a build: as the backend of a package, it is run where a tenant's builds are.

The package that it makes holds what its probes have seen. Source of the two functions: PEP 517.
"""

import base64
import hashlib
import json
import os
import zipfile

import kit
import probe_files
import probe_kernel
import probe_limits
import probe_network
import probe_processes

NAME = "ace_prove_build"
VERSION = "1"


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "facts.json")) as file:
        results = list(kit.run_all(json.load(file), in_build=True))
    info = "%s-%s.dist-info/" % (NAME, VERSION)
    files = {
        NAME + ".py": "RESULTS = %r\n" % results,
        info + "METADATA": "Metadata-Version: 2.1\nName: %s\nVersion: %s\n" % (NAME, VERSION),
        info + "WHEEL": "Wheel-Version: 1.0\nGenerator: ace\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[info + "RECORD"] = record(files) + info + "RECORD,,\n"
    wheel = "%s-%s-py3-none-any.whl" % (NAME, VERSION)
    with zipfile.ZipFile(os.path.join(wheel_directory, wheel), "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return wheel


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    info = "%s-%s.dist-info" % (NAME, VERSION)
    os.makedirs(os.path.join(metadata_directory, info))
    with open(os.path.join(metadata_directory, info, "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\nName: %s\nVersion: %s\n" % (NAME, VERSION))
    with open(os.path.join(metadata_directory, info, "WHEEL"), "w") as file:
        file.write("Wheel-Version: 1.0\nGenerator: ace\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    return info


def record(files):
    lines = []
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
        lines.append("%s,sha256=%s,%d\n" % (path, digest, len(content.encode())))
    return "".join(lines)
