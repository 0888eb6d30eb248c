#!/usr/bin/env bash
# Sourced: functions for the stages of an experiment, each skipped when done (experiments/stage.py). Expects WORK and the environment.

stage() {  # stage NAME [--log DIR] --outputs PATH... [--inputs PATH...] -- COMMAND...
    local name="$1" log="$WORK"; shift
    if [[ "$1" == --log ]]; then log="$2"; shift 2; fi
    python experiments/stage.py --work "$log" --name "$name" "$@"
}

lock_run() {  # lock_run FOLDER: refuse a second run there; the lock goes with this shell and what it started
    exec 9>>"$1/run.lock"
    python experiments/stage.py --work "$1" --lock 9
}

train_from() {  # train_from NAME FOLD_FOLDER CHECKPOINT ARGUMENT... of nnUNetv2_train; CHECKPOINT may be empty
    local name="$1" fold="$2" checkpoint="$3"; shift 3
    # what to start from is settled inside the command: another command line would be another stage, and a kill would lose it
    stage "$name" --outputs "$fold" -- bash -c '
        start=(--c)
        [[ -z "$2" || -e "$1/checkpoint_latest.pth" || -e "$1/checkpoint_final.pth" ]] || start=(-pretrained_weights "$2" --same_task)
        exec nnUNetv2_train "${@:3}" "${start[@]}"' train "$fold" "$checkpoint" "$@"
}
