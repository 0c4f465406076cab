"""Soundness: does a run of the suite ask what it says it asks?

The suite puts these questions to itself, in the interpreter that runs it, in this order:

1. `execution`: are assertions executed, and do pytest's options leave a run its meaning? `surroundings`: which fixtures
   belong to a project's own tests instead of its requirements?
2. `sources`: is the code that runs the code of the files? `tautologies`: can each assertion in them fail?
   `comparisons`: does anybody look at the answer of each comparison? `dropped`: does what an assertion raises count?
   `uncollected`: has each requirement in them been collected?
3. `witness`: has its body run, and how did that end? `hearing`: what has failed in threads that it has started?
   `unretrieved`: what do pools, loops and servers keep? `unawaited`: which coroutines has nobody awaited?
   `unloaded`: does a plugin that collects failures judge them?
4. `cleanup`: which requirements are affected if something that they share cannot be cleaned up?

A run is broken, or a requirement is in error, if the answer is bad. `preflight.processes.interpreter` decides which
variables and options can affect a run; the questions here find an effect whatever its cause. To ask another question,
add a module here, and ask it in `preflight.suite.collection` (of the whole run) or `preflight.suite.stages` (of one
requirement).
"""
