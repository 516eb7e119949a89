"""A stage before fine-tuning; one module a stage, loaded by its name.

Each has ``build(backbone, settings) -> nn.Module``: a learner of the engine with ``heads``.
"""
