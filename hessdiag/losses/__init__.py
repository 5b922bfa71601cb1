"""Losses as functions of the outputs z: value, cotangent c, output Hessian B, labels of the model.

``named/`` holds one file for each name of ``--loss``; its ``LOSS`` is an ``OutputLoss``. Training,
products and jets all evaluate that one object, so that a new loss is one new file.
"""
