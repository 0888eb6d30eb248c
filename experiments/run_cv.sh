#!/usr/bin/env bash
# Cross-validation inside the training cases (folds 1-5): out-of-fold figures, and an ensemble for the test set.
#
#   bash experiments/run_cv.sh --data data --name MYTEAM    all folds one after the other, then the rest
#   bash experiments/run_cv.sh --help                       all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=experiments/driver.sh
source experiments/driver.sh cross_validation "$@"
