"""Runs inside the reference environment, `python -I upstream_server.py`, and calls upstream nnU-Net on request.

One request a line on stdin: {"function": "upstream_planning:plan", "arguments": PATH, "result": PATH}; the answer on stdout is
"ok" or the traceback as one JSON string. One long-lived process, because importing torch and nnU-Net takes seconds.
Whatever upstream prints goes to stderr. Its worker pools are threads here: same functions, same results, none of the
seconds that each spawned process spends importing torch.
"""

import importlib
import json
import multiprocessing
import os
import sys
import traceback
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace


def serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # upstream prints freely; keep it out of the protocol
    sys.path.append(str(Path(__file__).parent))
    multiprocessing.Pool = ThreadPool
    spawn = multiprocessing.get_context("spawn")
    parts = {name: getattr(spawn, name) for name in ("Process", "Queue", "Event", "Manager")}  # where upstream starts a process by itself, it gets one
    multiprocessing.get_context = lambda method=None: SimpleNamespace(Pool=ThreadPool, **parts)
    import exchange

    for line in sys.stdin:
        request = json.loads(line)
        try:
            module, function = request["function"].split(":")
            arguments = exchange.read(Path(request["arguments"]))
            result = getattr(importlib.import_module(module), function)(**arguments)
            exchange.write(result, Path(request["result"]))
            answer = "ok"
        except Exception:  # reported to the caller, which raises it there
            answer = traceback.format_exc()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
