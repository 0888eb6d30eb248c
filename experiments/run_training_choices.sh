#!/usr/bin/env bash
# Choices of the training by out-of-fold figures, each against the training as it is.
#
#   bash experiments/run_training_choices.sh           synthetic data, 2 CPU cores
#   bash experiments/run_training_choices.sh --help    all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=experiments/driver.sh
source experiments/driver.sh training_choices "$@"
