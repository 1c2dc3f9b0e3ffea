"""The demonstration: a server, its parity, and meta-learning on it, as one report.

    python -m theria.demo --server build/bin/theria-server --cli build/bin/theria --out build/demo

starts a server on a free port, compares it with explicit float64 attention by `theria parity`,
compares the MAML modes through the Python client and once through `theria maml`, and writes
report.md with its tables, data (TSV, JSON) and figures (PNG, SVG). It leaves no process behind,
however it ends.
"""
