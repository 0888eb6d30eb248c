#!/usr/bin/env bash
# Build the technical report NAME_results.pdf from the JSON that a run left behind.
#
#   bash report/build.sh                                    results/fold0 -> results/fold0/NAME_results.pdf
#   bash report/build.sh --results results/fold0 --name MYTEAM
#
# Options: --results DIR (folder of the run)  --shared DIR (folder of speed.json, ablation.json, conformance.json; default:
# results)  --name NAME (default: the name in run.json)  --keep DIR (leave the LaTeX sources and log there)  --check (only say
# whether LaTeX is there: status 0, or 3 and the packages to install).
# Anything that has not been run is printed as "not run". Needs Debian's packages named below, and the Python environment.
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$HERE/.."

PACKAGES="latexmk texlive-latex-base texlive-latex-recommended texlive-pictures texlive-fonts-recommended"
RESULTS="results/fold0"; SHARED="results"; NAMED=(); KEEP=""; CHECK=""
need() { [[ $# -ge 2 ]] || { echo "error: $1 needs a value" >&2; exit 2; }; }
while [[ $# -gt 0 ]]; do
    case "$1" in
        --results) need "$@"; RESULTS="$2"; shift 2 ;;
        --shared) need "$@"; SHARED="$2"; shift 2 ;;
        --name) need "$@"; NAMED=(--name "$2"); shift 2 ;;
        --keep) need "$@"; KEEP="$2"; shift 2 ;;
        --check) CHECK=1; shift ;;
        -h|--help) sed -n '2,10p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'; exit 0 ;;
        *) echo "error: unknown option $1" >&2; exit 2 ;;
    esac
done
[[ -n "$CHECK" || -d "$RESULTS" ]] || { echo "error: $RESULTS is not a folder; run experiments/run_fold0.sh or give --results" >&2; exit 2; }

missing=()
for program in latexmk pdflatex bibtex kpsewhich; do
    command -v "$program" >/dev/null || missing+=("$program")
done
if [[ ${#missing[@]} -eq 0 ]]; then
    for style in booktabs.sty tikz.sty microtype.sty fancyhdr.sty caption.sty mathptmx.sty ptmr8t.tfm; do
        kpsewhich "$style" >/dev/null || missing+=("$style")
    done
fi
if [[ ${#missing[@]} -gt 0 ]]; then
    echo "error: the report needs LaTeX; not found: ${missing[*]}" >&2
    echo "  apt-get update && apt-get install -y --no-install-recommends $PACKAGES" >&2
    exit 3
fi

[[ -z "$CHECK" ]] || exit 0

BUILD="$(mktemp -d)"
trap 'rm -rf "$BUILD"' EXIT
cp "$HERE"/*.tex "$HERE"/*.bib "$BUILD/"
NAME="$(python "$HERE/make_inputs.py" --results "$RESULTS" --shared "$SHARED" ${NAMED[@]+"${NAMED[@]}"} --out "$BUILD")"
status=0
# no shell, no file outside the build folder, no settings from elsewhere: text out of data must not reach further than the page
(cd "$BUILD" && openin_any=p openout_any=p latexmk -norc -pdf -latexoption=-no-shell-escape -interaction=nonstopmode -halt-on-error -silent report.tex >latexmk.out 2>&1) || status=$?
if [[ -n "$KEEP" ]]; then
    mkdir -p "$KEEP"
    cp -r "$BUILD/." "$KEEP/"
fi
if [[ $status -ne 0 ]]; then
    echo "error: LaTeX failed (--keep DIR keeps its files); the end of its log:" >&2
    grep -a -A8 '^!' "$BUILD/report.log" >&2 || tail -n 30 "$BUILD/latexmk.out" >&2
    exit 1
fi
TARGET="$RESULTS/${NAME}_results.pdf"
if ! reason="$(cp "$BUILD/report.pdf" "$TARGET.part" 2>&1 && mv "$TARGET.part" "$TARGET" 2>&1)"; then
    rm -f "$TARGET.part" 2>/dev/null || true
    echo "error: $TARGET cannot be written (${reason#cp: }); free some space there, or make the folder writable" >&2
    exit 1
fi
echo "Written: $TARGET"
