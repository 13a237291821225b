"""Count the words of a text."""

import json
import re
from collections import Counter

with open("/in/input", encoding="utf-8", errors="replace") as text:
    words = re.findall(r"\w+", text.read().lower())

top = sorted(Counter(words).items(), key=lambda item: (-item[1], item[0]))[:10]
result = {"words": len(words), "different": len(set(words)), "top": dict(top)}

with open("/out/output", "w", encoding="utf-8") as output:
    json.dump(result, output, ensure_ascii=False, indent=1)
    output.write("\n")
