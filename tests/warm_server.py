"""Python commands in processes of their own that need not import torch and its friends again.

Importing them takes longer than most commands do. This process imports them once and none of ours; each line it reads,
a JSON object with ``arguments`` (as after ``python``: ``-m module ...`` or ``-c code``), ``folder``, ``environment``,
``stdout`` and ``stderr``, is run in a fork of it, and answered with the exit code. Variables that these libraries read
when they are imported have no effect.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from importlib import import_module
from typing import Any

HEAVY = {
    "torch": (),
    "peft": (),
    "diffusers": ("AutoencoderKL", "FluxTransformer2DModel", "FlowMatchEulerDiscreteScheduler"),
    "transformers": (
        "AutoTokenizer",
        "CLIPTextModel",
        "CLIPVisionModel",
        "InternVLForConditionalGeneration",
        "PreTrainedTokenizerFast",
        "Qwen2_5_VLForConditionalGeneration",
        "T5EncoderModel",
    ),
}
"""Module: names that it imports only when they are asked for."""


def main() -> None:
    """Serve until the input ends."""
    for module, names in HEAVY.items():
        for name in names:
            getattr(import_module(module), name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            run(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def run(request: dict[str, Any]) -> None:
    """Become the command, and end as it ends."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, file in ((0, os.devnull), (1, request["stdout"]), (2, request["stderr"])):
        os.dup2(os.open(file, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [request["folder"], *before, *(path for path in sys.path[1:] if path not in before)]
    option, what, *rest = request["arguments"]
    sys.argv = [option, *rest]
    if option == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})  # as python -c does
    sys.exit()


if __name__ == "__main__":
    main()
