#!/usr/bin/env bash
# Cross-validation inside the training cases (folds 1-5): out-of-fold figures, and an ensemble for the test set.
#
#   bash experiments/run_cv.sh --data data --name MYTEAM                    all folds one after the other, then the rest
#   bash experiments/run_cv.sh --data data --gpus "0 1"                     folds shared out over two GPUs
#   bash experiments/run_cv.sh --data data --fold 3                         this fold alone, e.g. one notebook session a fold
#   bash experiments/run_cv.sh --epochs 10 --iterations 30                  synthetic data, 2 CPU cores, about an hour
#
# Options: --data DIR --name NAME --out DIR --epochs N --iterations N --val_iterations N --hours H --device cuda|cpu|mps --fast
# --fold K --gpus "ID ..." --seed S --from data|convert|plan|preprocess --no-venv. --hours counts for each fold's training, refit and
# validation. A rerun after a kill goes on where it stopped.
# Written to OUT (results/cv): predictions/{out_of_fold,test} (masks, subtype tables), metrics.json, radiomics/, with_radiomics/
# (mean of both, and whether it is better), NAME_results.zip. The validation cases of the quiz are not used at all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

DATA=""; NAME=""; OUT="results/cv"; EPOCHS=""; ITERATIONS=""; VAL_ITERATIONS=""; HOURS=""; DEVICE=""; MODE="exact"; FOLD=""; GPUS=""; SEED=0
FROM=""; VENV=""; PHANTOM=(); FOLDS=(1 2 3 4 5)
usage() { sed -n '2,13p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'; }
need() { [[ $# -ge 2 ]] || { echo "error: $1 needs a value" >&2; exit 2; }; }
while [[ $# -gt 0 ]]; do
    case "$1" in
        --data) need "$@"; DATA="$2"; shift 2 ;;
        --name) need "$@"; NAME="$2"; shift 2 ;;
        --out) need "$@"; OUT="$2"; shift 2 ;;
        --epochs) need "$@"; EPOCHS="$2"; shift 2 ;;
        --iterations) need "$@"; ITERATIONS="$2"; shift 2 ;;
        --val_iterations) need "$@"; VAL_ITERATIONS="$2"; shift 2 ;;
        --hours) need "$@"; HOURS="$2"; shift 2 ;;
        --device) need "$@"; DEVICE="$2"; shift 2 ;;
        --fold) need "$@"; FOLD="$2"; shift 2 ;;
        --gpus) need "$@"; GPUS="$2"; shift 2 ;;
        --seed) need "$@"; SEED="$2"; shift 2 ;;
        --from) need "$@"; FROM="$2"; shift 2 ;;
        --fast) MODE="fast"; shift ;;
        --no-venv) VENV="--no-venv"; shift ;;
        -h|--help) usage; exit 0 ;;
        *) echo "error: unknown option $1" >&2; usage >&2; exit 2 ;;
    esac
done
[[ -z "$HOURS" || -z "$EPOCHS$ITERATIONS$VAL_ITERATIONS" ]] ||
    { echo "error: --hours chooses the length itself; leave --epochs, --iterations and --val_iterations away" >&2; exit 2; }
# shellcheck source=experiments/check_name.sh
source experiments/check_name.sh
check_name "$NAME"
[[ -z "$FOLD" || " ${FOLDS[*]} " == *" $FOLD "* ]] || { echo "error: --fold $FOLD: choose one of ${FOLDS[*]}" >&2; exit 2; }

BESIDE_OTHERS="$FOLD"  # folds may be trained by several runs at once
# shellcheck source=experiments/prepare.sh
source experiments/prepare.sh
if [[ ${#SYNTHETIC[@]} -gt 0 ]]; then
    NAME="${NAME:-SYNTHETIC}"; EPOCHS="${EPOCHS:-10}"; ITERATIONS="${ITERATIONS:-30}"; VAL_ITERATIONS="${VAL_ITERATIONS:-4}"
else
    NAME="${NAME:-$(id -un | tr -c "[:alnum:]_.\n-" _)}"; EPOCHS="${EPOCHS:-100}"; ITERATIONS="${ITERATIONS:-250}"; VAL_ITERATIONS="${VAL_ITERATIONS:-50}"
fi
MODEL="$RESULTS/${TRAINER}__${PLANS}__${CONFIG}"

train_fold() {
    local k="$1" log="$WORK/fold_$1"  # a log of its own, because folds may run side by side
    local common=(-tr "$TRAINER" -p "$PLANS" -device "$DEVICE")
    local lengths=(--epochs "$EPOCHS" --iterations "$ITERATIONS" --val_iterations "$VAL_ITERATIONS" --seed "$SEED")
    [[ -z "$HOURS" ]] || lengths=(--hours "$HOURS" --seed "$SEED")
    mkdir -p "$log"
    stage "train" --log "$log" --outputs "$MODEL/fold_$k" \
        --inputs "$PREPROCESSED"/{splits_final.json,dataset_fingerprint.json,dataset.json,"$PLANS.json","nnUNetPlans_$CONFIG.recipe.json"} ${TABLE:+"$PREPROCESSED/$TABLE"} -- \
        nnUNetv2_train 777 "$CONFIG" "$k" "${common[@]}" "${lengths[@]}" --c --no_val
    stage "validate" --log "$log" --outputs "$MODEL/fold_$k/validation" -- \
        nnUNetv2_train 777 "$CONFIG" "$k" "${common[@]}" --val
}

if [[ -n "$FOLD" ]]; then
    train_fold "$FOLD"
    echo "[cv] fold $FOLD done; run without --fold for what needs all of ${FOLDS[*]}"
    exit 0
elif [[ -n "$GPUS" ]]; then
    read -ra cards <<< "$GPUS"; workers=()
    mkdir -p "$OUT/logs"
    for ((i = 0; i < ${#cards[@]}; i++)); do
        (for ((j = i; j < ${#FOLDS[@]}; j += ${#cards[@]})); do
            CUDA_VISIBLE_DEVICES="${cards[i]}" train_fold "${FOLDS[j]}" > "$OUT/logs/fold_${FOLDS[j]}.log" 2>&1
        done) & workers+=($!)
    done
    echo "[cv] training on GPUs $GPUS; follow with: tail -f $OUT/logs/fold_*.log"
    failed=0
    for worker in "${workers[@]}"; do wait "$worker" || failed=1; done
    [[ $failed == 0 ]] || { echo "error: a fold failed, see $OUT/logs; rerun to go on" >&2; exit 1; }
else
    for k in "${FOLDS[@]}"; do train_fold "$k"; done
fi

OOF="$OUT/predictions/out_of_fold"; REFERENCE="$WORK/out_of_fold_reference"
python experiments/out_of_fold.py gather --model "$MODEL" --folds "${FOLDS[@]}" --splits "$RAW/splits_final.json" \
    --labels "$RAW/labelsTr" --out "$OOF" --reference "$REFERENCE" --task "${TASK:-subtype}"
DESCRIBED=(--dataset "$RAW/dataset.json")
score() {  # score TABLES OUT
    local classes=()
    [[ -z "$TASK" ]] || classes=(--subtypes "$1/${TASK}_results.csv" --truth "$RAW/$TABLE")
    python evaluation/compute_metrics.py --pred "$OOF" --ref "$REFERENCE" "${DESCRIBED[@]}" ${classes[@]+"${classes[@]}"} --out "$2" ${SYNTHETIC[@]+"${SYNTHETIC[@]}"}
}
score "$OOF" "$OUT"

TEST="$OUT/predictions/test"
[[ ! -d "$RAW/imagesTs" ]] || stage predict_test --log "$WORK/ensemble" --outputs "$TEST" --inputs "$MODEL"/{plans.json,dataset.json} "$MODEL"/fold_[1-5]/checkpoint_final.pth -- \
    nnUNetv2_predict -i "$RAW/imagesTs" -o "$TEST" -d 777 -c "$CONFIG" -f "${FOLDS[@]}" -tr "$TRAINER" -p "$PLANS" \
    -device "$DEVICE" --mode "$MODE" --continue_prediction

# The baseline, and whether the mean of both is worth using: out-of-fold evidence alone decides, and you.
if [[ -n "$TASK" ]]; then
    FRESH=()
    [[ ! -d "$RAW/imagesTs" ]] || FRESH=(--predict_images "$RAW/imagesTs" --predict_masks "$TEST")
    python evaluation/radiomics_baseline.py --images "$RAW/imagesTr" --masks "$OOF" --truth "$RAW/$TABLE" "${DESCRIBED[@]}" \
        --splits "$RAW/splits_final.json" --folds "${FOLDS[@]}" ${FRESH[@]+"${FRESH[@]}"} --out "$OUT/radiomics"
    score "$OUT/radiomics" "$OUT/radiomics"
    average() { python experiments/out_of_fold.py average "$1" "$2" --out "$3" --task "$TASK"; }
    average "$OOF" "$OUT/radiomics" "$OUT/with_radiomics"
    [[ ! -d "$RAW/imagesTs" ]] || average "$TEST" "$OUT/radiomics/test" "$OUT/with_radiomics/test"
    score "$OUT/with_radiomics" "$OUT/with_radiomics"
    python evaluation/compare_runs.py "$OUT" "$OUT/with_radiomics" --out "$OUT/with_radiomics/comparison.json"
fi

[[ -d "$RAW/imagesTs" ]] || { echo "[cv] done: $OUT/metrics.json (out of fold); the data have no test images"; exit 0; }
python data_prep/make_submission.py "${DESCRIBED[@]}" --pred "$TEST" --test "$RAW/imagesTs" --name "$NAME" --out "$OUT"
echo "[cv] done: $OUT/metrics.json (out of fold), $OUT/${NAME}_results.zip (ensemble of folds ${FOLDS[*]})"
