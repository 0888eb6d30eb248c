#!/usr/bin/env bash
# The main job: a folder of pancreas CTs in; masks, subtypes, metrics, figures, submission and report out.
#
#   bash experiments/run_fold0.sh                              synthetic data, 2 CPU cores, 3 to 15 minutes
#   bash experiments/run_fold0.sh --data data --name MYTEAM    the quiz's data on a GPU
#   bash experiments/run_fold0.sh --help                       all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=experiments/driver.sh
source experiments/driver.sh main_job "$@"
