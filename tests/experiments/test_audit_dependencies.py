"""The verdict on what pip-audit reports."""

from experiments.audit_dependencies import verdict


def test_a_known_vulnerability_fails_and_names_the_version_that_is_free_of_it():
    lines, status = verdict({"dependencies": [{"name": "x", "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": ["1.1"]}]}]})
    assert status == 1 and lines[0] == "error: x 1.0 has CVE-1; fixed in 1.1. Raise its pin."


def test_packages_without_one_pass():
    assert verdict({"dependencies": [{"name": "x", "version": "1.0", "vulns": []}]}) == (["pip-audit: 1 of 1 packages looked up, 0 known vulnerabilities"], 0)


def test_packages_that_cannot_be_looked_up_are_named_and_do_not_fail():
    lines, status = verdict({"dependencies": [{"name": "x", "skip_reason": "not found"}, {"name": "y", "version": "1", "vulns": []}]})
    assert status == 0 and lines[0] == "pip-audit: 1 of 2 packages could not be looked up: x"


def test_a_vulnerability_without_a_fix_is_told_so():
    lines, _ = verdict({"dependencies": [{"name": "x", "version": "1", "vulns": [{"id": "CVE-2"}]}]})
    assert "no version yet" in lines[0]
