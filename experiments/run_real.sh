#!/usr/bin/env bash
# Upstream nnU-Net 2.8.1 and this repository on REAL scans: 260 MR cases of the Decathlon's Task 04, same plans, budget, folds and seed.
#
#   bash experiments/run_real.sh                              fold 0, CPU, about an hour on 2 cores for both together
#   bash experiments/run_real.sh --quiet_machine              the same with nothing else running: times go into the table
#   bash experiments/run_real.sh --device cuda --network planned --budget 30 --folds 0 1 2 3 4 --quiet_machine
#   bash experiments/run_real.sh --budget 0.02 --cases 20 --out results/logs/real      a look at whether all stages run
#
# Reads ../shared/hippocampus, or the folder that --source names; without it a message says so and the status is 0. Builds upstream's
# environment in .venv-upstream once (NNUNET_UPSTREAM_PYTHON names another). Writes results/real.{json,md,png}; what each program made
# stays in results/real/work, and a killed run goes on there. All options: python -m experiments.real --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=experiments/show_help.sh
source experiments/show_help.sh "experiments.real" "$@"

# shellcheck source=experiments/setup_env.sh
source experiments/setup_env.sh
if [[ -z "${NNUNET_UPSTREAM_PYTHON:-}" ]]; then
    bash experiments/run_conformance.sh --environment
    export NNUNET_UPSTREAM_PYTHON="$PWD/.venv-upstream/bin/python"
fi
exec python -m experiments.real "$@"
