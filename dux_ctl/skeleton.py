"""What `dux-ctl app init` writes: a small app that runs, passes its test and can be published."""

from pathlib import Path

from duxcommon.errors import InvalidParams

MANIFEST = """\
name: {name}
version: "1.0.0"
summary: Counts the words of a text.       # one line, shown in the store
tags: [text]
price: "0.50"                              # FLOP for one call, in quotes
runtime: command
command: [python3, /app/main.py]           # /app is this folder, read-only; there is no network
input: {{media: [text/plain], max_bytes: 1048576}}
output: {{media: [text/plain], max_bytes: 65536}}
params:                                    # JSON Schema of what a buyer may set
  type: object
  additionalProperties: false
  properties:
    unique: {{type: boolean, default: false}}
resources: {{memory_mb: 128, cpu_s: 10, wall_s: 20}}
deterministic: true                        # the same input gives the same bytes
sample:                                    # `dux-ctl app test` runs this and compares
  input: sample/input.txt
  params: {{unique: true}}
  output: sample/output.txt
"""

MAIN = '''\
"""Reads /in/input and /in/params.json, writes /out/output; what it prints is the log that the buyer sees."""

import json
import sys
from pathlib import Path

text = Path("/in/input").read_text(encoding="utf-8", errors="replace")
params = json.loads(Path("/in/params.json").read_text())

words = text.lower().split()
print("::progress 50", file=sys.stderr)
if params.get("unique", False):
    words = list(set(words))

Path("/out/output").write_text(f"{len(words)}\\n")
'''

FILES = {
    "dux.yaml": MANIFEST,
    "main.py": MAIN,
    "sample/input.txt": "to be or not to be\n",
    "sample/output.txt": "4\n",
}


def write(folder: Path, name: str) -> list[Path]:
    """Write the skeleton of an app called `name` into a folder that is new or empty. Raises InvalidParams."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidParams(f"{folder} exists and is not empty", hint="Choose another name or folder.")
    written = []
    try:
        for path, text in FILES.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text.format(name=name) if path == "dux.yaml" else text, encoding="utf-8")
            written.append(target)
    except OSError as error:
        raise InvalidParams(f"can't write {folder}: {error.strerror}", hint="Choose another folder.") from None
    return written
