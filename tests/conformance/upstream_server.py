"""Runs inside the reference environment, `python -I upstream_server.py`, and calls upstream nnU-Net on request.

One request a line on stdin: {"function": "upstream_planning:plan", "arguments": PATH, "result": PATH}; the answer on stdout is
"ok" or the traceback as one JSON string. One long-lived process, because importing torch and nnU-Net takes seconds.
Whatever upstream prints goes to stderr.
"""

import importlib
import json
import os
import sys
import traceback
from pathlib import Path


def serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # upstream prints freely; keep it out of the protocol
    sys.path.append(str(Path(__file__).parent))
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
