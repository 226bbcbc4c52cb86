"""Engines: loops around `Driver.next` and `Driver.tell` that get the work done somewhere.

`local` (processes of this machine, or this very process), `ray` (a cluster), `replay` (an earlier
run's records, under a virtual clock).
"""
