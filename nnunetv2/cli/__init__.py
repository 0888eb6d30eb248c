"""Every `nnUNetv2_*` command: parsers here, work elsewhere.

Nothing heavy is imported until a command has parsed its arguments, so `--help` and a mistyped flag answer at once.
Flags of upstream nnU-Net keep their names and meanings; those this fork adds are marked "(fork)" in the help text.
"""

import sys

try:
    import nnunetv2.configuration  # noqa: F401 (reads a number of processes from the environment)
except ValueError as error:
    sys.exit(f"error: {error}")
