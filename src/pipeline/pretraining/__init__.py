"""Train a backbone on the source; one module a method, loaded by its name.

Each has ``VIEWS``, how many augmentations of an image it wants, and ``build(backbone, settings) ->
nn.Module``: a learner of the engine.
"""
