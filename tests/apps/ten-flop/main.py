"""Copy /in/input to /out/output after `seconds`, telling the progress."""

import json
import sys
import time

with open("/in/params.json", encoding="utf-8") as file:
    seconds = json.load(file).get("seconds", 0)

for step in range(10):
    print(f"::progress {10 * step}", file=sys.stderr, flush=True)
    time.sleep(seconds / 10)

with open("/in/input", "rb") as source, open("/out/output", "wb") as target:
    target.write(source.read())
