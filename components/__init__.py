"""KFP components: one file a step. Each imports, calls the core, and writes its outputs and their metadata.

A component's body runs alone: in a subprocess on this machine, or in a pod of one of our images, where this
repository lies at /app. So it gets configuration and taxonomy as text, never as a path of some machine.
"""
