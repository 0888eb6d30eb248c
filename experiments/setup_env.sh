#!/usr/bin/env bash
# Set up the Python environment; does nothing when it is already set up.
#
#   bash experiments/setup_env.sh              .venv in the repository, pinned by constraints.txt (about 2 minutes)
#   bash experiments/setup_env.sh --no-venv    into the environment that is active now (Colab, Kaggle, conda)
#
# PYTHON=python3.11 chooses the interpreter. Sourced by the other scripts: `source experiments/setup_env.sh [--no-venv]`.
set -euo pipefail
unset PYTHONDONTWRITEBYTECODE # without kept bytecode every process compiles every file, and the tests' asserts, anew
REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="${PYTHON:-python3}"

if [[ "${BASH_SOURCE[0]}" == "$0" ]]; then # where it is sourced, "$@" is the other script's
    # shellcheck source=experiments/show_help.sh
    source "$REPO/experiments/show_help.sh" "" "$@"
    [[ $# -eq 0 || "$*" == --no-venv ]] || {
        echo "error: unknown option $*; the only one is --no-venv" >&2
        exit 2
    }
fi

if [[ "${1:-}" != "--no-venv" ]]; then
    [[ -x "$REPO/.venv/bin/python" ]] || "$PYTHON" -m venv "$REPO/.venv"
    # shellcheck disable=SC1091
    source "$REPO/.venv/bin/activate"
fi
python -c 'import sys; sys.exit(sys.version_info < (3, 10) and f"error: Python 3.10 or newer is needed, this is {sys.version}")'

fingerprint() { python -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])'; }  # macOS has no sha256sum

# The stamp names what is installed, setup.py and constraints.txt: an edit of either installs again. There is one, so that going back does too.
stamp="$(python -c 'import sys; print(sys.prefix)')/.nnunetv2-$(cat "$REPO/setup.py" "$REPO/constraints.txt" <(echo "$REPO") | fingerprint)"
if [[ ! -e "$stamp" ]]; then
    rm -f "$(dirname "$stamp")"/.nnunetv2-*
    echo "[environment] installing into $(python -c 'import sys; print(sys.prefix)')"
    if [[ "${1:-}" == "--no-venv" ]] && python -c 'import torch' 2>/dev/null; then
        # A hosted notebook's torch fits its driver: keep it, pin the rest loosely.
        python -m pip install -q -e "${REPO}[openvino,int8,dicom,test]"
    else
        # torch first and alone, so that no other package draws in another build of it.
        python -m pip install -q -c "$REPO/constraints.txt" torch
        python -m pip install -q -c "$REPO/constraints.txt" -e "${REPO}[openvino,int8,dicom,test,docs,lint]"
    fi
    touch "$stamp"
fi
