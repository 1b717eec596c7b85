"""Serving: KServe predictor and transformer, the Envoy gateway before them, and the supervisor that runs all three."""
