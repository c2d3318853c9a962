"""The user's side of the command line: submit, watch, fetch, list, and a look at what is wrong.

The one rule: everything goes over REST, so that it works against any instance; only ``doctor``
looks further.
"""
