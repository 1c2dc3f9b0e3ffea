"""The file of --tenants."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class TenantsFile:
    """The file of --tenants; replaced as a whole, as an operator should."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, **tenants: dict[str, Any]) -> None:
        self.write_text(json.dumps({"tenants": tenants}))

    def write_text(self, text: str) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text(text)
        os.replace(partial, self.path)
