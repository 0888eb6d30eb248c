#!/usr/bin/env bash
# Sourced: check_name NAME ends the script with status 2, before anything has run, unless NAME serves as a part of a file's name.
# The rules are those of nnunetv2/utilities/safe_names.py, for which there may be no Python yet.

check_name() {
    local LC_ALL=C reason=""
    [[ "$1" != *[[:cntrl:]/:*?\"\<\>\|\\]* ]] || reason="holds a character that file names cannot have everywhere"
    [[ "$1" != [.~-]* && "$1" != *. && "$1" != " "* && "$1" != *" " ]] || reason="begins or ends with a character that makes it something else"
    [[ ${#1} -le 200 ]] || reason="is longer than 200 bytes"
    [[ -z "$reason" ]] || { printf "error: --name %q %s; letters, digits, '_', '-' and '.' are always safe\n" "$1" "$reason" >&2; exit 2; }
}
