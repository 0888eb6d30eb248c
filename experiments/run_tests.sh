#!/usr/bin/env bash
# Lint and all tests: units, the whole pipeline on small synthetic CTs, and conformance with the published nnU-Net (reduced set).
#
#   bash experiments/run_tests.sh                      everything
#   bash experiments/run_tests.sh tests/data_prep      one room (arguments go to pytest)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=experiments/setup_env.sh
source experiments/setup_env.sh
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
if [[ $# -gt 0 ]]; then
    exec python -m pytest "$@"
fi
bash experiments/run_lint.sh
bash experiments/run_conformance.sh --environment
python -m pytest
