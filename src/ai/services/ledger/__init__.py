"""The ledger: every call to a vendor is on the books before it is made, and settled once after.

`books` writes them, `writer` gathers what arrives together into one transaction, `meter` keeps one caller's account of
its calls, `estimates` puts prices on them, `upkeep` proves, sweeps and prunes.
"""
