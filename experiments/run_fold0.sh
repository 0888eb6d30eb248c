#!/usr/bin/env bash
# The main job: a folder of pancreas CTs in; masks, subtypes, metrics, figures, submission and report out.
#
#   bash experiments/run_fold0.sh                                   synthetic data, 2 CPU cores, under 20 minutes
#   bash experiments/run_fold0.sh --data data --name MYTEAM         the quiz's data on a GPU (16 GB are enough)
#   bash experiments/run_fold0.sh --data data --epochs 50 --fast    fewer epochs, coarse-to-fine inference
#   bash experiments/run_fold0.sh --data data --hours 3.5           training, refit and validation end within 3.5 hours
#   bash experiments/run_fold0.sh --data data --from train          train again, keep what came before
#   bash experiments/run_fold0.sh --data FOLDER                     other data, with a dataset_description.json (docs/your-data.md)
#
# Options: --data DIR --name NAME --out DIR --epochs N --iterations N --val_iterations N --hours H --device cuda|cpu|mps --fast
# --from STAGE --gpu_memory GB (what the planner fills; little for a quick look on a CPU) --no-venv
# A rerun after a kill goes on where it stopped. Stages: data convert plan preprocess train predict_validation
# predict_test metrics figures gallery submission record report.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

DATA=""; NAME=""; OUT="results/fold0"; EPOCHS=""; ITERATIONS=""; VAL_ITERATIONS=""; HOURS=""; DEVICE=""; MODE="exact"; GPU_MEMORY=""; FROM=""; VENV=""; PHANTOM=()
usage() { sed -n '2,14p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'; }
need() { [[ $# -ge 2 ]] || { echo "error: $1 needs a value" >&2; exit 2; }; }
while [[ $# -gt 0 ]]; do
    case "$1" in
        --data) need "$@"; DATA="$2"; shift 2 ;;
        --name) need "$@"; NAME="$2"; shift 2 ;;
        --out) need "$@"; OUT="$2"; shift 2 ;;
        --epochs) need "$@"; EPOCHS="$2"; shift 2 ;;
        --iterations) need "$@"; ITERATIONS="$2"; shift 2 ;;
        --hours) need "$@"; HOURS="$2"; shift 2 ;;
        --val_iterations) need "$@"; VAL_ITERATIONS="$2"; shift 2 ;;
        --gpu_memory) need "$@"; GPU_MEMORY="$2"; shift 2 ;;
        --device) need "$@"; DEVICE="$2"; shift 2 ;;
        --from) need "$@"; FROM="$2"; shift 2 ;;
        --fast) MODE="fast"; shift ;;
        --no-venv) VENV="--no-venv"; shift ;;
        -h|--help) usage; exit 0 ;;
        *) echo "error: unknown option $1" >&2; usage >&2; exit 2 ;;
    esac
done

[[ -z "$HOURS" || -z "$EPOCHS$ITERATIONS" ]] || { echo "error: --hours chooses the length itself; leave --epochs and --iterations away" >&2; exit 2; }
# shellcheck source=experiments/check_name.sh
source experiments/check_name.sh
check_name "$NAME"
START=$(date +%s)
# shellcheck source=experiments/prepare.sh
source experiments/prepare.sh
if [[ ${#SYNTHETIC[@]} -gt 0 ]]; then
    NAME="${NAME:-SYNTHETIC}"; EPOCHS="${EPOCHS:-12}"; ITERATIONS="${ITERATIONS:-40}"; VAL_ITERATIONS="${VAL_ITERATIONS:-4}"
else
    NAME="${NAME:-$(id -un | tr -c "[:alnum:]_.\n-" _)}"; EPOCHS="${EPOCHS:-100}"; ITERATIONS="${ITERATIONS:-250}"; VAL_ITERATIONS="${VAL_ITERATIONS:-50}"
fi
MODEL="$RESULTS/${TRAINER}__${PLANS}__${CONFIG}"
LENGTH=(--epochs "$EPOCHS" --iterations "$ITERATIONS" --val_iterations "$VAL_ITERATIONS")
[[ -z "$HOURS" ]] || LENGTH=(--hours "$HOURS")

stage train --outputs "$MODEL/fold_0" --inputs "$PREPROCESSED"/{splits_final.json,dataset.json,"$PLANS.json"} ${TABLE:+"$PREPROCESSED/$TABLE"} -- \
    nnUNetv2_train 777 "$CONFIG" 0 -tr "$TRAINER" -p "$PLANS" -device "$DEVICE" --c \
    "${LENGTH[@]}" --no_val
predict() {  # predict NAME IMAGES
    stage "predict_$1" --outputs "$OUT/predictions/$1" -- \
        nnUNetv2_predict -i "$2" -o "$OUT/predictions/$1" -d 777 -c "$CONFIG" -f 0 -tr "$TRAINER" -p "$PLANS" \
        -device "$DEVICE" --mode "$MODE" --continue_prediction
}
python data_prep/split_view.py --raw "$RAW" --out "$WORK/validation"
predict validation "$WORK/validation/images"
[[ ! -d "$RAW/imagesTs" ]] || predict test "$RAW/imagesTs"
DESCRIBED=(--dataset "$RAW/dataset.json"); CLASSES=()
[[ -z "$TASK" ]] || CLASSES=(--subtypes "$OUT/predictions/validation/${TASK}_results.csv" --truth "$RAW/$TABLE")

stage metrics --outputs "$OUT/metrics.json" "$OUT/per_case.csv" -- \
    python evaluation/compute_metrics.py --pred "$OUT/predictions/validation" --ref "$WORK/validation/labels" \
    "${DESCRIBED[@]}" ${CLASSES[@]+"${CLASSES[@]}"} --out "$OUT" ${SYNTHETIC[@]+"${SYNTHETIC[@]}"}
SPEED=()
[[ -f results/speed.json ]] && SPEED=(--speed results/speed.json)
stage figures --outputs "$OUT/figures" --inputs 'results/speed.jso[n]' -- \
    python evaluation/make_figures.py --results "$OUT" --images "$WORK/validation/images" --ref "$WORK/validation/labels" \
    --pred "$OUT/predictions/validation" --training "$MODEL/fold_0" ${SPEED[@]+"${SPEED[@]}"}
stage gallery --outputs "$OUT/gallery.html" -- \
    python evaluation/make_gallery.py --results "$OUT" --images "$WORK/validation/images" --ref "$WORK/validation/labels" \
    --pred "$OUT/predictions/validation"
[[ ! -d "$RAW/imagesTs" ]] || stage submission --outputs "$OUT/${NAME}_results.zip" -- \
    python data_prep/make_submission.py "${DESCRIBED[@]}" --pred "$OUT/predictions/test" --test "$RAW/imagesTs" --name "$NAME" --out "$OUT"
python experiments/record_run.py --out "$OUT" --raw "$RAW" --name "$NAME" --device "$DEVICE" --mode "$MODE" \
    --plans "$PREPROCESSED/$PLANS.json" --configuration "$CONFIG" --fold "$MODEL/fold_0" ${SYNTHETIC[@]+"${SYNTHETIC[@]}"}
if bash report/build.sh --check; then
    stage report --outputs "$OUT/${NAME}_results.pdf" -- bash report/build.sh --results "$OUT" --name "$NAME"
else
    echo "[report] left out: install the packages above and give the command again; everything else is done"
fi
python experiments/record_run.py --out "$OUT" --summary
echo "[fold 0] done in $((($(date +%s) - START) / 60)) min $((($(date +%s) - START) % 60)) s; everything is in $OUT"
