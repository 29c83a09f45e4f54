"""The other end of a nanny: starting one, asking it, hearing it, and the manager made of that.

A nanny itself, in :mod:`kernel_mgmt.nanny`, knows nothing of this package, which does not travel.
"""
