#!/usr/bin/env bash
# What each inference mode costs the main job's model, on new SYNTHETIC cases.
#
#   bash experiments/run_fold0.sh && bash experiments/run_accuracy.sh
#   bash experiments/run_accuracy.sh --help    all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=experiments/driver.sh
source experiments/driver.sh accuracy "$@"
