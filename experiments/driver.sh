#!/usr/bin/env bash
# Sourced by the scripts of experiments: `source experiments/driver.sh EXPERIMENT "$@"` checks the options, sets the environment up and
# becomes `python -m experiments.EXPERIMENT "$@"`. Wrong options end it before anything is installed.

"${PYTHON:-python3}" -m experiments.options "$0" "$@" || { status=$?; [[ $status -ne 100 ]] || status=0; exit $status; }
venv=""
[[ " ${*:2} " != *" --no-venv "* ]] || venv="--no-venv"
# shellcheck source=experiments/setup_env.sh
source experiments/setup_env.sh $venv
exec python -m "experiments.$1" "${@:2}"
