#!/usr/bin/env bash
# A trained model of the quiz's image size on SYNTHETIC CTs, for run_speed.sh.
#
#   bash experiments/train_quiz_size.sh           63 training cases into results/quiz_size
#   bash experiments/train_quiz_size.sh --help    all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=experiments/driver.sh
source experiments/driver.sh train_quiz_size "$@"
