#!/usr/bin/env bash
# Full-size CTs: time, memory and agreement of upstream and of the modes on a SYNTHETIC abdomen.
#
#   bash experiments/run_fold0.sh && bash experiments/run_abdomen.sh
#   bash experiments/run_abdomen.sh --help    all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=experiments/driver.sh
source experiments/driver.sh abdomen "$@"
