"""What must be true after the torture, checked from logs and rows by code of its own.

Nothing of the product is imported here, nor of the rest of the torture; an import contract and a test
hold it to the standard library and the database's driver. What it knows of the product is written down
anew, from its documentation: how a finding moves, who hears of what, how a signature and a chain are made.

    evidence   what clients and receivers wrote down, and the rows of one instant
    replay     what must come of the signals that are stored
    laws       each promise, how often it was looked at, and where it was broken
"""
