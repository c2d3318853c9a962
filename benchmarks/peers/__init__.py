"""The same job on other queues: their workers, their clients, their brokers, and Taskfold beside them.

The one rule: ``job``, ``asking`` and the modules that end in ``_app`` run in the peers' own environment, so
they import nothing of ours; everything else here is a benchmark as the others are.
"""
