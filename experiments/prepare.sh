#!/usr/bin/env bash
# shellcheck disable=SC2034  # what is set here is read by the scripts that source this
# Sourced by run_fold0.sh, run_cv.sh and run_ablation.sh: environment, data, conversion, planning and preprocessing, each skipped when done.
#
# Expects DATA (empty: the folder data/, else synthetic CTs), OUT, DEVICE (may be empty), FROM, VENV, and the array PHANTOM of
# further flags for make_phantom.py; GPU_MEMORY, in GB, what the planner may fill (default: its own, for small synthetic cases less). Leaves behind: OUT and WORK absolute, nnUNet_* exported, DATASET PLANS CONFIG TRAINER RAW
# PREPROCESSED RESULTS DEVICE, TASK and TABLE (class task and file of the classes, both empty without), SYNTHETIC (flags for the scorer, empty with real data) and the functions of stages.sh.

# shellcheck source=experiments/setup_env.sh
source experiments/setup_env.sh $VENV
mkdir -p "$OUT/work"
OUT="$(cd "$OUT" && pwd)"; WORK="$OUT/work"
export nnUNet_raw="$WORK/nnUNet_raw" nnUNet_preprocessed="$WORK/nnUNet_preprocessed" nnUNet_results="$WORK/nnUNet_results"
PLANS=nnUNetResEncUNetMPlans; CONFIG=3d_fullres; TRAINER=nnUNetTrainer
[[ -n "$DEVICE" ]] || DEVICE="$(python -c 'import torch; print("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")')"

# shellcheck source=experiments/stages.sh
source experiments/stages.sh
[[ -n "${BESIDE_OTHERS:-}" ]] || lock_run "$WORK"  # BESIDE_OTHERS: one of several runs that share the folder, such as a fold each
[[ -z "$FROM" ]] || python experiments/stage.py --work "$WORK" --forget_from "$FROM"

SYNTHETIC=(); MEMORY=()  # expanded as ${A[@]+"${A[@]}"}: an empty array counts as unset in macOS's bash 3.2
[[ -n "$DATA" || ! -d data ]] || DATA=data
if [[ -z "$DATA" ]]; then
    echo "NO DATA GIVEN: THIS RUN USES SYNTHETIC CTS. ITS FIGURES SAY NOTHING ABOUT PATIENTS."
    DATA="$WORK/synthetic_data"; SYNTHETIC=(--synthetic)
    MEMORY=(-gpu_memory_target 0.18)  # a batch of 2, as for the quiz's cases; by itself the planner would fill 8 GB with small ones
    # not the seed that settings were worked out on: the first to see its validation cases is the run that is reported
    stage data --outputs "$DATA" -- python data_prep/make_phantom.py "$DATA" --preset demo --seed 2026 "${PHANTOM[@]}"
else
    [[ -d "$DATA" ]] || { echo "error: --data $DATA is not a folder" >&2; exit 2; }
    DATA="$(cd "$DATA" && pwd)"
    [[ ! -e "$DATA/SYNTHETIC.txt" ]] || { SYNTHETIC=(--synthetic); echo "THE DATA IN $DATA ARE SYNTHETIC. THE FIGURES SAY NOTHING ABOUT PATIENTS."; }
fi
# labels, class task and names: the quiz's, or what the data's own dataset_description.json says
described="$(python data_prep/described_names.py "$DATA")"
{ read -r DATASET; read -r TASK; read -r TABLE; read -r banner; } <<< "$described"
[[ "$TASK" != - ]] || { TASK=""; TABLE=""; }
[[ "$banner" == - || ${#SYNTHETIC[@]} -gt 0 ]] || echo "$banner"
RAW="$nnUNet_raw/$DATASET"; PREPROCESSED="$nnUNet_preprocessed/$DATASET"; RESULTS="$nnUNet_results/$DATASET"
[[ -z "${GPU_MEMORY:-}" ]] || MEMORY=(-gpu_memory_target "$GPU_MEMORY")
stage convert --outputs "$RAW" --inputs "$DATA" -- python data_prep/convert_quiz.py --data "$DATA" --out "$nnUNet_raw"
stage plan --outputs "$PREPROCESSED" --inputs "$RAW" -- \
    nnUNetv2_plan_and_preprocess -d 777 -pl nnUNetPlannerResEncM --verify_dataset_integrity --clean --no_pp ${MEMORY[@]+"${MEMORY[@]}"}
stage preprocess --outputs "$PREPROCESSED/nnUNetPlans_$CONFIG" -- nnUNetv2_preprocess -d 777 -plans_name "$PLANS" -c "$CONFIG"
