"""The studies whose results are kept: which question each answers, and what its JSON says of command, machine, code and cases."""

from dataclasses import dataclass
from pathlib import Path

from nnunetv2.utilities.file_shapes import AnyObject
from nnunetv2.utilities.files import load_json

RESULTS = Path(__file__).resolve().parents[1] / "results"


@dataclass(frozen=True)
class Study:
    """file: path below results/ without its ending. question: what the study was made to answer."""

    file: str
    question: str


STUDIES = (
    Study("main_job", "How well does the main job segment and classify, and how long does it take?"),
    Study("speed", "How long does each inference mode take on a CPU at the quiz's image size?"),
    Study("speed_amx", "How long does each take on a CPU with AMX?"),
    Study("speed_cuda", "How long does each mode take on a GPU, and what does it cost a well-trained model?"),
    Study("levers_cuda", "What does each single lever save and cost on a GPU?"),
    Study("accuracy_40_epochs", "What do the modes cost a model that was trained for 40 epochs?"),
    Study("accuracy_12_epochs", "What do the modes cost the main job's model?"),
    Study("accuracy_cells", "What do the modes cost a model in the world of another painter?"),
    Study("accuracy_hippocampus", "What do the modes cost on REAL MR of the hippocampus?"),
    Study("accuracy_nodules", "What do the modes cost on REAL CT of lung nodules?"),
    Study("mirrored_views", "Which mirrored views are worth their passes on REAL MR of the hippocampus?"),
    Study("mirrored_views_nodules", "Which are so on REAL CT of lung nodules?"),
    Study(
        "abdomen", "Does `fast` work on a CT of 512 x 512 x 200 voxels on a CPU? (engine before Winograd convolutions)"
    ),
    Study("abdomen_cuda", "How long does a CT of 512 x 512 x 200 voxels take on a GPU?"),
    Study("real", "Do nnU-Net 2.8.1 and this repository, trained alike, come to the same on REAL scans?"),
    Study("real_short", "How far do they come in half the steps, and how long does each stage take?"),
    Study("real_seed1", "How far do they come in half the steps with another seed?"),
    Study("lidc", "What does the class head see in REAL lung nodules?"),
    Study("cues", "Which of thirteen cues does the class head find?"),
    Study("cues_cells", "Which of them does it find in a world of another painter?"),
    Study("cues_short", "Which cues does it find after a quarter of the training?"),
    Study("cues_planned", "Which cues does it find with the planned network instead of a small one?"),
    Study("evidence_seconds", "What does the class's evidence cost per case at the quiz's image size?"),
    Study("robustness", "What do mode, axes, voxel size, field of view and intensities do to masks of REAL CTs?"),
    Study("ablation", "Which part of the class head earns its keep?"),
    Study("training_choices", "Which choices of the training matter?"),
    Study("training_step", "What makes a training step on a CPU faster, and by how much?"),
    Study("training_step_amx", "What does so with AMX, on smaller patches?"),
    Study("time_to_quality", "How soon does each training segment as well as nnU-Net 2.8.1 at the end of its schedule?"),
    Study("muon_rates", "Which learning rate does each recipe for short trainings want? (chosen on another draw of cases than the row above)"),
    Study("time_to_quality_phantom", "How soon does each training do so on SYNTHETIC CTs of the pancreas?"),
    Study("training_precision", "Does a training in bf16 on a CPU with AMX segment as well as one in fp32?"),
    Study("training_precision_avx512", "Does one with AVX-512 BF16 do so?"),
    Study("fuzz", "Is every damaged input met with one clear message, and is nothing lost?"),
    Study("faults", "Do kills, full disks and other mishaps leave every result as it would have been?"),
    Study("conformance", "Where does this repository agree with nnU-Net 2.8.1?"),
    Study("conformance_inference", "Does the CPU's present engine agree with nnU-Net 2.8.1?"),
    Study("history/speed", "How long did each mode and lever take at the quiz's size? (before the class's evidence)"),
    Study("history/time_to_quality", "How soon did nnUNetTrainerShort segment as well as nnU-Net 2.8.1 at the end of its schedule?"),
    Study("history/quiz_case", "How long does one window take? (engine before 16-bit integers)"),
    Study("history/realct", "How long do two real CTs take? (time alone; engine before Winograd convolutions)"),
    Study(
        "history/accuracy_avx2",
        "What did the modes cost a model of 40 epochs? (CPU with AVX2, engine before Winograd convolutions, `fast` with whole boxes)",
    ),
    Study(
        "history/accuracy_whole_boxes",
        "What did the modes cost an earlier main job's model? (`fast` with whole boxes)",
    ),
    Study("history/rounds", "How long does each mode take on small cases? (engine before 16-bit tiles of 4 planes)"),
)


def cases_of(result: dict) -> str:
    """What the figures of a result rest on: cases, comparisons, runs or steps."""
    if "steps" in result:
        return f"{result['steps']} steps"
    if "total" in result:
        return f"{result['total']} comparisons"
    if "records" in result:
        return f"{result['runs']} runs"
    if "runs" in result:
        n = {row["cases_a_run"] for row in result["rows"].values()}
        few, many = min(n), max(n)
        return f"{few} to {many} cases" if few < many else f"{many} case{'s' if many > 1 else ''}"
    return f"{result.get('n') or max(row['n'] for row in result['rows'])} cases"


def machine_of(result: dict) -> str:
    environment = result.get("environment", {})
    return environment.get("GPU") or environment.get("CPU") or ", ".join(result["hardware"].split(", ")[:2])


def data_of(result: dict) -> str:
    """SYNTHETIC, or REAL; comparisons with upstream run on made-up arrays and images."""
    return "SYNTHETIC" if result.get("synthetic", "total" in result) else "REAL"


def kept_studies() -> list[tuple[Study, dict]]:
    """Every study with the contents of its JSON. Raises ValueError that lists JSON files and studies without their counterpart."""
    listed = {study.file for study in STUDIES}
    there = {
        str(path.relative_to(RESULTS).with_suffix(""))
        for folder in (RESULTS, RESULTS / "history")
        for path in folder.glob("*.json")
    }
    if listed != there:
        raise ValueError(
            f"results/: studies without a JSON {sorted(listed - there)}, JSON files that no study names {sorted(there - listed)}; "
            "mend STUDIES in experiments/results_index.py."
        )
    return [(study, load_json(RESULTS / f"{study.file}.json", AnyObject)) for study in STUDIES]


def index_table() -> str:
    """One row per study, as Markdown."""
    lines = ["| file | question | data, n | machine | code | command |", "|---|---|---|---|---|---|"]
    for study, result in kept_studies():
        readable = RESULTS / f"{study.file}.md"
        name = f"[{study.file}]({study.file}.{'md' if readable.is_file() else 'json'})"
        command = result["command"].replace("|", "\\|")
        lines.append(
            f"| {name} | {study.question} | {data_of(result)}, {cases_of(result)} | {machine_of(result)} | {result['commit']} | `{command}` |"
        )
    return "\n".join(lines)
