#!/usr/bin/env bash
# Style, types, spelling, shell scripts, insecure patterns and known vulnerabilities of the pinned packages; about a minute.
#
#   bash experiments/run_lint.sh
#
# Waivers of bandit stand with their reasons in pyproject.toml and, by line, behind `# nosec`. pip-audit needs the network; where
# its service cannot be reached it says so and does not fail.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=experiments/show_help.sh
source experiments/show_help.sh "" "$@"
# shellcheck source=experiments/setup_env.sh
source experiments/setup_env.sh
python -c 'import ruff, mypy, bandit, pip_audit' 2>/dev/null && command -v codespell >/dev/null ||
    python -m pip install -q -c constraints.txt ruff mypy codespell bandit pip-audit
ruff check .
mypy
codespell
if command -v shellcheck >/dev/null; then
    shellcheck --severity=warning -x experiments/*.sh report/build.sh .ci/run
else
    echo "shellcheck: skipped, it is not installed (apt-get install shellcheck)"
fi
bandit -q -c pyproject.toml -r nnunetv2 dynamic_network_architectures data_prep evaluation report experiments
python -m experiments.audit_dependencies
echo "[lint] nothing found"
