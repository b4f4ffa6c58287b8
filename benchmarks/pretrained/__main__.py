"""What inserted attention does to a network with real pretrained weights.

python -m benchmarks.pretrained                 everything, resumable; then tables and pictures
python -m benchmarks.pretrained --table         only the tables and pictures of what is there
"""

from __future__ import annotations

from benchmarks.pretrained.study import job, jobs
from benchmarks.resumable import parser_of, results_of

if __name__ == "__main__":
    options = parser_of(__doc__ or "", "evidence.jsonl").parse_args()
    results_of(options, job, jobs, key="job", each=10_000, doing="evidence")
