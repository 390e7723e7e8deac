"""Copy the console's libraries from their npm packages, and write the manifest that a test checks.

    python scripts/vendor_console.py FOLDER

FOLDER holds the unpacked packages, as `npm pack preact htm uplot` and `tar` leave them (`FOLDER/preact-11.2.0/package`
and so on). Each file stays as npm has it, except for the changes below, which the manifest names: without them the
files would need an import map, which a page without inline scripts cannot have.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

TARGET = Path(__file__).resolve().parents[1] / "services" / "ingest" / "console" / "static" / "vendor"
FILES = (
    ("preact", "dist/preact.mjs", "preact.js", [["\n//# sourceMappingURL=preact.mjs.map", ""]]),
    ("preact", "hooks/dist/hooks.mjs", "hooks.js",
     [['from"preact"', 'from"./preact.js"'], ["\n//# sourceMappingURL=hooks.mjs.map", ""]]),
    ("htm", "dist/htm.mjs", "htm.js", []),
    ("uplot", "dist/uPlot.iife.min.js", "uplot.js", [["return en}();\n", "return en}();export default uPlot;\n"]]),
    ("uplot", "dist/uPlot.min.css", "uplot.css", []),
)  # fmt: skip


def main(folder: Path) -> None:
    """Copy the files and write `manifest.json`."""
    packages = {path.parent.name.rpartition("-")[0]: path for path in folder.glob("*/package")}
    about = {name: json.loads((path / "package.json").read_text()) for name, path in packages.items()}
    rows = []
    for package, source, name, changes in FILES:
        original = (packages[package] / source).read_text()
        changed = original
        for old, new in changes:
            if changed.count(old) != 1:
                sys.exit(f"{source}: {old!r} must occur once")
            changed = changed.replace(old, new)
        (TARGET / name).write_text(changed)
        rows.append(
            {
                "file": name,
                "package": package,
                "version": about[package]["version"],
                "licence": about[package]["license"],
                "source": source,
                "sha256OfSource": hashlib.sha256(original.encode()).hexdigest(),
                "sha256": hashlib.sha256(changed.encode()).hexdigest(),
                "changes": changes,
            }
        )
    for package in dict.fromkeys(row[0] for row in FILES):
        shutil.copyfile(packages[package] / "LICENSE", TARGET / f"{package}.LICENSE")
    (TARGET / "manifest.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
