"""The secret key: made once and kept with the data, so that every instance signs alike."""

import os
from pathlib import Path

from django.core.management.utils import get_random_secret_key


def secret_key(path: Path) -> str:
    """The key at `path`, made there if it is missing.

    Where there is no folder for it (in a build, which has no volume), a key for this process.
    """
    if not path.parent.is_dir():
        return get_random_secret_key()
    fresh = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    if not path.exists():
        fresh.touch(mode=0o600)
        fresh.write_text(get_random_secret_key())
        try:
            os.link(fresh, path)  # Fails if another instance was first; then its key counts.
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_text()
