#!/usr/bin/env bash
# Lint and all tests: units, the whole pipeline on small synthetic CTs, and conformance with the published nnU-Net (reduced set).
#
#   bash experiments/run_tests.sh                      everything
#   bash experiments/run_tests.sh tests/data_prep      one room (arguments go to pytest)
#
# TEST_PROCESSES=4 takes four processes instead of two, with one thread and up to 4 GB each.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=experiments/show_help.sh
source experiments/show_help.sh "" "$@"
# shellcheck source=experiments/setup_env.sh
source experiments/setup_env.sh
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # two busy processes with threads of their own wait for each other
if [[ $# -gt 0 ]]; then
    exec python -m pytest "$@"
fi
bash experiments/run_lint.sh
bash experiments/run_conformance.sh --environment
python -m pytest --numprocesses "${TEST_PROCESSES:-2}" --no-loadscope-reorder
