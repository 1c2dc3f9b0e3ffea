"""The messages of package `theria.v1`, generated from proto/theria/v1 (see generate.py)."""
