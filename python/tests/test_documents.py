"""The Python code of the documents, run as it stands. See crates/doc-tests for the rules."""

import contextlib
import pathlib
import re
import unittest

from test_cluster import Etcd

ROOT = pathlib.Path(__file__).parents[2]
ENDPOINTS = "10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379"


def blocks():
    """Yield the place and the text of every Python block."""
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "python/README.md"]):
        text = path.read_text(encoding="utf-8")
        for block in re.finditer(r"^```python\b[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, block.start()) + 1
            yield f"{path.relative_to(ROOT)}:{line}", block[1]


class Documents(unittest.TestCase):
    def test_every_python_block_works(self):
        places = {place.split(":")[0] for place, _ in blocks()}
        self.assertLessEqual({"docs/python.md", "python/README.md"}, places)
        for place, code in blocks():
            with self.subTest(place), contextlib.redirect_stdout(None), contextlib.ExitStack() as ends:
                if ENDPOINTS in code:
                    server = Etcd()
                    ends.callback(server.stop)
                    code = code.replace(ENDPOINTS, server.endpoint)
                exec(compile(code, place, "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    unittest.main()
