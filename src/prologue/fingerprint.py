"""What stands for params, inputs and code: work of one fingerprint is never taken for that of another."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from prologue.files import sha256


def fingerprint(params: Any, inputs: list[Path]) -> str:
    """Hash of JSON-able params, the content of input files, and the sources of the loaded project modules."""
    digest = hashlib.sha256(json.dumps(params, sort_keys=True, default=str).encode())
    sources = [module.__file__ for name, module in sys.modules.items() if name.startswith("prologue")]
    for path in [*inputs, *sorted(Path(source) for source in sources if source)]:
        digest.update(sha256(path).encode())
    return digest.hexdigest()[:16]
