"""All folds and seeds of a run as one compiled program.

program.py   the program: shapes in, one jitted function out
epochs.py    one training inside it: epochs, steps, evaluation
state.py     what it is made from, changes and needs
scores.py    metrics inside it
grid.py      devices: trainings along one axis, rows of a batch along another
batches.py   the order of every epoch as arrays
memory.py    what a device has, what a program needs
engine.py    as many trainings as fit, compiled and called
run.py       groups of trainings, checkpoints, curves, predictions
choice.py    this engine or the other
"""
