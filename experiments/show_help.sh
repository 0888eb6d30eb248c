#!/usr/bin/env bash
# Sourced by the scripts of experiments, `source experiments/show_help.sh MODULE "$@"`: where --help is among the options it shows the
# comment at the script's head, and all options of `python -m MODULE` if the environment is there. Nothing is installed. MODULE may be "".

for option in "${@:2}"; do
    if [[ $option == -h || $option == --help ]]; then
        awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$(dirname "${BASH_SOURCE[0]}")/$(basename "$0")"
        if [[ -n $1 && -x .venv/bin/python ]]; then
            echo
            exec .venv/bin/python -m "$1" --help
        fi
        [[ -z $1 ]] || echo "All options are listed here once the environment is there: bash experiments/setup_env.sh"
        exit 0
    fi
done
