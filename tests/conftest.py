"""How tests of this folder run commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

# A distribution of its own, with tests of its own: test_third_party.py installs it and runs them.
collect_ignore = ["third_party_example"]

SERVER = Path(__file__).with_name("warm_server.py")


class WarmPython:
    """``python`` whose processes have imported torch and its friends already, but nothing of ours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server: subprocess.Popen[str] | None = None

    def __call__(
        self, *arguments: str, folder: Path, site: Path | None = None, **environment: str
    ) -> CompletedProcess[str]:
        """Run ``python arguments`` in ``folder``, with what ``site`` has installed.

        Args:
            arguments: ``-m module ...`` or ``-c code``.
            folder: Where it runs.
            site: A folder that pip has installed into, first on the path.
            environment: More variables.
        """
        path = os.pathsep.join(filter(None, (str(site or ""), os.environ.get("PYTHONPATH", ""))))
        output, errors = self.folder / "stdout", self.folder / "stderr"
        request = {
            "arguments": arguments,
            "folder": str(folder.resolve()),
            "environment": {**os.environ, "PYTHONPATH": path, **environment},
            "stdout": str(output),
            "stderr": str(errors),
        }
        code = self._ask(json.dumps(request))
        return CompletedProcess(arguments, code, output.read_text(), errors.read_text())

    def _ask(self, line: str) -> int:
        if self.server is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self.server = subprocess.Popen([sys.executable, str(SERVER)], text=True, **pipes)
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(line + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def stop(self) -> None:
        """End the server, if there is one."""
        if self.server is not None:
            self.server.communicate()


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmPython]:
    """One server for all tests of a worker; it starts with the first command."""
    python = WarmPython(tmp_path_factory.mktemp("warm"))
    yield python
    python.stop()


def pip_install(site: Path, *projects: Path) -> None:
    """Install into a folder, without the network: what the projects need is here already."""
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--target", str(site))
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *options, *map(str, projects)], check=True)


@pytest.fixture(scope="session", name="pip_install")
def pip_install_fixture() -> object:
    """The function, for test files cannot import this one."""
    return pip_install
