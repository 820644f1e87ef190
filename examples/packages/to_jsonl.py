"""Turns Debian's package index (`apt-cache dumpavail`, on standard input) into JSON lines for `kv-cli import`.

The key is `section/name`, the value the package's whole entry. Where the index has several versions of a package,
the last one stays. Sorted by key, as an export is.
"""

import json
import sys


def main():
    packages = {}
    for stanza in sys.stdin.read().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
        if "Package" in fields:
            section = fields.get("Section", "unknown")
            packages[f"{section}/{fields['Package']}"] = stanza
    for key in sorted(packages, key=str.encode):
        print(json.dumps({"key": key, "value": packages[key]}, ensure_ascii=False, separators=(",", ":")))


if __name__ == "__main__":
    main()
