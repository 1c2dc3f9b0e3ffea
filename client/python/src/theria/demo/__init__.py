"""The demonstration: a report on a server, its parity, and meta-learning with it.

    python -m theria.demo --server build/bin/theria-server --cli build/bin/theria --out build/demo

The command starts a server on a free port, compares it with explicit float64 attention by `theria
parity`, compares the MAML modes with the Python client and with `theria maml`, and writes report.md
with tables, data (TSV, JSON) and figures (PNG, SVG). It leaves no process behind, even if it is
killed.
"""
