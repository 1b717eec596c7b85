"""KFP pipelines. `python -m pipelines` compiles them, runs them on this machine, or submits them to a cluster."""
