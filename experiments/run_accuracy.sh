#!/usr/bin/env bash
# What the inference modes cost in accuracy: run_speed.sh's table on a trained model and new SYNTHETIC cases of one window and of several.
#
#   bash experiments/run_fold0.sh && bash experiments/run_accuracy.sh     the main job's model, 36 new cases, one run a row
#   bash experiments/run_accuracy.sh --rows upstream exact fast           some rows
#
# Options: --run DIR (a finished run_fold0.sh on synthetic data; default results/fold0) --out PATH --n N --seed S; all others go to
# experiments/run_speed.py (--help there). Written: results/accuracy.{json,md,png}. Each finished row is kept; --fresh starts over.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

RUN="results/fold0"; OUT="results/accuracy"; N=36; SEED=4716; REST=()
usage() { sed -n '2,8p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'; }
need() { [[ $# -ge 2 ]] || { echo "error: $1 needs a value" >&2; exit 2; }; }
while [[ $# -gt 0 ]]; do
    case "$1" in
        --run) need "$@"; RUN="$2"; shift 2 ;;
        --out) need "$@"; OUT="$2"; shift 2 ;;
        --n) need "$@"; N="$2"; shift 2 ;;
        --seed) need "$@"; SEED="$2"; shift 2 ;;
        -h|--help) usage; exit 0 ;;
        *) REST+=("$1"); shift ;;
    esac
done

# shellcheck source=experiments/setup_env.sh
source experiments/setup_env.sh
MODEL="$RUN/work/nnUNet_results/Dataset777_PancreasCT/nnUNetTrainer__nnUNetResEncUNetMPlans__3d_fullres"
[[ -e "$MODEL/fold_0/class_head_refit.json" ]] || { echo "error: $MODEL holds no finished model; run experiments/run_fold0.sh first" >&2; exit 2; }
WORK="$(cd "$RUN/work" && pwd)"
export nnUNet_raw="$WORK/nnUNet_raw" nnUNet_preprocessed="$WORK/nnUNet_preprocessed" nnUNet_results="$WORK/nnUNet_results"
python experiments/draw_cases.py "$OUT/work" --preset varied --seed "$SEED" --n "$N"
[[ "$MODEL/fold_0/quantization.json" -nt "$MODEL/fold_0/checkpoint_final.pth" ]] ||
    nnUNetv2_quantize -d 777 -c 3d_fullres -f 0 -tr nnUNetTrainer -p nnUNetResEncUNetMPlans
exec bash experiments/run_speed.sh --model "$MODEL" --images "$OUT/work/images" --labels "$OUT/work/labels" --truth "$OUT/work/subtypes.csv" \
    --synthetic --cases "$N" --reference_cases "$N" --rounds 1 --reference_rounds 1 --lever_rounds 1 --out "$OUT" \
    --rows upstream exact fast half 'half, whole' 'fast, TTA 2' 'fast, TTA 8' 'exact, whole' 'exact, ROI' 'exact, TTA 1' 'exact, torch' 'upstream, no TTA' ${REST[@]+"${REST[@]}"}
