"""Look up the pinned packages in the database of known vulnerabilities, by pip-audit.

    python -m experiments.audit_dependencies            # of constraints.txt; exit status 1 when one is known

The database is on the network. Where it cannot be reached, or knows nothing of a package, that is said and is no failure.
"""

import json
import subprocess
import sys
from pathlib import Path

from nnunetv2.utilities.commands import Parser

REPOSITORY = Path(__file__).resolve().parents[1]
SECONDS = 120


def verdict(report: dict) -> tuple[list[str], int]:
    """Lines to print and the exit status, from pip-audit's JSON: {"dependencies": [{"name", "version", "vulns"} or {"name", "skip_reason"}]}."""
    packages = report.get("dependencies", [])
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    known = [(package["name"], package["version"], vulnerability) for package in packages for vulnerability in package.get("vulns", [])]
    lines = [
        f"error: {name} {version} has {found['id']}; fixed in {', '.join(found.get('fix_versions') or ['no version yet'])}. Raise its pin."
        for name, version, found in known
    ]
    if unknown:
        lines.append(f"pip-audit: {len(unknown)} of {len(packages)} packages could not be looked up: {', '.join(sorted(unknown))}")
    lines.append(f"pip-audit: {len(packages) - len(unknown)} of {len(packages)} packages looked up, {len(known)} known vulnerabilities")
    return lines, int(bool(known))


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument(
        "--requirements", type=Path, default=REPOSITORY / "constraints.txt", help="file of pinned packages (default: constraints.txt)"
    )
    args = parser.parse_args(arguments)
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "-r",
        str(args.requirements),
        "--no-deps",
        "--disable-pip",
        "--format",
        "json",
        "--progress-spinner",
        "off",
    ]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        print(f"pip-audit: its service did not answer within {SECONDS} s; nothing was looked up")
        return 0
    try:
        report = json.loads(ended.stdout)
    except json.JSONDecodeError:
        print(
            f"pip-audit: its service cannot be reached, nothing was looked up ({ended.stderr.strip().splitlines()[-1] if ended.stderr.strip() else 'no answer'})"
        )
        return 0
    lines, status = verdict(report)
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(main())
