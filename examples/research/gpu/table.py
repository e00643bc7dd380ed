"""Write what the parts measured as one table in Markdown.

cd docs/results/gpu && python ../../../examples/research/gpu/table.py speed.json data.json loop.json > table.md
"""

import argparse
import json
from pathlib import Path


def rows(result: dict) -> list[str]:
    """Return the rows of one part, without details."""
    kept = [row for row in result["rows"] if not row.get("hidden")]
    return [f"| {row['name'].removesuffix(', time')} | {shown(row)} |" for row in kept]


def shown(row: dict) -> str:
    """Return a measurement in words."""
    times = row.get("milliseconds", {})
    if "theirs" in times:
        ours, theirs = times["ours"], times["theirs"]
        return f"{ours:.2f} ms against {theirs:.2f} ms, {theirs / ours:.1f} times the speed"
    return row["shown"].replace(" x", " times")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="JSON files that run.py wrote")
    results = [json.loads(path.read_text()) for path in parser.parse_args().results]
    first = results[0]
    print(f"{first['device']}, torch {first['torch']}, timm {first['timm']}, commit {first['commit'][:12]}.\n")
    print("| what | measured |\n| --- | --- |")
    for result in results:
        print("\n".join(rows(result)))


if __name__ == "__main__":
    main()
