#!/usr/bin/env bash
# Which part of the classifier earns its keep: the variants of experiments/ablation.py over the same folds.
#
#   bash experiments/run_ablation.sh           synthetic data, 2 CPU cores
#   bash experiments/run_ablation.sh --help    all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=experiments/driver.sh
source experiments/driver.sh ablation "$@"
