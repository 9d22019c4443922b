"""Import every module of an installed distribution: ``python tests/import_all.py subjectgen-core``.

What it does not declare is missing in an environment that holds it alone. Its plugin, if it is one, must work.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import distribution
from pathlib import PurePosixPath

NEEDS_TESTING = "subjectgen.testing"
"""The conformance kit; pytest comes with the extra ``testing``."""
STARTS = "__main__"


def modules(name: str) -> list[str]:
    """Dotted names of all modules that a distribution has installed."""
    files = [PurePosixPath(str(file)) for file in distribution(name).files or ()]
    paths = [file.with_suffix("").parts for file in files if file.suffix == ".py" and file.stem != STARTS]
    names = {".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in paths}
    return sorted(found for found in names if not found.startswith(NEEDS_TESTING))


def main(name: str) -> None:
    """Import them all and, if it is a plugin, discover it."""
    found = modules(name)
    if not found:
        raise SystemExit(f"{name} has no modules")
    for module in found:
        import_module(module)
    from subjectgen.core.plugins import Plugins

    plugins = Plugins.discover()
    if plugins.broken:
        raise SystemExit("\n".join(map(str, plugins.broken)))
    print(f"{name}: {len(found)} modules")


if __name__ == "__main__":
    main(sys.argv[1])
